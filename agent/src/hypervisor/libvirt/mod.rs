//! VMs through libvirt.
//!
//! ```text
//! put:    folder ─► disk ─► seed ─► volumes ─► define ─► power ─► hot-plug
//! delete: destroy ─► undefine ─► disk ─► folder ─► volumes
//! ```
//!
//! Each arrow is a step that finds its work done when it is told again, and a [fault point](crate::faults).
//! Until `define` a VM is half-made: its folder is there, and no domain. Nothing is kept in memory that
//! is not in libvirt or on disk: what each VM was told to be stands in its domain's metadata.
//!
//! # What the node needs
//!
//! libvirtd and virtlogd, with Debian's configuration as it is: QEMU runs as `libvirt-qemu`, and libvirt gives
//! it the disk and the seed as a VM starts. So:
//!
//! - every folder above `data_dir` and the images lets others pass (`chmod o+x`);
//! - `/dev/kvm`, if it is there, belongs to the group `kvm` with mode 0660, as udev makes it. Where it
//!   does not (no udev), libvirtd asks QEMU anew what it can do at every start: 4 s instead of 0.7 s;
//! - virtlockd with `lock_manager = "lockd"` in `qemu.conf` and a `file_lockspace_dir` in `qemu-lockd.conf`,
//!   on shared storage where pools are, for VMs that may run elsewhere, see [`leases`];
//! - the packages `qemu-utils`, `util-linux` and `xorriso`; `ovmf` for VMs with UEFI, `swtpm` and `swtpm-tools`
//!   for a TPM, `e2fsprogs` and `xfsprogs` for volumes that are made with a file system, `lvm2` where a pool is one
//!   of LVM, and `ceph-common` and `qemu-block-extra` where one is Ceph's.
//!
//! A guest is heard only with the addresses of its own cards, see [`crate::network`]. Where guests use QEMU's
//! own network, nothing filters.

mod aio;
mod autostart;
mod backup;
mod connection;
mod consoles;
mod counters;
mod disk;
mod disks;
mod domain;
mod events;
mod fence;
pub(crate) mod ffi;
mod folder;
mod guest;
mod hardware;
mod in_pool;
mod iso;
mod kept;
mod leases;
mod lender;
mod machines;
mod mend;
mod moving;
mod names;
mod network;
mod nics;
mod open;
mod ops;
mod orphans;
pub mod probe;
mod reboot;
mod rescue;
mod restore;
mod secrets;
pub(crate) mod seed;
mod sizes;
mod snapshots;
mod source;
mod tool;
mod volumes;
mod wipe;
mod xml;

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use berth_model::agent::{
    ConsoleKind, CounterSample, DomainType, LeaseList, MoveArrived, MovePrepare, MoveRoom, MoveSend,
    MoveSent, Name, NetworkState, NodeCheck, PowerVerb, PrivateNetwork, Snapshot, TrafficList, Versions, Vm,
    VmEvent, VmSpec, VmState, Volume, WantedPower,
};
use berth_model::{ByteSize, PrivateNetworkId, Timestamp, VmId, VolumeId};
use serde_json::Value;
use tokio::sync::broadcast;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use virt::sys;

use self::connection::Connection;
use self::disk::{Cache, Images};
use self::events::Hub;
use self::fence::Marks;
use self::folder::Folders;
use self::mend::AtWork;
use self::moving::notes::Notes;
use self::names::Prefix;
pub use self::network::GuestNetwork;
pub use self::open::LibvirtConfig;
use self::ops::{
    is, metadata, note_start, on_disk, power_off, refused, reset, started, state, undefine, unless_off,
    version,
};
use self::probe::Verdict;
use self::seed::Seed;
use super::machines::pending;
use super::{Hypervisor, HypervisorError, HypervisorFacts};
use crate::backups::disk::{Making, Restoring, Taking, Wish};
use crate::lease::Lease;
use crate::moving::Way;
use crate::network::Plane;
use crate::orphans::Found;
use crate::runs::Cx;
use crate::screenshot::Picture;
use crate::storage::Storage;
use crate::{clock, faults};

