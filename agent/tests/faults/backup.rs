//! Faults while a backup is made.

use berth_model::agent::function::{backup, vm};
use berth_model::agent::{
    Backup, BackupCreate, BackupKeep, BackupPrune, BackupRestore, BackupStore, BackupVerify, BackupWhere,
    Nothing, VmState,
};
use berth_model::{ErrorCode, VmId};

use crate::agent::{Agent, ControlPlane, Failed, pause};
use crate::create::name;
use crate::guest::{Ground, ID, OFF};
use crate::libvirt_common::{run as output, wait_for};
use crate::node::Node;
use crate::s3::{BUCKET, S3};

/// Backups to a folder of the node.
struct Store<'a> {
    ground: &'a Ground,
    store: BackupStore,
}

impl<'a> Store<'a> {
    fn new(ground: &'a Ground) -> Self {
        Self { ground, store: ground.store() }
    }

    fn request(&self) -> BackupCreate {
        BackupCreate { store: self.store.clone(), ..self.ground.backup() }
    }

    fn create(&self, agent: &Agent<'_>, vm: VmId, backup: &str) -> Result<Backup, Failed> {
        agent.call::<backup::Create>((vm, name(backup)), &self.request())
    }

    fn names(&self, agent: &Agent<'_>) -> Vec<String> {
        let request = BackupWhere { store: self.store.clone(), vm: None, from: None };
        let list = agent.call::<backup::List>((), &request).unwrap();
        list.backups.iter().map(|backup| backup.name.to_string()).collect()
    }

    fn verify(&self, agent: &Agent<'_>, vm: VmId, backup: &str) {
        let request = BackupVerify { store: self.store.clone(), key: self.request().key, vm };
        agent.call::<backup::Verify>(name(backup), &request).unwrap();
    }

    /// Told again, it is there once, and builds on what was before; beside the mark of the last one, nothing is on
    /// the node.
    fn told_again(&self, agent: &Agent<'_>, backup: &str) {
        let made = self.create(agent, ID, backup).unwrap();
        let before = self.ground.last.replace(name(backup));
        assert_eq!(made.builds_on, Some(before), "{made:?}");
        assert_eq!(self.create(agent, ID, backup).unwrap(), made, "told twice");
        self.assert_nothing_half(agent, backup);
        self.ground.assert_well(agent, backup);
    }

    fn has(&self, agent: &Agent<'_>, backup: &str) -> bool {
        self.names(agent).contains(&backup.to_owned())
    }

    fn marks(&self) -> usize {
        let marks = self.ground.node.virsh(&["checkpoint-list", "--name", &self.ground.node.domain(ID)]);
        marks.split_whitespace().count()
    }

    /// The store holds pieces of its backups alone.
    fn assert_nothing_half(&self, agent: &Agent<'_>, what: &str) {
        let BackupStore::Directory { path } = &self.store else { return };
        let mut pieces = Vec::new();
        for vm in std::fs::read_dir(format!("{path}/pieces")).into_iter().flatten().flatten() {
            let folders = std::fs::read_dir(vm.path()).unwrap().flatten();
            pieces.extend(folders.map(|entry| entry.file_name().into_string().unwrap()));
        }
        let mut names = self.names(agent);
        pieces.sort();
        names.sort();
        assert_eq!(pieces, names, "{what}");
        let unfinished = output("find", &[path, "-name", "*.new"]);
        assert_eq!(unfinished, "", "{what}");
    }
}

pub fn libvirtd_killed(ground: &Ground) {
    let (node, store) = (&ground.node, Store::new(ground));
    let agent = Agent::start(node, &pause(node, "backup.after_begin"));
    let told = agent.begin::<backup::Create>((ID, name("libvirtd")), &store.request());
    agent.wait_at_point();
    node.kill_libvirtd();
    agent.go_on();
    let (code, words) = told.end(&agent).unwrap_err().refusal();
    assert_eq!(code, ErrorCode::Unavailable, "{words}");
    node.start_libvirtd();
    wait_for("the agent to find libvirt", || agent.call::<vm::Get>(ID, &Nothing {}).ok());
    // Nobody tells it to, and the job that QEMU went on with is ended.
    ground.assert_well(&agent, "libvirtd was killed");
    assert!(!store.has(&agent, "libvirtd"));
    store.told_again(&agent, "libvirtd");
    assert_eq!(store.marks(), 1);
}

