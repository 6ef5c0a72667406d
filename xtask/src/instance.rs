//! A running Berth: its folders, its names, its programs.
//!
//! ```text
//! target/up/                 settings, logs, env, what runs (running.json), what is done (demo.json)
//! /var/lib/berth/up-KEY/     control/: the control plane's data; node/: the agent's, and the guests' disks
//! ```
//!
//! KEY comes from the folder's path, and with it the names of machines and of the bridge: two checkouts do not
//! meet. The data does not stand in the checkout, because PostgreSQL's and QEMU's users could not walk through
//! a home folder.

use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::daemon::{self, Daemon, Start};
use crate::demo::{self, CUSTOMER, Demo, PEOPLE};
use crate::place::{Place, text};
use crate::progress::Step;
use crate::{images, libvirt, shell};

/// The node's name, and where it is.
const NODE: &str = "n1";
const LOCATION: &str = "rtm1";
const CONTROL_PLANE: &str = "control plane";
const AGENT: &str = "agent";
const ENDING: &str = "ending.json";
/// The first start makes a database; and the machine may be slow.
const READY_MAX: Duration = Duration::from_secs(120);

/// A Berth that runs, or could.
#[derive(Debug)]
pub struct Instance {
    place: Place,
    /// `target/up`.
    pub folder: PathBuf,
    data: PathBuf,
    key: String,
}

/// What runs, as it is written down.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Running {
    /// Where people reach it.
    pub url: String,
    /// In the order in which they were started.
    pub daemons: Vec<Daemon>,
}

/// Where it listens, on this machine only.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// The control plane.
    pub control: u16,
    /// The agent.
    pub agent: u16,
}

impl Instance {
    /// The one that lives in `target/NAME`.
    pub fn new(place: &Place, name: &str) -> Self {
        let folder = place.target.join(name);
        let key = hex::encode(&Sha256::digest(folder.as_os_str().as_encoded_bytes())[..3]);
        let data = Path::new("/var/lib/berth").join(format!("up-{key}"));
        Self { place: place.clone(), folder, data, key }
    }

    /// Names of its machines and networks begin so.
    fn prefix(&self) -> String {
        format!("berth-{}-", self.key)
    }

    /// At most 15 characters, as Linux wants.
    fn bridge(&self) -> String {
        format!("berth-{}", self.key)
    }

    fn url(ports: Ports) -> String {
        format!("http://127.0.0.1:{}", ports.control)
    }

    fn config(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.toml"))
    }

