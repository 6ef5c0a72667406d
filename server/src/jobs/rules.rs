//! What follows from an error, and how long to wait. Pure.

use std::time::Duration;

use super::queries::State;

/// The first pause after a failed try; each further one is twice as long.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// The longest pause between tries of a step: what it waits for may be back any moment.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The longest pause between tries of an undo, which go on for ever.
const UNDO_PAUSE_MAX: Duration = Duration::from_secs(300);
/// The shortest pause of a step that waits, so that it never spins.
const NOT_YET_MIN: Duration = Duration::from_millis(20);
/// Failed tries of an undo after which staff are told.
const UNDO_TRIES_BEFORE_STAFF: u32 = 3;

/// Why a step did not end well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// What it waits for has not happened.
    NotYet(Duration),
    /// It may work later.
    Retry,
    /// It will never work.
    Fail,
    /// The job's time is up.
    DeadlinePassed,
}

/// What follows from trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Try the same step again, later.
    Park { after: Duration, attempts: u32, tell_staff: bool },
    /// Take back what was done, beginning with this step.
    Undo { tell_staff: bool },
}

/// A job's situation when trouble came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation {
    pub(super) state: State,
    /// Failed tries of the step before this one.
    pub(super) attempts: u32,
    /// Failed tries after which the step is given up.
    pub(super) attempts_max: u32,
    /// Time until the deadline.
    pub(super) left: Duration,
    /// Can it be undone? [`super::Saga::UNDOABLE`]
    pub(super) undoable: bool,
}

/// Decides what follows from trouble; `fraction` in 0..1 spreads the pauses.
pub(super) fn decide(trouble: Trouble, at: Situation, fraction: f64) -> Decision {
    let attempts = at.attempts.saturating_add(1);
    match (at.state, trouble) {
        (State::Undoing, Trouble::NotYet(after)) => {
            Decision::Park { after: after.max(NOT_YET_MIN), attempts: at.attempts, tell_staff: false }
        }
        (State::Undoing, _) => Decision::Park {
            after: pause(attempts, UNDO_PAUSE_MAX, fraction),
            attempts,
            tell_staff: attempts >= UNDO_TRIES_BEFORE_STAFF,
        },
        (_, _) if !at.undoable => go_on(trouble, at, fraction),
        (_, Trouble::Fail) => Decision::Undo { tell_staff: false },
        (_, Trouble::DeadlinePassed) => Decision::Undo { tell_staff: true },
        (_, _) if at.left.is_zero() => Decision::Undo { tell_staff: true },
        // Never past the deadline, so that it is noticed when it comes.
        (_, Trouble::NotYet(after)) => Decision::Park {
            after: after.max(NOT_YET_MIN).min(at.left),
            attempts: at.attempts,
            tell_staff: false,
        },
        (_, Trouble::Retry) if attempts >= at.attempts_max => Decision::Undo { tell_staff: true },
        (_, Trouble::Retry) => Decision::Park {
            after: pause(attempts, PAUSE_MAX, fraction).min(at.left),
            attempts,
            tell_staff: false,
        },
    }
}

/// What can only go forward is tried until it works; staff are told where another would be undone.
fn go_on(trouble: Trouble, at: Situation, fraction: f64) -> Decision {
    let (after, attempts) = match trouble {
        Trouble::NotYet(after) => (after.max(NOT_YET_MIN), at.attempts),
        _ => {
            let attempts = at.attempts.saturating_add(1);
            (pause(attempts, PAUSE_MAX, fraction), attempts)
        }
    };
    let given_up = trouble == Trouble::Fail || attempts >= at.attempts_max || at.left.is_zero();
    Decision::Park { after, attempts, tell_staff: given_up }
}

