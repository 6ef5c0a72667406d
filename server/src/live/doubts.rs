//! When rights that were looked at once should be looked at again.

use tokio::sync::broadcast;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::Hub;
use crate::accounts::ProjectAccess;

/// Comes up whenever rights may have ended: something ended that may be theirs, or some time has passed.
pub struct Doubts {
    ended: broadcast::Receiver<String>,
    recheck: Interval,
}

impl Doubts {
    /// Hears of all that ends from now on: to be made before the rights are looked at first.
    pub(super) fn new(hub: &Hub) -> Self {
        let mut recheck = interval(hub.settings().recheck_every);
        recheck.set_missed_tick_behavior(MissedTickBehavior::Delay);
        recheck.reset();
        Self { ended: hub.access(), recheck }
    }

    /// Waits for the next doubt. Dropped while it waits, it misses nothing.
    pub async fn next(&mut self, access: &ProjectAccess) {
        loop {
            tokio::select! {
                _ = self.recheck.tick() => return,
                ended = self.ended.recv() => match ended {
                    Ok(ended) if !access.hangs_on(&ended) => {}
                    // Whoever missed one cannot know.
                    _ => return,
                },
            }
        }
    }
}
