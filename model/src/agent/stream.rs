use serde::{Deserialize, Serialize};

use super::{DiskSample, Health, MemorySample, NicSample, VmState};
use crate::{Timestamp, VmId};

/// What the agent says on its stream. It begins with one [`StreamMessage::Hello`]; what happened
/// before that is found with `GET /v1/vms`. A reader that falls behind is closed and begins anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamMessage {
    /// The stream is open; all VMs as they are at this moment.
    Hello {
        /// Number and state of every VM.
        vms: Vec<VmEvent>,
        /// Can the node work?
        health: Health,
    },
    /// A VM's state changed.
    Vm(VmEvent),
    /// Counters of VMs. Sent every 2 s for the watched ones, every 30 s for all.
    Samples {
        /// One per running VM.
        samples: Vec<CounterSample>,
    },
    /// Sent every 5 s, so that silence means something.
    Beat {
        /// Can the node work?
        health: Health,
    },
}

/// A VM's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmEvent {
    /// Which.
    pub vm: VmId,
    /// Its state; `None` when it is gone.
    pub state: Option<VmState>,
    /// When the agent saw it.
    pub at: Timestamp,
}

/// Counters of one VM since it was started, as libvirt gives them. The control plane makes rates
/// of two of them; a counter that went down means the VM was started anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CounterSample {
    /// Which.
    pub vm: VmId,
    /// When they were read.
    pub at: Timestamp,
    /// CPU time, in nanoseconds over all its CPUs.
    pub cpu_ns: u64,
    /// Memory in use now, in bytes.
    pub memory_used_bytes: u64,
    /// Bytes read from its disks.
    pub disk_read_bytes: u64,
    /// Bytes written to its disks.
    pub disk_write_bytes: u64,
    /// Read operations.
    pub disk_read_ops: u64,
    /// Write operations.
    pub disk_write_ops: u64,
    /// Bytes received by its network cards.
    pub net_in_bytes: u64,
    /// Bytes sent by its network cards.
    pub net_out_bytes: u64,
    /// Time its CPUs wanted to run and the node's were taken, in nanoseconds over all its CPUs. None
    /// where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steal_ns: Option<u64>,
    /// Its memory, in parts.
    #[serde(default)]
    pub memory: MemorySample,
    /// Its disks, each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskSample>,
    /// Its network cards, each; those that QEMU alone knows are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<NicSample>,
}

/// What the control plane says on the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamCommand {
    /// Samples of these VMs every 2 s from now on, and of no others.
    Watch {
        /// The VMs somebody looks at.
        vms: Vec<VmId>,
    },
}
