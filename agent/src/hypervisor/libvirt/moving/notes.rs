//! What VMs are in the middle of, `{data_dir}/moves/{id}.json`.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use berth_model::agent::{Nic, VmSpec};
use berth_model::{Timestamp, VmId};
use serde::{Deserialize, Serialize};

use super::super::folder::gone;
use super::super::names::vm_id;
use super::off::Parcel;
use crate::hypervisor::HypervisorError;

/// What a VM is in the middle of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// It comes from another node.
    Coming {
        /// What it will be.
        spec: Box<VmSpec>,
        /// When its room goes, unless it comes before.
        until: Timestamp,
        /// Its disk is that of the node it comes from, too.
        shared: bool,
        /// All of it, arrived as files.
        arrived: Option<Parcel>,
    },
    /// It goes to another node.
    Leaving {
        /// Its disk is that of the other node, too.
        shared: bool,
    },
}

/// All notes.
#[derive(Debug, Clone)]
pub struct Notes(PathBuf);

impl Notes {
    /// Was a VM cut off on its way to a node that shares its disk, so that it may run there?
    pub fn leaves_shared(&self, id: VmId) -> Result<bool, HypervisorError> {
        Ok(matches!(self.get(id)?, Some(Note::Leaving { shared: true })))
    }

    /// Makes the place for notes.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let place = data_dir.join("moves");
        // A spec has the customer's user data in it.
        std::os::unix::fs::DirBuilderExt::mode(fs::DirBuilder::new().recursive(true), 0o700)
            .create(&place)?;
        Ok(Self(place))
    }

    /// The note on a VM.
    pub fn get(&self, id: VmId) -> Result<Option<Note>, HypervisorError> {
        match fs::read(self.path(id)) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|e| HypervisorError::Failed(format!("the note on the move of VM {id}: {e}"))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Replaces it; it survives a power cut.
    pub fn put(&self, id: VmId, note: &Note) -> Result<(), HypervisorError> {
        let mut file = tempfile::NamedTempFile::new_in(&self.0)?;
        file.write_all(&serde_json::to_vec(note).expect("a note is plain data"))?;
        file.as_file().sync_all()?;
        file.persist(self.path(id)).map_err(|e| e.error)?;
        Ok(fs::File::open(&self.0)?.sync_all()?)
    }

    /// Removes it, unless it is gone.
    pub fn remove(&self, id: VmId) -> Result<(), HypervisorError> {
        Ok(gone(fs::remove_file(self.path(id)))?)
    }

    /// All VMs that are in the middle of something.
    pub fn all(&self) -> Result<Vec<VmId>, HypervisorError> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            let is_note = path.extension().is_some_and(|extension| extension == "json");
            let name = path.file_stem().and_then(|stem| stem.to_str()).filter(|_| is_note);
            ids.extend(name.and_then(vm_id));
        }
        Ok(ids)
    }

    /// The network cards of those of `vms` that come.
    pub fn coming(&self, vms: impl Iterator<Item = VmId>) -> Result<Vec<(VmId, Vec<Nic>)>, HypervisorError> {
        let mut coming = Vec::new();
        for id in vms {
            if let Some(Note::Coming { spec, .. }) = self.get(id)? {
                coming.push((id, spec.nics));
            }
        }
        Ok(coming)
    }

    /// Refuses to change a VM that comes.
    pub fn refuse_coming(&self, id: VmId) -> Result<(), HypervisorError> {
        match self.get(id)? {
            Some(Note::Coming { .. }) => Err(HypervisorError::Conflict(format!(
                "VM {id} comes from another node: finish its move first, or abort it."
            ))),
            _ => Ok(()),
        }
    }

    fn path(&self, id: VmId) -> PathBuf {
        self.0.join(format!("{id}.json"))
    }
}
