//! ISOs (Hetzner Cloud API v1, `/isos`).

use serde::{Deserialize, Serialize};

use crate::page::Meta;
use crate::{IsoId, Timestamp};

/// Whose an ISO is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum IsoKind {
    /// Offered by the hoster.
    Public,
    /// A project's own.
    Private,
}

/// A CD that a server can boot from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Iso {
    /// Stable for life.
    pub id: IsoId,
    /// `debian-12-netinst`
    pub name: String,
    /// For people.
    pub description: String,
    /// Whose it is.
    #[serde(rename = "type")]
    pub kind: IsoKind,
    /// `x86`
    pub architecture: Option<String>,
    /// Since when it should no longer be chosen, for older clients.
    pub deprecated: Option<Timestamp>,
    /// Since when it should no longer be chosen, and until when it can be.
    pub deprecation: Option<Deprecation>,
}

/// That something is no longer offered to everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Deprecation {
    /// Since when it should no longer be chosen.
    pub announced: Timestamp,
    /// From when it cannot be chosen.
    pub unavailable_after: Timestamp,
}

/// `GET /v1/isos`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IsoList {
    /// This page's ISOs.
    pub isos: Vec<Iso>,
    /// The page.
    pub meta: Meta,
}

/// `GET /v1/isos/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IsoReply {
    /// The ISO.
    pub iso: Iso,
}
