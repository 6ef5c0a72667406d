//! Two nodes on one machine: each a network, a mount table, a process tree and a host name of its own,
//! with its own libvirtd and virtlogd and a real `berth-agent serve`, on one network that the test stands on.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod moves;

use std::fs;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use berth_agent::identity::{Identity, NewKey};
use berth_model::error::ApiError;
use berth_model::{ByteSize, ErrorBody, NodeId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::libvirt_common::{PATIENCE, ballast, false_clock, run, text, wait_for};
use crate::pki::Pki;

const CGROUPS: &str = "/sys/fs/cgroup";
/// The name of the guests' bridge on each node.
pub const BRIDGE: &str = "br0";

/// The network between the nodes, with all nodes on it.
pub struct Lab {
    pub pki: Pki,
    pub prefix: String,
    pub home: TempDir,
    unique: String,
    fabric: String,
    qemu_conf: &'static str,
    shares_disks: bool,
    /// What stands in the agents' configuration beside the usual.
    pub more_config: String,
}

impl Lab {
    /// QEMU is set up as Debian does it.
    pub fn new() -> Self {
        Self::with("", false)
    }

    /// QEMU is set up as Debian does it, and then by these lines. Do the nodes share VMs' disks?
    pub fn with(qemu_conf: &'static str, shares_disks: bool) -> Self {
        let home = tempfile::Builder::new().prefix("berth-nodes-").tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        let unique = home.path().file_name().unwrap().to_str().unwrap().rsplit('-').next().unwrap();
        let unique = unique.to_owned();
        let lab = Self {
            pki: Pki::new(),
            prefix: format!("t-{unique}-"),
            fabric: format!("bn{unique}f"),
            home,
            unique,
            qemu_conf,
            shares_disks,
            more_config: String::new(),
        };
        fs::create_dir(lab.shared()).unwrap();
        fs::set_permissions(lab.shared(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        fs::create_dir(lab.leases()).unwrap();
        ip(&["netns", "add", &lab.fabric]);
        ip(&["-n", &lab.fabric, "link", "set", "lo", "up"]);
        ip(&["-n", &lab.fabric, "link", "add", BRIDGE, "type", "bridge"]);
        ip(&["-n", &lab.fabric, "addr", "add", "10.99.0.254/24", "dev", BRIDGE]);
        ip(&["-n", &lab.fabric, "link", "set", BRIDGE, "up"]);
        lab
    }

    /// The name of the network between the nodes, where this machine is `10.99.0.254`.
    pub fn fabric(&self) -> &str {
        &self.fabric
    }

    /// A folder that all nodes have.
    pub fn shared(&self) -> PathBuf {
        self.home.path().join("shared")
    }

    /// Where all nodes keep their leases on disks.
    pub fn leases(&self) -> PathBuf {
        self.home.path().join("leases")
    }

    /// Pulls a node's cable out, or puts it back.
    pub fn plug(&self, node: &TestNode, there: bool) {
        let state = if there { "up" } else { "down" };
        ip(&["-n", &self.fabric, "link", "set", &format!("p{}", node.address.octets()[3]), state]);
    }

    /// Runs `work` on a thread that stands on the nodes' network.
    pub fn on_network<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let path = format!("/run/netns/{}", self.fabric);
        std::thread::spawn(move || {
            let space = fs::File::open(path).unwrap();
            let kind = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&space), Some(kind)).unwrap();
            work()
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.fabric]).output();
    }
}

/// A node; nothing of it is left when it is dropped.
pub struct TestNode {
    pub address: Ipv4Addr,
    pub data_dir: PathBuf,
    /// The same as its processes see it.
    own_data_dir: String,
    name: String,
    base: PathBuf,
    space: String,
    init: Option<Child>,
    agent: Option<Child>,
    /// Does [`TestNode::set_clock`] move its agent's clock?
    false_clock: bool,
}

impl TestNode {
    /// Node `n` of a lab, enrolled, with its agent.
    pub fn up(lab: &Lab, n: u8) -> Self {
        let name = format!("bn{}{n}", lab.unique);
        let base = lab.home.path().join(n.to_string());
        let data_dir = base.join("data");
        let address = Ipv4Addr::new(10, 99, 0, n);
        // What nodes that share disks have at the same place, others have not.
        let own_data_dir = if lab.shares_disks { "/run/data".to_owned() } else { format!("/run/data{n}") };
        let space = name.clone();
        let (init, agent, false_clock) = (None, None, false);
        let mut node = Self { address, data_dir, own_data_dir, space, name, base, init, agent, false_clock };
        node.plug_in(lab);
        node.fill(lab, n);
        node.boot();
        node.start_agent("");
        node
    }

