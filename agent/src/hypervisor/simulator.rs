//! A hypervisor in memory: it keeps every promise of [`Hypervisor`] without a guest, for thousands
//! of VMs. With a folder, each VM is a file in it, so that a simulator that was killed finds its VMs
//! as they were, as libvirt's would have gone on running.
//!
//! ```text
//! put ──► Off ──start──► Running ──shutdown, power_off──► Off ──delete──► nothing
//!                          └─ reboot, reset: still Running
//! ```
//!
//! Every function that changes something takes `delay`, as a real one takes its time.

mod backup;
mod consoles;
mod guest;
mod machines;
mod moving;
mod network;

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use berth_model::agent::{
    ConsoleKind, CounterSample, DiskSample, DomainType, KeptDisk, LeaseList, MemorySample, MoveArrived,
    MovePrepare, MoveRoom, MoveSend, MoveSent, Name, NetworkState, NicSample, NodeCheck, PowerVerb,
    PrivateNetwork, Snapshot, TrafficList, Versions, Vm, VmEvent, VmSpec, VmState, Volume, WantedPower,
};
use berth_model::{ByteSize, FieldError, PrivateNetworkId, Timestamp, VmId, VolumeId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::broadcast;

pub use self::guest::Guest;
use self::guest::Guests;
use self::snapshots::SimulatedSnapshot;
use super::{Hypervisor, HypervisorError, HypervisorFacts};
use crate::backups::disk::{Making, Restoring, Taking, Wish};
use crate::lease::Lease;
use crate::moving::Way;
use crate::orphans::Found;
use crate::runs::Cx;
use crate::screenshot::Picture;
use crate::sizes::Running;
use crate::storage::Storage;
use crate::{clock, faults, spec};

mod snapshots;

/// Events that a slow receiver may lie behind before it lags.
const EVENTS_KEPT: usize = 4096;

/// How the simulator behaves.
#[derive(Debug, Clone, Default)]
pub struct SimulatorConfig {
    /// Where VMs are kept; in memory only without one.
    pub folder: Option<PathBuf>,
    /// Where image files are looked for, as `{sha256}.qcow2`; without one every image is there.
    pub images: Option<PathBuf>,
    /// How long a change takes.
    pub delay: Duration,
}

/// The simulator.
pub struct Simulator {
    config: SimulatorConfig,
    storage: Storage,
    vms: Mutex<BTreeMap<VmId, Record>>,
    /// VMs that come from another node.
    coming: Mutex<BTreeMap<VmId, moving::Coming>>,
    networks: Mutex<network::Networks>,
    kept: Mutex<BTreeMap<String, KeptDisk>>,
    events: broadcast::Sender<VmEvent>,
    marks: backup::Marks,
    consoles: consoles::Open,
    guests: Guests,
    lease: OnceLock<Arc<Lease>>,
}

/// All there is of one VM, in memory and in its file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    spec: VmSpec,
    state: VmState,
    started: Option<Timestamp>,
    #[serde(default)]
    saved: bool,
    /// What it was when it was started.
    #[serde(default)]
    runs: Option<VmSpec>,
    snapshots: Vec<SimulatedSnapshot>,
    /// The size it runs with.
    #[serde(default)]
    running: Option<Running>,
}

impl Record {
    /// A VM that comes on has the size it should have; one that is on, as much of it as it can.
    fn new(spec: VmSpec, state: VmState, started: Option<Timestamp>, before: Option<&Self>) -> Self {
        let (saved, runs) = before.map_or((false, None), |before| (before.saved, before.runs.clone()));
        let running = started.map(|_| match before.and_then(|before| before.running) {
            None => Running::started(&spec),
            Some(now) => Running {
                vcpus: now.vcpus_toward(&spec).unwrap_or(now.vcpus),
                memory: now.memory_toward(&spec).unwrap_or(now.memory),
                ..now
            },
        });
        let snapshots = before.map(|before| before.snapshots.clone()).unwrap_or_default();
        Self { spec, state, started, saved, runs, running, snapshots }
    }
}

