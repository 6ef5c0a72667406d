//! How large a VM is, and what it may use.

use serde::{Deserialize, Serialize};

use crate::ByteSize;

/// What a VM may use of the node. Nothing given means no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct VmLimits {
    /// CPU time in percent of one core, for all its CPUs and QEMU together, 1 to 12,800.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<u32>,
    /// Its weight when VMs compete for CPU time, 1 to 10,000; 100 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u32>,
    /// Read operations a second of each disk, 1 to 10,000,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_read_iops: Option<u64>,
    /// Write operations a second of each disk, 1 to 10,000,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_write_iops: Option<u64>,
    /// Bytes a second read from each disk, 64 KiB to 1 TiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_read_bytes_per_s: Option<ByteSize>,
    /// Bytes a second written to each disk, 64 KiB to 1 TiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_write_bytes_per_s: Option<ByteSize>,
}

impl VmLimits {
    /// Is nothing limited?
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Another size. What is not given stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct VmResize {
    /// Virtual CPUs, 1 to 128.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// Memory; at least 64 MiB, a whole number of MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// The disk; not smaller than it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<ByteSize>,
    /// Virtual CPUs up to which it can grow while it runs, from its next start on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus_max: Option<u32>,
    /// Memory up to which it can grow while it runs, from its next start on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<ByteSize>,
}
