//! The simulator keeps a hypervisor's promises, and finds its VMs again.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

#[path = "common/contract.rs"]
mod contract;

use std::time::Duration;

use berth_agent::hypervisor::Hypervisor;
use berth_agent::hypervisor::simulator::{Simulator, SimulatorConfig};
use berth_model::agent::{VmSpec, VmState, WantedPower};
use berth_model::{ByteSize, VmId};
use contract::{Ground, contract};

fn ground() -> Ground {
    Ground {
        image: "a".repeat(64),
        disk: ByteSize::mib(100),
        missing_image: None,
        memory: ByteSize::mib(128),
        first_id: 1000,
        guests_obey: true,
        patience: Duration::from_secs(10),
    }
}

#[test]
fn the_simulator_keeps_the_contract_in_memory() {
    contract(&Simulator::new(SimulatorConfig::default()).unwrap(), &ground());
}

#[test]
fn the_simulator_keeps_the_contract_with_a_folder_and_a_delay() {
    let home = tempfile::tempdir().unwrap();
    let images = home.path().join("images");
    std::fs::create_dir(&images).unwrap();
    let ground = Ground { missing_image: Some("b".repeat(64)), ..ground() };
    std::fs::write(images.join(format!("{}.qcow2", ground.image)), "an image").unwrap();
    let config = SimulatorConfig {
        folder: Some(home.path().join("vms")),
        images: Some(images),
        delay: Duration::from_millis(2),
    };
    contract(&Simulator::new(config).unwrap(), &ground);
    // The folders of volumes' and disks' records stay, and are empty.
    let left = |folder: &str| std::fs::read_dir(home.path().join(folder)).unwrap().count();
    assert_eq!(left("vms"), 2, "no file is left");
    assert_eq!((left("vms/volumes"), left("vms/disks")), (0, 0), "no record is left");
}

#[test]
fn a_simulator_finds_its_vms_again_and_drops_a_write_that_was_cut_off() {
    let home = tempfile::tempdir().unwrap();
    let config = SimulatorConfig { folder: Some(home.path().to_owned()), ..SimulatorConfig::default() };
    let first = Simulator::new(config.clone()).unwrap();
    let on = VmSpec { power: WantedPower::On, ..contract::spec(&ground(), 1) };
    let vm = first.put(VmId(7), &on).unwrap();
    drop(first);
    std::fs::write(home.path().join(".tmpX"), "{\"spec\":").unwrap();

    let second = Simulator::new(config).unwrap();
    assert_eq!(second.list().unwrap(), vec![vm]);
    assert!(!home.path().join(".tmpX").exists());
    assert_eq!(second.counters().unwrap().len(), 1, "it runs on");
}

#[test]
fn a_running_vm_has_asked_for_its_address_and_one_that_is_off_has_not() {
    let simulator = Simulator::new(SimulatorConfig::default()).unwrap();
    let spec = VmSpec { power: WantedPower::On, ..contract::spec(&ground(), 1) };
    simulator.put(VmId(1), &spec).unwrap();
    let card = simulator.leases(VmId(1)).unwrap().cards.remove(0);
    assert_eq!((card.listening, &card.mac), (true, &spec.nics[0].mac));
    assert_eq!(card.dhcp.unwrap().address, Some(spec.nics[0].addresses[0].ip));
    simulator.put(VmId(1), &VmSpec { power: WantedPower::Off, ..spec }).unwrap();
    let card = simulator.leases(VmId(1)).unwrap().cards.remove(0);
    assert_eq!((card.listening, card.dhcp), (false, None));
    assert!(simulator.leases(VmId(2)).is_err());
}

#[test]
fn a_crash_is_told() {
    let simulator = Simulator::new(SimulatorConfig::default()).unwrap();
    simulator.put(VmId(1), &VmSpec { power: WantedPower::On, ..contract::spec(&ground(), 1) }).unwrap();
    let mut events = simulator.events();
    simulator.crash(VmId(1)).unwrap();
    assert_eq!(events.try_recv().unwrap().state, Some(VmState::Crashed));
    assert!(simulator.counters().unwrap().is_empty());
}

#[test]
fn five_thousand_vms_are_no_burden() {
    let simulator = Simulator::new(SimulatorConfig::default()).unwrap();
    let on = VmSpec { power: WantedPower::On, ..contract::spec(&ground(), 1) };
    for n in 1..=5000 {
        simulator.put(VmId(n), &on).unwrap();
    }
    assert_eq!(simulator.list().unwrap().len(), 5000);
    assert_eq!(simulator.counters().unwrap().len(), 5000);
}