impl Simulator {
    /// Opens the simulator, with the VMs of its folder.
    pub fn new(config: SimulatorConfig) -> std::io::Result<Self> {
        let vms = match &config.folder {
            Some(folder) => read_folder(folder)?,
            None => BTreeMap::new(),
        };
        let networks = Mutex::new(network::read(config.folder.as_deref())?);
        let (events, _) = broadcast::channel(EVENTS_KEPT);
        let kept = Mutex::new(machines::read_kept(config.folder.as_deref())?);
        let storage = Storage::simulated(config.folder.as_deref(), config.images.as_deref());
        let storage = storage.map_err(std::io::Error::other)?;
        Ok(Self {
            config,
            storage,
            vms: Mutex::new(vms),
            coming: Mutex::default(),
            networks,
            kept,
            events,
            guests: Guests::default(),
            consoles: consoles::Open::default(),
            marks: backup::Marks::default(),
            lease: OnceLock::new(),
        })
    }

    /// Lets a VM crash, as a guest's panic would.
    pub fn crash(&self, id: VmId) -> Result<Vm, HypervisorError> {
        let record = self.record(id)?.ok_or(HypervisorError::NotFound(id))?;
        self.keep(id, Record::new(record.spec, VmState::Crashed, None, None))
    }

    /// Looks at a guest, and may change it, as somebody inside could.
    pub fn guest<T>(&self, id: VmId, look: impl FnOnce(&mut Guest) -> T) -> T {
        self.guests.with(id, look)
    }

    fn vms(&self) -> MutexGuard<'_, BTreeMap<VmId, Record>> {
        // The map is changed by single inserts and removes, so it is whole after any panic.
        self.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, id: VmId) -> Result<Option<Record>, HypervisorError> {
        Ok(self.vms().get(&id).cloned())
    }

    /// A VM that is on.
    fn on(&self, id: VmId) -> Result<Record, HypervisorError> {
        let record = self.record(id)?.ok_or(HypervisorError::NotFound(id))?;
        if record.state.is_on() {
            return Ok(record);
        }
        Err(HypervisorError::Conflict(format!("VM {id} is off; its consoles are there while it runs.")))
    }

    /// Writes a VM down, then shows it, then tells of its state if that changed.
    fn keep(&self, id: VmId, record: Record) -> Result<Vm, HypervisorError> {
        let record = machines::follow(record);
        if let Some(folder) = &self.config.folder {
            write_record(folder, id, &record).map_err(|e| failed("could not write a VM's file", &e))?;
        }
        let vm = show(id, &record);
        let before = self.vms().insert(id, record).map(|record| record.state);
        if before != Some(vm.state) {
            self.tell(id, Some(vm.state));
        }
        Ok(vm)
    }

    fn tell(&self, vm: VmId, state: Option<VmState>) {
        if !state.is_some_and(VmState::is_on) {
            self.consoles.hang_up(vm);
        }
        // No receiver is no fault: nobody listens yet.
        let _ = self.events.send(VmEvent { vm, state, at: clock::now() });
    }

    /// Refuses the start of a marked VM while the node has no lease.
    fn admit(&self, id: VmId, spec: &VmSpec) -> Result<(), HypervisorError> {
        self.lease.get().filter(|_| spec.failover).map_or(Ok(()), |lease| lease.admit(id))
    }

    fn take_time(&self) {
        if !self.config.delay.is_zero() {
            std::thread::sleep(self.config.delay);
        }
    }

    fn check_image(&self, spec: &VmSpec) -> Result<(), HypervisorError> {
        let Some(images) = &self.config.images else { return Ok(()) };
        let sha256 = &spec.image.sha256;
        match images.join(format!("{sha256}.qcow2")).try_exists() {
            Ok(true) => Ok(()),
            Ok(false) => Err(HypervisorError::Lacking(format!("The image {sha256} is not on this node."))),
            Err(e) => Err(failed("could not look for the image", &e)),
        }
    }
}

