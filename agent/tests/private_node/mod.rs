//! A node of a test's own, in namespaces: libvirtd, virtlogd, virtlockd, an agent, and a network that can be
//! cut. When it is dropped, all its processes end at once, as when its plug is pulled.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use berth_model::VmId;
use berth_model::agent::{Vm, VmSpec};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::libvirt_common::wait_for;
use crate::netns::Namespace;

const QEMU_CONF: &str =
    "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\nvnc_listen = \"127.0.0.1\"\n";

/// What nodes of one test have in common: a place, and in it a folder `shared`.
pub struct Site {
    home: TempDir,
}

impl Site {
    pub fn new() -> Self {
        let home = tempfile::Builder::new().prefix("berth-site-").tempdir_in("/var/tmp").unwrap();
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        for folder in ["data", "shared", "leases"] {
            std::fs::create_dir(home.path().join(folder)).unwrap();
        }
        Self { home }
    }

    pub fn shared(&self) -> PathBuf {
        self.home.path().join("shared")
    }

    /// Where all nodes see their own data.
    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// libvirt's leases.
    pub fn leases(&self) -> PathBuf {
        self.home.path().join("leases")
    }
}

/// A node.
pub struct PrivateNode {
    pub home: PathBuf,
    pub space: Namespace,
    data: PathBuf,
    init: Child,
    agent: Option<Child>,
}

