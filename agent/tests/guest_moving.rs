//! VMs that move between two nodes: real agents, real guests, two of everything.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod libvirt_common;
#[path = "common/pki.rs"]
mod pki;
mod two_nodes;

use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use berth_model::agent::{
    CloneMode, Firmware, Hardware, MOVE_KEEP_S, MovePlace, MovePrepare, MoveSend, Name, Orphan, OrphanList,
    Run, Vm, VmSpec, VmState, Volume, VolumeAttachment, VolumeClone, VolumeCreate, VolumeFetch, VolumeFormat,
    VolumeOffer, WantedPower,
};
use berth_model::error::ApiError;
use berth_model::{ByteSize, ErrorCode, VolumeId};
use libvirt_common::wait_for;
use two_nodes::moves::*;
use two_nodes::{Lab, TestNode};

/// A volume that the guest writes, one that it reads, and one on the storage that both nodes share.
const VOLUMES: [i64; 3] = [5, 6, 9];

/// Post-copy needs a QEMU that may handle the faults of others: with its capabilities, or by the node's
/// `vm.unprivileged_userfaultfd`.
const QEMU_MAY_POST_COPY: &str = "user = \"root\"\ngroup = \"root\"\nclear_emulator_capabilities = 0\n";

/// Makes the volumes, and gives them to a guest.
fn with_volumes(node: &TestNode, spec: VmSpec) -> VmSpec {
    let size = ByteSize::mib(64);
    let shared = Some(Name::new("shared").unwrap());
    for (id, pool, format) in [(5, None, VolumeFormat::Raw), (9, shared, VolumeFormat::Qcow2)] {
        let wanted = VolumeCreate { size, pool, format: Some(format), file_system: None };
        node.ask::<Volume>("PUT", &format!("/v1/volumes/{id}"), &wanted).unwrap();
    }
    let clone = VolumeClone {
        image: TINY.to_owned(),
        size: ByteSize::mib(128),
        pool: None,
        format: Some(VolumeFormat::Qcow2),
        mode: CloneMode::Backing,
    };
    node.ask::<Volume>("POST", "/v1/volumes/6/clone", &clone).unwrap();
    let attach = |id| VolumeAttachment { volume: VolumeId(id), read_only: id == 6 };
    VmSpec { volumes: VOLUMES.map(attach).to_vec(), ..spec }
}

