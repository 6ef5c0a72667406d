//! VMs that move between two nodes: real agents, real guests, two of everything.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod libvirt_common;
#[path = "common/pki.rs"]
mod pki;
mod two_nodes;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use berth_model::agent::{
    MoveArrived, MovePlace, MovePrepare, MoveSend, MoveSent, NicAddress, Run, RunList, Vm, VmSpec, VmState,
    WantedPower,
};
use berth_model::error::ApiError;
use berth_model::{ByteSize, ErrorCode};
use libvirt_common::{PATIENCE, spec, wait_for};
use two_nodes::{Lab, TestNode};

/// The name of the tiny image in these tests; nobody here checks it.
const TINY: &str = "71717171717171717171717171717171717171717171717171717171717171aa";
const VM: i64 = 7;
const GUEST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 99, 0, 50)), 80);
/// Longest that a guest may stand still.
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// Post-copy needs a QEMU that may handle the faults of others: with its capabilities, or by the node's
/// `vm.unprivileged_userfaultfd`.
const QEMU_MAY_POST_COPY: &str = "user = \"root\"\ngroup = \"root\"\nclear_emulator_capabilities = 0\n";

/// A page that counts without end, another that reads the disk anew, and a marker on the disk.
const COUNT: &str = "#!/bin/sh
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
E
chmod 755 /root/www/cgi-bin/*
[ -f /root/blob ] || dd if=/dev/urandom of=/root/blob bs=64k count=64 2>/dev/null
[ -f /root/sum ] || md5sum </root/blob >/root/sum
sync
echo the guest counts >/dev/ttyS0
";

fn tiny() -> PathBuf {
    let usual =
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/berth/images/tiny.qcow2");
    let path = std::env::var_os("BERTH_TINY_IMAGE").map_or_else(usual, PathBuf::from);
    assert!(path.exists(), "{} is missing: `cargo xtask up` builds it", path.display());
    path
}

fn guest_spec() -> VmSpec {
    let mut spec = VmSpec { disk: ByteSize::mib(128), ..spec(TINY) };
    spec.nics[0].addresses = vec![NicAddress { ip: GUEST.ip(), prefix: 24, gateway: None }];
    spec.seed.user_data = Some(COUNT.to_owned());
    spec
}

fn two(lab: &Lab) -> (TestNode, TestNode) {
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

fn path(what: &str) -> String {
    format!("/v1/vms/{VM}{what}")
}

fn show(node: &TestNode) -> Result<Vm, ApiError> {
    node.ask("GET", &path(""), &())
}

fn put(node: &TestNode, spec: &VmSpec) -> Result<Vm, ApiError> {
    node.ask("PUT", &path(""), spec)
}

fn prepare(node: &TestNode, spec: &VmSpec) -> Result<MovePlace, ApiError> {
    node.ask("POST", &path("/move/prepare"), &MovePrepare { spec: spec.clone() })
}

fn order(to: &TestNode, place: &MovePlace) -> MoveSend {
    MoveSend {
        host: to.address.to_string(),
        to: place.clone(),
        auto_converge: true,
        post_copy: false,
        bandwidth_mib_s: None,
        allow_unsafe: false,
    }
}

fn send(from: &TestNode, order: &MoveSend) -> Result<MoveSent, ApiError> {
    from.ask("POST", &path("/move/send"), order)
}

fn finish(node: &TestNode) -> Result<MoveArrived, ApiError> {
    node.ask("POST", &path("/move/finish"), &serde_json::json!({}))
}

fn abort(node: &TestNode) -> Result<(), ApiError> {
    node.ask("POST", &path("/move/abort"), &serde_json::json!({}))
}

fn power_off(node: &TestNode) {
    node.ask::<Vm>("POST", &path("/power_off"), &serde_json::json!({})).unwrap();
}

fn counts(node: &TestNode) {
    wait_for("the guest to count", || node.console(VM).contains("the guest counts").then_some(()));
}

/// A page of the guest, over the nodes' network.
fn page(lab: &Lab, name: &'static str) -> String {
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

/// What the guest wrote is what it reads from its disk.
fn assert_disk_is_whole(lab: &Lab) {
    let page = page(lab, "/cgi-bin/disk");
    let sums: Vec<_> = page.lines().filter(|line| line.ends_with('-')).collect();
    assert!(sums.len() == 2 && sums[0] == sums[1], "{page}");
}

/// A TCP stream from the guest that goes on through everything.
struct Stream {
    last: Arc<AtomicU64>,
    longest: Arc<Mutex<Duration>>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Stream {
    fn open(lab: &Lab) -> Self {
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
    fn goes_on(&self) {
        let before = self.last.load(Ordering::Relaxed);
        wait_for("the stream to go on", || {
            (self.thread.is_finished() || self.last.load(Ordering::Relaxed) > before + 5).then_some(())
        });
    }

    /// Its longest silence.
    fn close(self) -> Duration {
        self.goes_on();
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        *self.longest.lock().unwrap()
    }
}

#[test]
fn a_guest_moves_while_it_works_and_moves_back_while_it_is_off() {
    let _proof =
        berth_agent::proof::guest(&["moving.prepare", "moving.send", "moving.finish", "moving.abort"]);
    let lab = Lab::with_qemu_conf(QEMU_MAY_POST_COPY);
    let (a, b) = two(&lab);
    let spec = guest_spec();
    let began = put(&a, &spec).unwrap().started;
    counts(&a);
    let stream = Stream::open(&lab);

    // Nothing comes where it is already, and nothing else may touch what is awaited.
    assert_eq!(prepare(&a, &spec).unwrap_err().code, ErrorCode::Conflict);
    let place = prepare(&b, &spec).unwrap();
    assert_eq!(prepare(&b, &spec).unwrap(), place);
    assert_eq!(put(&b, &spec).unwrap_err().code, ErrorCode::Conflict);
    assert_eq!(finish(&b).unwrap_err().code, ErrorCode::Conflict);
    abort(&b).unwrap();
    abort(&b).unwrap();
    b.assert_clean();

    // Live: disk and memory.
    let place = prepare(&b, &spec).unwrap();
    let stale = MovePlace { secret: "0".repeat(64), ..place.clone() };
    assert_eq!(send(&a, &order(&b, &stale)).unwrap_err().code, ErrorCode::Unavailable);
    let sent = send(&a, &order(&b, &place)).unwrap();
    assert!(sent.live, "{sent:?}");
    a.assert_clean();
    assert_eq!(show(&a).unwrap_err().code, ErrorCode::NotFound);
    // Told again before and after it is finished.
    send(&a, &order(&b, &place)).unwrap();
    assert_eq!(abort(&b).unwrap_err().code, ErrorCode::Conflict);
    let arrived = finish(&b).unwrap();
    assert_eq!((arrived.vm.state, arrived.vm.spec.as_ref()), (VmState::Running, Some(&spec)));
    assert_eq!(arrived.vm.started, began);
    assert_eq!(finish(&b).unwrap(), arrived);
    assert_eq!(show(&b).unwrap(), arrived.vm);
    let silence = stream.close();
    let pause = Duration::from_millis(arrived.pause_ms.expect("libvirt measured the pause"));
    println!("pause {pause:?}, longest silence {silence:?}");
    assert!(pause < PAUSE_MAX && silence < PAUSE_MAX, "{pause:?}, {silence:?}");
    assert_disk_is_whole(&lab);

    // Back, off: the disk's file.
    power_off(&b);
    let place = prepare(&a, &spec).unwrap();
    let sent = send(&b, &order(&a, &place)).unwrap();
    assert!(!sent.live && sent.sent_bytes > 4 << 20, "{sent:?}");
    b.assert_clean();
    let arrived = finish(&a).unwrap();
    assert_eq!((arrived.vm.state, arrived.pause_ms), (VmState::Off, None));
    a.ask::<Vm>("POST", &path("/start"), &serde_json::json!({})).unwrap();
    assert_disk_is_whole(&lab);

    // Live once more, by post-copy.
    let place = prepare(&b, &spec).unwrap();
    send(&a, &MoveSend { post_copy: true, ..order(&b, &place) }).unwrap();
    assert_eq!(finish(&b).unwrap().vm.state, VmState::Running);
    assert_disk_is_whole(&lab);
    for node in [&a, &b] {
        node.ask::<()>("DELETE", &path(""), &serde_json::json!({})).unwrap();
        node.assert_clean();
    }
}

/// Sends slowly, and calls `cut` in the middle of it.
fn cut_midway(from: &TestNode, order: &MoveSend, cut: impl FnOnce(&Run)) -> ApiError {
    let slow = MoveSend { bandwidth_mib_s: Some(1), ..order.clone() };
    std::thread::scope(|scope| {
        let sent = scope.spawn(move || send(from, &slow));
        let run = wait_for("the move to be under way", || {
            assert!(!sent.is_finished(), "it ended already");
            let runs: RunList = from.ask("GET", "/v1/runs", &()).unwrap();
            let moving = |run: &Run| {
                run.ended.is_none() && run.progress.as_ref().is_some_and(|p| p.total > 0 && p.done > 0)
            };
            runs.runs.into_iter().find(|run| run.function == "moving.send" && moving(run))
        });
        cut(&run);
        sent.join().unwrap().unwrap_err()
    })
}

#[test]
fn a_move_that_is_cut_off_leaves_the_guest_where_it_was() {
    let _proof = berth_agent::proof::guest(&["moving.send", "moving.abort", "moving.finish"]);
    let lab = Lab::new();
    let (mut a, mut b) = two(&lab);
    let spec = guest_spec();
    put(&a, &spec).unwrap();
    counts(&a);
    let stream = Stream::open(&lab);

    // Cancelled.
    let place = prepare(&b, &spec).unwrap();
    let error = cut_midway(&a, &order(&b, &place), |run| {
        a.ask::<Run>("POST", &format!("/v1/runs/{}/cancel", run.id), &serde_json::json!({})).unwrap();
    });
    assert!(error.message.contains("cancelled"), "{error:?}");
    assert_eq!(show(&a).unwrap().state, VmState::Running);
    stream.goes_on();
    abort(&b).unwrap();
    b.assert_clean();

    // The source's agent dies in the middle, and goes on when it is told again.
    let place = prepare(&b, &spec).unwrap();
    a.restart_agent("move.after_copy=kill");
    send(&a, &order(&b, &place)).unwrap_err();
    a.agent_died();
    send(&a, &order(&b, &place)).unwrap();
    a.assert_clean();
    // The target's dies as it takes the VM over.
    b.restart_agent("move.after_adopt=kill");
    finish(&b).unwrap_err();
    b.agent_died();
    assert_eq!(finish(&b).unwrap().vm.state, VmState::Running);
    stream.goes_on();

    // The other node loses power in the middle.
    let place = prepare(&a, &spec).unwrap();
    let order_back = order(&a, &place);
    let stop = Mutex::new(&mut a);
    cut_midway(&b, &order_back, |_| stop.lock().unwrap().pull_the_plug());
    assert_eq!(show(&b).unwrap().state, VmState::Running);
    let silence = stream.close();
    println!("longest silence {silence:?}");
    assert_disk_is_whole(&lab);
    b.ask::<()>("DELETE", &path(""), &serde_json::json!({})).unwrap();
    b.assert_clean();
}

#[test]
fn an_agent_that_is_killed_at_any_step_of_a_move_ends_it_when_told_again() {
    let _proof =
        berth_agent::proof::driver(&["moving.prepare", "moving.send", "moving.finish", "moving.abort"]);
    let lab = Lab::new();
    let (mut a, mut b) = two(&lab);
    let spec = VmSpec { power: WantedPower::Off, ..guest_spec() };
    put(&a, &spec).unwrap();
    for point in ["move.after_note", "move.after_room"] {
        b.restart_agent(&format!("{point}=kill"));
        prepare(&b, &spec).unwrap_err();
        b.agent_died();
    }
    prepare(&b, &spec).unwrap();
    b.restart_agent("move.after_clear=kill");
    abort(&b).unwrap_err();
    b.agent_died();
    abort(&b).unwrap();
    b.assert_clean();

    let place = prepare(&b, &spec).unwrap();
    for point in ["move.after_leaving", "move.after_copy", "move.after_undefine", "move.after_left"] {
        a.restart_agent(&format!("{point}=kill"));
        assert!(send(&a, &order(&b, &place)).is_err(), "{point}");
        a.agent_died();
    }
    send(&a, &order(&b, &place)).unwrap();
    a.assert_clean();
    b.restart_agent("move.after_adopt=kill");
    finish(&b).unwrap_err();
    b.agent_died();
    let arrived = finish(&b).unwrap();
    assert_eq!((arrived.vm.state, arrived.vm.spec.as_ref()), (VmState::Off, Some(&spec)));
    b.ask::<()>("DELETE", &path(""), &serde_json::json!({})).unwrap();
    b.assert_clean();
}
