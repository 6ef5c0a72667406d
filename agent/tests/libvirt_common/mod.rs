//! What the tests of the libvirt hypervisor share: a place of their own, specs, and waiting.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod ballast;
pub mod false_clock;
pub mod guest;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use berth_agent::config::{Accelerator, PoolSection, StorageSection};
use berth_agent::hypervisor::Hypervisor;
use berth_agent::hypervisor::libvirt::probe::ProbeFiles;
use berth_agent::hypervisor::libvirt::{GuestNetwork, Libvirt, LibvirtConfig};
use berth_model::agent::{Nic, VmEvent, VmImage, VmSeed, VmSpec, VmState, WantedPower};
use berth_model::{ByteSize, VmId};
use tempfile::TempDir;
use tokio::sync::broadcast;

/// Longest that anything may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The machine's own libvirt.
pub const QEMU: &str = "qemu:///system";
/// The name of the tiny image in these tests; nobody here checks it.
pub const TINY: &str = "71717171717171717171717171717171717171717171717171717171717171aa";
/// What the tiny guest says once it is up.
pub const READY: &str = "berth-guest: ready";

/// The image of specs that boot nothing.
pub const EMPTY_IMAGE: &str = "e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0";

/// A node of a test: folders, a prefix of its own, and all VMs deleted at the end.
pub struct Node {
    pub libvirt: Libvirt,
    pub config: LibvirtConfig,
    home: TempDir,
}

impl Node {
    /// On libvirt's test driver, with an image that holds an empty disk of 64 MiB.
    pub fn on_test_driver(network: GuestNetwork) -> Self {
        Self::new("test:///default", network, Accelerator::Auto)
    }

    /// On QEMU, with the tiny image.
    pub fn tiny(network: GuestNetwork) -> Self {
        Self::tiny_with(network, vec![])
    }

    /// The same, with pools beside `default`.
    pub fn tiny_with(network: GuestNetwork, pools: Vec<PoolSection>) -> Self {
        let image = tiny("BERTH_TINY_IMAGE", "tiny.qcow2");
        let node = Self::with_pools(QEMU, network, Accelerator::Qemu, pools);
        node.libvirt.ping().expect("libvirtd runs (`virtlogd -d; virtlockd -d; libvirtd -d` starts it)");
        let here = image_path(&node.config, TINY);
        std::fs::copy(image, &here).unwrap();
        std::fs::set_permissions(&here, std::fs::Permissions::from_mode(0o644)).unwrap();
        node
    }

    /// On a libvirt at `uri`.
    pub fn new(uri: &str, network: GuestNetwork, accelerator: Accelerator) -> Self {
        Self::with_pools(uri, network, accelerator, vec![])
    }

    fn with_pools(
        uri: &str,
        network: GuestNetwork,
        accelerator: Accelerator,
        pools: Vec<PoolSection>,
    ) -> Self {
        let home = tempfile::Builder::new().prefix("berth-libvirt-").tempdir_in("/var/tmp").unwrap();
        // QEMU runs as another user.
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        let images_dir = home.path().join("images");
        std::fs::create_dir(&images_dir).unwrap();
        let unique = home.path().file_name().unwrap().to_str().unwrap().rsplit('-').next().unwrap();
        let config = LibvirtConfig {
            uri: uri.to_owned(),
            prefix: format!("t-{unique}-"),
            node_name: "test-node".to_owned(),
            data_dir: home.path().join("data"),
            images_dir,
            accelerator,
            probe_kernel: None,
            probe_initrd: None,
            network,
            services: true,
            storage: StorageSection { promise_percent: 0, reserve_mib: 0, disks: None },
            pools,
        };
        run("qemu-img", &["create", "-q", "-f", "qcow2", text(&image_path(&config, EMPTY_IMAGE)), "64M"]);
        Self { libvirt: Libvirt::open(config.clone()).unwrap(), config, home }
    }