pub fn agent_killed(ground: &Ground) {
    let (node, store) = (&ground.node, Store::new(ground));
    for point in ["backup.after_freeze", "backup.after_begin", "backup.after_pieces", "backup.after_manifest"]
    {
        let new = point.replace("backup.", "killed-");
        let agent = Agent::start(node, &format!("{point}=kill"));
        let cut = store.create(&agent, ID, &new).unwrap_err();
        assert!(matches!(cut, Failed::Cut(_)), "{point}: {cut:?}");
        agent.wait_for_end();
        let agent = Agent::start(node, "");
        ground.assert_well(&agent, point);
        let there = point == "backup.after_manifest";
        assert_eq!(store.has(&agent, &new), there, "{point}");
        store.told_again(&agent, &new);
        // Whoever wrote the manifest died before it dropped the mark of the backup before.
        assert_eq!(store.marks(), 1 + usize::from(there), "{point}");
    }
    let agent = Agent::start(node, "");
    store.told_again(&agent, "after-all");
    assert_eq!(store.marks(), 1);
}

pub fn disk_full(ground: &Ground) {
    let (node, store) = (&ground.node, Store::new(ground));
    let agent = Agent::start(node, &pause(node, "backup.after_begin"));
    node.fill_disk();
    let (code, words) = store.create(&agent, ID, "full").unwrap_err().refusal();
    assert_eq!(code, ErrorCode::ResourceUnavailable, "beforehand: {words}");
    node.empty_disk();
    ground.assert_well(&agent, "refused beforehand");
    let told = agent.begin::<backup::Create>((ID, name("full")), &store.request());
    agent.wait_at_point();
    node.fill_disk();
    agent.go_on();
    let (code, words) = told.end(&agent).unwrap_err().refusal();
    assert_eq!(code, ErrorCode::ResourceUnavailable, "{words}");
    assert!(words.contains("for the guest's sake"), "{words}");
    assert!(!store.has(&agent, "full"));
    // What the guest writes now holds it, and is written when there is room.
    let script = "dd if=/dev/urandom of=/root/large bs=1M count=4 2>/dev/null; sync; md5sum </root/large";
    let writing = node.begin_inside(ID, script);
    let state = || agent.call::<vm::Get>(ID, &Nothing {}).unwrap().state;
    wait_for("the guest to be held", || (state() == VmState::Paused).then_some(()));
    node.empty_disk();
    assert_eq!(agent.call::<vm::Resume>(ID, &Nothing {}).unwrap().state, VmState::Running);
    let wrote = node.end_inside(ID, &writing);
    let read = node.inside(ID, "echo 3 >/proc/sys/vm/drop_caches; md5sum </root/large; rm /root/large");
    assert_eq!(read, wrote);
    store.told_again(&agent, "full");
}

pub fn disk_damaged(ground: &Ground) {
    let store = Store::new(ground);
    let agent = Agent::start(&ground.node, "");
    ground.write_off("write -P 0x44 20M 2M");
    store.create(&agent, OFF, "good").unwrap();
    let damaged = ground.damage_off();
    for _ in 0..2 {
        let (code, words) = store.create(&agent, OFF, "bad").unwrap_err().refusal();
        assert_eq!(code, ErrorCode::ServiceError, "{words}");
        assert!(words.contains("disk"), "{words}");
        assert!(!store.has(&agent, "bad"));
        store.assert_nothing_half(&agent, "damaged");
    }
    let now = std::fs::read(ground.disk_off()).unwrap();
    assert!(now[64 * 1024..] == damaged[64 * 1024..], "nobody touched it");
    let key = store.request().key;
    let restore = BackupRestore { store: store.store.clone(), key, backup: name("good"), of_vm: None };
    agent.call::<backup::Restore>(OFF, &restore).unwrap();
    ground.write_off("read -P 0x44 20M 2M");
    let again = store.create(&agent, OFF, "again").unwrap();
    assert!(again.full_because.is_some(), "{again:?}");
    store.verify(&agent, OFF, "again");
    ground.assert_well(&agent, "a damaged disk");
}

