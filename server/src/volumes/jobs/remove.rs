//! `remove_volume`: a volume that was deleted goes from its node, with all that is on it, and then its row. It only
//! goes forward: what was deleted cannot be given back.

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
pub struct VolumeRemove {
    volume: VolumeId,
    node: NodeId,
}

impl VolumeRemove {
    /// Removes this volume from this node.
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
        "Remove the volume"
    }
}

impl Saga for VolumeRemove {
    const KIND: &'static str = "remove_volume";
    const QUEUE: Queue = Queue::Background;
    const DEADLINE: Duration = Duration::from_secs(15 * 60);
    const UNDOABLE: bool = false;
    type Step = Step;

    async fn run(&mut self, _: Step, _: &StepContext, world: &World) -> Result<(), StepError> {
        Ok(world.agents.node(self.node).call::<volume::Delete>(&self.volume, &Nothing {}).await.map(drop)?)
    }

    async fn record(&mut self, _: Step, _: &StepContext, conn: &mut PgConnection) -> Result<(), StepError> {
        Ok(queries::delete(conn, self.volume).await?)
    }

    async fn undo(&mut self, _: Step, _: &StepContext, _: &World) -> Result<(), StepError> {
        Ok(())
    }

    async fn record_undo(&mut self, _: Step, _: &StepContext, _: &mut PgConnection) -> Result<(), StepError> {
        Ok(())
    }
}