#[test]
fn a_guest_moves_with_its_volumes_while_it_works_and_back_while_it_is_off() {
    let _proof =
        berth_agent::proof::guest(&["moving.prepare", "moving.send", "moving.finish", "moving.abort"]);
    let lab = Lab::with(QEMU_MAY_POST_COPY, false);
    let (a, b) = two(&lab);
    let spec = with_volumes(&a, guest_spec());
    let began = put(&a, &spec).unwrap().started;
    counts(&a);
    let before = assert_disk_is_whole(&lab);
    assert_eq!(before.len(), 3, "{before:?}");
    let stream = Stream::open(&lab);

    // Nothing comes where it is already, and nothing else may touch what is awaited.
    let asked = room(&a, &spec);
    assert_eq!(prepare(&a, &asked).unwrap_err().code, ErrorCode::Conflict);
    let forgetful = MovePrepare { volumes: asked.volumes[1..].to_vec(), ..asked.clone() };
    assert!(format!("{:?}", prepare(&b, &forgetful).unwrap_err()).contains("volume 5"));
    let place = prepare(&b, &asked).unwrap();
    let again = prepare(&b, &asked).unwrap();
    assert_eq!(MovePlace { until: place.until, ..again }, place);
    let shared = place.room.volumes.iter().map(|volume| (volume.volume.0, volume.shared.is_some()));
    assert_eq!(shared.collect::<Vec<_>>(), [(5, false), (6, false), (9, true)]);
    assert_eq!(put(&b, &spec).unwrap_err().code, ErrorCode::Conflict);
    assert_eq!(finish(&b).unwrap_err().code, ErrorCode::Conflict);
    abort(&b).unwrap();
    abort(&b).unwrap();
    b.assert_clean();

    // Live: disks and memory.
    let place = prepare(&b, &asked).unwrap();
    let stale = MovePlace { secret: "0".repeat(64), ..place.clone() };
    assert_eq!(send(&a, &order(&b, &stale)).unwrap_err().code, ErrorCode::Unavailable);
    let sent = send(&a, &order(&b, &place)).unwrap();
    assert!(sent.live && !sent.post_copied, "{sent:?}");
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
    // `cargo xtask bench agent-move` reads this.
    let pause_ms = arrived.pause_ms.expect("libvirt measured the pause");
    println!("measured: copied {pause_ms} {}", silence.as_millis());
    assert_eq!(assert_disk_is_whole(&lab), before);

    // Back, off: the files.
    power_off(&b);
    let place = prepare(&a, &room(&b, &spec)).unwrap();
    let sent = send(&b, &order(&a, &place)).unwrap();
    assert!(!sent.live && sent.sent_bytes > 68 << 20, "{sent:?}");
    b.assert_clean();
    let arrived = finish(&a).unwrap();
    assert_eq!((arrived.vm.state, arrived.pause_ms), (VmState::Off, None));
    a.ask::<Vm>("POST", &path(VM, "/start"), &nothing()).unwrap();
    assert_eq!(assert_disk_is_whole(&lab), before);

    // Live once more, by post-copy: slowly, so that memory is left to be fetched.
    let place = prepare(&b, &room(&a, &spec)).unwrap();
    let order = MoveSend { post_copy: true, bandwidth_mib_s: Some(64), ..order(&b, &place) };
    let sent = send(&a, &order).unwrap();
    assert!(sent.post_copied, "{sent:?}");
    assert_eq!(finish(&b).unwrap().vm.state, VmState::Running);
    assert_eq!(assert_disk_is_whole(&lab), before);
    delete(&b, VM);
    for id in VOLUMES {
        assert_eq!(volume(&a, id).unwrap_err().code, ErrorCode::NotFound);
        let volume = volume(&b, id).unwrap();
        assert!(volume.whole && volume.attached_to.is_none(), "{volume:?}");
        b.ask::<()>("DELETE", &format!("/v1/volumes/{id}"), &nothing()).unwrap();
    }
    for node in [&a, &b] {
        node.assert_clean();
    }
}

