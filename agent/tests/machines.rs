//! Whole machines, on the simulator and on libvirt's test driver: both keep the same promises, also when
//! they are cut off anywhere and told again.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod libvirt_common;

use std::path::PathBuf;
use std::time::Duration;

use berth_agent::faults;
use berth_agent::hypervisor::libvirt::GuestNetwork;
use berth_agent::hypervisor::simulator::{Simulator, SimulatorConfig};
use berth_agent::hypervisor::{Hypervisor, HypervisorError, Machines as _};
use berth_agent::proof;
use berth_agent::runs::Cx;
use berth_model::VmId;
use berth_model::agent::{
    BootDevice, CloneMode, DisksAfter, Firmware, Name, PowerVerb, Rescue, Vm, VmDelete, VmRebuild, VmSpec,
    VmState, WantedPower, Watchdog,
};
use libvirt_common::{EMPTY_IMAGE, Node, image_path, spec};
use tempfile::TempDir;

const ID: VmId = VmId(7);
/// Another image that is there.
const OTHER: &str = "0707070707070707070707070707070707070707070707070707070707070707";
/// An ISO that is there.
const ISO: &str = "1515151515151515151515151515151515151515151515151515151515151515";
/// Nothing of this name is there.
const MISSING: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// Something to stand on.
struct Ground {
    hypervisor: Box<dyn Fn() -> Box<dyn Hypervisor>>,
    _simulated: Option<TempDir>,
    node: Option<Node>,
}

fn simulator() -> Ground {
    let home = tempfile::tempdir().unwrap();
    let images = home.path().join("images");
    std::fs::create_dir(&images).unwrap();
    for name in [format!("{EMPTY_IMAGE}.qcow2"), format!("{OTHER}.qcow2"), format!("{ISO}.iso")] {
        std::fs::write(images.join(name), "").unwrap();
    }
    let folder = Some(home.path().join("vms"));
    let config = SimulatorConfig { folder, images: Some(images), delay: Duration::ZERO };
    let hypervisor = move || -> Box<dyn Hypervisor> { Box::new(Simulator::new(config.clone()).unwrap()) };
    Ground { hypervisor: Box::new(hypervisor), _simulated: Some(home), node: None }
}

fn test_driver() -> Ground {
    let node = Node::on_test_driver(GuestNetwork::User);
    std::fs::copy(image_path(&node.config, EMPTY_IMAGE), image_path(&node.config, OTHER)).unwrap();
    std::fs::write(node.config.images_dir.join(format!("{ISO}.iso")), "").unwrap();
    let config = node.config.clone();
    let open = move || -> Box<dyn Hypervisor> {
        Box::new(berth_agent::hypervisor::libvirt::Libvirt::open(config.clone()).unwrap())
    };
    Ground { hypervisor: Box::new(open), _simulated: None, node: Some(node) }
}

/// On both, each with a VM that runs.
fn on_both(test: impl Fn(&Ground, &dyn Hypervisor)) {
    for ground in [simulator(), test_driver()] {
        let hypervisor = (ground.hypervisor)();
        hypervisor.put(ID, &spec(EMPTY_IMAGE)).unwrap();
        test(&ground, &*hypervisor);
        hypervisor.remove(ID, &VmDelete::default(), &cx()).unwrap();
    }
}

fn cx() -> Cx {
    Cx::unwatched()
}

fn changed(hypervisor: &dyn Hypervisor, change: impl FnOnce(&mut VmSpec)) -> Result<Vm, HypervisorError> {
    let mut spec = hypervisor.get(ID).unwrap().spec.unwrap();
    spec.power = WantedPower::Keep;
    change(&mut spec);
    hypervisor.put(ID, &spec)
}

#[test]
fn a_vm_is_held_and_goes_on() {
    let _proof = proof::driver(&["vm.pause", "vm.resume"]);
    on_both(|_, hypervisor| {
        for _ in 0..2 {
            assert_eq!(hypervisor.power(ID, PowerVerb::Pause).unwrap().state, VmState::Paused);
        }
        for _ in 0..2 {
            assert_eq!(hypervisor.power(ID, PowerVerb::Resume).unwrap().state, VmState::Running);
        }
        hypervisor.power(ID, PowerVerb::PowerOff).unwrap();
        for verb in [PowerVerb::Pause, PowerVerb::Resume] {
            assert!(matches!(hypervisor.power(ID, verb), Err(HypervisorError::Conflict(_))));
        }
    });
}

