//! What every [`Hypervisor`] promises, as one suite for all of them. A test file takes it in with
//!
//! ```ignore
//! #[path = "common/contract.rs"]
//! mod contract;
//! ```
//!
//! (in `agent/tests/common/contract.rs`; the rules for a spec are `berth_agent::spec::check`)
//! and calls [`contract`] with its hypervisor and a [`Ground`] to stand on. Every VM of the suite has
//! a number in `first_id..first_id + 100`; all are deleted at the end, also when the suite fails.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

use std::time::{Duration, Instant};

use berth_agent::hypervisor::{Hypervisor, HypervisorError};
use berth_model::agent::{
    Name, Nic, NicAddress, PowerVerb, Vm, VmEvent, VmImage, VmSeed, VmSpec, VmState, VolumeAttachment,
    VolumeCreate, WantedPower,
};
use berth_model::{ByteSize, VmId, VolumeId};
use tokio::sync::broadcast;

/// What the suite needs to know of the place where it runs.
pub struct Ground {
    /// An image that is on the node.
    pub image: String,
    /// A size the image fits on.
    pub disk: ByteSize,
    /// An image that is not on the node; `None` where every image is taken to be there.
    pub missing_image: Option<String>,
    /// Memory for each VM.
    pub memory: ByteSize,
    /// Numbers from here on belong to the suite.
    pub first_id: i64,
    /// Does a guest obey when it is asked to shut down?
    pub guests_obey: bool,
    /// Longest that a change of state may take to be seen.
    pub patience: Duration,
}

/// A spec that every hypervisor takes.
pub fn spec(ground: &Ground, n: i64) -> VmSpec {
    VmSpec {
        vcpus: 1,
        memory: ground.memory,
        disk: ground.disk,
        image: VmImage { sha256: ground.image.clone() },
        disk_mode: Default::default(),
        volumes: Vec::new(),
        nics: vec![Nic {
            mac: format!(
                "52:54:00:be:{:02x}:{:02x}",
                (ground.first_id / 256) & 0xff,
                (ground.first_id + n) & 0xff
            ),
            addresses: vec![NicAddress {
                ip: "10.77.0.20".parse().unwrap(),
                prefix: 24,
                gateway: Some("10.77.0.1".parse().unwrap()),
            }],
            ..Nic::default()
        }],
        seed: VmSeed {
            hostname: format!("contract-{n}"),
            ssh_keys: vec![
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKx6wWkNo0XJt5C6n1jvF6m0sVb5zYJ5l0kq2m3n4o5p a@b".into(),
            ],
            root_password_hash: None,
            user_data: Some("#cloud-config\n{}\n".into()),
            mounts: Vec::new(),
            name_servers: vec!["10.77.0.1".parse().unwrap()],
        },
        power: WantedPower::Off,
        ..VmSpec::default()
    }
}

/// Runs the whole suite.
pub fn contract(hypervisor: &dyn Hypervisor, ground: &Ground) {
    let _clean = Clean { hypervisor, ground };
    hypervisor.ping().unwrap();
    hypervisor.facts().unwrap();
    a_vm_that_is_not_there(hypervisor, ground);
    a_vm_is_made_once(hypervisor, ground);
    a_vm_goes_through_its_power(hypervisor, ground);
    wanted_power_is_reached(hypervisor, ground);
    a_vm_changes(hypervisor, ground);
    counters_are_of_running_vms_and_grow(hypervisor, ground);
    nonsense_touches_nothing(hypervisor, ground);
    an_image_must_be_there(hypervisor, ground);
    a_list_is_sorted(hypervisor, ground);
    a_volume_belongs_to_one_vm(hypervisor, ground);
    snapshots_come_and_go(hypervisor, ground);
}

