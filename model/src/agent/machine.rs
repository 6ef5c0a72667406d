use serde::{Deserialize, Serialize};

use super::{Name, Vm, VmSeed, WantedPower};
use crate::{ByteSize, Timestamp, VmId};

/// Longest that `vm.shutdown` waits, in seconds.
pub const SHUTDOWN_WAIT_MAX_S: u32 = 3600;

/// `vm.shutdown`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct VmShutdown {
    /// After so many seconds the plug is pulled; 1 to 3,600. Without it nothing is waited for.
    pub wait_s: Option<u32>,
}

/// `vm.rebuild`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VmRebuild {
    /// The image, by SHA-256.
    pub image: String,
    /// What the new system's cloud-init reads; as before if not said.
    #[serde(default)]
    pub seed: Option<VmSeed>,
    /// Should it run afterwards? It does if not said.
    #[serde(default = "on")]
    pub power: WantedPower,
}

fn on() -> WantedPower {
    WantedPower::On
}

/// `vm.rescue_on`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VmRescue {
    /// The rescue image, by SHA-256.
    pub image: String,
}

/// The answer of `vm.rescue_on`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Rescued {
    /// The VM.
    pub vm: Vm,
    /// The rescue system's root password. It is told here alone.
    pub root_password: String,
}

/// `vm.delete`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct VmDelete {
    /// What becomes of the disk.
    pub disks: DisksAfter,
    /// What the disk is kept as; `vm-7` for VM 7 if not said.
    pub keep_as: Option<Name>,
}

/// What becomes of a deleted VM's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum DisksAfter {
    /// It goes.
    #[default]
    Remove,
    /// It is overwritten with zeros, and goes.
    Wipe,
    /// It stays, whole and without its image, as one of the kept disks.
    Keep,
}

/// A disk that outlived its VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KeptDisk {
    /// Its name among the kept disks.
    pub name: Name,
    /// The VM it was of.
    pub vm: VmId,
    /// Its size for a guest.
    pub size: ByteSize,
    /// What it takes on the node.
    pub file_size: ByteSize,
    /// Since when it is kept.
    pub kept: Timestamp,
    /// Where it stands on the node, a qcow2 file; empty in the simulator.
    pub path: String,
}

/// `kept.list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KeptDiskList {
    /// All of them, by name.
    pub disks: Vec<KeptDisk>,
}