#[test]
fn a_guest_on_storage_that_nodes_share_moves_without_a_copy_and_uefi_goes_along() {
    let _proof = berth_agent::proof::guest(&["moving.prepare", "moving.send", "moving.finish"]);
    let lab = Lab::with("user = \"root\"\ngroup = \"root\"\n", true);
    let (a, b) = two(&lab);
    let hardware = Hardware { firmware: Firmware::Uefi, ..Hardware::default() };
    let spec = VmSpec { memory: ByteSize::mib(160), hardware, ..guest_spec() };
    put(&a, &spec).unwrap();
    let disk = lab.shared().join("disks/7/disk.qcow2");
    // What UEFI writes once it looks for something to boot.
    let boot_order: Vec<u8> = "BootOrder".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let nvram = |node: &TestNode| std::fs::read(node.data_dir.join("vms/7/nvram.fd")).unwrap_or_default();
    let remembers = |node: &TestNode| nvram(node).windows(boot_order.len()).any(|part| part == boot_order);
    wait_for("UEFI to remember", || remembers(&a).then_some(()));

    // Told to the wrong node, it does not start there, and what goes there is not the disk.
    assert!(put(&b, &spec).unwrap_err().message.contains("another node"));
    delete(&b, VM);
    b.assert_clean();
    assert_eq!(show(&a).unwrap().state, VmState::Running);
    assert!(disk.exists(), "it is the other node's");

    let place = prepare(&b, &room(&a, &spec)).unwrap();
    assert!(place.room.shared.is_some(), "{place:?}");
    let safely = MoveSend { allow_unsafe: false, ..order(&b, &place) };
    assert!(send(&a, &safely).unwrap_err().message.contains("unsafe"));
    abort(&b).unwrap();
    b.assert_clean();
    assert!(disk.exists(), "a room that is given up leaves the disk to who has it");
    let place = prepare(&b, &room(&a, &spec)).unwrap();
    let sending = Instant::now();
    let sent = send(&a, &order(&b, &place)).unwrap();
    let sent_ms = sending.elapsed().as_millis();
    assert!(sent.live, "{sent:?}");
    a.assert_clean();
    let arrived = finish(&b).unwrap();
    let pause_ms = arrived.pause_ms.expect("libvirt measured the pause");
    println!("measured: shared {pause_ms} {sent_ms}");
    assert!(remembers(&b));

    // Off, the firmware's memory is all that is sent.
    power_off(&b);
    let before = nvram(&b);
    let place = prepare(&a, &room(&b, &spec)).unwrap();
    let sent = send(&b, &order(&a, &place)).unwrap();
    assert_eq!(sent.sent_bytes, before.len() as u64);
    b.assert_clean();
    assert_eq!(finish(&a).unwrap().vm.state, VmState::Off);
    assert!(nvram(&a) == before, "what UEFI remembers is the same");

    // Off as well.
    put(&b, &VmSpec { power: WantedPower::Off, ..spec.clone() }).unwrap();
    delete(&b, VM);
    b.assert_clean();
    assert!(disk.exists(), "it is the other node's");
    delete(&a, VM);
    a.assert_clean();
    assert!(!disk.exists(), "it goes with its VM");
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
    let asked = room(&a, &spec);

    // Cancelled.
    let place = prepare(&b, &asked).unwrap();
    let error = cut_midway(&a, &order(&b, &place), |run| {
        a.ask::<Run>("POST", &format!("/v1/runs/{}/cancel", run.id), &nothing()).unwrap();
    });
    assert!(error.message.contains("cancelled"), "{error:?}");
    assert_stayed(&a, &b, &stream);

    // The other node's libvirt dies in the middle.
    let place = prepare(&b, &asked).unwrap();
    let error = cut_midway(&a, &order(&b, &place), |_| b.restart_libvirt());
    assert_eq!(error.code, ErrorCode::Unavailable, "libvirt killed: {error:?}");
    assert_stayed(&a, &b, &stream);

    // The other node's agent does.
    let place = prepare(&b, &asked).unwrap();
    let error = cut_midway(&a, &order(&b, &place), |_| b.kill_agent_now());
    assert_eq!(error.code, ErrorCode::Unavailable, "agent killed: {error:?}");
    b.agent_died();
    assert_stayed(&a, &b, &stream);

    // The cable between them.
    let place = prepare(&b, &asked).unwrap();
    let error = cut_midway(&a, &order(&b, &place), |_| lab.plug(&b, false));
    assert_eq!(error.code, ErrorCode::Unavailable, "cable pulled: {error:?}");
    lab.plug(&b, true);
    assert_stayed(&a, &b, &stream);

    // The source's agent dies in the middle: the guest goes on.
    let place = prepare(&b, &asked).unwrap();
    cut_midway(&a, &order(&b, &place), |_| a.kill_agent_now());
    a.agent_died();
    stream.goes_on();
    assert_eq!(show(&a).unwrap().state, VmState::Running);
    // So does the move when it is told again. It dies after the switch-over.
    a.restart_agent("move.after_copy=kill");
    send(&a, &order(&b, &place)).unwrap_err();
    a.agent_died();
    send(&a, &order(&b, &place)).unwrap();
    a.assert_clean();
    // The target's dies as it takes the VM over.
    for point in ["move.after_volumes", "move.after_adopt"] {
        b.restart_agent(&format!("{point}=kill"));
        finish(&b).unwrap_err();
        b.agent_died();
    }
    assert_eq!(finish(&b).unwrap().vm.state, VmState::Running);
    stream.goes_on();

    // The other node loses power in the middle.
    let place = prepare(&a, &room(&b, &spec)).unwrap();
    let order_back = order(&a, &place);
    let stop = Mutex::new(&mut a);
    cut_midway(&b, &order_back, |_| stop.lock().unwrap().pull_the_plug());
    assert_eq!(show(&b).unwrap().state, VmState::Running);
    let silence = stream.close();
    println!("longest silence {silence:?}");
    assert_disk_is_whole(&lab);
    delete(&b, VM);
    b.assert_clean();
}

