//! Servers, in the shape of the Hetzner Cloud API v1 (`/servers`).

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::address::DnsPtr;
use crate::image::{Image, ImageKind};
use crate::iso::Iso;
use crate::label::Labels;
use crate::location::{Datacenter, Location};
use crate::network::PrivateNet;
use crate::page::Meta;
use crate::placement_group::PlacementGroup;
use crate::server_type::ServerType;
use crate::{
    FirewallId, FloatingIpId, NetworkId, PlacementGroupId, PrimaryIpId, ServerId, Timestamp, VolumeId,
};

/// What a server does now. The words are the Hetzner Cloud API's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ServerStatus {
    /// Being made; it has never run.
    Initializing,
    /// Told to start, not yet seen running.
    Starting,
    /// Seen running.
    Running,
    /// Told to stop, still running.
    Stopping,
    /// Seen stopped.
    Off,
    /// Being removed.
    Deleting,
    /// On its way to another node.
    Migrating,
    /// Getting a new disk.
    Rebuilding,
    /// Its node does not answer.
    Unknown,
}

impl ServerStatus {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 9] = [
        Self::Initializing,
        Self::Starting,
        Self::Running,
        Self::Stopping,
        Self::Off,
        Self::Deleting,
        Self::Migrating,
        Self::Rebuilding,
        Self::Unknown,
    ];

    /// The word on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Initializing => "initializing",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Off => "off",
            Self::Deleting => "deleting",
            Self::Migrating => "migrating",
            Self::Rebuilding => "rebuilding",
            Self::Unknown => "unknown",
        }
    }
}

impl core::str::FromStr for ServerStatus {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|x| x.word() == s)
            .ok_or_else(|| format!("“{s}” is not a status of a server."))
    }
}

/// What must not happen to a server until it is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServerProtection {
    /// It cannot be deleted.
    pub delete: bool,
    /// It cannot be rebuilt.
    pub rebuild: bool,
}

/// A public IPv4 address of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PublicIpv4 {
    /// The number of the primary IP.
    pub id: PrimaryIpId,
    /// The address.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = Ipv4))]
    pub ip: Ipv4Addr,
    /// Blocked by staff.
    pub blocked: bool,
    /// Reverse name.
    pub dns_ptr: Option<String>,
}

/// A public IPv6 network of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PublicIpv6 {
    /// The number of the primary IP.
    pub id: PrimaryIpId,
    /// The network, `2001:db8::/64`.
    pub ip: String,
    /// Blocked by staff.
    pub blocked: bool,
    /// Reverse names.
    pub dns_ptr: Vec<DnsPtr>,
}

/// The public side of a server's network. What it does not have is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PublicNet {
    /// The IPv4 address.
    pub ipv4: Option<PublicIpv4>,
    /// The IPv6 network.
    pub ipv6: Option<PublicIpv6>,
    /// Floating addresses, by number.
    pub floating_ips: Vec<FloatingIpId>,
    /// Firewalls that apply.
    pub firewalls: Vec<AppliedFirewall>,
}

/// A firewall on a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AppliedFirewall {
    /// Its number.
    pub id: FirewallId,
    /// Does the node filter by it?
    pub status: AppliedStatus,
}

/// How far a firewall on a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum AppliedStatus {
    /// The server's node filters by it.
    Applied,
    /// The server's node has not heard of everything yet.
    Pending,
}

/// What a customer rents: a virtual machine with a type, an image and addresses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Server {
    /// Stable for life.
    pub id: ServerId,
    /// Host name; unique in the project.
    pub name: String,
    /// What it does now.
    pub status: ServerStatus,
    /// When it was ordered.
    pub created: Timestamp,
    /// Its public addresses.
    pub public_net: PublicNet,
    /// Its cards in private networks.
    pub private_net: Vec<PrivateNet>,
    /// Its shape.
    pub server_type: ServerType,
    /// Where it stands.
    pub location: Location,
    /// Where it stands, for older clients.
    pub datacenter: Datacenter,
    /// What it was made from.
    pub image: Option<Image>,
    /// The ISO in its drive.
    pub iso: Option<Iso>,
    /// Will the next boot be the rescue system?
    pub rescue_enabled: bool,
    /// Does an action hold it?
    pub locked: bool,
    /// Hours of the day in which backups are made, in UTC: `22-02`; `null` without backups.
    pub backup_window: Option<String>,
    /// Bytes sent this month.
    pub outgoing_traffic: Option<u64>,
    /// Bytes received this month.
    pub ingoing_traffic: Option<u64>,
    /// Bytes that may be sent each month.
    pub included_traffic: u64,
    /// What must not happen to it.
    pub protection: ServerProtection,
    /// The customer's own marks.
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub labels: Labels,
    /// Attached volumes, by number.
    pub volumes: Vec<VolumeId>,
    /// Load balancers that send to it, by number.
    pub load_balancers: Vec<i64>,
    /// Size of the disk in GB (GiB).
    pub primary_disk_size: u32,
    /// Its placement group.
    pub placement_group: Option<PlacementGroup>,
}

/// `POST /v1/servers/{id}/actions/request_console`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConsoleRequested {
    /// Where the console opens, once, within a minute: a WebSocket with the subprotocol `binary` that speaks RFB.
    pub wss_url: String,
    /// What it asks for: RFB's password.
    pub password: String,
    /// The action, which has ended.
    pub action: Action,
}

/// Stands where the Hetzner Cloud API has a resource that this version of Berth cannot have:
/// lists of it are empty, options of it are `null`. It has no values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoSuchThing {}

