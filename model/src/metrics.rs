//! Figures of a server over time, as monitoring tools draw them (Hetzner Cloud API v1, `/servers/{id}/metrics`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum MetricsKind {
    /// `cpu`: percent of one core; two busy cores are 200.
    Cpu,
    /// `disk.0.iops.read` and `.write`, operations per second; `disk.0.bandwidth.read` and `.write`, bytes per second.
    Disk,
    /// `network.0.pps.in` and `.out`, packets per second; `network.0.bandwidth.in` and `.out`, bytes per second.
    Network,
}

impl MetricsKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Disk, Self::Network];

    /// Its word on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Disk => "disk",
            Self::Network => "network",
        }
    }
}

/// Points of one series.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TimeSeries {
    /// Pairs of a time, in seconds since 1970-01-01T00:00:00Z, and the value as a decimal string; oldest first.
    /// Where nothing was measured there is none.
    pub values: Vec<(f64, String)>,
}

/// Series over a span.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Metrics {
    /// Start of the span.
    pub start: Timestamp,
    /// End of the span.
    pub end: Timestamp,
    /// Seconds between points; more than was asked for where there would be too many.
    pub step: f64,
    /// By name.
    pub time_series: BTreeMap<String, TimeSeries>,
}

/// `GET /v1/servers/{id}/metrics?type=cpu,disk&start=…&end=…&step=60`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MetricsReply {
    /// The figures.
    pub metrics: Metrics,
}
