//! Snapshots of simulated disks: all that a simulated disk holds is its size.

use std::path::Path;

use berth_model::agent::{Name, Snapshot, Vm};
use berth_model::{ByteSize, VmId};
use serde::{Deserialize, Serialize};

use super::{Record, Simulator, failed, points};
use crate::clock;
use crate::hypervisor::HypervisorError;
use crate::program::Program;
use crate::runs::Cx;

/// Most snapshots of one disk.
const SNAPSHOTS_MAX: usize = 64;

/// A snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SimulatedSnapshot {
    /// As it is shown.
    pub shown: Snapshot,
}

impl Simulator {
    fn there(&self, id: VmId) -> Result<Record, HypervisorError> {
        self.record(id)?.ok_or(HypervisorError::NotFound(id))
    }

    pub(super) fn take_snapshot(&self, id: VmId, name: &Name) -> Result<Snapshot, HypervisorError> {
        let mut record = self.there(id)?;
        if let Some(there) = record.snapshots.iter().find(|snapshot| snapshot.shown.name == *name) {
            return Ok(there.shown.clone());
        }
        if record.snapshots.len() >= SNAPSHOTS_MAX {
            let message = format!("VM {id} has {SNAPSHOTS_MAX} snapshots already; delete one first.");
            return Err(HypervisorError::Conflict(message));
        }
        self.take_time();
        points(&["snapshot.after_freeze"])?;
        let shown = Snapshot { name: name.clone(), created: clock::now(), frozen: true };
        record.snapshots.push(SimulatedSnapshot { shown: shown.clone() });
        self.keep(id, record)?;
        points(&["snapshot.after_taken"])?;
        Ok(shown)
    }

    pub(super) fn revert_to(&self, id: VmId, name: &Name) -> Result<Vm, HypervisorError> {
        let record = self.there(id)?;
        if record.snapshots.iter().all(|snapshot| snapshot.shown.name != *name) {
            return Err(HypervisorError::Unknown(format!("VM {id} has no snapshot {name}.")));
        }
        self.take_time();
        points(&["revert.after_off", "revert.after_disk"])?;
        let started = record.started.map(|_| clock::now());
        self.keep(id, Record { started, ..record })
    }

    pub(super) fn drop_snapshot(&self, id: VmId, name: &Name) -> Result<(), HypervisorError> {
        let mut record = self.there(id)?;
        record.snapshots.retain(|snapshot| snapshot.shown.name != *name);
        self.keep(id, record).map(drop)
    }

    pub(super) fn export_disk(&self, cx: &Cx, id: VmId, to: &Path) -> Result<(), HypervisorError> {
        let record = self.there(id)?;
        let ByteSize(size) = record.spec.disk;
        cx.phase("Copy the disk", size);
        points(&["export.after_snapshot"])?;
        self.take_time();
        // As empty as the simulated disk is.
        Program::qemu_img(["create", "-q", "-f", "qcow2"]).args([to]).args([size.to_string()]).run()?;
        let made = points(&["export.after_copy"]);
        if made.is_err() {
            std::fs::remove_file(to).map_err(|e| failed("could not remove a file", &e))?;
        }
        made
    }
}
