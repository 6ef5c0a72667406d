//! The configuration: one TOML file, and the environment over it.
//!
//! | key | environment | means |
//! | --- | --- | --- |
//! | `name` | `BERTH_AGENT_NAME` | the node's name; its host name if not set |
//! | `data_dir` | `BERTH_AGENT_DATA_DIR` | where images, disks, keys stand; `/var/lib/berth-agent` |
//! | `listen` | `BERTH_AGENT_LISTEN` | address of the HTTPS listener; `127.0.0.1:7701` |
//! | `move_port` | `BERTH_AGENT_MOVE_PORT` | TCP port on the same address, open while a VM comes from another node; `7702`, 0 for any |
//! | `socket` | `BERTH_AGENT_SOCKET` | unix socket of the command line; `{data_dir}/agent.sock` |
//! | `hypervisor` | `BERTH_AGENT_HYPERVISOR` | `libvirt` or `simulator` |
//! | `log` | `BERTH_AGENT_LOG` | what is logged, as a tracing filter; `info` |
//! | `log_format` | `BERTH_AGENT_LOG_FORMAT` | `text` or `json` |
//! | `libvirt.uri` | `BERTH_AGENT_LIBVIRT_URI` | which libvirt; `qemu:///system` |
//! | `libvirt.accelerator` | `BERTH_AGENT_LIBVIRT_ACCELERATOR` | `auto` (a probe boot decides), `kvm` or `qemu` |
//! | `libvirt.prefix` | `BERTH_AGENT_LIBVIRT_PREFIX` | names of this agent's domains begin with it; `berth-` |
//! | `libvirt.probe_kernel` | `BERTH_AGENT_LIBVIRT_PROBE_KERNEL` | kernel of the probe boot; a kernel of the node if not set |
//! | `libvirt.probe_initrd` | `BERTH_AGENT_LIBVIRT_PROBE_INITRD` | its initial RAM disk; none if not set |
//! | `network.mode` | `BERTH_AGENT_NETWORK_MODE` | `nat` (libvirt's network behind the node), `bridge` (one of the node's), `routed` (a route for each address; guests' gateways are 169.254.1.1 and fe80::1) or `user` (QEMU's own, no root) |
//! | `network.bridge` | `BERTH_AGENT_NETWORK_BRIDGE` | the bridge; `berth0` |
//! | `network.gateway` | `BERTH_AGENT_NETWORK_GATEWAY` | the node's address on it with `nat`; `10.77.0.1/24` |
//! | `network.services` | `BERTH_AGENT_NETWORK_SERVICES` | does the agent answer its guests' DHCP, router solicitations and metadata requests; not with `user`; true |
//! | `storage.promise_percent` | `BERTH_AGENT_STORAGE_PROMISE_PERCENT` | how much a pool may promise, in percent of its size; 0: no limit; 1000 |
//! | `storage.reserve_mib` | `BERTH_AGENT_STORAGE_RESERVE_MIB` | what must be free in a pool after a promise; 1024 |
//! | `storage.disks` | `BERTH_AGENT_STORAGE_DISKS` | a folder for VMs' disks that nodes share, so that a VM moves without its disk being copied; in `data_dir` if not set |
//! | `images.fetch_private` | `BERTH_AGENT_IMAGES_FETCH_PRIVATE` | may images be fetched from private addresses and from the node itself; false |
//! | `images.max_gib` | `BERTH_AGENT_IMAGES_MAX_GIB` | largest file that is fetched; 100 |
//! | `simulator.delay_ms` | `BERTH_AGENT_SIMULATOR_DELAY_MS` | how long a simulated change takes; 0 |
//!
//! Pools beside `default`, which is `data_dir`, stand in the file alone: `[[pools]]` with a `name` and a `kind`,
//! which is `directory` with a `path` (and `shared = true` where other nodes have it, too), `lvm_thin` with a
//! `group` and a `thin_pool`, or `ceph_rbd` with `monitors` (addresses, each with a port or without), a `pool`, a
//! `user` (its name without `client.`) and its `keyring`, a file that only root may read. The user needs
//! `mon 'profile rbd' osd 'profile rbd pool=POOL'`.
//!
//! `agent.example.toml` shows the file. An unknown key, or a value that makes no sense, is refused with its name.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use berth_model::agent::Name;
use serde::Deserialize;
use toml::{Table, Value};