    /// The log of one of its programs.
    pub fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{}.log", name.replace(' ', "-")))
    }

    /// What is done of the demo.
    pub fn demo(&self) -> Result<Demo> {
        Demo::load(self.folder.join("demo.json"))
    }

    /// What is written down as running.
    pub fn running(&self) -> Running {
        self.read_running("running.json")
    }

    fn read_running(&self, file: &str) -> Running {
        let text = std::fs::read(self.folder.join(file)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn write_running(&self, running: &Running) -> Result<()> {
        demo::write_private(&self.folder.join("running.json"), &serde_json::to_string_pretty(running)?)
    }

    /// Both programs run.
    pub fn is_up(&self) -> bool {
        let daemons = self.running().daemons;
        [CONTROL_PLANE, AGENT].iter().all(|name| daemons.iter().any(|d| d.name == *name && d.is_alive()))
    }

    /// Does one of its programs run?
    pub fn runs(&self, name: &str) -> bool {
        self.running().daemons.iter().any(|daemon| daemon.name == name && daemon.is_alive())
    }

    /// Programs that should run and do not.
    pub fn ended(&self) -> Vec<&'static str> {
        [CONTROL_PLANE, AGENT].into_iter().filter(|name| !self.runs(name)).collect()
    }

    /// Makes folders and settings.
    pub fn prepare(&self, ports: Ports) -> Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let owner = std::fs::metadata(&self.folder)?;
        let owner = format!("{}:{}", owner.uid(), owner.gid());
        let control = self.data.join("control");
        let (control, node) = (text(&control)?.to_owned(), self.data.join("node"));
        let script =
            "mkdir -p \"$1\" \"$2\" && chmod 755 \"$(dirname \"$1\")\" \"$1\" && chown \"$3\" \"$1\"";
        shell::output(shell::root_command("sh").args(["-c", script, "sh", &control, text(&node)?, &owner]))?;
        let network = self.network()?;
        std::fs::write(self.config("berth"), self.berth_toml(ports)?)?;
        std::fs::write(self.config("agent"), self.agent_toml(ports, network)?)?;
        let catalog = std::fs::read_to_string(self.place.root.join("xtask/demo/catalog.toml"))?;
        Ok(std::fs::write(self.config("catalog"), in_network(&catalog, network))?)
    }

    fn berth_toml(&self, ports: Ports) -> Result<String> {
        let (data, app) = (self.data.join("control"), self.place.app());
        Ok(format!(
            "listen = \"127.0.0.1:{}\"\npublic_url = {:?}\ndata_dir = {:?}\napp_dir = {:?}\nlog_format = \"text\"\n",
            ports.control,
            Self::url(ports),
            text(&data)?,
            text(&app)?,
        ))
    }

    fn agent_toml(&self, ports: Ports, network: u8) -> Result<String> {
        let images = self.place.images();
        Ok(format!(
            "name = {NODE:?}\ndata_dir = {:?}\nlisten = \"127.0.0.1:{}\"\nhypervisor = \"libvirt\"\nlog_format = \"text\"\n\n\
             [libvirt]\naccelerator = \"auto\"\nprefix = {:?}\nprobe_kernel = {:?}\nprobe_initrd = {:?}\n\n\
             [network]\nmode = \"nat\"\nbridge = {:?}\ngateway = \"10.77.{network}.1/24\"\n",
            text(&self.data.join("node"))?,
            ports.agent,
            self.prefix(),
            text(&images.join("tiny.vmlinuz"))?,
            text(&images.join("tiny.initrd"))?,
            self.bridge(),
        ))
    }

    /// The third number of its network 10.77.N.0/24: kept once chosen, and not in use by anybody else.
    fn network(&self) -> Result<u8> {
        let file = self.folder.join("network");
        if let Some(kept) = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok()) {
            return Ok(kept);
        }
        let used = shell::output(shell::command("ip").args(["-4", "-o", "route", "show", "table", "all"]))?;
        let first = u8::from_str_radix(&self.key[..2], 16)?;
        let network = free_network(first, &used).context(
            "All networks from 10.77.0.0/24 to 10.77.255.0/24 are in use on this machine: free one.",
        )?;
        std::fs::write(file, network.to_string())?;
        Ok(network)
    }

    /// Starts libvirt's daemons if none run.
    pub fn start_libvirt(&self) -> Result<String> {
        let started = libvirt::start()?;
        let note = if started.is_empty() { "it runs already" } else { "" };
        let mut running = self.running();
        // First in the order, and so the last to end.
        running.daemons.splice(0..0, started);
        self.write_running(&running)?;
        Ok(note.to_owned())
    }

    /// Starts the control plane, unless it runs.
    pub fn start_control_plane(&self, ports: Ports) -> Result<String> {
        let (program, config) = (self.place.program("berth"), self.config("berth"));
        let command = [text(&program)?, "serve", "--config", text(&config)?];
        self.start(CONTROL_PLANE, &command, false, &Self::url(ports), || answers(ports.control))
    }

    /// Starts the agent, unless it runs.
    pub fn start_agent(&self, ports: Ports) -> Result<String> {
        let (program, config) = (self.place.program("berth-agent"), self.config("agent"));
        let (program, config) = (text(&program)?, text(&config)?);
        let command = [program, "serve", "--config", config];
        let ready =
            || shell::succeeds(shell::root_command(program).args(["node", "--json", "--config", config]));
        self.start(AGENT, &command, true, &Self::url(ports), ready)
    }

    fn start(
        &self,
        name: &str,
        command: &[&str],
        root: bool,
        url: &str,
        ready: impl FnMut() -> bool,
    ) -> Result<String> {
        if self.runs(name) {
            return Ok("it runs already".to_owned());
        }
        let log = self.log(name);
        let daemon = Daemon::start(&Start { name, command, log: &log, root })?;
        let mut running = self.running();
        url.clone_into(&mut running.url);
        running.daemons.retain(|other| other.name != name);
        running.daemons.push(daemon.clone());
        self.write_running(&running)?;
        daemon::wait_ready(&daemon, &log, READY_MAX, ready)?;
        Ok(String::new())
    }

    /// Catalogue, people, images, token: what is not there yet.
    pub fn furnish(&self, step: &Step, ports: Ports) -> Result<String> {
        let mut demo = self.demo()?;
        let mut added = Vec::new();
        step.say("catalogue");
        self.berth(&["catalog", "apply", text(&self.config("catalog"))?], "")?;
        for person in PEOPLE {
            if !demo.passwords.contains_key(person.role) {
                step.say(person.name);
                let password = demo::password()?;
                let about = ["--email", person.email, "--name", person.name, "--role", person.role];
                self.berth(&[&["user", "add"], &about[..], &["--password-stdin"]].concat(), &password)?;
                demo.passwords.insert(person.role.to_owned(), password);
                demo.save()?;
                added.push(person.role.to_owned());
            }
        }
        if demo.token.is_none() {
            let about = ["--project-of", CUSTOMER.email, "--name", "demo", "--access", "read_write"];
            demo.token = Some(self.berth(&[&["token", "create"], &about[..]].concat(), "")?);
            demo.save()?;
        }
        for guest in images::GUESTS {
            let about = images::about(&self.place, guest.name)?;
            if demo.images.get(guest.name) != Some(&about.sha256) {
                step.say(&format!("image {}", guest.name));
                let words = ["--name", guest.name, "--description", guest.description];
                let words = [&words[..], &["--os-flavor", guest.os_flavor, "--os-version", guest.os_version]]
                    .concat();
                let disk = images::disk(&self.place, guest.name);
                self.berth(&[&["image", "add"], &words[..], &[text(&disk)?]].concat(), "")?;
                demo.images.insert(guest.name.to_owned(), about.sha256);
                demo.save()?;
                added.push(guest.name.to_owned());
            }
        }
        demo::write_private(&self.folder.join("env"), &demo.env(&Self::url(ports)))?;
        Ok(if added.is_empty() { "they are there".to_owned() } else { added.join(", ") })
    }

    /// Enrols the agent, unless it is.
    pub fn enrol(&self, ports: Ports) -> Result<String> {
        let mut demo = self.demo()?;
        if demo.agent_port == Some(ports.agent) {
            return Ok("it is enrolled".to_owned());
        }
        // Also when the agent moved to another port, or a start was cut off here.
        let token = self
            .berth(&["node", "add", "--name", NODE, "--location", LOCATION], "")
            .or_else(|error| self.berth(&["node", "token", NODE], "").map_err(|_| error))?;
        let (config, address) = (self.config("agent"), format!("https://127.0.0.1:{}", ports.agent));
        let mut enrol = shell::root_command(text(&self.place.program("berth-agent"))?);
        enrol.args(["enrol", "--config", text(&config)?, "--url", &Self::url(ports), "--address", &address]);
        shell::output(enrol.args(["--force", "--token", &token]))?;
        demo.agent_port = Some(ports.agent);
        demo.save()?;
        Ok(String::new())
    }

    /// Runs a command of `berth` with this installation's settings and gives back what it prints.
    fn berth(&self, arguments: &[&str], input: &str) -> Result<String> {
        use std::io::Write as _;
        let mut command = shell::command(self.place.program("berth"));
        command.args(arguments).arg("--config").arg(self.config("berth"));
        let shown = format!("berth {}", arguments.iter().take(2).copied().collect::<Vec<_>>().join(" "));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context(shown.clone())?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that wants no input may have ended by now.
            drop(stdin.write_all(input.as_bytes()));
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "{shown} failed ({}):\n{}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim_end()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Ends what was started, the last first: agent, control plane, the machines, libvirt's daemons.
    pub fn end(&self) -> Result<()> {
        let ending = self.begin_end()?;
        let (ours, libvirts): (Vec<_>, Vec<_>) =
            ending.daemons.iter().partition(|daemon| [CONTROL_PLANE, AGENT].contains(&daemon.name.as_str()));
        let mut ended: Vec<_> = ours.iter().rev().map(|daemon| daemon.end()).collect();
        // Those that were started here: by the prefix of their names.
        if shell::which("virsh").is_some() && libvirt::answers() {
            ended.push(libvirt::stop_machines(&self.prefix()));
        }
        ended.extend(libvirts.iter().rev().map(|daemon| daemon.end()));
        ended.into_iter().collect::<Result<()>>()?;
        drop(std::fs::remove_file(self.folder.join(ENDING)));
        Ok(())
    }

    /// What should run becomes what should end, at once: whoever watches over it must not start it again.
    fn begin_end(&self) -> Result<Running> {
        let mut ending = self.running();
        // An end that was cut off goes on.
        ending.daemons.splice(0..0, self.read_running(ENDING).daemons);
        if !ending.daemons.is_empty() {
            demo::write_private(&self.folder.join(ENDING), &serde_json::to_string_pretty(&ending)?)?;
            drop(std::fs::remove_file(self.folder.join("running.json")));
        }
        Ok(ending)
    }

    /// Removes all of it: programs, machines, data.
    pub fn remove(&self) -> Result<()> {
        if shell::which("virsh").is_some() && self.data.exists() {
            let started = libvirt::start()?;
            self.end()?;
            let removed = libvirt::remove_machines(&self.prefix());
            for daemon in started.iter().rev() {
                daemon.end()?;
            }
            removed?;
        }
        self.end()?;
        shell::output(shell::root_command("rm").arg("-rf").arg(&self.data).arg(&self.folder)).map(drop)
    }
}

