//! VMs on libvirt's test driver: everything but the guest.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

#[path = "common/contract.rs"]
mod contract;
mod libvirt_common;

use std::time::Duration;

use berth_agent::faults::{self, POINTS};
use berth_agent::hypervisor::libvirt::GuestNetwork;
use berth_agent::hypervisor::{Hypervisor, HypervisorError};
use berth_agent::runs::Cx;
use berth_model::agent::{DomainType, PowerVerb, VmSpec, VmState, WantedPower};
use berth_model::{ByteSize, VmId};
use libvirt_common::{EMPTY_IMAGE, Node, next_event, run, spec, text};

const ID: VmId = VmId(7);

fn node() -> Node {
    Node::on_test_driver(GuestNetwork::User)
}

fn disk_size(node: &Node, id: VmId) -> ByteSize {
    let disk = node.folder(id).join("disk.qcow2");
    let info = run("qemu-img", &["info", "-U", "--output=json", text(&disk)]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    ByteSize(info["virtual-size"].as_u64().unwrap())
}

#[test]
fn libvirt_keeps_the_contract_of_hypervisors() {
    let _proof = berth_agent::proof::driver(&[
        "volume.create",
        "volume.get",
        "volume.list",
        "volume.attach",
        "volume.detach",
        "volume.resize",
        "volume.delete",
        "snapshot.create",
        "snapshot.list",
        "snapshot.revert",
        "snapshot.delete",
        "vm.list",
        "vm.get",
        "vm.put",
        "vm.delete",
        "vm.start",
        "vm.shutdown",
        "vm.reboot",
        "vm.reset",
        "vm.power_off",
    ]);
    let ground = contract::Ground {
        image: EMPTY_IMAGE.to_owned(),
        disk: ByteSize::mib(64),
        missing_image: Some("b".repeat(64)),
        memory: ByteSize::mib(64),
        first_id: 1000,
        guests_obey: true,
        patience: Duration::from_secs(60),
    };
    contract::contract(&node().libvirt, &ground);
}

#[test]
fn a_vm_is_told_from_its_making_to_its_end() {
    let node = node();
    let mut events = node.libvirt.events();
    let made = node.libvirt.put(ID, &spec(EMPTY_IMAGE)).unwrap();
    assert_eq!(made.state, VmState::Running);
    assert!(made.started.is_some());
    assert_eq!(next_event(&mut events, ID), Some(VmState::Off));
    assert_eq!(next_event(&mut events, ID), Some(VmState::Running));
    assert_eq!(node.libvirt.facts().unwrap().domain_type, DomainType::Test);

    assert_eq!(node.libvirt.power(ID, PowerVerb::Shutdown).unwrap().state, VmState::Off);
    assert_eq!(next_event(&mut events, ID), Some(VmState::Off));

    node.libvirt.delete(ID).unwrap();
    assert_eq!(next_event(&mut events, ID), None);
    node.assert_nothing_left(ID);
}

#[test]
fn an_agent_that_comes_anew_finds_its_vms_as_they_are() {
    let _proof = berth_agent::proof::driver(&["vm.get", "vm.list"]);
    let node = node();
    let mut with_all = spec(EMPTY_IMAGE);
    with_all.seed.root_password_hash = Some("$6$salt$hash".to_owned());
    with_all.seed.user_data = Some("#!/bin/sh\necho '<&>' é \u{ffff} \u{1}\n".to_owned());
    node.libvirt.put(ID, &with_all).unwrap();
    let before = node.libvirt.get(ID).unwrap();
    assert_eq!(before.spec.as_ref(), Some(&with_all));
    let again = node.reopened();
    assert_eq!(again.get(ID).unwrap(), before);
    assert_eq!(again.list().unwrap(), [before]);
}

#[test]
fn domains_of_others_are_left_alone() {
    // The test driver begins with a domain "test".
    let node = node();
    assert!(node.domains().contains(&"test".to_owned()));
    assert_eq!(node.libvirt.list().unwrap(), []);
    assert_eq!(node.libvirt.counters().unwrap(), []);
}

#[test]
fn a_put_that_was_cut_off_anywhere_is_completed_when_it_is_told_again() {
    let _proof = berth_agent::proof::driver(&["vm.put"]);
    let node = node();
    for (n, point) in POINTS.iter().filter(|point| point.starts_with("put.")).enumerate() {
        let id = VmId(100 + n as i64);
        let cut = faults::with(&format!("{point}=error"), || node.libvirt.put(id, &spec(EMPTY_IMAGE)));
        assert!(cut.is_err(), "{point}");
        // It is found again, so that whoever looks after it can complete or remove it.
        let half = node.libvirt.get(id).unwrap();
        assert!(node.libvirt.list().unwrap().contains(&half), "{point}");
        let whole = node.libvirt.put(id, &spec(EMPTY_IMAGE)).unwrap();
        assert_eq!(whole.state, VmState::Running, "{point}");
        assert_eq!(whole.spec, Some(spec(EMPTY_IMAGE)), "{point}");
        let mut files: Vec<_> =
            std::fs::read_dir(node.folder(id)).unwrap().map(|f| f.unwrap().file_name()).collect();
        files.sort();
        assert_eq!(files, ["disk.qcow2", "seed.iso"], "{point}");
    }
}

#[test]
fn a_half_made_vm_is_off_has_no_spec_and_cannot_be_started() {
    let node = node();
    let cut = faults::with("put.after_disk=error", || node.libvirt.put(ID, &spec(EMPTY_IMAGE)));
    assert!(cut.is_err());
    let half = node.libvirt.get(ID).unwrap();
    assert_eq!((half.state, half.spec, half.started), (VmState::Off, None, None));
    assert!(matches!(node.libvirt.power(ID, PowerVerb::Start), Err(HypervisorError::Conflict(_))));
}

#[test]
fn a_half_made_vm_is_deleted_whole() {
    let node = node();
    let mut events = node.libvirt.events();
    for (n, point) in POINTS.iter().filter(|point| point.starts_with("put.")).enumerate() {
        let id = VmId(200 + n as i64);
        let cut = faults::with(&format!("{point}=error"), || node.libvirt.put(id, &spec(EMPTY_IMAGE)));
        assert!(cut.is_err(), "{point}");
        node.libvirt.delete(id).unwrap();
        node.assert_nothing_left(id);
        while next_event(&mut events, id).is_some() {}
    }
}

#[test]
fn a_delete_that_was_cut_off_anywhere_is_completed_when_it_is_told_again() {
    let _proof = berth_agent::proof::driver(&["vm.delete"]);
    let node = node();
    for (n, point) in POINTS.iter().filter(|point| point.starts_with("delete.")).enumerate() {
        let id = VmId(300 + n as i64);
        node.libvirt.put(id, &spec(EMPTY_IMAGE)).unwrap();
        let cut = faults::with(&format!("{point}=error"), || node.libvirt.delete(id));
        assert!(cut.is_err(), "{point}");
        node.libvirt.delete(id).unwrap();
        node.assert_nothing_left(id);
        node.libvirt.delete(id).unwrap();
    }
}

#[test]
fn a_vm_is_made_again_after_a_delete_that_was_cut_off() {
    let node = node();
    node.libvirt.put(ID, &spec(EMPTY_IMAGE)).unwrap();
    let cut = faults::with("delete.after_disk=error", || node.libvirt.delete(ID));
    assert!(cut.is_err());
    assert_eq!(node.libvirt.put(ID, &spec(EMPTY_IMAGE)).unwrap().state, VmState::Running);
}

#[test]
fn a_disk_grows_with_its_vm_off_and_never_shrinks() {
    let node = node();
    let off = VmSpec { power: WantedPower::Off, ..spec(EMPTY_IMAGE) };
    node.libvirt.put(ID, &off).unwrap();
    assert_eq!(disk_size(&node, ID), off.disk);
    let larger = VmSpec { disk: ByteSize::gib(1), ..off.clone() };
    node.libvirt.put(ID, &larger).unwrap();
    assert_eq!(disk_size(&node, ID), larger.disk);
    assert!(
        matches!(node.libvirt.put(ID, &off), Err(HypervisorError::Invalid(fault)) if fault.name == "disk")
    );
    assert_eq!(disk_size(&node, ID), larger.disk);
}

#[test]
fn a_disk_smaller_than_its_image_is_refused_before_anything_is_made() {
    let node = node();
    let small = VmSpec { disk: ByteSize::mib(63), ..spec(EMPTY_IMAGE) };
    let refused = node.libvirt.put(ID, &small);
    assert!(matches!(refused, Err(HypervisorError::Invalid(fault)) if fault.name == "disk"));
    node.assert_nothing_left(ID);
}

#[test]
fn a_vm_of_another_image_is_not_made_over_the_old_one() {
    let node = node();
    node.libvirt.put(ID, &spec(EMPTY_IMAGE)).unwrap();
    let refused = node.libvirt.put(ID, &spec(&"a".repeat(64)));
    assert!(matches!(refused, Err(HypervisorError::Conflict(_))), "{refused:?}");
    assert_eq!(node.libvirt.get(ID).unwrap().spec, Some(spec(EMPTY_IMAGE)));
}

#[test]
fn a_paused_vm_runs_again_when_it_is_started() {
    let node = node();
    let mut events = node.libvirt.events();
    node.libvirt.put(ID, &spec(EMPTY_IMAGE)).unwrap();
    // Events come when libvirt gets to them, also after the answer.
    assert_eq!(next_event(&mut events, ID), Some(VmState::Off));
    assert_eq!(next_event(&mut events, ID), Some(VmState::Running));
    let connect = virt::connect::Connect::open(Some(&node.config.uri)).unwrap();
    connect.lookup_domain_by_name(&format!("{}{ID}", node.config.prefix)).unwrap().suspend().unwrap();
    assert_eq!(next_event(&mut events, ID), Some(VmState::Paused));
    assert_eq!(node.libvirt.get(ID).unwrap().state, VmState::Paused);
    assert_eq!(node.libvirt.power(ID, PowerVerb::Start).unwrap().state, VmState::Running);
    assert_eq!(next_event(&mut events, ID), Some(VmState::Running));
}

#[test]
fn the_nat_network_is_made_on_demand_and_once() {
    let gateway = "10.250.1.1/24".parse().unwrap();
    let node = Node::on_test_driver(GuestNetwork::Nat { bridge: "btest0".to_owned(), gateway });
    for id in [1, 2] {
        assert_eq!(node.libvirt.put(VmId(id), &spec(EMPTY_IMAGE)).unwrap().state, VmState::Running);
    }
    let connect = virt::connect::Connect::open(Some(&node.config.uri)).unwrap();
    let network = connect.lookup_network_by_name(&format!("{}nat", node.config.prefix)).unwrap();
    assert!(network.is_active().unwrap());
    assert_eq!(network.bridge_name().unwrap(), "btest0");
    for id in [1, 2] {
        node.libvirt.delete(VmId(id)).unwrap();
    }
    network.destroy().unwrap();
    network.undefine().unwrap();
}

#[test]
fn a_vm_on_the_test_driver_shows_its_screen_takes_keys_and_has_a_log() {
    let _proof = berth_agent::proof::driver(&["vm.screenshot", "vm.send_keys", "console.log"]);
    let node = node();
    let hold = Duration::from_millis(100);
    assert!(matches!(node.libvirt.screenshot(ID), Err(HypervisorError::NotFound(_))));
    assert!(matches!(node.libvirt.console_log(ID, 100), Err(HypervisorError::NotFound(_))));
    node.libvirt.put(ID, &spec(EMPTY_IMAGE)).unwrap();
    let picture = node.libvirt.screenshot(ID).unwrap();
    assert!(picture.png.starts_with(b"\x89PNG") && picture.width > 0);
    node.libvirt.send_keys(ID, &[29, 56, 111], hold).unwrap();
    assert_eq!(node.libvirt.console_log(ID, 100).unwrap(), b"", "no guest says anything");
    std::fs::write(node.folder(ID).join("console.log"), "login: ").unwrap();
    assert_eq!(node.libvirt.console_log(ID, 100).unwrap(), b"login: ");
    node.libvirt.power(ID, PowerVerb::PowerOff).unwrap();
    assert!(matches!(node.libvirt.screenshot(ID), Err(HypervisorError::Conflict(_))));
    assert!(matches!(node.libvirt.send_keys(ID, &[29], hold), Err(HypervisorError::Conflict(_))));
}

#[test]
fn what_was_cut_off_long_ago_is_named_and_removed_only_when_told() {
    let _proof = berth_agent::proof::driver(&["node.orphans"]);
    let node = node();
    let whole = VmId(1);
    node.libvirt.put(whole, &spec(EMPTY_IMAGE)).unwrap();
    let cut = faults::with("put.after_disk=error", || node.libvirt.put(ID, &spec(EMPTY_IMAGE)));
    assert!(cut.is_err());
    let unfinished = node.folder(whole).join("seed.iso.new");
    std::fs::write(&unfinished, "half").unwrap();
    let find = |remove| berth_agent::orphans::list(node.libvirt.orphans().unwrap(), remove, Some).orphans;
    assert!(find(true).is_empty(), "what is new may be in the making");
    let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let half_made: Vec<_> = std::fs::read_dir(node.folder(ID)).unwrap().map(|f| f.unwrap().path()).collect();
    for path in half_made.iter().chain([&node.folder(ID), &unfinished]) {
        std::fs::File::open(path).unwrap().set_modified(long_ago).unwrap();
    }
    let kinds = |remove| find(remove).into_iter().map(|o| (o.kind, o.removed)).collect::<Vec<_>>();
    let named = |removed| [("half-made VM".to_owned(), removed), ("unfinished file".to_owned(), removed)];
    assert_eq!(kinds(false), named(false));
    assert!(unfinished.exists() && node.libvirt.get(ID).is_ok());
    assert_eq!(kinds(true), named(true));
    assert!(!unfinished.exists());
    node.assert_nothing_left(ID);
    assert_eq!(node.libvirt.get(whole).unwrap().state, VmState::Running);
}

#[test]
fn a_bridge_that_is_missing_is_said() {
    let _proof = berth_agent::proof::driver(&["node.check"]);
    let node = Node::on_test_driver(GuestNetwork::Bridge { bridge: "bt-nowhere".to_owned() });
    let checks = node.libvirt.checks();
    let of = |name: &str| checks.iter().find(|check| check.check == name).unwrap();
    assert!(!of("bridge").ok && of("bridge").needed, "{checks:?}");
    assert!(of("bridge").sentence.contains("bt-nowhere"));
    assert!(of("serial logs").ok && of("accelerator").ok, "{checks:?}");
}

#[test]
fn a_disk_leaves_as_an_image_that_stands_alone() {
    let _proof = berth_agent::proof::driver(&["image.from_disk"]);
    let node = node();
    node.libvirt.put(ID, &VmSpec { power: WantedPower::Off, ..spec(EMPTY_IMAGE) }).unwrap();
    let to = node.home().join("export.qcow2");
    node.libvirt.disk_export(&Cx::unwatched(), ID, &to).unwrap();
    let info: serde_json::Value =
        serde_json::from_str(&run("qemu-img", &["info", "--output=json", text(&to)])).unwrap();
    assert_eq!(info["virtual-size"], spec(EMPTY_IMAGE).disk.bytes());
    assert!(info["backing-filename"].is_null(), "{info}");
    let nobody = node.libvirt.disk_export(&Cx::unwatched(), VmId(99), &node.home().join("other.qcow2"));
    assert!(matches!(nobody, Err(HypervisorError::NotFound(_))), "{nobody:?}");
    assert!(!node.home().join("other.qcow2").exists());
}
