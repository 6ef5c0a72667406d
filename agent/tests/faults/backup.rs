//! Faults while a backup is made.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use berth_model::agent::function::{backup, run, vm};
use berth_model::agent::{
    Backup, BackupCreate, BackupDelete, BackupKeep, BackupKey, BackupPrune, BackupRestore, BackupStore,
    BackupVerify, BackupWhere, Nothing, StoreSecret, VmState,
};
use berth_model::{ErrorCode, VmId};

use crate::agent::{Agent, ControlPlane, Failed, pause};
use crate::create::name;
use crate::guest::{Ground, ID, OFF};
use crate::libvirt_common::{run as output, text, wait_for};
use crate::node::Node;

/// Backups to a folder of the node.
struct Store<'a> {
    ground: &'a Ground,
    store: BackupStore,
}

impl<'a> Store<'a> {
    fn folder(ground: &'a Ground, folder: &str) -> Self {
        let path = text(&ground.node.home().join(folder)).to_owned();
        Self { ground, store: BackupStore::Directory { path } }
    }

    fn request(&self) -> BackupCreate {
        let key = BackupKey("5c".repeat(32));
        BackupCreate { store: self.store.clone(), key, full: false, incrementals_max: None }
    }

    fn create(&self, agent: &Agent<'_>, vm: VmId, backup: &str) -> Result<Backup, Failed> {
        agent.call::<backup::Create>((vm, name(backup)), &self.request())
    }

    fn names(&self, agent: &Agent<'_>) -> Vec<String> {
        let request = BackupWhere { store: self.store.clone(), vm: None };
        let list = agent.call::<backup::List>((), &request).unwrap();
        list.backups.iter().map(|backup| backup.name.to_string()).collect()
    }

    fn verify(&self, agent: &Agent<'_>, vm: VmId, backup: &str) {
        let request = BackupVerify { store: self.store.clone(), key: self.request().key, vm };
        agent.call::<backup::Verify>(name(backup), &request).unwrap();
    }

