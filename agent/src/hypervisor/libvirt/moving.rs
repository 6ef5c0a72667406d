//! Moving: room for a VM that comes, and sending one that goes.
//!
//! ```text
//! target  prepare: note ─► folder ─► disk ─► seed           finish: define ─► note gone
//! source  send:    note ─► live: libvirt and QEMU copy ─► undefined ─► folder gone ─► note gone
//!                       └► off:  the disk's file       ─┘
//! ```
//!
//! A [note](notes) says on each side what a VM is in the middle of, and goes last. Of a live move libvirt
//! itself sees to it that the VM runs on one side only: the source forgets it once the target runs it. A
//! disk that arrived as a file is noted on the target before the source hears of it and forgets its own.

pub mod notes;
mod off;
mod rewrite;

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use berth_model::agent::{
    CloneMode, Firmware, MoveArrived, MoveRoom, MoveSend, MoveSent, Nic, VmSpec, VmState,
};
use berth_model::{ByteSize, VmId};
use virt::connect::Connect;
use virt::domain::{Domain, MigrateParameters};
use virt::sys;

use self::notes::Note;
use self::rewrite::Rewrite;
use super::folder::{self, Folder};
use super::network::GuestNetwork;
use super::ops::{note_start, power_off, refused, state, undefine};
use super::seed::Seed;
use super::{Libvirt, disk, domain, ffi, tool};
use crate::hypervisor::HypervisorError;
use crate::moving::{Sockets, Way};
use crate::runs::Cx;
use crate::{faults, spec};

/// How often a move is looked at.
const STEP: Duration = Duration::from_millis(100);
/// How long libvirt may take to end a move that was cut off.
const END_PATIENCE: Duration = Duration::from_secs(60);
/// Round of copying memory after which a move with post-copy switches over.
const POST_COPY_ROUND: u64 = 2;

impl Libvirt {
    pub(super) fn make_room(&self, id: VmId, spec: &VmSpec) -> Result<MoveRoom, HypervisorError> {
        spec::check(spec)?;
        let connect = self.connection.get()?;
        let domain = self.domain(&connect, id)?;
        let folder = self.folders.of(id);
        check_movable(id, spec)?;
        let comes = match self.notes.get(id)? {
            Some(Note::Coming { arrived, .. }) => arrived.is_some() || domain.is_some(),
            _ if domain.is_some() || folder.exists()? => {
                return Err(HypervisorError::Conflict(format!("VM {id} is on this node already.")));
            }
            _ => false,
        };
        if !comes {
            let image = self.images.find(&spec.image.sha256, spec.disk)?;
            self.iso(spec)?;
            self.check_nics(id, &spec.nics)?;
            check_memory(spec.memory)?;
            disk::check_room(&self.config.data_dir, spec.disk)?;
            self.storage.check_room_for_disk(spec.disk)?;
            self.notes.put(id, &Note::Coming { spec: Box::new(spec.clone()), arrived: None })?;
            faults::point("move.after_note")?;
            folder.create()?;
            // Always an empty one: what an earlier try left in it would shine through.
            folder::gone(std::fs::remove_file(folder.disk()))?;
            if spec.disk_mode == CloneMode::Copy {
                disk::note_image(&folder, &spec.image.sha256)?;
            }
            folder.put(&folder.disk(), |new| match spec.disk_mode {
                CloneMode::Backing => disk::create(new, &image, spec.disk),
                CloneMode::Copy => empty(new, spec.disk),
            })?;
            Seed::new(id, spec).put(&folder)?;
            faults::point("move.after_room")?;
        }
        self.ensure_network(&connect)?;
        self.filter_coming(id, &spec.nics)?;
        Ok(MoveRoom {
            domain_type: self.domain_type(&connect),
            domain: self.prefix.domain(id),
            folder: folder.path().to_string_lossy().into_owned(),
            images: self.images.folder().to_string_lossy().into_owned(),
            bridge: self.bridge().map(str::to_owned),
        })
    }