/// Does the control plane say that it is ready? One request, by hand: the answer's first line is enough.
fn answers(port: u16) -> bool {
    use std::io::{Read as _, Write as _};
    let ask = || -> std::io::Result<bool> {
        let mut stream = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(head.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

/// The first network, from the wished one on, that no route speaks of.
fn free_network(first: u8, routes: &str) -> Option<u8> {
    let is_free = |n: u8| {
        !routes.contains(&format!(" 10.77.{n}."))
            && !routes.contains(&format!("\n10.77.{n}."))
            && !routes.starts_with(&format!("10.77.{n}."))
    };
    (0..=u8::MAX).map(|step| first.wrapping_add(step)).find(|n| is_free(*n))
}

fn in_network(catalog: &str, network: u8) -> String {
    catalog.replace("\"10.77.0.", &format!("\"10.77.{network}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(root: &str) -> Place {
        Place { root: root.into(), target: Path::new(root).join("target"), cache: "/c".into() }
    }

    #[test]
    fn two_checkouts_do_not_meet() {
        let (one, two) = (Instance::new(&place("/one"), "up"), Instance::new(&place("/two"), "up"));
        assert_ne!((one.prefix(), one.bridge()), (two.prefix(), two.bridge()));
        assert_ne!(one.data, two.data);
        assert!(one.bridge().len() <= 15);
        assert_eq!(one.prefix(), Instance::new(&place("/one"), "up").prefix());
    }

    #[test]
    fn a_network_in_use_is_passed_over() {
        let routes =
            "default via 10.77.3.1 dev eth0\n10.77.4.0/24 dev virbr0\nlocal 10.77.5.1 dev x table local";
        assert_eq!(free_network(3, routes), Some(6));
        assert_eq!(free_network(255, "10.77.255.0/24 dev a\n10.77.0.0/24 dev b"), Some(1));
    }

    #[test]
    fn the_demo_catalogue_moves_into_the_network() {
        let catalog = in_network(include_str!("../demo/catalog.toml"), 42);
        assert!(catalog.contains("cidr = \"10.77.42.0/24\"") && !catalog.contains("\"10.77.0."), "{catalog}");
    }

    #[test]
    fn settings_name_the_instance_s_own_things() {
        let instance = Instance::new(&place("/one"), "up");
        let agent = instance.agent_toml(Ports { control: 7700, agent: 7701 }, 9).unwrap();
        assert!(
            agent.contains("gateway = \"10.77.9.1/24\"") && agent.contains(&instance.bridge()),
            "{agent}"
        );
        let berth = instance.berth_toml(Ports { control: 7700, agent: 7701 }).unwrap();
        assert!(berth.contains("app_dir = \"/one/target/dist\""), "{berth}");
    }
}
