//! The lease that a node itself holds, so that it knows whether it is still heard: granted by the control plane
//! that keeps its stream, every few seconds.
//!
//! ```text
//!   fenced_by := now + all that it may last ──▶ grant to the agent ──▶ its moment, for the next grant
//!         (under the stream's lease)
//! ```
//!
//! A node that loses it powers off its VMs that are marked for failover
//! ([`berth_model::agent::LeaseGrant`]). `nodes.fenced_by` says when that has happened at the latest: a grant is
//! sent only after it was written, and the agent counts a grant from before it was sent. So whoever starts such a
//! VM elsewhere waits until then, by the database's clock, and takes care that no control plane renews: the
//! stream's lease is its, too.

use std::time::Duration;

use anyhow::Context as _;
use berth_model::agent::function::node;
use berth_model::agent::{FENCING_S, LeaseGrant, LeaseState, NodeMoment, Nothing};
use sqlx::PgPool;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::link::Ended;
use super::queries::{self, Lease};
use crate::agents::AgentClient;

/// Most time between two renewals.
const RENEW_EVERY_MAX: Duration = Duration::from_secs(5);

/// What nodes are granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grants {
    /// How long a node's lease lives without being renewed, in seconds. 0: nodes hold none.
    pub ttl_s: u32,
    /// How long after its end a node powers off what is marked for failover, in seconds.
    pub fence_after_s: u32,
}

impl Grants {
    /// No node holds a lease.
    pub const NONE: Self = Self { ttl_s: 0, fence_after_s: 0 };

    /// How long a node's marked VMs may run after a grant was sent.
    fn lasts_s(self) -> i64 {
        i64::from(self.ttl_s) + i64::from(self.fence_after_s) + i64::from(FENCING_S)
    }

    /// Two renewals may fail before the third comes too late.
    fn renew_every(self) -> Duration {
        (Duration::from_secs(self.ttl_s.into()) / 3).min(RENEW_EVERY_MAX)
    }
}

/// Whose grants these are, and to whom.
pub(super) struct Granter {
    pub(super) db: PgPool,
    pub(super) agent: AgentClient,
    pub(super) owner: Uuid,
    pub(super) lease: Lease,
    pub(super) grants: Grants,
}

impl Granter {
    /// Renews the node's lease. Ends only when its stream is another's to keep.
    pub(super) async fn run(self) -> Ended {
        let every = if self.grants == Grants::NONE { RENEW_EVERY_MAX } else { self.grants.renew_every() };
        let mut from = None;
        loop {
            let renewed = async {
                match self.grants {
                    Grants::NONE => self.let_go().await.map(|()| None),
                    _ => self.renew(from.take()).await.map(Some),
                }
            };
            match timeout(every, renewed).await {
                Ok(Ok(None)) => return std::future::pending().await,
                Ok(Ok(now)) => from = now,
                Ok(Err(Ended::LeaseLost)) => return Ended::LeaseLost,
                Ok(Err(Ended::Broken(error))) => {
                    tracing::debug!(node = %self.lease.node, "a node's lease was not renewed: {error:#}");
                }
                Err(_) => tracing::debug!(node = %self.lease.node, "a node's lease was not renewed in time"),
            }
            sleep(every).await;
        }
    }

    /// Grants it once more, counted from what the node told last.
    async fn renew(&self, from: Option<NodeMoment>) -> Result<NodeMoment, Ended> {
        let Grants { ttl_s, fence_after_s } = self.grants;
        let from = match from {
            Some(from) => from,
            None => {
                let shown = self.agent.call::<node::LeaseStatus>(&(), &Nothing {}).await;
                shown.context("the node's moment")?.now
            }
        };
        let mut tx = self.db.begin().await?;
        let now = queries::hold(&mut tx, self.owner, &self.lease).await?.ok_or(Ended::LeaseLost)?;
        queries::set_fenced_by(&mut tx, self.lease.node, now.plus_seconds(self.grants.lasts_s())).await?;
        tx.commit().await?;
        let grant = LeaseGrant { term: self.lease.fence.unsigned_abs(), from, ttl_s, fence_after_s };
        Ok(self.agent.call::<node::Lease>(&(), &grant).await.context("the grant")?.now)
    }

    /// An installation without leases: a node that holds one from before need not wait for the next.
    async fn let_go(&self) -> Result<(), Ended> {
        let shown = self.agent.call::<node::LeaseStatus>(&(), &Nothing {}).await;
        if shown.context("the node's lease")?.state != LeaseState::None {
            let mut tx = self.db.begin().await?;
            queries::hold(&mut tx, self.owner, &self.lease).await?.ok_or(Ended::LeaseLost)?;
            queries::clear_fenced_by(&mut tx, self.lease.node).await?;
            tx.commit().await?;
            self.agent.call::<node::LeaseEnd>(&(), &Nothing {}).await.context("the end of its lease")?;
        }
        Ok(())
    }
}