    /// The filter knows the cards of a VM before it comes: its first frame passes it already.
    fn filter_coming(&self, id: VmId, nics: &[Nic]) -> Result<(), HypervisorError> {
        let Some(plane) = self.plane()? else { return Ok(()) };
        plane.tell(id, Some(nics));
        plane.converge()?;
        plane.prepare()
    }

    fn bridge(&self) -> Option<&str> {
        match &self.config.network {
            GuestNetwork::Nat { bridge, .. } | GuestNetwork::Bridge { bridge } => Some(bridge),
            GuestNetwork::User | GuestNetwork::Routed => None,
        }
    }

    pub(super) fn arrived(&self, id: VmId) -> Result<bool, HypervisorError> {
        match self.notes.get(id)? {
            Some(Note::Coming { arrived: Some(_), .. }) => Ok(true),
            Some(Note::Coming { .. }) => match self.domain(&self.connection.get()?, id)? {
                // One that is still coming has no definition of its own.
                Some(domain) => domain.is_persistent().map_err(|e| refused("look at the VM", &e)),
                None => Ok(false),
            },
            _ => Ok(false),
        }
    }

    pub(super) fn receive(&self, id: VmId, from: &UnixStream) -> Result<(), HypervisorError> {
        let Some(Note::Coming { spec, arrived }) = self.notes.get(id)? else {
            return Err(HypervisorError::Conflict(format!("VM {id} is not awaited on this node.")));
        };
        off::take(from, &self.folders.of(id), &self.config.data_dir, arrived, |stamp| {
            self.notes.put(id, &Note::Coming { spec, arrived: Some(stamp) })
        })
    }