fn a_vm_that_is_not_there(hypervisor: &dyn Hypervisor, ground: &Ground) {
    let id = VmId(ground.first_id);
    assert!(matches!(hypervisor.get(id), Err(HypervisorError::NotFound(x)) if x == id));
    assert!(matches!(hypervisor.power(id, PowerVerb::Start), Err(HypervisorError::NotFound(x)) if x == id));
    hypervisor.delete(id).unwrap();
    assert!(!listed(hypervisor, id));
}

fn a_vm_is_made_once(hypervisor: &dyn Hypervisor, ground: &Ground) {
    let id = VmId(ground.first_id + 1);
    let spec = spec(ground, 1);
    let mut events = hypervisor.events();
    let made = hypervisor.put(id, &spec).unwrap();
    assert_eq!(made, off(id, &spec));
    wait_for_event(&mut events, ground, id, Some(VmState::Off));
    assert_eq!(hypervisor.put(id, &spec).unwrap(), made);
    assert_eq!(hypervisor.get(id).unwrap(), made);
    assert!(listed(hypervisor, id));
    hypervisor.delete(id).unwrap();
    wait_for_event(&mut events, ground, id, None);
    assert!(matches!(hypervisor.get(id), Err(HypervisorError::NotFound(_))));
    assert!(!listed(hypervisor, id));
    hypervisor.delete(id).unwrap();
    // Nothing is left that could be in the way of a new one.
    assert_eq!(hypervisor.put(id, &spec).unwrap(), made);
    hypervisor.delete(id).unwrap();
}

fn a_vm_goes_through_its_power(hypervisor: &dyn Hypervisor, ground: &Ground) {
    let id = VmId(ground.first_id + 2);
    hypervisor.put(id, &spec(ground, 2)).unwrap();
    let mut events = hypervisor.events();

    for verb in [PowerVerb::Shutdown, PowerVerb::PowerOff] {
        assert_eq!(hypervisor.power(id, verb).unwrap().state, VmState::Off, "{verb:?} of a VM that is off");
    }
    for verb in [PowerVerb::Reboot, PowerVerb::Reset] {
        let refused = hypervisor.power(id, verb);
        assert!(
            matches!(refused, Err(HypervisorError::Conflict(_))),
            "{verb:?} of a VM that is off: {refused:?}"
        );
    }

    let started = hypervisor.power(id, PowerVerb::Start).unwrap();
    assert_eq!(started.state, VmState::Running);
    assert!(started.started.is_some());
    wait_for_event(&mut events, ground, id, Some(VmState::Running));
    let again = hypervisor.power(id, PowerVerb::Start).unwrap();
    assert_eq!(again.state, VmState::Running);

    assert_eq!(hypervisor.power(id, PowerVerb::Reset).unwrap().state, VmState::Running);
    hypervisor.power(id, PowerVerb::Reboot).unwrap();
    wait_for_state(hypervisor, ground, id, VmState::Running);

    let off = hypervisor.power(id, PowerVerb::PowerOff).unwrap();
    assert_eq!((off.state, off.started), (VmState::Off, None));
    wait_for_event(&mut events, ground, id, Some(VmState::Off));

    if ground.guests_obey {
        hypervisor.power(id, PowerVerb::Start).unwrap();
        hypervisor.power(id, PowerVerb::Shutdown).unwrap();
        wait_for_state(hypervisor, ground, id, VmState::Off);
    }

    // A running one is deleted as well.
    hypervisor.power(id, PowerVerb::Start).unwrap();
    hypervisor.delete(id).unwrap();
    wait_for_event(&mut events, ground, id, None);
    assert!(!listed(hypervisor, id));
}

fn wanted_power_is_reached(hypervisor: &dyn Hypervisor, ground: &Ground) {
    let id = VmId(ground.first_id + 3);
    let with = |power| VmSpec { power, ..spec(ground, 3) };
    let steps = [
        (WantedPower::Keep, VmState::Off),
        (WantedPower::On, VmState::Running),
        (WantedPower::On, VmState::Running),
        (WantedPower::Keep, VmState::Running),
        (WantedPower::Off, VmState::Off),
        (WantedPower::Keep, VmState::Off),
    ];
    for (wanted, state) in steps {
        let vm = hypervisor.put(id, &with(wanted)).unwrap();
        assert_eq!(vm.state, state, "{wanted:?}");
        assert_eq!(vm.started.is_some(), state == VmState::Running, "{wanted:?}");
    }
    hypervisor.delete(id).unwrap();
}

