use core::fmt;

use serde::{Deserialize, Serialize};

use super::{DomainType, Vm, VmSpec, Volume};
use crate::{NodeId, Timestamp, VolumeId};

/// How long room for a VM is kept, unless the request says so: an hour.
pub const MOVE_KEEP_S: u32 = 3600;
/// Longest that room can be asked to be kept: a week.
pub const MOVE_KEEP_MAX_S: u32 = 7 * 24 * 3600;

/// What a node shall make room for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MovePrepare {
    /// What the VM is on the node it comes from. Its `power` is not acted on: it arrives as it left.
    pub spec: VmSpec,
    /// Its volumes: what the node it comes from answers to `volume.get`, with `pool` as it shall be here. A
    /// volume in a pool that both nodes share is handed over; any other is copied.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// For how long the room is kept when the VM does not come, in seconds, 1 to 604,800; then it is removed.
    #[serde(default = "keep_s")]
    pub keep_s: u32,
}

fn keep_s() -> u32 {
    MOVE_KEEP_S
}

/// Where a VM is awaited. It is handed to the node that sends, as it is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MovePlace {
    /// The node; the sender asks for its certificate.
    pub node: NodeId,
    /// TCP port of the node, open as long as it awaits a VM.
    pub port: u16,
    /// Opens this move, and nothing else. Secret.
    pub secret: String,
    /// When the room is removed, unless the VM comes before. Told again, it is kept anew.
    pub until: Timestamp,
    /// The room that was made.
    pub room: MoveRoom,
}

impl fmt::Debug for MovePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MovePlace")
            .field("node", &self.node)
            .field("port", &self.port)
            .field("until", &self.until)
            .field("room", &self.room)
            .finish_non_exhaustive()
    }
}

/// What stands where on the node that awaits a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MoveRoom {
    /// What runs guests there.
    pub domain_type: DomainType,
    /// Name of the VM's domain.
    pub domain: String,
    /// The VM's folder.
    pub folder: String,
    /// The VM's disk: its file, or its image in Ceph.
    pub disk: String,
    /// The folder of images.
    pub images: String,
    /// The bridge of guests; none where they have no bridge.
    pub bridge: Option<String>,
    /// The storage on which the VM's disk lies already, since both nodes share it; none when it is copied.
    #[serde(default)]
    pub shared: Option<String>,
    /// Where its volumes lie.
    #[serde(default)]
    pub volumes: Vec<MoveVolume>,
}

/// A place for a volume on the node that awaits it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MoveVolume {
    /// Which.
    pub volume: VolumeId,
    /// Its file, or its image in Ceph.
    pub file: String,
    /// The storage on which it lies already; none when it is copied.
    pub shared: Option<String>,
}

/// How a VM is sent to another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MoveSend {
    /// Address or name under which this node reaches the other, without a port.
    pub host: String,
    /// What the other node answered to `moving.prepare`.
    pub to: MovePlace,
    /// Slow the guest down when it writes memory faster than it can be sent.
    #[serde(default)]
    pub auto_converge: bool,
    /// Switch over once nine tenths of the memory are sent, and fetch the rest on demand. It always ends, but
    /// a network that breaks between switch-over and end costs the guest its run. QEMU must be let to, by
    /// `vm.unprivileged_userfaultfd` = 1 on the other node; else the move is refused.
    #[serde(default)]
    pub post_copy: bool,
    /// Most that is sent, in MiB a second; as much as the network bears if not set.
    #[serde(default)]
    pub bandwidth_mib_s: Option<u32>,
    /// Also where libvirt doubts that the disk is whole on the other side: on a file system without direct
    /// I/O.
    #[serde(default)]
    pub allow_unsafe: bool,
}

/// A VM has left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MoveSent {
    /// Did it run meanwhile?
    pub live: bool,
    /// Bytes of disk and memory that were sent; 0 when it had left before this request.
    pub sent_bytes: u64,
    /// Did it switch over before all of its memory was sent?
    #[serde(default)]
    pub post_copied: bool,
}

impl MoveSent {
    /// It had left before this request.
    pub fn before() -> Self {
        Self { live: true, sent_bytes: 0, post_copied: false }
    }
}

/// A VM has arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MoveArrived {
    /// The VM.
    pub vm: Vm,
    /// For how long its CPUs stood still at the switch-over, in milliseconds, as measured; none of a VM
    /// that was off, or that was restarted since.
    pub pause_ms: Option<u64>,
}
