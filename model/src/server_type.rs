//! Server types: the shapes of servers, priced per location (Hetzner Cloud API v1, `/server_types`).

use serde::{Deserialize, Serialize};

use crate::page::Meta;
use crate::{LocationId, Money, ServerTypeId};

/// Whose CPU time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum CpuKind {
    /// Shared with neighbours.
    Shared,
    /// Never waits for a neighbour.
    Dedicated,
}

/// A price as the Hetzner Cloud API writes it: decimal strings, without and with tax.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Price {
    /// Without tax, `"0.0101000000"`.
    pub net: String,
    /// With tax.
    pub gross: String,
}

impl Price {
    /// A price on which no tax is charged yet; ten decimals, as the Hetzner Cloud API writes them.
    pub fn untaxed(money: Money) -> Self {
        let text = format!("{}0000", money.decimal(6));
        Self { net: text.clone(), gross: text }
    }
}

/// What a server type costs in one location.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LocationPrice {
    /// The location's name.
    pub location: String,
    /// For each hour begun.
    pub price_hourly: Price,
    /// At most this for a calendar month.
    pub price_monthly: Price,
    /// Bytes that may be sent each month.
    pub included_traffic: u64,
    /// For each TB (10¹² bytes) beyond that.
    pub price_per_tb_traffic: Price,
}

/// A location in which a server type is offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServerTypeLocation {
    /// The location's number.
    pub id: LocationId,
    /// The location's name.
    pub name: String,
    /// Until when it can be ordered there; `null` means no end is planned.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub deprecation: Option<crate::server::NoSuchThing>,
    /// Can it be ordered there? Whether a node has room for it is known when it is ordered.
    pub available: bool,
    /// Is it one that new customers should look at first?
    pub recommended: bool,
}

/// The shape of a server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServerType {
    /// Stable for life.
    pub id: ServerTypeId,
    /// `s1`.
    pub name: String,
    /// `1 vCPU, 2 GB, 40 GB`.
    pub description: String,
    /// `Shared CPU`.
    pub category: String,
    /// Virtual CPUs.
    pub cores: u32,
    /// Memory in GB (GiB); decimals below one.
    pub memory: f64,
    /// Disk in GB (GiB).
    pub disk: u32,
    /// Whose CPU time it is.
    pub cpu_type: CpuKind,
    /// `local` or `network`.
    pub storage_type: String,
    /// `x86`.
    pub architecture: String,
    /// What it costs, per location.
    pub prices: Vec<LocationPrice>,
    /// Where it is offered.
    pub locations: Vec<ServerTypeLocation>,
    /// May it still be ordered without a warning?
    pub deprecated: bool,
    /// Until when it can be ordered; `null` means no end is planned.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub deprecation: Option<crate::server::NoSuchThing>,
    /// Bytes that may be sent each month, for older clients; the smallest of all locations.
    pub included_traffic: u64,
}

/// `GET /v1/server_types`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServerTypeList {
    /// This page's server types.
    pub server_types: Vec<ServerType>,
    /// The page.
    pub meta: Meta,
}

/// `GET /v1/server_types/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServerTypeReply {
    /// The server type.
    pub server_type: ServerType,
}
