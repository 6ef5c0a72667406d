use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use super::{CloneMode, Firewall, Hardware, Limits, Name, Rescue, VmLimits, VolumeAttachment};
use crate::{ByteSize, PrivateNetworkId, Timestamp, VmId, VolumeId};

/// What a VM should be. The agent brings it there from whatever it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// Virtual CPUs, 1 to 128.
    pub vcpus: u32,
    /// Memory; at least 64 MiB, a whole number of MiB.
    pub memory: ByteSize,
    /// The disk; at least as large as its image. It grows to this size, and never shrinks.
    pub disk: ByteSize,
    /// What the disk is made from, once.
    pub image: VmImage,
    /// Does the disk stand on the image, or hold a copy of it? Decided once, when it is made.
    #[serde(default, skip_serializing_if = "CloneMode::is_default")]
    pub disk_mode: CloneMode,
    /// The pool that its disk lies in; `default` if not said. Decided once, when it is made. In pools of
    /// other kinds than `ceph_rbd` it has no snapshots and no backups, and is not kept or wiped as the VM is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_pool: Option<Name>,
    /// Volumes that it has. At most 16; what is not named is detached, from a running guest, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeAttachment>,
    /// Network cards, in order. At most 8.
    pub nics: Vec<Nic>,
    /// What cloud-init reads at the first boot.
    pub seed: VmSeed,
    /// Should it run when this request is done?
    pub power: WantedPower,
    /// Virtual CPUs up to which it can grow while it runs, `vcpus` to 128. Without it, another number
    /// of virtual CPUs waits for its next start; so do fewer ones where there is no KVM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus_max: Option<u32>,
    /// Memory up to which it can grow while it runs; at least `memory`. The guest sees so much and gives
    /// the difference back by its balloon. Without it, it can shrink while it runs, and grow back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<ByteSize>,
    /// What it may use of the node.
    #[serde(default, skip_serializing_if = "VmLimits::is_none")]
    pub limits: VmLimits,
    /// What it is built of beside its sizes.
    #[serde(default, skip_serializing_if = "Hardware::is_default")]
    pub hardware: Hardware,
    /// The ISO in its CD drive, by SHA-256. Changed while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iso: Option<String>,
    /// The system it boots instead of its own, with its own disk beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescue: Option<Rescue>,
    /// Does it start with the node, once the agent runs? Not for a VM that may be started on another node meanwhile.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub autostart: bool,
    /// Is it marked for failover: may it be started elsewhere once this node has lost its lease? Then it runs
    /// here only while the node has one, see [`super::LeaseGrant`], and does not start with the node. The node
    /// must have storage leases.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub failover: bool,
    /// What operators see beside its number: one line of at most 128 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Where it stands, for those who ask the metadata service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<VmPlace>,
}

/// Where a VM stands, in the operator's words: each 1 to 63 letters, digits, hyphens and dots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VmPlace {
    /// `eu-central`
    pub region: String,
    /// `fsn1-dc14`
    pub availability_zone: String,
}

/// An image on the node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VmImage {
    /// SHA-256 of its file, 64 hex digits; its name on every node.
    pub sha256: String,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// `52:54:00:aa:bb:cc`, lower case, unique on the network.
    pub mac: String,
    /// Its addresses, told to the guest through cloud-init, and by DHCP (the first IPv4 address), DHCPv6 and
    /// router advertisements. Without one, the guest asks whatever DHCP server there is on its network.
    pub addresses: Vec<NicAddress>,
    /// Whole networks that are routed to it, beside its addresses: an IPv6 /64 of its own. At most 128.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub networks: Vec<IpNet>,
    /// Networks that lie behind neighbours, told to the guest through cloud-init and by DHCP (option 121). At most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<NicRoute>,
    /// What may come in and go out; everything without one. Not for a card in a private network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firewall: Option<Firewall>,
    /// How much may come in and go out in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// The private network it is plugged into, which was put on the node before; the public one without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private: Option<PrivateNetworkId>,
}

/// A network behind a neighbour of a network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NicRoute {
    /// The network: `10.100.1.0/24`.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub to: Ipv4Net,
    /// The neighbour: an address on the same wire.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "ipv4"))]
    pub via: Ipv4Addr,
}

/// An address of a network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NicAddress {
    /// The address.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "ip"))]
    pub ip: IpAddr,
    /// Length of the network's prefix, 0 to 32 or 128.
    pub prefix: u8,
    /// Where everything else goes.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = "ip"))]
    pub gateway: Option<IpAddr>,
}

/// NoCloud data: what cloud-init reads from a small CD with the label `cidata`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VmSeed {
    /// The host name.
    pub hostname: String,
    /// Lines for root's `authorized_keys`.
    pub ssh_keys: Vec<String>,
    /// Root's password as a crypt(3) SHA-512 hash; never the password itself.
    pub root_password_hash: Option<String>,
    /// The customer's own user data, passed on as it is beside ours.
    pub user_data: Option<String>,
    /// Volumes that it mounts at its first boot, each as `/mnt/volume-5`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<VolumeId>,
    /// Name servers for the guest.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub name_servers: Vec<IpAddr>,
}

/// Should it run?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum WantedPower {
    /// Running: started if it is off.
    On,
    /// Off: made, but not started; a running one is left as it is only by [`WantedPower::Keep`].
    Off,
    /// As it is; a new one stays off.
    #[default]
    Keep,
}

/// What a VM does now, as the hypervisor tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// Its CPUs run.
    Running,
    /// Its CPUs are held.
    Paused,
    /// It is off, or was never started.
    Off,
    /// Its last run ended in a crash.
    Crashed,
}

impl VmState {
    /// Is there a guest, working or held?
    pub const fn is_on(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

/// A VM as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Vm {
    /// Its number.
    pub id: VmId,
    /// What it does now.
    pub state: VmState,
    /// What it was last told to be; `None` while its making was cut off before that was written.
    pub spec: Option<VmSpec>,
    /// Since when it runs.
    pub started: Option<Timestamp>,
    /// Is its memory kept on the node's disk? Then its next start goes on where it was.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub saved: bool,
    /// The fields of its specification that it does not run with yet: they wait for its next start, as
    /// `vcpus`, `hardware.cpu`, `seed`; `memory` also while the guest's balloon is on its way there; `disk` when the disk has grown
    /// and the guest's file system has not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<String>,
}

/// `GET /v1/vms`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmList {
    /// All VMs of this agent, by number.
    pub vms: Vec<Vm>,
}

/// A change of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PowerVerb {
    /// Start it; nothing if it runs.
    Start,
    /// Ask the system to stop (guest agent, else ACPI). Returns once asked; nothing if it is off.
    Shutdown,
    /// Ask the system to reboot. Returns once asked; `conflict` if it is off.
    Reboot,
    /// Press the reset button; `conflict` if it is off.
    Reset,
    /// Pull the plug; nothing if it is off. Memory that was saved is dropped.
    PowerOff,
    /// Hold its CPUs; `conflict` if it is off.
    Pause,
    /// Let its CPUs go on; `conflict` if it is off.
    Resume,
}
