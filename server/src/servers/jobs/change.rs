//! The saga of every [`Change`]: prepare, tell the node what the machine is made of now, see that it is so. Given
//! up, the rows are what they were, and the machine is brought back to them in the background.

use std::marker::PhantomData;
use std::time::Duration;

use anyhow::anyhow;
use berth_model::agent::WantedPower;
use berth_model::{ErrorCode, NodeId, ServerId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::{Look, follow};
use crate::World;
use crate::jobs::{Queue, Saga, StepContext, StepError, StepName};
use crate::servers::change::Change;
use crate::servers::{machine, queries};

/// The job's data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Changing<C: Change> {
    server: ServerId,
    node: NodeId,
    change: C,
    /// What the node was told, by its revision.
    #[serde(skip)]
    told: i64,
    /// How the machine was then.
    #[serde(skip)]
    look: Option<Look>,
}

impl<C: Change> Changing<C> {
    /// Brings this change of a server to its node.
    pub fn new(server: ServerId, node: NodeId, change: C) -> Self {
        Self { server, node, change, told: 0, look: None }
    }

    fn gone(&self) -> StepError {
        let why = anyhow!("server {} is gone while it is being changed", self.server);
        StepError::fail(ErrorCode::ServerError, "The server is gone.", why)
    }

    async fn tell(&mut self, world: &World) -> Result<(), StepError> {
        let mut conn = world.db.acquire().await?;
        let wanted = machine::wanted(&mut conn, &world.config, self.server, WantedPower::Keep).await?;
        let wanted = wanted.ok_or_else(|| self.gone())?;
        let observed = queries::observed(&mut conn, self.server).await?;
        drop(conn);
        let vm = self.change.tell(self.server, &wanted.spec, &world.agents.node(self.node)).await?;
        self.told = wanted.machine.revision;
        self.look = Some(Look { state: Some(vm.state), observed });
        Ok(())
    }
}

/// A step of [`Changing`].
#[derive(Debug)]
pub struct Step<C> {
    prepares: bool,
    change: PhantomData<fn() -> C>,
}

impl<C> Clone for Step<C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Step<C> {}

impl<C> PartialEq for Step<C> {
    fn eq(&self, other: &Self) -> bool {
        self.prepares == other.prepares
    }
}

impl<C> Step<C> {
    const PREPARE: Self = Self { prepares: true, change: PhantomData };
    const TELL: Self = Self { prepares: false, change: PhantomData };
}

impl<C: Change> StepName for Step<C> {
    const ALL: &'static [Self] = match C::TITLES.len() {
        1 => &[Self::TELL],
        2 => &[Self::PREPARE, Self::TELL],
        _ => panic!("a change has one title or two"),
    };

    fn word(self) -> &'static str {
        if self.prepares { "prepare" } else { "tell" }
    }

    fn title(self) -> &'static str {
        C::TITLES[if self.prepares { 0 } else { C::TITLES.len() - 1 }]
    }
}

impl<C: Change> Saga for Changing<C> {
    const KIND: &'static str = C::COMMAND;
    const QUEUE: Queue = Queue::Interactive;
    const DEADLINE: Duration = C::DEADLINE;
    type Step = Step<C>;

    fn queue(&self) -> Queue {
        self.change.queue()
    }

    fn deadline(&self) -> Duration {
        self.change.deadline()
    }

    async fn run(&mut self, step: Step<C>, _: &StepContext, world: &World) -> Result<(), StepError> {
        if step.prepares {
            return self.change.prepare(self.server, self.node, world).await;
        }
        self.tell(world).await
    }

    async fn record(
        &mut self,
        step: Step<C>,
        cx: &StepContext,
        conn: &mut PgConnection,
    ) -> Result<(), StepError> {
        if step.prepares {
            return Ok(self.change.prepared(conn).await?);
        }
        match queries::set_told(conn, self.server, self.told).await? {
            Some(true) => {}
            Some(false) => return Err(StepError::NotYet(Duration::ZERO)),
            None => return Err(self.gone()),
        }
        self.change.done(conn, self.server, cx.now).await?;
        queries::unlock(conn, self.server, self.look).await?;
        Ok(queries::publish(conn, self.server, cx.now).await?)
    }

    async fn undo(&mut self, step: Step<C>, _: &StepContext, world: &World) -> Result<(), StepError> {
        if !step.prepares {
            self.change.given_up(self.server, &world.agents.node(self.node)).await?;
        }
        Ok(())
    }

    async fn record_undo(
        &mut self,
        step: Step<C>,
        cx: &StepContext,
        conn: &mut PgConnection,
    ) -> Result<(), StepError> {
        if Some(&step) != Step::ALL.first() {
            return Ok(());
        }
        // Whoever publishes a server holds its row, so that events keep the order of changes.
        queries::hold_observed(conn, self.server).await?;
        self.change.revert(conn, self.server, cx.now).await?;
        queries::unlock(conn, self.server, None).await?;
        follow::told_anew(conn, self.server, cx.now).await?;
        Ok(queries::publish(conn, self.server, cx.now).await?)
    }
}
