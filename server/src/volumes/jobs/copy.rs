//! `remove_volume_copy`: a volume has come from another node, or did not come: the copy that is not it goes. It only
//! goes forward; until it has gone, the volume comes to no third node.

use std::time::Duration;

use berth_model::agent::Nothing;
use berth_model::agent::function::volume;
use berth_model::{NodeId, VolumeId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::World;
use crate::jobs::{Queue, Saga, StepContext, StepError, StepName};
use crate::volumes::queries;

/// The job's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRemove {
    volume: VolumeId,
    node: NodeId,
}

impl CopyRemove {
    /// Removes what this node has of a volume that lies elsewhere.
    pub fn new(volume: VolumeId, node: NodeId) -> Self {
        Self { volume, node }
    }
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
        "Remove the copy"
    }
}

impl Saga for CopyRemove {
    const KIND: &'static str = "remove_volume_copy";
    const QUEUE: Queue = Queue::Background;
    const DEADLINE: Duration = Duration::from_secs(15 * 60);
    const UNDOABLE: bool = false;
    type Step = Step;

    async fn run(&mut self, _: Step, _: &StepContext, world: &World) -> Result<(), StepError> {
        Ok(world.agents.node(self.node).call::<volume::Delete>(&self.volume, &Nothing {}).await.map(drop)?)
    }

    async fn record(&mut self, _: Step, _: &StepContext, conn: &mut PgConnection) -> Result<(), StepError> {
        Ok(queries::copy_removed(conn, self.volume, self.node).await?)
    }

    async fn undo(&mut self, _: Step, _: &StepContext, _: &World) -> Result<(), StepError> {
        Ok(())
    }

    async fn record_undo(&mut self, _: Step, _: &StepContext, _: &mut PgConnection) -> Result<(), StepError> {
        Ok(())
    }
}
