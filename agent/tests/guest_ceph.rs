//! Disks and volumes in Ceph: a real cluster of one node, and a guest that boots from it.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod ceph;
mod libvirt_common;

use std::path::Path;

use berth_agent::config::StorageSection;
use berth_agent::hypervisor::libvirt::{GuestNetwork, Libvirt, LibvirtConfig};
use berth_agent::hypervisor::{Hypervisor, HypervisorError, Machines};
use berth_agent::runs::Cx;
use berth_agent::{backups, faults, orphans, proof};
use berth_model::agent::{
    BackupCreate, BackupKey, BackupKind, BackupRestore, BackupStore, CloneMode, DisksAfter, Name, Nic,
    NodeCheck, PowerVerb, VmDelete, VmLimits, VmRebuild, VmSpec, VmState, VolumeAttachment, VolumeClone,
    VolumeCreate, WantedPower,
};
use berth_model::{ByteSize, VmId, VolumeId};
use ceph::Ceph;
use libvirt_common::guest::inside;
use libvirt_common::{Node, TINY, image_path, run, spec, text, wait_for};
use virt::connect::Connect;

const ONE: VmId = VmId(7);
const OTHER: VmId = VmId(8);
const DATA: VolumeId = VolumeId(5);
const CLONE: VolumeId = VolumeId(6);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn guest(disk: ByteSize, volumes: &[VolumeId]) -> VmSpec {
    let attachment = |volume: &VolumeId| VolumeAttachment { volume: *volume, read_only: false };
    VmSpec {
        disk,
        disk_pool: Some(name("ceph")),
        limits: VmLimits { disk_read_iops: Some(5000), ..VmLimits::default() },
        nics: vec![Nic { mac: "52:54:00:be:60:01".to_owned(), ..Nic::default() }],
        volumes: volumes.iter().map(attachment).collect(),
        ..spec(TINY)
    }
}

/// Waits until the guest says `wanted`.
fn until(node: &Node, script: &str, wanted: &str) {
    wait_for(&format!("{wanted:?} of {script}"), || (inside(node, ONE, script) == wanted).then_some(()));
}

/// What finds a volume in the guest by its serial number: `$disk`.
fn find(volume: VolumeId) -> String {
    format!(
        "modprobe -a virtio_scsi sd_mod; disk=; for d in /sys/block/sd*; do \
         grep -aq 'volume-{volume}$' $d/device/vpd_pg80 && disk=${{d##*/}}; done;"
    )
}

/// libvirt's keeping of the key, which the agent leaves for VMs that start with the node.
struct KeptKey(String);

impl Drop for KeptKey {
    fn drop(&mut self) {
        let connect = Connect::open(Some(libvirt_common::QEMU)).unwrap();
        let _ = connect.lookup_secret_by_uuid_string(&self.0).and_then(|secret| secret.undefine());
    }
}

/// Command lines of all programs.
fn command_lines() -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok()).collect()
}

/// Ceph writes elsewhere what is written over, so nothing would be wiped.
fn refuses_to_wipe(node: &Node) {
    let wipe = VmDelete { disks: DisksAfter::Wipe, ..VmDelete::default() };
    let refused = node.libvirt.remove(ONE, &wipe, &Cx::unwatched()).unwrap_err().to_string();
    assert!(refused.contains("lies in the pool ceph"), "{refused}");
    let moved = VmSpec { disk_pool: None, ..guest(ByteSize::mib(384), &[]) };
    assert!(matches!(node.libvirt.put(ONE, &moved), Err(HypervisorError::Conflict(_))));
}

/// Where backups go.
fn store(node: &Node) -> BackupStore {
    BackupStore::Directory { path: text(&node.home().join("store")).to_owned() }
}

fn key() -> BackupKey {
    BackupKey("5c".repeat(32))
}