use crate::limits::Limits;

/// Where the configuration is looked for.
pub const DEFAULT_PATH: &str = "/etc/berth/agent.toml";

/// The beginning of the names of our environment variables.
const ENV_PREFIX: &str = "BERTH_AGENT_";

/// Variables of that beginning that are not keys: of the command line, and of tests.
const ENV_ELSEWHERE: [&str; 3] = ["BERTH_AGENT_CONFIG", "BERTH_AGENT_TOKEN", "BERTH_AGENT_FAULTS"];

/// Longest path of a unix socket (`sun_path`), less the `.new` it is made under.
const SOCKET_PATH_MAX_BYTES: usize = 103;

/// Longest path of the data folder: below it, `/vms/ID/serial.sock` is a unix socket, too.
const DATA_DIR_MAX_BYTES: usize = 71;

/// Keys with a number as their value; all others are texts.
const NUMBERS: &[&str] =
    &["move_port", "storage.promise_percent", "storage.reserve_mib", "images.max_gib", "simulator.delay_ms"];

/// Keys that are yes or no.
const SWITCHES: &[&str] = &["network.services", "images.fetch_private"];

/// Most pools.
const POOLS_MAX: usize = 16;

/// All keys, see the table above.
const KEYS: [&str; 23] = [
    "name",
    "data_dir",
    "listen",
    "move_port",
    "socket",
    "hypervisor",
    "log",
    "log_format",
    "libvirt.uri",
    "libvirt.accelerator",
    "libvirt.prefix",
    "libvirt.probe_kernel",
    "libvirt.probe_initrd",
    "network.mode",
    "network.bridge",
    "network.gateway",
    "network.services",
    "storage.promise_percent",
    "storage.reserve_mib",
    "storage.disks",
    "images.fetch_private",
    "images.max_gib",
    "simulator.delay_ms",
];

/// The agent's configuration.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The node's name.
    pub name: String,
    /// Where everything of the agent stands.
    pub data_dir: PathBuf,
    /// Address of the HTTPS listener. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Port on which VMs come from other nodes; 0 takes a free one.
    pub move_port: u16,
    /// The unix socket; see [`Config::socket`].
    socket: Option<PathBuf>,
    /// Which hypervisor.
    pub hypervisor: HypervisorKind,
    /// A tracing filter.
    pub log: String,
    /// Form of the log.
    pub log_format: LogFormat,
    /// libvirt's part.
    pub libvirt: LibvirtSection,
    /// The guests' network.
    pub network: NetworkSection,
    /// Limits of pools.
    pub storage: StorageSection,
    /// Image files.
    pub images: ImagesSection,
    /// Pools beside `default`.
    pub pools: Vec<PoolSection>,
    /// The simulator's part.
    pub simulator: SimulatorSection,
    /// Limits and intervals; set by tests only.
    #[serde(skip)]
    pub limits: Limits,
}

/// Which hypervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HypervisorKind {
    /// libvirt.
    #[default]
    Libvirt,
    /// The simulator: no guest runs.
    Simulator,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines, an object a line.
    Json,
}

/// `[libvirt]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LibvirtSection {
    /// Which libvirt.
    pub uri: String,
    /// What runs the guests' instructions.
    pub accelerator: Accelerator,
    /// Names of this agent's domains begin with it.
    pub prefix: String,
    /// Kernel of the probe boot.
    pub probe_kernel: Option<PathBuf>,
    /// Initial RAM disk of the probe boot.
    pub probe_initrd: Option<PathBuf>,
}