/// Nodes for faults during a move, with a guest on one of them.
struct Ground {
    a: TestNode,
    b: TestNode,
    spec: VmSpec,
    stream: Stream,
    /// Ends last: what the nodes logged lies in it.
    lab: Lab,
}

impl Ground {
    /// The guest is on `a`; `b` has little room; the clocks of both agents can be moved.
    fn new() -> Self {
        let lab = Lab::new();
        let (mut a, mut b) = two(&lab);
        b.give_small_disk(ByteSize::mib(192));
        a.give_false_clock();
        b.give_false_clock();
        let spec = guest_spec();
        put(&a, &spec).unwrap();
        counts(&a);
        let stream = Stream::open(&lab);
        Self { lab, a, b, spec, stream }
    }

    /// Told again, it moves as if nothing had been.
    fn moves(&self, from: &TestNode, to: &TestNode) {
        let place = prepare(to, &room(from, &self.spec)).unwrap();
        assert!(send(from, &order(to, &place)).unwrap().live);
        self.assert_moved(from, to);
    }

    fn assert_moved(&self, from: &TestNode, to: &TestNode) {
        assert_eq!(finish(to).unwrap().vm.state, VmState::Running);
        from.assert_clean();
        self.stream.goes_on();
        assert_disk_is_whole(&self.lab);
        for node in [from, to] {
            assert_eq!(orphans(node), [], "{}", node.address);
        }
    }

    /// Stops the guest's agent, or lets it go on.
    fn silence(&self, node: &TestNode, silent: bool) {
        page(&self.lab, if silent { "/cgi-bin/agent-STOP" } else { "/cgi-bin/agent-CONT" });
        wait_for("the guest's agent", || (self.is_silent(node) == silent).then_some(()));
    }

    fn is_silent(&self, node: &TestNode) -> bool {
        let domain = format!("{}{VM}", self.lab.prefix);
        let ping = "{\"execute\": \"guest-ping\"}";
        let words = ["virsh", "-c", "qemu:///system", "qemu-agent-command", "--timeout", "1", &domain, ping];
        !node.command(&words).output().unwrap().status.success()
    }
}

fn orphans(node: &TestNode) -> Vec<Orphan> {
    let asked = serde_json::json!({ "remove": false });
    node.ask::<OrphanList>("POST", "/v1/node/orphans", &asked).unwrap().orphans
}

/// As the table in `tests/faults/main.rs` states it.
#[test]
fn a_move_during_which_something_fails_leaves_what_is_stated() {
    let _proof = berth_agent::proof::guest(&[
        "moving.prepare",
        "moving.send",
        "moving.finish",
        "moving.abort",
        "node.orphans",
    ]);
    let ground = Ground::new();
    let (a, b) = (&ground.a, &ground.b);
    for (fault, from, to) in [
        (source_libvirtd_killed as fn(&Ground, &TestNode, &TestNode), a, b),
        (disk_full, a, b),
        (guest_silent, b, a),
        (clock_jump, a, b),
        (disk_damaged, b, a),
    ] {
        fault(&ground, from, to);
    }
    let Ground { lab: _lab, a, b, spec, stream } = ground;
    stream.close();

    // Files of a VM that is off find no room either.
    power_off(&a);
    let place = prepare(&b, &room(&a, &spec)).unwrap();
    b.fill_disk();
    let error = send(&a, &order(&b, &place)).unwrap_err();
    assert_eq!(error.code, ErrorCode::ResourceUnavailable, "{error:?}");
    b.empty_disk();
    assert!(!send(&a, &order(&b, &place)).unwrap().live);
    assert_eq!(finish(&b).unwrap().vm.state, VmState::Off);
    delete(&b, VM);
    for node in [&a, &b] {
        node.assert_clean();
    }
}

