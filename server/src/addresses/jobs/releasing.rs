//! `release_public_ip`: an address whose holder was deleted while a server had it is free once the server's node has
//! lost it. It only goes forward: until then nobody else gets the address.

use std::time::Duration;

use berth_model::ServerId;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::moving::LOOK_AGAIN;
use crate::World;
use crate::addresses::{PublicIpId, queries};
use crate::jobs::{Queue, Saga, StepContext, StepError, StepName};
use crate::servers;
use crate::servers::jobs::follow::{self, Heard};

/// The job's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicIpRelease {
    ip: PublicIpId,
    server: ServerId,
    /// What the node was told, by its revision; none when there was nobody to tell.
    #[serde(skip)]
    told: Option<i64>,
}

impl PublicIpRelease {
    /// Frees the address of this holder once the server's node has lost it.
    pub fn new(ip: PublicIpId, server: ServerId) -> Self {
        Self { ip, server, told: None }
    }
}

/// The only step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step;

impl StepName for Step {
    const ALL: &'static [Self] = &[Self];

    fn word(self) -> &'static str {
        "release"
    }

    fn title(self) -> &'static str {
        "Take the address from the server"
    }
}

impl Saga for PublicIpRelease {
    const KIND: &'static str = "release_public_ip";
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
        Ok(())
    }

    async fn record(&mut self, _: Step, cx: &StepContext, conn: &mut PgConnection) -> Result<(), StepError> {
        if let Some(told) = self.told
            && servers::queries::set_told(conn, self.server, told).await? == Some(false)
        {
            return Err(StepError::NotYet(Duration::ZERO));
        }
        Ok(queries::remove(conn, self.ip, cx.now).await?)
    }

    async fn undo(&mut self, _: Step, _: &StepContext, _: &World) -> Result<(), StepError> {
        Ok(())
    }

    async fn record_undo(&mut self, _: Step, _: &StepContext, _: &mut PgConnection) -> Result<(), StepError> {
        Ok(())
    }
}
