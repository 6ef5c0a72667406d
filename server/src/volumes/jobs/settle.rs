//! `settle_volume`: after an attachment that was given up, the server's machine loses the volume; and its node, if the
//! volume was to be made for that.

use berth_model::agent::Nothing;
use berth_model::agent::function::volume;
use berth_model::{ServerId, Timestamp, VolumeId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::World;
use crate::jobs::StepError;
use crate::servers::jobs::losing::Thing;
use crate::volumes::queries;

/// A volume that a server did not get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnsettledVolume {
    volume: VolumeId,
}

impl UnsettledVolume {
    /// This one, which its action still holds.
    pub fn new(volume: VolumeId) -> Self {
        Self { volume }
    }
}

impl Thing for UnsettledVolume {
    const KIND: &'static str = "settle_volume";
    const TITLE: &'static str = "Take the volume back";

    async fn clear(&self, world: &World) -> Result<(), StepError> {
        let lies = queries::lies(&mut *world.db.acquire().await?, self.volume).await?;
        if let Some((Some(node), false)) = lies {
            world.agents.node(node).call::<volume::Delete>(&self.volume, &Nothing {}).await?;
        }
        Ok(())
    }

    async fn free(&self, conn: &mut PgConnection, _: ServerId, _: Timestamp) -> sqlx::Result<()> {
        queries::settled(conn, self.volume).await
    }
}
