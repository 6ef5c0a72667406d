//! Faults while a snapshot is taken.

use berth_model::agent::function::{backup, guest, snapshot, vm};
use berth_model::agent::{GuestFreeze, Nothing, Snapshot, VmRebuild, WantedPower};
use berth_model::{ErrorCode, VmId};

use crate::agent::{Agent, ControlPlane, Failed, pause};
use crate::create::name;
use crate::guest::{Ground, ID, OFF};
use crate::libvirt_common::{EMPTY_IMAGE, wait_for};

fn take(agent: &Agent<'_>, vm: VmId, snapshot: &str) -> Result<Snapshot, Failed> {
    agent.call::<snapshot::Create>((vm, name(snapshot)), &Nothing {})
}

/// Told again, it is there once, as if nothing had been; and then it is deleted.
fn told_again(ground: &Ground, agent: &Agent<'_>, snapshot: &str) -> Snapshot {
    let taken = take(agent, ID, snapshot).unwrap();
    assert_eq!(take(agent, ID, snapshot).unwrap(), taken, "{snapshot}: told twice");
    assert_eq!(ground.snapshots(agent), [snapshot]);
    agent.call::<snapshot::Delete>((ID, name(snapshot)), &Nothing {}).unwrap();
    assert_eq!(ground.snapshots(agent), [] as [&str; 0]);
    ground.assert_well(agent, snapshot);
    taken
}

pub fn libvirtd_killed(ground: &Ground) {
    let node = &ground.node;
    let agent = Agent::start(node, &pause(node, "snapshot.after_freeze"));
    let told = agent.begin::<snapshot::Create>((ID, name("libvirtd")), &Nothing {});
    agent.wait_at_point();
    node.kill_libvirtd();
    agent.go_on();
    let (code, words) = told.end(&agent).unwrap_err().refusal();
    assert_eq!(code, ErrorCode::Unavailable, "{words}");
    node.start_libvirtd();
    // Nobody tells it to, and the guest is thawed.
    ground.assert_well(&agent, "libvirtd was killed");
    wait_for("the agent to find libvirt", || agent.call::<vm::Get>(ID, &Nothing {}).ok());
    assert_eq!(ground.snapshots(&agent), [] as [&str; 0]);
    assert!(told_again(ground, &agent, "libvirtd").frozen);
}

pub fn agent_killed(ground: &Ground) {
    let node = &ground.node;
    for point in ["snapshot.after_freeze", "snapshot.after_taken"] {
        let agent = Agent::start(node, &format!("{point}=kill"));
        let cut = take(&agent, ID, "killed").unwrap_err();
        assert!(matches!(cut, Failed::Cut(_)), "{point}: {cut:?}");
        agent.wait_for_end();
        let agent = Agent::start(node, "");
        ground.assert_well(&agent, point);
        let there = point == "snapshot.after_taken";
        assert_eq!(ground.snapshots(&agent).len(), usize::from(there), "{point}");
        assert!(told_again(ground, &agent, "killed").frozen, "{point}");
    }
}

pub fn disk_full(ground: &Ground) {
    let node = &ground.node;
    let agent = Agent::start(node, &pause(node, "snapshot.after_freeze"));
    node.fill_disk();
    let (code, words) = take(&agent, ID, "full").unwrap_err().refusal();
    assert_eq!(code, ErrorCode::ResourceUnavailable, "beforehand: {words}");
    node.empty_disk();
    let told = agent.begin::<snapshot::Create>((ID, name("full")), &Nothing {});
    agent.wait_at_point();
    node.fill_disk();
    agent.go_on();
    let ended = told.end(&agent);
    // Where the file has room left in it, the snapshot needs no more.
    if let Err(failed) = ended {
        let (code, words) = failed.refusal();
        assert_eq!(code, ErrorCode::ResourceUnavailable, "{words}");
        assert!(words.contains("No space left"), "{words}");
        assert_eq!(ground.snapshots(&agent), [] as [&str; 0]);
    }
    assert!(!node.is_frozen(ID));
    node.empty_disk();
    told_again(ground, &agent, "full");
}

