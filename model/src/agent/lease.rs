//! The lease that a node holds in the control plane: without it, VMs marked for failover do not run there,
//! so that they may be started elsewhere.
//!
//! ```text
//!   none ── granted ──▶ held ◀── renewed ──┐
//!                        │ ttl_s are over   │
//!                        ▼                  │
//!                      ended ───────────────┤   marked VMs run on, and are not started
//!                        │ fence_after_s    │
//!                        ▼                  │
//!                      fenced ── granted ───┘   marked VMs were powered off
//! ```
//!
//! Time is told by the node's clock since its boot, which nobody sets. A lease is counted from the moment
//! that the node told in its last answer, so a grant that was long on its way is worth no more than one that
//! came at once: who sent a grant at a moment knows that `ttl_s + fence_after_s +` [`FENCING_S`] later the
//! node's marked VMs are off, whatever became of the grant.

use serde::{Deserialize, Serialize};

use crate::VmId;

/// How long powering off marked VMs takes at most, in seconds, once the time is over.
pub const FENCING_S: u32 = 10;
/// The longest that a lease lives, or marked VMs run without one, in seconds.
pub const LEASE_MAX_S: u32 = 3600;

/// A moment on a node's own clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NodeMoment {
    /// Which boot of the node, an id that its kernel draws.
    pub boot: String,
    /// Milliseconds since then, those that it slept counted.
    pub ms: u64,
}

/// Grants a node its lease, or renews it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LeaseGrant {
    /// Counts up whenever another control plane takes the node over; 1 or more.
    pub term: u64,
    /// `now` of the node's last answer: the lease is counted from there.
    pub from: NodeMoment,
    /// How long it lives, in seconds: 1 to 3600.
    pub ttl_s: u32,
    /// How long after its end marked VMs are powered off, in seconds: 0 to 3600.
    pub fence_after_s: u32,
}

/// How a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// It was never granted a lease, or was let go: marked VMs run as any other.
    #[default]
    None,
    /// It holds its lease.
    Held,
    /// The lease ended: marked VMs are not started, and soon powered off.
    Ended,
    /// The lease ended too long ago, or with the node's last boot: marked VMs are off.
    Fenced,
}

/// A node's lease, as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeLease {
    /// How the node stands.
    pub state: LeaseState,
    /// The newest term it was granted.
    pub term: Option<u64>,
    /// Milliseconds until the lease ends.
    pub left_ms: u64,
    /// Milliseconds until marked VMs are powered off.
    pub fenced_in_ms: u64,
    /// VMs marked for failover.
    pub marked: Vec<VmId>,
    /// This moment by the node's clock; the next grant is counted from it.
    pub now: NodeMoment,
}