fn a_vm_changes(hypervisor: &dyn Hypervisor, ground: &Ground) {
    let id = VmId(ground.first_id + 4);
    let small = spec(ground, 4);
    hypervisor.put(id, &small).unwrap();
    let mut large = small.clone();
    large.vcpus = 2;
    large.memory = ByteSize(small.memory.0 + ByteSize::mib(64).0);
    large.disk = ByteSize(small.disk.0 + ByteSize::mib(64).0);
    large.seed.hostname = "contract-renamed".into();
    assert_eq!(hypervisor.put(id, &large).unwrap().spec.as_ref(), Some(&large));
    assert_eq!(hypervisor.get(id).unwrap().spec.as_ref(), Some(&large));
    let shrunk = VmSpec { disk: small.disk, ..large.clone() };
    assert_eq!(refused_field(hypervisor.put(id, &shrunk)), "disk");
    assert_eq!(hypervisor.get(id).unwrap().spec, Some(large), "a refused change changes nothing");
    hypervisor.delete(id).unwrap();
}

fn counters_are_of_running_vms_and_grow(hypervisor: &dyn Hypervisor, ground: &Ground) {
    let (on, off) = (VmId(ground.first_id + 5), VmId(ground.first_id + 6));
    hypervisor.put(on, &VmSpec { power: WantedPower::On, ..spec(ground, 5) }).unwrap();
    hypervisor.put(off, &spec(ground, 6)).unwrap();
    let of = |id| hypervisor.counters().unwrap().into_iter().find(|sample| sample.vm == id);
    let first = of(on).expect("a running VM has counters");
    assert!(of(off).is_none(), "a VM that is off has none");
    let later = of(on).expect("a running VM has counters");
    assert!(later.at >= first.at);
    assert!(later.cpu_ns >= first.cpu_ns);
    assert!(later.disk_read_bytes >= first.disk_read_bytes);
    assert!(later.net_in_bytes >= first.net_in_bytes);
    hypervisor.delete(on).unwrap();
    hypervisor.delete(off).unwrap();
}

fn nonsense_touches_nothing(hypervisor: &dyn Hypervisor, ground: &Ground) {
    let id = VmId(ground.first_id + 7);
    type Change = fn(&mut VmSpec);
    let cases: [(&str, Change); 9] = [
        ("vcpus", |s| s.vcpus = 0),
        ("vcpus", |s| s.vcpus = 129),
        ("memory", |s| s.memory = ByteSize::mib(63)),
        ("memory", |s| s.memory = ByteSize(ByteSize::mib(128).0 + 1)),
        ("disk", |s| s.disk = ByteSize(0)),
        ("image.sha256", |s| s.image.sha256 = "../../etc/passwd".into()),
        ("nics[0].mac", |s| s.nics[0].mac = "52:54:00:AA:bb:cc".into()),
        ("nics[0].addresses[0].prefix", |s| s.nics[0].addresses[0].prefix = 33),
        ("seed.hostname", |s| s.seed.hostname = "two words".into()),
    ];
    for (field, change) in cases {
        let mut wrong = spec(ground, 7);
        change(&mut wrong);
        assert_eq!(refused_field(hypervisor.put(id, &wrong)), field);
    }
    assert!(matches!(hypervisor.get(id), Err(HypervisorError::NotFound(_))));
}

