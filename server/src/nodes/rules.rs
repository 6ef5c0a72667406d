//! Decisions about nodes. Pure.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use berth_model::Timestamp;
use berth_model::agent::Health;
use berth_model::node::NodeState;

use super::ca::AGENT_DAYS;

/// How many of `nodes` one of `planes` control planes keeps at most: rounded up, so that all are
/// kept by somebody, and nobody has to give one back that no one else may take.
pub fn fair_share(nodes: u64, planes: u64) -> u64 {
    nodes.div_ceil(planes.max(1))
}

/// The state of a node whose agent says this.
pub fn state_of(health: &Health) -> NodeState {
    if health.healthy { NodeState::Up } else { NodeState::Sick }
}

/// Is it time for a new certificate: is under a third of its life left?
pub fn certificate_is_due(expires: Timestamp, now: Timestamp) -> bool {
    now.plus_seconds(AGENT_DAYS * 86_400 / 3) > expires
}

/// How long to wait before the next try to open a stream, after `failures` in a row; `jitter` from
/// 0 to 1 keeps a hundred streams from coming back at one moment.
pub fn retry_pause(failures: u32, jitter: f64) -> Duration {
    let most = PAUSE_FIRST.saturating_mul(1 << failures.min(6)).min(PAUSE_MAX);
    most.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Counts failures of each of many, over a window of time; the memory it takes is bounded.
#[derive(Debug)]
pub struct Failures<K> {
    of: HashMap<K, Vec<Timestamp>>,
    /// When a full memory was last searched for what may be forgotten.
    swept: Option<Timestamp>,
}

/// Failures within the window after which no more tries are allowed.
pub const FAILURES_MAX: usize = 10;
/// The window, in seconds.
pub const FAILURES_WINDOW_S: i64 = 600;
/// Most subjects that are remembered.
const SUBJECTS_MAX: usize = 10_000;
/// Seconds between two searches through a full memory: who fills it must not make every try slow.
const SWEEP_PAUSE_S: i64 = 10;

impl<K> Default for Failures<K> {
    fn default() -> Self {
        Self { of: HashMap::new(), swept: None }
    }
}

impl<K: Eq + Hash> Failures<K> {
    /// How long `who` has to wait before another try; `None` if it may try now.
    pub fn wait(&self, who: &K, now: Timestamp) -> Option<Duration> {
        let recent = self.of.get(who)?.iter().filter(|at| is_recent(**at, now));
        let oldest = recent.clone().min()?;
        let free_ms = oldest.plus_seconds(FAILURES_WINDOW_S).unix_ms() - now.unix_ms();
        (recent.count() >= FAILURES_MAX)
            .then(|| Duration::from_millis(u64::try_from(free_ms).unwrap_or_default()))
    }

    /// Notes a failure.
    pub fn note(&mut self, who: K, now: Timestamp) {
        let may_sweep = self.swept.is_none_or(|swept| now >= swept.plus_seconds(SWEEP_PAUSE_S));
        if self.of.len() >= SUBJECTS_MAX && may_sweep {
            self.of.retain(|_, times| times.iter().any(|at| is_recent(*at, now)));
            self.swept = Some(now);
        }
        if self.of.len() >= SUBJECTS_MAX && !self.of.contains_key(&who) {
            return;
        }
        let times = self.of.entry(who).or_default();
        times.retain(|at| is_recent(*at, now));
        if times.len() < FAILURES_MAX {
            times.push(now);
        }
    }
}

fn is_recent(at: Timestamp, now: Timestamp) -> bool {
    at.plus_seconds(FAILURES_WINDOW_S) > now
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_node_has_a_keeper_and_nobody_keeps_much_more(nodes in 0..1000_u64, planes in 1..20_u64) {
            let share = fair_share(nodes, planes);
            prop_assert!(share * planes >= nodes);
            prop_assert!(share == 0 || (share - 1) * planes < nodes);
        }

        #[test]
        fn pauses_grow_and_are_bounded(failures in 0..100_u32, jitter in 0.0..1.0_f64) {
            let pause = retry_pause(failures, jitter);
            prop_assert!(pause >= PAUSE_FIRST / 2 && pause <= PAUSE_MAX);
            prop_assert!(retry_pause(failures + 1, 1.0) >= retry_pause(failures, 1.0));
        }
    }

    #[test]
    fn a_certificate_is_changed_in_the_last_third_of_its_life() {
        let day = |n: i64| Timestamp::from_unix_ms(n * 86_400_000).unwrap();
        assert!(!certificate_is_due(day(90), day(59)));
        assert!(certificate_is_due(day(90), day(61)));
        assert!(certificate_is_due(day(90), day(100)));
    }

    #[test]
    fn ten_failures_shut_one_out_and_nobody_else() {
        let at = |s: i64| Timestamp::from_unix_ms(s * 1000).unwrap();
        let mut failures = Failures::default();
        for second in 0..FAILURES_MAX as i64 {
            assert_eq!(failures.wait(&"a", at(second)), None);
            failures.note("a", at(second));
        }
        assert_eq!(failures.wait(&"a", at(100)), Some(Duration::from_secs(500)));
        assert_eq!(failures.wait(&"b", at(100)), None);
        assert_eq!(failures.wait(&"a", at(FAILURES_WINDOW_S)), None);
    }

    #[test]
    fn many_strangers_do_not_fill_the_memory() {
        let now = Timestamp::from_unix_ms(0).unwrap();
        let mut failures = Failures::default();
        for stranger in 0..SUBJECTS_MAX * 2 {
            failures.note(stranger, now);
        }
        assert!(failures.of.len() <= SUBJECTS_MAX);
        failures.note(usize::MAX, now.plus_seconds(FAILURES_WINDOW_S));
        assert_eq!(failures.of.len(), 1);
    }
}