/// Where libvirt keeps a log of each QEMU it ran as root.
const QEMU_LOGS: &str = "/var/log/libvirt/qemu";

/// libvirt as a [`Hypervisor`].
pub struct Libvirt {
    config: LibvirtConfig,
    prefix: Prefix,
    folders: Folders,
    notes: Notes,
    images: Images,
    kept: kept::Shelf,
    storage: Storage,
    cache: Cache,
    connection: Arc<Connection>,
    hub: Arc<Hub>,
    verdict: OnceLock<Verdict>,
    /// Two VMs that start at once must not both make the network.
    network: Mutex<()>,
    /// Filters, where guests' cards are the node's interfaces.
    plane: Option<Arc<Plane>>,
    /// VMs marked for failover.
    marks: Marks,
    /// What those need to start, once it is known.
    lease: OnceLock<Arc<Lease>>,
    at_work: AtWork,
}

impl Libvirt {
    fn domain(&self, connect: &Connect, id: VmId) -> Result<Option<Domain>, HypervisorError> {
        match connect.lookup_domain_by_name(&self.prefix.domain(id)) {
            Ok(domain) => Ok(Some(domain)),
            Err(e) if is(&e, ErrorNumber::NoDomain) => Ok(None),
            Err(e) => Err(refused("look for the VM", &e)),
        }
    }

    /// The domain of a VM that has one; for one that is half-made, why it cannot be used.
    fn whole_domain(&self, connect: &Connect, id: VmId) -> Result<Domain, HypervisorError> {
        match self.domain(connect, id)? {
            Some(domain) => Ok(domain),
            None if self.folders.of(id).exists().map_err(on_disk)? => {
                Err(HypervisorError::Conflict(format!("VM {id} is half-made; put it again.")))
            }
            None => Err(HypervisorError::NotFound(id)),
        }
    }

    fn ensure_network(&self, connect: &Connect) -> Result<(), HypervisorError> {
        let _one_at_a_time = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        let ensured = self.config.network.ensure(connect, &self.prefix);
        ensured.map_err(|e| refused("start the guests' network", &e))
    }

    fn start(&self, connect: &Connect, id: VmId, domain: &Domain) -> Result<(), HypervisorError> {
        self.admit(id)?;
        if let Some(spec) = spec_in(id, domain, sys::VIR_DOMAIN_AFFECT_CONFIG)? {
            self.check_leases(id, &spec)?;
        }
        self.put_keys(connect, id)?;
        self.pool_disk(id)?;
        self.ensure_network(connect)?;
        match state(domain)? {
            VmState::Running => {}
            VmState::Paused => {
                moving::refuse_held(domain)?;
                self.plug_again(id, domain)?;
                let resumed = domain.resume().map_err(|e| refused("resume the VM", &e));
                resumed.map_err(|e| self.explain_start(id, domain, e))?;
            }
            VmState::Off | VmState::Crashed if self.notes.leaves_shared(id)? => {
                return Err(moving::cut_off(id));
            }
            VmState::Off | VmState::Crashed => match self.create_filtered(id, domain) {
                // Somebody else was faster.
                Err(_) if state(domain)? == VmState::Running => {}
                created => created.map_err(|e| self.explain_start(id, domain, e))?,
            },
        }
        self.own_disk(id)?;
        note_start(domain)
    }

    fn could_not_start(&self, e: &Error) -> HypervisorError {
        let mut error = refused("start the VM", e);
        if let HypervisorError::Failed(message) = &mut error
            && message.contains("Permission denied")
        {
            message.push_str(&format!(
                " (QEMU's user must be able to pass through every folder above {} and {}: chmod o+x.)",
                self.config.data_dir.display(),
                self.config.images_dir.display()
            ));
        }
        error
    }