pub fn guest_silent(ground: &Ground) {
    let (node, store) = (&ground.node, Store::new(ground));
    let agent = Agent::start(node, "");
    ground.silence(true);
    assert!(!store.create(&agent, ID, "silent").unwrap().frozen);
    ground.silence(false);
    store.told_again(&agent, "silent");
    drop(agent);
    // It falls silent when its file systems are frozen, and comes back.
    let agent = Agent::start(node, &pause(node, "backup.after_freeze"));
    let told = agent.begin::<backup::Create>((ID, name("late")), &store.request());
    agent.wait_at_point();
    ground.silence(true);
    agent.go_on();
    wait_for("the job", || {
        let exports = node.monitor(ID, "query-block-exports");
        exports.as_array().is_some_and(|exports| !exports.is_empty()).then_some(())
    });
    ground.silence(false);
    assert!(told.end(&agent).unwrap().frozen);
    assert!(!node.is_frozen(ID));
    store.told_again(&agent, "late");
}

pub fn network_cut(ground: &Ground) {
    let (node, store) = (&ground.node, Store::new(ground));
    let plane = ControlPlane::enrol(node);
    let agent = Agent::start(node, &pause(node, "backup.after_begin"));
    plane.call_and_lose::<backup::Create>(node, (ID, name("cut")), &store.request(), || {
        agent.wait_at_point();
        node.space.ip("link set eth0 down");
        agent.go_on();
        assert_eq!(agent.end_of("backup.create"), None, "it went on without its caller");
    });
    node.space.ip("link set eth0 up");
    assert!(store.has(&agent, "cut"));
    store.told_again(&agent, "cut");

    // The other side: the store.
    let s3 = start_s3(node);
    let store = Store { ground, store: s3.store(BUCKET) };
    let told = agent.begin::<backup::Create>((OFF, name("cut")), &store.request());
    agent.wait_at_point();
    drop(s3);
    agent.go_on();
    let (code, words) = told.end(&agent).unwrap_err().refusal();
    assert_eq!(code, ErrorCode::Unavailable, "{words}");
    ground.assert_well(&agent, "the store is gone");
    let _s3 = start_s3(node);
    let made = store.create(&agent, OFF, "cut").unwrap();
    assert_eq!(store.create(&agent, OFF, "cut").unwrap(), made, "told twice");
    store.verify(&agent, OFF, "cut");
    ground.assert_well(&agent, "the store is back");
}

pub fn clock_jump(ground: &Ground) {
    let (node, store) = (&ground.node, Store::new(ground));
    let agent = Agent::with_false_clock(node, &pause(node, "backup.after_begin"));
    for (backup, jump_s) in [("forward", 10 * 365 * 86_400), ("back", -86_400)] {
        let told = agent.begin::<backup::Create>((ID, name(backup)), &store.request());
        agent.wait_at_point();
        agent.set_clock(jump_s);
        agent.go_on();
        told.end(&agent).unwrap();
        store.told_again(&agent, backup);
    }
    store.told_again(&agent, "later");
    // The newest is what was made last, whatever the clock said, and it builds on all before it.
    let keep = BackupKeep { last: 1, ..BackupKeep::default() };
    let prune = BackupPrune { store: store.store.clone(), keep, dry_run: true };
    assert_eq!(agent.call::<backup::Prune>(ID, &prune).unwrap().gone, []);
    store.verify(&agent, ID, "later");
}

/// An S3 server in the control plane's network, with a bucket.
fn start_s3(node: &Node) -> S3 {
    let there = format!("--net=/run/netns/{}", node.plane.name());
    let s3 = S3::start(&["nsenter", &there], "10.99.0.2:5000", &node.home().join("s3.log"));
    node.plane.within(|| s3.make_bucket());
    s3
}
