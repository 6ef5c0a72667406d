//! Volumes, snapshots and images, seen from inside real guests.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod libvirt_common;
#[path = "common/web.rs"]
mod web;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_agent::config::ImagesSection;
use berth_agent::hypervisor::libvirt::GuestNetwork;
use berth_agent::hypervisor::{Hypervisor, HypervisorError};
use berth_agent::images::Images;
use berth_agent::limits::Limits;
use berth_agent::runs::Cx;
use berth_agent::{faults, proof};
use berth_model::agent::{
    Checksum, CloneMode, FileSystem, ImageFetch, ImageFormat, Name, Nic, VmImage, VmSpec, VmState,
    VolumeAttachment, VolumeClone, VolumeCreate, VolumeFormat,
};
use berth_model::{ByteSize, VmId, VolumeId};
use libvirt_common::guest::inside;
use libvirt_common::{Node, TINY, run, spec, text, tiny, wait_for};
use sha2::{Digest, Sha256};
use web::{Manner, Web};

const ONE: VmId = VmId(7);
const TWO: VmId = VmId(8);
const DATA: VolumeId = VolumeId(5);

/// Guests that boot beside each other take each other's time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What finds a volume in a guest by its serial number: `$disk`.
fn find(volume: i64) -> String {
    format!(
        "modprobe -a virtio_scsi sd_mod; disk=; for d in /sys/block/sd*; do \
         grep -aq 'volume-{volume}$' $d/device/vpd_pg80 && disk=/dev/${{d##*/}}; done;"
    )
}

/// Waits until a guest says `wanted`.
fn until(node: &Node, id: VmId, script: &str, wanted: &str) {
    wait_for(&format!("{wanted:?} of {script}"), || (inside(node, id, script) == wanted).then_some(()));
}

fn attachment(volume: i64) -> VolumeAttachment {
    VolumeAttachment { volume: VolumeId(volume), read_only: false }
}

