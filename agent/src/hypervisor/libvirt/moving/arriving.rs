//! The target's side of a move: room for a VM that comes, and taking it over.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use berth_model::agent::{CloneMode, MoveArrived, MovePrepare, MoveRoom, Nic, VmSpec, VmState};
use berth_model::{ByteSize, Timestamp, VmId};
use virt::domain::Domain;
use virt::sys;

use super::super::folder::{self, Folder};
use super::super::ops::{note_start, power_off, refused, state};
use super::super::seed::Seed;
use super::super::{Libvirt, disk, domain, ffi, hardware, tool};
use super::notes::Note;
use super::off::{self, Parcel, Part};
use super::{DECISION_PATIENCE, STEP, check_movable, cut_off};
use crate::hypervisor::HypervisorError;
use crate::storage::disks;
use crate::{faults, spec};

impl Libvirt {
    pub(in super::super) fn make_room(
        &self,
        id: VmId,
        asked: &MovePrepare,
        until: Timestamp,
    ) -> Result<MoveRoom, HypervisorError> {
        let spec = &asked.spec;
        spec::check(spec)?;
        let connect = self.connection.get()?;
        let domain = self.domain(&connect, id)?;
        let folder = self.folders.of(id);
        check_movable(id, spec)?;
        let in_pool = disks::pool_of(spec).is_some();
        let noted = self.notes.get(id)?;
        let (comes, shared) = match &noted {
            Some(Note::Coming { arrived, shared, .. }) => (arrived.is_some() || domain.is_some(), *shared),
            _ if domain.is_some() || folder.exists()? => {
                return Err(HypervisorError::Conflict(format!("VM {id} is on this node already.")));
            }
            _ => (false, in_pool || self.shares_disks() && folder.disk().try_exists()?),
        };
        let volumes = if comes {
            self.storage.placed(id)?
        } else {
            hardware::check(&connect, self.domain_type(&connect), &spec.hardware)?;
            self.check_disk_place(id, spec, shared)?;
            self.iso(spec)?;
            self.check_nics(id, &spec.nics)?;
            check_memory(spec.memory)?;
            self.storage.check_places(id, &asked.volumes)?;
            self.check_leases(id, spec)?;
            self.admit_marked(id, spec.failover)?;
            let note = Note::Coming { spec: Box::new(spec.clone()), until, shared, arrived: None };
            self.notes.put(id, &note)?;
            faults::point("move.after_note")?;
            folder.create()?;
            self.mark(id, &folder, spec.failover)?;
            if in_pool {
                self.storage.place_disk(id, spec)?;
            } else if !shared {
                self.place_empty_disk(&folder, spec)?;
            }
            Seed::new(id, spec).put(&folder)?;
            let volumes = self.storage.place(id, &asked.volumes)?;
            faults::point("move.after_room")?;
            volumes
        };
        if let Some(Note::Coming { spec, shared, arrived, .. }) = noted {
            self.notes.put(id, &Note::Coming { spec, until, shared, arrived })?;
        }
        self.put_keys(&connect, id)?;
        self.pool_disk(id)?;
        self.ensure_network(&connect)?;
        self.filter_coming(id, &spec.nics)?;
        Ok(MoveRoom {
            domain_type: self.domain_type(&connect),
            domain: self.prefix.domain(id),
            folder: folder.path().to_string_lossy().into_owned(),
            disk: self.disk_place(id)?.to_string_lossy().into_owned(),
            images: self.images.folder().to_string_lossy().into_owned(),
            bridge: self.bridge().map(str::to_owned),
            shared: if shared { self.disk_storage(id)? } else { None },
            volumes,
        })
    }

    /// Refuses a disk for which there is no place, or that is not where it should be, before anything is touched.
    fn check_disk_place(&self, id: VmId, spec: &VmSpec, shared: bool) -> Result<(), HypervisorError> {
        if disks::pool_of(spec).is_some() {
            return self.storage.check_disk_place(id, spec);
        }
        self.images.find(&spec.image.sha256, spec.disk)?;
        if shared {
            return Ok(());
        }
        disk::check_room(self.folders.disks(), spec.disk)?;
        self.storage.check_room_for_disk(spec.disk)
    }

    /// Always an empty one: what an earlier try left in it would shine through.
    fn place_empty_disk(&self, folder: &Folder, spec: &VmSpec) -> Result<(), HypervisorError> {
        folder::gone(std::fs::remove_file(folder.disk()))?;
        if spec.disk_mode == CloneMode::Copy {
            disk::note_image(folder, &spec.image.sha256)?;
        }
        folder.put(&folder.disk(), |new| match spec.disk_mode {
            CloneMode::Backing => {
                disk::create(new, &self.images.find(&spec.image.sha256, spec.disk)?, spec.disk)
            }
            CloneMode::Copy => empty(new, spec.disk),
        })
    }

    /// Rooms in which no VM has arrived, and until when they are kept.
    pub(in super::super) fn rooms(&self) -> Result<Vec<(VmId, Timestamp)>, HypervisorError> {
        let mut rooms = Vec::new();
        for id in self.notes.all()? {
            if let Some(Note::Coming { until, .. }) = self.notes.get(id)?
                && !self.arrived(id)?
            {
                rooms.push((id, until));
            }
        }
        Ok(rooms)
    }

    /// The filter knows the cards of a VM before it comes: its first frame passes it already.
    fn filter_coming(&self, id: VmId, nics: &[Nic]) -> Result<(), HypervisorError> {
        let Some(plane) = self.plane()? else { return Ok(()) };
        plane.tell(id, Some(nics));
        plane.converge()?;
        plane.prepare()
    }

