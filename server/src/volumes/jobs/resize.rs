//! `resize_volume`: a volume that was made grows, at once also in a running guest. Its row has the new size from the
//! request on, so that nobody else gets the room. Given up, it has its old one, unless it has grown by then: a volume
//! never shrinks. Only its node can say that, so the volume stays held until the node answers.

use std::time::Duration;

use berth_model::agent::function::volume;
use berth_model::agent::{Nothing, VolumeResize};
use berth_model::{ByteSize, NodeId, VolumeId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::World;
use crate::jobs::{Queue, Saga, StepContext, StepError, StepName};
use crate::volumes::queries;

/// The job's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeGrow {
    volume: VolumeId,
    node: NodeId,
    to_gib: i32,
    /// The size that it has when it is given up.
    back_gib: i32,
}

impl VolumeGrow {
    /// Grows a volume on this node to so many GiB, from so many.
    pub fn new(volume: VolumeId, node: NodeId, (back_gib, to_gib): (i32, i32)) -> Self {
        Self { volume, node, to_gib, back_gib }
    }
}

/// The only step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step;

impl StepName for Step {
    const ALL: &'static [Self] = &[Self];

    fn word(self) -> &'static str {
        "grow"
    }

    fn title(self) -> &'static str {
        "Grow the volume"
    }
}

fn size(gib: i32) -> ByteSize {
    ByteSize::gib(u64::from(gib.unsigned_abs()))
}

impl Saga for VolumeGrow {
    const KIND: &'static str = "resize_volume";
    const QUEUE: Queue = Queue::Interactive;
    const DEADLINE: Duration = Duration::from_secs(10 * 60);
    type Step = Step;

    async fn run(&mut self, _: Step, _: &StepContext, world: &World) -> Result<(), StepError> {
        let wanted = VolumeResize { size: size(self.to_gib) };
        Ok(world.agents.node(self.node).call::<volume::Resize>(&self.volume, &wanted).await.map(drop)?)
    }

    async fn record(&mut self, _: Step, _: &StepContext, conn: &mut PgConnection) -> Result<(), StepError> {
        Ok(queries::lock(conn, self.volume, None).await?)
    }

    async fn undo(&mut self, _: Step, _: &StepContext, world: &World) -> Result<(), StepError> {
        let agent = world.agents.node(self.node);
        match agent.call::<volume::Get>(&self.volume, &Nothing {}).await {
            Ok(seen) if seen.size > size(self.back_gib) => self.back_gib = self.to_gib,
            Err(error) if !error.is_not_found() => return Err(StepError::Retry(error.into())),
            _ => {}
        }
        Ok(())
    }

    async fn record_undo(
        &mut self,
        _: Step,
        _: &StepContext,
        conn: &mut PgConnection,
    ) -> Result<(), StepError> {
        queries::set_size(conn, self.volume, self.back_gib).await?;
        Ok(queries::lock(conn, self.volume, None).await?)
    }
}