fn guest(n: u8, volumes: &[i64]) -> VmSpec {
    VmSpec {
        nics: vec![Nic { mac: format!("52:54:00:be:50:{n:02x}"), ..Nic::default() }],
        volumes: volumes.iter().copied().map(attachment).collect(),
        ..spec(TINY)
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

#[test]
fn a_volume_goes_from_one_running_guest_to_another_with_its_data() {
    let _proof = proof::guest(&[
        "volume.create",
        "volume.clone_from_image",
        "volume.attach",
        "volume.detach",
        "volume.resize",
        "volume.delete",
        "volume.get",
        "volume.list",
        "pool.get",
        "pool.list",
    ]);
    let _alone = alone();
    let node = Node::tiny(GuestNetwork::User);
    let libvirt = &node.libvirt;
    let storage = libvirt.storage();
    libvirt.put(ONE, &guest(1, &[])).unwrap();
    let empty = VolumeCreate {
        size: ByteSize::mib(64),
        pool: None,
        format: Some(VolumeFormat::Raw),
        file_system: None,
    };
    storage.create(DATA, &empty).unwrap();
    let clone = |mode, format| VolumeClone {
        image: TINY.to_owned(),
        size: ByteSize::mib(128),
        pool: None,
        format: Some(format),
        mode,
    };
    let cx = Cx::unwatched();
    storage.clone_from_image(&cx, VolumeId(6), &clone(CloneMode::Backing, VolumeFormat::Qcow2)).unwrap();
    storage.clone_from_image(&cx, VolumeId(16), &clone(CloneMode::Copy, VolumeFormat::Raw)).unwrap();
    libvirt.put(TWO, &guest(2, &[6, 16])).unwrap();
    node.wait_for_boot(ONE, 1);
    node.wait_for_boot(TWO, 1);

    // Plugged in while it runs, cut off on the way, and told again.
    for point in ["put.after_volumes", "put.after_define", "put.after_hotplug"] {
        let cut = faults::with(&format!("{point}=error"), || libvirt.put(ONE, &guest(1, &[5])));
        assert!(cut.is_err(), "{point}");
        assert_eq!(storage.volume(DATA).unwrap().attached_to, Some(ONE), "{point}");
    }
    let made = libvirt.put(ONE, &guest(1, &[5])).unwrap();
    until(&node, ONE, &format!("{} cat /sys/block/${{disk##*/}}/size", find(5)), "131072");
    inside(&node, ONE, &format!("{} echo cargo | dd of=$disk bs=512 seek=9 conv=fsync", find(5)));

    // It grows under the guest, and belongs to one VM.
    assert_eq!(libvirt.volume_resize(DATA, ByteSize::mib(96)).unwrap().size, ByteSize::mib(96));
    until(&node, ONE, &format!("{} cat /sys/block/${{disk##*/}}/size", find(5)), "196608");
    let taken = libvirt.put(TWO, &guest(2, &[5, 6, 16])).unwrap_err();
    assert!(taken.to_string().contains("VM 7 has volume 5"), "{taken}");
    assert!(matches!(storage.delete(DATA), Err(HypervisorError::Conflict(_))));

    // Out of one, into the other, neither restarted.
    let cut = faults::with("put.after_hotplug=error", || libvirt.put(ONE, &guest(1, &[])));
    assert!(cut.is_err());
    assert_eq!(storage.volume(DATA).unwrap().attached_to, Some(ONE), "it is not free before that is sure");
    assert_eq!(libvirt.put(ONE, &guest(1, &[])).unwrap().started, made.started);
    assert_eq!(storage.volume(DATA).unwrap().attached_to, None);
    until(&node, ONE, &format!("{} echo \"found $disk\"", find(5)), "found");
    libvirt.put(TWO, &guest(2, &[6, 5, 16])).unwrap();
    until(
        &node,
        TWO,
        &format!("{} dd if=$disk bs=512 skip=9 count=1 2>/dev/null | head -c 5", find(5)),
        "cargo",
    );

    // A file system that a volume is made with is there to be mounted.
    let formatted = VolumeCreate { size: ByteSize::gib(10), file_system: Some(FileSystem::Ext4), ..empty };
    storage.create(VolumeId(7), &formatted).unwrap();
    libvirt.put(ONE, &guest(1, &[7])).unwrap();
    let mount = "mkdir -p /tmp/m && mount -t ext4 $disk /tmp/m && echo cargo > /tmp/m/hold && umount /tmp/m";
    until(&node, ONE, &format!("{} {mount} && echo stowed", find(7)), "stowed");
    libvirt.put(ONE, &guest(1, &[])).unwrap();
    storage.delete(VolumeId(7)).unwrap();

    // Clones hold what their image holds.
    for volume in [6, 16] {
        let look = format!(
            "{} mkdir -p /tmp/m && mount -t ext4 -o ro $disk /tmp/m && ls /tmp/m/boot/vmlinuz && umount /tmp/m",
            find(volume)
        );
        assert_eq!(inside(&node, TWO, &look), "/tmp/m/boot/vmlinuz", "{volume}");
    }
    let pool = storage.pools().unwrap().remove(0);
    assert_eq!((pool.volumes, pool.promised), (3, ByteSize::mib(96 + 128 + 128 + 256 + 256)));

    // What a VM had is free when the VM is gone.
    libvirt.delete(TWO).unwrap();
    for id in [5, 6, 16] {
        assert_eq!(storage.volume(VolumeId(id)).unwrap().attached_to, None);
        storage.delete(VolumeId(id)).unwrap();
    }
    assert!(storage.volumes().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(node.config.data_dir.join("volumes")).unwrap().count(), 0);
}

#[test]
fn a_disk_comes_back_from_its_snapshot_and_leaves_an_image_that_boots() {
    let _proof = proof::guest(&[
        "snapshot.create",
        "snapshot.list",
        "snapshot.revert",
        "snapshot.delete",
        "image.from_disk",
        "image.list",
        "image.get",
        "image.delete",
    ]);
    let _alone = alone();
    let node = Node::tiny(GuestNetwork::User);
    let libvirt = &node.libvirt;
    libvirt.put(ONE, &guest(1, &[])).unwrap();
    node.wait_for_boot(ONE, 1);
    let write = |text: &str| inside(&node, ONE, &format!("echo {text} >/root/word; sync"));
    write("old");

    // Cut off while the guest is frozen: it is thawed, and told again it ends well.
    let cut = faults::with("snapshot.after_freeze=error", || libvirt.snapshot_create(ONE, &name("before")));
    assert!(cut.is_err() && libvirt.snapshots(ONE).unwrap().is_empty());
    write("old");
    let cut = faults::with("snapshot.after_taken=error", || libvirt.snapshot_create(ONE, &name("before")));
    assert!(cut.is_err());
    let before = libvirt.snapshot_create(ONE, &name("before")).unwrap();
    assert!(before.frozen, "the guest's agent answers");
    assert!(!node.folder(ONE).join("frozen").exists());

    // A snapshot goes while the guest writes, and nothing that is written is lost.
    inside(
        &node,
        ONE,
        "(for n in $(seq 40); do echo $n; sync; done >/root/count; echo end >>/root/count) >/dev/null 2>&1 &",
    );
    for n in 0..3 {
        libvirt.snapshot_create(ONE, &name(&format!("passing-{n}"))).unwrap();
        libvirt.snapshot_delete(ONE, &name(&format!("passing-{n}"))).unwrap();
        libvirt.snapshot_delete(ONE, &name(&format!("passing-{n}"))).unwrap();
    }
    until(&node, ONE, "wc -l </root/count; tail -n 1 /root/count", "41\nend");
    write("new");
    assert_eq!(libvirt.snapshots(ONE).unwrap(), std::slice::from_ref(&before));

    // An image of the running disk: cut off first, which leaves nothing.
    let settings = ImagesSection { fetch_private: true, max_gib: 1 };
    let images = Images::open(node.config.images_dir.clone(), &Limits::default(), settings).unwrap();
    let cx = Cx::unwatched();
    let export = || images.make(&cx, |to| libvirt.disk_export(&cx, ONE, to));
    for point in ["export.after_snapshot", "export.after_copy", "image.after_check"] {
        assert!(faults::with(&format!("{point}=error"), export).is_err(), "{point}");
    }
    assert_eq!(std::fs::read_dir(node.home().join("quarantine")).unwrap().count(), 0);
    let image = export().unwrap();
    assert_eq!(libvirt.snapshots(ONE).unwrap().len(), 1, "the copy's own snapshot is gone");
    let vms = libvirt.list().unwrap();
    assert_eq!(images.list(&vms, &[]).unwrap().len(), 3);
    let copied = VmSpec {
        image: VmImage { sha256: image.sha256.clone() },
        disk_mode: CloneMode::Copy,
        ..guest(2, &[])
    };
    libvirt.put(TWO, &copied).unwrap();

    // Back to the old, cut off when it is off: told again, it runs again.
    let cut = faults::with("revert.after_off=error", || libvirt.snapshot_revert(ONE, &name("before")));
    assert!(cut.is_err());
    assert_eq!(libvirt.get(ONE).unwrap().state, VmState::Off);
    assert_eq!(libvirt.snapshot_revert(ONE, &name("before")).unwrap().state, VmState::Running);
    node.wait_for_boot(ONE, 2);
    assert_eq!(inside(&node, ONE, "cat /root/word; ls /root/count 2>/dev/null || true"), "old");

    // A guest whose agent is silent is not waited for, and that is said.
    let domain = libvirt_common::guest::domain(&node, ONE);
    inside(&node, ONE, "(sleep 1; kill $(cat /run/qemu-ga.pid)) >/dev/null 2>&1 &");
    wait_for("the agent's silence", || {
        domain.qemu_agent_command("{\"execute\":\"guest-ping\"}", 1, 0).is_err().then_some(())
    });
    assert!(!libvirt.snapshot_create(ONE, &name("silent")).unwrap().frozen);
    let unknown = libvirt.snapshot_revert(ONE, &name("never")).unwrap_err();
    assert!(matches!(unknown, HypervisorError::Unknown(_)), "{unknown}");

    // The new VM has what the disk held; its own disk holds a copy, so the image may go.
    node.wait_for_boot(TWO, 1);
    assert_eq!(inside(&node, TWO, "cat /root/word"), "new");
    let vms = libvirt.list().unwrap();
    images.delete(&image.sha256, || Ok((vms, vec![]))).unwrap();
    libvirt.delete(ONE).unwrap();
    run("qemu-img", &["check", "-q", "-U", text(&node.folder(TWO).join("disk.qcow2"))]);
    libvirt.delete(TWO).unwrap();
    node.assert_nothing_left(ONE);
    node.assert_nothing_left(TWO);
}

#[test]
fn an_image_that_was_fetched_and_converted_boots() {
    let _proof = proof::guest(&["image.fetch", "image.convert", "image.verify"]);
    let _alone = alone();
    let node = Node::tiny(GuestNetwork::User);
    let vmdk = node.home().join("tiny.vmdk");
    let from = tiny("BERTH_TINY_IMAGE", "tiny.qcow2");
    run("qemu-img", &["convert", "-f", "qcow2", "-O", "vmdk", text(&from), text(&vmdk)]);
    let file = std::fs::read(&vmdk).unwrap();
    let checksum = hex::encode(Sha256::digest(&file));
    let third = file.len() / 3;
    let web = Web::open(Manner { file, cut_after: Some(third), cuts: 1, ranges: true });
    let settings = ImagesSection { fetch_private: true, max_gib: 1 };
    let images = Images::open(node.config.images_dir.clone(), &Limits::default(), settings).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let cx = Cx::unwatched();
    {
        let _in = runtime.enter();
        let wanted = ImageFetch { url: web.url("/tiny.vmdk"), format: ImageFormat::Vmdk };
        images.fetch(&cx, &Checksum(checksum.clone()), &wanted).unwrap();
    }
    assert_eq!(web.begins(), [0, third]);
    let image = images.convert(&cx, &checksum).unwrap();
    assert!(images.verify(&cx, &image.sha256).unwrap().sound);
    let on_it = VmSpec { image: VmImage { sha256: image.sha256.clone() }, ..guest(1, &[]) };
    node.libvirt.put(ONE, &on_it).unwrap();
    node.wait_for_boot(ONE, 1);
    assert_eq!(inside(&node, ONE, "hostname"), "quay-7");
    // Beside a guest that runs on it, it can be read back, too.
    assert!(images.verify(&cx, &image.sha256).unwrap().sound);
    assert!(Path::new(&node.config.images_dir).join(format!("{checksum}.vmdk")).exists());
}