/// What runs the guests' instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// A probe boot decides.
    #[default]
    Auto,
    /// The processor.
    Kvm,
    /// QEMU's translator.
    Qemu,
}

/// `[network]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkSection {
    /// How guests reach the world.
    pub mode: NetworkMode,
    /// The bridge they stand on.
    pub bridge: String,
    /// The node's address on it.
    pub gateway: Gateway,
    /// Does the agent answer its guests' DHCP, router solicitations and metadata requests?
    pub services: bool,
}

/// How guests reach the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// Through a network of libvirt, behind the node's address.
    #[default]
    Nat,
    /// On a bridge that the operator made.
    Bridge,
    /// By a route on the node for each address.
    Routed,
    /// Through QEMU itself, without any privilege.
    User,
}

/// `[storage]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageSection {
    /// How much a pool may promise, in percent of its size; 0 sets no limit.
    pub promise_percent: u64,
    /// What must be free in a pool after a promise, in MiB.
    pub reserve_mib: u64,
    /// A folder for VMs' disks that nodes share; in `data_dir` if not set.
    pub disks: Option<PathBuf>,
}

impl Default for StorageSection {
    fn default() -> Self {
        Self { promise_percent: 1000, reserve_mib: 1024, disks: None }
    }
}

/// `[images]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImagesSection {
    /// May images be fetched from private addresses, and from the node itself?
    pub fetch_private: bool,
    /// Largest file that is fetched, in GiB.
    pub max_gib: u64,
}

impl Default for ImagesSection {
    fn default() -> Self {
        Self { fetch_private: false, max_gib: 100 }
    }
}

/// One of `[[pools]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PoolSection {
    /// Its name.
    pub name: Name,
    /// What it is made of.
    #[serde(flatten)]
    pub place: PoolPlace,
}

/// What a pool is made of.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum PoolPlace {
    /// A folder with a file for each volume.
    Directory {
        /// The folder.
        path: PathBuf,
        /// Do other nodes have it, too? Then its volumes are written to under leases only, and move without being
        /// copied.
        #[serde(default)]
        shared: bool,
    },
    /// A thin pool of LVM.
    LvmThin {
        /// Its volume group.
        group: String,
        /// Its name in the group.
        thin_pool: String,
    },
    /// A pool of Ceph.
    CephRbd(CephPool),
}

/// A pool of Ceph, and who may use it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CephPool {
    /// The cluster's monitors: `192.0.2.1`, `192.0.2.1:3300`, `[2001:db8::1]:3300`, or names.
    pub monitors: Vec<String>,
    /// The pool's name in the cluster.
    pub pool: String,
    /// The user, without `client.`.
    pub user: String,
    /// The file with the user's key, as `ceph auth get` writes it.
    pub keyring: PathBuf,
}

/// Most monitors of a cluster.
const MONITORS_MAX: usize = 16;

impl CephPool {
    fn is_fine(&self) -> bool {
        let monitor = |text: &str| {
            (1..=255).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b))
                && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'[')
        };
        // It stands in Ceph's configuration, where these mean something.
        let plain = |path: &Path| {
            path.to_str()
                .is_some_and(|path| path.bytes().all(|b| b.is_ascii_graphic() && !b"#;,\"'\\=$".contains(&b)))
        };
        (1..=MONITORS_MAX).contains(&self.monitors.len())
            && self.monitors.iter().all(|text| monitor(text))
            && is_word(&self.pool)
            && is_word(&self.user)
            && self.keyring.is_absolute()
            && plain(&self.keyring)
    }
}

/// As LVM and Ceph name things; a hyphen at the beginning would be an option.
fn is_word(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_+.".contains(&b))
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

impl PoolPlace {
    fn is_fine(&self) -> bool {
        match self {
            Self::Directory { path, .. } => path.is_absolute(),
            Self::LvmThin { group, thin_pool } => is_word(group) && is_word(thin_pool),
            Self::CephRbd(ceph) => ceph.is_fine(),
        }
    }
}

/// `[simulator]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimulatorSection {
    /// How long a change takes, in milliseconds.
    pub delay_ms: u64,
}

