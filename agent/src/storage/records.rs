//! Volumes' records: a file each, or in memory alone for a simulator without a folder.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_model::VolumeId;
use berth_model::agent::function::TargetValue as _;

use super::Record;
use crate::hypervisor::HypervisorError;

const FILE: &str = "volume.json";

/// Where records are kept.
#[derive(Debug)]
pub(super) enum Records {
    Folder(PathBuf),
    Memory(Mutex<BTreeMap<VolumeId, Record>>),
}

impl Records {
    pub fn in_folder(folder: &Path) -> Result<Self, HypervisorError> {
        super::directory::make_folder(folder)?;
        Ok(Self::Folder(folder.to_owned()))
    }

    pub fn in_memory() -> Self {
        Self::Memory(Mutex::default())
    }

    pub fn all(&self) -> Result<BTreeMap<VolumeId, Record>, HypervisorError> {
        let folder = match self {
            Self::Memory(records) => return Ok(lock(records).clone()),
            Self::Folder(folder) => folder,
        };
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let id = entry?.file_name().to_str().and_then(VolumeId::read);
            if let Some(id) = id
                && let Some(record) = self.get(id)?
            {
                all.insert(id, record);
            }
        }
        Ok(all)
    }

    pub fn get(&self, id: VolumeId) -> Result<Option<Record>, HypervisorError> {
        let path = match self {
            Self::Memory(records) => return Ok(lock(records).get(&id).cloned()),
            Self::Folder(folder) => folder.join(id.to_string()).join(FILE),
        };
        let text = match fs::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let record = serde_json::from_slice(&text);
        record
            .map(Some)
            .map_err(|e| HypervisorError::Failed(format!("{} cannot be read: {e}", path.display())))
    }

    /// Replaces a record as a whole, on the disk when this returns.
    pub fn put(&self, id: VolumeId, record: &Record) -> Result<(), HypervisorError> {
        let folder = match self {
            Self::Memory(records) => {
                lock(records).insert(id, record.clone());
                return Ok(());
            }
            Self::Folder(folder) => folder.join(id.to_string()),
        };
        super::directory::make_folder(&folder)?;
        let text = serde_json::to_vec(record).expect("a record is JSON");
        let mut file = tempfile::Builder::new().prefix(".volume").suffix(".new").tempfile_in(&folder)?;
        file.write_all(&text)?;
        file.as_file().sync_all()?;
        file.persist(folder.join(FILE)).map_err(|e| e.error)?;
        fs::File::open(&folder)?.sync_all()?;
        Ok(())
    }

    pub fn remove(&self, id: VolumeId) -> Result<(), HypervisorError> {
        match self {
            Self::Memory(records) => drop(lock(records).remove(&id)),
            Self::Folder(folder) => match fs::remove_dir_all(folder.join(id.to_string())) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e.into()),
                _ => {}
            },
        }
        Ok(())
    }
}

fn lock(records: &Mutex<BTreeMap<VolumeId, Record>>) -> MutexGuard<'_, BTreeMap<VolumeId, Record>> {
    // Single inserts and removes: whole after any panic.
    records.lock().unwrap_or_else(PoisonError::into_inner)
}
