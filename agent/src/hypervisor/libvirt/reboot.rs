//! Reboots where disks are under leases.
//!
//! Where no guest agent answers, libvirt presses the power button and lets the CPUs run on from the beginning
//! once the system has switched itself off. It asks for the leases anew then without having given them back, is
//! refused them, and ends the VM. So the agent does it itself: the VM goes off as at any shutdown, and is
//! started. What is under way is noted in the VM's folder, for an agent that comes anew and for a system that
//! takes its time.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use berth_model::VmId;
use berth_model::agent::VmState;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::sys;

use super::Libvirt;
use super::folder::gone;
use super::machines::press_power_button;
use super::ops::{on_disk, refused, state};
use crate::hypervisor::HypervisorError;
use crate::orphans::is_old;

/// How long the caller waits for the system to switch itself off; one that takes longer is tended to.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a VM that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Libvirt {
    /// Asks the system of a VM that is on to reboot.
    pub(super) fn reboot(&self, connect: &Connect, id: VmId, domain: &Domain) -> Result<(), HypervisorError> {
        if self.lockspace().is_err() {
            return domain.reboot(0).map_err(|e| refused("reboot the VM", &e));
        }
        if domain.reboot(sys::VIR_DOMAIN_REBOOT_GUEST_AGENT).is_ok() {
            return Ok(());
        }
        File::create(self.folders.of(id).rebooting()).and_then(|note| note.sync_all()).map_err(on_disk)?;
        press_power_button(domain).map_err(|e| refused("press the VM's power button", &e))?;
        let until = Instant::now() + PATIENCE;
        while state(domain)?.is_on() {
            if Instant::now() > until {
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        self.start_over(connect, id, domain)
    }

    fn start_over(&self, connect: &Connect, id: VmId, domain: &Domain) -> Result<(), HypervisorError> {
        self.start(connect, id, domain)?;
        self.forget_reboot(id)
    }

    /// From now on a VM that goes off stays off.
    pub(super) fn forget_reboot(&self, id: VmId) -> Result<(), HypervisorError> {
        gone(fs::remove_file(self.folders.of(id).rebooting())).map_err(on_disk)
    }

    /// Starts what went off meanwhile to be started over; a system that did not obey for long is let be.
    pub(super) fn tend_reboots(&self) -> Result<(), HypervisorError> {
        for id in self.folders.list().map_err(on_disk)? {
            let note = self.folders.of(id).rebooting();
            if !note.exists() {
                continue;
            }
            let connect = self.connection.get()?;
            let domain = self.domain(&connect, id)?;
            match domain.map(|domain| Ok::<_, HypervisorError>((state(&domain)?, domain))).transpose()? {
                // Whoever switched it off meanwhile took the note.
                Some((VmState::Off, domain)) if note.exists() && !is_old(&note) => {
                    if let Err(e) = self.start_over(&connect, id, &domain) {
                        tracing::warn!(vm = id.0, error = %e, "a VM that is rebooting could not be started over yet");
                    }
                }
                Some((VmState::Running | VmState::Paused, _)) if !is_old(&note) => {}
                _ => self.forget_reboot(id)?,
            }
        }
        Ok(())
    }
}