/// An address with the length of its network's prefix: `10.77.0.1/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Gateway {
    /// The address.
    pub ip: Ipv4Addr,
    /// 8 to 30.
    pub prefix: u8,
}

impl FromStr for Gateway {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed =
            text.split_once('/').and_then(|(ip, prefix)| Some((ip.parse().ok()?, prefix.parse().ok()?)));
        match parsed {
            Some((ip, prefix @ 8..=30)) => Ok(Self { ip, prefix }),
            _ => Err(format!("“{text}” is not an address with a prefix of 8 to 30, like 10.77.0.1/24")),
        }
    }
}

impl TryFrom<String> for Gateway {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            data_dir: PathBuf::from("/var/lib/berth-agent"),
            listen: SocketAddr::from(([127, 0, 0, 1], 7701)),
            move_port: 7702,
            socket: None,
            hypervisor: HypervisorKind::default(),
            log: "info".to_owned(),
            log_format: LogFormat::default(),
            libvirt: LibvirtSection::default(),
            network: NetworkSection::default(),
            storage: StorageSection::default(),
            images: ImagesSection::default(),
            pools: Vec::new(),
            simulator: SimulatorSection::default(),
            limits: Limits::default(),
        }
    }
}

impl Default for LibvirtSection {
    fn default() -> Self {
        Self {
            uri: "qemu:///system".to_owned(),
            accelerator: Accelerator::default(),
            prefix: "berth-".to_owned(),
            probe_kernel: None,
            probe_initrd: None,
        }
    }
}

impl Default for NetworkSection {
    fn default() -> Self {
        let gateway = Gateway { ip: Ipv4Addr::new(10, 77, 0, 1), prefix: 24 };
        Self { mode: NetworkMode::default(), bridge: "berth0".to_owned(), gateway, services: true }
    }
}

