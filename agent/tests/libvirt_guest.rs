//! Real guests: the tiny image on QEMU, under the machine's own libvirtd.
//!
//! The image is looked for where `cargo xtask up` leaves it, or at `BERTH_TINY_IMAGE`,
//! `BERTH_TINY_KERNEL` and `BERTH_TINY_INITRD`.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

#[path = "common/contract.rs"]
mod contract;
mod libvirt_common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use berth_agent::config::{Accelerator, Gateway};
use berth_agent::faults;
use berth_agent::hypervisor::Hypervisor;
use berth_agent::hypervisor::libvirt::GuestNetwork;
use berth_agent::hypervisor::libvirt::probe::{self, ProbeFiles};
use berth_model::agent::{CounterSample, DomainType, NicAddress, PowerVerb, VmSpec, VmState};
use berth_model::{ByteSize, VmId};
use libvirt_common::{
    EMPTY_IMAGE, Node, PATIENCE, QEMU, READY, TINY, next_event, probe_files, run, spec, text, wait_for,
};

const ID: VmId = VmId(7);

fn counters(node: &Node) -> Option<CounterSample> {
    node.libvirt.counters().unwrap().into_iter().find(|sample| sample.vm == ID)
}

#[test]
fn a_guest_lives_from_its_first_boot_to_its_end() {
    let _proof = berth_agent::proof::guest(&["vm.put", "vm.get", "vm.list", "vm.delete"]);
    let _powers =
        berth_agent::proof::guest(&["vm.shutdown", "vm.start", "vm.reset", "vm.reboot", "vm.power_off"]);
    let node = Node::tiny(GuestNetwork::User);
    let libvirt = &node.libvirt;
    let mut events = libvirt.events();
    let spec = spec(TINY);

    // Cut off in the middle, and told again.
    for point in ["put.after_disk", "put.after_define", "put.after_nics"] {
        assert!(faults::with(&format!("{point}=error"), || libvirt.put(ID, &spec)).is_err(), "{point}");
    }
    let made = libvirt.put(ID, &spec).unwrap();
    assert_eq!((made.state, made.spec.as_ref()), (VmState::Running, Some(&spec)));
    assert_eq!(next_event(&mut events, ID), Some(VmState::Off));
    assert_eq!(next_event(&mut events, ID), Some(VmState::Running));

    // It booted with the name and the key that were asked for.
    node.wait_for_boot(ID, 1);
    let said = node.console(ID);
    assert!(said.contains("host=quay-7 "), "{said}");
    let key = spec.seed.ssh_keys[0].rsplit_once(' ').unwrap().0;
    assert!(said.contains(key), "{said}");

    // It is seen working.
    let first = wait_for("counters of a VM that is not busy", || counters(&node));
    assert!(first.cpu_ns > 0 && first.disk_read_bytes > 0 && first.disk_read_ops > 0, "{first:?}");
    assert!((1..=spec.memory.bytes()).contains(&first.memory_used_bytes), "{first:?}");
    wait_for("CPU time to pass", || counters(&node).filter(|later| later.cpu_ns > first.cpu_ns));

    // An agent that comes anew finds it, and one that is told again leaves it running.
    let again = node.reopened();
    assert_eq!(again.get(ID).unwrap(), made);
    let larger = VmSpec { disk: ByteSize::mib(300), ..spec.clone() };
    assert_eq!(again.put(ID, &larger).unwrap().started, made.started);
    drop(again);
    let info = run("qemu-img", &["info", "-U", "--output=json", text(&node.folder(ID).join("disk.qcow2"))]);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&info).unwrap()["virtual-size"],
        larger.disk.bytes()
    );
    assert_eq!(node.console(ID).matches(READY).count(), 1);

    // It obeys.
    libvirt.power(ID, PowerVerb::Shutdown).unwrap();
    assert_eq!(next_event(&mut events, ID), Some(VmState::Off));
    assert_eq!(libvirt.get(ID).unwrap().started, None);
    libvirt.power(ID, PowerVerb::Start).unwrap();
    assert_eq!(next_event(&mut events, ID), Some(VmState::Running));
    node.wait_for_boot(ID, 2);
    libvirt.power(ID, PowerVerb::Reset).unwrap();
    node.wait_for_boot(ID, 3);
    libvirt.power(ID, PowerVerb::Reboot).unwrap();
    node.wait_for_boot(ID, 4);
    assert_eq!(libvirt.get(ID).unwrap().state, VmState::Running);
    // Where disks are under leases, a reboot may be an end and a start.
    while events.try_recv().is_ok() {}

    libvirt.power(ID, PowerVerb::PowerOff).unwrap();
    assert_eq!(next_event(&mut events, ID), Some(VmState::Off));
    libvirt.power(ID, PowerVerb::Start).unwrap();
    assert_eq!(next_event(&mut events, ID), Some(VmState::Running));

    // When its QEMU dies, that is no ordinary end.
    let pid = std::fs::read_to_string(format!("/run/libvirt/qemu/{}{ID}.pid", node.config.prefix)).unwrap();
    run("kill", &["-9", pid.trim()]);
    assert_eq!(next_event(&mut events, ID), Some(VmState::Crashed));
    assert_eq!(libvirt.get(ID).unwrap().state, VmState::Crashed);

    // The plug is pulled of one that runs, and its QEMU is gone.
    libvirt.power(ID, PowerVerb::Start).unwrap();
    assert_eq!(next_event(&mut events, ID), Some(VmState::Running));
    assert_eq!(libvirt.list().unwrap(), [libvirt.get(ID).unwrap()]);
    assert_eq!(libvirt.power(ID, PowerVerb::PowerOff).unwrap().state, VmState::Off);
    assert_eq!(next_event(&mut events, ID), Some(VmState::Off));
    assert!(!PathBuf::from(format!("/run/libvirt/qemu/{}{ID}.pid", node.config.prefix)).exists());

    libvirt.delete(ID).unwrap();
    assert_eq!(next_event(&mut events, ID), None);
    node.assert_nothing_left(ID);
    let log = format!("/var/log/libvirt/qemu/{}{ID}.log", node.config.prefix);
    assert!(!PathBuf::from(log).exists());
}

