//! Whole machines, simulated.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use berth_model::agent::{
    DisksAfter, KeptDisk, Name, PowerVerb, Rescue, Vm, VmDelete, VmImage, VmRebuild, VmSpec, VmState,
    WantedPower,
};
use berth_model::{ByteSize, VmId};

use super::{Record, Simulator, failed, points, remove_file};
use crate::hypervisor::machines::kept_name;
use crate::hypervisor::{Hypervisor, HypervisorError, Machines};
use crate::runs::Cx;
use crate::{clock, spec};

/// What follows from a VM's state: only one that runs was started as something, and its CD follows at once;
/// one that runs has its memory back.
pub(super) fn follow(mut record: Record) -> Record {
    match record.state {
        VmState::Running | VmState::Paused => {
            let iso = record.spec.iso.clone();
            record.runs.get_or_insert_with(|| record.spec.clone()).iso = iso;
            record.saved = false;
        }
        VmState::Off | VmState::Crashed => record.runs = None,
    }
    record
}

/// The disks that were kept, each a file beside the VMs'.
pub(super) fn read_kept(folder: Option<&Path>) -> std::io::Result<BTreeMap<String, KeptDisk>> {
    let mut kept = BTreeMap::new();
    let Some(folder) = folder else { return Ok(kept) };
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "kept") {
            let disk: KeptDisk = serde_json::from_slice(&fs::read(path)?)?;
            kept.insert(disk.name.to_string(), disk);
        }
    }
    Ok(kept)
}

impl Simulator {
    /// ISO and rescue image must be there.
    pub(super) fn check_parts(&self, spec: &VmSpec) -> Result<(), HypervisorError> {
        let Some(images) = &self.config.images else { return Ok(()) };
        let is_there = |name: String| images.join(name).exists();
        if let Some(iso) = spec.iso.as_ref().filter(|iso| !is_there(format!("{iso}.iso"))) {
            return Err(HypervisorError::Lacking(format!("The ISO {iso} is not on this node.")));
        }
        match spec.rescue.as_ref().map(|rescue| &rescue.image) {
            Some(image) if !is_there(format!("{image}.qcow2")) => {
                Err(HypervisorError::Lacking(format!("The image {image} is not on this node.")))
            }
            _ => Ok(()),
        }
    }

    fn known(&self, id: VmId) -> Result<Record, HypervisorError> {
        self.record(id)?.ok_or(HypervisorError::NotFound(id))
    }

    fn is_on(record: &Record) -> bool {
        matches!(record.state, VmState::Running | VmState::Paused)
    }

    /// Switches a VM off whose system is about to be another.
    fn end_run(&self, id: VmId, spec: &VmSpec) -> Result<(), HypervisorError> {
        let record = self.known(id)?;
        let off = Record { spec: spec.clone(), state: VmState::Off, started: None, saved: false, ..record };
        self.keep(id, off).map(drop)
    }

    fn shelf(&self) -> MutexGuard<'_, BTreeMap<String, KeptDisk>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_kept(&self, name: &Name) -> Result<(), HypervisorError> {
        match self.shelf().get(name.as_str()) {
            None => Ok(()),
            Some(other) => Err(HypervisorError::Conflict(format!(
                "The disk of a VM {} is kept as {name} already; say another name.",
                other.vm
            ))),
        }
    }

    fn keep_disk(&self, name: &Name, vm: VmId, size: ByteSize) -> Result<(), HypervisorError> {
        let (kept, path) = (clock::now(), String::new());
        let disk = KeptDisk { name: name.clone(), vm, size, file_size: ByteSize(0), kept, path };
        if let Some(folder) = &self.config.folder {
            let json = serde_json::to_vec(&disk).map_err(|e| failed("could not write a kept disk", &e))?;
            let write = tempfile::NamedTempFile::new_in(folder).and_then(|mut file| {
                std::io::Write::write_all(&mut file, &json)?;
                Ok(file.persist(folder.join(format!("{name}.kept")))?)
            });
            write.map_err(|e| failed("could not write a kept disk", &e))?;
        }
        self.shelf().insert(name.to_string(), disk);
        Ok(())
    }
}