#[test]
fn a_saved_vm_is_off_and_its_next_start_uses_the_memory_up() {
    let _proof = proof::driver(&["vm.save", "vm.start"]);
    on_both(|_, hypervisor| {
        for _ in 0..2 {
            let saved = hypervisor.save(ID, &cx()).unwrap();
            assert_eq!((saved.state, saved.saved, saved.started), (VmState::Off, true, None));
        }
        let running = hypervisor.power(ID, PowerVerb::Start).unwrap();
        assert_eq!((running.state, running.saved), (VmState::Running, false));
        hypervisor.save(ID, &cx()).unwrap();
        let dropped = hypervisor.power(ID, PowerVerb::PowerOff).unwrap();
        assert_eq!((dropped.state, dropped.saved), (VmState::Off, false));
    });
}

#[test]
fn a_shutdown_that_is_waited_for_ends_with_the_vm_off() {
    let _proof = proof::driver(&["vm.shutdown"]);
    on_both(|_, hypervisor| {
        for _ in 0..2 {
            let off = hypervisor.shutdown(ID, Duration::from_secs(60), &cx()).unwrap();
            assert_eq!(off.state, VmState::Off);
        }
    });
}

#[test]
fn a_vm_is_rebuilt_wherever_it_was_cut_off_before() {
    let _proof = proof::driver(&["vm.rebuild"]);
    on_both(|ground, hypervisor| {
        let before = hypervisor.get(ID).unwrap().spec.unwrap();
        let rebuild = |image: &str| VmRebuild { image: image.into(), seed: None, power: WantedPower::On };
        assert!(matches!(hypervisor.rebuild(ID, &rebuild(MISSING), &cx()), Err(HypervisorError::Lacking(_))));
        let vm = hypervisor.get(ID).unwrap();
        assert_eq!((vm.state, vm.spec.as_ref()), (VmState::Running, Some(&before)), "it was left alone");
        let points = ["rebuild.after_power_off", "rebuild.after_disk", "put.after_seed", "put.after_define"];
        for (n, point) in points.iter().enumerate() {
            let image = [OTHER, EMPTY_IMAGE][n % 2];
            let tell = || hypervisor.rebuild(ID, &rebuild(image), &cx());
            assert!(faults::with(&format!("{point}=error"), tell).is_err(), "{point}");
            let vm = tell().unwrap();
            assert_eq!(vm.state, VmState::Running, "{point}");
            let spec = vm.spec.unwrap();
            assert_eq!(spec.image.sha256, image, "{point}");
            assert_eq!((&spec.nics, spec.disk, &spec.seed), (&before.nics, before.disk, &before.seed));
            assert_files(ground, &["disk.qcow2", "seed.iso"]);
        }
    });
}

#[test]
fn a_rescue_begins_and_ends_wherever_it_was_cut_off_before() {
    let _proof = proof::driver(&["vm.rescue_on", "vm.rescue_off"]);
    on_both(|ground, hypervisor| {
        let own = hypervisor.get(ID).unwrap().spec.unwrap();
        let rescue = |image: &str| Rescue {
            image: image.into(),
            root_password_hash: "$6$salt$hash".into(),
            ..Rescue::default()
        };
        assert!(matches!(hypervisor.rescue_on(ID, &rescue(MISSING)), Err(HypervisorError::Lacking(_))));
        assert_eq!(hypervisor.get(ID).unwrap().spec.as_ref(), Some(&own));
        for point in ["rescue_on.after_power_off", "put.after_seed", "put.after_define", "put.after_power"] {
            let tell = || hypervisor.rescue_on(ID, &rescue(OTHER));
            assert!(faults::with(&format!("{point}=error"), tell).is_err(), "{point}");
            let vm = tell().unwrap();
            assert_eq!((vm.state, vm.pending.len()), (VmState::Running, 0), "{point}");
            assert_eq!(vm.spec.unwrap().rescue, Some(rescue(OTHER)), "{point}");
            assert_files(ground, &["disk.qcow2", "rescue-seed.iso", "rescue.qcow2", "seed.iso"]);
        }
        for point in ["rescue_off.after_power_off", "put.after_seed", "put.after_define", "put.after_power"] {
            hypervisor.rescue_on(ID, &rescue(OTHER)).unwrap();
            let tell = || hypervisor.rescue_off(ID);
            assert!(faults::with(&format!("{point}=error"), tell).is_err(), "{point}");
            for _ in 0..2 {
                let vm = tell().unwrap();
                assert_eq!((vm.state, vm.pending.len()), (VmState::Running, 0), "{point}");
                assert_eq!(vm.spec.as_ref(), Some(&own), "{point}");
            }
            assert_files(ground, &["disk.qcow2", "seed.iso"]);
        }
    });
}

