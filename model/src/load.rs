//! Load of a server over time: what the charts draw.

use serde::{Deserialize, Serialize};

use crate::{ServerId, Timestamp};

/// The load of a server over the span that ended at `at`. Rates are integers, so that a sample
/// has one form everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LoadSample {
    /// End of the span.
    pub at: Timestamp,
    /// CPU time used, in thousandths of one core: two busy cores are 2000.
    pub cpu_millicores: u32,
    /// Memory in use by the guest as its balloon tells it, else by its process, in bytes.
    pub memory_used_bytes: u64,
    /// Bytes read from the disk, per second.
    pub disk_read_bytes_per_s: u64,
    /// Bytes written to the disk, per second.
    pub disk_write_bytes_per_s: u64,
    /// Read operations, per second.
    pub disk_read_ops_per_s: u32,
    /// Write operations, per second.
    pub disk_write_ops_per_s: u32,
    /// Bytes received, per second.
    pub net_in_bytes_per_s: u64,
    /// Bytes sent, per second.
    pub net_out_bytes_per_s: u64,
    /// Packets received, per second.
    #[serde(default)]
    pub net_in_packets_per_s: u32,
    /// Packets sent, per second.
    #[serde(default)]
    pub net_out_packets_per_s: u32,
}

/// `GET /v1/servers/{id}/load?span=live|1h|24h|7d|30d`: samples oldest first, at most
/// [`SAMPLES_MAX`]. `live` is the last ten minutes as sampled; longer spans are means of equal steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LoadReply {
    /// Whose.
    pub server: ServerId,
    /// Start of the span.
    pub from: Timestamp,
    /// End of the span.
    pub to: Timestamp,
    /// Seconds between samples; they may be missing.
    pub step_s: u32,
    /// The samples.
    pub samples: Vec<LoadSample>,
}

/// Most samples in one answer.
pub const SAMPLES_MAX: usize = 720;

/// How far back a chart looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum LoadSpan {
    /// The last ten minutes.
    #[serde(rename = "live")]
    Live,
    /// The last hour.
    #[serde(rename = "1h")]
    Hour,
    /// The last day.
    #[serde(rename = "24h")]
    Day,
    /// The last week.
    #[serde(rename = "7d")]
    Week,
    /// The last 30 days.
    #[serde(rename = "30d")]
    Month,
}

impl LoadSpan {
    /// Its word on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Hour => "1h",
            Self::Day => "24h",
            Self::Week => "7d",
            Self::Month => "30d",
        }
    }

    /// Its length in seconds.
    pub const fn seconds(self) -> i64 {
        match self {
            Self::Live => 600,
            Self::Hour => 3_600,
            Self::Day => 86_400,
            Self::Week => 604_800,
            Self::Month => 2_592_000,
        }
    }

    /// Seconds between the samples of an answer; 2 for `live`.
    pub const fn step_s(self) -> u32 {
        match self {
            Self::Live => 2,
            Self::Hour => 30,
            Self::Day => 300,
            Self::Week => 1_800,
            Self::Month => 7_200,
        }
    }
}
