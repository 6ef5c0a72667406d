//! A real Ceph of one node, made by the test and gone with it: a monitor, a manager and an OSD on a sparse file,
//! on loopback or in a network of the test's, with ports and folders of their own.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use berth_agent::config::{CephPool, PoolPlace, PoolSection};
use berth_model::agent::Name;
use tempfile::TempDir;

use super::libvirt_common::{run, text, wait_for};

/// The user that the agent is here.
#[allow(dead_code, reason = "each test file uses a part of it")]
const USER: &str = "berth";

#[allow(dead_code, reason = "each test file uses a part of it")]
pub struct Ceph {
    daemons: Vec<(&'static str, Child)>,
    pub monitor: String,
    /// The network namespace that it runs in, if it is another one.
    space: Option<String>,
    home: TempDir,
}

#[allow(dead_code, reason = "each test file uses a part of it")]
impl Ceph {
    /// Starts one with a pool `vms` on loopback, and waits until it answers.
    pub fn start() -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, None)
    }

    /// The same at an address of a network namespace.
    pub fn start_at(address: Ipv4Addr, space: Option<&str>) -> Self {
        // Somebody may take the monitor's port before it does.
        let mut ceph = (0..5).find_map(|_| Self::with_monitor(address, space)).expect("a monitor comes up");
        ceph.spawn("ceph-mgr", "x");
        let uuid = uuid();
        ceph.ask(&["osd", "new", &uuid, "0"]);
        ceph.run("ceph-osd", &["-c", &ceph.conf(), "-i", "0", "--mkfs", "--osd-uuid", &uuid]);
        ceph.spawn("ceph-osd", "0");
        ceph.ask(&["osd", "pool", "create", "vms", "1", "1"]);
        ceph.run("rbd", &["-c", &ceph.conf(), "pool", "init", "vms"]);
        let caps = ["mon", "profile rbd", "osd", "profile rbd pool=vms"];
        let keyring = ceph.ask(&[&["auth", "get-or-create", "client.berth"], &caps[..]].concat());
        std::fs::write(ceph.keyring(), keyring).unwrap();
        std::fs::set_permissions(ceph.keyring(), std::fs::Permissions::from_mode(0o600)).unwrap();
        wait_for("the manager's figures", || ceph.ask(&["df"]).contains("vms").then_some(()));
        ceph
    }

    /// One with nothing but a monitor that answers; none if the monitor ended.
    fn with_monitor(address: Ipv4Addr, space: Option<&str>) -> Option<Self> {
        let home = tempfile::Builder::new().prefix("berth-ceph-").tempdir_in("/var/tmp").unwrap();
        let monitor = format!("{address}:{}", free_port(0));
        let space = space.map(|space| format!("--net=/run/netns/{space}"));
        let mut ceph = Self { daemons: Vec::new(), monitor, space, home };
        ceph.prepare(address);
        ceph.spawn("ceph-mon", "a");
        wait_for("the monitor", || {
            let has_ended = ceph.daemons[0].1.try_wait().unwrap().is_some();
            let look = ["-c", &ceph.conf(), "--connect-timeout", "10", "mon", "stat"];
            let answers = !has_ended && ceph.command("ceph").args(look).output().unwrap().status.success();
            (has_ended || answers).then_some(answers)
        })
        .then_some(ceph)
    }

    /// As an agent is told of it.
    pub fn pool(&self) -> PoolSection {
        let place = PoolPlace::CephRbd(CephPool {
            monitors: vec![self.monitor.clone()],
            pool: "vms".to_owned(),
            user: USER.to_owned(),
            keyring: self.keyring(),
        });
        PoolSection { name: Name::new("ceph").unwrap(), place }
    }

    /// Asks it as its administrator.
    pub fn ask(&self, words: &[&str]) -> String {
        self.run("ceph", &[&["-c", &self.conf()], words].concat())
    }

    /// Asks `rbd` as its administrator.
    pub fn rbd(&self, words: &[&str]) -> String {
        self.run("rbd", &[&["-c", &self.conf()], words].concat())
    }

    fn run(&self, program: &str, words: &[&str]) -> String {
        match &self.space {
            Some(space) => run("nsenter", &[&[space, program], words].concat()),
            None => run(program, words),
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(if self.space.is_some() { "nsenter" } else { program });
        command.args(self.space.iter().map(String::as_str).flat_map(|space| [space, program]));
        command
    }

    /// Names of all images, seen past the agent.
    pub fn images(&self) -> Vec<String> {
        serde_json::from_str(&self.rbd(&["ls", "vms", "--format", "json"])).unwrap()
    }

    /// The key of the agent's user, which nobody else may see.
    pub fn key(&self) -> String {
        self.ask(&["auth", "print-key", "client.berth"]).trim().to_owned()
    }

    /// Ends it, as a power cut would.
    pub fn kill(&mut self) {
        for (_, daemon) in &mut self.daemons {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// The settings of its administrator.
    pub fn conf(&self) -> String {
        text(&self.path("ceph.conf")).to_owned()
    }

    /// The keyring of the agent's user.
    pub fn keyring(&self) -> PathBuf {
        self.path("client.keyring")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn prepare(&self, address: Ipv4Addr) {
        let fsid = uuid();
        std::fs::write(self.path("ceph.conf"), conf(self.home.path(), address, &self.monitor, &fsid))
            .unwrap();
        for folder in ["run", "mon", "osd", "mgr"] {
            std::fs::create_dir(self.path(folder)).unwrap();
        }
        let (keyring, monmap) = (self.path("keyring"), self.path("monmap"));
        let all = "allow *";
        let users: [(&str, &[&str]); 4] = [
            ("mon.", &["mon", all]),
            ("client.admin", &["mon", all, "osd", all, "mgr", all]),
            ("mgr.x", &["mon", "allow profile mgr", "osd", all]),
            ("osd.0", &["mon", "allow profile osd", "mgr", "allow profile osd", "osd", all]),
        ];
        run("ceph-authtool", &["--create-keyring", text(&keyring)]);
        for (user, caps) in users {
            let mut words = vec![text(&keyring), "--gen-key", "--name", user];
            caps.chunks(2).for_each(|cap| words.extend(["--cap", cap[0], cap[1]]));
            run("ceph-authtool", &words);
        }
        let address = format!("[v2:{}]", self.monitor);
        run("monmaptool", &["--create", "--fsid", &fsid, "--addv", "a", &address, text(&monmap)]);
        let made = ["--mkfs", "--monmap", text(&monmap), "--keyring", text(&keyring)];
        self.run("ceph-mon", &[&["-c", &self.conf(), "-i", "a"], &made[..]].concat());
    }

    /// Each ends with the test, even one that is killed.
    fn spawn(&mut self, program: &'static str, id: &str) {
        let entered = self.space.iter().flat_map(|space| ["nsenter", space]);
        let daemon = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .args(entered)
            .args([program, "-f", "-c", &self.conf(), "-i", id])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{program}: {e}"));
        self.daemons.push((program, daemon));
    }
}

impl Drop for Ceph {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The quotas of memory are the least that each daemon takes.
fn conf(home: &Path, address: Ipv4Addr, monitor: &str, fsid: &str) -> String {
    let home = text(home);
    let first = free_port(200);
    let last = first + 200;
    format!(
        "[global]\nfsid = {fsid}\nmon_host = [v2:{monitor}]\npublic_addr = {address}\ncluster_addr = {address}\n\
         ms_bind_port_min = {first}\nms_bind_port_max = {last}\nms_bind_msgr1 = false\n\
         run_dir = {home}/run\nadmin_socket = {home}/run/$name.asok\npid_file = {home}/run/$name.pid\n\
         log_file = {home}/run/$name.log\nkeyring = {home}/keyring\n\
         mon_data = {home}/mon\nmgr_data = {home}/mgr\nosd_data = {home}/osd\n\
         auth_cluster_required = cephx\nauth_service_required = cephx\nauth_client_required = cephx\n\
         mon_data_avail_crit = 0\nmon_allow_pool_size_one = true\npaxos_propose_interval = 0.05\n\
         osd_pool_default_size = 1\nosd_pool_default_min_size = 1\nosd_pool_default_pg_autoscale_mode = off\n\
         osd_crush_chooseleaf_type = 0\nosd_memory_target = 939524096\nbluestore_block_size = 3221225472\n\
         bluestore_cache_autotune = false\nbluestore_cache_size = 33554432\n\
         mgr_stats_period = 1\nmgr_initial_modules =\nmgr_disabled_modules = {MODULES}\n"
    )
}

/// Nobody here asks the manager for more than figures.
const MODULES: &str = "balancer,crash,devicehealth,orchestrator,pg_autoscaler,progress,rbd_support,status,telemetry,volumes,iostat";

fn uuid() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim().to_owned()
}

/// The first of some ports that are likely to be free; a daemon takes the next one if one is not.
fn free_port(room: u16) -> u16 {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    port.min(u16::MAX - room)
}
