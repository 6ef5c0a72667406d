//! Backups of a real guest: what it wrote is looked for from inside it.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod libvirt_common;

use berth_agent::backups::disk::Wish;
use berth_agent::error::Refusal;
use berth_agent::hypervisor::libvirt::GuestNetwork;
use berth_agent::hypervisor::{Hypervisor, Machines};
use berth_agent::runs::Cx;
use berth_agent::{backups, faults, orphans, proof};
use berth_model::agent::{
    Backup, BackupCreate, BackupDelete, BackupKeep, BackupKey, BackupKind, BackupPrune, BackupRestore,
    BackupStore, BackupVerify, BackupWhere, Name, Orphan, PowerVerb, VmRebuild, VmSpec, VmState, WantedPower,
};
use berth_model::{ByteSize, ErrorCode, VmId};
use libvirt_common::{Node, QEMU, TINY, run, spec, text, wait_for};
use serde_json::{Value, json};

const ID: VmId = VmId(7);
const OTHER: VmId = VmId(8);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

struct Ground {
    node: Node,
    request: BackupCreate,
    _home: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let home = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = BackupStore::Directory { path: text(&home.path().join("store")).to_owned() };
        let request =
            BackupCreate { store, key: BackupKey("5c".repeat(32)), full: false, incrementals_max: None };
        Self { node: Node::tiny(GuestNetwork::User), request, _home: home }
    }

    fn create(&self, backup: &str) -> Result<Backup, Refusal> {
        backups::create(&self.node.libvirt, &Cx::unwatched(), ID, &name(backup), &self.request)
    }

    fn restore(&self, to: VmId, backup: &str) -> Result<(), Refusal> {
        let request = BackupRestore {
            store: self.request.store.clone(),
            key: self.request.key.clone(),
            backup: name(backup),
            of_vm: Some(ID),
        };
        backups::restore(&self.node.libvirt, &Cx::unwatched(), to, &request).map(drop)
    }

    fn domain(&self, id: VmId) -> String {
        format!("{}{id}", self.node.config.prefix)
    }

    /// Boots a VM, waits for it, and says what is in the guest's files.
    fn boot(&self, id: VmId) -> String {
        let boots = self.node.console(id).matches(libvirt_common::READY).count();
        let on = VmSpec { power: WantedPower::On, ..spec(TINY) };
        self.node.libvirt.put(id, &on).unwrap();
        self.node.wait_for_boot(id, boots + 1);
        self.inside(id, "cat /root/words; md5sum </root/noise")
    }

    /// Runs a command in the guest, through its agent.
    fn inside(&self, id: VmId, command: &str) -> String {
        let ask = |words: Value| {
            let words = words.to_string();
            let domain = self.domain(id);
            let asked = std::process::Command::new("virsh")
                .args(["-q", "-c", QEMU, "qemu-agent-command", "--timeout", "20", &domain, &words])
                .output()
                .unwrap();
            serde_json::from_slice::<Value>(&asked.stdout).ok().map(|answer| answer["return"].clone())
        };
        let run = json!({"execute": "guest-exec", "arguments":
            {"path": "/bin/sh", "arg": ["-c", command], "capture-output": true}});
        let pid = wait_for("the guest's agent", || ask(run.clone()))["pid"].clone();
        let status = json!({"execute": "guest-exec-status", "arguments": {"pid": pid}});
        let ended =
            wait_for("the guest's command", || ask(status.clone()).filter(|status| status["exited"] == true));
        decode(ended["out-data"].as_str().unwrap_or_default())
    }

    fn checkpoints(&self) -> usize {
        let listed = run("virsh", &["-q", "-c", QEMU, "checkpoint-list", "--name", &self.domain(ID)]);
        listed.split_whitespace().count()
    }

    fn assert_no_job(&self) {
        let job = run("virsh", &["-q", "-c", QEMU, "domjobinfo", &self.domain(ID)]);
        assert!(job.contains("None"), "{job}");
        assert!(!self.node.folder(ID).join("backup.new").exists());
    }
}