/// The files of the VM, where it has any.
fn assert_files(ground: &Ground, expected: &[&str]) {
    let Some(node) = &ground.node else { return };
    let files = std::fs::read_dir(node.folder(ID)).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, expected);
}

#[test]
fn a_deleted_vms_disk_is_kept_wherever_it_was_cut_off_before() {
    let _proof = proof::driver(&["vm.delete", "kept.list", "kept.delete"]);
    on_both(|ground, hypervisor| {
        let keep = |name: &str| VmDelete { disks: DisksAfter::Keep, keep_as: Name::new(name) };
        for (n, point) in ["keep.after_copy", "delete.after_destroy", "delete.after_disk"].iter().enumerate()
        {
            let name = format!("kept-{n}");
            hypervisor.put(ID, &spec(EMPTY_IMAGE)).unwrap();
            let tell = || hypervisor.remove(ID, &keep(&name), &cx());
            assert!(faults::with(&format!("{point}=error"), tell).is_err(), "{point}");
            tell().unwrap();
            assert!(hypervisor.get(ID).is_err(), "{point}");
        }
        let kept = hypervisor.kept().unwrap();
        assert_eq!(
            kept.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>(),
            ["kept-0", "kept-1", "kept-2"]
        );
        assert!(kept.iter().all(|disk| disk.vm == ID && disk.size == spec(EMPTY_IMAGE).disk));

        // Another VM of that number does not take the place of what is kept.
        hypervisor.put(ID, &spec(EMPTY_IMAGE)).unwrap();
        let refused = hypervisor.remove(ID, &keep("kept-0"), &cx());
        assert!(matches!(refused, Err(HypervisorError::Conflict(_))), "{refused:?}");
        assert_eq!(hypervisor.get(ID).unwrap().state, VmState::Running, "it was left alone");

        assert_eq!((ground.hypervisor)().kept().unwrap(), kept, "an agent that comes anew finds them");
        for disk in kept {
            hypervisor.delete_kept(&disk.name).unwrap();
            hypervisor.delete_kept(&disk.name).unwrap();
            assert!(disk.path.is_empty() || !PathBuf::from(disk.path).exists());
        }
        assert_eq!(hypervisor.kept().unwrap(), []);
    });
}

#[test]
fn a_disk_is_wiped_before_it_goes_wherever_that_was_cut_off_before() {
    let _proof = proof::driver(&["vm.delete"]);
    on_both(|ground, hypervisor| {
        let wipe = VmDelete { disks: DisksAfter::Wipe, keep_as: None };
        for point in ["wipe.after_rename", "wipe.after_wipe", "delete.after_undefine"] {
            hypervisor.put(ID, &spec(EMPTY_IMAGE)).unwrap();
            let tell = || hypervisor.remove(ID, &wipe, &cx());
            assert!(faults::with(&format!("{point}=error"), tell).is_err(), "{point}");
            if let Some(node) = ground.node.as_ref().filter(|_| point == "wipe.after_wipe") {
                let bytes = std::fs::read(node.folder(ID).join("disk.wipe")).unwrap();
                assert!(!bytes.is_empty() && bytes.iter().all(|byte| *byte == 0));
            }
            // Told less now, it is wiped all the same.
            hypervisor.remove(ID, &VmDelete::default(), &cx()).unwrap();
            assert!(hypervisor.get(ID).is_err(), "{point}");
            tell().unwrap();
        }
    });
}

