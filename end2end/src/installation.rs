//! A whole Berth, made for one test.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

use crate::own_machine::BRIDGE;
use crate::process::{Process, binary, run};
use crate::{Client, wait};

/// What runs the machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hypervisor {
    /// The agent's simulator.
    Simulator,
    /// libvirt and QEMU, with the tiny guest.
    Libvirt,
}

/// How the installation is made.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What runs the machines.
    pub hypervisor: Hypervisor,
    /// Control planes on the one database.
    pub planes: usize,
    /// Length of a job's lease in seconds: short, so that a test of a dead worker is short.
    pub lease_s: u32,
    /// Does it stand on [a machine of the test's own](crate::own_machine)? Then guests are on its bridge.
    pub on_own_machine: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { hypervisor: Hypervisor::Simulator, planes: 1, lease_s: 2, on_own_machine: false }
    }
}

/// A control plane of the installation.
#[derive(Debug)]
struct Plane {
    base: String,
    config: PathBuf,
    process: Option<Process>,
}

/// A whole Berth. Processes may be killed and started again.
#[derive(Debug)]
pub struct Installation {
    options: Options,
    /// Unique among all tests on the machine; names domains, databases and nodes.
    pub name: String,
    database: Database,
    planes: Vec<Plane>,
    agent: Option<Process>,
    agent_config: PathBuf,
    /// A read-write token of the customer's project.
    pub token: String,
    // Last: processes end before their folder goes.
    folder: TempDir,
}

const CATALOG: &str = include_str!("../catalog.toml");
const CUSTOMER: &str = "mara@larkspur.example";
/// The customer's password.
pub const PASSWORD: &str = "correct horse battery";

