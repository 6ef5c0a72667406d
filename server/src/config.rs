//! The settings: one TOML file, and the environment over it.
//!
//! A setting `listen` is the key `listen` of the file and `BERTH_LISTEN` in the environment, which
//! wins. An unknown key, an unknown `BERTH_…` and a value that cannot be right are refused at start,
//! by name. `berth config` prints every key with its meaning and default.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_model::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Value;

use crate::catalog::pricing::OtherPrices;
use crate::http::{Network, Origin};
use crate::nodes::Grants;
use crate::quotas::Limits;
use crate::secret::Secret;

/// `BERTH_…` names in the environment that are no settings of the control plane: the settings file
/// itself, fault points, and what scripts, tests and the agent use.
const OTHER_NAMES: [&str; 13] = [
    "BERTH_CONFIG",
    "BERTH_FAULTS",
    "BERTH_URL",
    "BERTH_TOKEN",
    "BERTH_TEST_",
    "BERTH_AGENT_",
    "BERTH_OWNER_",
    "BERTH_STAFF_",
    "BERTH_CUSTOMER_",
    "BERTH_TINY_",
    "BERTH_DEBIAN_",
    "BERTH_NODE_MODULES",
    "BERTH_CHROMIUM",
];

/// One setting, for the reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its key in the file.
    pub name: &'static str,
    /// What it means.
    pub doc: String,
    /// Its value when nobody says, as TOML; empty when there is none.
    pub default: &'static str,
}

