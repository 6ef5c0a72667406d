//! Rooms in which no VM arrived in time, and volumes that were offered for long enough.

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_model::agent::function::{Function, Kind, moving};
use berth_model::{Timestamp, VmId};
use bytes::Bytes;

use super::Moves;
use crate::error::Refusal;
use crate::functions::vm_things;
use crate::work::{Asked, Work};

/// Longest between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Shortest.
const LOOK_MIN: Duration = Duration::from_secs(1);

impl Moves {
    /// Removes rooms whose time is over, for as long as this is polled.
    pub async fn expire(self: Arc<Self>, work: Arc<Work>) {
        loop {
            self.withdraw_old_offers();
            let wait = self.expire_once(&work).await.unwrap_or_else(|refusal| {
                tracing::debug!(error = %refusal.0, "rooms for VMs could not be looked at");
                LOOK_EVERY
            });
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.prepared.notified() => {}
            }
        }
    }

    /// Removes those whose time is over now, and says when to look again.
    async fn expire_once(self: &Arc<Self>, work: &Arc<Work>) -> Result<Duration, Refusal> {
        let hypervisor = Arc::clone(work.hypervisor());
        let rooms = work.read("moving.rooms", move || Ok(hypervisor.move_rooms()?)).await?;
        let mut wait = LOOK_EVERY;
        for (id, until) in rooms {
            let left = self.ends.of(id, until).saturating_duration_since(Instant::now());
            if !left.is_zero() {
                wait = wait.min(left);
            } else if !self.is_coming(id)
                && let Err(e) = self.remove(work, id).await
            {
                tracing::warn!(vm = id.0, error = %e.0, "a room for a VM could not be removed");
            }
        }
        Ok(wait.max(LOOK_MIN))
    }

    async fn remove(self: &Arc<Self>, work: &Arc<Work>, id: VmId) -> Result<(), Refusal> {
        let asked = Asked {
            function: moving::Abort::NAME,
            kind: Kind::Change,
            on: format!("VM {id}"),
            words: "its time is over".to_owned(),
            by: "the agent".to_owned(),
            wait: None,
        };
        let (moves, hypervisor) = (Arc::clone(self), Arc::clone(work.hypervisor()));
        let remove = move |_: &_| {
            // It may have been asked for anew, or begun to come, while this waited.
            let is_over = |(room, until): &(VmId, Timestamp)| {
                *room == id && moves.ends.of(id, *until) <= Instant::now()
            };
            if hypervisor.move_rooms()?.iter().any(is_over) && !moves.is_coming(id) {
                hypervisor.move_abort(id)?;
                moves.forget(id);
                tracing::info!(vm = id.0, "a VM did not come in time, and its room is removed");
            }
            Ok(Bytes::new())
        };
        work.change(asked, vm_things(id), remove).await.map(drop)
    }
}