    /// libvirt leaves a log of QEMU behind, also of a domain that is gone.
    fn remove_qemu_log(&self, id: VmId) -> std::io::Result<()> {
        let name = self.prefix.domain(id);
        folder::gone(std::fs::remove_file(format!("{QEMU_LOGS}/{name}.log")))
    }

    fn show(&self, id: VmId, domain: Option<&Domain>) -> Result<Vm, HypervisorError> {
        let Some(domain) = domain else {
            let (saved, pending) = (false, Vec::new());
            return Ok(Vm { id, state: VmState::Off, spec: None, started: None, saved, pending });
        };
        let state = state(domain)?;
        let spec = spec_in(id, domain, sys::VIR_DOMAIN_AFFECT_CONFIG)?;
        let mut vm = Vm { id, state, spec, started: None, saved: false, pending: Vec::new() };
        match state {
            VmState::Running | VmState::Paused => {
                vm.started = started(domain)?;
                let runs = spec_in(id, domain, sys::VIR_DOMAIN_AFFECT_LIVE)?;
                if let Some(wanted) = &vm.spec {
                    vm.pending = sizes::pending(domain, wanted)?;
                    vm.pending.extend(runs.iter().flat_map(|runs| pending(runs, wanted)));
                }
            }
            VmState::Off | VmState::Crashed => vm.saved = machines::is_saved(domain)?,
        }
        Ok(vm)
    }

    /// Was a VM deleted since `domain` was found? Lists and looks do not wait for deletions.
    fn is_gone(&self, connect: &Connect, id: VmId, domain: Option<&Domain>) -> bool {
        domain.is_some() && matches!(self.domain(connect, id), Ok(None))
    }
}

/// The spec that stands in a domain: as it is defined, or as it runs.
fn spec_in(id: VmId, domain: &Domain, of: u32) -> Result<Option<VmSpec>, HypervisorError> {
    let Some(text) = metadata(domain, domain::METADATA_URI, of)? else { return Ok(None) };
    let spec = domain::spec_of_metadata(&text)
        .inspect_err(|e| tracing::warn!(vm = id.0, error = e, "could not read a domain's metadata"));
    Ok(spec.ok())
}

impl Hypervisor for Libvirt {
    fn ping(&self) -> Result<(), HypervisorError> {
        self.connection.get()?.lib_version().map(drop).map_err(|e| refused("say its version", &e))
    }

    fn facts(&self) -> Result<HypervisorFacts, HypervisorError> {
        let connect = self.connection.get()?;
        let domain_type = self.domain_type(&connect);
        let mut versions =
            Versions { libvirt: version(connect.lib_version().unwrap_or_default()), ..Versions::default() };
        if domain_type != DomainType::Test {
            versions.qemu = version(connect.hyp_version().unwrap_or_default());
        }
        Ok(HypervisorFacts { domain_type, versions, storage_leases: self.lockspace().is_ok() })
    }

    fn list(&self) -> Result<Vec<Vm>, HypervisorError> {
        let connect = self.connection.get()?;
        // Folders first: a VM that is made meanwhile is found by its domain.
        let mut vms: BTreeMap<VmId, Option<Domain>> =
            self.folders.list().map_err(on_disk)?.into_iter().map(|id| (id, None)).collect();
        for domain in connect.list_all_domains(0).map_err(|e| refused("list the VMs", &e))? {
            if let Some(id) = domain.name().ok().and_then(|name| self.prefix.vm(&name)) {
                vms.insert(id, Some(domain));
            }
        }
        let show = |(id, domain): (VmId, Option<Domain>)| match self.show(id, domain.as_ref()) {
            Err(_) if self.is_gone(&connect, id, domain.as_ref()) => None,
            shown => Some(shown),
        };
        vms.into_iter().filter_map(show).collect()
    }

