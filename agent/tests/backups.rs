//! Backups without a guest: disks of VMs on libvirt's test driver, which are real qcow2 files, to a directory
//! and to an S3 server; and the simulator.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod libvirt_common;
#[path = "common/s3.rs"]
mod s3;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use berth_agent::backups;
use berth_agent::error::Refusal;
use berth_agent::faults;
use berth_agent::hypervisor::Hypervisor;
use berth_agent::hypervisor::libvirt::GuestNetwork;
use berth_agent::hypervisor::simulator::{Simulator, SimulatorConfig};
use berth_agent::proof;
use berth_agent::runs::{Cx, Runs};
use berth_agent::work::Asked;
use berth_model::agent::function::Kind;
use berth_model::agent::{
    Backup, BackupCreate, BackupDelete, BackupKeep, BackupKey, BackupKind, BackupPrune, BackupRestore,
    BackupStore, BackupVerify, BackupWhere, Name, VmSpec, VmState, WantedPower,
};
use berth_model::{ByteSize, ErrorCode, VmId};
use libvirt_common::{EMPTY_IMAGE, Node, image_path, run, spec, text};
use s3::S3;
use tempfile::TempDir;

const ID: VmId = VmId(7);
const ALL: &[&str] =
    &["backup.create", "backup.list", "backup.verify", "backup.restore", "backup.prune", "backup.delete"];

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn key(byte: &str) -> BackupKey {
    BackupKey(byte.repeat(32))
}

/// A VM that is off, with an image that is not empty and a store.
struct Ground {
    node: Node,
    store: BackupStore,
    home: TempDir,
}

impl Ground {
    fn new() -> Self {
        let node = Node::on_test_driver(GuestNetwork::User);
        let image = image_path(&node.config, EMPTY_IMAGE);
        qemu_io(&image, &["write -P 0x11 0 8M", "write -P 0x22 20M 4M"]);
        let off = VmSpec { power: WantedPower::Off, disk: ByteSize::mib(96), ..spec(EMPTY_IMAGE) };
        assert_eq!(node.libvirt.put(ID, &off).unwrap().state, VmState::Off);
        let home = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = BackupStore::Directory { path: text(&home.path().join("store")).to_owned() };
        Self { node, store, home }
    }

    fn disk(&self, id: VmId) -> PathBuf {
        self.node.folder(id).join("disk.qcow2")
    }

    fn write(&self, commands: &[&str]) {
        qemu_io(&self.disk(ID), commands);
    }

    /// The disk as it is now, whole, to compare with.
    fn keep(&self, name: &str) -> PathBuf {
        let kept = self.home.path().join(name);
        run("qemu-img", &["convert", "-O", "raw", text(&self.disk(ID)), text(&kept)]);
        kept
    }

    fn request(&self) -> BackupCreate {
        BackupCreate { store: self.store.clone(), key: key("5c"), full: false, incrementals_max: None }
    }

    fn create(&self, backup: &str) -> Result<Backup, Refusal> {
        self.create_with(backup, &self.request())
    }

    fn create_with(&self, backup: &str, request: &BackupCreate) -> Result<Backup, Refusal> {
        backups::create(&self.node.libvirt, &Cx::unwatched(), ID, &name(backup), request)
    }

    fn restore(&self, to: VmId, backup: &str) -> Result<(), Refusal> {
        let request = BackupRestore {
            store: self.store.clone(),
            key: key("5c"),
            backup: name(backup),
            of_vm: (to != ID).then_some(ID),
        };
        backups::restore(&self.node.libvirt, &Cx::unwatched(), to, &request).map(drop)
    }

    fn verify(&self, backup: &str) -> Result<Vec<String>, Refusal> {
        let request = BackupVerify { store: self.store.clone(), key: key("5c"), vm: ID };
        let verified = backups::verify(&Cx::unwatched(), &name(backup), &request)?;
        Ok(verified.chain.iter().map(ToString::to_string).collect())
    }

    fn list(&self) -> Vec<Backup> {
        backups::list(&BackupWhere { store: self.store.clone(), vm: None, from: None }).unwrap().backups
    }

    fn names(&self) -> Vec<String> {
        self.list().iter().map(|backup| backup.name.to_string()).collect()
    }