/// A NAT network that is removed at the end.
struct Nat {
    name: String,
}

impl Drop for Nat {
    fn drop(&mut self) {
        for verb in ["net-destroy", "net-undefine"] {
            let _ = std::process::Command::new("virsh").args(["-q", "-c", QEMU, verb, &self.name]).output();
        }
    }
}

#[test]
fn a_guest_with_a_fixed_address_answers_and_runs_the_customers_script_too() {
    let _proof = berth_agent::proof::guest(&["vm.put"]);
    // A network of this run, so that two runs do not meet.
    let pid = std::process::id();
    let [_, _, high, low] = pid.to_be_bytes();
    let (gateway, address) =
        (Ipv4Addr::new(10, 128 | (high & 0x7f), low, 1), Ipv4Addr::new(10, 128 | (high & 0x7f), low, 2));
    let bridge = format!("bt{pid}");
    let node = Node::tiny(GuestNetwork::Nat { bridge, gateway: Gateway { ip: gateway, prefix: 24 } });
    // Removed before the node, whose VM is gone then.
    let _nat = Nat { name: format!("{}nat", node.config.prefix) };
    let mut spec = spec(TINY);
    spec.nics[0].addresses =
        vec![NicAddress { ip: address.into(), prefix: 24, gateway: Some(gateway.into()) }];
    spec.seed.user_data = Some("#!/bin/sh\necho the customer was here >/dev/ttyS0\n".to_owned());
    node.libvirt.put(ID, &spec).unwrap();

    wait_for("the customer's script", || node.console(ID).contains("the customer was here").then_some(()));
    let said = node.console(ID);
    assert!(said.contains(&format!("host=quay-7 ip={address}")), "{said}");
    assert!(said.contains("key ssh-ed25519 "), "{said}");

    let page = wait_for("the guest's page", || {
        let mut guest =
            TcpStream::connect_timeout(&SocketAddr::from((address, 80)), Duration::from_secs(2)).ok()?;
        guest.set_read_timeout(Some(PATIENCE)).unwrap();
        guest.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut page = String::new();
        guest.read_to_string(&mut page).ok()?;
        Some(page)
    });
    assert!(page.contains("quay-7"), "{page}");
    wait_for("traffic to be counted", || {
        counters(&node).filter(|sample| sample.net_in_bytes > 0 && sample.net_out_bytes > 0)
    });
    node.libvirt.delete(ID).unwrap();
    node.assert_nothing_left(ID);
}

#[test]
fn libvirt_keeps_the_contract_of_hypervisors_on_qemu() {
    let node = Node::new(QEMU, GuestNetwork::User, Accelerator::Qemu);
    let ground = contract::Ground {
        image: EMPTY_IMAGE.to_owned(),
        disk: ByteSize::mib(64),
        missing_image: Some("b".repeat(64)),
        memory: ByteSize::mib(64),
        first_id: 2000,
        // Its disk is empty: nobody is there to obey.
        guests_obey: false,
        patience: PATIENCE,
    };
    contract::contract(&node.libvirt, &ground);
}

#[test]
fn a_folder_that_qemu_cannot_reach_is_said_so() {
    let node = Node::tiny(GuestNetwork::User);
    std::fs::set_permissions(node.home(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let Err(refused) = node.libvirt.put(ID, &spec(TINY)) else {
        // An operator may let QEMU run as root; nothing else opens a closed folder.
        let settings = std::fs::read_to_string("/etc/libvirt/qemu.conf").unwrap();
        assert!(
            settings.lines().any(|line| line.trim_start().starts_with("user")),
            "QEMU passed a closed folder"
        );
        return;
    };
    assert!(refused.to_string().contains("chmod o+x"), "{refused}");
    assert_eq!(node.libvirt.get(ID).unwrap().state, VmState::Off);
}

#[test]
fn a_kernel_that_boots_is_proof() {
    // The translator boots it anywhere, slowly.
    assert_eq!(probe::boot(&probe_files(), "tcg", PATIENCE), Ok(()));
}

#[test]
fn auto_tells_what_really_boots_a_guest() {
    let _proof = berth_agent::proof::guest(&["node.get"]);
    let ProbeFiles { kernel, initrd } = probe_files();
    let mut node = Node::new(QEMU, GuestNetwork::User, Accelerator::Auto);
    node.config.probe_kernel = Some(kernel);
    node.config.probe_initrd = initrd;
    let libvirt = node.reopened();
    let facts = libvirt.facts().unwrap();
    assert!(!facts.versions.libvirt.is_empty() && !facts.versions.qemu.is_empty(), "{facts:?}");
    match facts.domain_type {
        DomainType::Kvm => assert_eq!(libvirt.accelerator_remark(), None),
        DomainType::Qemu => assert!(libvirt.accelerator_remark().is_some()),
        other => panic!("{other:?}"),
    }
    // The next agent does not boot anything to know.
    assert_eq!(node.reopened().facts().unwrap(), facts);
}
