//! Volumes that belong to nothing any more.

use berth_model::{VmId, VolumeId};

use super::Storage;
use super::pool::{Data, Item};
use crate::hypervisor::HypervisorError;

/// A volume, or a part of one, that is left over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// Not made or not deleted to its end.
    HalfMade(VolumeId),
    /// Had by a VM that is not there.
    Claimed(VolumeId, VmId),
    /// In a pool, and in no record.
    Unknown(Data, String),
}

impl Left {
    /// What it is.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::HalfMade(_) => "half-made volume",
            Self::Claimed(..) => "attached volume",
            Self::Unknown(..) => "data of no volume",
        }
    }

    /// Which.
    pub fn name(&self) -> String {
        match self {
            Self::HalfMade(id) | Self::Claimed(id, _) => id.to_string(),
            Self::Unknown(data, pool) => format!("{pool}/{}", data.item),
        }
    }

    /// Why it is left over.
    pub fn why(&self) -> &'static str {
        match self {
            Self::HalfMade(_) => "It was not made or not deleted to its end.",
            Self::Claimed(..) => "The VM that has it is not there: it is to be detached, and keeps its data.",
            Self::Unknown(..) => "No record of this node names it.",
        }
    }
}

impl Storage {
    /// What is left over; `is_there` knows VMs.
    pub fn left_behind(&self, is_there: impl Fn(VmId) -> bool) -> Result<Vec<Left>, HypervisorError> {
        let mut left = Vec::new();
        let records = self.records.all()?;
        for (id, record) in &records {
            match record.attached_to {
                _ if !self.records.is_old(*id) => {}
                _ if !record.whole => left.push(Left::HalfMade(*id)),
                Some(vm) if !is_there(vm) => left.push(Left::Claimed(*id, vm)),
                _ => {}
            }
        }
        let mut known: Vec<Item> = records.into_keys().map(Item::Volume).collect();
        known.extend(self.disks.all()?.into_keys().map(Item::Disk));
        for pool in &self.pools {
            let strays = pool.strays(&known)?.into_iter();
            left.extend(strays.map(|data| Left::Unknown(data, pool.name().to_string())));
        }
        Ok(left)
    }

    /// Removes it: half a volume and what no record names with its data, a claim alone.
    pub fn clear(&self, left: &Left) -> Result<(), HypervisorError> {
        match left {
            // It may have been made to its end since it was found.
            Left::HalfMade(id) if self.records.get(*id)?.is_none_or(|record| record.whole) => Ok(()),
            Left::HalfMade(id) => self.delete(*id),
            Left::Claimed(_, vm) => self.release(*vm, &[]),
            Left::Unknown(data, pool) => {
                // It may have become somebody's since it was found.
                if self.read(data.item)?.is_some() {
                    return Ok(());
                }
                let pool = self.pools.iter().find(|known| known.name().as_str() == pool);
                pool.unwrap_or(&self.pools[0]).remove(data)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, UNIX_EPOCH};

    use berth_model::ByteSize;
    use berth_model::agent::{Name, VolumeAttachment, VolumeCreate};

    use super::*;
    use crate::config::{PoolPlace, PoolSection, StorageSection};
    use crate::faults;

    fn age(path: &Path) {
        let long_ago = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let entries = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
        entries.for_each(|entry| age(&entry.path()));
        std::fs::File::open(path).unwrap().set_modified(long_ago).unwrap();
    }

    #[test]
    fn volumes_of_no_vm_and_data_of_no_volume_are_found_when_they_are_old() {
        let _proof = crate::proof::pure(&["node.orphans"]);
        let home = tempfile::tempdir().unwrap();
        let section = StorageSection { promise_percent: 0, reserve_mib: 0, disks: None };
        let others = Box::new(|| Ok((0, 0)));
        let storage = Storage::open(&section, &[], home.path(), &home.path().join("images"), others).unwrap();
        let wanted = VolumeCreate { size: ByteSize::mib(1), pool: None, format: None, file_system: None };
        for id in [5, 6, 7] {
            storage.create(VolumeId(id), &wanted).unwrap();
        }
        assert!(faults::with("volume.after_data=error", || storage.create(VolumeId(8), &wanted)).is_err());
        for (vm, volume) in [(VmId(1), 5), (VmId(2), 6)] {
            storage.claim(vm, &[VolumeAttachment { volume: VolumeId(volume), read_only: false }]).unwrap();
        }
        std::fs::create_dir(home.path().join("volumes/9")).unwrap();
        std::fs::write(home.path().join("volumes/9/volume.raw"), "data").unwrap();
        let find = || storage.left_behind(|vm| vm == VmId(1)).unwrap();
        assert!(find().is_empty(), "all of it may be in the making");
        age(&home.path().join("volumes"));
        let found = find();
        let names: Vec<_> = found.iter().map(|left| (left.kind(), left.name())).collect();
        let expected =
            [("attached volume", "6"), ("half-made volume", "8"), ("data of no volume", "default/volume-9")];
        assert_eq!(names, expected.map(|(kind, name)| (kind, name.to_owned())));
        found.iter().for_each(|left| storage.clear(left).unwrap());
        assert!(find().is_empty() && !home.path().join("volumes/9").exists());
        let ids: Vec<_> = storage.volumes().unwrap().iter().map(|v| (v.id.0, v.attached_to)).collect();
        assert_eq!(ids, [(5, Some(VmId(1))), (6, None), (7, None)]);
    }

    #[test]
    fn what_lies_in_a_shared_pool_may_be_another_nodes() {
        let _proof = crate::proof::pure(&["node.orphans"]);
        let home = tempfile::tempdir().unwrap();
        let section = StorageSection { promise_percent: 0, reserve_mib: 0, disks: None };
        let path = home.path().join("shared");
        std::fs::create_dir_all(path.join("volumes/9")).unwrap();
        std::fs::write(path.join("volumes/9/volume.raw"), "data").unwrap();
        age(&path);
        let left = |shared: bool| {
            let place = PoolPlace::Directory { path: path.clone(), shared };
            let pools = [PoolSection { name: Name::new("other").unwrap(), place }];
            let (images, others) = (home.path().join("images"), Box::new(|| Ok((0, 0))));
            let storage = Storage::open(&section, &pools, home.path(), &images, others).unwrap();
            storage.left_behind(|_| true).unwrap().len()
        };
        assert_eq!((left(true), left(false)), (0, 1));
    }
}