    /// A file of the directory store.
    fn file(&self, path: &str) -> PathBuf {
        self.home.path().join("store").join(path)
    }

    /// Neither the store nor the VM's folder holds anything of this backup.
    fn assert_nothing_of(&self, backup: &str) {
        assert!(!self.names().contains(&backup.to_owned()), "{backup} is there");
        assert!(!self.file(&format!("pieces/vm-7/{backup}")).exists(), "pieces are left");
        assert!(!self.node.folder(ID).join("backup.new").exists(), "a folder is left");
    }
}

fn qemu_io(disk: &Path, commands: &[&str]) {
    let mut args = vec!["-f", "qcow2"];
    commands.iter().for_each(|command| args.extend(["-c", command]));
    args.push(text(disk));
    run("qemu-io", &args);
}

fn assert_same(disk: &Path, kept: &Path) {
    run("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", text(disk), text(kept)]);
}

#[test]
fn a_disk_comes_back_as_it_was_at_each_backup() {
    let _proof = proof::driver(ALL);
    let ground = Ground::new();
    // Over the image, beside it, and zeros over what the image holds.
    ground.write(&["write -P 0x33 1M 1M", "write -P 0x44 50M 3M", "write -z 21M 1M", "write -P 0 2M 1M"]);
    let monday = ground.create("monday").unwrap();
    assert_eq!((monday.kind, monday.full_because.as_deref()), (BackupKind::Full, None));
    assert_eq!((monday.disk, monday.frozen), (ByteSize::mib(96), false));
    assert!(monday.stored < ByteSize::mib(1), "{monday:?}");
    let kept = [ground.keep("monday")];
    assert_eq!(ground.create("monday").unwrap(), monday, "told twice");

    ground.write(&["write -P 0x55 70M 64k", "write -z 50M 1M"]);
    let tuesday = ground.create("tuesday").unwrap();
    assert_eq!((tuesday.kind, tuesday.builds_on.clone()), (BackupKind::Incremental, Some(name("monday"))));
    assert!(tuesday.read <= ByteSize::mib(2), "{tuesday:?}");
    let kept = [kept[0].clone(), ground.keep("tuesday")];

    ground.write(&["write -P 0x66 0 64k"]);
    run("qemu-img", &["resize", "-q", "-f", "qcow2", text(&ground.disk(ID)), "112M"]);
    ground.write(&["write -P 0x77 110M 1M"]);
    let wednesday = ground.create("wednesday").unwrap();
    // The VM was off all the time: each builds on what has its mark.
    assert_eq!(wednesday.builds_on, Some(name("monday")));
    let kept = [kept[0].clone(), kept[1].clone(), ground.keep("wednesday")];

    assert_eq!(ground.names(), ["monday", "tuesday", "wednesday"]);
    assert!(ground.list().iter().all(|backup| backup.problem.is_none()));
    assert_eq!(ground.verify("wednesday").unwrap(), ["monday", "wednesday"]);

    // To a new VM, which a put then finishes.
    ground.restore(VmId(8), "tuesday").unwrap();
    assert_same(&ground.disk(VmId(8)), &kept[1]);
    let off = VmSpec { power: WantedPower::Off, disk: ByteSize::mib(96), ..spec(EMPTY_IMAGE) };
    ground.node.libvirt.put(VmId(8), &off).unwrap();
    // Its disk stands on its image, as before.
    let info = run("qemu-img", &["info", text(&ground.disk(VmId(8)))]);
    assert!(info.contains(EMPTY_IMAGE), "{info}");
    // To the same one; its disk stays as large as it grew.
    ground.restore(ID, "wednesday").unwrap();
    assert_same(&ground.disk(ID), &kept[2]);
    for _twice in 0..2 {
        ground.restore(ID, "monday").unwrap();
    }
    run("qemu-img", &["resize", "-q", "-f", "raw", text(&kept[0]), "112M"]);
    assert_same(&ground.disk(ID), &kept[0]);

    // The disk is another now, so what changed since wednesday is not known.
    let thursday = ground.create("thursday").unwrap();
    assert_eq!(thursday.kind, BackupKind::Full);
    assert!(thursday.full_because.unwrap().contains("not known"));
    let on = VmSpec { power: WantedPower::On, disk: ByteSize::mib(112), ..off };
    ground.node.libvirt.put(ID, &on).unwrap();
    let refused = ground.restore(ID, "monday").unwrap_err();
    assert_eq!(refused.0.code, ErrorCode::Conflict);
}

