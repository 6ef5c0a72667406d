//! What else is done with whole VMs.
//!
//! ```text
//! rebuild: power off ─► disk ─► put            rescue: power off ─► put, which makes or removes its files
//! remove:  power off ─► copy or wipe the disk ─► delete
//! ```

use std::time::{Duration, Instant};

use berth_model::VmId;
use berth_model::agent::{
    DisksAfter, KeptDisk, Name, Rescue, Vm, VmDelete, VmImage, VmRebuild, VmSpec, VmState, WantedPower,
};
use virt::domain::Domain;
use virt::error::ErrorNumber;
use virt::sys;

use super::folder::{gone, sync};
use super::kept::Original;
use super::ops::{is, on_disk, power_off, refused, state, unless_off};
use super::{Libvirt, backup, disk, ffi, hardware, rescue, spec_in, wipe};
use crate::hypervisor::machines::kept_name;
use crate::hypervisor::{Hypervisor, HypervisorError, Machines};
use crate::runs::Cx;
use crate::storage::disks;
use crate::{faults, spec};

/// How often a VM that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Holds a VM's CPUs; nothing if they are held.
pub fn pause(domain: &Domain) -> Result<(), HypervisorError> {
    match state(domain)? {
        VmState::Paused => Ok(()),
        _ => domain.suspend().map_err(|e| refused("pause the VM", &e)),
    }
}

/// Lets a VM's CPUs go on; nothing if they run.
pub fn resume(domain: &Domain) -> Result<(), HypervisorError> {
    match state(domain)? {
        VmState::Running => Ok(()),
        _ => domain.resume().map_err(|e| refused("resume the VM", &e)),
    }
}

/// Does libvirt keep the memory of a VM that is off?
pub fn is_saved(domain: &Domain) -> Result<bool, HypervisorError> {
    match domain.has_managed_save(0) {
        Err(e) if is(&e, ErrorNumber::NoSupport) => Ok(false),
        saved => saved.map_err(|e| refused("look for the VM's saved memory", &e)),
    }
}

/// Forgets the memory of a VM that is off; nothing if there is none.
pub fn drop_saved(domain: &Domain) -> Result<(), HypervisorError> {
    if !is_saved(domain)? {
        return Ok(());
    }
    domain.managed_save_remove(0).map_err(|e| refused("remove the VM's saved memory", &e))
}

/// Asks the system to stop: by the guest agent, or else by the power button.
fn ask_to_stop(domain: &Domain) -> Result<(), HypervisorError> {
    let by_agent = domain.shutdown_flags(sys::VIR_DOMAIN_SHUTDOWN_GUEST_AGENT);
    by_agent.or_else(|_| press_power_button(domain)).or_else(|e| match e {
        e if matches!(state(domain), Ok(VmState::Off | VmState::Crashed)) => {
            tracing::debug!(error = e.message(), "the VM went off while it was asked to");
            Ok(())
        }
        e => Err(refused("shut the VM down", &e)),
    })
}

pub(super) fn press_power_button(domain: &Domain) -> Result<(), virt::error::Error> {
    match domain.shutdown_flags(sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN) {
        // The test driver knows one way alone.
        Err(e) if is(&e, ErrorNumber::NoSupport) || is(&e, ErrorNumber::InvalidArg) => domain.shutdown(),
        pressed => pressed,
    }
}

impl Libvirt {
    /// The domain and the spec of a VM that is whole.
    fn whole(&self, id: VmId) -> Result<(Domain, VmSpec), HypervisorError> {
        self.notes.refuse_coming(id)?;
        let domain = self.whole_domain(&self.connection.get()?, id)?;
        match spec_in(id, &domain, sys::VIR_DOMAIN_AFFECT_CONFIG)? {
            Some(spec) => Ok((domain, spec)),
            None => {
                Err(HypervisorError::Conflict(format!("What VM {id} should be is not known; put it again.")))
            }
        }
    }

    /// Switches a VM off whose system is about to be another.
    fn end_run(domain: &Domain) -> Result<(), HypervisorError> {
        power_off(domain)?;
        drop_saved(domain)
    }

