//! Pools, volumes and snapshots.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::function::Name;
use crate::{ByteSize, NodeId, Timestamp, VmId, VolumeId};

/// What a pool is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PoolKind {
    /// A folder with a file for each volume.
    Directory,
    /// A thin pool of LVM with a logical volume for each volume.
    LvmThin,
    /// A pool of Ceph with an RBD image for each volume. Nodes share it.
    CephRbd,
    /// The simulator's: nothing is stored.
    Simulator,
}

/// A place for volumes, and for VMs' own disks, which lie in `default` if nothing is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pool {
    /// Its name.
    pub name: Name,
    /// What it is made of.
    pub kind: PoolKind,
    /// Room in all, in bytes.
    pub size: ByteSize,
    /// Room that is not used by anything, in bytes.
    pub free: ByteSize,
    /// What volumes and disks take up now, in bytes; of a pool that nodes share, all nodes' together.
    pub allocated: ByteSize,
    /// What volumes and disks may grow to: the sum of their sizes, in bytes; of a pool that nodes share, all
    /// nodes' together.
    pub promised: ByteSize,
    /// How far `promised` may go, in bytes; `None` where no limit is set.
    pub promise_max: Option<ByteSize>,
    /// This node's volumes in it.
    pub volumes: u64,
    /// Why nothing is known of its room, a sentence: then the sizes are 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// `pool.list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PoolList {
    /// All pools; `default` is the first.
    pub pools: Vec<Pool>,
}

/// How a volume lies in its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum VolumeFormat {
    /// Thin; only in a directory.
    #[default]
    Qcow2,
    /// Byte for byte.
    Raw,
}

/// A file system that a volume is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FileSystem {
    /// ext4, all of it for everybody: nothing is kept back for root.
    Ext4,
    /// XFS; it needs 300 MiB or more.
    Xfs,
}

/// How a disk is made from an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum CloneMode {
    /// Thin, on the image's file: made at once, and the image must stay.
    #[default]
    Backing,
    /// With all of the image copied: takes its time, and stands alone.
    Copy,
}

impl CloneMode {
    /// Is it what is taken when nothing is said?
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A volume to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VolumeCreate {
    /// Its size: a multiple of 512 bytes, from 1 MiB to 64 TiB.
    pub size: ByteSize,
    /// The pool it lies in; `default` if not said.
    #[serde(default)]
    pub pool: Option<Name>,
    /// How it lies there; the pool's usual form if not said.
    #[serde(default)]
    pub format: Option<VolumeFormat>,
    /// The file system that is on it; nothing if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_system: Option<FileSystem>,
}

/// A volume to be made from an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VolumeClone {
    /// The image: the SHA-256 of its file, 64 hex digits.
    pub image: String,
    /// Its size: a multiple of 512 bytes, at least the image's disk, at most 64 TiB.
    pub size: ByteSize,
    /// The pool it lies in; `default` if not said.
    #[serde(default)]
    pub pool: Option<Name>,
    /// How it lies there; the pool's usual form if not said. On an image's file it can only be `qcow2`.
    #[serde(default)]
    pub format: Option<VolumeFormat>,
    /// On the image, or a copy of it; where the pool knows no thin clones, a copy.
    #[serde(default)]
    pub mode: CloneMode,
}

/// A volume to be grown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VolumeResize {
    /// Its new size: a multiple of 512 bytes, not less than it has, at most 64 TiB.
    pub size: ByteSize,
}

/// How a volume is attached.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VolumeAttach {
    /// The guest may only read it.
    #[serde(default)]
    pub read_only: bool,
}

/// A volume that a VM has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VolumeAttachment {
    /// Which.
    pub volume: VolumeId,
    /// The guest may only read it.
    #[serde(default)]
    pub read_only: bool,
}

/// A volume: a disk that lives longer than the VMs it is attached to, one at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Volume {
    /// Its number.
    pub id: VolumeId,
    /// The pool it lies in.
    pub pool: Name,
    /// How it lies there.
    pub format: VolumeFormat,
    /// Its size for the guest, in bytes.
    pub size: ByteSize,
    /// What it takes up now, in bytes.
    pub allocated: ByteSize,
    /// The image it was made from: its SHA-256.
    pub image: Option<String>,
    /// Does it stand on that image's file, so that the image must stay? Not in a pool that has its own.
    pub stands_on_image: bool,
    /// Its serial number in a guest, the same on every VM: `volume-5`, there found as
    /// `/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_volume-5`.
    pub serial: String,
    /// The file system that it was made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_system: Option<FileSystem>,
    /// The VM that has it.
    pub attached_to: Option<VmId>,
    /// False when its making or its deletion was cut off: make it or delete it again.
    pub whole: bool,
}

/// Where a volume can be fetched from. It is handed to the node that fetches, as it is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VolumeOffer {
    /// The node; who fetches asks for its certificate.
    pub node: NodeId,
    /// TCP port of the node, open as long as it offers something.
    pub port: u16,
    /// Opens this volume to be read, and nothing else. Secret.
    pub secret: String,
    /// What is offered.
    pub volume: Volume,
}

impl fmt::Debug for VolumeOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VolumeOffer")
            .field("node", &self.node)
            .field("port", &self.port)
            .field("volume", &self.volume)
            .finish_non_exhaustive()
    }
}

/// A volume to be fetched from another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VolumeFetch {
    /// Address or name under which this node reaches the other, without a port.
    pub host: String,
    /// What the other node answered to `volume.offer`.
    pub from: VolumeOffer,
    /// The pool it will lie in here; `default` if not said.
    #[serde(default)]
    pub pool: Option<Name>,
}

/// `volume.list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VolumeList {
    /// All volumes of this node, by number; also half-made ones.
    pub volumes: Vec<Volume>,
}

/// A VM's disk as it was at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Snapshot {
    /// Its name.
    pub name: Name,
    /// When it was made.
    pub created: Timestamp,
    /// Were the guest's file systems frozen by its agent (or the VM off)? Else the disk is as after a power cut.
    pub frozen: bool,
}

/// `snapshot.list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SnapshotList {
    /// All snapshots of a VM's disk, the oldest first.
    pub snapshots: Vec<Snapshot>,
}
