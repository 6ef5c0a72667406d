//! `follow_server`: brings a server's machine to its rows without holding the server: after a change of something
//! that many servers share, such as a firewall, and after a change that was given up.

use std::time::Duration;

use berth_model::agent::WantedPower;
use berth_model::server::ServerStatus;
use berth_model::{ActionId, ServerId, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::World;
use crate::jobs::{self, Queue, Saga, StepContext, StepError, StepName};
use crate::servers::{machine, queries};

/// The job's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFollow {
    server: ServerId,
    /// What the node was told, by its revision; none when there was nobody to tell.
    #[serde(skip)]
    told: Option<i64>,
}

/// The only step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step;

impl StepName for Step {
    const ALL: &'static [Self] = &[Self];

    fn word(self) -> &'static str {
        "tell"
    }

    fn title(self) -> &'static str {
        "Tell the node"
    }
}

/// Something that the server's machine is made of has changed in the caller's transaction; its node is told in the
/// background.
///
/// # Errors
/// When the database fails.
pub async fn told_anew(conn: &mut PgConnection, server: ServerId, now: Timestamp) -> sqlx::Result<()> {
    queries::touch(conn, server).await?;
    jobs::enqueue(conn, &ServerFollow { server, told: None }, None, now).await.map(drop)
}

/// [`told_anew`] as the work of an action, which ends when the node was told.
///
/// # Errors
/// When the database fails.
pub async fn told_by(
    conn: &mut PgConnection,
    server: ServerId,
    action: ActionId,
    now: Timestamp,
) -> sqlx::Result<()> {
    queries::touch(conn, server).await?;
    jobs::enqueue(conn, &ServerFollow { server, told: None }, Some(action), now).await.map(drop)
}

/// What came of telling a server's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The server has no machine.
    Nobody,
    /// The server is being made or removed, and told by whoever does that.
    ComesOrGoes,
    /// The node knows what the rows said at this revision. To be recorded with [`queries::set_told`].
    Told(i64),
}

/// Tells a server's node what the server's machine is made of now, unless it has heard it.
///
/// # Errors
/// When the node does not answer, or refuses.
pub async fn tell(world: &World, server: ServerId) -> Result<Heard, StepError> {
    let mut conn = world.db.acquire().await?;
    let wanted = machine::wanted(&mut conn, &world.config, server, WantedPower::Keep).await?;
    drop(conn);
    let Some(machine::Wanted { machine, spec }) = wanted else { return Ok(Heard::Nobody) };
    let node = match (machine.status, machine.node) {
        (ServerStatus::Initializing, _) | (ServerStatus::Deleting, Some(_)) => return Ok(Heard::ComesOrGoes),
        (_, None) => return Ok(Heard::Nobody),
        (_, Some(node)) => node,
    };
    if machine.told < machine.revision {
        world.agents.node(node).put_vm(server.into(), &spec).await?;
    }
    Ok(Heard::Told(machine.revision))
}

impl Saga for ServerFollow {
    const KIND: &'static str = "follow_server";
    const QUEUE: Queue = Queue::Interactive;
    const DEADLINE: Duration = Duration::from_secs(15 * 60);
    /// Whatever the rows say now must come to the node in the end.
    const UNDOABLE: bool = false;
    type Step = Step;

    async fn run(&mut self, _: Step, _: &StepContext, world: &World) -> Result<(), StepError> {
        if let Heard::Told(revision) = tell(world, self.server).await? {
            self.told = Some(revision);
        }
        Ok(())
    }

    async fn record(&mut self, _: Step, cx: &StepContext, conn: &mut PgConnection) -> Result<(), StepError> {
        let Some(told) = self.told else { return Ok(()) };
        match queries::set_told(conn, self.server, told).await? {
            Some(false) => Err(StepError::NotYet(Duration::ZERO)),
            // What was pending is applied.
            Some(true) => Ok(queries::publish(conn, self.server, cx.now).await?),
            None => Ok(()),
        }
    }

    async fn undo(&mut self, _: Step, _: &StepContext, _: &World) -> Result<(), StepError> {
        Ok(())
    }

    async fn record_undo(&mut self, _: Step, _: &StepContext, _: &mut PgConnection) -> Result<(), StepError> {
        Ok(())
    }
}
