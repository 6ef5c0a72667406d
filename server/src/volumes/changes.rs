//! `attach_volume`, `detach_volume`: a server gets a volume, or loses it, also while it runs. The action holds both.

use std::time::Duration;

use berth_model::action::{Action, ResourceKind};
use berth_model::volume::VOLUMES_OF_SERVER_MAX;
use berth_model::{ErrorCode, NodeId, ProjectId, ServerId, Timestamp, VolumeId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::jobs::copy::CopyRemove;
use super::jobs::settle::UnsettledVolume;
use super::queries::{self, HeldVolume};
use crate::World;
use crate::http::{ApiResult, Problem};
use crate::jobs::{self, Queue, StepError};
use crate::nodes;
use crate::servers::change::{self, Change};
use crate::servers::jobs::losing;
use crate::servers::queries::Held;

/// Longest that a volume may take to come from another node, for each GiB: so long where the network carries 17 MiB/s.
const LONGEST_PER_GIB: Duration = Duration::from_secs(60);

/// A server gets this volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachVolume {
    volume: VolumeId,
    /// What of it has to be brought.
    #[serde(default)]
    coming: Option<Coming>,
}

/// A volume comes from another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Coming {
    from: NodeId,
    to: NodeId,
    size_gib: i32,
}

impl Change for AttachVolume {
    const COMMAND: &'static str = "attach_volume";
    const TITLES: &'static [&'static str] = &["Bring the volume", "Plug it in"];

    fn deadline(&self) -> Duration {
        let way = self.coming.as_ref().map(|coming| coming.size_gib.unsigned_abs() * LONGEST_PER_GIB);
        Self::DEADLINE + way.unwrap_or_default()
    }

    /// A copy takes its time, and would hold up what people wait for.
    fn queue(&self) -> Queue {
        if self.coming.is_some() { Queue::Image } else { Queue::Interactive }
    }

    async fn prepare(&mut self, _: ServerId, node: NodeId, world: &World) -> Result<(), StepError> {
        match &self.coming {
            Some(coming) => super::bring(world, self.volume, (coming.from, coming.to)).await,
            None => super::make(world, node, &[self.volume]).await,
        }
    }

    /// It is whole where it came to. From now on the machine may have it and write to it: so that is the volume, and
    /// what still lies where it came from is old.
    async fn prepared(&self, conn: &mut PgConnection) -> sqlx::Result<()> {
        match &self.coming {
            Some(coming) => queries::set_places(conn, self.volume, coming.to, Some(coming.from)).await,
            None => Ok(()),
        }
    }

    async fn done(&self, conn: &mut PgConnection, _: ServerId, now: Timestamp) -> sqlx::Result<()> {
        if let Some(coming) = &self.coming {
            jobs::enqueue(conn, &CopyRemove::new(self.volume, coming.from), None, now).await?;
        }
        queries::attached(conn, self.volume).await
    }

    /// The machine may have it all the same: it stays held until that has lost it. One that has not arrived the machine
    /// was never told of: it lies where it was.
    async fn revert(&self, conn: &mut PgConnection, server: ServerId, now: Timestamp) -> sqlx::Result<()> {
        queries::set_server(conn, self.volume, None).await?;
        let lies = queries::lies(conn, self.volume).await?.and_then(|(node, _)| node);
        match &self.coming {
            Some(coming) if lies == Some(coming.from) => {
                jobs::enqueue(conn, &CopyRemove::new(self.volume, coming.to), None, now).await?;
                queries::lock(conn, self.volume, None).await
            }
            coming => {
                let places = coming.as_ref().map(|coming| (coming.from, coming.to));
                losing::free_once_lost(conn, server, UnsettledVolume::new(self.volume, places), now).await
            }
        }
    }
}

/// A server loses this volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachVolume {
    volume: VolumeId,
}

