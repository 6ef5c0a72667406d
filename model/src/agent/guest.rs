//! What is asked of a guest through its guest agent, and what that says. All of it is the guest's own
//! word: nothing in it is proved.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{ByteSize, Timestamp};

/// A new password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct GuestPassword {
    /// Whose.
    #[serde(default = "root")]
    pub user: String,
    /// The password as a crypt(3) SHA-512 hash, which begins with `$6$`; never the password itself.
    #[cfg_attr(feature = "openapi", schema(format = "password"))]
    pub password_hash: String,
}

impl core::fmt::Debug for GuestPassword {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("GuestPassword").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The SSH keys that let a user in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct GuestSshKeys {
    /// Whom.
    #[serde(default = "root")]
    pub user: String,
    /// Lines of `authorized_keys`, at most 100; all other lines go.
    pub ssh_keys: Vec<String>,
}

fn root() -> String {
    "root".to_owned()
}

/// A new host name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct GuestHostname {
    /// Letters, digits, hyphens and dots.
    pub hostname: String,
}

/// Since when a new host name holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum HoldsFrom {
    /// It holds.
    Now,
    /// It holds from the guest's next boot on.
    NextBoot,
}

/// A host name was set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostnameSet {
    /// The name.
    pub hostname: String,
    /// Since when it holds.
    pub holds_from: HoldsFrom,
}

/// How long file systems stay frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct GuestFreeze {
    /// Seconds until they are thawed by themselves, 1 to 600.
    pub limit_s: u32,
}

impl Default for GuestFreeze {
    fn default() -> Self {
        Self { limit_s: 60 }
    }
}

/// File systems are frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Frozen {
    /// When they are thawed by themselves.
    pub until: Timestamp,
}

/// File systems write again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Thawed {
    /// How many were frozen.
    pub file_systems: u32,
}

/// What was given back to the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Trimmed {
    /// Each file system that was tried.
    pub file_systems: Vec<TrimmedFileSystem>,
}

/// A file system that was trimmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TrimmedFileSystem {
    /// Where it is mounted.
    pub mounted_at: String,
    /// How much it gave back.
    pub trimmed: ByteSize,
    /// Why it gave nothing.
    pub error: Option<String>,
}

/// A guest's clock was set to the node's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TimeSynced {
    /// How far it was ahead of the node's, in milliseconds; below 0 when it was behind.
    pub ahead_before_ms: i64,
    /// How far it is ahead now.
    pub ahead_ms: i64,
}

/// What a guest says of itself. What its guest agent has no command for is left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct GuestInfo {
    /// Version of the guest agent.
    pub agent_version: String,
    /// The operating system.
    pub os: Option<GuestOs>,
    /// The host name.
    pub hostname: Option<String>,
    /// The time zone's name, as `CET`.
    pub time_zone: Option<String>,
    /// Seconds that the time zone is ahead of UTC.
    pub utc_offset_s: Option<i32>,
    /// Who is signed in.
    pub users: Vec<GuestUser>,
    /// What is mounted.
    pub file_systems: Vec<GuestFileSystem>,
    /// Network interfaces.
    pub interfaces: Vec<GuestInterface>,
}

/// An operating system.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct GuestOs {
    /// `debian`.
    pub id: String,
    /// `Debian GNU/Linux 12 (bookworm)`.
    pub name: String,
    /// `12`.
    pub version: String,
    /// The kernel's release.
    pub kernel: String,
    /// `x86_64`.
    pub machine: String,
}

/// Somebody who is signed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GuestUser {
    /// Who.
    pub user: String,
    /// Since when.
    pub since: Option<Timestamp>,
}

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GuestFileSystem {
    /// Where it is mounted.
    pub mounted_at: String,
    /// Its device, as `vda1`.
    pub device: String,
    /// `ext4`.
    pub kind: String,
    /// Its size.
    pub size: Option<ByteSize>,
    /// How much of it is used.
    pub used: Option<ByteSize>,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GuestInterface {
    /// `eth0`.
    pub name: String,
    /// `52:54:00:aa:bb:cc`.
    pub mac: Option<String>,
    /// Its addresses.
    pub addresses: Vec<GuestAddress>,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GuestAddress {
    /// The address.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "ip"))]
    pub ip: IpAddr,
    /// Length of the network's prefix.
    pub prefix: u8,
}
