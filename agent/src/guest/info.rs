//! What a guest says of itself.

use std::time::{Duration, Instant};

use berth_model::agent::{GuestAddress, GuestFileSystem, GuestInfo, GuestInterface, GuestOs, GuestUser};
use berth_model::{ByteSize, Timestamp};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Guest, THINGS_MAX, short};
use crate::hypervisor::HypervisorError;

/// How long all questions together may take; less than any look at a VM.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long the first one may take.
const FIRST: Duration = Duration::from_secs(3);

#[derive(Deserialize)]
struct Agent {
    version: String,
    supported_commands: Vec<Command>,
}

#[derive(Deserialize)]
struct Command {
    enabled: bool,
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[derive(Default)]
struct Os {
    id: String,
    name: String,
    pretty_name: String,
    version_id: String,
    kernel_release: String,
    machine: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct HostName {
    host_name: String,
}

#[derive(Deserialize)]
struct TimeZone {
    zone: Option<String>,
    offset: i32,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    user: String,
    login_time: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct FileSystem {
    name: String,
    mountpoint: String,
    #[serde(rename = "type")]
    kind: String,
    total_bytes: Option<u64>,
    used_bytes: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Interface {
    name: String,
    hardware_address: Option<String>,
    #[serde(default)]
    ip_addresses: Vec<Address>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Address {
    ip_address: String,
    prefix: u8,
}

impl Guest<'_> {
    /// What the guest says of itself.
    pub fn info(&self) -> Result<GuestInfo, HypervisorError> {
        let until = Instant::now() + PATIENCE;
        let agent: Agent = self.ask("guest-info", Value::Null, FIRST)?;
        let questions = Questions { guest: *self, until, agent };
        let time_zone = questions.ask::<TimeZone>("guest-get-timezone")?;
        Ok(GuestInfo {
            agent_version: short(&questions.agent.version),
            os: questions.ask("guest-get-osinfo")?.as_ref().map(os),
            hostname: questions.ask("guest-get-host-name")?.map(|HostName { host_name }| short(&host_name)),
            utc_offset_s: time_zone.as_ref().map(|zone| zone.offset),
            time_zone: time_zone.and_then(|zone| zone.zone).map(|zone| short(&zone)),
            users: questions.list("guest-get-users", user)?,
            file_systems: questions.list("guest-get-fsinfo", file_system)?,
            interfaces: questions.list("guest-network-get-interfaces", interface)?,
        })
    }
}

struct Questions<'a> {
    guest: Guest<'a>,
    until: Instant,
    agent: Agent,
}

impl Questions<'_> {
    /// Nothing if the guest agent has no such command, or fails on it.
    fn ask<T: DeserializeOwned>(&self, command: &str) -> Result<Option<T>, HypervisorError> {
        let knows = |known: &Command| known.enabled && known.name == command;
        if !self.agent.supported_commands.iter().any(knows) {
            return Ok(None);
        }
        let left = self.until.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        match self.guest.ask(command, Value::Null, left) {
            Ok(answer) => Ok(Some(answer)),
            Err(HypervisorError::Failed(_) | HypervisorError::Lacking(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn list<T: DeserializeOwned, U>(
        &self,
        command: &str,
        one: impl Fn(&T) -> U,
    ) -> Result<Vec<U>, HypervisorError> {
        let things: Vec<T> = self.ask(command)?.unwrap_or_default();
        Ok(things.iter().take(THINGS_MAX).map(one).collect())
    }
}

fn os(os: &Os) -> GuestOs {
    let name = if os.pretty_name.is_empty() { &os.name } else { &os.pretty_name };
    GuestOs {
        id: short(&os.id),
        name: short(name),
        version: short(&os.version_id),
        kernel: short(&os.kernel_release),
        machine: short(&os.machine),
    }
}

fn user(user: &User) -> GuestUser {
    GuestUser { user: short(&user.user), since: Timestamp::from_unix_ms((user.login_time * 1000.0) as i64) }
}

fn file_system(fs: &FileSystem) -> GuestFileSystem {
    GuestFileSystem {
        mounted_at: short(&fs.mountpoint),
        device: short(&fs.name),
        kind: short(&fs.kind),
        size: fs.total_bytes.map(ByteSize),
        used: fs.used_bytes.map(ByteSize),
    }
}

fn interface(interface: &Interface) -> GuestInterface {
    let address = |address: &Address| {
        Some(GuestAddress { ip: address.ip_address.parse().ok()?, prefix: address.prefix })
    };
    GuestInterface {
        name: short(&interface.name),
        mac: interface.hardware_address.as_deref().map(short),
        addresses: interface.ip_addresses.iter().take(THINGS_MAX).filter_map(address).collect(),
    }
}