pub fn disk_damaged(ground: &Ground) {
    let node = &ground.node;
    let agent = Agent::start(node, "");
    ground.write_off("write -P 0x33 1M 1M");
    let damaged = ground.damage_off();
    for _ in 0..2 {
        let (code, words) = take(&agent, OFF, "damaged").unwrap_err().refusal();
        assert_eq!(code, ErrorCode::ServiceError, "{words}");
        assert!(words.contains("corrupt"), "{words}");
    }
    // QEMU notes in the file that it is damaged; what the guest wrote is where it was.
    let now = std::fs::read(ground.disk_off()).unwrap();
    let written =
        |bytes: &[u8]| bytes.chunks(65536).map(|cluster| cluster == [0x33; 65536]).collect::<Vec<_>>();
    assert_eq!(written(&now)[..damaged.len() / 65536], written(&damaged)[..damaged.len() / 65536]);
    assert_eq!(written(&damaged).into_iter().filter(|is_it| *is_it).count(), 16);
    let anew = VmRebuild { image: EMPTY_IMAGE.to_owned(), seed: None, power: WantedPower::Off };
    agent.call::<vm::Rebuild>(OFF, &anew).unwrap();
    take(&agent, OFF, "mended").unwrap();
    agent.call::<snapshot::Delete>((OFF, name("mended")), &Nothing {}).unwrap();
    node.check_disk(OFF);
    // The mark of its last backup went with the disk.
    let next = agent.call::<backup::Create>((OFF, name("mended")), &ground.backup()).unwrap();
    assert!(next.full_because.is_some(), "{next:?}");
    ground.assert_well(&agent, "a damaged disk");
}

pub fn guest_silent(ground: &Ground) {
    let node = &ground.node;
    let agent = Agent::start(node, "");
    ground.silence(true);
    assert!(!take(&agent, ID, "silent").unwrap().frozen);
    ground.silence(false);
    assert!(!told_again(ground, &agent, "silent").frozen, "it is the one of before");
    drop(agent);

    // It falls silent when its file systems are frozen, and comes back.
    let agent = Agent::start(node, &pause(node, "snapshot.after_freeze"));
    let told = agent.begin::<snapshot::Create>((ID, name("late")), &Nothing {});
    agent.wait_at_point();
    ground.silence(true);
    agent.go_on();
    wait_for("the snapshot", || {
        let list = node.run(&format!("qemu-img snapshot -U -l {}", node.disk(ID)));
        list.contains("f.late").then_some(())
    });
    ground.silence(false);
    assert!(told.end(&agent).unwrap().frozen);
    assert!(!node.is_frozen(ID));
    told_again(ground, &agent, "late");
}

pub fn network_cut(ground: &Ground) {
    let node = &ground.node;
    let plane = ControlPlane::enrol(node);
    let agent = Agent::start(node, &pause(node, "snapshot.after_freeze"));
    plane.call_and_lose::<snapshot::Create>(node, (ID, name("cut")), &Nothing {}, || {
        agent.wait_at_point();
        node.space.ip("link set eth0 down");
        agent.go_on();
        assert_eq!(agent.end_of("snapshot.create"), None, "it went on without its caller");
    });
    node.space.ip("link set eth0 up");
    assert_eq!(ground.snapshots(&agent), ["cut"]);
    told_again(ground, &agent, "cut");
}

pub fn clock_jump(ground: &Ground) {
    let node = &ground.node;
    let agent = Agent::with_false_clock(node, &pause(node, "snapshot.after_freeze"));
    for (snapshot, jump_s) in [("forward", 10 * 365 * 86_400), ("back", -86_400)] {
        let told = agent.begin::<snapshot::Create>((ID, name(snapshot)), &Nothing {});
        agent.wait_at_point();
        agent.set_clock(jump_s);
        agent.go_on();
        assert!(told.end(&agent).unwrap().frozen, "{snapshot}");
        assert!(told_again(ground, &agent, snapshot).frozen, "{snapshot}");
    }
    // A freeze ends in its time, not when a clock says so.
    agent.set_clock(0);
    agent.call::<guest::Freeze>(ID, &GuestFreeze { limit_s: 3 }).unwrap();
    agent.set_clock(-86_400);
    wait_for("the guest to be thawed", || (!node.is_frozen(ID)).then_some(()));
    ground.assert_well(&agent, "frozen as the clock went back");
}