    fn arrived(&self, id: VmId) -> Result<bool, HypervisorError> {
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

    /// The same for its source, which acts on the answer: so it must be final. libvirt drops a VM of which
    /// the way was cut, unless it runs it already.
    pub(in super::super) fn has_arrived(&self, id: VmId) -> Result<bool, HypervisorError> {
        let until = Instant::now() + DECISION_PATIENCE;
        loop {
            if self.arrived(id)? {
                return Ok(true);
            }
            if self.domain(&self.connection.get()?, id)?.is_none() {
                // Between the two looks it may have become whole.
                return self.arrived(id);
            }
            if Instant::now() > until {
                return Err(HypervisorError::Unavailable(format!("VM {id} is still arriving.")));
            }
            std::thread::sleep(STEP);
        }
    }

    pub(in super::super) fn receive(&self, id: VmId, from: &UnixStream) -> Result<(), HypervisorError> {
        let Some(Note::Coming { spec, until, shared, arrived }) = self.notes.get(id)? else {
            return Err(HypervisorError::Conflict(format!("VM {id} is not awaited on this node.")));
        };
        let (folder, volumes) = (self.folders.of(id), self.storage.placed(id)?);
        // It came live: what its source still has is a shadow.
        let is_here = arrived.is_none() && self.arrived(id)?;
        let have = |parcel: &Parcel| is_here || arrived.as_ref() == Some(parcel);
        let check = |parcel: &Parcel| {
            let bytes = parcel.files.iter().map(|file| file.bytes).sum();
            disk::check_room(self.folders.disks(), ByteSize(bytes))
        };
        let put = |part: Part, fill: &mut dyn FnMut(&Path) -> Result<(), HypervisorError>| {
            let path = match part {
                Part::Disk if !shared => folder.disk(),
                Part::Nvram => folder.nvram(),
                Part::Volume(volume) => match volumes.iter().find(|placed| placed.volume == volume) {
                    Some(placed) if placed.shared.is_none() => PathBuf::from(&placed.file),
                    _ => return Err(HypervisorError::Conflict(format!("Volume {volume} is not awaited."))),
                },
                Part::Disk => return Err(HypervisorError::Conflict("The disk is here already.".to_owned())),
            };
            let image = match part {
                Part::Disk if spec.disk_mode == CloneMode::Backing => {
                    Some(self.images.find(&spec.image.sha256, spec.disk)?)
                }
                Part::Volume(volume) => self.storage.image_below(volume)?,
                Part::Disk | Part::Nvram => None,
            };
            folder.put(&path, |new| {
                fill(new)?;
                image.map_or(Ok(()), |image| stand_on(new, &image))
            })
        };
        off::take(from, have, check, put, |parcel| {
            if !matches!(self.notes.get(id)?, Some(Note::Coming { .. })) {
                return Err(HypervisorError::Conflict(format!("VM {id} is not awaited any more.")));
            }
            let arrived = parcel.whole.then_some(parcel);
            self.notes.put(id, &Note::Coming { spec: spec.clone(), until, shared, arrived })
        })
    }

    /// Leaves nothing of a VM that comes; says whether there is nothing more to be done. One that has arrived
    /// is deleted like any other, and one that leaves may have its disk on the other node already.
    pub(in super::super) fn delete_moving(&self, id: VmId) -> Result<bool, HypervisorError> {
        match self.notes.get(id)? {
            Some(Note::Coming { .. }) if !self.arrived(id)? => self.clear_room(id).map(|()| true),
            Some(Note::Coming { .. }) => self.storage.arrived(id).map(|()| false),
            Some(Note::Leaving { shared: true }) => Err(cut_off(id)),
            _ => Ok(false),
        }
    }

    pub(in super::super) fn adopt(&self, id: VmId) -> Result<MoveArrived, HypervisorError> {
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
        let before = self.domain(&connect, id)?;
        self.storage.arrived(id)?;
        self.own_disk(id)?;
        faults::point("move.after_volumes")?;
        let iso = self.iso(&spec)?;
        let volumes = self.claim_volumes(id, &spec, before.as_ref())?;
        let pool_disk = self.pool_disk(id)?;
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
            volumes: &volumes,
            disk: pool_disk.as_ref(),
        };
        let defined = connect.define_domain_xml(&domain::xml(&plan));
        let domain = defined.map_err(|e| refused("define the VM", &e))?;
        faults::point("move.after_adopt")?;
        let on = matches!(state(&domain)?, VmState::Running | VmState::Paused);
        self.put_nics(&domain, &plan, &[], on)?;
        if on {
            note_start(&domain)?;
        }
        self.forget_move(id)?;
        Ok(MoveArrived { vm: self.show(id, Some(&domain))?, pause_ms: pause_ms(&domain) })
    }

    pub(in super::super) fn clear_room(&self, id: VmId) -> Result<(), HypervisorError> {
        let Some(Note::Coming { spec, shared, .. }) = self.notes.get(id)? else { return Ok(()) };
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
        self.storage.clear_places(id)?;
        self.forget_files(id, shared)?;
        self.hub.tell_gone(id);
        Ok(())
    }
}

/// Lets a disk that came from elsewhere stand on the same image here.
fn stand_on(disk: &Path, image: &Path) -> Result<(), HypervisorError> {
    let args = ["rebase", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b"].map(AsRef::as_ref);
    let files = [image.as_os_str(), disk.as_os_str()];
    tool::run("qemu-img", "qemu-utils", args.into_iter().chain(files)).map(drop)
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