    fn get(&self, id: VmId) -> Result<Vm, HypervisorError> {
        let domain = self.domain(&self.connection.get()?, id)?;
        if domain.is_none() && !self.folders.of(id).exists().map_err(on_disk)? {
            return Err(HypervisorError::NotFound(id));
        }
        match self.show(id, domain.as_ref()) {
            Err(_) if self.is_gone(&self.connection.get()?, id, domain.as_ref()) => {
                Err(HypervisorError::NotFound(id))
            }
            shown => shown,
        }
    }

    fn put(&self, id: VmId, spec: &VmSpec) -> Result<Vm, HypervisorError> {
        let folder = self.folders.of(id);
        self.check(id, &folder, spec)?;
        self.notes.refuse_coming(id)?;
        let connect = self.connection.get()?;
        let before = self.domain(&connect, id)?;
        if let Some(domain) = &before
            && machines::is_saved(domain)?
            && spec_in(id, domain, sys::VIR_DOMAIN_AFFECT_CONFIG)?
                .is_some_and(|was| was.volumes != spec.volumes || was.nics != spec.nics)
        {
            return Err(HypervisorError::Conflict(format!(
                "VM {id} has saved memory, which knows its volumes and cards: start it, or power it off, first."
            )));
        }
        let running = before.as_ref().filter(|domain| domain.is_active().unwrap_or(false));
        let domain_type = self.domain_type(&connect);
        hardware::check(&connect, domain_type, &spec.hardware)?;
        let iso = self.iso(spec)?;

        folder.create().map_err(on_disk)?;
        self.mark(id, &folder, spec.failover)?;
        faults::point("put.after_folder")?;
        self.put_disk(id, &folder, spec, running)?;
        faults::point("put.after_disk")?;
        Seed::new(id, spec).put(&folder)?;
        self.put_rescue(id, &folder, spec, running.is_some())?;
        faults::point("put.after_seed")?;
        let volumes = self.claim_volumes(id, spec, before.as_ref())?;
        let pool_disk = self.pool_disk(id)?;
        self.put_keys(&connect, id)?;
        faults::point("put.after_volumes")?;
        let nics_before = self.nics_of(before.as_ref())?;
        let plan = domain::Plan {
            id,
            prefix: &self.prefix,
            node: &self.config.node_name,
            domain_type,
            spec,
            folder: &folder,
            network: &self.config.network,
            cache: self.cache,
            names: self.plane.as_ref().map(|plane| plane.names()),
            iso: iso.as_deref(),
            volumes: &volumes,
            disk: pool_disk.as_ref(),
        };
        let domain =
            connect.define_domain_xml(&domain::xml(&plan)).map_err(|e| refused("define the VM", &e))?;
        self.unmark(id, &folder, spec.failover)?;
        iso::follow(id, &domain, spec, iso.as_deref())?;
        faults::point("put.after_define")?;
        let stays_on = running.is_some() && spec.power != WantedPower::Off;
        self.put_nics(&domain, &plan, &nics_before, stays_on)?;
        faults::point("put.after_nics")?;
        if stays_on {
            self.apply_live(id, &domain, spec)?;
        }
        match spec.power {
            WantedPower::On => self.start(&connect, id, &domain)?,
            WantedPower::Off => {
                self.forget_reboot(id)?;
                power_off(&domain)?;
            }
            WantedPower::Keep => {}
        }
        faults::point("put.after_power")?;
        // The test driver plugs nothing.
        if domain.is_active().unwrap_or(false) && !self.is_test_driver() {
            volumes::converge(&domain, id, &volumes)?;
        }
        faults::point("put.after_hotplug")?;
        self.storage.release(id, &spec.volumes)?;
        self.show(id, Some(&domain))
    }

