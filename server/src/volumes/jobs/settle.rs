//! `settle_volume`: after an attachment that was given up, the server's machine loses the volume; and its node, if the
//! volume was to be made for that.

use berth_model::agent::Nothing;
use berth_model::agent::function::volume;
use berth_model::{NodeId, ServerId, Timestamp, VolumeId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::copy::CopyRemove;
use crate::World;
use crate::jobs::{StepError, enqueue};
use crate::servers::jobs::losing::Thing;
use crate::volumes::queries;

/// A volume that a server did not get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnsettledVolume {
    volume: VolumeId,
    /// It came for that, from the first node to the second.
    #[serde(default)]
    came: Option<(NodeId, NodeId)>,
    /// The second node has all of it, as it says.
    #[serde(skip)]
    has_arrived: bool,
}

impl UnsettledVolume {
    /// This one, which its action still holds; `came` from the first node to the second, if it did.
    pub fn new(volume: VolumeId, came: Option<(NodeId, NodeId)>) -> Self {
        Self { volume, came, has_arrived: false }
    }
}

impl Thing for UnsettledVolume {
    const KIND: &'static str = "settle_volume";
    const TITLE: &'static str = "Take the volume back";

    async fn clear(&mut self, world: &World) -> Result<(), StepError> {
        if let Some((_, to)) = self.came {
            let seen = world.agents.node(to).call::<volume::Get>(&self.volume, &Nothing {}).await;
            self.has_arrived = match seen {
                Ok(volume) => volume.whole,
                Err(error) if error.is_not_found() => false,
                Err(error) => return Err(error.into()),
            };
            return Ok(());
        }
        let lies = queries::lies(&mut *world.db.acquire().await?, self.volume).await?;
        if let Some((Some(node), false)) = lies {
            world.agents.node(node).call::<volume::Delete>(&self.volume, &Nothing {}).await?;
        }
        Ok(())
    }

    async fn free(&self, conn: &mut PgConnection, _: ServerId, now: Timestamp) -> sqlx::Result<()> {
        if let Some((from, to)) = self.came {
            // The server may have written to what arrived: only if that is lost, the other copy is the volume again.
            let (lies, other) = if self.has_arrived { (to, from) } else { (from, to) };
            queries::set_places(conn, self.volume, lies, Some(other)).await?;
            enqueue(conn, &CopyRemove::new(self.volume, other), None, now).await?;
        }
        queries::settled(conn, self.volume).await
    }
}
