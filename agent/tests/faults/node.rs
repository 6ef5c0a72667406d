//! A node of a test's own: a network, libvirt's daemons and a small disk that nobody else sees, so that all of
//! them may fail. The disk is ext4 on a loop device, mounted where the agent has its data folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use berth_model::VmId;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::libvirt_common::guest::put_file;
use crate::libvirt_common::{EMPTY_IMAGE, READY, TINY, ballast, run, text, tiny, wait_for};
use crate::netns::Namespace;

/// Size of the disk.
const DISK: &str = "1G";
/// What the node's first process does: its own mounts, the daemons, and reaping what they leave.
const FIRST: &str = r#"
set -e
mount --make-rprivate /
mkdir -p "$1/libvirt/lib" "$1/libvirt/log/qemu" "$1/libvirt/cache" "$1/libvirt/etc" "$1/data"
cp -a /etc/libvirt/*.conf "$1/libvirt/etc/"
if [ -d /var/cache/libvirt/qemu ]; then cp -a /var/cache/libvirt/qemu "$1/libvirt/cache/"; fi
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/libvirt /run/lock
mount --bind "$1/libvirt/etc" /etc/libvirt
mount --bind "$1/libvirt/lib" /var/lib/libvirt
mount --bind "$1/libvirt/log" /var/log/libvirt
mount --bind "$1/libvirt/cache" /var/cache/libvirt
mount -o loop "$1/disk.img" "$1/data"
chmod 711 "$1/data"
printf 'lock_manager = "lockd"\n' >>/etc/libvirt/qemu.conf
printf 'file_lockspace_dir = "/var/lib/libvirt/lockd/files"\n' >/etc/libvirt/qemu-lockd.conf
mkdir -p /var/lib/libvirt/lockd/files
virtlogd -d
virtlockd -d
libvirtd -d -p /run/libvirtd.pid
touch "$1/up"
while :; do sleep 3600 & wait $!; done
"#;

/// A node.
pub struct Node {
    /// Its network; `eth0` leads to [`Node::plane`].
    pub space: Namespace,
    /// Where the control plane and the store stand.
    pub plane: Namespace,
    /// Names of its domains begin with it.
    pub prefix: String,
    first: Child,
    pid: u32,
    home: TempDir,
}

impl Node {
    /// Comes up with the tiny image on its disk.
    pub fn start() -> Self {
        let home = tempfile::Builder::new().prefix("berth-faults-").tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let (space, plane) = (Namespace::new(), Namespace::new());
        let peer = plane.name().to_owned();
        space.ip(&format!("link add eth0 type veth peer name eth0 netns {peer}"));
        space.ip("addr add 10.99.0.1/24 dev eth0");
        space.ip("link set eth0 up");
        plane.ip("addr add 10.99.0.2/24 dev eth0");
        plane.ip("link set eth0 up");
        space.ip("link add br0 type bridge");
        space.ip("link set br0 up");
        let image = home.path().join("disk.img");
        run("truncate", &["-s", DISK, text(&image)]);
        run("mkfs.ext4", &["-q", "-m", "0", "-O", "^has_journal", text(&image)]);
        let log = fs::File::create(home.path().join("first.log")).unwrap();
        let first = Command::new("ip")
            .args(["netns", "exec", space.name(), "unshare", "--mount", "--pid", "--ipc", "--fork"])
            .args(["--kill-child", "--mount-proc", "sh", "-c", FIRST, "sh", text(home.path())])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let children = format!("/proc/{0}/task/{0}/children", first.id());
        let pid = wait_for("the node's first process", || {
            fs::read_to_string(&children).unwrap().trim().parse().ok()
        });
        let unique = text(home.path()).rsplit('-').next().unwrap().to_owned();
        let node = Self { space, plane, prefix: format!("f-{unique}-"), first, pid, home };
        wait_for("the node's daemons", || node.home().join("up").exists().then_some(()));
        node.wait_for_libvirt();
        fs::create_dir(node.data().join("images")).unwrap();
        put_file(&tiny("BERTH_TINY_IMAGE", "tiny.qcow2"), &node.image());
        let empty = node.data().join("images").join(format!("{EMPTY_IMAGE}.qcow2"));
        run("qemu-img", &["create", "-q", "-f", "qcow2", text(&empty), "64M"]);
        node
    }

    /// A folder that the node and the test see alike.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The agent's data folder, as the test sees it.
    pub fn data(&self) -> PathBuf {
        let inside = self.home().join("data");
        Path::new(&format!("/proc/{}/root", self.pid)).join(inside.strip_prefix("/").unwrap())
    }

    /// The tiny image's file.
    pub fn image(&self) -> PathBuf {
        self.data().join("images").join(format!("{TINY}.qcow2"))
    }

    /// A file of a VM.
    pub fn file(&self, vm: VmId, name: &str) -> PathBuf {
        self.data().join("vms").join(vm.to_string()).join(name)
    }

    /// A file under the node's root, as the test sees it.
    pub fn root(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid))
    }

    /// A program in the node. Its process here is not its own: see [`child_of`].
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid.to_string(), "-m", "-p", "-n", "-i", program]);
        command
    }

    /// Runs a script in the node, which must succeed.
    pub fn run(&self, script: &str) -> String {
        let said = self.command("sh").args(["-c", script]).output().unwrap();
        assert!(said.status.success(), "{script}: {}", String::from_utf8_lossy(&said.stderr));
        String::from_utf8_lossy(&said.stdout).into_owned()
    }

    /// `virsh …`, past the agent; nothing if that fails.
    pub fn try_virsh(&self, words: &[&str]) -> Option<String> {
        let said = self.command("virsh").args(["-q", "-c", "qemu:///system"]).args(words).output().unwrap();
        said.status.success().then(|| String::from_utf8_lossy(&said.stdout).into_owned())
    }

    /// The same, which must succeed.
    pub fn virsh(&self, words: &[&str]) -> String {
        self.try_virsh(words).unwrap_or_else(|| panic!("virsh {words:?} failed"))
    }

    /// The domain of a VM.
    pub fn domain(&self, vm: VmId) -> String {
        format!("{}{vm}", self.prefix)
    }

    /// A VM's disk, as the node sees it.
    pub fn disk(&self, vm: VmId) -> String {
        format!("{}/data/vms/{vm}/disk.qcow2", text(self.home()))
    }

    /// The tables of a VM's disk are sound, but for what nobody uses yet.
    pub fn check_disk(&self, vm: VmId) {
        self.run(&format!("qemu-img check -q -U {} || [ $? = 3 ]", self.disk(vm)));
    }

    /// Asks a VM's QEMU.
    pub fn monitor(&self, vm: VmId, command: &str) -> Value {
        let words = json!({ "execute": command }).to_string();
        let said = self.virsh(&["qemu-monitor-command", &self.domain(vm), &words]);
        serde_json::from_str::<Value>(&said).unwrap()["return"].take()
    }

    /// `kill -9` of libvirtd.
    pub fn kill_libvirtd(&self) {
        self.run(
            "pid=$(cat /run/libvirtd.pid); kill -9 $pid; while kill -0 $pid 2>/dev/null; do sleep 0.05; done",
        );
    }

    /// Starts it again.
    pub fn start_libvirtd(&self) {
        self.run("libvirtd -d -p /run/libvirtd.pid");
        self.wait_for_libvirt();
    }

    fn wait_for_libvirt(&self) {
        wait_for("libvirt", || self.try_virsh(&["version"]));
    }

    /// Fills the disk to its last block.
    pub fn fill_disk(&self) {
        ballast::fill(&self.data().join("ballast"));
    }

    /// Makes room again.
    pub fn empty_disk(&self) {
        fs::remove_file(self.data().join("ballast")).unwrap();
    }

    /// Waits until a guest came up for the `n`th time.
    pub fn wait_for_boot(&self, vm: VmId, n: usize) {
        let said = || fs::read(self.file(vm, "console.log")).unwrap_or_default();
        let boots = || String::from_utf8_lossy(&said()).matches(READY).count();
        wait_for(READY, || (boots() >= n).then_some(()));
    }

    /// Asks a guest's agent once; nothing when it does not answer in a second.
    pub fn ask(&self, vm: VmId, words: &Value) -> Option<Value> {
        let words = words.to_string();
        let said = self.try_virsh(&["qemu-agent-command", "--timeout", "5", &self.domain(vm), &words])?;
        Some(serde_json::from_str::<Value>(&said).ok()?["return"].take())
    }

    /// Begins a script in a guest; its number.
    pub fn begin_inside(&self, vm: VmId, script: &str) -> Value {
        let exec = json!({"execute": "guest-exec", "arguments": {
            "path": "/bin/sh", "arg": ["-c", script], "capture-output": true,
            "env": ["PATH=/bin:/sbin:/usr/bin:/usr/sbin"],
        }});
        wait_for("the guest's agent", || self.ask(vm, &exec))["pid"].take()
    }

    /// What a script in a guest said at its end.
    pub fn end_inside(&self, vm: VmId, pid: &Value) -> String {
        use base64::Engine as _;
        let status = json!({"execute": "guest-exec-status", "arguments": {"pid": pid}});
        let ended =
            wait_for("the script's end", || self.ask(vm, &status).filter(|status| status["exited"] == true));
        let text = |key: &str| {
            let text = ended[key].as_str().unwrap_or_default();
            let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
            String::from_utf8_lossy(&bytes).trim().to_owned()
        };
        assert_eq!(ended["exitcode"], 0, "{}{}", text("out-data"), text("err-data"));
        text("out-data")
    }

    /// Runs a script in a guest.
    pub fn inside(&self, vm: VmId, script: &str) -> String {
        self.end_inside(vm, &self.begin_inside(vm, script))
    }

    /// Are the guest's file systems frozen?
    pub fn is_frozen(&self, vm: VmId) -> bool {
        let status = json!({"execute": "guest-fsfreeze-status"});
        wait_for("the guest's agent", || self.ask(vm, &status)) == "frozen"
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // With its first process all others of the node end, and its mounts go.
        let _ = Command::new("kill").args(["-9", &self.pid.to_string()]).output();
        let _ = self.first.kill();
        let _ = self.first.wait();
    }
}

/// The one child of a process: what `nsenter` runs in a namespace of processes.
pub fn child_of(pid: u32) -> u32 {
    wait_for("a child", || {
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?.trim().parse().ok()
    })
}