#[test]
fn what_a_vm_is_built_of_changes_at_its_next_start_and_the_answer_says_so() {
    let _proof = proof::driver(&["vm.hardware", "vm.firmware", "vm.boot_order", "vm.rename", "vm.autostart"]);
    on_both(|_, hypervisor| {
        let tell = || {
            changed(hypervisor, |spec| {
                spec.hardware.firmware = Firmware::Uefi;
                spec.hardware.cpu = "Nehalem".to_owned();
                spec.hardware.watchdog = Watchdog::Pause;
                spec.hardware.tpm = true;
                spec.hardware.rng = false;
                spec.hardware.boot = vec![BootDevice::Iso, BootDevice::Disk];
                spec.seed.hostname = "quay-8".to_owned();
                spec.title = Some("the web server of Mara".to_owned());
                spec.autostart = true;
            })
        };
        let vm = tell().unwrap();
        let expected = ["boot", "cpu", "firmware", "rng", "tpm", "watchdog"].map(|f| format!("hardware.{f}"));
        assert_eq!(vm.pending[..6], expected);
        assert_eq!(vm.pending[6..], ["seed"]);
        assert_eq!(tell().unwrap(), vm);
        hypervisor.power(ID, PowerVerb::PowerOff).unwrap();
        let vm = hypervisor.power(ID, PowerVerb::Start).unwrap();
        assert_eq!((vm.state, vm.pending.len()), (VmState::Running, 0));
        changed(hypervisor, |spec| spec.autostart = false).unwrap();
    });
}

#[test]
fn a_disk_that_is_a_copy_stands_on_no_image_also_when_it_is_made_anew() {
    let _proof = proof::driver(&["vm.rebuild", "image.delete"]);
    let ground = test_driver();
    let node = ground.node.as_ref().unwrap();
    let rebuild = VmRebuild { image: OTHER.into(), seed: None, power: WantedPower::On };
    let stands_on =
        || node.libvirt.standing_on().unwrap().into_iter().map(|(_, image)| image).collect::<Vec<_>>();
    for (mode, before, after) in
        [(CloneMode::Copy, vec![], vec![]), (CloneMode::Backing, vec![EMPTY_IMAGE], vec![OTHER])]
    {
        node.libvirt.put(ID, &VmSpec { disk_mode: mode, ..spec(EMPTY_IMAGE) }).unwrap();
        assert_eq!(stands_on(), before);
        node.libvirt.rebuild(ID, &rebuild, &cx()).unwrap();
        assert_eq!(stands_on(), after);
        // The same again is no other disk.
        node.libvirt.put(ID, &VmSpec { disk_mode: mode, ..spec(OTHER) }).unwrap();
        node.libvirt.remove(ID, &VmDelete::default(), &cx()).unwrap();
    }
}

#[test]
fn a_vm_starts_with_its_node_and_has_a_title() {
    let _proof = proof::driver(&["vm.autostart", "vm.rename"]);
    let ground = test_driver();
    let node = ground.node.as_ref().unwrap();
    let titled = VmSpec { autostart: true, title: Some("<a> & b".to_owned()), ..spec(EMPTY_IMAGE) };
    node.libvirt.put(ID, &titled).unwrap();
    let domain = libvirt_common::guest::domain(node, ID);
    assert!(domain.xml_desc(0).unwrap().contains("<title>&lt;a&gt; &amp; b</title>"));
    let booted = || {
        node.libvirt.power(ID, PowerVerb::PowerOff).unwrap();
        std::fs::write(node.config.data_dir.join("boot"), "an earlier boot").unwrap();
        node.libvirt.tend().unwrap();
        node.libvirt.get(ID).unwrap().state
    };
    assert_eq!(booted(), VmState::Running);
    // In the same boot it is started once.
    node.libvirt.power(ID, PowerVerb::PowerOff).unwrap();
    node.libvirt.tend().unwrap();
    assert_eq!(node.libvirt.get(ID).unwrap().state, VmState::Off);
    node.libvirt.put(ID, &VmSpec { power: WantedPower::Keep, ..spec(EMPTY_IMAGE) }).unwrap();
    assert_eq!(booted(), VmState::Off);
}

#[test]
fn an_iso_is_put_in_and_taken_out_while_the_vm_runs() {
    let _proof = proof::driver(&["vm.iso_attach", "vm.iso_eject"]);
    on_both(|_, hypervisor| {
        let missing = changed(hypervisor, |spec| spec.iso = Some(MISSING.to_owned()));
        assert!(matches!(missing, Err(HypervisorError::Lacking(_))));
        assert_eq!(hypervisor.get(ID).unwrap().spec.unwrap().iso, None);
        for iso in [Some(ISO.to_owned()), Some(ISO.to_owned()), None, None] {
            let vm = changed(hypervisor, |spec| spec.iso.clone_from(&iso)).unwrap();
            assert_eq!((vm.spec.unwrap().iso, vm.pending.len()), (iso, 0));
        }
    });
}