fn an_image_must_be_there(hypervisor: &dyn Hypervisor, ground: &Ground) {
    let Some(sha256) = ground.missing_image.clone() else { return };
    let id = VmId(ground.first_id + 8);
    let without = VmSpec { image: VmImage { sha256 }, ..spec(ground, 8) };
    let refused = hypervisor.put(id, &without);
    assert!(matches!(refused, Err(HypervisorError::Lacking(_))), "{refused:?}");
    assert!(!listed(hypervisor, id), "nothing is left of a VM without an image");
}

fn a_list_is_sorted(hypervisor: &dyn Hypervisor, ground: &Ground) {
    let ids = [12, 9, 11, 10].map(|n| VmId(ground.first_id + n));
    for (n, id) in ids.into_iter().enumerate() {
        hypervisor.put(id, &spec(ground, 9 + n as i64)).unwrap();
    }
    let mine = |vm: &Vm| ids.contains(&vm.id).then_some(vm.id);
    let listed: Vec<VmId> = hypervisor.list().unwrap().iter().filter_map(mine).collect();
    assert_eq!(listed, [9, 10, 11, 12].map(|n| VmId(ground.first_id + n)));
    for id in ids {
        hypervisor.delete(id).unwrap();
    }
}

/// A VM that was made and never started.
fn off(id: VmId, spec: &VmSpec) -> Vm {
    let (saved, pending) = (false, Vec::new());
    Vm { id, state: VmState::Off, spec: Some(spec.clone()), started: None, saved, pending }
}

fn a_volume_belongs_to_one_vm(hypervisor: &dyn Hypervisor, ground: &Ground) {
    let (one, two) = (VmId(ground.first_id + 13), VmId(ground.first_id + 14));
    let storage = hypervisor.storage();
    let wanted = VolumeCreate { size: ByteSize::mib(64), pool: None, format: None, file_system: None };
    let id = VolumeId(ground.first_id);
    let volume = storage.create(id, &wanted).unwrap();
    assert_eq!(storage.create(id, &wanted).unwrap(), volume);
    let attachment = VolumeAttachment { volume: id, read_only: false };
    let with = |n, power| VmSpec { volumes: vec![attachment.clone()], power, ..spec(ground, n) };
    let without = |n, power| VmSpec { power, ..spec(ground, n) };
    let unknown = VolumeAttachment { volume: VolumeId(ground.first_id + 1), read_only: false };
    let refused = hypervisor.put(one, &VmSpec { volumes: vec![unknown], ..spec(ground, 13) });
    assert!(matches!(refused, Err(HypervisorError::Lacking(_))), "{refused:?}");
    assert!(!listed(hypervisor, one), "nothing is left of a VM without its volume");
    let twice = VmSpec { volumes: vec![attachment.clone(), attachment.clone()], ..spec(ground, 13) };
    assert_eq!(refused_field(hypervisor.put(one, &twice)), "volumes[1].volume");

    for power in [WantedPower::Off, WantedPower::On] {
        hypervisor.put(one, &without(13, power)).unwrap();
        let has = hypervisor.put(one, &with(13, power)).unwrap();
        assert_eq!(hypervisor.put(one, &with(13, power)).unwrap(), has);
        assert_eq!(storage.volume(id).unwrap().attached_to, Some(one));
        let refused = hypervisor.put(two, &with(14, power));
        assert!(matches!(refused, Err(HypervisorError::Conflict(_))), "{refused:?}");
        assert!(matches!(storage.delete(id), Err(HypervisorError::Conflict(_))));
        hypervisor.put(one, &without(13, power)).unwrap();
        assert_eq!(storage.volume(id).unwrap().attached_to, None);
    }
    assert_eq!(hypervisor.volume_resize(id, ByteSize::mib(80)).unwrap().size, ByteSize::mib(80));
    assert!(matches!(
        hypervisor.volume_resize(id, ByteSize::mib(64)),
        Err(HypervisorError::Invalid(field)) if field.name == "size"
    ));
    hypervisor.put(one, &with(13, WantedPower::Off)).unwrap();
    hypervisor.delete(one).unwrap();
    hypervisor.put(two, &with(14, WantedPower::Off)).unwrap();
    hypervisor.delete(two).unwrap();
    storage.delete(id).unwrap();
    storage.delete(id).unwrap();
    assert!(storage.volumes().unwrap().iter().all(|volume| volume.id != id));
}

