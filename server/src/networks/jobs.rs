//! `follow_network`: brings every node that has members of a network to what the rows say. Of each network there is
//! one such job at a time.

pub mod leaving;
pub mod remove;

use std::time::Duration;

use berth_model::agent::Nothing;
use berth_model::agent::function::network;
use berth_model::{NetworkId, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::queries::{self, Plan};
use crate::World;
use crate::jobs::{self, Queue, Registry, Saga, StepContext, StepError, StepName};
use crate::servers::jobs::change::Changing;
use crate::servers::jobs::losing::Losing;

/// The registry, knowing the sagas of networks.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry
        .with::<NetworkFollow>()
        .with::<remove::NetworkRemove>()
        .with::<Changing<super::changes::Attach>>()
        .with::<Changing<super::changes::Detach>>()
        .with::<Changing<super::changes::Aliases>>()
        .with::<Losing<leaving::LeavingMember>>()
        .with::<Losing<leaving::LeavingAliases>>()
}

/// The job's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkFollow {
    network: NetworkId,
    /// What the nodes were told, by its revision.
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
        "Tell the nodes"
    }
}

/// Something of which nodes are told has changed in the caller's transaction; they are told in the background.
///
/// # Errors
/// When the database fails.
pub async fn told_anew(conn: &mut PgConnection, network: NetworkId, now: Timestamp) -> sqlx::Result<()> {
    queries::touch(conn, network).await?;
    jobs::enqueue_once(conn, &NetworkFollow { network, told: None }, network.0, now).await
}

/// Tells all nodes, those behind one that does not answer too; then says which did not.
async fn tell(world: &World, plan: &Plan) -> Result<(), StepError> {
    let mut failed = None;
    for node in plan.macs.keys() {
        failed = failed.or(super::put(world, plan, *node).await.err());
    }
    failed.map_or(Ok(()), Err)
}

/// A network that was removed while nodes were told of it comes to be there again: they lose it.
async fn lose(world: &World, plan: &Plan) -> Result<(), StepError> {
    for node in plan.macs.keys() {
        world.agents.node(*node).call::<network::Delete>(&plan.vni, &Nothing {}).await?;
    }
    Ok(())
}

impl Saga for NetworkFollow {
    const KIND: &'static str = "follow_network";
    const QUEUE: Queue = Queue::Follow;
    const DEADLINE: Duration = Duration::from_secs(15 * 60);
    /// Whatever the rows say now must come to the nodes in the end.
    const UNDOABLE: bool = false;
    type Step = Step;

    async fn run(&mut self, _: Step, _: &StepContext, world: &World) -> Result<(), StepError> {
        self.told = None;
        let plan = queries::plan(&mut *world.db.acquire().await?, self.network).await?;
        let Some(plan) = plan else { return Ok(()) };
        let told = tell(world, &plan).await;
        if !queries::is_there(&mut *world.db.acquire().await?, self.network).await? {
            return lose(world, &plan).await;
        }
        told?;
        self.told = Some(plan.revision);
        Ok(())
    }

    async fn record(&mut self, _: Step, _: &StepContext, conn: &mut PgConnection) -> Result<(), StepError> {
        let Some(revision) = self.told else { return Ok(()) };
        match queries::set_told(conn, self.network, revision).await? {
            Some(false) => Err(StepError::NotYet(Duration::ZERO)),
            Some(true) | None => Ok(()),
        }
    }

    async fn undo(&mut self, _: Step, _: &StepContext, _: &World) -> Result<(), StepError> {
        Ok(())
    }

    async fn record_undo(&mut self, _: Step, _: &StepContext, _: &mut PgConnection) -> Result<(), StepError> {
        Ok(())
    }
}
