//! Faults while a VM is made.

use berth_model::agent::function::{node, vm};
use berth_model::agent::{DisksAfter, Name, Nothing, Vm, VmDelete, VmRebuild, VmSpec, VmState, WantedPower};
use berth_model::{ErrorCode, VmId};

use crate::agent::{Agent, ControlPlane, Failed, pause};
use crate::inventory::{Inventory, assert_settles};
use crate::libvirt_common::{TINY, run as output, spec, text, wait_for};
use crate::node::Node;

const ID: VmId = VmId(8);
const MANY_YEARS_S: i64 = 10 * 365 * 86_400;

/// A node without a VM.
pub struct Ground {
    node: Node,
    /// What there is without it.
    empty: Inventory,
    /// And with it.
    whole: Inventory,
}

impl Ground {
    pub fn new() -> Self {
        let node = Node::start();
        let agent = Agent::start(&node, "");
        // What the first VM brings for all.
        for _ in 0..2 {
            put(&agent).unwrap();
            delete(&agent);
        }
        let empty = Inventory::of(&node);
        put(&agent).unwrap();
        let whole = Inventory::of(&node);
        delete(&agent);
        assert_settles(&node, "without a fault", &empty, &[]);
        drop(agent);
        Self { node, empty, whole }
    }

    /// The end of every fault: told again, all is as if there had been none; and then it can be deleted.
    fn told_again(&self, agent: &Agent<'_>, what: &str) {
        let vm = put(agent).unwrap();
        assert_eq!((vm.state, vm.spec.as_ref()), (VmState::Running, Some(&spec(TINY))), "{what}");
        assert_eq!(put(agent).unwrap(), vm, "{what}: told twice");
        assert_settles(&self.node, what, &self.whole, &[]);
        self.node.check_disk(ID);
        delete(agent);
        assert_settles(&self.node, what, &self.empty, &[]);
        assert_eq!(agent.orphans(), [], "{what}");
    }

    /// Nothing of the VM is there.
    fn assert_nothing(&self, agent: &Agent<'_>, what: &str) {
        assert_settles(&self.node, what, &self.empty, &[]);
        assert!(!self.node.file(ID, "").exists(), "{what}");
        assert_eq!(agent.call::<vm::Get>(ID, &Nothing {}).unwrap_err().refusal().0, ErrorCode::NotFound);
    }
}

fn put(agent: &Agent<'_>) -> Result<Vm, Failed> {
    agent.call::<vm::Put>(ID, &spec(TINY))
}

fn delete(agent: &Agent<'_>) {
    let how = VmDelete { disks: DisksAfter::Remove, ..VmDelete::default() };
    agent.call::<vm::Delete>(ID, &how).unwrap();
}

pub fn libvirtd_killed(ground: &Ground) {
    let node = &ground.node;
    let points = [
        ("put.after_seed", VmState::Off, None),
        ("put.after_define", VmState::Off, Some(spec(TINY))),
        ("put.after_power", VmState::Running, Some(spec(TINY))),
    ];
    for (point, state, known) in points {
        let agent = Agent::start(node, &pause(node, point));
        let told = agent.begin::<vm::Put>(ID, &spec(TINY));
        agent.wait_at_point();
        node.kill_libvirtd();
        agent.go_on();
        let (code, words) = told.end(&agent).unwrap_err().refusal();
        assert_eq!(code, ErrorCode::Unavailable, "{point}: {words}");
        assert!(words.contains("libvirt"), "{point}: {words}");
        node.start_libvirtd();
        let vm = wait_for("the agent to find libvirt", || agent.call::<vm::Get>(ID, &Nothing {}).ok());
        assert_eq!((vm.state, vm.spec), (state, known), "{point}");
        ground.told_again(&agent, point);
    }
}

pub fn agent_killed(ground: &Ground) {
    let node = &ground.node;
    for point in ["put.after_disk", "put.after_define", "put.after_power"] {
        let agent = Agent::start(node, &format!("{point}=kill"));
        let cut = agent.call::<vm::Put>(ID, &spec(TINY)).unwrap_err();
        assert!(matches!(cut, Failed::Cut(_)), "{point}: {cut:?}");
        agent.wait_for_end();
        let agent = Agent::start(node, "");
        assert_eq!(agent.orphans(), [], "{point}: it may be told again at any moment");
        if point == "put.after_disk" {
            output(
                "touch",
                &["-d", "2 hours ago", text(&node.file(ID, "")), text(&node.file(ID, "disk.qcow2"))],
            );
            let orphans = agent.orphans();
            let named: Vec<_> = orphans.iter().map(|o| (o.kind.as_str(), o.name.as_str())).collect();
            assert_eq!(named, [("half-made VM", "8")], "{point}");
        }
        ground.told_again(&agent, point);
    }
}