fn snapshots_come_and_go(hypervisor: &dyn Hypervisor, ground: &Ground) {
    let id = VmId(ground.first_id + 15);
    let name = |text| Name::new(text).unwrap();
    assert!(matches!(hypervisor.snapshots(id), Err(HypervisorError::NotFound(_))));
    hypervisor.put(id, &spec(ground, 15)).unwrap();
    assert!(hypervisor.snapshots(id).unwrap().is_empty());
    let first = hypervisor.snapshot_create(id, &name("first")).unwrap();
    assert!(first.frozen, "a VM that is off is at rest");
    assert_eq!(hypervisor.snapshot_create(id, &name("first")).unwrap(), first);
    let second = hypervisor.snapshot_create(id, &name("second")).unwrap();
    assert_eq!(hypervisor.snapshots(id).unwrap(), [first, second]);
    for _ in 0..2 {
        assert_eq!(hypervisor.snapshot_revert(id, &name("first")).unwrap().state, VmState::Off);
    }
    // A disk that has grown since is as large again afterwards.
    let larger = VmSpec { disk: ByteSize(ground.disk.0 + ByteSize::mib(64).0), ..spec(ground, 15) };
    hypervisor.put(id, &larger).unwrap();
    hypervisor.snapshot_revert(id, &name("first")).unwrap();
    assert_eq!(hypervisor.put(id, &larger).unwrap().spec.as_ref(), Some(&larger));
    hypervisor.power(id, PowerVerb::Start).unwrap();
    assert_eq!(hypervisor.snapshot_revert(id, &name("second")).unwrap().state, VmState::Running);
    for _ in 0..2 {
        hypervisor.snapshot_delete(id, &name("first")).unwrap();
    }
    let refused = hypervisor.snapshot_revert(id, &name("first"));
    assert!(matches!(refused, Err(HypervisorError::Unknown(_))), "{refused:?}");
    assert_eq!(hypervisor.snapshots(id).unwrap().len(), 1);
    hypervisor.delete(id).unwrap();
}

fn listed(hypervisor: &dyn Hypervisor, id: VmId) -> bool {
    hypervisor.list().unwrap().iter().any(|vm| vm.id == id)
}

fn refused_field(result: Result<Vm, HypervisorError>) -> String {
    match result {
        Err(HypervisorError::Invalid(field)) => field.name,
        other => panic!("should have been refused as invalid: {other:?}"),
    }
}

fn wait_for_state(hypervisor: &dyn Hypervisor, ground: &Ground, id: VmId, state: VmState) {
    let until = Instant::now() + ground.patience;
    while hypervisor.get(id).unwrap().state != state {
        assert!(Instant::now() < until, "VM {id} did not become {state:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn wait_for_event(
    events: &mut broadcast::Receiver<VmEvent>,
    ground: &Ground,
    id: VmId,
    state: Option<VmState>,
) {
    let until = Instant::now() + ground.patience;
    loop {
        match events.try_recv() {
            Ok(event) if event.vm == id && event.state == state => return,
            Ok(_) => {}
            Err(broadcast::error::TryRecvError::Empty) => {
                assert!(Instant::now() < until, "no event that VM {id} is {state:?}");
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(e) => panic!("events: {e}"),
        }
    }
}

/// Deletes the suite's VMs, whatever happened.
struct Clean<'a> {
    hypervisor: &'a dyn Hypervisor,
    ground: &'a Ground,
}

impl Drop for Clean<'_> {
    fn drop(&mut self) {
        for n in 0..100 {
            let _ = self.hypervisor.delete(VmId(self.ground.first_id + n));
            let _ = self.hypervisor.storage().delete(VolumeId(self.ground.first_id + n));
        }
    }
}