    /// A VM's disk, as it can be kept.
    fn original(&self, id: VmId) -> Result<Option<Original>, HypervisorError> {
        match self.storage.disk_in_pool(id, "disks are kept")? {
            Some(disk) => Original::in_pool(&disk),
            None => Original::file(&self.folders.of(id).disk()),
        }
    }

    /// Overwrites the disk, and what a wipe that was cut off left of one.
    fn wipe_disk(&self, id: VmId, cx: &Cx) -> Result<(), HypervisorError> {
        self.refuse_elsewhere(id, None)?;
        let folder = self.folders.of(id);
        // Under another name it is no disk any more: a VM that is put meanwhile gets a new one.
        gone(std::fs::rename(folder.disk(), folder.wipe())).map_err(on_disk)?;
        faults::point("wipe.after_rename")?;
        self.finish_wipe(id, cx)
    }

    pub(super) fn finish_wipe(&self, id: VmId, cx: &Cx) -> Result<(), HypervisorError> {
        let folder = self.folders.of(id);
        if !folder.wipe().try_exists().map_err(on_disk)? {
            return Ok(());
        }
        wipe::wipe(&folder.wipe(), cx).map_err(on_disk)?;
        faults::point("wipe.after_wipe")?;
        gone(std::fs::remove_file(folder.wipe())).map_err(on_disk)?;
        sync(folder.disk_folder()).map_err(on_disk)
    }
}

impl Machines for Libvirt {
    fn shutdown(&self, id: VmId, wait: Duration, cx: &Cx) -> Result<Vm, HypervisorError> {
        let domain = self.whole_domain(&self.connection.get()?, id)?;
        let is_off = || Ok::<_, HypervisorError>(matches!(state(&domain)?, VmState::Off | VmState::Crashed));
        self.forget_reboot(id)?;
        let began = Instant::now();
        if !is_off()? {
            cx.phase("Wait for the system to stop", wait.as_secs());
            ask_to_stop(&domain)?;
        }
        let mut pressed = false;
        while !is_off()? {
            cx.check()?;
            let waited = began.elapsed();
            cx.done(waited.as_secs());
            if waited >= wait {
                power_off(&domain)?;
                break;
            }
            // A guest agent may have taken the wish and done nothing about it.
            if !pressed && waited >= wait / 2 {
                pressed = true;
                let asked = press_power_button(&domain);
                unless_off(&domain, "press the VM's power button", asked)?;
            }
            std::thread::sleep(LOOK_EVERY.min(wait.saturating_sub(waited)));
        }
        self.show(id, Some(&domain))
    }

    fn save(&self, id: VmId, cx: &Cx) -> Result<Vm, HypervisorError> {
        let domain = self.whole_domain(&self.connection.get()?, id)?;
        if matches!(state(&domain)?, VmState::Off | VmState::Crashed) {
            return self.show(id, Some(&domain));
        }
        cx.phase("Write the memory to the disk", 0);
        let saved = std::thread::scope(|scope| {
            let save = scope.spawn(|| domain.managed_save(0));
            while !save.is_finished() {
                if let Ok(job) = domain.job_info()
                    && let (Some(total), Some(done)) = (job.data_total, job.data_processed)
                    && total > 0
                {
                    cx.phase("Write the memory to the disk", total);
                    cx.done(done);
                }
                if cx.is_cancelled() {
                    // Refused when the job has just ended, and then there is nothing to stop.
                    let _ended = ffi::abort_job(&domain);
                }
                std::thread::sleep(LOOK_EVERY);
            }
            save.join().map_err(|_| HypervisorError::Failed("the saving broke off".to_owned()))
        })?;
        match saved {
            Err(_) if cx.is_cancelled() => cx.check()?,
            saved => unless_off(&domain, "save the VM's memory", saved)?,
        }
        self.show(id, Some(&domain))
    }

