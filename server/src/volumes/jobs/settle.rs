//! `settle_volume`: after an attachment that was given up, the server's machine loses the volume; and its node, if the
//! volume was to be made for that. It only goes forward: until then nobody else gets the volume.

use std::time::Duration;

use berth_model::agent::Nothing;
use berth_model::agent::function::volume;
use berth_model::{ServerId, VolumeId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::World;
use crate::jobs::{Queue, Saga, StepContext, StepError, StepName};
use crate::servers;
use crate::servers::jobs::follow::{self, Heard};
use crate::volumes::queries;

/// Pause between looks at a server that comes or goes.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The job's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSettle {
    volume: VolumeId,
    server: ServerId,
    /// What the node was told, by its revision; none when there was nobody to tell.
    #[serde(skip)]
    told: Option<i64>,
}

impl VolumeSettle {
    /// Brings the volume back from this server.
    pub fn new(volume: VolumeId, server: ServerId) -> Self {
        Self { volume, server, told: None }
    }
}

/// The only step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step;

impl StepName for Step {
    const ALL: &'static [Self] = &[Self];

    fn word(self) -> &'static str {
        "settle"
    }

    fn title(self) -> &'static str {
        "Take the volume back"
    }
}

impl Saga for VolumeSettle {
    const KIND: &'static str = "settle_volume";
    const QUEUE: Queue = Queue::Background;
    const DEADLINE: Duration = Duration::from_secs(15 * 60);
    const UNDOABLE: bool = false;
    type Step = Step;

    async fn run(&mut self, _: Step, _: &StepContext, world: &World) -> Result<(), StepError> {
        self.told = match follow::tell(world, self.server).await? {
            Heard::ComesOrGoes => return Err(StepError::NotYet(LOOK_AGAIN)),
            Heard::Nobody => None,
            Heard::Told(revision) => Some(revision),
        };
        let lies = queries::lies(&mut *world.db.acquire().await?, self.volume).await?;
        match lies {
            Some((Some(node), false)) => {
                world.agents.node(node).call::<volume::Delete>(&self.volume, &Nothing {}).await?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn record(&mut self, _: Step, _: &StepContext, conn: &mut PgConnection) -> Result<(), StepError> {
        if let Some(told) = self.told
            && servers::queries::set_told(conn, self.server, told).await? == Some(false)
        {
            return Err(StepError::NotYet(Duration::ZERO));
        }
        Ok(queries::settled(conn, self.volume).await?)
    }

    async fn undo(&mut self, _: Step, _: &StepContext, _: &World) -> Result<(), StepError> {
        Ok(())
    }

    async fn record_undo(&mut self, _: Step, _: &StepContext, _: &mut PgConnection) -> Result<(), StepError> {
        Ok(())
    }
}