#[test]
fn a_backup_that_others_build_on_stays_and_rules_keep_chains_whole() {
    let _proof = proof::driver(&["backup.prune", "backup.delete"]);
    let ground = Ground::new();
    for backup in ["a", "b", "c"] {
        ground.write(&["write -P 0x31 3M 64k"]);
        ground.create(backup).unwrap();
    }
    let full = BackupCreate { full: true, ..ground.request() };
    assert_eq!(ground.create_with("d", &full).unwrap().full_because, None);
    let none = BackupCreate { incrementals_max: Some(0), ..ground.request() };
    let because = ground.create_with("e", &none).unwrap().full_because.unwrap();
    assert!(because.contains("0 backups build"), "{because}");

    let delete = |backup: &str, with_dependents| {
        let request = BackupDelete { store: ground.store.clone(), with_dependents };
        backups::delete(ID, &name(backup), &request, &Cx::unwatched())
    };
    assert_eq!(delete("a", false).unwrap_err().0.code, ErrorCode::Conflict);
    let prune = |last, dry_run| {
        let keep = BackupKeep { last, ..BackupKeep::default() };
        let request = BackupPrune { store: ground.store.clone(), keep, dry_run };
        let pruned = backups::prune(ID, &request, &Cx::unwatched()).unwrap();
        pruned.gone.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    // c stays, and so does a.
    assert_eq!(prune(3, true), ["b"]);
    assert_eq!(ground.names().len(), 5);
    assert_eq!(prune(3, false), ["b"]);
    assert_eq!(prune(3, false), [] as [&str; 0]);
    ground.assert_nothing_of("b");
    assert_eq!(ground.verify("c").unwrap(), ["a", "c"]);
    let gone = delete("a", true).unwrap().gone;
    assert_eq!(gone, [name("c"), name("a")]);
    assert_eq!(delete("a", true).unwrap().gone, [], "told twice");
    assert_eq!(ground.names(), ["d", "e"]);
}

#[test]
fn a_broken_chain_is_found_and_a_full_backup_comes_by_itself() {
    let _proof = proof::driver(&["backup.create", "backup.verify", "backup.list"]);
    let ground = Ground::new();
    let next = |backup: &str| {
        ground.write(&["write -P 0x32 3M 64k"]);
        ground.create(backup).unwrap()
    };
    next("a");
    next("b");
    // A byte flips: only reading finds that, and the next backup knows of it.
    let piece = ground.file("pieces/vm-7/a/00000000");
    let whole = std::fs::read(&piece).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    std::fs::write(&piece, &flipped).unwrap();
    let refused = ground.verify("b").unwrap_err().0;
    assert_eq!(refused.code, ErrorCode::Conflict);
    assert!(refused.message.contains("Piece 0 of a is damaged"), "{}", refused.message);
    assert!(
        ground.list().iter().all(|backup| backup.problem.as_ref().is_some_and(|p| p.contains("a damaged")))
    );
    assert!(ground.restore(VmId(8), "b").unwrap_err().0.message.contains("Piece 0 of a is damaged"));
    assert!(!ground.node.folder(VmId(8)).exists(), "nothing is left of a disk that could not be restored");
    let because = next("c").full_because.unwrap();
    assert!(because.contains("found a damaged"), "{because}");
    // It was the cable: a verification that finds nothing takes that back.
    std::fs::write(&piece, &whole).unwrap();
    ground.verify("b").unwrap();
    assert!(ground.list().iter().all(|backup| backup.problem.is_none()));

    // A piece is cut off, or gone: found without reading.
    next("d");
    let piece = ground.file("pieces/vm-7/c/00000000");
    std::fs::write(&piece, &std::fs::read(&piece).unwrap()[1..]).unwrap();
    assert!(ground.verify("d").unwrap_err().0.message.contains("Piece 0 of c is damaged"));
    std::fs::remove_file(ground.file("damaged/vm-7/c")).unwrap();
    assert!(next("e").full_because.unwrap().contains("A piece of c is cut off"));
    std::fs::remove_file(ground.file("pieces/vm-7/e/00000000")).unwrap();
    assert!(next("f").full_because.unwrap().contains("Piece 0 of e is missing"));
    // A manifest is gone, or garbled, or tampered with.
    next("g");
    std::fs::remove_file(ground.file("manifests/vm-7/f.json")).unwrap();
    let problem = ground.list().iter().find(|b| b.name == name("g")).unwrap().problem.clone().unwrap();
    assert!(problem.contains("f, on which it builds, is missing"), "{problem}");
    assert!(next("h").full_because.unwrap().contains("f, on which it builds, is missing"));
    let manifest = ground.file("manifests/vm-7/h.json");
    let words = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, words.replace("\"frozen\":false", "\"frozen\":true")).unwrap();
    assert!(ground.verify("h").unwrap_err().0.message.contains("not as it was sealed"));
    assert!(next("i").full_because.unwrap().contains("not as it was sealed"));
    std::fs::write(ground.file("manifests/vm-7/i.json"), "{").unwrap();
    assert!(ground.list().iter().any(|b| b.name == name("i") && b.problem.is_some()));
    assert_eq!(ground.create("i").unwrap_err().0.code, ErrorCode::Conflict);

    // The bitmap is gone, as after a crash.
    next("j");
    let info = run("qemu-img", &["info", "--output=json", text(&ground.disk(ID))]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let bitmaps = info["format-specific"]["data"]["bitmaps"].as_array().unwrap();
    assert_eq!(bitmaps.len(), 1, "only one mark is kept");
    run("qemu-img", &["bitmap", "--remove", text(&ground.disk(ID)), bitmaps[0]["name"].as_str().unwrap()]);
    assert!(next("k").full_because.unwrap().contains("not known"));
}

#[test]
fn another_key_opens_nothing_and_no_piece_shows_the_disk() {
    let _proof = proof::driver(&["backup.create", "backup.restore", "backup.verify"]);
    let ground = Ground::new();
    let words = ground.home.path().join("words");
    std::fs::write(&words, "the customer's own words ".repeat(4096)).unwrap();
    ground.write(&[&format!("write -s {} 1M 64k", text(&words))]);
    ground.create("a").unwrap();
    let piece = std::fs::read(ground.file("pieces/vm-7/a/00000000")).unwrap();
    assert!(!String::from_utf8_lossy(&piece).contains("customer"));
    let wrong = BackupVerify { store: ground.store.clone(), key: key("5d"), vm: ID };
    let refused = backups::verify(&Cx::unwatched(), &name("a"), &wrong).unwrap_err().0;
    assert_eq!(refused.code, ErrorCode::InvalidInput);
    assert!(serde_json::to_string(&refused).unwrap().contains("\"key\""), "{refused:?}");
    assert!(!format!("{refused:?}").contains("5d5d"));
    // What another key made is nothing to build on.
    let other = BackupCreate { key: key("5d"), ..ground.request() };
    assert!(ground.create_with("b", &other).unwrap().full_because.unwrap().contains("another key"));
    assert_eq!(ground.restore(VmId(8), "b").unwrap_err().0.code, ErrorCode::InvalidInput);
    let found = Command::new("grep").args(["-rlE", "5c5c5c5c|5d5d5d5d"]).arg(ground.home.path()).output();
    assert_eq!(found.unwrap().stdout, b"", "a key lies on a disk");
}

#[test]
fn what_is_cut_off_or_cancelled_leaves_nothing() {
    let _proof = proof::driver(&["backup.create", "backup.restore"]);
    let ground = Ground::new();
    ground.write(&["write -P 0x33 1M 1M"]);
    for point in ["backup.after_begin", "backup.after_pieces"] {
        assert!(faults::with(&format!("{point}=error"), || ground.create("a")).is_err(), "{point}");
        ground.assert_nothing_of("a");
    }
    // Cut off when it was there already, but before its mark was kept.
    assert!(faults::with("backup.after_manifest=error", || ground.create("a")).is_err());
    assert_eq!(ground.create("a").unwrap().problem, None);
    // Pieces of a backup that an agent died over are swept away.
    std::fs::create_dir_all(ground.file("pieces/vm-7/dead")).unwrap();
    std::fs::write(ground.file("pieces/vm-7/dead/00000000.new"), "half").unwrap();
    std::fs::create_dir(ground.node.folder(ID).join("backup.new")).unwrap();
    ground.create("b").unwrap();
    ground.assert_nothing_of("dead");

    let runs = Runs::open(ground.home.path()).unwrap();
    let cancelled = || -> Arc<Cx> {
        let cx = runs.begin(&Asked {
            function: "backup.create",
            kind: Kind::Long,
            on: "VM 7".to_owned(),
            words: String::new(),
            by: "a test".to_owned(),
            wait: None,
        });
        runs.cancel(cx.run());
        cx
    };
    let refused = backups::create(&ground.node.libvirt, &cancelled(), ID, &name("c"), &ground.request());
    assert!(refused.unwrap_err().0.message.contains("cancelled"));
    ground.assert_nothing_of("c");
    let before = ground.keep("before");
    let request =
        BackupRestore { store: ground.store.clone(), key: key("5c"), backup: name("a"), of_vm: Some(ID) };
    for to in [ID, VmId(8)] {
        let refused = backups::restore(&ground.node.libvirt, &cancelled(), to, &request);
        assert!(refused.unwrap_err().0.message.contains("cancelled"));
        let cut = || backups::restore(&ground.node.libvirt, &Cx::unwatched(), to, &request);
        assert!(faults::with("restore.after_write=error", cut).is_err());
    }
    assert!(!ground.node.folder(VmId(8)).exists());
    assert!(!ground.node.folder(ID).join("disk.qcow2.new").exists());
    assert_same(&ground.disk(ID), &before);
}

/// A small file system in a file.
struct Small {
    place: PathBuf,
}

impl Small {
    fn mount(home: &Path) -> Self {
        let (file, place) = (home.join("small.img"), home.join("small"));
        run("truncate", &["-s", "8M", text(&file)]);
        run("mkfs.ext4", &["-q", "-F", text(&file)]);
        std::fs::create_dir(&place).unwrap();
        run("mount", &["-o", "loop", text(&file), text(&place)]);
        Self { place }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.place).output();
    }
}