/// Why the configuration is refused; names the key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// The defaults, with everything under `data_dir`. What tests and benches begin with.
    pub fn at(data_dir: impl Into<PathBuf>) -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let hypervisor = HypervisorKind::Simulator;
        Self { data_dir: data_dir.into(), listen, move_port: 0, hypervisor, ..Self::default() }
    }

    /// Reads the file and lays the environment over it. Without `path`, a file that is missing from
    /// its usual place is as good as an empty one.
    pub fn load(
        path: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && path.is_none() => String::new(),
            Err(e) => return Err(ConfigError(format!("Cannot read {}: {e}.", file.display()))),
        };
        let inside = |e: ConfigError| ConfigError(format!("In {} or the environment: {e}", file.display()));
        Self::parse(&text, environment).map_err(inside)
    }

    /// The same from text.
    pub fn parse(
        text: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut table: Table = text.parse().map_err(|e| ConfigError(format!("{e}")))?;
        overlay(&mut table, environment)?;
        let config: Self = serde_path_to_error::deserialize(Value::Table(table)).map_err(|e| {
            let path = e.path().to_string();
            let inner = e.into_inner();
            let message = inner.to_string();
            ConfigError(format!("{path}: {}", message.trim_end()))
        })?;
        config.check()?;
        Ok(config)
    }

    /// The unix socket of the command line.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.data_dir.join("agent.sock"))
    }

    /// Where VMs come from other nodes.
    pub fn moves(&self) -> SocketAddr {
        SocketAddr::new(self.listen.ip(), self.move_port)
    }

    /// Where image files stand.
    pub fn images_dir(&self) -> PathBuf {
        self.data_dir.join("images")
    }

    /// Where the key and the certificate stand.
    pub fn tls_dir(&self) -> PathBuf {
        self.data_dir.join("tls")
    }

    /// Where the simulator keeps its VMs.
    pub fn simulator_dir(&self) -> PathBuf {
        self.data_dir.join("simulator")
    }

    fn check(&self) -> Result<(), ConfigError> {
        let word = |text: &str, max: usize, more: &[u8]| {
            (1..=max).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
        };
        let rules = [
            ("name", word(&self.name, 63, b"-."), "1 to 63 letters, digits, hyphens and dots"),
            ("data_dir", self.data_dir.is_absolute(), "a path from the root"),
            ("data_dir", self.data_dir.as_os_str().len() <= DATA_DIR_MAX_BYTES, "at most 71 bytes long"),
            ("socket", self.socket().is_absolute(), "a path from the root"),
            ("socket", self.socket().as_os_str().len() <= SOCKET_PATH_MAX_BYTES, "at most 103 bytes long"),
            (
                "log",
                self.log.parse::<tracing_subscriber::EnvFilter>().is_ok(),
                "a filter like info,berth_agent=debug",
            ),
            ("libvirt.prefix", word(&self.libvirt.prefix, 32, b"-"), "1 to 32 letters, digits and hyphens"),
            (
                "network.bridge",
                word(&self.network.bridge, 15, b"-_."),
                "the name of a bridge, at most 15 characters",
            ),
            ("simulator.delay_ms", self.simulator.delay_ms <= 60_000, "at most 60000"),
            ("storage.promise_percent", self.storage.promise_percent <= 100_000, "at most 100000"),
            ("images.max_gib", (1..=65_536).contains(&self.images.max_gib), "1 to 65536"),
            ("pools", self.pools.len() <= POOLS_MAX, "at most 16 pools"),
            (
                "pools",
                self.pools.iter().all(|pool| pool.place.is_fine()),
                "folders with a path from the root, names of LVM, or monitors and names of Ceph with a keyring's path",
            ),
            (
                "pools",
                self.pools.iter().enumerate().all(|(n, pool)| {
                    pool.name.as_str() != crate::storage::DEFAULT_POOL
                        && self.pools[..n].iter().all(|other| other.name != pool.name)
                }),
                "pools of different names, none of them “default”",
            ),
        ];
        match rules.iter().find(|(_, fine, _)| !fine) {
            Some((key, _, rule)) => Err(ConfigError(format!("{key}: must be {rule}"))),
            None => Ok(()),
        }
    }
}

