//! What is known of volumes and of VMs' disks in pools: a file each, or in memory alone for a simulator without
//! a folder.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_model::agent::function::TargetValue;

use super::Record;
use crate::hypervisor::HypervisorError;
use crate::orphans;

/// Where records are kept: `{folder}/{id}/{kind}.json`.
#[derive(Debug)]
pub(super) enum Records<I> {
    Folder { folder: PathBuf, kind: &'static str },
    Memory(Mutex<BTreeMap<I, Record>>),
}

impl<I: TargetValue + Copy + Ord> Records<I> {
    pub fn in_folder(folder: PathBuf, kind: &'static str) -> Result<Self, HypervisorError> {
        super::directory::make_folder(&folder)?;
        Ok(Self::Folder { folder, kind })
    }

    pub fn in_memory() -> Self {
        Self::Memory(Mutex::default())
    }

    pub fn all(&self) -> Result<BTreeMap<I, Record>, HypervisorError> {
        let folder = match self {
            Self::Memory(records) => return Ok(lock(records).clone()),
            Self::Folder { folder, .. } => folder,
        };
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let id = entry?.file_name().to_str().and_then(I::read);
            if let Some(id) = id
                && let Some(record) = self.get(id)?
            {
                all.insert(id, record);
            }
        }
        Ok(all)
    }

    pub fn get(&self, id: I) -> Result<Option<Record>, HypervisorError> {
        let path = match self {
            Self::Memory(records) => return Ok(lock(records).get(&id).cloned()),
            Self::Folder { folder, kind } => folder.join(id.to_string()).join(file(kind)),
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
    pub fn put(&self, id: I, record: &Record) -> Result<(), HypervisorError> {
        let (folder, kind) = match self {
            Self::Memory(records) => {
                lock(records).insert(id, record.clone());
                return Ok(());
            }
            Self::Folder { folder, kind } => (folder.join(id.to_string()), kind),
        };
        super::directory::make_folder(&folder)?;
        let text = serde_json::to_vec(record).expect("a record is JSON");
        let mut new =
            tempfile::Builder::new().prefix(&unfinished(kind)).suffix(".new").tempfile_in(&folder)?;
        new.write_all(&text)?;
        new.as_file().sync_all()?;
        new.persist(folder.join(file(kind))).map_err(|e| e.error)?;
        fs::File::open(&folder)?.sync_all()?;
        Ok(())
    }

    /// Was all in the folder of a record left alone for a while?
    pub fn is_old(&self, id: I) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Folder { folder, .. } => orphans::is_old(&folder.join(id.to_string())),
        }
    }

    /// Leaves no record; what else is in its folder stays there.
    pub fn remove(&self, id: I) -> Result<(), HypervisorError> {
        let (folder, kind) = match self {
            Self::Memory(records) => {
                lock(records).remove(&id);
                return Ok(());
            }
            Self::Folder { folder, kind } => (folder.join(id.to_string()), kind),
        };
        Ok(remove(&folder, kind).or_else(|e| match e.kind() {
            ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty => Ok(()),
            _ => Err(e),
        })?)
    }
}

fn remove(folder: &Path, kind: &str) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name == file(kind) || name.starts_with(&unfinished(kind)) {
            fs::remove_file(folder.join(&*name))?;
        }
    }
    fs::remove_dir(folder)
}

fn file(kind: &str) -> String {
    format!("{kind}.json")
}

/// What the name of a file begins with that is being written.
fn unfinished(kind: &str) -> String {
    format!(".{kind}")
}

fn lock<I>(records: &Mutex<BTreeMap<I, Record>>) -> MutexGuard<'_, BTreeMap<I, Record>> {
    // Single inserts and removes: whole after any panic.
    records.lock().unwrap_or_else(PoisonError::into_inner)
}
