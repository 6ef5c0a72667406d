//! Moving: room for a VM that comes, and sending one that goes.
//!
//! ```text
//! target  prepare: note ─► folder ─► disk, volumes, seed      finish: volumes whole ─► define ─► note gone
//! source  send:    note ─► live: libvirt and QEMU copy ─► undefined ─► volumes, folder gone ─► note gone
//!                       └► off:  files                 ─┘
//! ```
//!
//! A [note](notes) says on each side what a VM is in the middle of, and goes last. Of a live move libvirt
//! sees to it that the VM runs on one side only, as long as the agent lives: cut off at the switch-over, the VM
//! stands still on the source until [`Libvirt::send`] is told again and has asked the target. Files that
//! arrived are noted on the target before the source hears of it and forgets its own.

pub mod notes;
mod off;
mod rewrite;
mod room;
mod sending;
mod watch;

use std::time::Duration;

use berth_model::VmId;
use berth_model::agent::VmSpec;
use virt::domain::Domain;
use virt::sys;

use super::network::GuestNetwork;
use super::ops::refused;
use super::{Libvirt, ffi};
use crate::faults;
use crate::hypervisor::HypervisorError;
use crate::moving::Sockets;
use crate::storage::{disks, shared};

/// How often a move is looked at.
const STEP: Duration = Duration::from_millis(100);

impl Libvirt {
    fn shares_disks(&self) -> bool {
        self.config.storage.disks.is_some()
    }

    /// The name of the storage that disks stand on, where nodes share it.
    fn disk_storage(&self) -> Result<Option<String>, HypervisorError> {
        Ok(self.shares_disks().then(|| shared::name_of(self.folders.disks())).transpose()?)
    }

    fn bridge(&self) -> Option<&str> {
        match &self.config.network {
            GuestNetwork::Nat { bridge, .. } | GuestNetwork::Bridge { bridge } => Some(bridge),
            GuestNetwork::User | GuestNetwork::Routed => None,
        }
    }

    /// Removes all that is there of a VM without a domain, but for a disk that another node has; the note last.
    fn forget_files(&self, id: VmId, shared: bool) -> Result<(), HypervisorError> {
        if self.config.uri == "qemu:///system" {
            self.remove_qemu_log(id)?;
        }
        let folder = self.folders.of(id);
        if shared { folder.remove_but_disk() } else { folder.remove() }?;
        self.unmark(id, &folder, false)?;
        faults::point("move.after_left")?;
        self.forget_move(id)
    }

    /// Nothing says any more that a VM comes or leaves.
    pub(super) fn forget_move(&self, id: VmId) -> Result<(), HypervisorError> {
        Sockets::clear(&self.prefix.domain(id))?;
        self.notes.remove(id)
    }
}

/// Refuses to let a VM run on that stands still at a switch-over: it may run on the other node.
pub(super) fn refuse_held(domain: &Domain) -> Result<(), HypervisorError> {
    if is_held(domain)? {
        let message = "The VM stands still in the middle of its move: tell moving.send again.";
        return Err(HypervisorError::Conflict(message.to_owned()));
    }
    Ok(())
}

fn is_held(domain: &Domain) -> Result<bool, HypervisorError> {
    let now = ffi::state(domain).map_err(|e| refused("say the VM's state", &e))?;
    Ok(now == (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_MIGRATION))
}

/// Refuses a VM of which more than files would have to come along.
fn check_movable(id: VmId, spec: &VmSpec) -> Result<(), HypervisorError> {
    let why = if spec.rescue.is_some() {
        "it is in rescue, which is made of this node's files; end that first"
    } else if spec.hardware.tpm {
        "libvirt keeps its TPM's state on this node, and it would stay behind"
    } else if disks::pool_of(spec).is_some() {
        "its disk lies in a pool"
    } else {
        return Ok(());
    };
    Err(HypervisorError::Conflict(format!("VM {id} cannot move: {why}.")))
}

#[cfg(test)]
mod tests {
    use berth_model::agent::{Hardware, Name, Rescue};

    use super::*;

    #[test]
    fn what_would_stay_behind_is_refused_with_the_reason() {
        let _proof = crate::proof::pure(&["moving.prepare", "moving.send"]);
        let tpm = VmSpec { hardware: Hardware { tpm: true, ..Hardware::default() }, ..VmSpec::default() };
        let rescue = Rescue { image: String::new(), root_password_hash: String::new() };
        let rescue = VmSpec { rescue: Some(rescue), ..VmSpec::default() };
        let pool = VmSpec { disk_pool: Name::new("fast"), ..VmSpec::default() };
        assert!(check_movable(VmId(7), &VmSpec::default()).is_ok());
        for (spec, why) in [(tpm, "TPM"), (rescue, "rescue"), (pool, "pool")] {
            let refused = check_movable(VmId(7), &spec).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
