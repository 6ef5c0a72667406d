//! Public addresses: primary IPs and floating IPs (Hetzner Cloud API v1, `/primary_ips`, `/floating_ips`).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::label::Labels;
use crate::location::{Datacenter, Location};
use crate::page::Meta;
use crate::server::NameOrId;
use crate::{FloatingIpId, PrimaryIpId, ServerId, Timestamp};

/// What kind of address it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum IpFamily {
    /// One IPv4 address.
    Ipv4,
    /// An IPv6 network, a /64.
    Ipv6,
}

impl IpFamily {
    /// As people write it: `IPv4`.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        }
    }
}

/// What an address is assigned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum AssigneeType {
    /// A server.
    #[default]
    Server,
}

/// A reverse name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DnsPtr {
    /// The address.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "ip"))]
    pub ip: IpAddr,
    /// Its name.
    pub dns_ptr: String,
}

/// What must not happen to an address until it is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IpProtection {
    /// It cannot be deleted.
    pub delete: bool,
}

/// An address of a project that one server at a time has as its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PrimaryIp {
    /// Stable for life.
    pub id: PrimaryIpId,
    /// Unique among the project's primary IPs.
    pub name: String,
    /// An IPv4 address, or an IPv6 network: `2001:db8::/64`.
    pub ip: String,
    /// Which of them.
    #[serde(rename = "type")]
    pub family: IpFamily,
    /// The server that has it.
    pub assignee_id: Option<ServerId>,
    /// What has it: a server.
    pub assignee_type: AssigneeType,
    /// Does it go with its server?
    pub auto_delete: bool,
    /// Blocked by staff.
    pub blocked: bool,
    /// When it was made.
    pub created: Timestamp,
    /// Where it can be used.
    pub location: Location,
    /// Where it can be used, for older clients.
    pub datacenter: Datacenter,
    /// Its reverse names.
    pub dns_ptr: Vec<DnsPtr>,
    /// The customer's own marks.
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub labels: Labels,
    /// What must not happen to it.
    pub protection: IpProtection,
}

/// `POST /v1/primary_ips`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PrimaryIpCreate {
    /// 1 to 64 characters, unique among the project's primary IPs.
    pub name: String,
    /// IPv4 address or IPv6 network.
    #[serde(rename = "type")]
    pub family: IpFamily,
    /// The server that gets it; it must be off. Without one, name a location.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignee_id: Option<ServerId>,
    /// What `assignee_id` names: a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignee_type: Option<AssigneeType>,
    /// Name or number of a location; not together with a server or a datacenter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<NameOrId>,
    /// Name or number of a datacenter, from older clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacenter: Option<NameOrId>,
    /// Does it go with its server? `false` unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_delete: Option<bool>,
    /// The customer's own marks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<std::collections::BTreeMap<String, String>>))]
    pub labels: Option<Labels>,
}

/// `PUT /v1/primary_ips/{id}`: what is left out stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PrimaryIpUpdate {
    /// The new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Does it go with its server?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_delete: Option<bool>,
    /// All labels anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<std::collections::BTreeMap<String, String>>))]
    pub labels: Option<Labels>,
}

/// `POST /v1/primary_ips/{id}/actions/assign`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PrimaryIpAssign {
    /// The server; it must be off, and without another of this kind.
    pub assignee_id: ServerId,
    /// What `assignee_id` names: a server.
    #[serde(default)]
    pub assignee_type: AssigneeType,
}

/// `GET /v1/primary_ips`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PrimaryIpList {
    /// This page's primary IPs.
    pub primary_ips: Vec<PrimaryIp>,
    /// The page.
    pub meta: Meta,
}

/// One primary IP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PrimaryIpReply {
    /// The primary IP.
    pub primary_ip: PrimaryIp,
}

/// The answer to `POST /v1/primary_ips`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PrimaryIpCreated {
    /// The primary IP.
    pub primary_ip: PrimaryIp,
    /// The action that gives it to its server, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
}

/// An address of a project that is moved between servers while they run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FloatingIp {
    /// Stable for life.
    pub id: FloatingIpId,
    /// Unique among the project's floating IPs.
    pub name: String,
    /// The customer's own words.
    pub description: String,
    /// An IPv4 address, or an IPv6 network: `2001:db8::/64`.
    pub ip: String,
    /// Which of them.
    #[serde(rename = "type")]
    pub family: IpFamily,
    /// The server that has it.
    pub server: Option<ServerId>,
    /// Its reverse names.
    pub dns_ptr: Vec<DnsPtr>,
    /// Where it can be used.
    pub home_location: Location,
    /// Blocked by staff.
    pub blocked: bool,
    /// What must not happen to it.
    pub protection: IpProtection,
    /// The customer's own marks.
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub labels: Labels,
    /// When it was made.
    pub created: Timestamp,
}

/// `POST /v1/floating_ips`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FloatingIpCreate {
    /// IPv4 address or IPv6 network.
    #[serde(rename = "type")]
    pub family: IpFamily,
    /// 1 to 64 characters, unique among the project's floating IPs; made up when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// At most 200 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Name or number of a location. Without one, name a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home_location: Option<NameOrId>,
    /// The server that gets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerId>,
    /// The customer's own marks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<std::collections::BTreeMap<String, String>>))]
    pub labels: Option<Labels>,
}

/// `PUT /v1/floating_ips/{id}`: what is left out stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FloatingIpUpdate {
    /// The new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The new description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// All labels anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<std::collections::BTreeMap<String, String>>))]
    pub labels: Option<Labels>,
}

/// `POST /v1/floating_ips/{id}/actions/assign`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FloatingIpAssign {
    /// The server that gets it, in the location of the floating IP. It may run.
    pub server: ServerId,
}

/// `GET /v1/floating_ips`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FloatingIpList {
    /// This page's floating IPs.
    pub floating_ips: Vec<FloatingIp>,
    /// The page.
    pub meta: Meta,
}

/// One floating IP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FloatingIpReply {
    /// The floating IP.
    pub floating_ip: FloatingIp,
}

/// The answer to `POST /v1/floating_ips`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FloatingIpCreated {
    /// The floating IP.
    pub floating_ip: FloatingIp,
    /// The action that gives it to its server, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
}

/// `POST /v1/{servers,primary_ips,floating_ips}/{id}/actions/change_dns_ptr`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ChangeDnsPtr {
    /// Which address: the IPv4 address, or one in the IPv6 network.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "ip"))]
    pub ip: IpAddr,
    /// Its new name: a host name of at most 253 characters. `null` takes the name away.
    pub dns_ptr: Option<String>,
}

/// `POST /v1/{primary_ips,floating_ips}/{id}/actions/change_protection`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ChangeIpProtection {
    /// It cannot be deleted. What is left out stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete: Option<bool>,
}
