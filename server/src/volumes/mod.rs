//! Volumes: disks that live longer than the servers they are attached to.
//!
//! Words. A volume is *ordered* when its row is written; it is *made* on the node of the first server that gets it,
//! with its file system, and lies on that node's own disks. For a server on another node it is *brought* there, from
//! agent to agent, before it is plugged in; then the old *copy* goes. The action that attaches, detaches or grows a
//! volume *holds* it.
//!
//! ```text
//!   ordered ──attach──▶ being made ──▶ made, of a server ◀──attach, detach──▶ made, of none
//!      ▲                    │                                                     │ DELETE
//!      └──── settled ◀──────┘ (given up)                                          ▼
//!            (nothing of it on a node)                                 gone, until its node has lost it
//! ```
//!
//! An attachment that is given up may have happened on the node all the same: the volume stays held until the server's
//! machine has lost it, and the node too if it was made for that ([`jobs::settle`]). One that was being brought lies where
//! it was, until it has arrived whole; from then on the machine may write to it, so it lies where it arrived.
//!
//! Invariants. Names are unique in a project (`volumes_name_key`). A volume has one server at most, and what no server
//! has had is on no node: both stand in one row, which whoever changes it holds. Order of locks: servers first, then
//! volumes, by number.

pub mod changes;
pub mod http;
pub mod jobs;
pub mod order;
pub mod queries;
pub mod rules;

pub use http::router;

use berth_model::agent::function::volume;
use berth_model::agent::{Nothing, VolumeCreate, VolumeFetch};
use berth_model::{NodeId, ServerId, Timestamp, VolumeId};
use sqlx::PgConnection;

use crate::World;
use crate::jobs::StepError;
use crate::servers::jobs::losing;
use jobs::settle::UnsettledVolume;

/// Makes these volumes on the node, those that are not there. May run twice.
async fn make(world: &World, node: NodeId, volumes: &[VolumeId]) -> Result<(), StepError> {
    let unmade = queries::unmade(&mut *world.db.acquire().await?, volumes).await?;
    for (id, size, file_system) in unmade {
        let wanted = VolumeCreate { size, pool: None, format: None, file_system };
        world.agents.node(node).call::<volume::Create>(&id, &wanted).await?;
    }
    Ok(())
}

/// Brings a volume that no machine has from one node to another, from one agent to the other. That node keeps its copy.
/// May run twice.
async fn bring(world: &World, volume: VolumeId, (from, to): (NodeId, NodeId)) -> Result<(), StepError> {
    let giver = world.agents.node(from);
    let offer = giver.call::<volume::Offer>(&volume, &Nothing {}).await?;
    let fetch = VolumeFetch { host: giver.host().await?, from: offer, pool: None };
    Ok(world.agents.node(to).call::<volume::Fetch>(&volume, &fetch).await.map(drop)?)
}

/// Makes the volumes of a server that is being made on its node. May run twice.
///
/// # Errors
/// When the node has no room, or does not answer.
pub async fn make_for(world: &World, node: NodeId, server: ServerId) -> Result<(), StepError> {
    let volumes = queries::of_server(&mut *world.db.acquire().await?, server).await?;
    make(world, node, &volumes).await
}

/// A server that goes leaves its volumes behind. Those that were to be made for it are settled.
///
/// # Errors
/// When the database fails.
pub async fn leave(conn: &mut PgConnection, server: ServerId, now: Timestamp) -> sqlx::Result<()> {
    for volume in queries::leave(conn, server).await? {
        losing::free_once_lost(conn, server, UnsettledVolume::new(volume, None), now).await?;
    }
    Ok(())
}
