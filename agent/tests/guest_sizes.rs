//! Sizes, limits, samples and what goes on inside: on libvirt's test driver and in real guests.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod libvirt_common;

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use berth_agent::guest::{Freezes, Guest};
use berth_agent::hypervisor::libvirt::GuestNetwork;
use berth_agent::hypervisor::{Hypervisor, HypervisorError};
use berth_agent::sizes::resized;
use berth_model::agent::{
    CounterSample, GuestPassword, GuestSshKeys, HoldsFrom, PowerVerb, Vm, VmLimits, VmResize, VmSpec,
    WantedPower,
};
use berth_model::{ByteSize, VmId};
use libvirt_common::{EMPTY_IMAGE, Node, QEMU, TINY, run, spec, wait_for};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// After how long what was typed counts as lost.
const TYPE_AGAIN: Duration = Duration::from_secs(10);
const ID: VmId = VmId(7);
/// Of the password “quay side”.
const HASH: &str =
    "$6$berthsalt$stYFEBZMtFIxMuf86ShToajVQfDwF1XhccngBdeLI3tQ9ALD7.P6STatdbihjSMkLrX9O0EJIdLEzmRE25q8P1";
/// Writes to the disk and says so, again and again.
const WRITER: &str = "#!/bin/sh
n=0
while :; do
	n=$((n + 1))
	echo $n >/disk/beat && sync && echo \"beat $n\" >/dev/ttyS0
	sleep 0.2
done
";

/// Runs a script inside the guest, and gives what it said.
fn inside(node: &Node, script: &str) -> String {
    let words = json!({"execute": "guest-exec", "arguments": {
        "path": "/bin/sh", "arg": ["-c", script], "env": ["PATH=/bin:/sbin"], "capture-output": true,
    }});
    let patience = Duration::from_secs(20);
    let ask =
        |words: &Value| wait_for("the guest agent", || node.libvirt.ask_guest(ID, words, patience).ok());
    let pid = ask(&words)["pid"].clone();
    let words = json!({"execute": "guest-exec-status", "arguments": {"pid": pid}});
    let done = wait_for("the script", || Some(ask(&words)).filter(|status| status["exited"] == true));
    let said = BASE64.decode(done["out-data"].as_str().unwrap_or_default()).unwrap();
    String::from_utf8(said).unwrap().trim().to_owned()
}

/// What the guest agent says in the end: on a loaded machine it may not answer at first.
fn told<T>(mut ask: impl FnMut() -> Result<T, HypervisorError>) -> T {
    wait_for("the guest agent", || match ask() {
        Ok(answer) => Some(answer),
        Err(HypervisorError::Unavailable(_)) => None,
        Err(e) => panic!("{e}"),
    })
}

fn number(node: &Node, script: &str) -> u64 {
    inside(node, script).parse().unwrap()
}

fn resize(node: &Node, wanted: &VmResize) -> Vm {
    let before = node.libvirt.get(ID).unwrap().spec.unwrap();
    let after = resized(VmSpec { power: WantedPower::Keep, ..before }, wanted);
    node.libvirt.put(ID, &after).unwrap()
}

fn limit(node: &Node, limits: VmLimits) -> Vm {
    let before = node.libvirt.get(ID).unwrap().spec.unwrap();
    node.libvirt.put(ID, &VmSpec { power: WantedPower::Keep, limits, ..before }).unwrap()
}

fn sample(node: &Node) -> CounterSample {
    let sample = || node.libvirt.counters().unwrap().into_iter().find(|sample| sample.vm == ID);
    wait_for("a sample", sample)
}