/// Why the settings were refused; the sentence names the key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct ConfigError(String);

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:literal,)+) => {
        /// The settings of the control plane.
        #[derive(Debug, Clone)]
        pub struct Config {
            $($(#[doc = $doc])+ pub $name: $type,)+
        }

        impl Config {
            /// All settings with their meaning and default, in the order of the reference.
            pub fn keys() -> Vec<Key> {
                vec![$(Key {
                    name: stringify!($name),
                    doc: [$($doc),+].map(str::trim).join(" "),
                    default: $default,
                },)+]
            }

            fn read(source: &Source) -> Result<Self, ConfigError> {
                source.refuse_unknown()?;
                Ok(Self { $($name: source.get::<$type>(stringify!($name), $default)?,)+ })
            }
        }
    };
}

settings! {
    /// Address and port to serve on; port 0 takes a free one.
    listen: SocketAddr = "\"127.0.0.1:7700\"",
    /// Where people reach this installation, without a path: `https://cloud.example.org`. Cookies are
    /// for HTTPS only when it begins so. Without it, `http://` and `listen`.
    public_url: Option<Origin> = "",
    /// Folder for images, the private PostgreSQL and the secret key. Control planes on one database
    /// share its images and its key.
    data_dir: PathBuf = "\"/var/lib/berth\"",
    /// Folder with the built web app. When it does not exist, only the API is served.
    app_dir: PathBuf = "\"/usr/share/berth/app\"",
    /// PostgreSQL to use: `postgres://user:password@host/database`. Without it, a private cluster in
    /// `data_dir`.
    database_url: Option<Secret<String>> = "",
    /// Most connections to the database; 4 to 500.
    database_connections: u32 = "20",
    /// Folder with `postgres` and `initdb` for the private cluster. Without it, the newest below
    /// `/usr/lib/postgresql`, or those on `PATH`.
    postgres_bin_dir: Option<PathBuf> = "",
    /// File with the key that seals secrets in the database: 64 hex digits, for the owner's eyes only.
    /// Made when it is missing. Without this setting, `secret.key` in `data_dir`. Keep a copy: without
    /// it, nodes must be enrolled anew.
    secret_key_file: Option<PathBuf> = "",
    /// Jobs that a customer waits for, worked on at once; 0 to 64. 0 leaves them to another control plane.
    /// At most a quarter of them, but one in any case, sends an image to a node.
    workers_interactive: u16 = "16",
    /// Other jobs, worked on at once; 0 to 64. As many of each sort: in the background, telling nodes of changes,
    /// images, backups. 0 leaves them and sending to webhooks to another control plane.
    workers_background: u16 = "4",
    /// Seconds until a job of a worker that died goes on elsewhere; 2 to 30.
    job_lease_seconds: u64 = "15",
    /// Seconds that a node's own lease lives without being renewed; 10 to 3600, or 0: nodes hold none. The
    /// same on all control planes of one database.
    node_lease_seconds: u32 = "30",
    /// Seconds after its lease's end until a node powers off its VMs that are marked for failover; 0 to
    /// 3600.
    node_fence_seconds: u32 = "30",
    /// Seconds a session lives without being used; 60 to 31536000 (a year).
    session_lifetime_seconds: u32 = "2592000",
    /// Proxies whose `X-Forwarded-For` is believed, as addresses or networks: `["10.0.0.0/8"]`.
    trusted_proxies: Vec<Network> = "[]",
    /// Seconds until a request is given up; 1 to 600. Uploads and WebSockets are not bound by it.
    request_timeout_seconds: u64 = "30",
    /// Requests that one token or session may send in an hour; they come back evenly. 0: no limit.
    rate_limit_per_hour: u32 = "3600",
    /// Most of each kind in one project, unless staff set another limit: `{ servers = 5, cores = 20 }`. The
    /// kinds stand in `GET /v1/limits`. One that is not named: servers, volumes, snapshots, networks, firewalls,
    /// placement_groups and certificates 100, primary_ips 200, cores 400, memory_mib 1048576, volume_gib
    /// 102400, floating_ips 20, ssh_keys 200, webhooks 10.
    project_limits: Limits = "{}",
    /// Most of each kind in all projects of one account, in the same form. One that is not named: four times
    /// what one project may have.
    account_limits: Limits = "{}",
    /// Prices of what stands in no catalog, without tax, as decimal text in the catalog's currency:
    /// `{ image_gb_month = "0.0119", server_backup_percent = "20" }`. Also: volume_gb_month,
    /// floating_ipv4_month, floating_ipv6_month, primary_ipv4_hour, primary_ipv4_month,
    /// primary_ipv6_hour, primary_ipv6_month. What is not named is free.
    prices: OtherPrices = "{}",
    /// Name servers that new servers are told to ask.
    name_servers: Vec<IpAddr> = "[\"9.9.9.9\", \"149.112.112.112\", \"2620:fe::fe\"]",
    /// Seconds until a public address that was given back is handed to another; 0 to 2592000 (30
    /// days).
    address_cool_down_seconds: u32 = "300",
    /// Networks that webhooks may reach although they are not public: `["10.20.0.0/16"]`.
    webhook_networks: Vec<Network> = "[]",
    /// Address and port for `/metrics` alone. Without it, `/metrics` is on `listen`, for this machine
    /// only.
    metrics_listen: Option<SocketAddr> = "",
    /// What is logged: `info`, or per module, `info,berth_server=debug`.
    log: String = "\"info,sqlx::postgres::notice=warn\"",
    /// How it is logged: `text`, `json`, or `auto`: text on a terminal, else JSON.
    log_format: LogFormat = "\"auto\"",
}

/// How lines of the log look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Config {
    /// Reads the file, if one is given, and the environment over it.
    ///
    /// # Errors
    /// A sentence that names the key that is wrong.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let text = match file {
            Some(path) => std::fs::read_to_string(path).map_err(|error| {
                ConfigError(format!("The settings file {} cannot be read: {error}.", path.display()))
            })?,
            None => String::new(),
        };
        Self::from_text(&text, environment)
    }

    /// Reads TOML and the environment over it.
    ///
    /// # Errors
    /// A sentence that names the key that is wrong.
    pub fn from_text(
        toml: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let file =
            toml.parse().map_err(|error| ConfigError(format!("The settings file is not TOML: {error}")))?;
        let environment = environment.into_iter().filter(|(name, _)| name.starts_with("BERTH_")).collect();
        let config = Self::read(&Source { file, environment })?;
        config.check()?;
        Ok(config)
    }

    /// What the types alone do not refuse.
    fn check(&self) -> Result<(), ConfigError> {
        let ranges = [
            ("database_connections", u64::from(self.database_connections), 4, 500),
            ("workers_interactive", u64::from(self.workers_interactive), 0, 64),
            ("workers_background", u64::from(self.workers_background), 0, 64),
            ("job_lease_seconds", self.job_lease_seconds, 2, 30),
            ("node_lease_seconds", u64::from(self.node_lease_seconds), 0, 3600),
            ("node_fence_seconds", u64::from(self.node_fence_seconds), 0, 3600),
            ("address_cool_down_seconds", u64::from(self.address_cool_down_seconds), 0, 2_592_000),
            ("session_lifetime_seconds", u64::from(self.session_lifetime_seconds), 60, 31_536_000),
            ("request_timeout_seconds", self.request_timeout_seconds, 1, 600),
        ];
        for (name, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                return Err(ConfigError(format!(
                    "The setting “{name}” must be {least} to {most}, not {value}."
                )));
            }
        }
        if (1..10).contains(&self.node_lease_seconds) {
            let message = "The setting “node_lease_seconds” must be 10 or more, or 0 for none.";
            return Err(ConfigError(message.to_owned()));
        }
        if let Err(error) = self.log.parse::<tracing_subscriber::EnvFilter>() {
            return Err(ConfigError(format!("The setting “log” is wrong: {error}.")));
        }
        if let Some(url) = &self.database_url
            && crate::db::options(url).is_err()
        {
            // The cause could repeat the password.
            return Err(ConfigError(
                "The setting “database_url” must be like postgres://user@host/database.".into(),
            ));
        }
        Ok(())
    }

    /// Where people reach this installation.
    pub fn origin(&self) -> Origin {
        self.public_url.clone().unwrap_or_else(|| Origin::of_listener(self.listen))
    }

    /// The file with the key that seals secrets.
    pub fn secret_key_path(&self) -> PathBuf {
        self.secret_key_file.clone().unwrap_or_else(|| self.data_dir.join("secret.key"))
    }

    /// An address that was given back after this is not handed out now.
    pub fn addresses_cooled_by(&self, now: Timestamp) -> Timestamp {
        now.plus_seconds(-i64::from(self.address_cool_down_seconds))
    }

    /// How long a session lives without being used.
    pub fn session_lifetime(&self) -> Duration {
        Duration::from_secs(self.session_lifetime_seconds.into())
    }

    /// After this a request is given up.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout_seconds)
    }

    /// What nodes are granted.
    pub fn grants(&self) -> Grants {
        match self.node_lease_seconds {
            0 => Grants::NONE,
            ttl_s => Grants { ttl_s, fence_after_s: self.node_fence_seconds },
        }
    }

    /// Images sent to nodes at once: most jobs that a customer waits for must not wait for these.
    pub fn uploads_max(&self) -> usize {
        usize::from(self.workers_interactive / 4).max(1)
    }

    /// After this a dead worker's job goes on elsewhere.
    pub fn job_lease(&self) -> Duration {
        Duration::from_secs(self.job_lease_seconds)
    }

    /// All settings as a commented TOML file.
    pub fn reference() -> String {
        let mut text = String::from(
            "# Settings of Berth. A setting `listen` is BERTH_LISTEN in the environment, which wins.\n",
        );
        for Key { name, doc, default } in Self::keys() {
            let line =
                if default.is_empty() { format!("# {name} =") } else { format!("# {name} = {default}") };
            // Writing to a String cannot fail.
            let _ = write!(text, "\n{}\n{line}\n", wrap(&doc, 98));
        }
        text
    }
}

