//! VMs whose disks lie in Ceph move between two nodes: real agents, a real guest, a real cluster of one node.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod ceph;
mod libvirt_common;
#[path = "common/pki.rs"]
mod pki;
mod two_nodes;

use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;

use berth_model::agent::{
    MoveSend, Name, NicAddress, Run, Snapshot, Vm, VmSpec, VmState, Volume, VolumeAttachment, VolumeCreate,
};
use berth_model::{ByteSize, ErrorCode, VolumeId};
use ceph::Ceph;
use sha2::{Digest, Sha256};
use two_nodes::Lab;
use two_nodes::moves::*;

const DATA: VolumeId = VolumeId(5);

fn in_ceph() -> VmSpec {
    let mut spec = VmSpec { disk_pool: Name::new("ceph"), ..guest_spec() };
    spec.volumes = vec![VolumeAttachment { volume: DATA, read_only: false }];
    spec.nics[0].addresses = vec![NicAddress { ip: GUEST.ip(), prefix: 24, gateway: None }];
    spec
}

/// The pool as an agent's settings have it.
fn pool(ceph: &Ceph) -> String {
    format!(
        "[[pools]]\nname = \"ceph\"\nkind = \"ceph_rbd\"\nmonitors = [\"{}\"]\npool = \"vms\"\nuser = \"berth\"\n\
         keyring = \"{}\"\n",
        ceph.monitor,
        ceph.keyring().display()
    )
}

/// Is the lease on the VM's disk there, and does somebody hold it?
fn lease(lab: &Lab) -> Option<bool> {
    let name = hex::encode(Sha256::digest("vms/berth-vm-7"));
    let inode = std::fs::metadata(lab.leases().join(name)).ok()?.ino();
    Some(std::fs::read_to_string("/proc/locks").unwrap().contains(&format!(":{inode} ")))
}

#[test]
fn a_guest_on_ceph_moves_with_its_volume_and_nothing_is_copied() {
    let _proof =
        berth_agent::proof::guest(&["moving.prepare", "moving.send", "moving.finish", "moving.abort"]);
    let mut lab = Lab::new();
    let ceph = Ceph::start_at(Ipv4Addr::new(10, 99, 0, 254), Some(lab.fabric()));
    lab.more_config = pool(&ceph);
    let (a, mut b) = two(&lab);
    let spec = in_ceph();
    let data =
        VolumeCreate { size: ByteSize::mib(64), pool: Name::new("ceph"), format: None, file_system: None };
    a.ask::<Volume>("PUT", "/v1/volumes/5", &data).unwrap();
    let began = put(&a, &spec).unwrap().started;
    counts(&a);
    let before = assert_disk_is_whole(&lab);
    assert_eq!(before.len(), 1, "{before:?}");
    a.ask::<Snapshot>("PUT", &path(VM, "/snapshots/first"), &nothing()).unwrap();
    let images = ceph.images();
    assert_eq!(lease(&lab), Some(true));
    let stream = Stream::open(&lab);
    let asked = room(&a, &spec);

    // A pool of the same name that is another one, or is come to otherwise.
    b.reconfigure("pool = \"vms\"", "pool = \"else\"");
    let refused = prepare(&b, &asked).unwrap_err();
    assert!(refused.message.contains("in the pool ceph"), "{refused:?}");
    b.assert_clean();
    b.reconfigure("pool = \"else\"", "pool = \"vms\"");
    let twice = format!("\"{0}\", \"{0}\"", ceph.monitor);
    b.reconfigure(&format!("\"{}\"", ceph.monitor), &twice);
    let place = prepare(&b, &asked).unwrap();
    let refused = send(&a, &order(&b, &place)).unwrap_err();
    assert!(refused.message.contains("must be the same"), "{refused:?}");
    abort(&b).unwrap();
    b.assert_clean();
    b.reconfigure(&twice, &format!("\"{}\"", ceph.monitor));

    // Cancelled in the middle.
    let safely = |place: &_| MoveSend { allow_unsafe: false, ..order(&b, place) };
    let place = prepare(&b, &asked).unwrap();
    let error = cut_midway(&a, &safely(&place), |run| {
        a.ask::<Run>("POST", &format!("/v1/runs/{}/cancel", run.id), &nothing()).unwrap();
    });
    assert!(error.message.contains("cancelled"), "{error:?}");
    assert_stayed(&a, &b, &stream);
    assert_eq!(ceph.images(), images);

    // Live: memory alone.
    let place = prepare(&b, &asked).unwrap();
    assert!(place.room.shared.is_some() && place.room.volumes[0].shared.is_some(), "{place:?}");
    let sent = send(&a, &safely(&place)).unwrap();
    assert!(sent.live, "{sent:?}");
    a.assert_clean();
    let arrived = finish(&b).unwrap();
    assert_eq!((arrived.vm.state, arrived.vm.spec.as_ref()), (VmState::Running, Some(&spec)));
    assert_eq!(arrived.vm.started, began);
    assert_eq!(lease(&lab), Some(true), "it went along");
    let pause_ms = arrived.pause_ms.expect("libvirt measured the pause");
    println!("measured: ceph {pause_ms} {}", stream.close().as_millis());
    assert_eq!(assert_disk_is_whole(&lab), before);
    assert_eq!(ceph.images(), images);
    let moved = volume(&b, DATA.0).unwrap();
    assert!(moved.whole && moved.attached_to.is_some(), "{moved:?}");

    // Back, off, the source's agent cut off on the way: nothing is sent.
    power_off(&b);
    assert_eq!(lease(&lab), Some(false));
    let place = prepare(&a, &room(&b, &spec)).unwrap();
    b.restart_agent("move.after_undefine=kill");
    let order = MoveSend { allow_unsafe: false, ..order(&a, &place) };
    assert_eq!(send(&b, &order).unwrap_err().code, ErrorCode::Unavailable);
    b.agent_died();
    assert_eq!(send(&b, &order).unwrap().sent_bytes, 0);
    b.assert_clean();
    assert_eq!(finish(&a).unwrap().vm.state, VmState::Off);
    a.ask::<Vm>("POST", &path(VM, "/start"), &nothing()).unwrap();
    assert_eq!(assert_disk_is_whole(&lab), before);
    assert_eq!(ceph.images(), images);
    let snapshots: berth_model::agent::SnapshotList = a.ask("GET", &path(VM, "/snapshots"), &()).unwrap();
    assert_eq!(snapshots.snapshots.len(), 1, "it came along");

    assert_eq!(lease(&lab), Some(true));
    delete(&a, VM);
    assert_eq!(lease(&lab), None);
    a.ask::<()>("DELETE", "/v1/volumes/5", &nothing()).unwrap();
    for node in [&a, &b] {
        node.assert_clean();
    }
    assert_eq!(ceph.images(), [format!("berth-image-{TINY}")]);
}