/// The running guest is backed up; twice, and each is whole.
fn is_backed_up(node: &Node, ceph: &Ceph) {
    let request = BackupCreate { store: store(node), key: key(), full: false, incrementals_max: None };
    let create = |backup: &str| {
        backups::create(&node.libvirt, &Cx::unwatched(), ONE, &name(backup), &request)
            .map_err(|e| e.to_string())
    };
    let is_lent = || ceph.rbd(&["snap", "ls", "vms/berth-vm-7"]).contains("x.backup");
    for point in ["snapshot.after_freeze", "backup.after_begin", "backup.after_pieces"] {
        assert!(faults::with(&format!("{point}=error"), || create("one")).is_err(), "{point}");
        assert!(!is_lent() && !node.folder(ONE).join("backup.new").exists(), "{point}");
    }
    // What an agent that died leaves: its `qemu-nbd` died with it.
    ceph.rbd(&["snap", "create", "--no-progress", "vms/berth-vm-7@x.backup"]);
    std::fs::create_dir(node.folder(ONE).join("backup.new")).unwrap();
    node.libvirt.mend().unwrap();
    assert!(!is_lent());
    let one = create("one").unwrap();
    assert!(one.kind == BackupKind::Full && one.frozen, "{one:?}");
    let two = create("two").unwrap();
    assert!(two.kind == BackupKind::Full && two.full_because.is_some(), "{two:?}");
    assert!(!is_lent());
}

/// The VM, which is off, gets its disk back; another one gets the same in a file.
fn is_restored(node: &Node, ceph: &Ceph) {
    let request = BackupRestore { store: store(node), key: key(), backup: name("one"), of_vm: Some(ONE) };
    let restore = |vm| {
        backups::restore(&node.libvirt, &Cx::unwatched(), vm, &request).map(drop).map_err(|e| e.to_string())
    };
    for point in ["restore.after_write", "restore.after_discard"] {
        assert!(faults::with(&format!("{point}=error"), || restore(ONE)).is_err(), "{point}");
    }
    restore(ONE).unwrap();
    assert!(!ceph.images().iter().any(|image| image.contains("restored")), "{:?}", ceph.images());
    restore(OTHER).unwrap();
    is_as_the_disk(ceph, &node.folder(OTHER).join("disk.qcow2"));
    node.libvirt.delete(OTHER).unwrap();
}

/// A qcow2 file holds what the VM's disk holds.
fn is_as_the_disk(ceph: &Ceph, file: &Path) {
    let disk = format!("rbd:vms/berth-vm-7:conf={}", ceph.conf());
    run("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", text(file), &disk]);
}

/// Snapshots come and go under the guest, which is brought back to one of them; it came up `boots` times.
fn comes_back_from_a_snapshot(node: &Node, ceph: &Ceph, boots: usize) {
    let (libvirt, before) = (&node.libvirt, name("before"));
    let in_ceph = || ceph.rbd(&["snap", "ls", "vms/berth-vm-7", "--format", "json"]);
    let cut = faults::with("snapshot.after_freeze=error", || libvirt.snapshot_create(ONE, &before));
    assert!(cut.is_err() && libvirt.snapshots(ONE).unwrap().is_empty());
    let cut = faults::with("snapshot.after_taken=error", || libvirt.snapshot_create(ONE, &before));
    assert!(cut.is_err());
    let taken = libvirt.snapshot_create(ONE, &before).unwrap();
    assert!(taken.frozen && in_ceph().contains("\"f.before\""), "{taken:?}");
    assert!((berth_agent::clock::now().unix_ms() - taken.created.unix_ms()).abs() < 300_000, "{taken:?}");
    inside(node, ONE, "echo other >/root/word; sync");
    libvirt.snapshot_create(ONE, &name("passing")).unwrap();
    libvirt.snapshot_delete(ONE, &name("passing")).unwrap();
    libvirt.snapshot_delete(ONE, &name("passing")).unwrap();

    // An image of the running guest.
    let to = node.home().join("export.qcow2");
    for point in ["export.after_snapshot", "export.after_copy"] {
        let cut = faults::with(&format!("{point}=error"), || libvirt.disk_export(&Cx::unwatched(), ONE, &to));
        assert!(cut.is_err() && !to.exists(), "{point}");
    }
    libvirt.disk_export(&Cx::unwatched(), ONE, &to).unwrap();
    let exported = run("qemu-img", &["info", text(&to)]);
    assert!(exported.contains("384 MiB") && !exported.contains("backing"), "{exported}");
    assert_eq!(libvirt.snapshots(ONE).unwrap(), std::slice::from_ref(&taken));
    assert!(!in_ceph().contains("x.export"), "the copy's own snapshot is gone");

    for point in ["revert.after_off", "revert.after_disk"] {
        let cut = faults::with(&format!("{point}=error"), || libvirt.snapshot_revert(ONE, &before));
        assert!(cut.is_err(), "{point}");
    }
    assert_eq!(libvirt.snapshot_revert(ONE, &before).unwrap().state, VmState::Running);
    node.wait_for_boot(ONE, boots + 1);
    assert_eq!(inside(node, ONE, "cat /root/word /sys/block/vda/size"), "cargo\n786432");
    assert!(matches!(libvirt.snapshot_revert(ONE, &name("never")), Err(HypervisorError::Unknown(_))));
}