/// Base64, as guest agents send bytes.
fn decode(text: &str) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    for group in text.as_bytes().chunks(4) {
        let values: Vec<u32> = group
            .iter()
            .filter_map(|c| DIGITS.iter().position(|digit| digit == c).map(|value| value as u32))
            .collect();
        let word = values.iter().fold(0, |word, value| word << 6 | value) << (6 * (4 - values.len()));
        bytes.extend_from_slice(&word.to_be_bytes()[1..values.len()]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn a_guest_finds_what_it_wrote_before_each_backup() {
    let _proof = proof::guest(&[
        "backup.create",
        "backup.list",
        "backup.verify",
        "backup.restore",
        "backup.prune",
        "backup.delete",
        "node.orphans",
    ]);
    let ground = Ground::new();
    let libvirt = &ground.node.libvirt;
    ground.boot(ID);

    // Write, back up, write, back up.
    let noise = "dd if=/dev/urandom of=/root/noise bs=1M count=3 2>&1; md5sum </root/noise; sync";
    ground.inside(ID, &format!("echo one >/root/words; {noise}"));
    let one = ground.create("one").unwrap();
    assert_eq!((one.kind, one.full_because.clone()), (BackupKind::Full, None));
    let at_one = ground.inside(ID, "cat /root/words; md5sum </root/noise");
    assert!(at_one.starts_with("one\n"), "{at_one}");
    ground.assert_no_job();
    ground.inside(ID, &format!("echo two >>/root/words; {noise}"));

    // Cut off in the middle: no job, no second mark, and the changes are known as before.
    for point in ["backup.after_begin", "backup.after_pieces"] {
        assert!(faults::with(&format!("{point}=error"), || ground.create("two")).is_err());
        ground.assert_no_job();
        assert_eq!(ground.checkpoints(), 1, "{point}");
    }
    // An agent that died: its job goes on, and nobody ends it.
    let other = ground.node.reopened();
    let dead = other.backup_begin(ID, &Wish { since: &[], mark: "berth-dead" }).unwrap();
    std::mem::forget(dead);
    assert_eq!(ground.checkpoints(), 2);
    let lent = |orphan: &Orphan| orphan.kind == "lent disk" && orphan.name == ground.domain(ID);
    let orphans = |remove| orphans::list(libvirt.orphans().unwrap(), remove, |_| Some(())).orphans;
    assert!(orphans(false).iter().any(lent), "its disk is lent to nobody");
    assert!(orphans(true).iter().any(|orphan| lent(orphan) && orphan.removed));
    assert!(!orphans(false).iter().any(lent));
    let two = ground.create("two").unwrap();
    assert_eq!((two.kind, two.builds_on.clone()), (BackupKind::Incremental, Some(name("one"))), "{two:?}");
    assert!(two.read < one.read && two.read >= ByteSize::mib(3), "{two:?} {one:?}");
    let at_two = ground.inside(ID, "cat /root/words; md5sum </root/noise");
    ground.assert_no_job();
    assert_eq!(ground.checkpoints(), 1);
    let refused = ground.restore(ID, "one").unwrap_err();
    assert_eq!(refused.0.code, ErrorCode::Conflict, "it is on");

    // When QEMU dies, so does what it knew of changes: a full backup comes by itself.
    let pid = std::fs::read_to_string(format!("/run/libvirt/qemu/{}.pid", ground.domain(ID))).unwrap();
    run("kill", &["-9", pid.trim()]);
    wait_for("the crash", || (libvirt.get(ID).unwrap().state == VmState::Crashed).then_some(()));
    assert_eq!(ground.boot(ID), at_two);
    let three = ground.create("three").unwrap();
    assert_eq!(three.kind, BackupKind::Full);
    assert!(three.full_because.as_ref().is_some_and(|because| because.contains("lost")), "{three:?}");
    ground.inside(ID, &format!("echo four >>/root/words; {noise}"));
    let at_four = ground.inside(ID, "cat /root/words; md5sum </root/noise");
    // Of one that is off, too, and from the same mark.
    libvirt.power(ID, PowerVerb::Shutdown).unwrap();
    wait_for("the end", || (libvirt.get(ID).unwrap().state == VmState::Off).then_some(()));
    let four = ground.create("four").unwrap();
    assert_eq!(four.builds_on, Some(name("three")));

    // Destroy; restore each point; look from inside.
    libvirt.delete(ID).unwrap();
    ground.node.assert_nothing_left(ID);
    ground.restore(ID, "one").unwrap();
    assert_eq!(ground.boot(ID), at_one);
    libvirt.power(ID, PowerVerb::PowerOff).unwrap();
    ground.restore(ID, "two").unwrap();
    assert_eq!(ground.boot(ID), at_two);
    ground.restore(OTHER, "four").unwrap();
    assert_eq!(ground.boot(OTHER), at_four);

    let store = ground.request.store.clone();
    let verify = BackupVerify { store: store.clone(), key: ground.request.key.clone(), vm: ID };
    assert_eq!(backups::verify(&Cx::unwatched(), &name("four"), &verify).unwrap().chain.len(), 2);
    let keep = BackupKeep { last: 1, ..BackupKeep::default() };
    let prune = BackupPrune { store: store.clone(), keep, dry_run: false };
    let gone = backups::prune(ID, &prune, &Cx::unwatched()).unwrap().gone;
    assert_eq!(gone, [name("two"), name("one")]);
    let delete = BackupDelete { store: store.clone(), with_dependents: false };
    backups::delete(ID, &name("four"), &delete, &Cx::unwatched()).unwrap();
    let left = backups::list(&BackupWhere { store, vm: Some(ID), from: None }).unwrap().backups;
    assert_eq!(left, [three]);
    libvirt.delete(ID).unwrap();
    libvirt.delete(OTHER).unwrap();
    ground.node.assert_nothing_left(ID);
}

#[test]
fn a_disk_that_was_rewound_or_made_anew_is_backed_up_in_full() {
    let _proof = proof::guest(&["snapshot.revert", "vm.rebuild", "backup.create"]);
    let ground = Ground::new();
    let libvirt = &ground.node.libvirt;
    libvirt.put(ID, &VmSpec { power: WantedPower::Off, ..spec(TINY) }).unwrap();
    libvirt.snapshot_create(ID, &name("before")).unwrap();
    let known = |backup: &Backup| (backup.kind, ground.checkpoints());
    assert_eq!(known(&ground.create("one").unwrap()), (BackupKind::Full, 1));
    assert_eq!(known(&ground.create("two").unwrap()), (BackupKind::Incremental, 1));
    libvirt.snapshot_revert(ID, &name("before")).unwrap();
    assert_eq!(ground.checkpoints(), 0);
    let three = ground.create("three").unwrap();
    assert!(three.full_because.is_some() && known(&three) == (BackupKind::Full, 1), "{three:?}");
    let rebuild = VmRebuild { image: TINY.to_owned(), seed: None, power: WantedPower::Off };
    libvirt.rebuild(ID, &rebuild, &Cx::unwatched()).unwrap();
    assert_eq!(ground.checkpoints(), 0);
    let four = ground.create("four").unwrap();
    assert!(four.full_because.is_some() && known(&four) == (BackupKind::Full, 1), "{four:?}");
    libvirt.delete(ID).unwrap();
    ground.node.assert_nothing_left(ID);
}
