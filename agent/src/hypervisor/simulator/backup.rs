//! Simulated disks: as large as they are told to be, and empty. What stands in the store is real.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use berth_model::VmId;
use berth_model::agent::VmSpec;

use crate::backups::disk::{Content, Extent, Making, Restoring, Source, Taken, Taking, Target, Wish};
use crate::hypervisor::HypervisorError;

/// The mark of each VM's disk. In memory alone: an agent that comes anew makes a full backup first.
pub(super) type Marks = Arc<Mutex<BTreeMap<VmId, String>>>;

pub(super) fn begin(marks: &Marks, id: VmId, spec: &VmSpec, wish: &Wish<'_>) -> Box<dyn Taking> {
    let before = marks.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
    let since = before.filter(|mark| wish.since.contains(mark));
    let lost = since.is_none() && !wish.since.is_empty();
    let content = if since.is_some() { Content::Unchanged } else { Content::Zeros };
    let taken = Taken {
        since,
        mark: Some(wish.mark.to_owned()),
        full_because: lost.then(|| "The disk's changes since the last backup are not known.".to_owned()),
        frozen: false,
        image: spec.image.sha256.clone(),
    };
    Box::new(Lent { disk: Empty { size: spec.disk.bytes(), content }, taken, marks: Arc::clone(marks), id })
}

pub(super) fn restore(marks: &Marks, id: VmId, restoring: &Restoring) -> Box<dyn Making> {
    let disk = Empty { size: restoring.size.bytes(), content: Content::Zeros };
    Box::new(Made { disk, marks: Arc::clone(marks), id })
}

struct Empty {
    size: u64,
    content: Content,
}

impl Source for Empty {
    fn size(&self) -> u64 {
        self.size
    }
    fn extent(&mut self, offset: u64, length: u64) -> Result<Extent, HypervisorError> {
        Ok(Extent { offset, length, content: self.content })
    }
    fn read(&mut self, _: u64, bytes: &mut [u8]) -> Result<(), HypervisorError> {
        bytes.fill(0);
        Ok(())
    }
}

impl Target for Empty {
    fn write(&mut self, _: u64, _: &[u8]) -> Result<(), HypervisorError> {
        Ok(())
    }
    fn zero(&mut self, _: u64, _: u64) -> Result<(), HypervisorError> {
        Ok(())
    }
}

struct Lent {
    disk: Empty,
    taken: Taken,
    marks: Marks,
    id: VmId,
}

impl Taking for Lent {
    fn source(&mut self) -> &mut dyn Source {
        &mut self.disk
    }
    fn taken(&self) -> &Taken {
        &self.taken
    }
    fn close(&mut self) -> Result<(), HypervisorError> {
        Ok(())
    }
    fn keep(self: Box<Self>) -> Result<(), HypervisorError> {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.extend(self.taken.mark.map(|mark| (self.id, mark)));
        Ok(())
    }
}

struct Made {
    disk: Empty,
    marks: Marks,
    id: VmId,
}

impl Making for Made {
    fn target(&mut self) -> &mut dyn Target {
        &mut self.disk
    }
    fn finish(self: Box<Self>) -> Result<(), HypervisorError> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        Ok(())
    }
}
