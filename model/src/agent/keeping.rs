//! Keeping a node: its checks, its room, maintenance, what is left over, its own update.

use serde::{Deserialize, Serialize};

use crate::{ByteSize, Timestamp};

/// Closes a node for new VMs, or opens it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MaintenanceRequest {
    /// Closed?
    pub on: bool,
    /// Why, for people: at most 200 characters. New VMs are refused with it.
    #[serde(default)]
    pub reason: Option<String>,
}

/// A node that is closed for new VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Maintenance {
    /// Since when.
    pub since: Timestamp,
    /// Why, if that was said.
    pub reason: Option<String>,
}

/// What a node has and has promised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Capacity {
    /// Logical processors, and the vCPUs of all VMs.
    pub cores: Share,
    /// Memory, and what all VMs may have of it.
    pub memory: RoomShare,
    /// Room for disks in the data folder, and how large all VMs' disks may grow.
    pub storage: RoomShare,
    /// Bytes for disks that are free now; disks are thin.
    pub storage_free: ByteSize,
    /// VMs that are there, whole ones.
    pub vms: u32,
    /// VMs that are half-made: what they were promised is not known.
    pub half_made: u32,
}

/// A part of what a node has. More may be promised than there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Share {
    /// In all.
    pub total: u64,
    /// Promised to VMs, also to those that are off.
    pub promised: u64,
}

/// The same in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RoomShare {
    /// In all.
    pub total: ByteSize,
    /// Promised to VMs, also to those that are off.
    pub promised: ByteSize,
}

/// What was looked after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeChecks {
    /// One by one.
    pub checks: Vec<NodeCheck>,
}

/// One thing that was looked after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeCheck {
    /// What: `hypervisor`, `bridge`, `disk wear`.
    pub check: String,
    /// Is it in order?
    pub ok: bool,
    /// The node is unhealthy while it is not.
    pub needed: bool,
    /// What was found.
    pub sentence: String,
}

/// Asks for what is left over.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct OrphansRequest {
    /// Remove it? Only named if not said.
    #[serde(default)]
    pub remove: bool,
}

/// What is left over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OrphanList {
    /// One by one; those that were removed, too.
    pub orphans: Vec<Orphan>,
}

/// Something that belongs to nothing any more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Orphan {
    /// What it is: `folder`, `domain`, `log`.
    pub kind: String,
    /// Which one.
    pub name: String,
    /// Why it is one, a sentence.
    pub why: String,
    /// It was removed now.
    pub removed: bool,
    /// Why it could not be removed.
    pub kept: Option<String>,
}

/// Replaces the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct UpdateRequest {
    /// The program, or Debian's package of it: a path on the node, or an `https://` address.
    pub source: String,
    /// SHA-256 of that file, 64 digits of `0-9a-f`.
    pub sha256: String,
    /// How long the new version may take to become healthy, in seconds: 1 to 600; 60 if not said.
    #[serde(default)]
    pub patience: Option<u32>,
}

/// How far an update is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum UpdateState {
    /// The new version is being tried.
    Trying,
    /// It works, and stays.
    Done,
    /// It did not work; the old version is back.
    RolledBack,
}

/// How an update goes, or went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UpdateStatus {
    /// How far it is.
    pub state: UpdateState,
    /// What the file asked for was.
    pub sha256: String,
    /// The version that was there before.
    pub from: String,
    /// The version that was asked for.
    pub to: String,
    /// Why it did not work.
    pub reason: Option<String>,
    /// When that was so.
    pub at: Timestamp,
}