    fn rebuild(&self, id: VmId, rebuild: &VmRebuild, cx: &Cx) -> Result<Vm, HypervisorError> {
        let (domain, before) = self.whole(id)?;
        let spec = VmSpec {
            image: VmImage { sha256: rebuild.image.clone() },
            seed: rebuild.seed.clone().unwrap_or_else(|| before.seed.clone()),
            power: rebuild.power,
            rescue: None,
            ..before
        };
        spec::check(&spec)?;
        let image = self.images.find(&spec.image.sha256, spec.disk)?;
        let in_pool = disks::pool_of(&spec).is_some();
        self.iso(&spec)?;
        hardware::check(&self.connection.get()?, self.domain_type(&self.connection.get()?), &spec.hardware)?;
        if !in_pool {
            disk::check_room(self.folders.disks(), spec.disk)?;
        }
        self.refuse_elsewhere(id, Some(&domain))?;
        cx.check()?;
        cx.phase("Switch the VM off", 0);
        Self::end_run(&domain)?;
        faults::point("rebuild.after_power_off")?;
        cx.phase("Make the disk", 0);
        let folder = self.folders.of(id);
        folder.create().map_err(on_disk)?;
        if in_pool {
            // The put below makes it anew.
            self.storage.remove_disk(id)?;
        } else {
            disk::put(&folder, &image, &spec)?;
            backup::forget_marks(&domain);
        }
        // It remembers where the old system was found.
        gone(std::fs::remove_file(folder.nvram())).map_err(on_disk)?;
        faults::point("rebuild.after_disk")?;
        cx.phase("Start the VM", 0);
        self.put(id, &spec)
    }

    fn rescue_on(&self, id: VmId, rescue: &Rescue) -> Result<Vm, HypervisorError> {
        let (domain, before) = self.whole(id)?;
        let spec = VmSpec { rescue: Some(rescue.clone()), power: WantedPower::On, ..before };
        self.check(id, &self.folders.of(id), &spec)?;
        Self::end_run(&domain)?;
        faults::point("rescue_on.after_power_off")?;
        rescue::remove(&self.folders.of(id))?;
        self.put(id, &spec)
    }

    fn rescue_off(&self, id: VmId) -> Result<Vm, HypervisorError> {
        let (domain, before) = self.whole(id)?;
        let runs = spec_in(id, &domain, sys::VIR_DOMAIN_AFFECT_LIVE)?;
        let in_rescue = runs.as_ref().unwrap_or(&before).rescue.is_some();
        let spec = VmSpec { rescue: None, power: WantedPower::On, ..before };
        self.check(id, &self.folders.of(id), &spec)?;
        if in_rescue {
            Self::end_run(&domain)?;
        }
        faults::point("rescue_off.after_power_off")?;
        self.put(id, &spec)
    }

    fn remove(&self, id: VmId, how: &VmDelete, cx: &Cx) -> Result<(), HypervisorError> {
        // Its disk may be another node's.
        if self.delete_moving(id)? {
            return self.storage.release(id, &[]);
        }
        let domain = self.domain(&self.connection.get()?, id)?;
        let name = kept_name(id, how);
        match how.disks {
            DisksAfter::Remove => {}
            DisksAfter::Wipe => self.storage.needs_own_file(id, "wiping works")?,
            DisksAfter::Keep => drop(self.kept.has(&name, id, self.original(id)?.as_ref())?),
        }
        cx.check()?;
        if let Some(domain) = &domain {
            power_off(domain)?;
        }
        self.finish_wipe(id, cx)?;
        match how.disks {
            DisksAfter::Remove => {}
            DisksAfter::Wipe => self.wipe_disk(id, cx)?,
            DisksAfter::Keep => {
                self.kept.keep(&name, id, self.original(id)?.as_ref(), cx)?;
                faults::point("keep.after_copy")?;
            }
        }
        self.delete(id)
    }

    fn kept(&self) -> Result<Vec<KeptDisk>, HypervisorError> {
        self.kept.list()
    }

    fn delete_kept(&self, name: &Name) -> Result<(), HypervisorError> {
        self.kept.delete(name)
    }
}