/// Breaks a text into commented lines of at most `width` characters.
fn wrap(text: &str, width: usize) -> String {
    let (mut lines, mut line) = (Vec::new(), String::from("#"));
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::replace(&mut line, "#".into()));
        }
        line.push(' ');
        line.push_str(word);
    }
    lines.push(line);
    lines.join("\n")
}

/// Where the values of settings come from.
struct Source {
    file: toml::Table,
    environment: Vec<(String, String)>,
}

impl Source {
    fn refuse_unknown(&self) -> Result<(), ConfigError> {
        let keys: Vec<_> = Config::keys().iter().map(|key| key.name).collect();
        if let Some(name) = self.file.keys().find(|name| !keys.contains(&name.as_str())) {
            return Err(ConfigError(format!("There is no setting “{name}”. `berth config` lists them.")));
        }
        let unknown = |name: &String| {
            !keys.iter().any(|key| *name == environment_name(key))
                && !OTHER_NAMES.iter().any(|other| match other.strip_suffix('_') {
                    Some(_) => name.starts_with(other),
                    None => name == other,
                })
        };
        match self.environment.iter().map(|(name, _)| name).find(|name| unknown(name)) {
            Some(name) => Err(ConfigError(format!(
                "There is no setting “{name}” (in the environment). `berth config` lists them."
            ))),
            None => Ok(()),
        }
    }

    fn get<T: DeserializeOwned>(&self, name: &str, default: &str) -> Result<T, ConfigError> {
        let wrong = |place: &str, error: toml::de::Error| {
            ConfigError(format!("The setting “{place}” is wrong: {}.", error.message().trim_end_matches('.')))
        };
        let variable = environment_name(name);
        if let Some((_, text)) = self.environment.iter().find(|(key, _)| *key == variable) {
            // A text needs no quotes there; a number or a list is written as in the file.
            return Value::String(text.clone()).try_into().or_else(|error| match toml_value(text) {
                Some(value) => value.try_into().map_err(|error| wrong(&variable, error)),
                None => Err(wrong(&variable, error)),
            });
        }
        if let Some(value) = self.file.get(name) {
            return value.clone().try_into().map_err(|error| wrong(name, error));
        }
        match toml_value(default) {
            Some(value) => value.try_into().map_err(|error| wrong(name, error)),
            // No default: an optional setting. Only an absent field makes a `None` in TOML.
            None => absent().map_err(|error| wrong(name, error)),
        }
    }
}