#[test]
fn a_full_store_is_said_so_and_holds_no_half_backup() {
    let _proof = proof::driver(&["backup.create"]);
    let mut ground = Ground::new();
    let small = Small::mount(ground.home.path());
    let noise = ground.home.path().join("noise");
    run("sh", &["-c", &format!("head -c 16M /dev/urandom >{}", text(&noise))]);
    ground.store = BackupStore::Directory { path: text(&small.place.join("store")).to_owned() };
    ground.create("fits").unwrap();
    ground.write(&[&format!("write -s {} 30M 16M", text(&noise))]);
    let refused = ground.create("large").unwrap_err().0;
    assert_eq!(refused.code, ErrorCode::ResourceUnavailable, "{refused:?}");
    assert_eq!(ground.names(), ["fits"]);
    assert!(!small.place.join("store/pieces/vm-7/large").exists());
    assert!(!ground.node.folder(ID).join("backup.new").exists());
    // The mark is still that of the one that fits.
    ground.write(&["write -z 30M 16M"]);
    assert_eq!(ground.create("small").unwrap().builds_on, Some(name("fits")));
}

#[test]
fn a_bucket_is_as_good_as_a_directory() {
    let _proof = proof::driver(ALL);
    let mut ground = Ground::new();
    let s3 = S3::start(&[], "127.0.0.1:0", &ground.home.path().join("s3.log"));
    s3.make_bucket();
    ground.store = s3.store(s3::BUCKET);
    let noise = ground.home.path().join("noise");
    run("sh", &["-c", &format!("head -c 10M /dev/urandom >{}", text(&noise))]);
    ground.write(&[&format!("write -s {} 30M 10M", text(&noise))]);
    assert_eq!(ground.list(), []);
    let full = ground.create("a").unwrap();
    assert!(full.stored > ByteSize::mib(10), "{full:?}");
    ground.write(&["write -P 0x55 70M 64k"]);
    assert_eq!(ground.create("b").unwrap().builds_on, Some(name("a")));
    let kept = ground.keep("b");
    assert_eq!(ground.verify("b").unwrap(), ["a", "b"]);
    // A list that takes too long ends after a VM, and goes on there.
    let other = VmSpec { power: WantedPower::Off, nics: vec![], ..spec(EMPTY_IMAGE) };
    ground.node.libvirt.put(VmId(6), &other).unwrap();
    let made =
        backups::create(&ground.node.libvirt, &Cx::unwatched(), VmId(6), &name("other"), &ground.request());
    made.unwrap();
    let page = |from| {
        let request = BackupWhere { store: ground.store.clone(), vm: None, from };
        let list = backups::list_within(&request, Duration::ZERO).unwrap();
        (list.backups.iter().map(|b| (b.vm, b.name.to_string())).collect::<Vec<_>>(), list.next)
    };
    let (first, next) = page(None);
    assert_eq!((first, next), (vec![(VmId(6), "other".to_owned())], Some(ID)));
    let (rest, end) = page(next);
    assert_eq!((rest.len(), end), (2, None));
    assert_eq!(ground.list().len(), 3, "in time, all at once");
    let request = BackupDelete { store: ground.store.clone(), with_dependents: true };
    backups::delete(VmId(6), &name("other"), &request, &Cx::unwatched()).unwrap();
    ground.restore(VmId(8), "b").unwrap();
    assert_same(&ground.disk(VmId(8)), &kept);
    assert_eq!(ground.names(), ["a", "b"]);
    let request = BackupDelete { store: ground.store.clone(), with_dependents: true };
    backups::delete(ID, &name("a"), &request, &Cx::unwatched()).unwrap();
    assert_eq!(ground.list(), []);

    ground.store = s3.store("no-such-bucket");
    let refused = ground.create("c").unwrap_err().0;
    assert_eq!(refused.code, ErrorCode::ServiceError, "{refused:?}");
    assert!(refused.message.contains("no such bucket"), "{}", refused.message);
    assert!(!ground.node.folder(ID).join("backup.new").exists());
}

