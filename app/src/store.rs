//! What the panel knows of servers and actions, and which of two reports about one wins.
//!
//! Reports come on two ways: answers to requests, and live events. Events carry a sequence
//! number, answers don't; but an answer cannot be older than the moment it was asked for. So an
//! answer is dated with the last event seen *before asking*, and never overwrites what a later
//! event said:
//!
//! ```text
//!  ask (seen 41) ───────────────▶ answer, dated 41: loses against event 43
//!          event 43 ──▶ kept
//! ```
//!
//! What an event removed stays removed for answers that were asked for before it.

use std::collections::{BTreeMap, VecDeque};

use berth_model::load::LoadSample;

/// A resource as last reported, or the memory that it is gone.
#[derive(Debug, Clone, PartialEq)]
struct Kept<T> {
    /// The event that reported it, or the last one before the request that did.
    seq: i64,
    value: Option<T>,
}

/// The resources of one kind, by number.
#[derive(Debug, Clone)]
pub struct Shelf<T> {
    kept: BTreeMap<i64, Kept<T>>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self { kept: BTreeMap::new() }
    }
}

impl<T: PartialEq> Shelf<T> {
    /// Takes a report of an event. Says whether anything is different now.
    pub fn event(&mut self, id: i64, seq: i64, value: Option<T>) -> bool {
        self.put(id, Kept { seq, value }, |old, new| new >= old)
    }

    /// Takes an answer that was asked for when `seen` was the last event. Says whether anything
    /// is different now.
    pub fn answer(&mut self, id: i64, seen: i64, value: Option<T>) -> bool {
        self.put(id, Kept { seq: seen, value }, |old, asked| asked >= old)
    }

    fn put(&mut self, id: i64, new: Kept<T>, wins: impl Fn(i64, i64) -> bool) -> bool {
        match self.kept.get_mut(&id) {
            Some(old) if !wins(old.seq, new.seq) => false,
            Some(old) => {
                let changed = old.value != new.value;
                *old = new;
                changed
            }
            None => {
                let changed = new.value.is_some();
                self.kept.insert(id, new);
                changed
            }
        }
    }

    /// The resource, if it is known and not gone.
    pub fn get(&self, id: i64) -> Option<&T> {
        self.kept.get(&id)?.value.as_ref()
    }

    /// Was it reported gone?
    pub fn is_gone(&self, id: i64) -> bool {
        self.kept.get(&id).is_some_and(|kept| kept.value.is_none())
    }

    /// All that are there, by number.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &T)> {
        self.kept.iter().filter_map(|(id, kept)| Some((*id, kept.value.as_ref()?)))
    }

    /// Keeps what is known, but lets any later report win.
    pub fn forget_order(&mut self) {
        for kept in self.kept.values_mut() {
            kept.seq = 0;
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.kept.clear();
    }
}

/// Most samples kept of one server: ten minutes at one every two seconds.
pub const TRAIL_MAX: usize = 300;

/// The recent load of a server, oldest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trail {
    samples: VecDeque<LoadSample>,
}

impl Trail {
    /// Adds a live sample. One that is not newer than the last is a repetition.
    pub fn push(&mut self, sample: LoadSample) {
        if self.last().is_some_and(|last| last.at >= sample.at) {
            return;
        }
        self.samples.push_back(sample);
        if self.samples.len() > TRAIL_MAX {
            self.samples.pop_front();
        }
    }

    /// Puts fetched samples before those that came live meanwhile.
    pub fn fill(&mut self, fetched: Vec<LoadSample>) {
        let live = std::mem::take(&mut self.samples);
        for sample in fetched.into_iter().chain(live) {
            self.push(sample);
        }
    }

    /// The newest.
    pub fn last(&self) -> Option<&LoadSample> {
        self.samples.back()
    }

    /// Oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &LoadSample> {
        self.samples.iter()
    }
}

/// Seconds to wait before the `attempt`th try to connect again: 0.5, 1, 2 … at most 20, of which
/// `jitter` (0 to 1) spreads the second half, so that a thousand browsers don't come back at once.
pub fn wait_before_retry_ms(attempt: u32, jitter: f64) -> u32 {
    let full = 500u32.saturating_mul(1 << attempt.min(6)).min(20_000);
    let half = full / 2;
    half + (f64::from(half) * jitter.clamp(0.0, 1.0)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::sample;

    #[test]
    fn an_answer_never_overwrites_a_later_event() {
        let mut shelf = Shelf::default();
        assert!(shelf.answer(7, 41, Some("creating")));
        assert!(shelf.event(7, 43, Some("running")));
        assert!(!shelf.answer(7, 41, Some("creating")), "asked for before the event");
        assert_eq!(shelf.get(7), Some(&"running"));
        assert!(shelf.answer(7, 43, Some("off")), "asked for after the event");
        assert_eq!(shelf.get(7), Some(&"off"));
    }

    #[test]
    fn what_is_gone_stays_gone_for_older_answers() {
        let mut shelf = Shelf::default();
        shelf.answer(7, 1, Some("running"));
        assert!(shelf.event(7, 5, None));
        assert!(!shelf.answer(7, 4, Some("running")));
        assert!(shelf.is_gone(7));
        assert_eq!(shelf.iter().count(), 0);
    }

    #[test]
    fn after_a_reset_the_world_may_be_younger_than_what_was_seen() {
        let mut shelf = Shelf::default();
        shelf.event(7, 900, Some("running"));
        shelf.forget_order();
        assert_eq!(shelf.get(7), Some(&"running"), "shown until the answer is there");
        assert!(shelf.answer(7, 12, Some("off")));
    }

    #[test]
    fn a_repeated_event_changes_nothing() {
        let mut shelf = Shelf::default();
        assert!(shelf.event(7, 5, Some("running")));
        assert!(!shelf.event(7, 5, Some("running")));
        assert!(!shelf.event(7, 3, Some("starting")), "an older one comes too late");
    }

    #[test]
    fn a_trail_is_bounded_and_in_order() {
        let mut trail = Trail::default();
        trail.push(sample(20, 500));
        trail.push(sample(20, 900));
        trail.push(sample(10, 900));
        assert_eq!(trail.iter().count(), 1, "old and repeated samples are dropped");
        trail.fill(vec![sample(16, 1), sample(18, 2), sample(20, 3)]);
        let cpu: Vec<u32> = trail.iter().map(|s| s.cpu_millicores).collect();
        assert_eq!(cpu, [1, 2, 3]);
        for at in 0..2 * TRAIL_MAX as i64 {
            trail.push(sample(100 + at, 0));
        }
        assert_eq!(trail.iter().count(), TRAIL_MAX);
    }

    #[test]
    fn waits_grow_to_a_limit_and_spread() {
        assert_eq!(wait_before_retry_ms(0, 0.0), 250);
        assert_eq!(wait_before_retry_ms(0, 1.0), 500);
        assert_eq!(wait_before_retry_ms(2, 1.0), 2_000);
        assert_eq!(wait_before_retry_ms(99, 1.0), 20_000);
        assert!(wait_before_retry_ms(99, 0.0) >= 10_000);
    }
}
