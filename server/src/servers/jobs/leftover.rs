//! `remove_leftover`: removes a VM whose server is gone.
//!
//! One comes to be when a worker lost its lease while its request to make the machine was under
//! way, and the request arrived after the machine had been removed. Still a VM is removed only when
//! an ended action says that its server was to be gone: after a database was restored from a backup,
//! servers that are younger than the backup are not known, and their machines must stay. Their
//! numbers are passed over, so that no new server ever stands before another's machine.

use std::time::Duration;

use berth_model::{NodeId, ServerId, Timestamp, VmId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::World;
use crate::jobs::{self, Queue, Saga, StepContext, StepError, StepName};
use crate::servers::queries;

/// The job's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftoverRemove {
    node: NodeId,
    vm: VmId,
}

/// The only step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step;

impl StepName for Step {
    const ALL: &'static [Self] = &[Self];

    fn word(self) -> &'static str {
        "machine"
    }

    fn title(self) -> &'static str {
        "Remove what is left of a machine"
    }
}

/// Has the VM removed that a node tells of though no server stands behind it, if that is meant to
/// be so; else the operator is told.
///
/// # Errors
/// When the database fails.
pub async fn remove(conn: &mut PgConnection, node: NodeId, vm: VmId, now: Timestamp) -> sqlx::Result<()> {
    if queries::was_removed(conn, ServerId::from(vm)).await? {
        jobs::enqueue(conn, &LeftoverRemove { node, vm }, None, now).await?;
    } else {
        queries::pass_over(conn, ServerId::from(vm)).await?;
        tracing::warn!(%node, %vm, "A node has a VM of which nothing is known. It is left as it is.");
    }
    Ok(())
}

impl Saga for LeftoverRemove {
    const KIND: &'static str = "remove_leftover";
    const QUEUE: Queue = Queue::Background;
    /// A node that comes back tells of the VM again.
    const DEADLINE: Duration = Duration::from_secs(15 * 60);
    type Step = Step;

    async fn run(&mut self, _: Step, _: &StepContext, world: &World) -> Result<(), StepError> {
        let gone = queries::was_removed(&mut *world.db.acquire().await?, ServerId::from(self.vm)).await?;
        if gone {
            world.agents.node(self.node).delete_vm(self.vm).await?;
        }
        Ok(())
    }

    async fn record(&mut self, _: Step, _: &StepContext, _: &mut PgConnection) -> Result<(), StepError> {
        Ok(())
    }

    async fn undo(&mut self, _: Step, _: &StepContext, _: &World) -> Result<(), StepError> {
        Ok(())
    }

    async fn record_undo(&mut self, _: Step, _: &StepContext, _: &mut PgConnection) -> Result<(), StepError> {
        Ok(())
    }
}