/// The pause after `attempts` failed tries: doubling, never above `max`, with its upper half left
/// to chance so that jobs which failed together do not come back together.
fn pause(attempts: u32, max: Duration, fraction: f64) -> Duration {
    let doublings = attempts.saturating_sub(1).min(30);
    let full = PAUSE_FIRST.saturating_mul(1 << doublings).min(max);
    full.mul_f64(0.5 + 0.5 * fraction.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ready(attempts: u32, left_s: u64) -> Situation {
        Situation {
            state: State::Ready,
            attempts,
            attempts_max: 5,
            left: Duration::from_secs(left_s),
            undoable: true,
        }
    }

    #[test]
    fn a_step_that_will_never_work_is_undone_at_once_and_staff_sleep_on() {
        assert_eq!(decide(Trouble::Fail, ready(0, 60), 0.5), Decision::Undo { tell_staff: false });
    }

    #[test]
    fn the_last_try_and_the_deadline_lead_to_undo_and_staff_are_told() {
        let told = Decision::Undo { tell_staff: true };
        assert_eq!(decide(Trouble::Retry, ready(4, 60), 0.5), told);
        assert_eq!(decide(Trouble::DeadlinePassed, ready(0, 0), 0.5), told);
        assert_eq!(decide(Trouble::NotYet(Duration::from_secs(1)), ready(0, 0), 0.5), told);
    }

    #[test]
    fn waiting_is_not_an_attempt() {
        let decision = decide(Trouble::NotYet(Duration::from_secs(2)), ready(3, 60), 0.5);
        let after = Duration::from_secs(2);
        assert_eq!(decision, Decision::Park { after, attempts: 3, tell_staff: false });
    }

    fn any_trouble() -> impl Strategy<Value = Trouble> {
        prop_oneof![
            (0u64..100_000).prop_map(|ms| Trouble::NotYet(Duration::from_millis(ms))),
            Just(Trouble::Retry),
            Just(Trouble::Fail),
            Just(Trouble::DeadlinePassed),
        ]
    }

    proptest! {
        #[test]
        fn pauses_grow_have_a_limit_and_are_never_zero(attempts in 1u32.., fraction in 0.0..1.0) {
            let this = pause(attempts, PAUSE_MAX, fraction);
            prop_assert!(this >= PAUSE_FIRST / 2 && this <= PAUSE_MAX);
            prop_assert!(pause(attempts, PAUSE_MAX, 0.0) <= this);
            prop_assert!(this <= pause(attempts.saturating_add(1), PAUSE_MAX, fraction));
        }

        #[test]
        fn an_undo_is_never_given_up(trouble in any_trouble(), attempts: u32, fraction in 0.0..1.0) {
            let at = Situation { state: State::Undoing, attempts, attempts_max: 1, left: Duration::ZERO, undoable: true };
            let Decision::Park { after, tell_staff, .. } = decide(trouble, at, fraction) else {
                return Err(TestCaseError::fail("given up"));
            };
            prop_assert!(after >= NOT_YET_MIN);
            let waits = matches!(trouble, Trouble::NotYet(_));
            prop_assert_eq!(tell_staff, !waits && attempts.saturating_add(1) >= UNDO_TRIES_BEFORE_STAFF);
        }

        #[test]
        fn what_can_only_go_forward_is_never_undone(
            trouble in any_trouble(), attempts in 0u32..10, left_ms in 0u64..2, fraction in 0.0..1.0,
        ) {
            let left = Duration::from_millis(left_ms);
            let at = Situation { state: State::Ready, attempts, attempts_max: 5, left, undoable: false };
            let Decision::Park { after, tell_staff, .. } = decide(trouble, at, fraction) else {
                return Err(TestCaseError::fail("undone"));
            };
            prop_assert!(after >= NOT_YET_MIN);
            prop_assert!(tell_staff || !left.is_zero());
        }

        #[test]
        fn a_step_never_sleeps_past_the_deadline(
            trouble in any_trouble(), attempts in 0u32..10, left_ms in 0u64..100_000, fraction in 0.0..1.0,
        ) {
            let left = Duration::from_millis(left_ms);
            let at = Situation { state: State::Ready, attempts, attempts_max: 5, left, undoable: true };
            if let Decision::Park { after, .. } = decide(trouble, at, fraction) {
                prop_assert!(after <= left && !left.is_zero());
            }
        }
    }
}
