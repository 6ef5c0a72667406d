//! Backups of disks in pools that take snapshots by themselves.
//!
//! ```text
//! backup:  freeze ─► snapshot ─► thaw ─► lent by `qemu-nbd` ─► drop it
//! restore: a new disk beside the old one, written through `qemu-nbd` ─► takes its place
//! ```
//!
//! Each backup is a full one. A snapshot of a backup that was cut off goes as that is mended, or with the next.

use std::path::Path;

use berth_model::VmId;
use berth_model::agent::VmState;

use super::Libvirt;
use super::backup::Place;
use super::lender::{Lend, Lender};
use super::mend::mend_frozen;
use super::ops::{on_disk, refused, state};
use crate::backups::disk::{Making, Restoring, Source, Taken, Taking, Target};
use crate::backups::nbd::Nbd;
use crate::hypervisor::HypervisorError;
use crate::storage::pool::InPool;

/// The snapshot that a backup is read from. No caller's: their names have no dot.
const SHOT: &str = "x.backup";
/// How the disk lies there.
const FORMAT: &str = "raw";

/// Lends a VM's disk for a backup.
pub fn lend(libvirt: &Libvirt, id: VmId, disk: InPool) -> Result<Box<dyn Taking>, HypervisorError> {
    let domain = libvirt.whole_domain(&libvirt.connection.get()?, id)?;
    let folder = libvirt.folders.of(id);
    let is_on = !libvirt.is_test_driver() && domain.is_active().map_err(|e| refused("look at the VM", &e))?;
    let work = libvirt.at_work.begin(id);
    if is_on {
        mend_frozen(&domain, &folder)?;
    }
    drop_shot(&disk)?;
    let place = Place::make(&folder, work)?;
    let taken = Taken {
        since: None,
        mark: None,
        full_because: Some("Of a disk in Ceph each backup is a full one.".to_owned()),
        frozen: false,
        image: disk.image.clone(),
    };
    let shot = Shot { disk, is_there: true };
    let mut lent = Lent { open: None, shot, taken, place };
    let running = is_on.then_some(&domain);
    let frozen = libvirt.disk(id, &folder, "backups are taken", running)?.take_frozen(|_| SHOT.to_owned())?;
    lent.taken.frozen = is_on && frozen;
    let InPool { data, .. } = &lent.shot.disk;
    let readable = lent.shot.disk.shots().readable(data, Some(SHOT))?;
    lent.open = Some(Open::start(&readable, lent.place.path(), &Lend::Read(None))?);
    Ok(Box::new(lent))
}

/// Drops the snapshot of a backup that was cut off.
pub fn mend(libvirt: &Libvirt, id: VmId) -> Result<(), HypervisorError> {
    match libvirt.storage.disk_in_pool(id, "backups are taken") {
        Ok(Some(disk)) => drop_shot(&disk),
        _ => Ok(()),
    }
}

fn drop_shot(disk: &InPool) -> Result<(), HypervisorError> {
    if disk.shots().all(&disk.data)?.iter().any(|shot| shot.name == SHOT) {
        disk.shots().drop_one(&disk.data, SHOT)?;
    }
    Ok(())
}

/// A disk that a `qemu-nbd` has open for us. It ends in order: of a client that was killed Ceph says for half a
/// minute that it has the image open, which nobody can remove meanwhile.
struct Open {
    nbd: Option<Nbd>,
    lender: Option<Lender>,
}

impl Open {
    fn start(disk: &str, folder: &Path, lend: &Lend<'_>) -> Result<Self, HypervisorError> {
        let (lender, nbd) = Lender::start(FORMAT, disk.as_ref(), folder, lend)?;
        Ok(Self { nbd: Some(nbd), lender: Some(lender) })
    }

    fn nbd(&mut self) -> &mut Nbd {
        self.nbd.as_mut().expect("a disk is not used after it was closed")
    }

    fn end(&mut self) -> Result<(), HypervisorError> {
        self.nbd = None;
        self.lender.take().map_or(Ok(()), Lender::end)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Err(e) = self.end() {
            tracing::warn!(error = %e, "a lent disk was not closed in order");
        }
    }
}

/// A disk as it was at one moment.
struct Lent {
    // The order of the end: the disk, the snapshot, the folder.
    open: Option<Open>,
    shot: Shot,
    taken: Taken,
    place: Place,
}

/// The snapshot, which goes with this.
struct Shot {
    disk: InPool,
    is_there: bool,
}

impl Taking for Lent {
    fn source(&mut self) -> &mut dyn Source {
        self.open.as_mut().expect("a disk is not read after it was closed").nbd()
    }

    fn taken(&self) -> &Taken {
        &self.taken
    }

    fn close(&mut self) -> Result<(), HypervisorError> {
        self.open.take().map_or(Ok(()), |mut open| open.end())?;
        drop_shot(&self.shot.disk)?;
        self.shot.is_there = false;
        Ok(())
    }

    fn keep(self: Box<Self>) -> Result<(), HypervisorError> {
        Ok(())
    }
}

impl Drop for Shot {
    fn drop(&mut self) {
        if self.is_there
            && let Err(e) = drop_shot(&self.disk)
        {
            tracing::warn!(error = %e, "a backup's snapshot could not be dropped yet");
        }
    }
}

/// Begins a disk that will take the place of the one there is.
pub fn make(
    libvirt: &Libvirt,
    id: VmId,
    disk: InPool,
    restoring: &Restoring,
) -> Result<Box<dyn Making>, HypervisorError> {
    let domain = libvirt.whole_domain(&libvirt.connection.get()?, id)?;
    if !matches!(state(&domain)?, VmState::Off | VmState::Crashed) {
        return Err(HypervisorError::Conflict(format!("VM {id} is on; stop it first.")));
    }
    if restoring.size > disk.data.size {
        return Err(HypervisorError::Conflict(format!(
            "The backup is of a disk of {}, and VM {id} has one of {}: let it grow first.",
            restoring.size, disk.data.size
        )));
    }
    let new = New { disk, is_done: false };
    let writable = libvirt.storage.begin_restored(id, &new.disk)?;
    let folder = libvirt.folders.of(id);
    let open = Open::start(&writable, folder.path(), &Lend::Write)?;
    Ok(Box::new(Written { open, new }))
}

/// A disk that is being written.
struct Written {
    // The order of the end.
    open: Open,
    new: New,
}

/// The new disk; gone unless it is finished.
struct New {
    disk: InPool,
    is_done: bool,
}

impl Making for Written {
    fn target(&mut self) -> &mut dyn Target {
        self.open.nbd()
    }

    fn finish(self: Box<Self>) -> Result<(), HypervisorError> {
        let Self { mut open, mut new } = *self;
        open.nbd().flush().map_err(on_disk)?;
        open.end()?;
        new.is_done = true;
        new.disk.shots().put_new(&new.disk.data)
    }
}

impl Drop for New {
    fn drop(&mut self) {
        if !self.is_done
            && let Err(e) = self.disk.shots().drop_new(&self.disk.data)
        {
            tracing::warn!(error = %e, "an unfinished disk could not be removed");
        }
    }
}
