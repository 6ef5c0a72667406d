//! What moves between two nodes are tested with: a guest that works, and the calls.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use berth_model::ByteSize;
use berth_model::agent::{
    MOVE_KEEP_S, MoveArrived, MovePlace, MovePrepare, MoveSend, MoveSent, NicAddress, Run, RunList, Vm,
    VmSpec, VmState, Volume,
};
use berth_model::error::ApiError;

use super::{Lab, TestNode};
use crate::libvirt_common::{PATIENCE, spec, wait_for};

/// The name of the tiny image in these tests; nobody here checks it.
pub const TINY: &str = "71717171717171717171717171717171717171717171717171717171717171aa";
pub const VM: i64 = 7;
pub const GUEST: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 99, 0, 50)), 80);

/// A page that counts without end, one that reads the disk anew, two that hold the guest's agent and let it go on,
/// and a marker on the disk.
pub const COUNT: &str = "#!/bin/sh
mkdir -p /root/www/cgi-bin
cat >/root/www/cgi-bin/count <<'E'
#!/bin/sh
printf 'Content-type: text/plain\\r\\n\\r\\n'
n=0
while :; do n=$((n+1)); echo $n; sleep 0.05; done
E
cat >/root/www/cgi-bin/disk <<'E'
#!/bin/sh
printf 'Content-type: text/plain\\r\\n\\r\\n'
sync
echo 3 >/proc/sys/vm/drop_caches
md5sum </root/blob
cat /root/sum
modprobe -a virtio_scsi sd_mod
for volume in 5 6 9; do
  for d in /sys/block/sd*; do
    grep -aq \"volume-$volume$\" $d/device/vpd_pg80 || continue
    disk=/dev/${d##*/}
    [ $volume = 6 ] || [ -n \"$(dd if=$disk bs=9 count=1 2>/dev/null | tr -d '\\0')\" ] ||
      printf \"cargo %03d\" $volume | dd of=$disk bs=9 conv=notrunc,fsync 2>/dev/null
    echo \"volume $volume: $(dd if=$disk bs=64k count=64 2>/dev/null | md5sum)\"
  done
done
E
for word in STOP CONT; do
cat >/root/www/cgi-bin/agent-$word <<E
#!/bin/sh
printf 'Content-type: text/plain\\r\\n\\r\\n'
kill -$word \\$(cat /run/qemu-ga.pid)
E
done
chmod 755 /root/www/cgi-bin/*
[ -f /root/blob ] || dd if=/dev/urandom of=/root/blob bs=64k count=64 2>/dev/null
[ -f /root/sum ] || md5sum </root/blob >/root/sum
sync
echo the guest counts >/dev/ttyS0
";

pub fn tiny() -> PathBuf {
    let usual =
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/berth/images/tiny.qcow2");
    let path = std::env::var_os("BERTH_TINY_IMAGE").map_or_else(usual, PathBuf::from);
    assert!(path.exists(), "{} is missing: `cargo xtask up` builds it", path.display());
    path
}

pub fn guest_spec() -> VmSpec {
    let mut spec = VmSpec { disk: ByteSize::mib(128), ..spec(TINY) };
    spec.nics[0].addresses = vec![NicAddress { ip: GUEST.ip(), prefix: 24, gateway: None }];
    spec.seed.user_data = Some(COUNT.to_owned());
    spec
}

pub fn two(lab: &Lab) -> (TestNode, TestNode) {
    let (a, b) = std::thread::scope(|scope| {
        let a = scope.spawn(|| TestNode::up(lab, 1));
        let b = scope.spawn(|| TestNode::up(lab, 2));
        (a.join().unwrap(), b.join().unwrap())
    });
    for node in [&a, &b] {
        node.image(TINY, &tiny());
    }
    (a, b)
}

pub fn nothing() -> serde_json::Value {
    serde_json::json!({})
}

pub fn path(vm: i64, what: &str) -> String {
    format!("/v1/vms/{vm}{what}")
}

pub fn show(node: &TestNode) -> Result<Vm, ApiError> {
    node.ask("GET", &path(VM, ""), &())
}

pub fn put(node: &TestNode, spec: &VmSpec) -> Result<Vm, ApiError> {
    node.ask("PUT", &path(VM, ""), spec)
}

pub fn delete(node: &TestNode, vm: i64) {
    node.ask::<()>("DELETE", &path(vm, ""), &nothing()).unwrap();
}

pub fn volume(node: &TestNode, id: i64) -> Result<Volume, ApiError> {
    node.ask("GET", &format!("/v1/volumes/{id}"), &())
}

/// Room for `spec` with its volumes, as `from` tells of them.
pub fn room(from: &TestNode, spec: &VmSpec) -> MovePrepare {
    let volumes = spec.volumes.iter().map(|attachment| volume(from, attachment.volume.0).unwrap()).collect();
    MovePrepare { spec: spec.clone(), volumes, keep_s: MOVE_KEEP_S }
}

pub fn prepare(node: &TestNode, asked: &MovePrepare) -> Result<MovePlace, ApiError> {
    node.ask("POST", &path(VM, "/move/prepare"), asked)
}

pub fn order(to: &TestNode, place: &MovePlace) -> MoveSend {
    MoveSend {
        host: to.address.to_string(),
        to: place.clone(),
        auto_converge: true,
        post_copy: false,
        bandwidth_mib_s: None,
        // ext4 is on one node only, and libvirt knows it.
        allow_unsafe: true,
    }
}

pub fn send(from: &TestNode, order: &MoveSend) -> Result<MoveSent, ApiError> {
    from.ask("POST", &path(VM, "/move/send"), order)
}

pub fn finish(node: &TestNode) -> Result<MoveArrived, ApiError> {
    node.ask("POST", &path(VM, "/move/finish"), &nothing())
}

pub fn abort(node: &TestNode) -> Result<(), ApiError> {
    node.ask("POST", &path(VM, "/move/abort"), &nothing())
}

pub fn power_off(node: &TestNode) {
    node.ask::<Vm>("POST", &path(VM, "/power_off"), &nothing()).unwrap();
}

pub fn counts(node: &TestNode) {
    wait_for("the guest to count", || node.console(VM).contains("the guest counts").then_some(()));
}

/// A page of the guest, over the nodes' network.
pub fn page(lab: &Lab, name: &'static str) -> String {
    let page = lab.on_network(move || {
        wait_for("the guest's page", || {
            let mut guest = TcpStream::connect_timeout(&GUEST, Duration::from_secs(2)).ok()?;
            guest.set_read_timeout(Some(PATIENCE)).unwrap();
            write!(guest, "GET {name} HTTP/1.0\r\n\r\n").ok()?;
            let mut page = String::new();
            guest.read_to_string(&mut page).ok()?;
            page.contains("200 OK").then_some(page)
        })
    });
    page.join().unwrap()
}

/// What the guest wrote is what it reads from its disk; what it reads from its volumes.
pub fn assert_disk_is_whole(lab: &Lab) -> Vec<String> {
    let page = page(lab, "/cgi-bin/disk");
    let (volumes, sums): (Vec<_>, Vec<_>) =
        page.lines().filter(|line| line.ends_with('-')).partition(|line| line.starts_with("volume"));
    assert!(sums.len() == 2 && sums[0] == sums[1], "{page}");
    volumes.into_iter().map(str::to_owned).collect()
}

/// A TCP stream from the guest that goes on through everything.
pub struct Stream {
    last: Arc<AtomicU64>,
    longest: Arc<Mutex<Duration>>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Stream {
    pub fn open(lab: &Lab) -> Self {
        let (last, longest) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Duration::ZERO)));
        let stop = Arc::new(AtomicBool::new(false));
        let (ours, longest_here, stop_here) = (Arc::clone(&last), Arc::clone(&longest), Arc::clone(&stop));
        let thread = lab.on_network(move || {
            let mut guest = TcpStream::connect_timeout(&GUEST, PATIENCE).unwrap();
            guest.set_read_timeout(Some(PATIENCE)).unwrap();
            guest.write_all(b"GET /cgi-bin/count HTTP/1.0\r\n\r\n").unwrap();
            let mut at = None;
            for line in BufReader::new(guest).lines() {
                let Ok(count) = line.unwrap().trim().parse::<u64>() else { continue };
                assert_eq!(count, ours.load(Ordering::Relaxed) + 1, "the guest counts without a gap");
                let now = Instant::now();
                let gap = at.replace(now).map_or(Duration::ZERO, |before| now - before);
                let mut longest = longest_here.lock().unwrap();
                *longest = gap.max(*longest);
                ours.store(count, Ordering::Relaxed);
                if stop_here.load(Ordering::Relaxed) {
                    return;
                }
            }
            panic!("the stream ended");
        });
        let stream = Self { last, longest, stop, thread };
        stream.goes_on();
        stream
    }

    /// Waits until the guest has counted on.
    pub fn goes_on(&self) {
        let before = self.last.load(Ordering::Relaxed);
        wait_for("the stream to go on", || {
            (self.thread.is_finished() || self.last.load(Ordering::Relaxed) > before + 5).then_some(())
        });
    }

    /// Its longest silence.
    pub fn close(self) -> Duration {
        self.goes_on();
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        *self.longest.lock().unwrap()
    }
}

/// Sends slowly, and calls `cut` in the middle of it.
pub fn cut_midway(from: &TestNode, order: &MoveSend, cut: impl FnOnce(&Run)) -> ApiError {
    midway(from, &MoveSend { bandwidth_mib_s: Some(1), ..order.clone() }, cut).unwrap_err()
}

/// Sends, and calls `act` in the middle of it.
pub fn midway(from: &TestNode, order: &MoveSend, act: impl FnOnce(&Run)) -> Result<MoveSent, ApiError> {
    std::thread::scope(|scope| {
        let mut sent = Some(scope.spawn(move || send(from, order)));
        let run = wait_for("the move to be under way", || {
            if let Some(ended) = sent.take_if(|sent| sent.is_finished()) {
                panic!("it ended already: {:?}", ended.join().unwrap());
            }
            let runs: RunList = from.ask("GET", "/v1/runs", &()).unwrap();
            let moving = |run: &Run| {
                run.ended.is_none() && run.progress.as_ref().is_some_and(|p| p.total > 0 && p.done > 0)
            };
            runs.runs.into_iter().find(|run| run.function == "moving.send" && moving(run))
        });
        act(&run);
        sent.take().unwrap().join().unwrap()
    })
}

/// After a move came to nothing: the guest runs on where it was, and nothing of it is on the other node.
pub fn assert_stayed(from: &TestNode, to: &TestNode, stream: &Stream) {
    assert_eq!(show(from).unwrap().state, VmState::Running);
    stream.goes_on();
    // A libvirt that came anew has to find out first what it may drop.
    wait_for("the other node to be cleared", || abort(to).ok());
    to.assert_clean();
}
