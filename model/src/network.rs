//! Private networks (Hetzner Cloud API v1, `/networks`).

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::label::Labels;
use crate::page::Meta;
use crate::{NetworkId, ServerId, Timestamp};

/// What a subnet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SubnetKind {
    /// Servers.
    #[default]
    Cloud,
    /// Servers, by its older word.
    Server,
    /// Dedicated machines; not offered.
    Vswitch,
}

/// A part of a network, from which servers get their addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Subnet {
    /// `cloud`.
    #[serde(rename = "type")]
    pub kind: SubnetKind,
    /// `10.0.1.0/24`
    pub ip_range: String,
    /// Servers of which locations get addresses of it.
    pub network_zone: String,
    /// The first address of the network; no server gets it.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = Ipv4))]
    pub gateway: Ipv4Addr,
    /// `null`: there are no vSwitches.
    pub vswitch_id: Option<i64>,
}

/// Where packets to another network go: to one of the network's servers, which passes them on. New systems
/// are told of it at their first boot, and by DHCP those that ask it; of the way to everywhere (`0.0.0.0/0`) only
/// servers without a public IPv4 address.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The other network: `10.100.1.0/24`, or `0.0.0.0/0`.
    pub destination: String,
    /// An address of the network, of a server that passes them on.
    pub gateway: String,
}

/// What must not happen to a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NetworkProtection {
    /// It cannot be deleted.
    pub delete: bool,
}

/// A private network between servers of a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Network {
    /// Stable for life.
    pub id: NetworkId,
    /// Unique in the project.
    pub name: String,
    /// All its subnets lie in it.
    pub ip_range: String,
    /// By address.
    pub subnets: Vec<Subnet>,
    /// By destination.
    pub routes: Vec<Route>,
    /// The servers in it, by number.
    pub servers: Vec<ServerId>,
    /// Load balancers in it, by number.
    pub load_balancers: Vec<i64>,
    /// `false`: there are no vSwitches.
    pub expose_routes_to_vswitch: bool,
    /// What must not happen to it.
    pub protection: NetworkProtection,
    /// The customer's own marks.
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub labels: Labels,
    /// When it was made.
    pub created: Timestamp,
}

/// A subnet to be added.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SubnetCreate {
    /// `cloud`.
    #[serde(rename = "type")]
    pub kind: SubnetKind,
    /// A part of the network of at least 4 addresses, on which no other subnet and no route lies. Without it, the
    /// first /24 that is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_range: Option<String>,
    /// Of a location: `eu-central`.
    pub network_zone: String,
    /// Empty, or the first address of the network, which is the gateway in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Must be left out: there are no vSwitches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vswitch_id: Option<i64>,
}

/// `POST /v1/networks`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NetworkCreate {
    /// 1 to 64 characters, unique in the project.
    pub name: String,
    /// Of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16 (RFC 1918), a /24 or larger.
    pub ip_range: String,
    /// At most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<SubnetCreate>,
    /// At most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// The customer's own marks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<std::collections::BTreeMap<String, String>>))]
    pub labels: Option<Labels>,
    /// `false`: there are no vSwitches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expose_routes_to_vswitch: Option<bool>,
}

/// `PUT /v1/networks/{id}`: what is left out stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NetworkUpdate {
    /// The new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// All labels anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<std::collections::BTreeMap<String, String>>))]
    pub labels: Option<Labels>,
    /// `false`: there are no vSwitches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expose_routes_to_vswitch: Option<bool>,
}

/// `POST /v1/networks/{id}/actions/delete_subnet` and `…/change_ip_range`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct IpRange {
    /// The subnet, or the network's new range, in which the old one lies.
    pub ip_range: String,
}

/// `POST /v1/networks/{id}/actions/change_protection`: what is left out stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ChangeNetworkProtection {
    /// It cannot be deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete: Option<bool>,
}

/// `GET /v1/networks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NetworkList {
    /// This page's networks.
    pub networks: Vec<Network>,
    /// The page.
    pub meta: Meta,
}

/// One network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NetworkReply {
    /// The network.
    pub network: Network,
}

/// A server's card in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PrivateNet {
    /// The network's number.
    pub network: NetworkId,
    /// Its address.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = Ipv4))]
    pub ip: Ipv4Addr,
    /// Further addresses that its system may use, and sets itself.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub alias_ips: Vec<Ipv4Addr>,
    /// `86:00:00:…`
    pub mac_address: String,
}

/// `POST /v1/servers/{id}/actions/attach_to_network`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AttachToNetwork {
    /// The network's number.
    pub network: NetworkId,
    /// An address of one of its subnets; the first that is free without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = Ipv4))]
    pub ip: Option<Ipv4Addr>,
    /// Further addresses, at most 5.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub alias_ips: Vec<Ipv4Addr>,
    /// The subnet from which it gets an address; any of its network zone without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_range: Option<String>,
}

/// `POST /v1/servers/{id}/actions/detach_from_network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DetachFromNetwork {
    /// The network's number.
    pub network: NetworkId,
}

/// `POST /v1/servers/{id}/actions/change_alias_ips`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ChangeAliasIps {
    /// The network's number.
    pub network: NetworkId,
    /// All of them anew, at most 5.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub alias_ips: Vec<Ipv4Addr>,
}