    fn delete(&self, id: VmId) -> Result<(), HypervisorError> {
        let connect = self.connection.get()?;
        if self.delete_moving(id)? {
            return self.storage.release(id, &[]);
        }
        let folder = self.folders.of(id);
        let domain = self.domain(&connect, id)?;
        let is_elsewhere = self.is_elsewhere(id, domain.as_ref())?;
        let nics = self.nics_of(domain.as_ref())?;
        if let Some(domain) = &domain {
            power_off(domain)?;
            faults::point("delete.after_destroy")?;
            undefine(domain)?;
            faults::point("delete.after_undefine")?;
        }
        self.delete_nics(id, &nics)?;
        if self.config.uri == "qemu:///system" {
            self.remove_qemu_log(id).map_err(on_disk)?;
        }
        if is_elsewhere {
            // Another node's disk stays.
            folder.remove_but_disk().map_err(on_disk)?;
            self.unmark(id, &folder, false)?;
            self.hub.tell_gone(id);
        } else if folder.exists().map_err(on_disk)? {
            self.finish_wipe(id, &Cx::unwatched())?;
            folder::gone(std::fs::remove_file(folder.disk())).map_err(on_disk)?;
            self.forget_lease(id)?;
            self.storage.remove_disk(id)?;
            faults::point("delete.after_disk")?;
            folder.remove().map_err(on_disk)?;
            self.unmark(id, &folder, false)?;
            faults::point("delete.after_folder")?;
            if domain.is_none() {
                self.hub.tell_gone(id);
            }
        }
        self.forget_move(id)?;
        self.storage.release(id, &[])
    }

    fn power(&self, id: VmId, verb: PowerVerb) -> Result<Vm, HypervisorError> {
        let connect = self.connection.get()?;
        let domain = self.whole_domain(&connect, id)?;
        let on = matches!(state(&domain)?, VmState::Running | VmState::Paused);
        if verb != PowerVerb::Reboot {
            self.forget_reboot(id)?;
        }
        match (verb, on) {
            (PowerVerb::Start, _) => self.start(&connect, id, &domain)?,
            (PowerVerb::PowerOff, _) => {
                power_off(&domain)?;
                machines::drop_saved(&domain)?;
            }
            (PowerVerb::Pause, true) => machines::pause(&domain)?,
            (PowerVerb::Resume, true) => {
                moving::refuse_held(&domain)?;
                machines::resume(&domain)?;
            }
            (PowerVerb::Shutdown, false) => {}
            // Without flags libvirt asks the guest agent if one is connected, and else presses the
            // power button.
            (PowerVerb::Shutdown, true) => unless_off(&domain, "shut the VM down", domain.shutdown())?,
            (PowerVerb::Reboot, true) => self.reboot(&connect, id, &domain)?,
            (PowerVerb::Reset, true) => reset(&domain)?,
            (PowerVerb::Reboot | PowerVerb::Reset | PowerVerb::Pause | PowerVerb::Resume, false) => {
                return Err(HypervisorError::Conflict(format!("VM {id} is off; start it instead.")));
            }
        }
        self.show(id, Some(&domain))
    }

    fn backup_begin(&self, id: VmId, wish: &Wish<'_>) -> Result<Box<dyn Taking>, HypervisorError> {
        match self.storage.disk_in_pool(id, "backups are taken")? {
            Some(disk) => in_pool::lend(self, id, disk),
            None => backup::begin(self, id, wish),
        }
    }

    fn restore_begin(&self, id: VmId, restoring: &Restoring) -> Result<Box<dyn Making>, HypervisorError> {
        match self.storage.disk_in_pool(id, "backups are restored")? {
            Some(disk) => in_pool::make(self, id, disk, restoring),
            None => restore::begin(self, id, restoring),
        }
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
        self.has_arrived(id)
    }

    fn move_finish(&self, id: VmId) -> Result<MoveArrived, HypervisorError> {
        self.adopt(id)
    }

    fn move_abort(&self, id: VmId) -> Result<(), HypervisorError> {
        self.clear_room(id)
    }

    fn console(&self, id: VmId, kind: ConsoleKind) -> Result<UnixStream, HypervisorError> {
        self.open_console(id, kind)
    }

    fn console_log(&self, id: VmId, max_bytes: usize) -> Result<Vec<u8>, HypervisorError> {
        self.read_console_log(id, max_bytes)
    }

