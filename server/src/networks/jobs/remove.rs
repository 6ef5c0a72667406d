//! `delete_network`: a network that was deleted goes from every node, and then its row. It begins when the last server's
//! machine has lost its card, and only goes forward.

use std::time::Duration;

use berth_model::agent::Nothing;
use berth_model::agent::function::network;
use berth_model::{NetworkId, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::World;
use crate::jobs::{self, Queue, Saga, StepContext, StepError, StepName};
use crate::networks::queries;

/// The job's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRemove {
    network: NetworkId,
}

/// The only step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step;

impl StepName for Step {
    const ALL: &'static [Self] = &[Self];

    fn word(self) -> &'static str {
        "remove"
    }

    fn title(self) -> &'static str {
        "Detach the servers and remove the network"
    }
}

/// Removes the network if it was deleted and no server is in it any more. Its row is locked by the caller, and stays
/// so until the transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn when_left(conn: &mut PgConnection, network: NetworkId, now: Timestamp) -> sqlx::Result<()> {
    match queries::removed_by(conn, network).await? {
        Some(action) => jobs::enqueue(conn, &NetworkRemove { network }, Some(action), now).await.map(drop),
        None => Ok(()),
    }
}

impl Saga for NetworkRemove {
    const KIND: &'static str = "delete_network";
    const QUEUE: Queue = Queue::Background;
    const DEADLINE: Duration = Duration::from_secs(15 * 60);
    const UNDOABLE: bool = false;
    type Step = Step;

    /// All nodes, those behind one that does not answer too.
    async fn run(&mut self, _: Step, _: &StepContext, world: &World) -> Result<(), StepError> {
        let plan = queries::plan(&mut *world.db.acquire().await?, self.network).await?;
        let Some(plan) = plan else { return Ok(()) };
        let mut failed = None;
        for node in plan.nodes {
            let told = world.agents.node(node).call::<network::Delete>(&plan.vni, &Nothing {}).await;
            failed = failed.or(told.err());
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    async fn record(&mut self, _: Step, _: &StepContext, conn: &mut PgConnection) -> Result<(), StepError> {
        Ok(queries::delete(conn, self.network).await?)
    }

    async fn undo(&mut self, _: Step, _: &StepContext, _: &World) -> Result<(), StepError> {
        Ok(())
    }

    async fn record_undo(&mut self, _: Step, _: &StepContext, _: &mut PgConnection) -> Result<(), StepError> {
        Ok(())
    }
}