impl Hypervisor for Simulator {
    fn ping(&self) -> Result<(), HypervisorError> {
        Ok(())
    }

    fn facts(&self) -> Result<HypervisorFacts, HypervisorError> {
        Ok(HypervisorFacts {
            domain_type: DomainType::Simulator,
            versions: Versions::default(),
            storage_leases: true,
        })
    }

    fn list(&self) -> Result<Vec<Vm>, HypervisorError> {
        Ok(self.vms().iter().map(|(id, record)| show(*id, record)).collect())
    }

    fn get(&self, id: VmId) -> Result<Vm, HypervisorError> {
        self.vms().get(&id).map(|record| show(id, record)).ok_or(HypervisorError::NotFound(id))
    }

    fn put(&self, id: VmId, spec: &VmSpec) -> Result<Vm, HypervisorError> {
        spec::check(spec)?;
        self.refuse_coming(id)?;
        self.check_private(spec)?;
        self.check_parts(spec)?;
        self.storage.check_claims(id, &spec.volumes)?;
        self.storage.check_disk(id, spec)?;
        let before = self.record(id)?;
        let was_marked = before.as_ref().is_some_and(|before| before.spec.failover);
        if spec.power == WantedPower::On || spec.power == WantedPower::Keep && !was_marked {
            self.admit(id, spec)?;
        }
        if let Some(before) = &before {
            check_change(id, &before.spec, spec)?;
        } else {
            self.check_image(spec)?;
        }
        self.take_time();
        points(&["put.after_folder", "put.after_disk", "put.after_seed"])?;
        self.storage.claim(id, &spec.volumes)?;
        points(&["put.after_volumes", "put.after_define", "put.after_nics"])?;
        let (was, since) =
            before.as_ref().map_or((VmState::Off, None), |before| (before.state, before.started));
        let (state, started) = match (spec.power, was) {
            (WantedPower::On, VmState::Off | VmState::Crashed) => (VmState::Running, Some(clock::now())),
            (WantedPower::On, _) => (VmState::Running, since),
            (WantedPower::Off, _) => (VmState::Off, None),
            (WantedPower::Keep, was) => (was, since),
        };
        let vm = self.keep(id, Record::new(spec.clone(), state, started, before.as_ref()))?;
        points(&["put.after_power", "put.after_hotplug"])?;
        self.storage.release(id, &spec.volumes)?;
        Ok(vm)
    }

    fn delete(&self, id: VmId) -> Result<(), HypervisorError> {
        self.forget_coming(id)?;
        if self.record(id)?.is_none() {
            return self.storage.release(id, &[]);
        }
        self.take_time();
        points(&["delete.after_destroy", "delete.after_undefine", "delete.after_disk"])?;
        if let Some(folder) = &self.config.folder {
            remove_file(&record_path(folder, id)).map_err(|e| failed("could not remove a VM's file", &e))?;
        }
        self.guests.forget(id);
        if self.vms().remove(&id).is_some() {
            self.tell(id, None);
        }
        points(&["delete.after_folder"])?;
        self.storage.release(id, &[])
    }

    fn power(&self, id: VmId, verb: PowerVerb) -> Result<Vm, HypervisorError> {
        let before = self.record(id)?.ok_or(HypervisorError::NotFound(id))?;
        if verb == PowerVerb::Start {
            self.admit(id, &before.spec)?;
        }
        let on = matches!(before.state, VmState::Running | VmState::Paused);
        let (state, started) = match (verb, on) {
            (PowerVerb::Start, true) => (VmState::Running, before.started),
            (PowerVerb::Start, false) => (VmState::Running, Some(clock::now())),
            (PowerVerb::Shutdown | PowerVerb::PowerOff, true) => (VmState::Off, None),
            (PowerVerb::Shutdown | PowerVerb::PowerOff, false) => (before.state, None),
            (PowerVerb::Reboot | PowerVerb::Reset | PowerVerb::Resume, true) => {
                (VmState::Running, before.started)
            }
            (PowerVerb::Pause, true) => (VmState::Paused, before.started),
            (PowerVerb::Reboot | PowerVerb::Reset | PowerVerb::Pause | PowerVerb::Resume, false) => {
                return Err(HypervisorError::Conflict(format!("VM {id} is off; start it instead.")));
            }
        };
        self.take_time();
        let saved = before.saved && verb != PowerVerb::PowerOff;
        let record = Record::new(before.spec.clone(), state, started, Some(&before));
        self.keep(id, Record { saved, ..record })
    }

