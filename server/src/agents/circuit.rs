//! The circuit of one node: after some failures in a row, requests fail at once for a while, so
//! that nobody waits for an agent that hangs. Pure; time comes in.

use berth_model::Timestamp;

/// Failures in a row after which the circuit opens.
const FAILURES_MAX: u32 = 3;
/// How long it stays open before one request may try.
const OPEN_S: i64 = 5;

/// How requests to one node have gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Circuit {
    failures: u32,
    /// Until when nobody may try.
    shut_until: Option<Timestamp>,
}

impl Circuit {
    /// May a request go out? When the pause is over, the one that asks first is the trial, and the
    /// others wait for another pause.
    pub(super) fn admit(&mut self, now: Timestamp) -> bool {
        match self.shut_until {
            Some(until) if now < until => false,
            Some(_) => {
                self.shut_until = Some(now.plus_seconds(OPEN_S));
                true
            }
            None => true,
        }
    }

    /// The agent answered, be it with an error.
    pub(super) fn answered(&mut self) {
        *self = Self::default();
    }

    /// The agent was not reached or did not answer in time.
    pub(super) fn failed(&mut self, now: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES_MAX {
            self.shut_until = Some(now.plus_seconds(OPEN_S));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_unix_ms(second * 1000).unwrap()
    }

    #[test]
    fn a_node_that_fails_three_times_is_left_alone_for_a_while() {
        let mut circuit = Circuit::default();
        for second in 0..3 {
            assert!(circuit.admit(at(second)));
            circuit.failed(at(second));
        }
        assert!(!circuit.admit(at(3)));
        assert!(!circuit.admit(at(6)));
        assert!(circuit.admit(at(7)), "one may try");
        assert!(!circuit.admit(at(8)), "and only one");
        circuit.failed(at(8));
        assert!(!circuit.admit(at(12)));
        assert!(circuit.admit(at(13)));
        circuit.answered();
        assert!(circuit.admit(at(13)) && circuit.admit(at(13)));
    }

    #[test]
    fn an_answer_forgets_the_failures_before_it() {
        let mut circuit = Circuit::default();
        for second in 0..10 {
            circuit.failed(at(second));
            circuit.failed(at(second));
            circuit.answered();
            assert!(circuit.admit(at(second)));
        }
    }
}
