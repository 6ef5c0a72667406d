//! VMs' own disks in other pools than `default`, where a disk is a qcow2 file in its VM's folder.
//!
//! Such a disk has a record, `{data_dir}/vms/{id}/disk.json`, which comes before the disk and goes after it.

use std::sync::Arc;

use berth_model::agent::{CloneMode, Name, VmSpec, VolumeFormat};
use berth_model::{ByteSize, VmId};

use super::pool::{Data, InPool, Item, Key, Pool, Source};
use super::{ClonedFrom, DEFAULT_POOL, Record, Storage, invalid, mode_in, pool_format};
use crate::hypervisor::HypervisorError;
use crate::runs::Cx;

/// The pool that a VM's disk lies in by its specification; nothing for a file in its folder.
pub fn pool_of(spec: &VmSpec) -> Option<&Name> {
    spec.disk_pool.as_ref().filter(|pool| pool.as_str() != DEFAULT_POOL)
}

impl Storage {
    /// The pool that a VM's disk really lies in; nothing for a file in its folder.
    pub fn disk_pool(&self, vm: VmId) -> Result<Option<Name>, HypervisorError> {
        Ok(self.disks.get(vm)?.map(|record| record.pool))
    }

    /// A VM's disk in a pool; nothing for a file in its folder. Refuses `what` in a pool that takes no snapshots.
    pub fn disk_in_pool(&self, vm: VmId, what: &str) -> Result<Option<InPool>, HypervisorError> {
        let Some(record) = self.disks.get(vm)? else { return Ok(None) };
        let pool = self.pools.iter().find(|pool| *pool.name() == record.pool && pool.shots().is_some());
        let Some(pool) = pool.map(Arc::clone) else {
            return Err(HypervisorError::Conflict(format!(
                "The disk of VM {vm} lies in the pool {}, and {what} only in the pool {DEFAULT_POOL} and in Ceph.",
                record.pool
            )));
        };
        let data = record.data(Item::Disk(vm));
        Ok(Some(InPool { pool, data, image: record.from.map(|from| from.image).unwrap_or_default() }))
    }

    /// Refuses when its pool is so full that a snapshot of a disk may soon fill it.
    pub fn check_room_for_snapshot(&self, disk: &InPool) -> Result<(), HypervisorError> {
        self.check_room(&*disk.pool, ByteSize(0), disk.data.size.min(self.reserve))
    }

    /// Begins a disk that will take the place of a VM's, and says what QEMU's tools call it. It stands on the same
    /// image, as long as that is on this node.
    pub fn begin_restored(&self, vm: VmId, disk: &InPool) -> Result<String, HypervisorError> {
        self.check_room(&*disk.pool, disk.data.size, ByteSize(0))?;
        let record = self.disks.get(vm)?;
        let from = record.and_then(|record| self.source_of(&record).ok().flatten());
        disk.shots().begin_new(&Cx::unwatched(), &disk.data, from.as_ref())
    }

    /// Refuses `what` for a VM whose disk lies in a pool.
    pub fn needs_own_file(&self, vm: VmId, what: &str) -> Result<(), HypervisorError> {
        let Some(pool) = self.disk_pool(vm)? else { return Ok(()) };
        Err(HypervisorError::Conflict(format!(
            "The disk of VM {vm} lies in the pool {pool}, and {what} only for a disk in the pool {DEFAULT_POOL}."
        )))
    }

    /// Refuses a disk that cannot be made or changed as `spec` says, without touching anything.
    pub fn check_disk(&self, vm: VmId, spec: &VmSpec) -> Result<(), HypervisorError> {
        let known = self.disks.get(vm)?;
        let Some(pool) = pool_of(spec) else {
            return match known {
                None => Ok(()),
                Some(known) => Err(elsewhere(&known.pool)),
            };
        };
        let pool = self.disks_pool(pool)?;
        let more = match known {
            Some(known) if known.pool != *pool.name() => return Err(elsewhere(&known.pool)),
            Some(known) if known.from.as_ref().is_none_or(|from| from.image != spec.image.sha256) => {
                let message = "The disk was made from another image; delete the VM first.";
                return Err(HypervisorError::Conflict(message.to_owned()));
            }
            Some(known) if spec.disk < known.size => {
                let message = format!("The disk has {} already, and never shrinks.", known.size);
                return Err(invalid("disk", message));
            }
            Some(known) if known.whole => spec.disk.bytes() - known.size.bytes(),
            _ => {
                self.source_of(&self.disk_record(vm, pool, spec)?).map_err(|e| named(e, "size", "disk"))?;
                spec.disk.bytes()
            }
        };
        if more == 0 { Ok(()) } else { self.check_room(pool, ByteSize(more), ByteSize(0)) }
    }