fn source_libvirtd_killed(ground: &Ground, from: &TestNode, to: &TestNode) {
    let place = prepare(to, &room(from, &ground.spec)).unwrap();
    let error = cut_midway(from, &order(to, &place), |_| from.restart_libvirt());
    assert_eq!(error.code, ErrorCode::Unavailable, "{error:?}");
    ground.stream.goes_on();
    wait_for("the agent to find libvirt", || show(from).ok());
    assert_stayed(from, to, &ground.stream);
}

/// Where it goes there is no room: beforehand, and then in the middle.
fn disk_full(ground: &Ground, from: &TestNode, to: &TestNode) {
    let asked = room(from, &ground.spec);
    to.fill_disk();
    assert_eq!(prepare(to, &asked).unwrap_err().code, ErrorCode::ResourceUnavailable);
    to.empty_disk();
    to.assert_clean();
    let place = prepare(to, &asked).unwrap();
    let error = cut_midway(from, &order(to, &place), |_| to.fill_disk());
    assert_eq!(error.code, ErrorCode::ResourceUnavailable, "{error:?}");
    abort(to).unwrap();
    to.empty_disk();
    assert_stayed(from, to, &ground.stream);
    ground.moves(from, to);
}

/// Nobody asks it.
fn guest_silent(ground: &Ground, from: &TestNode, to: &TestNode) {
    ground.silence(from, true);
    ground.moves(from, to);
    ground.silence(to, false);
}

/// A room is kept as long as it was asked for, whatever the clocks say, and what comes is no orphan.
fn clock_jump(ground: &Ground, from: &TestNode, to: &TestNode) {
    let jump = |ahead_s| {
        from.set_clock(ahead_s);
        to.set_clock(ahead_s);
    };
    let note = |vm: i64| to.data_dir.join(format!("moves/{vm}.json"));
    let other = VmSpec { nics: vec![], ..ground.spec.clone() };
    let other = MovePrepare { spec: other, volumes: vec![], keep_s: 1 };
    let prepare_other = || to.ask::<MovePlace>("POST", &path(8, "/move/prepare"), &other).unwrap();
    let place = prepare(to, &room(from, &ground.spec)).unwrap();
    for ahead_s in [2 * i64::from(MOVE_KEEP_S), -86_400] {
        prepare_other();
        jump(ahead_s);
        wait_for("the other room to go", || (!note(8).exists()).then_some(()));
        assert!(note(VM).exists(), "its hour is not over");
    }
    let order = MoveSend { bandwidth_mib_s: Some(32), ..order(to, &place) };
    let sent = midway(from, &order, |_| {
        jump(2 * i64::from(MOVE_KEEP_S));
        assert_eq!(orphans(to), []);
    });
    assert!(sent.unwrap().live);
    ground.assert_moved(from, to);
    jump(0);
}

/// A table of a volume leads nowhere, and QEMU meets it as it copies.
fn disk_damaged(ground: &Ground, from: &TestNode, to: &TestNode) {
    let wanted = VolumeCreate {
        size: ByteSize::mib(64),
        pool: None,
        format: Some(VolumeFormat::Qcow2),
        file_system: None,
    };
    from.ask::<Volume>("PUT", "/v1/volumes/5", &wanted).unwrap();
    let file = from.data_dir.join("volumes/5/volume.qcow2");
    let damaged = damage(&file);
    let attachment = VolumeAttachment { volume: VolumeId(5), read_only: false };
    let with = VmSpec { volumes: vec![attachment], ..ground.spec.clone() };
    put(from, &with).unwrap();
    for _ in 0..2 {
        let place = prepare(to, &room(from, &with)).unwrap();
        let error = send(from, &order(to, &place)).unwrap_err();
        assert_eq!(error.code, ErrorCode::ServiceError, "{error:?}");
        assert!(error.message.contains("volumes/5/volume.qcow2 damaged"), "{error:?}");
        assert_stayed(from, to, &ground.stream);
    }
    // QEMU notes in the file that it is damaged, and no more.
    let now = std::fs::read(&file).unwrap();
    assert!(now[64 * 1024..] == damaged[64 * 1024..], "nobody touched it");
    put(from, &ground.spec).unwrap();
    from.ask::<()>("DELETE", "/v1/volumes/5", &nothing()).unwrap();
    ground.moves(from, to);
}