fn overlay(
    table: &mut Table,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<(), ConfigError> {
    for (variable, text) in environment {
        if !variable.starts_with(ENV_PREFIX) || ENV_ELSEWHERE.contains(&variable.as_str()) {
            continue;
        }
        let Some(key) = KEYS.into_iter().find(|key| env_name(key) == variable) else {
            return Err(ConfigError(format!("{variable}: there is no such setting")));
        };
        let value = if NUMBERS.contains(&key) {
            let number =
                text.parse().map_err(|_| ConfigError(format!("{variable}: “{text}” is not a number")))?;
            Value::Integer(number)
        } else if SWITCHES.contains(&key) {
            let switch = text
                .parse()
                .map_err(|_| ConfigError(format!("{variable}: “{text}” is not true or false")))?;
            Value::Boolean(switch)
        } else {
            Value::String(text)
        };
        match key.split_once('.') {
            None => table.insert(key.to_owned(), value),
            Some((section, key)) => {
                let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
                // A section that is no table is refused by its own name right after.
                section.as_table_mut().and_then(|section| section.insert(key.to_owned(), value))
            }
        };
    }
    Ok(())
}

fn env_name(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.replace('.', "_").to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Config::parse(text, environment).map_err(|e| e.to_string())
    }

    #[test]
    fn an_empty_file_is_fine() {
        let config = parse("", &[]).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:7701");
        assert_eq!(config.socket(), Path::new("/var/lib/berth-agent/agent.sock"));
        assert_eq!(config.network.gateway.to_string(), "10.77.0.1/24");
    }

    #[test]
    fn the_example_shows_every_key_with_its_default() {
        let example = include_str!("../agent.example.toml");
        let mut config = parse(example, &[]).unwrap();
        config.socket = None;
        assert_eq!(config, Config::default());
        for key in KEYS {
            let key = key.rsplit('.').next().unwrap();
            assert!(
                example.lines().any(|l| l.trim_start_matches("# ").starts_with(&format!("{key} = "))),
                "{key}"
            );
        }
    }

    #[test]
    fn the_environment_lies_over_the_file() {
        let file = "name = \"a\"\n[libvirt]\nuri = \"test:///default\"\n";
        let environment = [
            ("BERTH_AGENT_NAME", "b"),
            ("BERTH_AGENT_LIBVIRT_ACCELERATOR", "qemu"),
            ("BERTH_AGENT_SIMULATOR_DELAY_MS", "20"),
            ("BERTH_AGENT_CONFIG", "ignored"),
            ("HOME", "/root"),
        ];
        let config = parse(file, &environment).unwrap();
        assert_eq!(config.name, "b");
        assert_eq!(config.libvirt.uri, "test:///default");
        assert_eq!(config.libvirt.accelerator, Accelerator::Qemu);
        assert_eq!(config.simulator.delay_ms, 20);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("nmae = \"x\"", "nmae"),
            ("[libvirt]\nurl = \"x\"", "url"),
            ("listen = \"7701\"", "listen:"),
            ("hypervisor = \"xen\"", "hypervisor:"),
            ("[network]\nmode = \"vpn\"", "network.mode:"),
            ("[network]\ngateway = \"10.77.0.1\"", "network.gateway:"),
            ("[network]\nbridge = \"a/b\"", "network.bridge:"),
            ("data_dir = \"here\"", "data_dir:"),
            ("name = \"two words\"", "name:"),
            ("log = \"=,=\"", "log:"),
            ("libvirt = 3", "libvirt:"),
            ("[[pools]]\nname = \"a\"\nkind = \"directory\"\npath = \"here\"", "pools:"),
            ("[[pools]]\nname = \"default\"\nkind = \"directory\"\npath = \"/a\"", "pools:"),
            ("[[pools]]\nname = \"a\"\nkind = \"lvm_thin\"\ngroup = \"-x\"\nthin_pool = \"t\"", "pools:"),
            (
                "[[pools]]\nname = \"a\"\nkind = \"ceph_rbd\"\nmonitors = []\npool = \"p\"\nuser = \"u\"\nkeyring = \"/k\"",
                "pools:",
            ),
            (
                "[[pools]]\nname = \"a\"\nkind = \"ceph_rbd\"\nmonitors = [\"m\"]\npool = \"p/q\"\nuser = \"u\"\nkeyring = \"/k\"",
                "pools:",
            ),
            ("[[pools]]\nname = \"a/b\"\nkind = \"directory\"\npath = \"/a\"", "pools[0]"),
        ];
        for (file, named) in cases {
            let error = parse(file, &[]).unwrap_err();
            assert!(error.contains(named), "{file}: {error}");
        }
        assert!(parse("", &[("BERTH_AGENT_NMAE", "x")]).unwrap_err().contains("BERTH_AGENT_NMAE"));
        assert!(parse("", &[("BERTH_AGENT_SIMULATOR_DELAY_MS", "x")]).unwrap_err().contains("DELAY_MS"));
    }

    #[test]
    fn every_key_is_documented_and_taken() {
        let doc = include_str!("config.rs");
        for key in KEYS {
            let row = format!("//! | `{key}` | `{}` |", env_name(key));
            assert!(doc.contains(&row), "{row}");
            let value = match key {
                key if NUMBERS.contains(&key) => "1",
                key if SWITCHES.contains(&key) => "true",
                _ => "\u{0}",
            };
            // A key that serde does not know would be refused as unknown, not for its value.
            let error = parse("", &[(&env_name(key), value)]).map_or_else(|e| e, |_| String::new());
            assert!(!error.contains("unknown field"), "{key}: {error}");
        }
    }
}
