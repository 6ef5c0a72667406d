//! Points in time: RFC 3339 with offset on the wire, always UTC inside.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// A point in time, UTC. On the wire an RFC 3339 string (`2026-11-20T02:14:00Z`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(transparent))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct Timestamp(#[serde(with = "time::serde::rfc3339")] pub OffsetDateTime);

impl Timestamp {
    /// From whole milliseconds since 1970-01-01T00:00:00Z; `None` outside years 0 to 9999.
    pub fn from_unix_ms(ms: i64) -> Option<Self> {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok().map(Self)
    }

    /// Whole milliseconds since 1970-01-01T00:00:00Z, rounded down.
    pub fn unix_ms(self) -> i64 {
        (self.0.unix_timestamp_nanos().div_euclid(1_000_000)) as i64
    }

    /// This moment plus `seconds` (may be negative).
    #[must_use]
    pub fn plus_seconds(self, seconds: i64) -> Self {
        Self(self.0 + time::Duration::seconds(seconds))
    }
}

impl core::str::FromStr for Timestamp {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let time = OffsetDateTime::parse(s, &time::format_description::well_known::Rfc3339);
        time.map(Self).map_err(|_| format!("“{s}” is not a time like 2026-11-20T02:14:00Z."))
    }
}

impl core::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let text = self.0.format(&time::format_description::well_known::Rfc3339);
        f.write_str(&text.map_err(|_| core::fmt::Error)?)
    }
}