    fn ask_guest(&self, id: VmId, words: &Value, _patience: Duration) -> Result<Value, HypervisorError> {
        let record = self.record(id)?.ok_or(HypervisorError::NotFound(id))?;
        self.guests.answer(id, &record.spec, record.state, words)
    }

    fn console(&self, id: VmId, kind: ConsoleKind) -> Result<UnixStream, HypervisorError> {
        self.consoles.open(id, &self.on(id)?.spec, kind).map_err(|e| failed("could not open a console", &e))
    }

    fn console_log(&self, id: VmId, max_bytes: usize) -> Result<Vec<u8>, HypervisorError> {
        let record = self.record(id)?.ok_or(HypervisorError::NotFound(id))?;
        Ok(consoles::log(id, record.started, max_bytes))
    }

    fn screenshot(&self, id: VmId) -> Result<Picture, HypervisorError> {
        self.on(id)?;
        consoles::screen(id).map_err(HypervisorError::Failed)
    }

    fn send_keys(&self, id: VmId, _codes: &[u32], _hold: Duration) -> Result<(), HypervisorError> {
        self.on(id).map(drop)
    }

    fn orphans(&self) -> Result<Vec<Found<'_>>, HypervisorError> {
        // What a crash leaves in its folder is cleared away when it is opened.
        Ok(Vec::new())
    }

    fn checks(&self) -> Vec<NodeCheck> {
        let sentence = "No guest runs: VMs are simulated.".to_owned();
        vec![NodeCheck { check: "accelerator".to_owned(), ok: true, needed: false, sentence }]
    }

    fn backup_begin(&self, id: VmId, wish: &Wish<'_>) -> Result<Box<dyn Taking>, HypervisorError> {
        let record = self.record(id)?.ok_or(HypervisorError::NotFound(id))?;
        self.take_time();
        Ok(backup::begin(&self.marks, id, &record.spec, wish))
    }

    fn restore_begin(&self, id: VmId, restoring: &Restoring) -> Result<Box<dyn Making>, HypervisorError> {
        let on =
            self.record(id)?.is_some_and(|record| matches!(record.state, VmState::Running | VmState::Paused));
        if on {
            return Err(HypervisorError::Conflict(format!("VM {id} runs; stop it first.")));
        }
        self.take_time();
        Ok(backup::restore(&self.marks, id, restoring))
    }

    fn move_prepare(
        &self,
        id: VmId,
        asked: &MovePrepare,
        until: Timestamp,
    ) -> Result<MoveRoom, HypervisorError> {
        self.make_room(id, asked, until)
    }

    fn move_rooms(&self) -> Result<Vec<(VmId, Timestamp)>, HypervisorError> {
        self.rooms()
    }

    fn move_send(&self, id: VmId, order: &MoveSend, way: &Way, cx: &Cx) -> Result<MoveSent, HypervisorError> {
        self.send(id, order, way, cx)
    }

    fn move_receive(&self, id: VmId, from: UnixStream) -> Result<(), HypervisorError> {
        self.receive(id, &from)
    }

    fn move_has_arrived(&self, id: VmId) -> Result<bool, HypervisorError> {
        Ok(self.record(id)?.is_some())
    }

    fn move_finish(&self, id: VmId) -> Result<MoveArrived, HypervisorError> {
        self.adopt(id)
    }

    fn move_abort(&self, id: VmId) -> Result<(), HypervisorError> {
        self.clear_room(id)
    }

    fn counters(&self) -> Result<Vec<CounterSample>, HypervisorError> {
        let now = clock::now();
        let vms = self.vms();
        let running = vms.iter().filter(|(_, record)| record.state == VmState::Running);
        Ok(running.map(|(id, record)| counters(*id, record, now)).collect())
    }

    fn storage(&self) -> &Storage {
        &self.storage
    }

    fn volume_resize(&self, id: VolumeId, size: ByteSize) -> Result<Volume, HypervisorError> {
        self.storage.resize(id, size, |_| Ok(true))
    }

    fn snapshots(&self, id: VmId) -> Result<Vec<Snapshot>, HypervisorError> {
        let record = self.record(id)?.ok_or(HypervisorError::NotFound(id))?;
        Ok(record.snapshots.into_iter().map(|snapshot| snapshot.shown).collect())
    }

    fn snapshot_create(&self, id: VmId, name: &Name) -> Result<Snapshot, HypervisorError> {
        self.take_snapshot(id, name)
    }

    fn snapshot_revert(&self, id: VmId, name: &Name) -> Result<Vm, HypervisorError> {
        self.revert_to(id, name)
    }

    fn snapshot_delete(&self, id: VmId, name: &Name) -> Result<(), HypervisorError> {
        self.drop_snapshot(id, name)
    }

    fn disk_export(&self, cx: &Cx, id: VmId, to: &Path) -> Result<(), HypervisorError> {
        self.export_disk(cx, id, to)
    }

    fn events(&self) -> broadcast::Receiver<VmEvent> {
        self.events.subscribe()
    }

    fn tend(&self) -> Result<(), HypervisorError> {
        Ok(())
    }

    fn guard(&self, lease: Arc<Lease>) {
        let _guarded_already = self.lease.set(lease);
    }

    fn marked(&self) -> Vec<VmId> {
        self.vms().iter().filter(|(_, record)| record.spec.failover).map(|(id, _)| *id).collect()
    }

    fn fence(&self, ids: &[VmId]) -> Vec<(VmId, Result<(), HypervisorError>)> {
        let runs = |id: &&VmId| self.vms().get(id).is_some_and(|record| record.state.is_on());
        let ids: Vec<_> = ids.iter().filter(runs).collect();
        ids.into_iter().map(|id| (*id, self.power(*id, PowerVerb::PowerOff).map(drop))).collect()
    }

    fn network(&self) -> Result<NetworkState, HypervisorError> {
        Ok(self.network_state())
    }

    fn traffic(&self) -> Result<TrafficList, HypervisorError> {
        Ok(self.traffic_list())
    }

    fn leases(&self, id: VmId) -> Result<LeaseList, HypervisorError> {
        self.simulate_leases(id)
    }

    fn put_network(&self, id: PrivateNetworkId, network: &PrivateNetwork) -> Result<(), HypervisorError> {
        self.take_time();
        self.put_private(id, network)
    }

    fn delete_network(&self, id: PrivateNetworkId) -> Result<(), HypervisorError> {
        self.take_time();
        self.delete_private(id)
    }
}