impl Installation {
    /// Makes and starts one.
    ///
    /// # Errors
    /// With what could not be made.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("berth-e2e-").tempdir()?;
        // libvirt's QEMU runs as another user and must be able to walk through.
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let name = folder.path().file_name().and_then(|n| n.to_str()).context("a folder's name")?;
        let name = name.to_lowercase().replace("berth-e2e-", "e2e").replace('.', "");
        let database = Database::create(&name).await?;
        let mut planes = Vec::new();
        for number in 0..options.planes {
            planes.push(plane_config(folder.path(), number, &database.url, options.lease_s)?);
        }
        let agent_config = folder.path().join("agent.toml");
        let mut made =
            Self { options, name, database, planes, agent: None, agent_config, token: String::new(), folder };
        made.furnish().await?;
        Ok(made)
    }

    async fn furnish(&mut self) -> anyhow::Result<()> {
        let image = self.image()?;
        let catalog = self.folder.path().join("catalog.toml");
        std::fs::write(&catalog, CATALOG)?;
        self.berth(&["migrate"], None)?;
        self.berth(&["catalog", "apply", path(&catalog)?], None)?;
        let about =
            ["--name", "tiny", "--description", "Tiny Linux", "--os-flavor", "tiny", "--os-version", "1"];
        self.berth(&[&["image", "add"], &about[..], &[path(&image)?]].concat(), None)?;
        if self.options.on_own_machine {
            let rescue =
                std::env::var("BERTH_TEST_RESCUE_IMAGE").context("BERTH_TEST_RESCUE_IMAGE is not set")?;
            self.berth(&["image", "rescue", &rescue], None)?;
        }
        let person =
            ["--email", CUSTOMER, "--name", "Mara Lindqvist", "--role", "customer", "--password-stdin"];
        self.berth(&[&["user", "add"], &person[..]].concat(), Some(PASSWORD))?;
        let token = ["--project-of", CUSTOMER, "--name", "test", "--access", "read_write"];
        self.token = self.berth(&[&["token", "create"], &token[..]].concat(), None)?;
        let enrol = self.berth(&["node", "add", "--name", &self.name, "--location", "rtm1"], None)?;
        for number in 0..self.planes.len() {
            self.plane_start(number, &[]).await?;
        }
        self.write_agent_config()?;
        let port = free_port()?;
        let config = path(&self.agent_config)?.to_owned();
        let text = std::fs::read_to_string(&self.agent_config)?.replace("PORT", &port.to_string());
        std::fs::write(&self.agent_config, text)?;
        let address = format!("https://127.0.0.1:{port}");
        let base = self.planes[0].base.clone();
        let args = ["enrol", "--config", &config, "--url", &base, "--token", &enrol, "--address", &address];
        run(&binary("berth-agent")?, &args, None)?;
        self.agent_start(&[]).await
    }

    fn write_agent_config(&self) -> anyhow::Result<()> {
        let folder = self.folder.path().display();
        let network = match self.options.on_own_machine {
            true => format!("mode = \"bridge\"\nbridge = \"{BRIDGE}\""),
            false => "mode = \"user\"".to_owned(),
        };
        let mut text =
            format!("name = \"{}\"\ndata_dir = \"{folder}/agent\"\nlisten = \"127.0.0.1:PORT\"\n", self.name);
        text += &match self.options.hypervisor {
            Hypervisor::Simulator => "hypervisor = \"simulator\"\n".to_owned(),
            Hypervisor::Libvirt => format!(
                "hypervisor = \"libvirt\"\n[libvirt]\naccelerator = \"qemu\"\nprefix = \"{}-\"\n[network]\n{network}\n",
                self.name
            ),
        };
        Ok(std::fs::write(&self.agent_config, text)?)
    }

    /// The tiny guest; for the simulator, which reads no disk, an empty image will do.
    fn image(&self) -> anyhow::Result<PathBuf> {
        if self.options.hypervisor == Hypervisor::Libvirt {
            return tiny_image();
        }
        let image = self.folder.path().join("empty.qcow2");
        run(Path::new("qemu-img"), &["create", "-q", "-f", "qcow2", path(&image)?, "1M"], None)?;
        Ok(image)
    }

    /// Runs a command of `berth` with the configuration of the first control plane.
    ///
    /// # Errors
    /// With what the command said.
    pub fn berth(&self, args: &[&str], input: Option<&str>) -> anyhow::Result<String> {
        let config = path(&self.planes[0].config)?;
        run(&binary("berth")?, &[args, &["--config", config]].concat(), input)
    }

    /// Runs a command of `berth-agent` on its unix socket.
    ///
    /// # Errors
    /// With what the command said.
    pub fn berth_agent(&self, args: &[&str]) -> anyhow::Result<String> {
        let config = path(&self.agent_config)?;
        run(&binary("berth-agent")?, &[args, &["--config", config]].concat(), None)
    }

    /// Starts a control plane that does not run, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not get ready; with its log.
    pub async fn plane_start(&mut self, number: usize, env: &[(&str, &str)]) -> anyhow::Result<()> {
        let log = self.folder.path().join(format!("plane-{number}.log"));
        let plane = &mut self.planes[number];
        let args = ["serve", "--config", path(&plane.config)?];
        let mut process = Process::start(&binary("berth")?, &args, env, &log)?;
        let ready = format!("{}/readyz", plane.base);
        let http = crate::client::http();
        while !http.get(&ready).send().await.is_ok_and(|r| r.status().is_success()) {
            anyhow::ensure!(!process.ended(), "the control plane ended:\n{}", process.log_tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        plane.process = Some(process);
        Ok(())
    }

    /// `kill -9` of a control plane; nothing if it does not run.
    pub fn plane_kill(&mut self, number: usize) {
        self.planes[number].process = None;
    }

    /// The process of a control plane.
    pub fn plane(&mut self, number: usize) -> Option<&mut Process> {
        self.planes[number].process.as_mut()
    }

    /// Starts the agent, and waits until it answers on its socket.
    ///
    /// # Errors
    /// When it does not; with its log.
    pub async fn agent_start(&mut self, env: &[(&str, &str)]) -> anyhow::Result<()> {
        let log = self.folder.path().join("agent.log");
        let args = ["serve", "--config", path(&self.agent_config)?];
        let mut process = Process::start(&binary("berth-agent")?, &args, env, &log)?;
        while self.berth_agent(&["node", "--json"]).is_err() {
            anyhow::ensure!(!process.ended(), "the agent ended:\n{}", process.log_tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.agent = Some(process);
        Ok(())
    }

    /// `kill -9` of the agent; nothing if it does not run.
    pub fn agent_kill(&mut self) {
        self.agent = None;
    }

    /// The process of the agent.
    pub fn agent(&mut self) -> Option<&mut Process> {
        self.agent.as_mut()
    }

    /// A customer's program at a control plane.
    pub fn client(&self, plane: usize) -> Client {
        Client::new(&self.planes[plane].base, &self.token)
    }

    /// Where a control plane listens: `http://127.0.0.1:PORT`.
    pub fn base(&self, plane: usize) -> &str {
        &self.planes[plane].base
    }

    /// The installation's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The address of the installation's database.
    pub fn database_url(&self) -> &str {
        &self.database.url
    }

    /// A connection to the installation's database, for looking behind the API.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn database(&self) -> anyhow::Result<PgConnection> {
        Ok(PgConnection::connect(&self.database.url).await?)
    }

    /// How many jobs a control plane has finished, by its own metrics.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn jobs_finished(&self, plane: usize) -> anyhow::Result<u64> {
        let page = crate::client::http().get(format!("{}/metrics", self.base(plane))).send().await?;
        let text = page.error_for_status()?.text().await?;
        let counts = text.lines().filter(|line| line.starts_with("berth_jobs_finished_total{"));
        counts.map(|line| Ok(line.rsplit(' ').next().unwrap_or_default().parse::<u64>()?)).sum()
    }

    /// Waits until the node is up in the control plane's eyes.
    ///
    /// # Errors
    /// When that does not happen.
    pub async fn node_up(&self) -> anyhow::Result<()> {
        let mut db = self.database().await?;
        let db = tokio::sync::Mutex::new(&mut db);
        wait::until("the node is up", || async {
            let mut db = db.lock().await;
            let state: String = sqlx::query_scalar("select state from nodes").fetch_one(&mut **db).await?;
            Ok((state == "up").then_some(()))
        })
        .await
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        for plane in &mut self.planes {
            plane.process = None;
        }
        if self.options.hypervisor == Hypervisor::Libvirt {
            remove_domains(&format!("{}-", self.name));
        }
        self.agent = None;
    }
}

impl Installation {
    /// The names of the installation's libvirt domains.
    ///
    /// # Errors
    /// When libvirt does not answer.
    pub fn domains(&self) -> anyhow::Result<Vec<String>> {
        let names = run(Path::new("virsh"), &["-q", "list", "--all", "--name"], None)?;
        let own = format!("{}-", self.name);
        Ok(names.lines().filter(|n| n.starts_with(&own)).map(str::to_owned).collect())
    }
}

fn plane_config(folder: &Path, number: usize, database_url: &str, lease_s: u32) -> anyhow::Result<Plane> {
    let base = format!("http://127.0.0.1:{}", free_port()?);
    let config = folder.join(format!("plane-{number}.toml"));
    let listen = base.trim_start_matches("http://");
    // One data folder for all: they share the secret key and the images, as on shared storage.
    let app = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/dist");
    let app = if app.is_dir() { format!("app_dir = \"{}\"\n", app.display()) } else { String::new() };
    let text = format!(
        "{app}listen = \"{listen}\"\npublic_url = \"{base}\"\ndata_dir = \"{}/data\"\ndatabase_url = \"{database_url}\"\n\
         job_lease_seconds = {lease_s}\nrate_limit_per_hour = 0\n",
        folder.display()
    );
    std::fs::write(&config, text)?;
    Ok(Plane { base, config, process: None })
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path in UTF-8")
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Domains outlive the agent by design, so a test has to remove them by name.
pub(crate) fn remove_domains(prefix: &str) {
    let virsh = Path::new("virsh");
    let Ok(names) = run(virsh, &["-q", "list", "--all", "--name"], None) else { return };
    for name in names.lines().filter(|name| name.starts_with(prefix)) {
        let _off_already = run(virsh, &["-q", "destroy", name], None);
        let _gone_already = run(virsh, &["-q", "undefine", name], None);
    }
}

/// The tiny guest, as `cargo xtask images` left it.
///
/// # Errors
/// When it has not been built.
pub fn tiny_image() -> anyhow::Result<PathBuf> {
    let image = match std::env::var_os("BERTH_TINY_IMAGE") {
        Some(image) => PathBuf::from(image),
        None => {
            let home = std::env::var_os("HOME").context("HOME is set")?;
            Path::new(&home).join(".cache/berth/images/tiny.qcow2")
        }
    };
    anyhow::ensure!(image.is_file(), "{} is missing: run `cargo xtask images`", image.display());
    Ok(image)
}

/// A database of one installation, dropped with it.
#[derive(Debug)]
struct Database {
    name: String,
    server: String,
    url: String,
}

impl Database {
    async fn create(name: &str) -> anyhow::Result<Self> {
        let server = std::env::var("BERTH_TEST_DATABASE_URL")
            .context("BERTH_TEST_DATABASE_URL is not set: run this through `cargo xtask test end2end`")?;
        let mut db = PgConnection::connect(&server).await?;
        sqlx::query(sqlx::AssertSqlSafe(format!("create database {name}"))).execute(&mut db).await?;
        let (base, query) = server.split_once('?').unwrap_or((&server, ""));
        let (base, _) = base.rsplit_once('/').context("a database URL with a path")?;
        let url = format!("{base}/{name}?{query}");
        Ok(Self { name: name.to_owned(), server, url })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // A thread of its own: drop may run inside a runtime, which must not be blocked on itself.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut db = PgConnection::connect(&server).await?;
                let sql = format!("drop database if exists {name} with (force)");
                sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut db).await?;
                anyhow::Ok(())
            })
        });
        let _best_effort = dropped.join();
    }
}