/// Writes something into a disk and lets the table's entry for it lead nowhere.
fn damage(disk: &Path) -> Vec<u8> {
    const AT: usize = 20 << 20;
    libvirt_common::run("qemu-io", &["-f", "qcow2", "-c", &format!("write {AT} 1M"), disk.to_str().unwrap()]);
    let mut bytes = std::fs::read(disk).unwrap();
    // The tables' places (QEMU's `docs/interop/qcow2.txt`, "Header" and "Cluster mapping").
    let number = |bytes: &[u8], at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let table = number(&bytes, number(&bytes, 40)) & 0x00ff_ffff_ffff_fe00;
    let entry = table + AT / (64 << 10) * 8;
    bytes[entry + 6] |= 0x02;
    std::fs::write(disk, &bytes).unwrap();
    bytes
}

#[test]
fn an_agent_that_is_killed_at_any_step_of_a_move_ends_it_when_told_again() {
    let _proof =
        berth_agent::proof::driver(&["moving.prepare", "moving.send", "moving.finish", "moving.abort"]);
    let lab = Lab::new();
    let (mut a, mut b) = two(&lab);
    let spec = with_volumes(&a, VmSpec { power: WantedPower::Off, ..guest_spec() });
    put(&a, &spec).unwrap();
    let asked = room(&a, &spec);
    for point in ["move.after_note", "move.after_record", "move.after_room"] {
        b.restart_agent(&format!("{point}=kill"));
        prepare(&b, &asked).unwrap_err();
        b.agent_died();
    }
    prepare(&b, &asked).unwrap();
    b.restart_agent("move.after_clear=kill");
    abort(&b).unwrap_err();
    b.agent_died();
    abort(&b).unwrap();
    b.assert_clean();

    // A room in which nothing comes is an orphan, and goes by itself.
    prepare(&b, &asked).unwrap();
    let folder = b.data_dir.join("vms/7");
    libvirt_common::run("find", &[folder.to_str().unwrap(), "-exec", "touch", "-d", "1 hour ago", "{}", ";"]);
    let orphans: OrphanList =
        b.ask("POST", "/v1/node/orphans", &serde_json::json!({ "remove": false })).unwrap();
    let kinds: Vec<&str> = orphans.orphans.iter().map(|orphan| orphan.kind.as_str()).collect();
    assert_eq!(kinds, ["room for a VM"], "{orphans:?}");
    prepare(&b, &MovePrepare { keep_s: 1, ..asked.clone() }).unwrap();
    let note = b.data_dir.join("moves/7.json");
    wait_for("the room to go", || (!note.exists()).then_some(()));
    b.assert_clean();

    let place = prepare(&b, &asked).unwrap();
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
    delete(&b, VM);
    for id in VOLUMES {
        b.ask::<()>("DELETE", &format!("/v1/volumes/{id}"), &nothing()).unwrap();
    }
    b.assert_clean();
}

fn offer(node: &TestNode, id: i64) -> Result<VolumeOffer, ApiError> {
    node.ask("POST", &format!("/v1/volumes/{id}/offer"), &nothing())
}

fn fetch(to: &TestNode, from: &TestNode, offered: &VolumeOffer) -> Result<Volume, ApiError> {
    let wanted = VolumeFetch { host: from.address.to_string(), from: offered.clone(), pool: None };
    to.ask("POST", &format!("/v1/volumes/{}/fetch", offered.volume.id), &wanted)
}