#[test]
fn a_guest_lives_on_ceph_and_leaves_nothing_there() {
    let _proof = proof::guest(&[
        "vm.put",
        "vm.rebuild",
        "vm.resize",
        "vm.delete",
        "snapshot.create",
        "snapshot.list",
        "snapshot.revert",
        "snapshot.delete",
        "image.from_disk",
        "backup.create",
        "backup.restore",
        "volume.create",
        "volume.clone_from_image",
        "volume.attach",
        "volume.detach",
        "volume.resize",
        "volume.delete",
        "pool.get",
        "pool.list",
        "node.check",
        "node.orphans",
    ]);
    let mut ceph = Ceph::start();
    let node = Node::tiny_with(GuestNetwork::User, vec![ceph.pool()]);
    let libvirt = &node.libvirt;
    let storage = libvirt.storage();
    let in_ceph = |size| VolumeCreate { size, pool: Some(name("ceph")), format: None, file_system: None };

    // Made from an image, cut off on the way, and told again.
    let (small, large) = (ByteSize::mib(256), ByteSize::mib(384));
    for point in ["volume.after_record", "volume.after_fill", "volume.after_data", "put.after_disk"] {
        let cut = faults::with(&format!("{point}=error"), || libvirt.put(ONE, &guest(small, &[])));
        assert!(cut.is_err(), "{point}");
    }
    let _key = KeptKey(storage.keys_of(ONE).unwrap()[0].uuid.clone());
    let made = libvirt.put(ONE, &guest(small, &[])).unwrap();
    assert_eq!(ceph.images(), [format!("berth-image-{TINY}"), "berth-vm-7".to_owned()]);
    let key = ceph.key();
    let shown = |line: &Vec<u8>| line.windows(key.len()).any(|part| part == key.as_bytes());
    assert!(!command_lines().iter().any(shown), "the key stands on a command line");

    // Plugged in while it boots: an empty volume and one with an image in it.
    storage.create(DATA, &in_ceph(ByteSize::mib(64))).unwrap();
    let clone = VolumeClone {
        image: TINY.to_owned(),
        size: ByteSize::mib(128),
        pool: Some(name("ceph")),
        format: None,
        mode: CloneMode::Backing,
    };
    assert!(!storage.clone_from_image(&Cx::unwatched(), CLONE, &clone).unwrap().stands_on_image);
    node.wait_for_boot(ONE, 1);
    let plugged = libvirt.put(ONE, &guest(small, &[DATA, CLONE])).unwrap();
    assert!(plugged.pending.is_empty(), "a volume has its limits at once: {plugged:?}");
    until(&node, &format!("{} cat /sys/block/$disk/size", find(DATA)), "131072");
    inside(&node, ONE, "echo cargo >/root/word; sync");
    inside(&node, ONE, &format!("{} echo freight | dd of=/dev/$disk bs=512 seek=9 conv=fsync", find(DATA)));
    let look = format!(
        "{} mkdir -p /tmp/m && mount -t ext4 -o ro /dev/$disk /tmp/m && ls /tmp/m/boot/vmlinuz && umount /tmp/m",
        find(CLONE)
    );
    assert_eq!(inside(&node, ONE, &look), "/tmp/m/boot/vmlinuz");

    // Both grow under the guest.
    assert_eq!(libvirt.volume_resize(DATA, ByteSize::mib(96)).unwrap().size, ByteSize::mib(96));
    until(&node, &format!("{} cat /sys/block/$disk/size", find(DATA)), "196608");
    libvirt.put(ONE, &guest(large, &[DATA])).unwrap();
    until(&node, "cat /sys/block/vda/size", "786432");
    assert!(storage.delete(DATA).unwrap_err().to_string().contains("VM 7 has volume 5"));
    until(&node, &format!("{} echo \"found $disk\"", find(CLONE)), "found");
    storage.delete(CLONE).unwrap();

    refuses_to_wipe(&node);
    assert_eq!(libvirt.get(ONE).unwrap().started, made.started, "nothing was touched");

    comes_back_from_a_snapshot(&node, &ceph, 1);

    // What it wrote is there after a power cut, and gone after a rebuild.
    libvirt.power(ONE, PowerVerb::PowerOff).unwrap();
    let to = node.home().join("export.qcow2");
    libvirt.disk_export(&Cx::unwatched(), ONE, &to).unwrap();
    is_as_the_disk(&ceph, &to);
    libvirt.power(ONE, PowerVerb::Start).unwrap();
    node.wait_for_boot(ONE, 3);
    assert_eq!(inside(&node, ONE, "cat /root/word"), "cargo");
    let pool = storage.pool_info(&name("ceph")).unwrap();
    assert_eq!((pool.promised, pool.volumes), (ByteSize::mib(384 + 96), 1));
    is_backed_up(&node, &ceph);
    let rebuild = VmRebuild { image: TINY.to_owned(), seed: None, power: WantedPower::On };
    let cut = faults::with("rebuild.after_disk=error", || libvirt.rebuild(ONE, &rebuild, &Cx::unwatched()));
    assert!(cut.is_err());
    let rebuilt = libvirt.rebuild(ONE, &rebuild, &Cx::unwatched()).unwrap();
    assert!(rebuilt.pending.is_empty(), "its volume has its limits: {rebuilt:?}");
    node.wait_for_boot(ONE, 4);
    assert!(libvirt.snapshots(ONE).unwrap().is_empty(), "they went with the disk");
    assert_eq!(inside(&node, ONE, "ls /root/word 2>/dev/null || cat /sys/block/vda/size"), "786432");
    let volume = format!("{} dd if=/dev/$disk bs=512 skip=9 count=1 2>/dev/null | head -c 7", find(DATA));
    assert_eq!(inside(&node, ONE, &volume), "freight");
    libvirt.power(ONE, PowerVerb::PowerOff).unwrap();
    is_restored(&node, &ceph);
    libvirt.power(ONE, PowerVerb::Start).unwrap();
    node.wait_for_boot(ONE, 5);
    assert_eq!(inside(&node, ONE, "cat /root/word"), "cargo", "it is in the backup");
    wait_for("the pool's figures", || {
        (storage.pool_info(&name("ceph")).unwrap().allocated > ByteSize::mib(15)).then_some(())
    });

    // The VM goes, and its volume stays.
    libvirt.snapshot_create(ONE, &name("last")).unwrap();
    let keep = VmDelete { disks: DisksAfter::Keep, keep_as: Some(name("relic")) };
    let remove = || libvirt.remove(ONE, &keep, &Cx::unwatched());
    assert!(faults::with("keep.after_copy=error", remove).is_err());
    is_as_the_disk(&ceph, &node.config.data_dir.join("kept/relic.qcow2"));
    assert!(faults::with("volume.after_doom=error", remove).is_err());
    remove().unwrap();
    let kept = libvirt.kept().unwrap();
    assert_eq!((kept.len(), kept[0].vm, kept[0].size), (1, ONE, large), "{kept:?}");
    libvirt.delete_kept(&name("relic")).unwrap();
    node.assert_nothing_left(ONE);
    assert_eq!(ceph.images(), [format!("berth-image-{TINY}"), "berth-volume-5".to_owned()]);
    assert_eq!(storage.volume(DATA).unwrap().attached_to, None);

    refuses_before_the_pool_is_full(&ceph, &node);

    // An image's copy is an orphan when nothing stands on it and the image is gone.
    storage.delete(DATA).unwrap();
    let copies = || {
        let found = orphans::list(libvirt.orphans().unwrap(), false, |_| Some(())).orphans;
        found.into_iter().filter(|orphan| orphan.kind == "copy of an image").collect::<Vec<_>>()
    };
    assert!(copies().is_empty());
    std::fs::remove_file(image_path(&node.config, TINY)).unwrap();
    assert_eq!(copies()[0].name, format!("ceph/{TINY}"));
    orphans::list(libvirt.orphans().unwrap(), true, |_| Some(()));
    assert!(ceph.images().is_empty() && copies().is_empty());

    // A cluster that is down is told, and hides no other pool.
    ceph.kill();
    let pools = storage.pools().unwrap();
    assert!(pools[0].problem.is_none() && pools[1].problem.is_some(), "{pools:?}");
    let silent = checked(libvirt, "pool ceph");
    assert!(!silent.ok && silent.needed && silent.sentence.contains("does not answer"), "{silent:?}");
}