    fn plug_in(&self, lab: &Lab) {
        let (space, fabric) = (&*self.space, &*lab.fabric);
        ip(&["netns", "add", space]);
        let port = format!("p{}", self.address.octets()[3]);
        let there = ["type", "veth", "peer", "name", "up0", "netns", space];
        ip(&[&["link", "add", &*port, "netns", fabric][..], &there[..]].concat());
        ip(&["-n", fabric, "link", "set", &port, "master", BRIDGE, "up"]);
        ip(&["-n", space, "link", "set", "lo", "up"]);
        ip(&["-n", space, "link", "add", BRIDGE, "type", "bridge"]);
        // A bridge has the smallest address of its ports: a random one could be larger than that of a guest's tap, and
        // the tap of a guest that moves has the same address on both nodes.
        let mac = format!("02:be:00:00:00:{:02x}", self.address.octets()[3]);
        ip(&["-n", space, "link", "set", "up0", "address", &mac]);
        ip(&["-n", space, "link", "set", "up0", "master", BRIDGE, "up"]);
        ip(&["-n", space, "addr", "add", &format!("{}/24", self.address), "dev", BRIDGE]);
        ip(&["-n", space, "link", "set", BRIDGE, "up"]);
    }

    fn fill(&self, lab: &Lab, n: u8) {
        for folder in ["run", "lib", "log/qemu", "cache", "etc", "data/images"] {
            fs::create_dir_all(self.base.join(folder)).unwrap();
        }
        // The settings of the distribution, and no definition of this machine.
        for file in ["libvirt.conf", "libvirtd.conf", "qemu.conf", "virtlogd.conf", "virtlockd.conf"] {
            let _not_shipped =
                fs::copy(Path::new("/etc/libvirt").join(file), self.base.join("etc").join(file));
        }
        let append = |file: &str, lines: &str| {
            let mut file = fs::File::options().append(true).create(true).open(self.base.join(file)).unwrap();
            file.write_all(lines.as_bytes()).unwrap();
        };
        let uuid = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_DNS, self.name.as_bytes());
        append("etc/libvirtd.conf", &format!("host_uuid = \"{uuid}\"\n"));
        append("etc/qemu.conf", "security_driver = \"none\"\nlock_manager = \"lockd\"\n");
        append("etc/qemu-lockd.conf", &format!("file_lockspace_dir = \"{}\"\n", lab.leases().display()));
        append("etc/qemu.conf", lab.qemu_conf);
        for controller in fs::read_dir(CGROUPS).unwrap().flatten() {
            let folder = controller.path().join(&self.name);
            if !controller.path().is_dir() || fs::create_dir(&folder).is_err() {
                continue;
            }
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(all) = fs::read(controller.path().join(file)) {
                    fs::write(folder.join(file), all).unwrap();
                }
            }
        }
        let key = NewKey::draw(&self.name).unwrap();
        let identity = Identity {
            node: NodeId(i64::from(n)),
            address: format!("https://{}:7701", self.address),
            ca_pem: lab.pki.ca_pem(),
            certificate_pem: lab.pki.sign_node(&key.csr_pem, n.into(), self.address.into()),
            key_pem: key.key_pem,
        };
        identity.store(&self.data_dir.join("tls")).unwrap();
        let shared = lab.shared();
        let disks = match lab.shares_disks {
            true => format!("[storage]\ndisks = \"{}\"\n", shared.join("disks").display()),
            false => String::new(),
        };
        let config = format!(
            "name = \"{}\"\ndata_dir = \"{}\"\nlisten = \"{}:7701\"\nlog = \"info,berth_agent=debug\"\n\
             [libvirt]\naccelerator = \"qemu\"\nprefix = \"{}\"\n[network]\nmode = \"bridge\"\nbridge = \"{BRIDGE}\"\n{disks}\
             [[pools]]\nname = \"shared\"\nkind = \"directory\"\npath = \"{}\"\nshared = true\n{}",
            self.name,
            self.own_data_dir,
            self.address,
            lab.prefix,
            shared.join("pool").display(),
            lab.more_config,
        );
        fs::write(self.base.join("agent.toml"), config).unwrap();
    }

    /// Puts an image there.
    pub fn image(&self, sha256: &str, file: &Path) {
        let here = self.data_dir.join("images").join(format!("{sha256}.qcow2"));
        fs::copy(file, &here).unwrap();
        fs::set_permissions(&here, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    }

    fn boot(&mut self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/two_nodes/init.sh");
        let log = fs::File::create(self.base.join("init.log")).unwrap();
        let init = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.space))
            .args(["unshare", "-m", "-u", "-p", "-i", "--fork", "--kill-child", "--mount-proc", "sh", script])
            .args([text(&self.base), &self.name, &self.own_data_dir])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        self.init = Some(init);
        wait_for("the node", || self.base.join("up").exists().then_some(()));
        wait_for("the node's libvirt", || {
            let said = self.command(&["virsh", "-c", "qemu:///system", "version"]).output().unwrap();
            said.status.success().then_some(())
        });
    }

    /// The node's first process, as this machine sees it.
    fn pid(&self) -> String {
        let parent = self.init.as_ref().unwrap().id();
        wait_for("the node's first process", || {
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
            children.split_whitespace().next().map(str::to_owned)
        })
    }

    /// A command on the node.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid(), "-m", "-u", "-p", "-n", "-i", "--"]).args(words);
        command
    }

    /// Starts the agent, with fault points.
    pub fn start_agent(&mut self, faults: &str) {
        let log = fs::File::options().append(true).create(true).open(self.base.join("agent.log")).unwrap();
        let config = self.base.join("agent.toml");
        let agent = env!("CARGO_BIN_EXE_berth-agent");
        let mut command = self.command(&[agent, "--config", text(&config), "serve"]);
        if self.false_clock {
            false_clock::show(&mut command, &self.base.join("clock"));
        }
        let child = command
            .env("BERTH_AGENT_FAULTS", faults)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(child);
        wait_for("the agent", || {
            let node = self.ask::<serde_json::Value>("GET", "/v1/node", &()).ok()?;
            (node["health"]["healthy"] == true).then_some(())
        });
    }

    /// Starts the agent anew with a clock that [`TestNode::set_clock`] moves.
    pub fn give_false_clock(&mut self) {
        self.kill_agent();
        self.set_clock(0);
        self.false_clock = true;
        self.start_agent("");
    }

    /// Moves its agent's clock by so many seconds.
    pub fn set_clock(&self, ahead_s: i64) {
        false_clock::set(&self.base.join("clock"), ahead_s);
    }

    /// Puts the folders of VMs on a disk of their own, with room for `size`.
    pub fn give_small_disk(&mut self, size: ByteSize) {
        let image = self.base.join("disk.img");
        fs::File::create(&image).unwrap().set_len(size.bytes()).unwrap();
        run("mkfs.ext4", &["-q", "-m", "0", "-O", "^has_journal", text(&image)]);
        let mount = "mkdir -p $2; mount -o loop $1 $2; rmdir $2/lost+found; chmod 711 $2";
        let vms = format!("{}/vms", self.own_data_dir);
        let said = self.command(&["sh", "-ec", mount, "sh", text(&image), &vms]).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        // Only the node's own processes see that disk.
        self.data_dir = PathBuf::from(format!("/proc/{}/root{}", self.pid(), self.own_data_dir));
    }

    /// Fills that disk to its last block.
    pub fn fill_disk(&self) {
        ballast::fill(&self.data_dir.join("vms/ballast"));
    }

    /// Makes room again.
    pub fn empty_disk(&self) {
        fs::remove_file(self.data_dir.join("vms/ballast")).unwrap();
    }

    /// Waits until the agent has killed itself, and starts it anew.
    pub fn agent_died(&mut self) {
        let mut agent = self.agent.take().unwrap();
        wait_for("the agent's end", || agent.try_wait().unwrap());
        self.start_agent("");
    }

    /// Kills the agent, and starts it anew with fault points.
    pub fn restart_agent(&mut self, faults: &str) {
        self.kill_agent();
        self.start_agent(faults);
    }

    /// Starts the agent anew with other settings.
    pub fn reconfigure(&mut self, from: &str, to: &str) {
        self.kill_agent();
        let path = self.base.join("agent.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        fs::write(path, text.replace(from, to)).unwrap();
        self.start_agent("");
    }

    /// Kills the agent, at whatever it is.
    pub fn kill_agent(&mut self) {
        let pids = self.agent_pids();
        self.kill_agent_now();
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        // Only what has ended holds the data folder no more; of a process that nobody has asked about yet that is a
        // line without words.
        let has_ended =
            |pid: &String| fs::read(format!("/proc/{pid}/cmdline")).map_or(true, |line| line.is_empty());
        wait_for("the agent's end", || pids.iter().all(has_ended).then_some(()));
    }

    /// The child that entered the node, and below it the agent, unless it is that itself.
    fn agent_pids(&self) -> Vec<String> {
        let Some(agent) = &self.agent else { return Vec::new() };
        let id = agent.id().to_string();
        let below = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        below.split_whitespace().map(str::to_owned).chain([id.clone()]).collect()
    }

    /// The same, and does not wait for its end.
    pub fn kill_agent_now(&self) {
        for pid in self.agent_pids() {
            let _ = Command::new("kill").args(["-9", &pid]).output();
        }
    }

    /// Asks the agent, waiting for long functions.
    pub fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ApiError> {
        let answer = self.exchange(method, path, body).map_err(|e| {
            ApiError::new(berth_model::ErrorCode::Unavailable, format!("the agent broke off: {e}"))
        })?;
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer of HTTP");
        let body = if body.is_empty() { "null" } else { body };
        if head.starts_with("HTTP/1.1 2") {
            return Ok(serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body}")));
        }
        Err(serde_json::from_str::<ErrorBody>(body).unwrap().error)
    }

    fn exchange(&self, method: &str, path: &str, body: &impl Serialize) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(self.data_dir.join("agent.sock"))?;
        // A look is answered at once, or asked for again.
        let look = method == "GET";
        stream.set_read_timeout(Some(if look { Duration::from_secs(10) } else { PATIENCE }))?;
        let body = serde_json::to_string(body)?;
        let body = if look { String::new() } else { body };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\nprefer: wait=110\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        match stream.read_to_string(&mut answer) {
            // Who answers without a look at the body resets the connection when it closes.
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset && !answer.is_empty() => {}
            read => drop(read?),
        }
        if answer.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(answer)
    }

    /// Kills the node's libvirt and starts it anew, without its guests.
    pub fn restart_libvirt(&self) {
        let kill =
            "kill -9 $(cat /run/libvirtd.pid); rm -f /run/libvirtd.pid; libvirtd -d -p /run/libvirtd.pid";
        let said = self.command(&["sh", "-c", kill]).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    }

    /// Pulls the plug: every process of the node dies at once.
    pub fn pull_the_plug(&mut self) {
        if let Some(mut init) = self.init.take() {
            let id = init.id();
            let below = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
            for pid in below.split_whitespace() {
                let _ = Command::new("kill").args(["-9", pid]).output();
            }
            let _ = init.kill();
            let _ = init.wait();
        }
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }

    /// Names of the node's domains, by libvirt's word.
    pub fn domains(&self) -> String {
        let said = self.command(&["virsh", "-q", "-c", "qemu:///system", "list", "--all", "--name"]).output();
        String::from_utf8(said.unwrap().stdout).unwrap().trim().to_owned()
    }

    pub fn console(&self, vm: i64) -> String {
        let log = fs::read(self.data_dir.join(format!("vms/{vm}/console.log"))).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Nothing of any VM is on the node: no domain, folder, note, socket, process.
    pub fn assert_clean(&self) {
        assert_eq!(self.domains(), "", "a domain is left");
        for folder in
            [self.data_dir.join("vms"), self.data_dir.join("moves"), self.base.join("run/berth-moves")]
        {
            let left: Vec<_> =
                fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
            assert_eq!(left, Vec::<PathBuf>::new(), "files are left");
        }
        let logs: Vec<_> = fs::read_dir(self.base.join("log/qemu")).unwrap().flatten().collect();
        assert!(logs.is_empty(), "{logs:?}");
        let qemu = self.command(&["pgrep", "-f", "qemu-system.*guest="]).output().unwrap();
        let qemu = String::from_utf8(qemu.stdout).unwrap();
        let ours = qemu.split_whitespace().count();
        assert_eq!(ours, 0, "a QEMU is left: {qemu}");
        let volumes: Vec<_> = fs::read_dir(self.data_dir.join("volumes")).into_iter().flatten().collect();
        assert!(volumes.is_empty(), "{volumes:?}");
    }

    pub fn log(&self) -> String {
        ["agent.log", "init.log", "log/libvirtd.log"]
            .map(|name| fs::read_to_string(self.base.join(name)).unwrap_or_default())
            .concat()
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {} ---\n{}", self.name, self.log());
            let _ = Command::new("sh")
                .args(["-c", "tail -n 40 \"$1\"/log/qemu/*.log >&2", "sh", text(&self.base)])
                .status();
        }
        self.pull_the_plug();
        let _ = Command::new("ip").args(["netns", "del", &self.space]).output();
        for controller in fs::read_dir(CGROUPS).into_iter().flatten().flatten() {
            remove_cgroup(&controller.path().join(&self.name));
        }
    }
}

/// A cgroup goes from its leaves on, once its processes are gone.
fn remove_cgroup(folder: &Path) {
    if !folder.is_dir() {
        return;
    }
    for below in fs::read_dir(folder).into_iter().flatten().flatten() {
        if below.path().is_dir() {
            remove_cgroup(&below.path());
        }
    }
    for _ in 0..100 {
        if fs::remove_dir(folder).is_ok() || !folder.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn ip(args: &[&str]) {
    run("ip", args);
}
