//! What is counted of a VM, by part.

use serde::{Deserialize, Serialize};

use super::CounterSample;
use crate::VmId;

/// A VM's memory, in bytes. What the guest's balloon driver says is none while it does not speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct MemorySample {
    /// What the balloon leaves to the guest.
    pub balloon_bytes: u64,
    /// What the VM's process holds of the node's memory, QEMU itself included.
    pub resident_bytes: u64,
    /// What the guest's kernel manages in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_total_bytes: Option<u64>,
    /// What the guest uses for nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_unused_bytes: Option<u64>,
    /// What the guest could use at once without swapping: unused, and caches that it can drop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_available_bytes: Option<u64>,
}

/// Counters of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct DiskSample {
    /// Its name in the VM's definition: `vda`.
    pub name: String,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Read operations.
    pub read_ops: u64,
    /// Write operations.
    pub write_ops: u64,
    /// Flushes.
    pub flush_ops: u64,
    /// Time that reads took, in nanoseconds; through `read_ops` it is their latency.
    pub read_ns: u64,
    /// Time that writes took, in nanoseconds.
    pub write_ns: u64,
    /// Time that flushes took, in nanoseconds.
    pub flush_ns: u64,
}

/// Counters of a network card, as the guest sees its directions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct NicSample {
    /// Its place in the VM's specification, from 0.
    pub nic: u32,
    /// Bytes received.
    pub in_bytes: u64,
    /// Packets received.
    pub in_packets: u64,
    /// Packets that were dropped on their way to the guest.
    pub in_drops: u64,
    /// Packets that arrived broken.
    pub in_errors: u64,
    /// Bytes sent.
    pub out_bytes: u64,
    /// Packets sent.
    pub out_packets: u64,
    /// Packets of the guest that were dropped.
    pub out_drops: u64,
    /// Packets that could not be sent.
    pub out_errors: u64,
}

/// Whose samples are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SamplesRequest {
    /// These VMs; all when it is empty.
    #[serde(default)]
    pub vms: Vec<VmId>,
}

/// Samples.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SampleList {
    /// One per VM that runs, by number.
    pub samples: Vec<CounterSample>,
}
