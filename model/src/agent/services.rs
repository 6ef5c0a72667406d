//! What guests asked the node on their cards: addresses, routers, metadata.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// `GET /v1/vms/{vm}/leases`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeaseList {
    /// The VM's cards, by MAC address. Empty where the node does not serve them.
    pub cards: Vec<CardLeases>,
}

/// What a network card asked for last, and what it got, since the agent runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CardLeases {
    /// Its MAC address.
    pub mac: String,
    /// The node's end of it.
    pub interface: String,
    /// Does the agent listen to it? It does while the VM is on.
    pub listening: bool,
    /// By DHCP.
    pub dhcp: Option<CardAsked>,
    /// By DHCPv6.
    pub dhcpv6: Option<CardAsked>,
    /// For a router, by IPv6.
    pub router: Option<CardAsked>,
    /// At the metadata service.
    pub metadata: Option<CardAsked>,
}

/// A question of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CardAsked {
    /// When it came.
    pub at: Timestamp,
    /// What it was: `request`, `solicitation`, `GET /latest/user-data`.
    pub asked: String,
    /// What it was answered: `ack`, `nak`, `advertisement`, `200`. Nothing when it needed no answer.
    pub answered: Option<String>,
    /// The address that the answer gave, or the router it named.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = "ip"))]
    pub address: Option<IpAddr>,
    /// How many questions of this kind came.
    pub count: u64,
}