#[test]
fn a_running_guest_changes_its_size_and_sees_it() {
    let _proof = berth_agent::proof::guest(&["vm.resize"]);
    let node = Node::tiny(GuestNetwork::User);
    let roomy = VmSpec { vcpus_max: Some(3), memory_max: Some(ByteSize::mib(192)), ..spec(TINY) };
    let made = node.libvirt.put(ID, &roomy).unwrap();
    node.wait_for_boot(ID, 1);
    let settled = || node.libvirt.get(ID).unwrap().pending.is_empty().then_some(());
    wait_for("the balloon", settled);
    const CPUS: &str = "cat /sys/devices/system/cpu/online";
    const MEMORY: &str = "awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo";
    assert_eq!(inside(&node, CPUS), "0");
    let memory = number(&node, MEMORY);

    // Up, all at once, and told twice.
    let larger = VmResize {
        vcpus: Some(2),
        memory: Some(ByteSize::mib(192)),
        disk: Some(ByteSize::mib(512)),
        ..VmResize::default()
    };
    for _ in 0..2 {
        let grown = resize(&node, &larger);
        assert_eq!((grown.pending, grown.started), (vec![], made.started));
    }
    assert_eq!(inside(&node, CPUS), "0-1");
    assert!(number(&node, MEMORY) >= memory + 48, "{memory} MiB before");
    assert_eq!(number(&node, "cat /sys/block/vda/size") * 512, ByteSize::mib(512).bytes());
    assert!(number(&node, "df -m /disk | awk 'NR == 2 { print $2 }'") > 450);

    // Down.
    let smaller = VmResize { vcpus: Some(1), memory: Some(ByteSize::mib(128)), ..VmResize::default() };
    // Without KVM a CPU stays until the next start.
    wait_for("the guest to give back", || (resize(&node, &smaller).pending == ["vcpus"]).then_some(()));
    assert_eq!(inside(&node, CPUS), "0-1");
    assert!(number(&node, MEMORY) <= memory + 2);

    // A disk never shrinks, and what is refused changes nothing.
    let before = node.libvirt.get(ID).unwrap();
    let shrunk = VmSpec { disk: ByteSize::mib(256), ..before.spec.clone().unwrap() };
    assert!(
        matches!(node.libvirt.put(ID, &shrunk), Err(HypervisorError::Invalid(fault)) if fault.name == "disk")
    );
    assert_eq!(node.libvirt.get(ID).unwrap(), before);

    // Beyond its room it waits for the next start, and says so.
    let beyond = VmResize { vcpus: Some(4), memory: Some(ByteSize::mib(224)), ..VmResize::default() };
    let waits = ["vcpus", "memory", "vcpus_max", "memory_max"];
    assert_eq!(resize(&node, &beyond).pending, waits);
    assert_eq!(node.libvirt.get(ID).unwrap().pending, waits);
    node.libvirt.power(ID, PowerVerb::PowerOff).unwrap();
    node.libvirt.power(ID, PowerVerb::Start).unwrap();
    node.wait_for_boot(ID, 2);
    wait_for("the balloon", settled);
    assert_eq!(inside(&node, CPUS), "0-3");
    assert!(number(&node, MEMORY) >= memory + 70);
}