    /// Brings a VM's disk to `spec`. `grow_live` grows it in a VM that runs, and says whether it does; it is told
    /// whether the disk has to grow, or may have to: a growth that was cut off was written down already.
    pub fn put_disk(
        &self,
        cx: &Cx,
        vm: VmId,
        spec: &VmSpec,
        grow_live: impl FnOnce(bool) -> Result<bool, HypervisorError>,
    ) -> Result<(), HypervisorError> {
        let Some(pool) = pool_of(spec) else { return Ok(()) };
        let pool = self.disks_pool(pool)?;
        match self.disks.get(vm)? {
            Some(known) if known.whole && spec.disk > known.size => {
                self.grow(Item::Disk(vm), &known, spec.disk, |_| grow_live(true))
            }
            Some(known) if known.whole => match grow_live(false)? {
                true => Ok(()),
                false => pool.grow(&known.data(Item::Disk(vm))),
            },
            _ => {
                let record = self.disk_record(vm, pool, spec)?;
                self.make(cx, Item::Disk(vm), pool, record).map(drop)
            }
        }
    }

    /// Where QEMU finds a VM's disk; nothing for a file in its folder.
    pub fn disk_source(&self, vm: VmId) -> Result<Option<(Source, VolumeFormat)>, HypervisorError> {
        let Some(record) = self.disks.get(vm)? else { return Ok(None) };
        Ok(Some((self.pool(&record.pool)?.source(&record.data(Item::Disk(vm))), record.format)))
    }

    /// Leaves nothing of a VM's disk in a pool; fine if there is none.
    pub fn remove_disk(&self, vm: VmId) -> Result<(), HypervisorError> {
        let record = {
            let _deciding = self.decide();
            let Some(record) = self.disks.get(vm)? else { return Ok(()) };
            self.doom(Item::Disk(vm), record)?
        };
        self.remove(Item::Disk(vm), &record)
    }

    /// The keys that a VM needs to come to its disk and its volumes.
    pub fn keys_of(&self, vm: VmId) -> Result<Vec<Key>, HypervisorError> {
        let volumes = self.records.all()?.into_values().filter(|record| record.attached_to == Some(vm));
        let mut pools: Vec<Name> = volumes.map(|record| record.pool).chain(self.disk_pool(vm)?).collect();
        pools.sort();
        pools.dedup();
        let mut keys = Vec::new();
        for pool in pools {
            keys.extend(self.pool(&pool)?.key()?);
        }
        Ok(keys)
    }

    /// Has the pool its own copies of images?
    pub fn keeps_images(&self, pool: &Name) -> bool {
        self.pool(pool).is_ok_and(Pool::keeps_images)
    }

    /// Drops the pools' own copies of an image that nothing stands on.
    pub fn forget_image(&self, sha256: &str) -> Result<(), HypervisorError> {
        self.pools.iter().try_for_each(|pool| pool.forget_image(sha256))
    }

    /// The pools' own copies of images that nothing stands on, each with its pool.
    pub fn unused_images(&self) -> Result<Vec<(Name, String)>, HypervisorError> {
        let mut all = Vec::new();
        for pool in &self.pools {
            all.extend(pool.unused_images()?.into_iter().map(|sha256| (pool.name().clone(), sha256)));
        }
        Ok(all)
    }

    pub(super) fn own_disks(&self, pool: &dyn Pool) -> Result<Vec<Data>, HypervisorError> {
        let all = self.disks.all()?.into_iter().filter(|(_, record)| record.pool == *pool.name());
        Ok(all.map(|(id, record)| record.data(Item::Disk(id))).collect())
    }

    pub(super) fn disks_pool(&self, name: &Name) -> Result<&dyn Pool, HypervisorError> {
        self.pool(name).map_err(|e| named(e, "pool", "disk_pool"))
    }

    pub(super) fn disk_record(
        &self,
        vm: VmId,
        pool: &dyn Pool,
        spec: &VmSpec,
    ) -> Result<Record, HypervisorError> {
        let mode = mode_in(pool, spec.disk_mode);
        let format = match mode {
            CloneMode::Backing => {
                pool.formats().iter().copied().find(|format| pool.can_stand_on_image(*format))
            }
            CloneMode::Copy => None,
        };
        let format = pool_format(pool, format, Some(mode))?;
        let from = Some(ClonedFrom { image: spec.image.sha256.clone(), mode });
        Ok(Record {
            pool: pool.name().clone(),
            format,
            size: spec.disk,
            from,
            file_system: None,
            attached_to: Some(vm),
            whole: false,
            coming: None,
        })
    }
}

fn elsewhere(pool: &Name) -> HypervisorError {
    HypervisorError::Conflict(format!(
        "The disk lies in the pool {pool}, and stays there; delete the VM first."
    ))
}

/// The same error under the name that the field has in a VM's specification.
fn named(error: HypervisorError, from: &str, to: &str) -> HypervisorError {
    match error {
        HypervisorError::Invalid(mut fault) if fault.name == from => {
            to.clone_into(&mut fault.name);
            HypervisorError::Invalid(fault)
        }
        other => other,
    }
}