    /// A second agent on the same folders, as after a restart.
    pub fn reopened(&self) -> Libvirt {
        Libvirt::open(self.config.clone()).unwrap()
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn folder(&self, id: VmId) -> PathBuf {
        self.config.data_dir.join("vms").join(id.to_string())
    }

    /// What a guest said on its serial line.
    pub fn console(&self, id: VmId) -> String {
        let log = std::fs::read(self.folder(id).join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Waits until a guest came up for the `n`th time.
    pub fn wait_for_boot(&self, id: VmId, n: usize) {
        wait_for(READY, || (self.console(id).matches(READY).count() >= n).then_some(()));
    }

    /// Nothing of the VM is left: no domain, no file.
    pub fn assert_nothing_left(&self, id: VmId) {
        assert!(!self.folder(id).exists(), "files are left");
        assert!(!self.domains().contains(&format!("{}{id}", self.config.prefix)), "a domain is left");
        assert!(self.libvirt.list().unwrap().iter().all(|vm| vm.id != id));
        assert!(self.libvirt.get(id).is_err());
    }

    /// Names of all domains of this libvirt, seen past the agent. The test driver lives in this
    /// process, so another connection sees the same.
    pub fn domains(&self) -> Vec<String> {
        let connect = virt::connect::Connect::open(Some(&self.config.uri)).unwrap();
        connect.list_all_domains(0).unwrap().iter().map(|domain| domain.name().unwrap()).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let Ok(vms) = self.libvirt.list() else { return };
        for vm in vms {
            let _ = self.libvirt.delete(vm.id);
        }
        // An agent leaves its filter standing; this one never comes back.
        let table = berth_agent::network::Names::new(&self.config.prefix).table().to_owned();
        let count = format!("{table}_count");
        for (family, table) in [("bridge", &table), ("inet", &table), ("arp", &table), ("inet", &count)] {
            let _ = Command::new("nft").args(["delete", "table", family, table]).output();
        }
    }
}

/// A part of the tiny guest: where `cargo xtask up` leaves it, or where `variable` says.
pub fn tiny(variable: &str, name: &str) -> PathBuf {
    let usual =
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/berth/images").join(name);
    let path = std::env::var_os(variable).map_or_else(usual, PathBuf::from);
    assert!(path.exists(), "{} is missing: `cargo xtask up` builds it, or set {variable}", path.display());
    path
}

/// What a probe boots.
pub fn probe_files() -> ProbeFiles {
    let initrd = Some(tiny("BERTH_TINY_INITRD", "tiny.initrd"));
    ProbeFiles { kernel: tiny("BERTH_TINY_KERNEL", "tiny.vmlinuz"), initrd }
}

/// Where the image `sha256` of a node stands.
pub fn image_path(config: &LibvirtConfig, sha256: &str) -> PathBuf {
    config.images_dir.join(format!("{sha256}.qcow2"))
}

/// A small VM with one network card that asks DHCP.
pub fn spec(image: &str) -> VmSpec {
    VmSpec {
        vcpus: 1,
        memory: ByteSize::mib(128),
        disk: ByteSize::mib(256),
        image: VmImage { sha256: image.to_owned() },
        nics: vec![Nic { mac: "52:54:00:be:00:01".to_owned(), ..Nic::default() }],
        seed: VmSeed {
            hostname: "quay-7".to_owned(),
            ssh_keys: vec![
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKx6wWkNo0XJt5C6n1jvF6m0sVb5zYJ5l0kq2m3n4o5p a@b"
                    .to_owned(),
            ],
            root_password_hash: None,
            user_data: None,
            mounts: Vec::new(),
            name_servers: vec![],
        },
        power: WantedPower::On,
        ..VmSpec::default()
    }
}

/// The NAT network of a node, removed at the end.
pub struct Nat(String);

impl Nat {
    pub fn of(node: &Node) -> Self {
        Self(format!("{}nat", node.config.prefix))
    }
}

impl Drop for Nat {
    fn drop(&mut self) {
        for verb in ["net-destroy", "net-undefine"] {
            let _ = Command::new("virsh").args(["-q", "-c", QEMU, verb, &self.0]).output();
        }
    }
}

/// Waits until `ready` gives something.
pub fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ready() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits for an event of `vm`, and gives its state.
pub fn next_event(events: &mut broadcast::Receiver<VmEvent>, vm: VmId) -> Option<VmState> {
    wait_for("an event", || match events.try_recv() {
        Ok(event) if event.vm == vm => Some(event.state),
        Ok(_) | Err(broadcast::error::TryRecvError::Empty) => None,
        Err(e) => panic!("events: {e}"),
    })
}

/// Runs a program that must succeed.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