#[test]
fn a_running_guest_is_limited_and_its_use_is_counted() {
    let _proof = berth_agent::proof::guest(&["vm.limits", "samples.get"]);
    let node = Node::tiny(GuestNetwork::User);
    node.libvirt.put(ID, &spec(TINY)).unwrap();
    node.wait_for_boot(ID, 1);
    // By the guest's own clock, so that only the reading itself counts.
    const READS: u32 = 80;
    let read = || {
        let read = format!("dd if=/dev/vda of=/dev/null bs=4k count={READS} iflag=direct");
        number(
            &node,
            &format!(
                "read a _ </proc/uptime; {read}; read b _ </proc/uptime; echo $((${{b/./}}0 - ${{a/./}}0))"
            ),
        )
    };
    let free_ms = read();
    let slow = VmLimits { disk_read_iops: Some(20), ..VmLimits::default() };
    assert_eq!(limit(&node, slow.clone()).pending, [""; 0]);
    let before = sample(&node);
    let limited_ms = read();
    let after = sample(&node);
    // 80 at 20 a second take 4 s, but for what may be saved up.
    assert!(limited_ms > 2500, "{free_ms} ms without a limit, {limited_ms} ms with it");
    let (before_vda, vda) = (&before.disks[0], &after.disks[0]);
    assert_eq!(vda.name, "vda");
    assert!(vda.read_ops >= before_vda.read_ops + u64::from(READS), "{vda:?}");
    assert!(vda.read_bytes >= before_vda.read_bytes + u64::from(READS) * 4096, "{vda:?}");
    assert!(vda.read_ns > before_vda.read_ns, "{vda:?}");
    assert!(
        after.memory.guest_total_bytes.is_some_and(|total| total < ByteSize::mib(128).bytes()),
        "{after:?}"
    );
    assert!(after.memory.resident_bytes > 0 && after.memory.balloon_bytes == ByteSize::mib(128).bytes());

    // A tenth of a core, however much it wants.
    assert_eq!(limit(&node, VmLimits { cpu_percent: Some(10), ..VmLimits::default() }).pending, [""; 0]);
    inside(&node, "(while :; do :; done) >/dev/null 2>&1 </dev/null &");
    let before = sample(&node);
    std::thread::sleep(Duration::from_secs(3));
    let after = sample(&node);
    let span_ns = (after.at.unix_ms() - before.at.unix_ms()) * 1_000_000;
    let share = (after.cpu_ns - before.cpu_ns) as f64 / span_ns as f64;
    assert!(share < 0.25, "{share} of a core");
    assert!(after.cpu_ns > before.cpu_ns);

    // Nothing is left of limits that are taken away.
    assert_eq!(limit(&node, VmLimits::default()).pending, [""; 0]);
    let live = run("virsh", &["-c", QEMU, "dumpxml", &format!("{}{ID}", node.config.prefix)]);
    assert!(!live.contains("iops_sec") && !live.contains(">10000</global_quota>"), "{live}");
}