impl Change for DetachVolume {
    const COMMAND: &'static str = "detach_volume";
    const TITLES: &'static [&'static str] = &["Unplug the volume"];
    /// A guest that does not let go of it will not do so in ten minutes either.
    const DEADLINE: Duration = Duration::from_secs(2 * 60);

    async fn done(&self, conn: &mut PgConnection, _: ServerId, _: Timestamp) -> sqlx::Result<()> {
        queries::lock(conn, self.volume, None).await
    }

    async fn revert(&self, conn: &mut PgConnection, server: ServerId, _: Timestamp) -> sqlx::Result<()> {
        queries::set_server(conn, self.volume, Some(server)).await?;
        queries::lock(conn, self.volume, None).await
    }
}

/// Gives the server a volume that no server has. Both are held.
///
/// # Errors
/// `volume_already_attached` when a server has it; `invalid_input` when the server is in another location;
/// `resource_limit_exceeded` when the server has its most; `locked` while an old copy of it goes;
/// `resource_unavailable` when the server's node has no room for it.
pub async fn attach(
    conn: &mut PgConnection,
    project: ProjectId,
    (server, volume): (&Held, &HeldVolume),
    automount: bool,
) -> ApiResult<Action> {
    let refuse = |code, message: &str| Err(Problem::new(code, message));
    if volume.server.is_some() {
        return refuse(
            ErrorCode::VolumeAlreadyAttached,
            "A server has this volume already. Detach it first.",
        );
    }
    if queries::of_server(conn, server.id).await?.len() >= VOLUMES_OF_SERVER_MAX {
        let message = format!("A server has at most {VOLUMES_OF_SERVER_MAX} volumes.");
        return refuse(ErrorCode::ResourceLimitExceeded, &message);
    }
    let wish = crate::servers::queries::wish(conn, server.id).await?;
    if wish.is_none_or(|wish| wish.location != volume.location) {
        return Err(Problem::field("server", "The server is in another location than the volume."));
    }
    let node = change::placed(server)?;
    let mut coming = None;
    match volume.node {
        None => refuse_full(conn, volume.location, node, volume.size_gib).await?,
        Some(lies) if lies != node => {
            if volume.has_copy {
                let message = "The volume has just come from another node, where a copy of it is being removed. Try \
                               again when that has ended.";
                return refuse(ErrorCode::Locked, message);
            }
            refuse_full(conn, volume.location, node, volume.size_gib).await?;
            queries::set_places(conn, volume.id, lies, Some(node)).await?;
            coming = Some(Coming { from: lies, to: node, size_gib: volume.size_gib });
        }
        Some(_) => {}
    }
    queries::give(conn, volume.id, (server.id, Some(node)), automount).await?;
    let beside = [(ResourceKind::Volume, volume.id.0)];
    let change = AttachVolume { volume: volume.id, coming };
    let action = change::begin(conn, project, server, &beside, change).await?;
    queries::lock(conn, volume.id, Some(action.id)).await?;
    Ok(action)
}

/// Refuses what the node has no room for: so many GiB more.
///
/// # Errors
/// `resource_unavailable`.
pub async fn refuse_full(
    conn: &mut PgConnection,
    location: berth_model::LocationId,
    node: NodeId,
    gib: i32,
) -> ApiResult<()> {
    let nodes = nodes::queries::candidates(conn, location).await?;
    let more = berth_model::ByteSize::gib(u64::from(gib.unsigned_abs()));
    if nodes.iter().any(|candidate| candidate.id == node && candidate.storage_free() >= more) {
        return Ok(());
    }
    let message = "The node has no room for this volume now. Choose a smaller size, or try again later.";
    Err(Problem::new(ErrorCode::ResourceUnavailable, message))
}

/// Takes a volume from the server that has it. Both are held.
///
/// # Errors
/// When the database fails.
pub async fn detach(
    conn: &mut PgConnection,
    project: ProjectId,
    (server, volume): (&Held, &HeldVolume),
) -> ApiResult<Action> {
    queries::set_server(conn, volume.id, None).await?;
    let beside = [(ResourceKind::Volume, volume.id.0)];
    let action = change::begin(conn, project, server, &beside, DetachVolume { volume: volume.id }).await?;
    queries::lock(conn, volume.id, Some(action.id)).await?;
    Ok(action)
}