/// What may change of a VM that is there.
fn check_change(id: VmId, old: &VmSpec, new: &VmSpec) -> Result<(), HypervisorError> {
    if new.disk < old.disk {
        return Err(HypervisorError::Invalid(FieldError {
            name: "disk".to_owned(),
            messages: vec![format!("The disk has {} already, and never shrinks.", old.disk)],
        }));
    }
    if new.image != old.image {
        return Err(HypervisorError::Conflict(format!(
            "The disk of VM {id} was made from another image; delete the VM first."
        )));
    }
    Ok(())
}

/// Passes fault points. A simulated VM is made and removed in one step, so those before it stand together.
fn points(names: &[&'static str]) -> Result<(), HypervisorError> {
    let passed = names.iter().try_for_each(|name| faults::point(name));
    passed.map_err(|fault| HypervisorError::Failed(fault.to_string()))
}

fn show(id: VmId, record: &Record) -> Vm {
    let mut pending = record.running.map_or_else(Vec::new, |running| running.pending(&record.spec));
    if let Some(runs) = &record.runs {
        pending.extend(super::machines::pending(runs, &record.spec));
    }
    Vm {
        id,
        state: record.state,
        spec: Some(record.spec.clone()),
        started: record.started,
        saved: record.saved,
        pending,
    }
}

/// Counters that only grow while a VM runs, with a rate that swings, differently for each VM.
fn counters(vm: VmId, record: &Record, at: Timestamp) -> CounterSample {
    let age_ms = record.started.map_or(0, |started| at.unix_ms() - started.unix_ms()).max(0);
    let seconds = age_ms as f64 / 1000.0;
    // The integral of a load that swings between 0 and 60 percent with a period of its own.
    let period = 20.0 + (vm.0.rem_euclid(17)) as f64;
    let turn = std::f64::consts::TAU / period;
    let busy = 0.3 * (seconds + (1.0 - (seconds * turn).cos()) / turn);
    let vcpus = f64::from(record.spec.vcpus);
    let of = |rate: f64| (busy * rate) as u64;
    let memory = record.spec.memory.0 as f64;
    CounterSample {
        vm,
        at,
        cpu_ns: of(vcpus * 1e9),
        memory_used_bytes: (memory * (0.4 + 0.2 * (seconds * turn).sin())) as u64,
        disk_read_bytes: of(4e6),
        disk_write_bytes: of(2e6),
        disk_read_ops: of(400.0),
        disk_write_ops: of(200.0),
        net_in_bytes: of(1.5e6),
        net_out_bytes: of(9e5),
        steal_ns: Some(of(vcpus * 1e6)),
        memory: MemorySample {
            balloon_bytes: record.spec.memory.0,
            resident_bytes: record.spec.memory.0,
            guest_total_bytes: Some(record.spec.memory.0),
            guest_unused_bytes: Some((memory * 0.2) as u64),
            guest_available_bytes: Some((memory * 0.3) as u64),
        },
        disks: vec![DiskSample {
            name: "vda".to_owned(),
            read_bytes: of(4e6),
            write_bytes: of(2e6),
            read_ops: of(400.0),
            write_ops: of(200.0),
            flush_ops: of(10.0),
            read_ns: of(8e7),
            write_ns: of(6e7),
            flush_ns: of(2e7),
        }],
        nics: (0..record.spec.nics.len() as u32).map(|nic| nic_sample(nic, of)).collect(),
    }
}

fn nic_sample(nic: u32, of: impl Fn(f64) -> u64) -> NicSample {
    // All traffic goes over the first card.
    let of = |rate: f64| if nic == 0 { of(rate) } else { 0 };
    NicSample {
        nic,
        in_bytes: of(1.5e6),
        in_packets: of(1200.0),
        out_bytes: of(9e5),
        out_packets: of(900.0),
        ..NicSample::default()
    }
}

fn record_path(folder: &Path, id: VmId) -> PathBuf {
    folder.join(format!("{id}.json"))
}

fn read_folder(folder: &Path) -> std::io::Result<BTreeMap<VmId, Record>> {
    fs::create_dir_all(folder)?;
    let mut vms = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        match (id, path.extension().and_then(|e| e.to_str())) {
            _ if path.ends_with(network::FILE) => {}
            (Some(id), Some("json")) => {
                let record = serde_json::from_slice(&fs::read(&path)?)?;
                vms.insert(VmId(id), record);
            }
            (None, Some("kept")) => {}
            _ if path.is_dir() => {}
            // A write that was cut off; the file it was to replace is whole.
            _ => remove_file(&path)?,
        }
    }
    Ok(vms)
}

/// Replaces a VM's file as a whole. A power cut may lose it, as it would end the simulated VM.
fn write_record(folder: &Path, id: VmId, record: &Record) -> std::io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.persist(record_path(folder, id))?;
    Ok(())
}

fn remove_file(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn failed(what: &str, error: &dyn std::error::Error) -> HypervisorError {
    HypervisorError::Failed(format!("The simulator {what}: {error}"))
}
