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

mod moving;

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_model::agent::{
    CounterSample, DomainType, MoveArrived, MoveRoom, MoveSend, MoveSent, PowerVerb, Versions, Vm, VmEvent,
    VmSpec, VmState, WantedPower,
};
use berth_model::{FieldError, Timestamp, VmId};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::{Hypervisor, HypervisorError, HypervisorFacts};
use crate::moving::Way;
use crate::runs::Cx;
use crate::{clock, faults, spec};

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
    vms: Mutex<BTreeMap<VmId, Record>>,
    /// VMs that come from another node.
    coming: Mutex<BTreeMap<VmId, VmSpec>>,
    events: broadcast::Sender<VmEvent>,
}

/// All there is of one VM, in memory and in its file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    spec: VmSpec,
    state: VmState,
    started: Option<Timestamp>,
}

impl Simulator {
    /// Opens the simulator, with the VMs of its folder.
    pub fn new(config: SimulatorConfig) -> std::io::Result<Self> {
        let vms = match &config.folder {
            Some(folder) => read_folder(folder)?,
            None => BTreeMap::new(),
        };
        let (events, _) = broadcast::channel(EVENTS_KEPT);
        Ok(Self { config, vms: Mutex::new(vms), coming: Mutex::default(), events })
    }

    /// Lets a VM crash, as a guest's panic would.
    pub fn crash(&self, id: VmId) -> Result<Vm, HypervisorError> {
        let record = self.record(id)?.ok_or(HypervisorError::NotFound(id))?;
        self.keep(id, Record { state: VmState::Crashed, started: None, ..record })
    }

    fn vms(&self) -> MutexGuard<'_, BTreeMap<VmId, Record>> {
        // The map is changed by single inserts and removes, so it is whole after any panic.
        self.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, id: VmId) -> Result<Option<Record>, HypervisorError> {
        Ok(self.vms().get(&id).cloned())
    }

    /// Writes a VM down, then shows it, then tells of its state if that changed.
    fn keep(&self, id: VmId, record: Record) -> Result<Vm, HypervisorError> {
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
        // No receiver is no fault: nobody listens yet.
        let _ = self.events.send(VmEvent { vm, state, at: clock::now() });
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
        Ok(HypervisorFacts { domain_type: DomainType::Simulator, versions: Versions::default() })
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
        let before = self.record(id)?;
        if let Some(before) = &before {
            check_change(id, &before.spec, spec)?;
        } else {
            self.check_image(spec)?;
        }
        self.take_time();
        points(&["put.after_folder", "put.after_disk", "put.after_seed", "put.after_define"])?;
        let (was, since) = before.map_or((VmState::Off, None), |before| (before.state, before.started));
        let (state, started) = match (spec.power, was) {
            (WantedPower::On, VmState::Off | VmState::Crashed) => (VmState::Running, Some(clock::now())),
            (WantedPower::On, _) => (VmState::Running, since),
            (WantedPower::Off, _) => (VmState::Off, None),
            (WantedPower::Keep, was) => (was, since),
        };
        let vm = self.keep(id, Record { spec: spec.clone(), state, started })?;
        points(&["put.after_power"])?;
        Ok(vm)
    }

    fn delete(&self, id: VmId) -> Result<(), HypervisorError> {
        self.forget_coming(id);
        if self.record(id)?.is_none() {
            return Ok(());
        }
        self.take_time();
        points(&["delete.after_destroy", "delete.after_undefine", "delete.after_disk"])?;
        if let Some(folder) = &self.config.folder {
            remove_file(&record_path(folder, id)).map_err(|e| failed("could not remove a VM's file", &e))?;
        }
        if self.vms().remove(&id).is_some() {
            self.tell(id, None);
        }
        points(&["delete.after_folder"])
    }

    fn power(&self, id: VmId, verb: PowerVerb) -> Result<Vm, HypervisorError> {
        let before = self.record(id)?.ok_or(HypervisorError::NotFound(id))?;
        let on = matches!(before.state, VmState::Running | VmState::Paused);
        let (state, started) = match (verb, on) {
            (PowerVerb::Start, true) => (VmState::Running, before.started),
            (PowerVerb::Start, false) => (VmState::Running, Some(clock::now())),
            (PowerVerb::Shutdown | PowerVerb::PowerOff, true) => (VmState::Off, None),
            (PowerVerb::Shutdown | PowerVerb::PowerOff, false) => (before.state, None),
            (PowerVerb::Reboot | PowerVerb::Reset, true) => (VmState::Running, before.started),
            (PowerVerb::Reboot | PowerVerb::Reset, false) => {
                return Err(HypervisorError::Conflict(format!("VM {id} is off; start it instead.")));
            }
        };
        self.take_time();
        self.keep(id, Record { spec: before.spec, state, started })
    }

    fn move_prepare(&self, id: VmId, spec: &VmSpec) -> Result<MoveRoom, HypervisorError> {
        self.make_room(id, spec)
    }

    fn move_send(
        &self,
        id: VmId,
        _order: &MoveSend,
        way: &Way,
        cx: &Cx,
    ) -> Result<MoveSent, HypervisorError> {
        self.send(id, way, cx)
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

    fn events(&self) -> broadcast::Receiver<VmEvent> {
        self.events.subscribe()
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
    Vm { id, state: record.state, spec: Some(record.spec.clone()), started: record.started }
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
            (Some(id), Some("json")) => {
                let record = serde_json::from_slice(&fs::read(&path)?)?;
                vms.insert(VmId(id), record);
            }
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
