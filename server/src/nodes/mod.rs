//! Nodes: the hardware machines that run VMs, each with one agent.
//!
//! Words. A node is *added* by the owner, which makes a one-time *token*; its agent *enrols* with
//! that token and gets a certificate of our own CA ([`ca`]). One control plane *leases* the node
//! and keeps its *stream* open ([`link`]): what happens to VMs comes through it, in order.
//!
//! ```text
//!   added ─▶ new ── enrols, is heard ─▶ up ◀──────▶ sick   (its agent says what is wrong)
//!                                       │  ▲         │
//!                   silent for a while  ▼  │ heard   ▼
//!                                        down ◀──────┘      (its servers: unknown)
//! ```
//!
//! The lease, by the database's clock so that nobody else's matters:
//!
//! ```text
//!   free ── claim, fence + 1 ─▶ held ── renewed every 3 s ─▶ held ─ … ─▶ not renewed for 10 s ─▶ free
//! ```
//!
//! What a stream brings is written only under the fence of its lease, so one that was cut off
//! from the database and comes back late writes nothing. Control planes share the nodes evenly:
//! who holds more than its part gives some back.

pub mod ca;
pub mod cli;
pub mod enrol;
pub mod http;
pub mod queries;
pub mod rules;

mod grants;
mod link;
mod links;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use berth_model::Timestamp;
use sqlx::PgPool;

pub use grants::Grants;
pub use links::Links;

use crate::secret::SecretKey;

/// How fast nodes are looked after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How often leases are renewed and shared anew.
    pub tend_every: Duration,
    /// How long a lease lasts without being renewed.
    pub lease: Duration,
    /// How long an agent may be silent before its stream counts as broken. It beats every 5 s.
    pub silence_max: Duration,
    /// How long a node may be unheard before it is down.
    pub down_after: Duration,
    /// The lease that each node itself holds.
    pub grants: Grants,
}

impl Default for Pace {
    /// A node whose keeper died has another within 15 s.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            tend_every: seconds(3),
            lease: seconds(10),
            silence_max: seconds(15),
            down_after: seconds(20),
            grants: Grants { ttl_s: 30, fence_after_s: 30 },
        }
    }
}

/// What the CA's key is sealed for.
const AUTHORITY_PURPOSE: &str = "certificate authority";

/// The installation's CA; made by whoever asks first.
///
/// # Errors
/// The database fails, or what it holds does not open with this key.
pub async fn authority(db: &PgPool, key: &SecretKey, now: Timestamp) -> anyhow::Result<Arc<ca::Authority>> {
    let mut conn = db.acquire().await?;
    let kept = match queries::authority(&mut conn).await? {
        Some(kept) => kept,
        None => {
            let new = ca::Authority::generate(now)?;
            let sealed = key.seal(AUTHORITY_PURPOSE, &new.key_pkcs8);
            queries::insert_authority(&mut conn, &new.certificate_pem, &sealed, now).await?;
            queries::authority(&mut conn).await?.context("the CA that was just written is gone")?
        }
    };
    let pkcs8 = key.open(AUTHORITY_PURPOSE, &kept.key_sealed).context("the CA's key in the database")?;
    Ok(Arc::new(ca::Authority::load(kept.certificate_pem, &pkcs8)?))
}