pub fn disk_full(ground: &Ground) {
    let node = &ground.node;
    let agent = Agent::start(node, "");
    node.fill_disk();
    let (code, words) = put(&agent).unwrap_err().refusal();
    assert_eq!(code, ErrorCode::ResourceUnavailable, "{words}");
    node.empty_disk();
    ground.assert_nothing(&agent, "refused beforehand");
    drop(agent);
    let half = ["file vms/8/disk.qcow2"];
    let off = ["file vms/8/", "domain ", "nft ", "file /etc/libvirt/qemu/", "file /var/log/libvirt/qemu/"];
    let points: [(&str, &[&str]); 3] =
        [("put.after_folder", &[]), ("put.after_disk", &half), ("put.after_define", &off)];
    for (point, left) in points {
        let agent = Agent::start(node, &pause(node, point));
        let told = agent.begin::<vm::Put>(ID, &spec(TINY));
        agent.wait_at_point();
        node.fill_disk();
        agent.go_on();
        let (code, words) = told.end(&agent).unwrap_err().refusal();
        assert_eq!(code, ErrorCode::ResourceUnavailable, "{point}: {words}");
        assert!(words.contains("No space left"), "{point}: {words}");
        node.empty_disk();
        assert_settles(node, point, &ground.empty, left);
        ground.told_again(&agent, point);
    }
}

pub fn disk_damaged(ground: &Ground) {
    let node = &ground.node;
    let agent = Agent::start(node, "");
    let image = std::fs::read(node.image()).unwrap();
    let mut damaged = image.clone();
    damaged[..512].fill(0);
    std::fs::write(node.image(), damaged).unwrap();
    let (code, words) = put(&agent).unwrap_err().refusal();
    assert_eq!(code, ErrorCode::ResourceUnavailable, "{words}");
    assert!(words.contains(TINY) && words.contains("cannot be used"), "{words}");
    std::fs::write(node.image(), image).unwrap();
    ground.assert_nothing(&agent, "a damaged image");

    // Its own disk, as it is told again.
    let off = VmSpec { power: WantedPower::Off, ..spec(TINY) };
    agent.call::<vm::Put>(ID, &off).unwrap();
    let disk = node.file(ID, "disk.qcow2");
    let mut bytes = std::fs::read(&disk).unwrap();
    bytes[..512].fill(0);
    std::fs::write(&disk, &bytes).unwrap();
    let before = Inventory::of(node);
    for _ in 0..2 {
        let (code, words) = put(&agent).unwrap_err().refusal();
        assert_eq!(code, ErrorCode::ServiceError, "{words}");
        assert!(words.contains("disk.qcow2 is not a disk"), "{words}");
    }
    assert_settles(node, "a damaged disk", &before, &[]);
    assert_eq!(std::fs::read(&disk).unwrap(), bytes, "nobody touched it");
    let anew = VmRebuild { image: TINY.to_owned(), seed: None, power: WantedPower::On };
    agent.call::<vm::Rebuild>(ID, &anew).unwrap();
    ground.told_again(&agent, "made anew");
}

pub fn network_cut(ground: &Ground) {
    let node = &ground.node;
    let plane = ControlPlane::enrol(node);
    let agent = Agent::start(node, &pause(node, "put.after_define"));
    plane.call_and_lose::<vm::Put>(node, ID, &spec(TINY), || {
        agent.wait_at_point();
        node.space.ip("link set eth0 down");
        agent.go_on();
        assert_eq!(agent.end_of("vm.put"), None, "it went on without its caller");
    });
    node.space.ip("link set eth0 up");
    let vm = agent.call::<vm::Get>(ID, &Nothing {}).unwrap();
    assert_eq!(put(&agent).unwrap(), vm, "it is there already");
    ground.told_again(&agent, "the network was cut");
}

pub fn clock_jump(ground: &Ground) {
    let node = &ground.node;
    let agent = Agent::with_false_clock(node, &pause(node, "put.after_disk"));
    let told = agent.begin::<vm::Put>(ID, &spec(TINY));
    agent.wait_at_point();
    agent.set_clock(MANY_YEARS_S);
    let request = serde_json::from_str(r#"{"remove": true}"#).unwrap();
    let orphans = agent.begin::<node::Orphans>((), &request).end(&agent).unwrap().orphans;
    assert_eq!(orphans, [], "what is being made is nobody's leftover, whatever the clock says");
    agent.go_on();
    let vm = told.end(&agent).unwrap();
    assert_eq!(vm.state, VmState::Running);
    agent.set_clock(-86_400);
    assert_eq!(put(&agent).unwrap(), vm, "since when it runs is noted once");
    ground.told_again(&agent, "the clock went back");
}

/// A name that keeps its rule.
pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}