#[test]
fn the_simulator_keeps_the_promises_of_backups() {
    let _proof = proof::driver(ALL);
    let home = tempfile::tempdir().unwrap();
    let config = SimulatorConfig { delay: Duration::from_millis(1), ..SimulatorConfig::default() };
    let simulator = Simulator::new(config).unwrap();
    simulator.put(ID, &VmSpec { disk: ByteSize::gib(2), ..spec(EMPTY_IMAGE) }).unwrap();
    let store = BackupStore::Directory { path: text(&home.path().join("store")).to_owned() };
    let request = BackupCreate { store: store.clone(), key: key("5c"), full: false, incrementals_max: None };
    let cx = Cx::unwatched();
    let create = |backup: &str| backups::create(&simulator, &cx, ID, &name(backup), &request);
    let a = create("a").unwrap();
    assert_eq!((a.kind, a.disk), (BackupKind::Full, ByteSize::gib(2)));
    assert_eq!(create("a").unwrap(), a);
    assert_eq!(create("b").unwrap().builds_on, Some(name("a")));
    let c = create("c").unwrap();
    assert_eq!(c.builds_on, Some(name("b")));
    let verify = BackupVerify { store: store.clone(), key: key("5c"), vm: ID };
    assert_eq!(backups::verify(&cx, &name("c"), &verify).unwrap().chain.len(), 3);
    let restore = BackupRestore { store: store.clone(), key: key("5c"), backup: name("c"), of_vm: None };
    let refused = backups::restore(&simulator, &cx, ID, &restore).unwrap_err();
    assert_eq!(refused.0.code, ErrorCode::Conflict);
    let to_new = BackupRestore { of_vm: Some(ID), ..restore };
    assert_eq!(backups::restore(&simulator, &cx, VmId(8), &to_new).unwrap().disk, ByteSize::gib(2));
    let keep = BackupKeep { daily: 1, ..BackupKeep::default() };
    let prune = BackupPrune { store: store.clone(), keep, dry_run: false };
    assert_eq!(backups::prune(ID, &prune, &cx).unwrap().gone, [], "the newest builds on all");
    let delete = BackupDelete { store: store.clone(), with_dependents: true };
    assert_eq!(backups::delete(ID, &name("b"), &delete, &cx).unwrap().gone.len(), 2);
    assert!(create("d").unwrap().full_because.is_some());
    assert_eq!(backups::list(&BackupWhere { store, vm: Some(ID), from: None }).unwrap().backups.len(), 2);
    let missing = backups::create(&simulator, &cx, VmId(9), &name("a"), &request).unwrap_err();
    assert_eq!(missing.0.code, ErrorCode::NotFound);
}