#[test]
fn a_volume_that_no_vm_has_comes_to_another_node_with_what_a_guest_wrote() {
    let _proof = berth_agent::proof::guest(&["volume.offer", "volume.fetch"]);
    let lab = Lab::new();
    let (a, b) = two(&lab);
    put(&a, &with_volumes(&a, guest_spec())).unwrap();
    counts(&a);
    let before = assert_disk_is_whole(&lab);
    assert_eq!(offer(&a, 5).unwrap_err().code, ErrorCode::Conflict, "a guest writes to it");
    delete(&a, VM);
    assert_eq!(offer(&a, 6).unwrap_err().code, ErrorCode::Conflict, "it stands on an image");

    let offered = offer(&a, 5).unwrap();
    assert_eq!(offer(&a, 5).unwrap(), offered, "told again");
    let stranger = VolumeOffer { secret: "0".repeat(64), ..offered.clone() };
    assert_eq!(fetch(&b, &a, &stranger).unwrap_err().code, ErrorCode::Unavailable);
    assert_eq!(volume(&b, 5).unwrap_err().code, ErrorCode::NotFound, "nothing is left of that");
    let came = fetch(&b, &a, &offered).unwrap();
    assert_eq!(fetch(&b, &a, &offered).unwrap(), came, "told again");
    assert_eq!((came.whole, came.size, came.format), (true, ByteSize::mib(64), VolumeFormat::Raw));
    assert!(came.allocated < ByteSize::mib(16), "what is zero takes no room: {came:?}");
    a.ask::<()>("DELETE", "/v1/volumes/5", &nothing()).unwrap();

    let attachment = VolumeAttachment { volume: VolumeId(5), read_only: false };
    put(&b, &VmSpec { volumes: vec![attachment], ..guest_spec() }).unwrap();
    counts(&b);
    assert_eq!(assert_disk_is_whole(&lab)[0], before[0], "the guest there reads what the other wrote");
    delete(&b, VM);
    for (node, ids) in [(&a, &[6, 9][..]), (&b, &[5])] {
        for id in ids {
            node.ask::<()>("DELETE", &format!("/v1/volumes/{id}"), &nothing()).unwrap();
        }
        node.assert_clean();
    }
}

#[test]
fn an_agent_that_is_killed_while_it_fetches_a_volume_has_all_of_it_when_told_again() {
    let _proof = berth_agent::proof::driver(&["volume.offer", "volume.fetch"]);
    let lab = Lab::new();
    let (mut a, mut b) = two(&lab);
    let wanted = VolumeCreate {
        size: ByteSize::mib(64),
        pool: None,
        format: Some(VolumeFormat::Qcow2),
        file_system: None,
    };
    a.ask::<Volume>("PUT", "/v1/volumes/5", &wanted).unwrap();
    let file = |node: &TestNode| node.data_dir.join("volumes/5/volume.qcow2");
    let pattern = ["-f", "qcow2", "-c", "write -P 0x5a 3M 1M", "-c", "write -P 0xa5 60M 1M"];
    libvirt_common::run("qemu-io", &[&pattern[..], &[file(&a).to_str().unwrap()]].concat());
    let offered = offer(&a, 5).unwrap();
    for point in ["volume.after_record", "volume.during_fetch", "volume.after_fill", "volume.after_data"] {
        b.restart_agent(&format!("{point}=kill"));
        fetch(&b, &a, &offered).unwrap_err();
        b.agent_died();
        assert!(!volume(&b, 5).unwrap().whole, "{point}");
    }
    // The other node forgets what it offered when it is restarted, and is told again.
    a.restart_agent("");
    assert_eq!(fetch(&b, &a, &offered).unwrap_err().code, ErrorCode::Unavailable);
    let came = fetch(&b, &a, &offer(&a, 5).unwrap()).unwrap();
    assert!(came.whole);
    assert!(std::fs::read(file(&a)).unwrap() == std::fs::read(file(&b)).unwrap());
    for node in [&a, &b] {
        node.ask::<()>("DELETE", "/v1/volumes/5", &nothing()).unwrap();
        node.assert_clean();
    }
}