#[test]
fn a_guest_is_told_and_asked_through_its_agent() {
    let _proof = berth_agent::proof::guest(&[
        "guest.info",
        "guest.set_password",
        "guest.set_ssh_keys",
        "guest.set_hostname",
        "guest.trim",
        "guest.sync_time",
    ]);
    let node = Node::tiny(GuestNetwork::User);
    node.libvirt.put(ID, &spec(TINY)).unwrap();
    node.wait_for_boot(ID, 1);
    let guest = Guest::of(&node.libvirt, ID);

    let info = told(|| guest.info());
    assert_eq!(info.os.as_ref().map(|os| os.id.as_str()), Some("tiny"));
    assert_eq!(info.os.unwrap().kernel, inside(&node, "uname -r"));
    assert_eq!((info.hostname.as_deref(), info.utc_offset_s), (Some("quay-7"), Some(0)));
    assert!(info.file_systems.iter().any(|fs| fs.mounted_at == "/disk" && fs.size > Some(ByteSize::mib(40))));
    let card = info.interfaces.iter().find(|card| card.mac.as_deref() == Some("52:54:00:be:00:01")).unwrap();
    assert!(card.addresses.iter().any(|address| address.ip.is_ipv4()), "{card:?}");

    let keys = ["ssh-ed25519 AAAAnew1 x@y", "ssh-ed25519 AAAAnew2 z"].map(str::to_owned).to_vec();
    let wanted = GuestSshKeys { user: "root".to_owned(), ssh_keys: keys.clone() };
    for _ in 0..2 {
        told(|| guest.set_ssh_keys(&wanted));
        assert_eq!(inside(&node, "cat /root/.ssh/authorized_keys").lines().collect::<Vec<_>>(), keys);
    }
    let nobody = GuestSshKeys { user: "nobody-here".to_owned(), ..wanted };
    let refused = wait_for("the guest agent", || match guest.set_ssh_keys(&nobody) {
        Err(HypervisorError::Unavailable(_)) => None,
        other => Some(other),
    });
    assert!(matches!(refused, Err(HypervisorError::Failed(_))), "{refused:?}");

    let set = told(|| guest.set_hostname("pier-9"));
    assert_eq!(set.holds_from, HoldsFrom::Now);
    assert_eq!(inside(&node, "hostname; cat /etc/hostname"), "pier-9\npier-9");

    let synced = told(|| {
        inside(&node, "date -s @1700000000");
        guest.sync_time()
    });
    assert!(synced.ahead_before_ms < -1_000_000_000 && synced.ahead_ms.abs() <= 2000, "{synced:?}");
    assert!(number(&node, "date +%s") > 1_790_000_000);

    let trimmed = told(|| {
        inside(&node, "dd if=/dev/urandom of=/disk/much bs=1M count=16; sync; rm /disk/much; sync");
        guest.trim()
    });
    let disk = trimmed.file_systems.iter().find(|fs| fs.mounted_at == "/disk").unwrap();
    let root = trimmed.file_systems.iter().find(|fs| fs.mounted_at == "/root");
    let bytes = disk.trimmed.bytes() + root.map_or(0, |fs| fs.trimmed.bytes());
    assert!(bytes >= ByteSize::mib(16).bytes(), "{trimmed:?}");

    let password = GuestPassword { user: "root".to_owned(), password_hash: HASH.to_owned() };
    told(|| guest.set_password(&password));
    let mut line = serial(&node);
    // login(1) throws away what is typed before it listens, so what is not heard is typed again.
    let mut type_until = |typed: &str, heard: &str| {
        let before = node.console(ID).len();
        let mut typed_at = None;
        wait_for(heard, || {
            if typed_at.is_none_or(|at: Instant| at.elapsed() > TYPE_AGAIN) {
                line.write_all(typed.as_bytes()).unwrap();
                typed_at = Some(Instant::now());
            }
            node.console(ID)[before..].contains(heard).then_some(())
        });
    };
    type_until("\n", "login: ");
    type_until("root\n", "assword: ");
    type_until("quay side\n", "root@");
    type_until("echo I am $(whoami), let in\n", "I am root, let in");

    // A guest agent that hangs costs a bounded time, and is named.
    type_until("kill -STOP $(pidof qemu-ga); echo stopped $(echo it)\n", "stopped it");
    let began = Instant::now();
    let silent = guest.info().unwrap_err();
    assert!(
        matches!(&silent, HypervisorError::Unavailable(said) if said.contains("guest agent")),
        "{silent}"
    );
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

/// The guest's serial line, as somebody types on it.
fn serial(node: &Node) -> Box<dyn Write> {
    let xml = run("virsh", &["-c", QEMU, "dumpxml", &format!("{}{ID}", node.config.prefix)]);
    let serial = &xml[xml.find("<serial ").unwrap()..];
    let path = serial.split("path='").nth(1).unwrap().split('\'').next().unwrap();
    if serial.starts_with("<serial type='unix'") {
        let line = UnixStream::connect(path).unwrap();
        // Nobody reads the other end, and QEMU waits when a few hundred writes lie in between.
        let mut heard = line.try_clone().unwrap();
        std::thread::spawn(move || std::io::copy(&mut heard, &mut std::io::sink()));
        return Box::new(line);
    }
    Box::new(OpenOptions::new().read(true).write(true).open(path).unwrap())
}

#[test]
fn a_frozen_guest_writes_nothing_until_it_is_thawed_or_its_time_is_up() {
    let _proof = berth_agent::proof::guest(&["guest.freeze", "guest.thaw"]);
    let node = Node::tiny(GuestNetwork::User);
    let mut writing = spec(TINY);
    writing.seed.user_data = Some(WRITER.to_owned());
    node.libvirt.put(ID, &writing).unwrap();
    let beats = || node.console(ID).matches("beat ").count();
    let moves = || {
        let before = beats();
        wait_for("the guest to write", || (beats() > before).then_some(()));
    };
    moves();

    let notes = node.home().join("frozen");
    let hypervisor: Arc<dyn Hypervisor> = Arc::new(node.reopened());
    let freezes = Arc::new(Freezes::new(notes.clone(), Arc::clone(&hypervisor)));
    let stands_still = || {
        // What was on its way when it froze comes out first.
        wait_for("the guest to stand still", || {
            let before = beats();
            std::thread::sleep(Duration::from_millis(1200));
            (beats() == before).then_some(())
        });
    };
    told(|| freezes.freeze(ID, 600));
    told(|| freezes.freeze(ID, 600));
    stands_still();
    assert_eq!(told(|| freezes.thaw(ID)).file_systems, 1);
    assert_eq!(told(|| freezes.thaw(ID)).file_systems, 0);
    moves();

    // Its time is up, and who froze it was killed meanwhile.
    told(|| freezes.freeze(ID, 4));
    stands_still();
    drop(freezes);
    let stop = CancellationToken::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let again = Arc::new(Freezes::new(notes.clone(), hypervisor));
    runtime.spawn(again.run(stop.clone()));
    moves();
    wait_for("the note to go", || (std::fs::read_dir(&notes).unwrap().count() == 0).then_some(()));
    stop.cancel();
}

#[test]
fn what_a_running_vm_does_not_take_waits_for_its_next_start() {
    let _proof = berth_agent::proof::driver(&["vm.resize", "vm.limits"]);
    let node = Node::on_test_driver(GuestNetwork::User);
    let roomy = VmSpec { vcpus_max: Some(4), memory_max: Some(ByteSize::mib(256)), ..spec(EMPTY_IMAGE) };
    assert_eq!(node.libvirt.put(ID, &roomy).unwrap().pending, [""; 0]);
    let up = VmResize { vcpus: Some(3), memory: Some(ByteSize::mib(256)), ..VmResize::default() };
    assert_eq!(resize(&node, &up).pending, [""; 0]);
    let beyond = VmResize { vcpus: Some(6), memory: Some(ByteSize::mib(512)), ..VmResize::default() };
    assert_eq!(resize(&node, &beyond).pending, ["vcpus", "memory", "vcpus_max", "memory_max"]);
    // The test driver limits nobody's CPU time, so this waits, too.
    let limits = VmLimits { cpu_percent: Some(50), cpu_weight: Some(10), ..VmLimits::default() };
    let limited = limit(&node, limits.clone());
    assert!(limited.pending.contains(&"limits".to_owned()), "{:?}", limited.pending);
    assert_eq!(node.reopened().get(ID).unwrap(), limited);
    node.libvirt.power(ID, PowerVerb::PowerOff).unwrap();
    let started = node.libvirt.power(ID, PowerVerb::Start).unwrap();
    assert_eq!((started.pending, started.spec.unwrap().limits), (vec![], limits));
}

#[test]
fn samples_of_the_test_driver_are_whole_and_sorted() {
    let _proof = berth_agent::proof::driver(&["samples.get"]);
    let node = Node::on_test_driver(GuestNetwork::User);
    for id in [9, 8] {
        node.libvirt.put(VmId(id), &spec(EMPTY_IMAGE)).unwrap();
    }
    let vms: Vec<i64> = node.libvirt.counters().unwrap().iter().map(|sample| sample.vm.0).collect();
    assert_eq!(vms, [8, 9]);
}

#[test]
fn a_vm_without_a_guest_agent_is_said_so() {
    let node = Node::on_test_driver(GuestNetwork::User);
    node.libvirt.put(ID, &spec(EMPTY_IMAGE)).unwrap();
    let refused = Guest::of(&node.libvirt, ID).info().unwrap_err();
    assert!(
        matches!(&refused, HypervisorError::Unavailable(said) if said.contains("guest agent")),
        "{refused}"
    );
    assert!(matches!(Guest::of(&node.libvirt, VmId(8)).info(), Err(HypervisorError::NotFound(VmId(8)))));
}
