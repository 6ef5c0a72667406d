//! Volumes that move with their VM to another node.
//!
//! ```text
//! there  place: record says who comes ─► empty data      arrived: record says whole
//! here   leave: record says not whole ─► data ─► record
//! ```
//!
//! A volume in a storage that both nodes share is handed over: there its data is only looked for, and here
//! only its record goes. So is a VM's own disk in a pool, which moves in no other way.

use std::path::PathBuf;

use berth_model::agent::{CloneMode, MoveVolume, Name, VmSpec, Volume, VolumeFormat};
use berth_model::{VmId, VolumeId};
use serde::{Deserialize, Serialize};

use super::pool::{Item, Source};
use super::{ClonedFrom, Record, Storage, disks, pool_format};
use crate::faults;
use crate::hypervisor::HypervisorError;
use crate::runs::Cx;

/// A volume has not arrived yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coming {
    /// Its data is that of the node it comes from, too.
    shared: bool,
}

/// A volume of a VM that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Going {
    /// Which.
    pub volume: VolumeId,
    /// Its file here, or its image in Ceph.
    pub place: PathBuf,
    /// Only files can be copied.
    pub is_file: bool,
    /// How it lies there.
    pub format: VolumeFormat,
    /// The storage that others may share.
    pub shared: Option<String>,
}

impl Storage {
    /// Refuses volumes for which there is no place, before anything is touched.
    pub fn check_places(&self, vm: VmId, volumes: &[Volume]) -> Result<(), HypervisorError> {
        volumes.iter().try_for_each(|volume| self.place_of(vm, volume).map(drop))
    }

    /// What a volume will be here; nothing of it is written down.
    fn place_of(&self, vm: VmId, volume: &Volume) -> Result<Record, HypervisorError> {
        let id = volume.id;
        let pool = self.pool(&volume.pool)?;
        let mode = if volume.stands_on_image { CloneMode::Backing } else { CloneMode::Copy };
        let format = pool_format(pool, Some(volume.format), volume.stands_on_image.then_some(mode))?;
        let mut record = Record {
            pool: volume.pool.clone(),
            format,
            size: volume.size,
            from: volume.image.clone().map(|image| ClonedFrom { image, mode }),
            file_system: None,
            attached_to: Some(vm),
            whole: false,
            coming: Some(Coming { shared: false }),
        };
        let data = record.data(Item::Volume(id));
        let is_there = pool.shared()?.is_some() && pool.allocated(&data)?.is_some();
        if !is_there && !matches!(pool.source(&data), Source::File(_)) {
            return Err(HypervisorError::Conflict(format!(
                "Volume {id} cannot move to the pool {}: it does not lie there already, and only files are copied.",
                volume.pool
            )));
        }
        match self.records.get(id)? {
            Some(known) if known.coming.is_some() && known.attached_to == Some(vm) => return Ok(known),
            Some(_) => {
                return Err(HypervisorError::Conflict(format!("Volume {id} is on this node already.")));
            }
            None => {}
        }
        if is_there {
            record.coming = Some(Coming { shared: true });
            return Ok(record);
        }
        if volume.stands_on_image {
            self.source_of(&record)?;
        }
        self.check_room(pool, volume.size, volume.allocated)?;
        Ok(record)
    }

    /// Makes places for the volumes that come with a VM, empty ones.
    pub fn place(&self, vm: VmId, volumes: &[Volume]) -> Result<Vec<MoveVolume>, HypervisorError> {
        volumes.iter().map(|volume| self.place_one(vm, volume)).collect()
    }

    fn place_one(&self, vm: VmId, volume: &Volume) -> Result<MoveVolume, HypervisorError> {
        let id = volume.id;
        let record = {
            let _deciding = self.decide();
            let record = self.place_of(vm, volume)?;
            self.records.put(id, &record)?;
            record
        };
        faults::point("move.after_record")?;
        let pool = self.pool(&record.pool)?;
        let data = record.data(Item::Volume(id));
        let shared = record.coming.as_ref().is_some_and(|coming| coming.shared);
        if !shared {
            let from = if volume.stands_on_image { self.source_of(&record)? } else { None };
            // Always an empty one: what an earlier try left in it would shine through.
            pool.remove(&data)?;
            pool.create(&Cx::unwatched(), &data, from.as_ref())?;
        }
        self.show_place(id, &record)
    }

    /// The image that a volume stands on.
    pub fn image_below(&self, id: VolumeId) -> Result<Option<PathBuf>, HypervisorError> {
        let record = self.record(id)?;
        let below = record.from.as_ref().is_some_and(|from| from.mode == CloneMode::Backing);
        Ok(if below { self.source_of(&record)?.map(|from| from.file) } else { None })
    }

    /// The places that were made for a VM's volumes.
    pub fn placed(&self, vm: VmId) -> Result<Vec<MoveVolume>, HypervisorError> {
        self.coming(vm)?.iter().map(|(id, record)| self.show_place(*id, record)).collect()
    }