    fn screenshot(&self, id: VmId) -> Result<Picture, HypervisorError> {
        self.take_screenshot(id)
    }

    fn send_keys(&self, id: VmId, codes: &[u32], hold: Duration) -> Result<(), HypervisorError> {
        self.press_keys(id, codes, hold)
    }

    fn orphans(&self) -> Result<Vec<Found<'_>>, HypervisorError> {
        orphans::find(self)
    }

    fn checks(&self) -> Vec<NodeCheck> {
        let mut checks = vec![self.check_accelerator()];
        checks.extend(self.config.network.check());
        if !self.is_test_driver() {
            checks.push(self.check_storage_leases());
            checks.push(aio::check());
        }
        let (ok, sentence) = consoles::ring_check();
        checks.push(NodeCheck { check: "serial logs".to_owned(), ok, needed: true, sentence });
        checks.extend(self.storage.checks());
        checks
    }

    fn ask_guest(&self, id: VmId, words: &Value, patience: Duration) -> Result<Value, HypervisorError> {
        let domain = self.whole_domain(&self.connection.get()?, id)?;
        guest::ask(&domain, id, words, patience)
    }

    fn counters(&self) -> Result<Vec<CounterSample>, HypervisorError> {
        let connect = self.connection.get()?;
        let mut stats = ffi::stats_of_active(&connect).map_err(|e| refused("read the VMs' counters", &e))?;
        if self.is_test_driver() {
            stats.iter_mut().for_each(counters::fill_in_for_test_driver);
        }
        let at = clock::now();
        let sample = |stats: &ffi::DomainStats| counters::sample(self.prefix.vm(&stats.name)?, at, stats);
        let mut samples: Vec<_> = stats.iter().filter_map(sample).collect();
        samples.sort_by_key(|sample| sample.vm);
        Ok(samples)
    }

    fn storage(&self) -> &Storage {
        &self.storage
    }

    fn volume_resize(&self, id: VolumeId, size: ByteSize) -> Result<Volume, HypervisorError> {
        self.storage.resize(id, size, |vm| {
            let domain = self.domain(&self.connection.get()?, vm)?;
            // The test driver runs nothing: nobody has the volume open.
            domain.filter(|_| !self.is_test_driver()).map_or(Ok(false), |d| volumes::grow(&d, id, size))
        })
    }

    fn snapshots(&self, id: VmId) -> Result<Vec<Snapshot>, HypervisorError> {
        self.list_snapshots(id)
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
        self.hub.subscribe()
    }

    fn tend(&self) -> Result<(), HypervisorError> {
        let done = [self.tend_marks(), self.tend_reboots(), self.tend_network(), self.start_with_node()];
        done.into_iter().collect()
    }

    fn guard(&self, lease: Arc<Lease>) {
        let _guarded_already = self.lease.set(lease);
    }

    fn marked(&self) -> Vec<VmId> {
        self.marks.all()
    }

    fn fence(&self, ids: &[VmId]) -> Vec<(VmId, Result<(), HypervisorError>)> {
        self.end_now(ids)
    }

    fn mend(&self) -> Result<(), HypervisorError> {
        self.mend_all()
    }

    fn network(&self) -> Result<NetworkState, HypervisorError> {
        self.network_state()
    }

    fn traffic(&self) -> Result<TrafficList, HypervisorError> {
        self.traffic_list()
    }

    fn standing_on(&self) -> Result<Vec<(VmId, String)>, HypervisorError> {
        Ok(disk::standing_on(&self.folders)?)
    }

    fn leases(&self, id: VmId) -> Result<LeaseList, HypervisorError> {
        self.leases_of(id)
    }

    fn put_network(&self, id: PrivateNetworkId, network: &PrivateNetwork) -> Result<(), HypervisorError> {
        self.put_private(id, network)
    }

    fn delete_network(&self, id: PrivateNetworkId) -> Result<(), HypervisorError> {
        self.delete_private(id)
    }
}
