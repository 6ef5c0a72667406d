//! Making a VM's disk anew from a backup.
//!
//! The new disk stands on the image that the old one stood on, and is written beside it, through
//! `qemu-nbd`; then it takes its place in one step.

use std::fs::{self, File};
use std::path::PathBuf;

use berth_model::agent::{CloneMode, VmState};
use berth_model::{ByteSize, FieldError, VmId};
use virt::domain::Domain;
use virt::sys;

use super::backup::forget_marks;
use super::disk::{self, Overlay};
use super::folder::{Folder, gone};
use super::lender::{Lend, Lender};
use super::machines::is_saved;
use super::ops::{on_disk, state};
use super::{Libvirt, spec_in};
use crate::backups::disk::{Making, Restoring, Target};
use crate::backups::nbd::Nbd;
use crate::hypervisor::HypervisorError;

/// Begins a disk.
pub fn begin(libvirt: &Libvirt, id: VmId, restoring: &Restoring) -> Result<Box<dyn Making>, HypervisorError> {
    if id.0 <= 0 {
        let messages = vec!["A VM's number is 1 or more.".to_owned()];
        return Err(HypervisorError::Invalid(FieldError { name: "vm".to_owned(), messages }));
    }
    let domain = libvirt.domain(&libvirt.connection.get()?, id)?;
    if let Some(domain) = &domain
        && !matches!(state(domain)?, VmState::Off | VmState::Crashed)
    {
        return Err(HypervisorError::Conflict(format!("VM {id} is on; stop it first.")));
    }
    if let Some(domain) = &domain
        && is_saved(domain)?
    {
        let message = format!(
            "VM {id} has saved memory, which belongs to its disk as it is: start it, or power it off, first."
        );
        return Err(HypervisorError::Conflict(message));
    }
    libvirt.refuse_elsewhere(id, domain.as_ref())?;
    let mode = match &domain {
        Some(domain) => spec_in(id, domain, sys::VIR_DOMAIN_AFFECT_CONFIG)?.map(|spec| spec.disk_mode),
        None => None,
    };
    let mode = mode.unwrap_or_default();
    let folder = libvirt.folders.of(id);
    let image = libvirt.images.find(&restoring.image, restoring.size)?;
    let is_new = !folder.exists().map_err(on_disk)? && !folder.disk().exists();
    disk::check_room(libvirt.folders.disks(), ByteSize(0))?;
    folder.create().map_err(on_disk)?;
    let files = Files {
        folder: folder.clone(),
        new: folder.disk_folder().join("disk.qcow2.new"),
        is_new,
        is_done: false,
    };
    // A disk never shrinks: one that grew since the backup stays as large.
    let before = Overlay::read(&folder.disk())?.map_or(ByteSize(0), |overlay| overlay.size);
    disk::make(&files.new, &image, restoring.size.max(before), mode)?;
    let (lender, nbd) = Lender::start("qcow2", files.new.as_os_str(), folder.path(), &Lend::Write)?;
    let copy_of = (mode == CloneMode::Copy).then(|| restoring.image.clone());
    Ok(Box::new(Written { nbd, lender, files, domain, copy_of }))
}

/// What is on the node's disk; gone unless it is finished.
struct Files {
    folder: Folder,
    new: PathBuf,
    is_new: bool,
    is_done: bool,
}

struct Written {
    // The order of the end: the client, its server, the files.
    nbd: Nbd,
    lender: Lender,
    files: Files,
    domain: Option<Domain>,
    /// The image that it is a copy of, if it does not stand on it.
    copy_of: Option<String>,
}

impl Making for Written {
    fn target(&mut self) -> &mut dyn Target {
        &mut self.nbd
    }

    fn finish(self: Box<Self>) -> Result<(), HypervisorError> {
        let Self { mut nbd, lender, mut files, domain, copy_of } = *self;
        nbd.flush().map_err(on_disk)?;
        drop(nbd);
        lender.end()?;
        File::open(&files.new).and_then(|new| new.sync_all()).map_err(on_disk)?;
        copy_of.map_or(Ok(()), |image| disk::note_image(&files.folder, &image))?;
        fs::rename(&files.new, files.folder.disk()).map_err(on_disk)?;
        files.is_done = true;
        File::open(files.folder.disk_folder()).and_then(|folder| folder.sync_all()).map_err(on_disk)?;
        // What changed since which backup is known of the old disk alone.
        domain.iter().for_each(forget_marks);
        Ok(())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let removed = if self.is_new { self.folder.remove() } else { gone(fs::remove_file(&self.new)) };
        if let Err(e) = removed {
            tracing::warn!(error = %e, path = %self.new.display(), "an unfinished disk could not be removed");
        }
    }
}
