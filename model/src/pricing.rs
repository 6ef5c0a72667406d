//! What things cost (Hetzner Cloud API v1, `/pricing`).

use serde::{Deserialize, Serialize};

use crate::ServerTypeId;
use crate::address::IpFamily;
use crate::server::NoSuchThing;
use crate::server_type::{LocationPrice, Price};

/// A price for each GB (GiB) and month.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GbPrice {
    /// For each GB (GiB) and month.
    pub price_per_gb_month: Price,
}

/// What traffic costs beyond what is included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TrafficPrice {
    /// For each TB (10¹² bytes); what a server type costs in its location decides.
    pub price_per_tb: Price,
}

/// What a server's backups cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BackupPrice {
    /// In percent of the server's own price: `"20.0000000000"`.
    pub percentage: String,
}

/// What a server type costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServerTypePrices {
    /// The server type's number.
    pub id: ServerTypeId,
    /// Its name.
    pub name: String,
    /// Per location.
    pub prices: Vec<LocationPrice>,
}

/// A price for a month.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MonthlyPrice {
    /// For a calendar month.
    pub price_monthly: Price,
}

/// What a floating IP costs in one location.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FloatingIpPrice {
    /// The location's name.
    pub location: String,
    /// For a calendar month.
    pub price_monthly: Price,
}

/// What floating IPs of a family cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FloatingIpPrices {
    /// The family.
    #[serde(rename = "type")]
    pub family: IpFamily,
    /// Per location.
    pub prices: Vec<FloatingIpPrice>,
}

/// What a primary IP costs in one location.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PrimaryIpPrice {
    /// The location's name.
    pub location: String,
    /// The name of the location's datacenter, for older clients.
    pub datacenter: String,
    /// For each hour begun.
    pub price_hourly: Price,
    /// At most this for a calendar month.
    pub price_monthly: Price,
}

/// What primary IPs of a family cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PrimaryIpPrices {
    /// The family.
    #[serde(rename = "type")]
    pub family: IpFamily,
    /// Per location.
    pub prices: Vec<PrimaryIpPrice>,
}

/// What everything costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pricing {
    /// Three capital letters: `EUR`.
    pub currency: String,
    /// In percent, as decimal text; none is charged yet.
    pub vat_rate: String,
    /// Snapshots and backups.
    pub image: GbPrice,
    /// Volumes.
    pub volume: GbPrice,
    /// An IPv4 floating IP, for older clients.
    pub floating_ip: MonthlyPrice,
    /// Floating IPs.
    pub floating_ips: Vec<FloatingIpPrices>,
    /// Primary IPs.
    pub primary_ips: Vec<PrimaryIpPrices>,
    /// Traffic, for older clients: the highest of all server types.
    pub traffic: TrafficPrice,
    /// Backups of servers.
    pub server_backup: BackupPrice,
    /// Servers.
    pub server_types: Vec<ServerTypePrices>,
    /// Load balancers: none are offered.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<Object>))]
    pub load_balancer_types: Vec<NoSuchThing>,
}

/// `GET /v1/pricing`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PricingReply {
    /// The prices.
    pub pricing: Pricing,
}
