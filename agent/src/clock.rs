//! The only place of the agent that reads the clock. Rules take the time as a parameter.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use berth_model::agent::NodeMoment;
use berth_model::{Timestamp, VmId};
use rustix::time::{ClockId, clock_gettime};

/// This moment.
#[expect(clippy::disallowed_methods, reason = "this is the clock module")]
pub fn now() -> Timestamp {
    Timestamp(time::OffsetDateTime::now_utc())
}

/// This moment by the clock that runs since the node's boot, which nobody sets and which sleep does not stop.
pub fn since_boot() -> NodeMoment {
    let since = clock_gettime(ClockId::Boottime);
    let ms = since.tv_sec.unsigned_abs() * 1000 + since.tv_nsec.unsigned_abs() / 1_000_000;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    NodeMoment { boot: boot.trim().to_owned(), ms }
}

/// When something of each VM ends, by a clock that does not jump.
#[derive(Debug)]
pub struct Ends {
    most: Duration,
    known: Mutex<BTreeMap<VmId, (i64, Instant)>>,
}

impl Ends {
    /// Nothing is known yet; nothing lasts longer than `most`.
    pub fn within(most: Duration) -> Self {
        Self { most, known: Mutex::default() }
    }

    /// The end of what was noted to last `until`. What the node's clock says counts as the note is first seen.
    pub fn of(&self, id: VmId, until: Timestamp) -> Instant {
        self.of_at(id, until, now())
    }

    fn of_at(&self, id: VmId, until: Timestamp, now: Timestamp) -> Instant {
        let mut known = self.known();
        match known.get(&id) {
            Some((noted_ms, end)) if *noted_ms == until.unix_ms() => *end,
            _ => {
                let left_ms = until.unix_ms().saturating_sub(now.unix_ms());
                let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or(0));
                let end = Instant::now() + left.min(self.most);
                known.insert(id, (until.unix_ms(), end));
                end
            }
        }
    }

    /// It ended.
    pub fn forget(&self, id: VmId) {
        self.known().remove(&id);
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<VmId, (i64, Instant)>> {
        // Single inserts and removes: whole after any panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_stays_where_it_is_when_the_clock_jumps() {
        let _proof = crate::proof::pure(&["guest.freeze", "moving.prepare"]);
        let noon = Timestamp::from_unix_ms(1_800_000_000_000).unwrap();
        let ends = Ends::within(Duration::from_secs(600));
        let end = ends.of_at(VmId(7), noon.plus_seconds(60), noon);
        let left = end.saturating_duration_since(Instant::now());
        assert!(left > Duration::from_secs(50) && left <= Duration::from_secs(60), "{left:?}");
        for jump in [7200, -7200] {
            assert_eq!(ends.of_at(VmId(7), noon.plus_seconds(60), noon.plus_seconds(jump)), end);
        }
        // Noted anew, it is another end, and never a far one.
        let far = ends.of_at(VmId(7), noon.plus_seconds(61), noon.plus_seconds(-7200));
        assert!(far > end && far <= Instant::now() + Duration::from_secs(600));
        ends.forget(VmId(7));
        assert!(ends.of_at(VmId(7), noon, noon.plus_seconds(1)) <= Instant::now());
    }
}
