//! A simulated VM moves as its record: over the same way as a real one, in no time.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use berth_model::agent::{
    DomainType, MoveArrived, MovePrepare, MoveRoom, MoveSend, MoveSent, VmSpec, VmState,
};
use berth_model::{Timestamp, VmId};

use super::{Record, Simulator, failed, points, record_path, remove_file, show};
use crate::hypervisor::HypervisorError;
use crate::moving::Way;
use crate::runs::Cx;
use crate::spec;
use crate::storage::moving::Going;

/// Longest record.
const RECORD_MAX_BYTES: u64 = 8 * 1024 * 1024;
/// Longest silence.
const SILENCE: Duration = Duration::from_secs(60);
/// What the target says once it has the record.
const DONE: &str = "done\n";

/// A VM that comes: what it will be, and when its room goes.
pub(super) type Coming = (VmSpec, Timestamp);

impl Simulator {
    fn coming(&self) -> MutexGuard<'_, BTreeMap<VmId, Coming>> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn refuse_coming(&self, id: VmId) -> Result<(), HypervisorError> {
        if !self.coming().contains_key(&id) {
            return Ok(());
        }
        Err(HypervisorError::Conflict(format!(
            "VM {id} comes from another node: finish its move first, or abort it."
        )))
    }

    pub(super) fn forget_coming(&self, id: VmId) -> Result<(), HypervisorError> {
        if self.coming().remove(&id).is_none() {
            return Ok(());
        }
        if self.record(id)?.is_some() { self.storage.arrived(id) } else { self.storage.clear_places(id) }
    }

    pub(super) fn rooms(&self) -> Result<Vec<(VmId, Timestamp)>, HypervisorError> {
        let coming = self.coming().clone();
        let mut rooms = Vec::new();
        for (id, (_, until)) in coming {
            if self.record(id)?.is_none() {
                rooms.push((id, until));
            }
        }
        Ok(rooms)
    }

    pub(super) fn make_room(
        &self,
        id: VmId,
        asked: &MovePrepare,
        until: Timestamp,
    ) -> Result<MoveRoom, HypervisorError> {
        let spec = &asked.spec;
        spec::check(spec)?;
        let comes = self.coming().contains_key(&id);
        if self.record(id)?.is_some() && !comes {
            return Err(HypervisorError::Conflict(format!("VM {id} is on this node already.")));
        }
        self.check_image(spec)?;
        self.storage.check_places(id, &asked.volumes)?;
        self.take_time();
        self.coming().insert(id, (spec.clone(), until));
        points(&["move.after_note"])?;
        let volumes = self.storage.place(id, &asked.volumes)?;
        points(&["move.after_room"])?;
        Ok(MoveRoom {
            domain_type: DomainType::Simulator,
            domain: format!("berth-{id}"),
            folder: "/".to_owned(),
            disk: "/".to_owned(),
            images: "/".to_owned(),
            bridge: None,
            shared: None,
            volumes,
        })
    }

    pub(super) fn send(
        &self,
        id: VmId,
        order: &MoveSend,
        way: &Way,
        cx: &Cx,
    ) -> Result<MoveSent, HypervisorError> {
        let Some(record) = self.record(id)? else {
            return match way.has_arrived() {
                Ok(true) => Ok(MoveSent::before()),
                _ => Err(HypervisorError::NotFound(id)),
            };
        };
        let placed = |going: &Going| order.to.room.volumes.iter().any(|placed| placed.volume == going.volume);
        if let Some(lost) = self.storage.going(id)?.iter().find(|going| !placed(going)) {
            return Err(HypervisorError::Conflict(format!(
                "VM {id} cannot move there: its volume {} was not named to moving.prepare.",
                lost.volume
            )));
        }
        self.take_time();
        points(&["move.after_leaving"])?;
        let live = matches!(record.state, VmState::Running | VmState::Paused);
        let mut line = serde_json::to_vec(&record).map_err(|e| failed("could not send a VM", &e))?;
        line.push(b'\n');
        cx.phase("Copy disk and memory", line.len() as u64);
        cx.check()?;
        let mut stream = way.disk()?;
        stream.write_all(&line)?;
        let mut answer = String::new();
        BufReader::new(&stream).take(RECORD_MAX_BYTES).read_line(&mut answer)?;
        if answer != DONE {
            return Err(HypervisorError::Failed("The other node did not take the VM.".to_owned()));
        }
        cx.done(line.len() as u64);
        points(&["move.after_copy", "move.after_undefine"])?;
        self.storage.leave(id, &order.to.room.volumes)?;
        self.drop_record(id)?;
        points(&["move.after_left"])?;
        Ok(MoveSent { live, sent_bytes: line.len() as u64, post_copied: false })
    }

    fn drop_record(&self, id: VmId) -> Result<(), HypervisorError> {
        if let Some(folder) = &self.config.folder {
            remove_file(&record_path(folder, id)).map_err(|e| failed("could not remove a VM's file", &e))?;
        }
        if self.vms().remove(&id).is_some() {
            self.tell(id, None);
        }
        Ok(())
    }

    pub(super) fn receive(&self, id: VmId, from: &UnixStream) -> Result<(), HypervisorError> {
        if !self.coming().contains_key(&id) {
            return Err(HypervisorError::Conflict(format!("VM {id} is not awaited on this node.")));
        }
        from.set_read_timeout(Some(SILENCE))?;
        let mut line = String::new();
        BufReader::new(from).take(RECORD_MAX_BYTES).read_line(&mut line)?;
        let record: Record = serde_json::from_str(&line).map_err(|e| failed("could not take a VM", &e))?;
        self.keep(id, record)?;
        let mut to = from;
        Ok(to.write_all(DONE.as_bytes())?)
    }

    pub(super) fn adopt(&self, id: VmId) -> Result<MoveArrived, HypervisorError> {
        let coming = self.coming().get(&id).cloned();
        let record = match (self.record(id)?, coming.is_some()) {
            (Some(record), _) => record,
            (None, true) => {
                return Err(HypervisorError::Conflict(format!("VM {id} has not arrived on this node.")));
            }
            (None, false) => return Err(HypervisorError::NotFound(id)),
        };
        let spec = coming.map_or_else(|| record.spec.clone(), |(spec, _)| spec);
        let record = Record { spec, ..record };
        self.storage.arrived(id)?;
        points(&["move.after_volumes"])?;
        let pause_ms = (record.state == VmState::Running).then_some(0);
        self.keep(id, record.clone())?;
        points(&["move.after_adopt"])?;
        self.coming().remove(&id);
        Ok(MoveArrived { vm: show(id, &record), pause_ms })
    }

    pub(super) fn clear_room(&self, id: VmId) -> Result<(), HypervisorError> {
        if !self.coming().contains_key(&id) {
            return Ok(());
        }
        if self.record(id)?.is_some() {
            return Err(HypervisorError::Conflict(format!(
                "VM {id} has arrived on this node: finish its move, or delete it."
            )));
        }
        self.storage.clear_places(id)?;
        self.coming().remove(&id);
        points(&["move.after_clear"])
    }
}