    /// Told again, it is there once, can be read back, and builds on what was before; beside the mark of the
    /// last one, nothing is on the node.
    fn told_again(&self, agent: &Agent<'_>, backup: &str, builds_on: &str) {
        let made = self.create(agent, ID, backup).unwrap();
        assert_eq!(made.builds_on, Some(name(builds_on)), "{made:?}");
        assert_eq!(self.create(agent, ID, backup).unwrap(), made, "told twice");
        self.verify(agent, ID, backup);
        self.assert_nothing_half(agent, backup);
        self.ground.assert_well(agent, backup);
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
    let (node, store) = (&ground.node, Store::folder(ground, "libvirtd"));
    let agent = Agent::start(node, &pause(node, "backup.after_begin"));
    store.create(&agent, ID, "first").unwrap();
    let told = agent.begin::<backup::Create>((ID, name("second")), &store.request());
    agent.wait_at_point();
    node.kill_libvirtd();
    agent.go_on();
    let (code, words) = told.end(&agent).unwrap_err().refusal();
    assert_eq!(code, ErrorCode::Unavailable, "{words}");
    node.start_libvirtd();
    wait_for("the agent to find libvirt", || agent.call::<vm::Get>(ID, &Nothing {}).ok());
    // Nobody tells it to, and the job that QEMU went on with is ended.
    ground.assert_well(&agent, "libvirtd was killed");
    assert_eq!(store.names(&agent), ["first"]);
    store.told_again(&agent, "second", "first");
    assert_eq!(store.marks(), 1);
}

pub fn agent_killed(ground: &Ground) {
    let (node, store) = (&ground.node, Store::folder(ground, "agent"));
    let agent = Agent::start(node, "");
    store.create(&agent, ID, "0").unwrap();
    drop(agent);
    let points =
        ["backup.after_freeze", "backup.after_begin", "backup.after_pieces", "backup.after_manifest"];
    for (n, point) in points.into_iter().enumerate() {
        let (before, new) = (n.to_string(), (n + 1).to_string());
        let agent = Agent::start(node, &format!("{point}=kill"));
        let cut = store.create(&agent, ID, &new).unwrap_err();
        assert!(matches!(cut, Failed::Cut(_)), "{point}: {cut:?}");
        agent.wait_for_end();
        let agent = Agent::start(node, "");
        ground.assert_well(&agent, point);
        let there = point == "backup.after_manifest";
        assert_eq!(store.names(&agent).len(), n + 1 + usize::from(there), "{point}");
        store.told_again(&agent, &new, &before);
        // Whoever wrote the manifest died before it dropped the mark of the backup before.
        assert_eq!(store.marks(), 1 + usize::from(there), "{point}");
    }
    let agent = Agent::start(node, "");
    store.told_again(&agent, "5", "4");
    assert_eq!(store.marks(), 1);
}

pub fn disk_full(ground: &Ground) {
    let (node, store) = (&ground.node, Store::folder(ground, "full"));
    let agent = Agent::start(node, &pause(node, "backup.after_begin"));
    store.create(&agent, ID, "first").unwrap();
    node.fill_disk();
    let (code, words) = store.create(&agent, ID, "second").unwrap_err().refusal();
    assert_eq!(code, ErrorCode::ResourceUnavailable, "beforehand: {words}");
    node.empty_disk();
    ground.assert_well(&agent, "refused beforehand");
    let told = agent.begin::<backup::Create>((ID, name("second")), &store.request());
    agent.wait_at_point();
    node.fill_disk();
    agent.go_on();
    let (code, words) = told.end(&agent).unwrap_err().refusal();
    assert_eq!(code, ErrorCode::ResourceUnavailable, "{words}");
    assert!(words.contains("for the guest's sake"), "{words}");
    assert_eq!(store.names(&agent), ["first"]);
    // What the guest writes now holds it, and is written when there is room.
    let script = "dd if=/dev/urandom of=/root/large bs=1M count=8 2>/dev/null; sync; md5sum </root/large";
    let writing = node.begin_inside(ID, script);
    let state = || agent.call::<vm::Get>(ID, &Nothing {}).unwrap().state;
    wait_for("the guest to be held", || (state() == VmState::Paused).then_some(()));
    node.empty_disk();
    assert_eq!(agent.call::<vm::Resume>(ID, &Nothing {}).unwrap().state, VmState::Running);
    let wrote = node.end_inside(ID, &writing);
    assert_eq!(
        node.inside(ID, "echo 3 >/proc/sys/vm/drop_caches; md5sum </root/large; rm /root/large"),
        wrote
    );
    store.told_again(&agent, "second", "first");
}

pub fn disk_damaged(ground: &Ground) {
    let store = Store::folder(ground, "damaged");
    let agent = Agent::start(&ground.node, "");
    ground.write_off("write -P 0x44 100M 2M");
    store.create(&agent, OFF, "good").unwrap();
    let damaged = ground.damage_off();
    for _ in 0..2 {
        let (code, words) = store.create(&agent, OFF, "bad").unwrap_err().refusal();
        assert_eq!(code, ErrorCode::ServiceError, "{words}");
        assert!(words.contains("disk"), "{words}");
        assert_eq!(store.names(&agent), ["good"]);
        store.assert_nothing_half(&agent, "damaged");
    }
    let now = std::fs::read(ground.disk_off()).unwrap();
    assert!(now[64 * 1024..] == damaged[64 * 1024..], "nobody touched it");
    let key = store.request().key;
    let restore = BackupRestore { store: store.store.clone(), key, backup: name("good"), of_vm: None };
    agent.call::<backup::Restore>(OFF, &restore).unwrap();
    ground.write_off("read -P 0x44 100M 2M");
    let again = store.create(&agent, OFF, "again").unwrap();
    assert!(again.full_because.is_some(), "{again:?}");
    store.verify(&agent, OFF, "again");
    ground.assert_well(&agent, "a damaged disk");
}

pub fn guest_silent(ground: &Ground) {
    let (node, store) = (&ground.node, Store::folder(ground, "silent"));
    let agent = Agent::start(node, "");
    assert!(store.create(&agent, ID, "first").unwrap().frozen);
    ground.silence(true);
    assert!(!store.create(&agent, ID, "second").unwrap().frozen);
    ground.silence(false);
    store.told_again(&agent, "second", "first");
    drop(agent);
    // It falls silent when its file systems are frozen, and comes back.
    let agent = Agent::start(node, &pause(node, "backup.after_freeze"));
    let told = agent.begin::<backup::Create>((ID, name("third")), &store.request());
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
    store.told_again(&agent, "third", "second");
}

pub fn network_cut(ground: &Ground) {
    let node = &ground.node;
    let store = Store::folder(ground, "cut");
    let plane = ControlPlane::enrol(node);
    let agent = Agent::start(node, &pause(node, "backup.after_begin"));
    store.create(&agent, ID, "first").unwrap();
    plane.call_and_lose::<backup::Create>(node, (ID, name("second")), &store.request(), || {
        agent.wait_at_point();
        node.space.ip("link set eth0 down");
        agent.go_on();
        let ended = || {
            let runs = agent.call::<run::List>((), &Nothing {}).unwrap().runs;
            let newest = runs.into_iter().find(|run| run.function == "backup.create").unwrap();
            newest.ended.map(|_| newest.error)
        };
        assert_eq!(wait_for("the function's end", ended), None, "it went on without its caller");
    });
    node.space.ip("link set eth0 up");
    assert_eq!(store.names(&agent), ["first", "second"]);
    store.told_again(&agent, "second", "first");

    // The other side: the store.
    let s3 = S3::start(node, "5000");
    let store = Store { ground, store: s3.store() };
    store.create(&agent, ID, "first").unwrap();
    let told = agent.begin::<backup::Create>((ID, name("second")), &store.request());
    agent.wait_at_point();
    drop(s3);
    agent.go_on();
    let (code, words) = told.end(&agent).unwrap_err().refusal();
    assert_eq!(code, ErrorCode::Unavailable, "{words}");
    ground.assert_well(&agent, "the store is gone");
    // It comes back, and has lost everything: then that is a full one.
    let _s3 = S3::start(node, "5000");
    let made = store.create(&agent, ID, "second").unwrap();
    assert_eq!(made.builds_on, None);
    store.verify(&agent, ID, "second");
    ground.assert_well(&agent, "the store is back");
}

pub fn clock_jump(ground: &Ground) {
    let (node, store) = (&ground.node, Store::folder(ground, "clock"));
    let agent = Agent::with_false_clock(node, &pause(node, "backup.after_begin"));
    store.create(&agent, ID, "first").unwrap();
    for (backup, jump_s, before) in [("second", 10 * 365 * 86_400, "first"), ("third", -86_400, "second")] {
        let told = agent.begin::<backup::Create>((ID, name(backup)), &store.request());
        agent.wait_at_point();
        agent.set_clock(jump_s);
        agent.go_on();
        told.end(&agent).unwrap();
        store.told_again(&agent, backup, before);
    }
    store.create(&agent, ID, "fourth").unwrap();
    // The newest is what was made last, whatever the clock said.
    let keep = BackupKeep { last: 1, ..BackupKeep::default() };
    let prune = BackupPrune { store: store.store.clone(), keep, dry_run: true };
    assert_eq!(agent.call::<backup::Prune>(ID, &prune).unwrap().gone, [], "fourth builds on all");
    let delete = BackupDelete { store: store.store.clone(), with_dependents: true };
    let gone = agent.call::<backup::Delete>((ID, name("first")), &delete).unwrap().gone;
    assert_eq!(gone, ["fourth", "third", "second", "first"].map(name));
}

/// An S3 server in the control plane's network, with a bucket.
struct S3 {
    server: Child,
    port: &'static str,
}

impl S3 {
    fn start(node: &Node, port: &'static str) -> Self {
        let usual = || {
            let cache =
                PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/berth/tools/python");
            let places = std::fs::read_dir(&cache).into_iter().flatten().flatten();
            let programs = places.map(|place| place.path().join("bin/moto_server"));
            programs.into_iter().find(|program| program.exists()).unwrap_or(cache)
        };
        let program = std::env::var_os("BERTH_MOTO_SERVER").map_or_else(usual, PathBuf::from);
        assert!(program.is_file(), "{} is missing: `cargo xtask test agent` installs it", program.display());
        let server = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", node.plane.name()))
            .arg(program)
            .args(["-H", "10.99.0.2", "-p", port])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let s3 = Self { server, port };
        node.plane.within(|| {
            let port = s3.port.parse().unwrap();
            let mut stream = wait_for("the S3 server", || TcpStream::connect(("10.99.0.2", port)).ok());
            write!(stream, "PUT /backups HTTP/1.0\r\nHost: 10.99.0.2:{port}\r\nContent-Length: 0\r\n\r\n")
                .unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.contains(" 200 "), "{answer}");
        });
        s3
    }

    fn store(&self) -> BackupStore {
        BackupStore::S3 {
            endpoint: format!("http://10.99.0.2:{}", self.port),
            region: "us-east-1".to_owned(),
            bucket: "backups".to_owned(),
            prefix: "node-1".to_owned(),
            access_key_id: "somebody".to_owned(),
            secret_access_key: StoreSecret("nobody-knows".to_owned()),
        }
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
