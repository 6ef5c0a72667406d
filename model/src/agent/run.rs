//! Functions under way, and the log of those that ended.

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::error::ApiError;

/// The number of a run, from 1 on; unique on the node while its log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct RunId(pub i64);

impl core::fmt::Display for RunId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

impl core::str::FromStr for RunId {
    type Err = core::num::ParseIntError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.parse().map(Self)
    }
}

/// One function that was asked for: while it works, and in the log afterwards.
///
/// Asked again in the same words while it works, a function is not begun twice: both callers get
/// the one answer. With the header `Prefer: wait=SECONDS` a caller waits so long and then gets
/// `202 Accepted` with the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Run {
    /// Its number.
    pub id: RunId,
    /// The function's name, `vm.put`.
    pub function: String,
    /// What it works on: `VM 7`, `image 3f…`; empty for the node.
    pub on: String,
    /// Who asked: `control plane` or `command line`, and the request's id.
    pub asked_by: String,
    /// When it began.
    pub began: Timestamp,
    /// When it ended; `None` while it works.
    pub ended: Option<Timestamp>,
    /// How far it is.
    pub progress: Option<Progress>,
    /// Why it failed; `None` while it works and when it went well.
    pub error: Option<ApiError>,
}

/// How far a function is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Progress {
    /// What it does now, for people: `Copy the disk`.
    pub phase: String,
    /// How much of this phase is done, in bytes or pieces.
    pub done: u64,
    /// Of how much; 0 when that is not known.
    pub total: u64,
}

/// `run.list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunList {
    /// Runs under way, then those that ended, newest first; at most 1,000.
    pub runs: Vec<Run>,
}
