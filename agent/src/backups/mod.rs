//! Backups: what a hypervisor lends as a disk goes to a store, and back.
//!
//! ```text
//! create:  mend ─► choose what to build on ─► hypervisor marks the disk and lends it
//!          ─► pieces ─► index ─► manifest (now it is there) ─► the mark is kept, older ones go
//! restore: manifests of the chain ─► pieces, the full one first ─► hypervisor swaps the disks
//! ```
//!
//! A chain is a full backup and the incremental ones that build on it. What a backup can build on is
//! decided anew each time from what the store holds and what marks the disk has, so that whatever was cut
//! off, lost or damaged leads to a full backup and not to a broken one.
//!
//! One function at a time works on the backups of a VM: that is what the claim on the VM is for.

pub mod catalog;
mod create;
pub mod disk;
pub mod manifest;
pub mod nbd;
pub mod piece;
pub mod prune;
mod restore;
pub mod seal;
pub mod store;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use berth_model::VmId;
use berth_model::agent::{BackupDelete, BackupKey, BackupList, BackupPrune, BackupPruned, BackupWhere, Name};

use self::catalog::Catalog;
use self::manifest::names;
use self::prune::Kept;
use self::seal::AccountKey;
use self::store::Store;
use crate::error::Refusal;
use crate::runs::Cx;

pub use self::create::create;
pub use self::restore::{restore, verify};

/// How many may build on a full backup, if the caller does not say.
pub const INCREMENTALS: u32 = 30;
/// And at most.
pub const INCREMENTALS_MAX: u32 = 365;

/// How long a list is read before what is read is answered; a function that looks has 10 s.
const LIST_PATIENCE: Duration = Duration::from_secs(5);

/// Backups of one VM, or of all.
pub fn list(request: &BackupWhere) -> Result<BackupList, Refusal> {
    list_within(request, LIST_PATIENCE)
}

/// The same, with another patience; one VM is always read.
pub fn list_within(request: &BackupWhere, patience: Duration) -> Result<BackupList, Refusal> {
    let until = Instant::now() + patience;
    let store = store::open(&request.store)?;
    let vms = match request.vm {
        Some(vm) => vec![vm],
        None => {
            let folders = store.folders(names::MANIFESTS)?;
            let mut vms: Vec<VmId> = folders.iter().filter_map(|folder| names::vm(folder)).collect();
            vms.retain(|vm| request.from.is_none_or(|from| *vm >= from));
            vms.sort();
            vms
        }
    };
    let mut backups = Vec::new();
    for (n, vm) in vms.into_iter().enumerate() {
        if n > 0 && Instant::now() >= until {
            return Ok(BackupList { backups, next: Some(vm) });
        }
        backups.extend(Catalog::read(&*store, vm)?.shown());
    }
    Ok(BackupList { backups, next: None })
}

/// Deletes a backup.
pub fn delete(vm: VmId, name: &Name, request: &BackupDelete, cx: &Cx) -> Result<BackupPruned, Refusal> {
    let store = store::open(&request.store)?;
    let catalog = Catalog::read(&*store, vm)?;
    let dependents = catalog.dependents(name);
    if let (Some(first), false) = (dependents.first(), request.with_dependents) {
        return Err(Refusal::conflict(format!(
            "The backup {first} builds on {name}; delete that one first."
        )));
    }
    let gone: Vec<Name> = match catalog.has(name) {
        true => dependents.into_iter().chain([name.clone()]).collect(),
        false => Vec::new(),
    };
    remove_all(&*store, vm, &gone, cx)?;
    sweep(&*store, vm)?;
    Ok(BackupPruned { kept: catalog.names().filter(|kept| !gone.contains(kept)).cloned().collect(), gone })
}

/// Deletes what no rule keeps.
pub fn prune(vm: VmId, request: &BackupPrune, cx: &Cx) -> Result<BackupPruned, Refusal> {
    let store = store::open(&request.store)?;
    let catalog = Catalog::read(&*store, vm)?;
    let readable: Vec<_> = catalog.manifests().collect();
    let place = |base: &manifest::Base| {
        readable.iter().position(|other| other.name == base.name && other.salt == base.salt)
    };
    let backups: Vec<Kept> = readable
        .iter()
        .map(|manifest| Kept {
            taken: manifest.taken,
            builds_on: manifest.builds_on.as_ref().and_then(place),
        })
        .collect();
    let stay: BTreeSet<usize> = prune::stay(&backups, request.keep);
    // The newest first: nothing ever builds on what is gone.
    let goes = |(index, manifest): (usize, &&manifest::Manifest)| {
        (!stay.contains(&index)).then(|| manifest.name.clone())
    };
    let gone: Vec<Name> = readable.iter().enumerate().rev().filter_map(goes).collect();
    if !request.dry_run {
        remove_all(&*store, vm, &gone, cx)?;
        sweep(&*store, vm)?;
    }
    Ok(BackupPruned { kept: catalog.names().filter(|kept| !gone.contains(kept)).cloned().collect(), gone })
}

fn remove_all(store: &dyn Store, vm: VmId, gone: &[Name], cx: &Cx) -> Result<(), Refusal> {
    cx.phase("Delete backups", gone.len() as u64);
    for (n, name) in gone.iter().enumerate() {
        cx.check()?;
        // Without its manifest it is no backup; the rest is swept away if this is cut off.
        store.delete(&names::manifest(vm, name))?;
        store.delete_folder(&names::pieces(vm, name))?;
        store.delete(&names::damaged(vm, name))?;
        cx.done(n as u64 + 1);
    }
    Ok(())
}

/// Deletes pieces without a manifest: what was cut off.
fn sweep(store: &dyn Store, vm: VmId) -> Result<(), Refusal> {
    let objects = store.objects(&names::manifests(vm))?;
    let manifests: BTreeSet<&str> = objects.iter().filter_map(|o| o.name.strip_suffix(".json")).collect();
    for folder in store.folders(&names::all_pieces(vm))? {
        if !manifests.contains(folder.as_str()) {
            store.delete_folder(&format!("{}/{folder}", names::all_pieces(vm)))?;
        }
    }
    Ok(())
}

/// The account's key, which has been looked at before.
fn account(key: &BackupKey) -> Result<AccountKey, Refusal> {
    AccountKey::parse(&key.0).ok_or_else(|| Refusal::field("key", seal::KEY_RULE))
}