fn checked(libvirt: &Libvirt, name: &str) -> NodeCheck {
    libvirt.checks().into_iter().find(|check| check.check == name).unwrap()
}

fn refuses_before_the_pool_is_full(ceph: &Ceph, node: &Node) {
    let section = StorageSection { promise_percent: 100, reserve_mib: 64, disks: None };
    let strict = Libvirt::open(LibvirtConfig { storage: section.clone(), ..node.config.clone() }).unwrap();
    let quota = |mib: u64| {
        let bytes = ByteSize::mib(mib).bytes().to_string();
        ceph.ask(&["osd", "pool", "set-quota", "vms", "max_bytes", &bytes]);
        wait_for("the quota", || {
            let pool = strict.storage().pool_info(&name("ceph")).unwrap();
            (pool.size == ByteSize::mib(mib)).then_some(pool)
        })
    };
    let more =
        VolumeCreate { size: ByteSize::mib(256), pool: Some(name("ceph")), format: None, file_system: None };
    let make = || strict.storage().create(VolumeId(9), &more);
    quota(320);
    let promised = make().unwrap_err();
    assert!(matches!(promised, HypervisorError::Lacking(_)) && promised.to_string().contains("may promise"));
    let full = strict.put(VmId(8), &VmSpec { power: WantedPower::Off, ..guest(ByteSize::mib(256), &[]) });
    assert!(matches!(full, Err(HypervisorError::Lacking(_))));
    assert!(matches!(strict.get(VmId(8)), Err(HypervisorError::NotFound(_))), "nothing was begun");
    let strict_but_for_promises = StorageSection { promise_percent: 0, ..section.clone() };
    let roomy =
        Libvirt::open(LibvirtConfig { storage: strict_but_for_promises, ..node.config.clone() }).unwrap();
    assert!(checked(&roomy, "pool ceph").ok);
    quota(64);
    let full = roomy.storage().create(VolumeId(9), &more).unwrap_err();
    assert!(full.to_string().contains("nearly full"), "{full}");
    assert!(matches!(roomy.storage().volume(VolumeId(9)), Err(HypervisorError::Unknown(_))));
    let check = checked(&roomy, "pool ceph");
    assert!(!check.ok && check.sentence.contains("nearly full"), "{check:?}");
}