impl Machines for Simulator {
    fn shutdown(&self, id: VmId, wait: Duration, cx: &Cx) -> Result<Vm, HypervisorError> {
        cx.phase("Wait for the system to stop", wait.as_secs());
        // A simulated system always obeys.
        self.power(id, PowerVerb::Shutdown)
    }

    fn save(&self, id: VmId, cx: &Cx) -> Result<Vm, HypervisorError> {
        let before = self.known(id)?;
        cx.phase("Write the memory to the disk", before.spec.memory.bytes());
        self.take_time();
        cx.check()?;
        let saved = Self::is_on(&before) || before.saved;
        let state = if Self::is_on(&before) { VmState::Off } else { before.state };
        self.keep(id, Record { state, started: None, saved, ..before })
    }

    fn rebuild(&self, id: VmId, rebuild: &VmRebuild, cx: &Cx) -> Result<Vm, HypervisorError> {
        let before = self.known(id)?.spec;
        let spec = VmSpec {
            image: VmImage { sha256: rebuild.image.clone() },
            seed: rebuild.seed.clone().unwrap_or_else(|| before.seed.clone()),
            power: rebuild.power,
            rescue: None,
            ..before.clone()
        };
        spec::check(&spec)?;
        self.check_image(&spec)?;
        self.check_parts(&spec)?;
        cx.check()?;
        self.end_run(id, &before)?;
        points(&["rebuild.after_power_off"])?;
        self.end_run(id, &VmSpec { image: spec.image.clone(), ..before })?;
        points(&["rebuild.after_disk"])?;
        self.put(id, &spec)
    }

    fn rescue_on(&self, id: VmId, rescue: &Rescue) -> Result<Vm, HypervisorError> {
        let before = self.known(id)?.spec;
        let spec = VmSpec { rescue: Some(rescue.clone()), power: WantedPower::On, ..before.clone() };
        spec::check(&spec)?;
        self.check_parts(&spec)?;
        self.end_run(id, &before)?;
        points(&["rescue_on.after_power_off"])?;
        self.put(id, &spec)
    }

    fn rescue_off(&self, id: VmId) -> Result<Vm, HypervisorError> {
        let Record { spec: before, runs, .. } = self.known(id)?;
        let in_rescue = runs.as_ref().unwrap_or(&before).rescue.is_some();
        let spec = VmSpec { rescue: None, power: WantedPower::On, ..before.clone() };
        if in_rescue {
            self.end_run(id, &before)?;
        }
        points(&["rescue_off.after_power_off"])?;
        self.put(id, &spec)
    }

    fn remove(&self, id: VmId, how: &VmDelete, cx: &Cx) -> Result<(), HypervisorError> {
        let Some(before) = self.record(id)? else { return Ok(()) };
        let name = kept_name(id, how);
        if how.disks == DisksAfter::Keep {
            self.check_kept(&name)?;
        }
        cx.check()?;
        match how.disks {
            DisksAfter::Remove => {}
            DisksAfter::Wipe => points(&["wipe.after_rename", "wipe.after_wipe"])?,
            // Its disk has no life of its own, so what is kept is kept at the end.
            DisksAfter::Keep => points(&["keep.after_copy"])?,
        }
        self.delete(id)?;
        match how.disks {
            DisksAfter::Keep => self.keep_disk(&name, id, before.spec.disk),
            DisksAfter::Remove | DisksAfter::Wipe => Ok(()),
        }
    }

    fn kept(&self) -> Result<Vec<KeptDisk>, HypervisorError> {
        Ok(self.shelf().values().cloned().collect())
    }

    fn delete_kept(&self, name: &Name) -> Result<(), HypervisorError> {
        if let Some(folder) = &self.config.folder {
            remove_file(&folder.join(format!("{name}.kept")))
                .map_err(|e| failed("could not remove a kept disk", &e))?;
        }
        self.shelf().remove(name.as_str());
        Ok(())
    }
}