    fn show_place(&self, id: VolumeId, record: &Record) -> Result<MoveVolume, HypervisorError> {
        let pool = self.pool(&record.pool)?;
        let place = pool.source(&record.data(Item::Volume(id))).place();
        let is_shared = record.coming.as_ref().is_some_and(|coming| coming.shared);
        let shared = if is_shared { pool.shared()? } else { None };
        Ok(MoveVolume { volume: id, file: place.to_string_lossy().into_owned(), shared })
    }

    /// Refuses a VM's disk in a pool that does not lie there already, for both nodes.
    pub fn check_disk_place(&self, vm: VmId, spec: &VmSpec) -> Result<(), HypervisorError> {
        self.place_of_disk(vm, spec).map(drop)
    }

    /// Writes down that a VM's disk, which lies in its pool, comes with the VM.
    pub fn place_disk(&self, vm: VmId, spec: &VmSpec) -> Result<(), HypervisorError> {
        match self.place_of_disk(vm, spec)? {
            Some(record) => self.disks.put(vm, &record),
            None => Ok(()),
        }
    }

    fn place_of_disk(&self, vm: VmId, spec: &VmSpec) -> Result<Option<Record>, HypervisorError> {
        let Some(name) = disks::pool_of(spec) else { return Ok(None) };
        let pool = self.disks_pool(name)?;
        let record = Record { coming: Some(Coming { shared: true }), ..self.disk_record(vm, pool, spec)? };
        let refused = |why: &str| {
            HypervisorError::Conflict(format!(
                "VM {vm} cannot move: its disk lies in the pool {name}, {why}."
            ))
        };
        // In a shared folder it would stand on an image by a path of one node.
        if pool.shared()?.is_none() || !pool.keeps_images() {
            return Err(refused("which is none of Ceph's that nodes share"));
        }
        match pool.allocated(&record.data(Item::Disk(vm)))? {
            Some(_) => Ok(Some(record)),
            None => Err(refused("and is not in the one that this node has under the name")),
        }
    }

    /// The name of the storage below a pool, where nodes share it.
    pub fn shared_name(&self, pool: &Name) -> Result<Option<String>, HypervisorError> {
        self.pool(pool)?.shared()
    }

    /// The disk and the volumes that came with a VM are whole.
    pub fn arrived(&self, vm: VmId) -> Result<(), HypervisorError> {
        let _deciding = self.decide();
        if let Some(record) = self.disks.get(vm)?.filter(|record| record.coming.is_some()) {
            self.disks.put(vm, &Record { whole: true, coming: None, ..record })?;
        }
        for (id, record) in self.coming(vm)? {
            self.records.put(id, &Record { whole: true, coming: None, ..record })?;
        }
        Ok(())
    }

    /// Removes the places of a disk and of volumes that did not come.
    pub fn clear_places(&self, vm: VmId) -> Result<(), HypervisorError> {
        let _deciding = self.decide();
        if self.disks.get(vm)?.is_some_and(|record| record.coming.is_some()) {
            self.disks.remove(vm)?;
        }
        for (id, record) in self.coming(vm)? {
            if record.coming.as_ref().is_some_and(|coming| !coming.shared) {
                self.pool(&record.pool)?.remove(&record.data(Item::Volume(id)))?;
            }
            self.records.remove(id)?;
        }
        Ok(())
    }

    fn coming(&self, vm: VmId) -> Result<Vec<(VolumeId, Record)>, HypervisorError> {
        let is_of = |record: &Record| record.coming.is_some() && record.attached_to == Some(vm);
        Ok(self.records.all()?.into_iter().filter(|(_, record)| is_of(record)).collect())
    }

    /// What a VM takes along.
    pub fn going(&self, vm: VmId) -> Result<Vec<Going>, HypervisorError> {
        let mut going = Vec::new();
        for (volume, record) in self.records.all()? {
            if record.attached_to != Some(vm) {
                continue;
            }
            let pool = self.pool(&record.pool)?;
            let (source, shared) = (pool.source(&record.data(Item::Volume(volume))), pool.shared()?);
            let is_file = matches!(source, Source::File(_));
            if shared.is_none() && !is_file {
                return Err(HypervisorError::Conflict(format!(
                    "VM {vm} cannot move: its volume {volume} is no file, and lies in a pool of this node alone; \
                     detach it first."
                )));
            }
            going.push(Going { volume, place: source.place(), is_file, format: record.format, shared });
        }
        Ok(going)
    }

    /// Leaves nothing here of the volumes that went; data on a shared storage stays.
    pub fn leave(&self, vm: VmId, went: &[MoveVolume]) -> Result<(), HypervisorError> {
        let _deciding = self.decide();
        for MoveVolume { volume: id, shared, .. } in went {
            let Some(record) = self.records.get(*id)?.filter(|record| record.attached_to == Some(vm)) else {
                continue;
            };
            if shared.is_none() {
                // Cut off here, it is half-made: nobody uses it.
                self.records.put(*id, &Record { whole: false, ..record.clone() })?;
                self.pool(&record.pool)?.remove(&record.data(Item::Volume(*id)))?;
            }
            self.records.remove(*id)?;
        }
        Ok(())
    }
}