    pub(super) fn adopt(&self, id: VmId) -> Result<MoveArrived, HypervisorError> {
        let connect = self.connection.get()?;
        let spec = match self.notes.get(id)? {
            Some(Note::Coming { spec, .. }) => spec,
            _ => {
                let domain = self.whole_domain(&connect, id)?;
                return Ok(MoveArrived { vm: self.show(id, Some(&domain))?, pause_ms: pause_ms(&domain) });
            }
        };
        if !self.arrived(id)? {
            return Err(HypervisorError::Conflict(format!("VM {id} has not arrived on this node.")));
        }
        let folder = self.folders.of(id);
        if self.domain(&connect, id)?.is_none() && spec.disk_mode == CloneMode::Backing {
            let image = self.images.find(&spec.image.sha256, spec.disk)?;
            let args = ["rebase", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b"].map(AsRef::as_ref);
            let disk = folder.disk();
            let files = [image.as_os_str(), disk.as_os_str()];
            tool::run("qemu-img", "qemu-utils", args.into_iter().chain(files))?;
        }
        let iso = self.iso(&spec)?;
        let plan = domain::Plan {
            id,
            prefix: &self.prefix,
            node: &self.config.node_name,
            domain_type: self.domain_type(&connect),
            spec: &spec,
            folder: &folder,
            network: &self.config.network,
            cache: self.cache,
            names: self.plane.as_ref().map(|plane| plane.names()),
            iso: iso.as_deref(),
            volumes: &[],
        };
        let defined = connect.define_domain_xml(&domain::xml(&plan));
        let domain = defined.map_err(|e| refused("define the VM", &e))?;
        self.set_autostart(&connect, &domain, spec.autostart)?;
        faults::point("move.after_adopt")?;
        let on = matches!(state(&domain)?, VmState::Running | VmState::Paused);
        self.put_nics(&domain, &plan, &[], on)?;
        if on {
            note_start(&domain)?;
        }
        self.forget_move(id)?;
        Ok(MoveArrived { vm: self.show(id, Some(&domain))?, pause_ms: pause_ms(&domain) })
    }

    pub(super) fn clear_room(&self, id: VmId) -> Result<(), HypervisorError> {
        let Some(Note::Coming { spec, .. }) = self.notes.get(id)? else { return Ok(()) };
        if self.arrived(id)? {
            return Err(HypervisorError::Conflict(format!(
                "VM {id} has arrived on this node: finish its move, or delete it."
            )));
        }
        let connect = self.connection.get()?;
        if let Some(domain) = self.domain(&connect, id)? {
            // It vanishes with its run, since it has no definition.
            power_off(&domain).or_else(|e| self.domain(&connect, id)?.map_or(Ok(()), |_| Err(e)))?;
        }
        faults::point("move.after_clear")?;
        self.delete_nics(id, &spec.nics)?;
        self.forget_files(id)?;
        self.hub.tell_gone(id);
        Ok(())
    }

    /// Removes all that is there of a VM without a domain; the note last.
    fn forget_files(&self, id: VmId) -> Result<(), HypervisorError> {
        if self.config.uri == "qemu:///system" {
            self.remove_qemu_log(id)?;
        }
        self.folders.of(id).remove()?;
        faults::point("move.after_left")?;
        self.forget_move(id)
    }

    /// Nothing says any more that a VM comes or leaves.
    pub(super) fn forget_move(&self, id: VmId) -> Result<(), HypervisorError> {
        Sockets::clear(&self.prefix.domain(id))?;
        self.notes.remove(id)
    }

    pub(super) fn send(
        &self,
        id: VmId,
        order: &MoveSend,
        way: &Way,
        cx: &Cx,
    ) -> Result<MoveSent, HypervisorError> {
        let connect = self.connection.get()?;
        let leaving = matches!(self.notes.get(id)?, Some(Note::Leaving));
        let mut nics = Vec::new();
        if let Some(domain) = self.domain(&connect, id)? {
            end_move(&domain)?;
            nics = self.nics_of(Some(&domain))?;
        }
        let sent = match self.domain(&connect, id)? {
            Some(domain) => {
                self.check_order(id, order)?;
                let vm = self.show(id, Some(&domain))?;
                if vm.saved {
                    let message =
                        format!("VM {id} cannot move: its saved memory would stay behind. Start it first.");
                    return Err(HypervisorError::Conflict(message));
                }
                if let Some(spec) = vm.spec {
                    check_movable(id, &spec)?;
                }
                // Says why it cannot be reached, before anything is touched.
                way.has_arrived()?;
                self.notes.put(id, &Note::Leaving)?;
                faults::point("move.after_leaving")?;
                self.send_domain(id, &connect, &domain, order, way, cx)?
            }
            // libvirt forgets a domain that has left.
            None if leaving => MoveSent { live: true, sent_bytes: 0 },
            None if !self.folders.of(id).exists()? && way.has_arrived()? => {
                MoveSent { live: true, sent_bytes: 0 }
            }
            None => {
                return Err(self.whole_domain(&connect, id).err().unwrap_or(HypervisorError::NotFound(id)));
            }
        };
        faults::point("move.after_copy")?;
        if let Some(domain) = self.domain(&connect, id)? {
            undefine(&domain)?;
        }
        self.delete_nics(id, &nics)?;
        faults::point("move.after_undefine")?;
        self.forget_files(id)?;
        Ok(sent)
    }

    fn send_domain(
        &self,
        id: VmId,
        connect: &Connect,
        domain: &Domain,
        order: &MoveSend,
        way: &Way,
        cx: &Cx,
    ) -> Result<MoveSent, HypervisorError> {
        let folder = self.folders.of(id);
        let live = matches!(state(domain)?, VmState::Running | VmState::Paused);
        let sent = match live {
            true => self.send_live(domain, &folder, order, way, cx),
            false => off::send(&folder.disk(), way, cx),
        };
        match sent {
            Ok(sent_bytes) => Ok(MoveSent { live, sent_bytes }),
            // It failed after all was done.
            Err(_) if live && self.domain(connect, id)?.is_none() => Ok(MoveSent { live, sent_bytes: 0 }),
            Err(e) => {
                self.forget_move(id)?;
                cx.check()?;
                Err(e)
            }
        }
    }

    /// Refuses what cannot go well, before anything is touched.
    fn check_order(&self, id: VmId, order: &MoveSend) -> Result<(), HypervisorError> {
        let room = &order.to.room;
        let ours = self.domain_type(&self.connection.get()?);
        let why = if room.domain_type != ours {
            format!("the other node runs guests by {:?}, this one by {ours:?}", room.domain_type)
        } else if room.bridge.is_some() != self.bridge().is_some() {
            "one of the two nodes has no bridge for guests".to_owned()
        } else if room.domain != self.prefix.domain(id) && !self.is_test_driver() {
            "the two nodes name their domains differently (libvirt.prefix)".to_owned()
        } else {
            return Ok(());
        };
        Err(HypervisorError::Conflict(format!("VM {id} cannot move there: {why}.")))
    }

    fn send_live(
        &self,
        domain: &Domain,
        folder: &Folder,
        order: &MoveSend,
        way: &Way,
        cx: &Cx,
    ) -> Result<u64, HypervisorError> {
        let room = &order.to.room;
        let sockets = way.sockets(&room.domain)?;
        let images = self.images.folder();
        let rewrite = Rewrite { folder: folder.path(), images: &images, bridge: self.bridge(), room };
        let described = |flags: u32| {
            let flags = flags | sys::VIR_DOMAIN_XML_MIGRATABLE | sys::VIR_DOMAIN_XML_SECURE;
            let xml = domain.xml_desc(flags).map_err(|e| refused("describe the VM", &e))?;
            rewrite.apply(&xml).map_err(HypervisorError::Failed)
        };
        let unix = |path: std::path::PathBuf| format!("unix://{}", path.display());
        let parameters = MigrateParameters {
            dest_xml: Some(described(0)?),
            persist_xml: Some(described(sys::VIR_DOMAIN_XML_INACTIVE)?),
            uri: Some(unix(sockets.memory())),
            disks_uri: Some(unix(sockets.disks())),
            migrate_disks: vec!["vda".to_owned()],
            bandwidth: order.bandwidth_mib_s.map(u64::from),
            ..MigrateParameters::default()
        };
        let flags = [
            (true, sys::VIR_MIGRATE_LIVE | sys::VIR_MIGRATE_PEER2PEER),
            (true, sys::VIR_MIGRATE_PERSIST_DEST | sys::VIR_MIGRATE_UNDEFINE_SOURCE),
            (true, sys::VIR_MIGRATE_NON_SHARED_INC | sys::VIR_MIGRATE_ABORT_ON_ERROR),
            (order.auto_converge, sys::VIR_MIGRATE_AUTO_CONVERGE),
            (order.post_copy, sys::VIR_MIGRATE_POSTCOPY),
            (order.allow_unsafe, sys::VIR_MIGRATE_UNSAFE),
        ];
        let flags = flags.iter().filter(|(wanted, _)| *wanted).fold(0, |all, (_, flag)| all | flag);
        let driver = format!("qemu+unix:///system?socket={}", sockets.driver().display());

        cx.phase("Copy disk and memory", 0);
        std::thread::scope(|scope| {
            let copy = scope.spawn(|| domain.migrate_to_uri3(Some(&driver), parameters, flags));
            let mut watch = Watch { post_copy: order.post_copy, ..Watch::default() };
            while !copy.is_finished() {
                watch.look(domain, cx);
                std::thread::sleep(STEP);
            }
            match copy.join() {
                Ok(Ok(())) => Ok(watch.sent),
                Ok(Err(e)) => Err(refused("move the VM", &e)),
                Err(_) => Err(HypervisorError::Failed("Moving the VM broke off.".to_owned())),
            }
        })
    }
}

/// Watches a live move: progress, cancel, switch-over.
#[derive(Default)]
struct Watch {
    post_copy: bool,
    total: u64,
    sent: u64,
}

impl Watch {
    fn look(&mut self, domain: &Domain, cx: &Cx) {
        if cx.is_cancelled() {
            // An error says that the move has not begun yet or is over; it is asked again in the former case.
            let _not_under_way = ffi::abort_job(domain);
        }
        let Ok(stats) = ffi::job_stats(domain, 0) else { return };
        let number = |name: &str| stats.iter().find(|(key, _)| key == name).map(|(_, value)| *value);
        let (Some(total), Some(sent)) = (number("data_total"), number("data_processed")) else { return };
        if total != self.total {
            cx.phase("Copy disk and memory", total);
            self.total = total;
        }
        self.sent = sent.max(self.sent);
        cx.done(self.sent.min(total));
        if self.post_copy && number("memory_iteration").is_some_and(|round| round >= POST_COPY_ROUND) {
            self.post_copy = ffi::start_post_copy(domain).is_err();
        }
    }
}

/// Refuses a VM of which more than its disk would have to come along.
fn check_movable(id: VmId, spec: &VmSpec) -> Result<(), HypervisorError> {
    let why = if spec.rescue.is_some() {
        "it is in rescue"
    } else if !spec.volumes.is_empty() {
        "its volumes would stay behind; detach them first"
    } else if spec.hardware.tpm {
        "its TPM's state would stay behind"
    } else if spec.hardware.firmware != Firmware::Bios {
        "what its UEFI remembers would stay behind"
    } else {
        return Ok(());
    };
    Err(HypervisorError::Conflict(format!("VM {id} cannot move: {why}.")))
}

/// Ends a move of which the agent was cut off: libvirt may not have noticed yet.
fn end_move(domain: &Domain) -> Result<(), HypervisorError> {
    let until = Instant::now() + END_PATIENCE;
    while ffi::job_stats(domain, 0).is_ok_and(|stats| !stats.is_empty()) {
        let _over = ffi::abort_job(domain);
        if Instant::now() > until {
            return Err(HypervisorError::Conflict(
                "libvirt is still busy with the last move of this VM.".to_owned(),
            ));
        }
        std::thread::sleep(STEP);
    }
    Ok(())
}

/// An empty disk that stands on no image.
fn empty(path: &Path, size: ByteSize) -> Result<(), HypervisorError> {
    let size = size.bytes().to_string();
    let args = ["create", "-q", "-f", "qcow2"].map(AsRef::as_ref).into_iter();
    tool::run("qemu-img", "qemu-utils", args.chain([path.as_os_str(), size.as_ref()])).map(drop)
}

/// What libvirt measured of the switch-over to this node.
fn pause_ms(domain: &Domain) -> Option<u64> {
    let flags = sys::VIR_DOMAIN_JOB_STATS_COMPLETED | sys::VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED;
    let stats = ffi::job_stats(domain, flags).ok()?;
    stats.into_iter().find(|(name, _)| name == "downtime").map(|(_, ms)| ms)
}

/// Refuses a VM for which there is no memory.
fn check_memory(wanted: ByteSize) -> Result<(), HypervisorError> {
    let meminfo = std::fs::read_to_string("/proc/meminfo")?;
    let free = available(&meminfo).unwrap_or(wanted);
    if free >= wanted {
        return Ok(());
    }
    Err(HypervisorError::Lacking(format!(
        "The node has no memory for this VM: {} MiB are free, and {} MiB must be.",
        free.as_mib(),
        wanted.as_mib()
    )))
}

fn available(meminfo: &str) -> Option<ByteSize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(ByteSize(kib.saturating_mul(1024)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_read() {
        let _proof = crate::proof::pure(&["moving.prepare"]);
        let meminfo = "MemTotal:  2048 kB\nMemFree:  1 kB\nMemAvailable:    1536 kB\n";
        assert_eq!(available(meminfo), Some(ByteSize(1536 * 1024)));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
        assert!(check_memory(ByteSize::mib(1)).is_ok());
        assert!(matches!(check_memory(ByteSize::gib(1 << 20)), Err(HypervisorError::Lacking(_))));
    }
}