impl PrivateNode {
    /// A node with its daemons, without an agent yet. With leases, if libvirt is to take any.
    pub fn start(site: &Site, name: &str, leases: bool) -> Self {
        let home = site.home.path().join(name);
        for folder in
            ["etc/qemu", "lib/images", "lib/boot", "log/qemu", "cache/qemu", "run/lock", "data/images"]
        {
            std::fs::create_dir_all(home.join(folder)).unwrap();
        }
        let lock_manager = if leases { "lock_manager = \"lockd\"\n" } else { "" };
        let n = name.bytes().last().unwrap();
        let uuid = format!("host_uuid = \"00000000-0000-4000-8000-0000000000{n:02x}\"\n");
        let lockspace = format!("file_lockspace_dir = \"{}\"\n", site.leases().display());
        for (file, text) in [
            ("libvirtd.conf", uuid.as_str()),
            ("virtlogd.conf", ""),
            ("virtlockd.conf", ""),
            ("qemu.conf", &format!("{QEMU_CONF}{lock_manager}")),
            ("qemu-lockd.conf", &lockspace),
        ] {
            std::fs::write(home.join("etc").join(file), text).unwrap();
        }
        if leases {
            std::fs::write(home.join("etc/leases"), "").unwrap();
        }
        let init = home.join("init.sh");
        std::fs::write(&init, include_str!("init.sh")).unwrap();
        let space = Namespace::new();
        let log = std::fs::File::create(home.join("init.log")).unwrap();
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", space.name()))
            .args(["unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc", "sh"])
            .args([&init, &home, &site.data()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut node = Self { home, space, data: site.data(), init: child, agent: None };
        wait_for("the node's libvirt", || {
            let said = || std::fs::read_to_string(node.home.join("init.log")).unwrap_or_default();
            assert!(node.init.try_wait().unwrap().is_none(), "the node ended: {}", said());
            let is_up = node.home.join("up").exists();
            (is_up && node.run("virsh", &["-q", "-c", "qemu:///system", "version"]).status.success())
                .then_some(())
        });
        node
    }

    /// Starts the agent with more settings than where its data is.
    pub fn start_agent(&mut self, settings: &str) {
        let (data, own) = (self.data.display(), self.home.join("data"));
        let common = "libvirt.accelerator = \"qemu\"\nlibvirt.prefix = \"t-\"\nnetwork.mode = \"user\"\n\
                      storage.promise_percent = 0\nstorage.reserve_mib = 0\n";
        std::fs::write(own.join("agent.toml"), format!("data_dir = \"{data}\"\n{common}{settings}")).unwrap();
        // The same socket, as it is seen from outside.
        let socket = own.join("agent.sock");
        std::fs::write(own.join("client.toml"), format!("socket = \"{}\"\n", socket.display())).unwrap();
        self.start_agent_again();
    }

    pub fn start_agent_again(&mut self) {
        let mut command = self.inside(env!("CARGO_BIN_EXE_berth-agent"));
        let config = self.data.join("agent.toml");
        let mut agent =
            command.arg("--config").arg(config).arg("serve").stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(agent.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("the agent runs") {
            assert!(log.read_line(&mut said).unwrap() > 0, "the agent did not start: {said}");
        }
        let file = std::fs::File::options().create(true).append(true).open(self.home.join("agent.log"));
        let mut file = file.unwrap();
        // Keeps reading, so that the agent never waits for its log.
        std::thread::spawn(move || std::io::copy(&mut log, &mut file));
        self.agent = Some(agent);
    }

    /// kill -9.
    pub fn kill_agent(&mut self) {
        let is_agent =
            |words: &[String]| words[0].ends_with("/berth-agent") && words.contains(&"serve".to_owned());
        self.signal("-9", self.process(is_agent).unwrap());
        // What had entered the node for it ends with it.
        self.agent.take().unwrap().wait().unwrap();
    }

    /// What the agent said.
    pub fn agent_log(&self) -> String {
        std::fs::read_to_string(self.home.join("agent.log")).unwrap_or_default()
    }

    /// The agent's command line.
    pub fn ask(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth-agent"));
        command.arg("--config").arg(self.home.join("data/client.toml")).arg("--json").args(words);
        command.stdin(Stdio::null()).output().unwrap()
    }

    pub fn get<T: DeserializeOwned>(&self, words: &[&str]) -> T {
        let output = self.ask(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What the agent says instead of doing it.
    pub fn refused(&self, words: &[&str]) -> String {
        let output = self.ask(words);
        assert!(!output.status.success(), "{words:?} was done");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    pub fn try_put(&self, id: VmId, spec: &VmSpec) -> Result<Vm, String> {
        let file = self.home.join(format!("spec-{id}.json"));
        std::fs::write(&file, serde_json::to_vec(spec).unwrap()).unwrap();
        let output = self.ask(&["vm", "put", &id.to_string(), file.to_str().unwrap()]);
        match output.status.success() {
            true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    pub fn put(&self, id: VmId, spec: &VmSpec) -> Vm {
        self.try_put(id, spec).unwrap()
    }

    pub fn vm(&self, id: VmId) -> Vm {
        self.get(&["vm", "get", &id.to_string()])
    }

    /// Waits until a guest came up for the `n`th time.
    pub fn wait_for_boot(&self, id: VmId, n: usize) {
        let log = self.home.join(format!("data/vms/{id}/console.log"));
        let boots = || {
            String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default())
                .matches("berth-guest: ready")
                .count()
        };
        wait_for("a guest's boot", || (boots() >= n).then_some(()));
    }

    /// The QEMU of a VM, by its number on this machine.
    pub fn qemu(&self, id: VmId) -> Option<u32> {
        let name = format!("guest=t-{id},");
        self.process(|words| words.iter().any(|word| word.starts_with(&name)))
    }

    /// One of the node's daemons, by its number on this machine.
    pub fn daemon(&self, program: &str) -> u32 {
        self.process(|words| words[0].rsplit('/').next() == Some(program)).unwrap()
    }

    /// A process of this node: the one in its process namespace for which `is_it` holds.
    fn process(&self, is_it: impl Fn(&[String]) -> bool) -> Option<u32> {
        let space = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = space(self.first());
        let processes = std::fs::read_dir("/proc").unwrap();
        let pids = processes.filter_map(|process| process.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| space(*pid) == own).find(|pid| {
            let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<String> =
                arguments.split(|b| *b == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            is_it(&words)
        })
    }

    /// Sends a signal to a process of this node.
    pub fn signal(&self, signal: &str, pid: u32) {
        assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
    }

    /// Runs a program within the node.
    pub fn run(&self, program: &str, args: &[&str]) -> Output {
        self.inside(program).args(args).output().unwrap()
    }

    /// Starts libvirt's daemon again after it was killed.
    pub fn start_daemon(&self, program: &str) {
        let pid_file = format!("/run/{program}.pid");
        assert!(self.run(program, &["-d", "-p", &pid_file]).status.success());
    }

    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first().to_string(), "--mount", "--pid", "--net", "--ipc", "--"]);
        command.arg(program).stdin(Stdio::null());
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("BERTH_AGENT_") {
                command.env_remove(variable);
            }
        }
        command
    }

    /// Its process 1, by its number on this machine: the child of what made the namespaces.
    fn first(&self) -> u32 {
        let unshare = self.init.id();
        let children = format!("/proc/{unshare}/task/{unshare}/children");
        wait_for("the node's first process", || {
            std::fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse().ok()
        })
    }
}

impl Drop for PrivateNode {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["init.log", "agent.log"] {
                eprintln!("{log}:\n{}", std::fs::read_to_string(self.home.join(log)).unwrap_or_default());
            }
        }
        // Its first process takes all others with it.
        let _ = self.init.kill();
        let _ = self.init.wait();
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

/// Copies a file to where every user may read it.
pub fn put_file(from: &Path, to: &Path) {
    std::fs::copy(from, to).unwrap();
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o644)).unwrap();
}
