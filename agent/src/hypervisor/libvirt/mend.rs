//! What a function that was cut off left in a VM that runs, mended untold: a guest that is frozen, and a backup
//! job that nobody reads. A note in the VM's folder tells of each, written before it is begun.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use berth_model::VmId;
use berth_model::agent::VmState;
use serde_json::{Value, json};
use virt::domain::Domain;

use super::folder::{Folder, gone};
use super::ops::{on_disk, state};
use super::{Libvirt, backup, in_pool};
use crate::hypervisor::HypervisorError;

/// How long the guest's agent may take to say that it is there.
const AGENT_THERE_S: i32 = 3;
/// How long it may take to freeze or thaw.
const AGENT_FREEZE_S: i32 = 10;
/// How often it is asked to thaw before that is an error.
const THAW_TRIES: usize = 5;

/// VMs on which a function of this process works that freezes, or has a job in QEMU.
#[derive(Debug, Clone, Default)]
pub struct AtWork(Arc<(Mutex<BTreeSet<VmId>>, Condvar)>);

/// Such a function, until this is dropped.
#[derive(Debug)]
pub struct Work {
    at_work: AtWork,
    vm: VmId,
}

impl AtWork {
    /// Begins; waits while what was cut off is being mended.
    pub fn begin(&self, vm: VmId) -> Work {
        let mut vms =
            self.0.1.wait_while(self.vms(), |vms| vms.contains(&vm)).unwrap_or_else(PoisonError::into_inner);
        vms.insert(vm);
        Work { at_work: self.clone(), vm }
    }

    /// The same, unless somebody works on it.
    fn try_begin(&self, vm: VmId) -> Option<Work> {
        self.vms().insert(vm).then(|| Work { at_work: self.clone(), vm })
    }

    fn vms(&self) -> MutexGuard<'_, BTreeSet<VmId>> {
        // Single inserts and removes: whole after any panic.
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.at_work.vms().remove(&self.vm);
        self.at_work.0.1.notify_all();
    }
}

/// Freezes the guest's file systems; false if its agent does not answer or has none to freeze.
pub fn freeze(domain: &Domain, folder: &Folder) -> Result<bool, HypervisorError> {
    // Who is held cannot answer.
    if state(domain)? != VmState::Running || agent(domain, "guest-ping", AGENT_THERE_S).is_none() {
        return Ok(false);
    }
    fs::write(frozen_note(folder), b"")?;
    let frozen = agent(domain, "guest-fsfreeze-freeze", AGENT_FREEZE_S).and_then(|count| count.as_u64());
    if frozen.is_some_and(|count| count > 0) {
        return Ok(true);
    }
    // It may have frozen something, and have been too slow to say so.
    thaw(domain, folder)?;
    Ok(false)
}

/// Thaws them; the note stays until they are.
pub fn thaw(domain: &Domain, folder: &Folder) -> Result<(), HypervisorError> {
    for _ in 0..THAW_TRIES {
        let thawed = agent(domain, "guest-fsfreeze-thaw", AGENT_FREEZE_S).is_some();
        // The error of a libvirt that is gone is the one to be told.
        if thawed || matches!(state(domain)?, VmState::Off | VmState::Crashed) {
            return gone(fs::remove_file(frozen_note(folder))).map_err(on_disk);
        }
    }
    Err(HypervisorError::Failed(
        "The guest's file systems were frozen, and its agent does not thaw them yet; it is asked again, and a \
         reset of the VM thaws them, too."
            .to_owned(),
    ))
}

fn agent(domain: &Domain, command: &str, seconds: i32) -> Option<Value> {
    let reply = domain.qemu_agent_command(&json!({"execute": command}).to_string(), seconds, 0).ok()?;
    serde_json::from_str::<Value>(&reply).ok().map(|mut reply| reply["return"].take())
}

/// Its file systems may be frozen.
fn frozen_note(folder: &Folder) -> PathBuf {
    folder.path().join("frozen")
}

impl Libvirt {
    /// Mends all VMs on which nobody works.
    pub(super) fn mend_all(&self) -> Result<(), HypervisorError> {
        for vm in self.folders.list().map_err(on_disk)? {
            let folder = self.folders.of(vm);
            let is_left = || Ok(frozen_note(&folder).try_exists()? || backup::place(&folder).try_exists()?);
            if !is_left().map_err(on_disk)? {
                continue;
            }
            let Some(_work) = self.at_work.try_begin(vm) else { continue };
            // Whoever worked on it may just have ended.
            if is_left().map_err(on_disk)?
                && let Err(e) = self.mend(vm, &folder)
            {
                tracing::warn!(vm = vm.0, error = %e, "what was cut off could not be mended yet");
            }
        }
        Ok(())
    }

    fn mend(&self, vm: VmId, folder: &Folder) -> Result<(), HypervisorError> {
        let domain = self.domain(&self.connection.get()?, vm)?;
        if let Some(domain) = &domain {
            tracing::warn!(vm = vm.0, "something was cut off and is mended");
            mend_frozen(domain, folder)?;
            in_pool::mend(self, vm)?;
            backup::mend(domain, folder)
        } else {
            gone(fs::remove_file(frozen_note(folder)))
                .and(gone(fs::remove_dir_all(backup::place(folder))))
                .map_err(on_disk)
        }
    }
}

/// Thaws a guest that a function which was cut off left frozen.
pub fn mend_frozen(domain: &Domain, folder: &Folder) -> Result<(), HypervisorError> {
    if frozen_note(folder).try_exists()? { thaw(domain, folder) } else { Ok(()) }
}