fn environment_name(key: &str) -> String {
    format!("BERTH_{}", key.to_uppercase())
}

fn toml_value(text: &str) -> Option<Value> {
    let mut table: toml::Table = format!("value = {text}").parse().ok()?;
    table.remove("value")
}

fn absent<T: DeserializeOwned>() -> Result<T, toml::de::Error> {
    // serde reads a field that is absent as `None`; a required one as "missing field".
    #[derive(Deserialize)]
    struct Empty<T> {
        #[serde(bound(deserialize = "T: serde::de::Deserialize<'de>"))]
        value: T,
    }
    toml::from_str::<Empty<T>>("").map(|empty| empty.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(toml: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_text(toml, environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
    }

    fn refused(toml: &str, environment: &[(&str, &str)]) -> String {
        load(toml, environment).expect_err("these settings are wrong").to_string()
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_file_over_the_default() {
        let config = load("", &[]).expect("defaults");
        assert_eq!(config.listen.port(), 7700);
        assert_eq!(config.database_url.as_ref().map(Secret::expose), None);
        let file = "listen = \"0.0.0.0:80\"\nworkers_interactive = 9\ntrusted_proxies = [\"10.0.0.0/8\"]";
        let environment = [
            ("BERTH_LISTEN", "127.0.0.1:0"),
            ("BERTH_WORKERS_BACKGROUND", "0"),
            ("BERTH_DATABASE_URL", "postgres:///x"),
            ("BERTH_LOG_FORMAT", "json"),
            ("PATH", "/bin"),
        ];
        let config = load(file, &environment).expect("good settings");
        assert_eq!((config.listen.port(), config.workers_interactive, config.workers_background), (0, 9, 0));
        assert_eq!(config.trusted_proxies.len(), 1);
        assert_eq!(config.log_format, LogFormat::Json);
    }

    #[test]
    fn a_wrong_key_or_value_is_refused_by_name() {
        assert!(refused("lissten = 1", &[]).contains("“lissten”"));
        assert!(refused("listen = 1", &[]).contains("“listen”"));
        assert!(refused("listen = \"nowhere\"", &[]).contains("“listen”"));
        assert!(refused("job_lease_seconds = 31", &[]).contains("“job_lease_seconds” must be 2 to 30"));
        assert!(refused("workers_interactive = -1", &[]).contains("“workers_interactive”"));
        assert!(refused("public_url = \"cloud.example.org\"", &[]).contains("“public_url”"));
        assert!(refused("log_format = \"xml\"", &[]).contains("“log_format”"));
        assert!(refused("log = \"berth=loud\"", &[]).contains("“log”"));
        assert!(refused("trusted_proxies = [\"10.0.0.0/33\"]", &[]).contains("“trusted_proxies”"));
        assert!(refused("listen", &[]).contains("not TOML"));
        assert!(refused("", &[("BERTH_LISTN", "1")]).contains("“BERTH_LISTN”"));
        assert!(
            refused("", &[("BERTH_WORKERS_INTERACTIVE", "many")]).contains("“BERTH_WORKERS_INTERACTIVE”")
        );
        assert!(load("", &[("BERTH_TEST_DATABASE_URL", "x"), ("BERTH_FAULTS", "x")]).is_ok());
    }

    #[test]
    fn a_password_in_the_database_url_is_not_repeated() {
        let message = refused("database_url = \"mysql://root:hunter2@db\"", &[]);
        assert!(message.contains("“database_url”") && !message.contains("hunter2"), "{message}");
        let config = load("database_url = \"postgres://root:hunter2@db/x\"", &[]).expect("good settings");
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn every_setting_is_in_the_reference_and_its_defaults_are_good() {
        let reference = Config::reference();
        for key in Config::keys() {
            assert!(reference.contains(&format!("# {} =", key.name)), "{}", key.name);
            assert!(!key.doc.is_empty() && key.doc.ends_with('.'), "{}: {}", key.name, key.doc);
        }
        let lines = reference.lines().filter_map(|line| line.strip_prefix("# "));
        let defaults: Vec<_> = lines
            .filter(|line| Config::keys().iter().any(|key| line.starts_with(&format!("{} = ", key.name))))
            .collect();
        assert!(defaults.len() > 5);
        load(&defaults.join("\n"), &[]).expect("the reference is a good file once it is uncommented");
    }
}