/// `POST /v1/servers`. Fields that Berth does not know are refused by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ServerCreate {
    /// Host name; 1 to 63 characters, unique in the project.
    pub name: String,
    /// Name or number of a server type.
    pub server_type: NameOrId,
    /// Name or number of an image.
    pub image: NameOrId,
    /// Name or number of a location. Without one, and without a datacenter, Berth chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<NameOrId>,
    /// Name or number of a datacenter; not together with `location`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacenter: Option<NameOrId>,
    /// Names or numbers of SSH keys of the project. Without one, a root password is made and told once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<NameOrId>,
    /// cloud-init user data, at most 32 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// The customer's own marks.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub labels: Labels,
    /// Start it when it is made; `true` unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_after_create: Option<bool>,
    /// Numbers of volumes that no server has; at most 16, in the server's location.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeId>,
    /// The number of a placement group, whose servers stand on different nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement_group: Option<PlacementGroupId>,
    /// Its system mounts them as `/mnt/volume-{id}`; `false` unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automount: Option<bool>,
    /// Which public addresses it gets; of each kind one, unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_net: Option<PublicNetCreate>,
    /// Firewalls of the project, which filter from the first packet on. At most 5.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub firewalls: Vec<FirewallNumber>,
    /// Private networks of the project, by number; it gets the first free address of each. At most 3.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkId>,
}

/// A firewall that a new server gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FirewallNumber {
    /// Its number.
    pub firewall: FirewallId,
}

/// Which public addresses a new server gets; at least one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PublicNetCreate {
    /// A public IPv4 address; `true` unless said otherwise.
    #[serde(default = "yes")]
    pub enable_ipv4: bool,
    /// A public IPv6 network; `true` unless said otherwise. Left out where the location has no IPv6.
    #[serde(default = "yes")]
    pub enable_ipv6: bool,
    /// The number of a primary IP without a server. Without one, a new one is made, which goes with the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<PrimaryIpId>,
    /// The same for IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<PrimaryIpId>,
}

impl Default for PublicNetCreate {
    fn default() -> Self {
        Self { enable_ipv4: true, enable_ipv6: true, ipv4: None, ipv6: None }
    }
}

fn yes() -> bool {
    true
}

/// Longest cloud-init user data, in bytes (Hetzner Cloud API: 32 KiB).
pub const USER_DATA_MAX_BYTES: usize = 32 * 1024;

/// Clients name a resource by its number or its name: `1`, `"1"` or `"debian-12"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged, expecting = "a name or a number")]
pub enum NameOrId {
    /// Its number.
    Id(i64),
    /// Its name, or its number as a text.
    Name(String),
}

impl NameOrId {
    /// The number, if this is one.
    pub fn id(&self) -> Option<i64> {
        match self {
            Self::Id(id) => Some(*id),
            Self::Name(name) => name.parse().ok(),
        }
    }

    /// The text, as typed.
    pub fn text(&self) -> String {
        match self {
            Self::Id(id) => id.to_string(),
            Self::Name(name) => name.clone(),
        }
    }
}

impl Default for NameOrId {
    fn default() -> Self {
        Self::Name(String::new())
    }
}

impl From<&str> for NameOrId {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

/// `PUT /v1/servers/{id}`: what is left out stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ServerUpdate {
    /// The new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// All labels anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<std::collections::BTreeMap<String, String>>))]
    pub labels: Option<Labels>,
}

/// `POST /v1/servers/{id}/actions/change_type`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ChangeTypeRequest {
    /// Name or number of the new type.
    pub server_type: NameOrId,
    /// Does the disk grow to the new type's?
    pub upgrade_disk: bool,
}

/// `POST /v1/servers/{id}/actions/create_image`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateImage {
    /// For people, 1 to 200 characters; made from the server's name if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `snapshot`, unless said otherwise, or `backup`, of a server that is backed up: the oldest beyond seven goes.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<ImageKind>,
    /// The customer's own marks.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub labels: Labels,
}

/// The answer to `create_image`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageCreated {
    /// The image, `creating`.
    pub image: Image,
    /// The action that makes it.
    pub action: Action,
}

/// `POST /v1/servers/{id}/actions/rebuild`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RebuildRequest {
    /// Name or number of an image.
    pub image: NameOrId,
    /// cloud-init user data from now on, at most 32 KiB; as before if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
}

/// `POST /v1/servers/{id}/actions/enable_rescue`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RescueRequest {
    /// `linux64`, also if it is not given.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Names or numbers of SSH keys. The rescue system lets root in by its password, so they must be empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<NameOrId>,
}

/// `POST /v1/servers/{id}/actions/attach_iso`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AttachIso {
    /// Name or number of an ISO.
    pub iso: NameOrId,
}

/// The answer to an action with a password that is told once: `rebuild`, `reset_password`, `enable_rescue`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PasswordReply {
    /// The action.
    pub action: Action,
    /// Root's new password; none where an SSH key lets root in.
    pub root_password: Option<String>,
}

/// `POST /v1/servers/{id}/actions/change_protection`: what is left out stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ChangeProtection {
    /// It cannot be deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete: Option<bool>,
    /// It cannot be rebuilt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebuild: Option<bool>,
}

/// `GET /v1/servers`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServerList {
    /// This page's servers.
    pub servers: Vec<Server>,
    /// The page.
    pub meta: Meta,
}

/// `GET /v1/servers/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServerReply {
    /// The server.
    pub server: Server,
}

/// The answer to `POST /v1/servers`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServerCreated {
    /// The server, `initializing`.
    pub server: Server,
    /// The action that makes it.
    pub action: Action,
    /// Actions that follow by themselves.
    pub next_actions: Vec<Action>,
    /// Told once, and only when no SSH key was given.
    pub root_password: Option<String>,
}
