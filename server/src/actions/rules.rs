//! How the steps of an action look as time goes by. Pure.

use berth_model::action::{ActionStep, StepState};

/// The steps of an action that has just begun: the first is under way.
pub fn first_steps(titles: &[&str]) -> Vec<ActionStep> {
    let state = |index| if index == 0 { StepState::Now } else { StepState::Waiting };
    let step = |(index, title): (usize, &&str)| ActionStep {
        title: (*title).to_owned(),
        state: state(index),
        took_ms: None,
    };
    titles.iter().enumerate().map(step).collect()
}

/// After step `done` (from 0) took `took_ms`: it is done, and the next is under way.
#[must_use]
pub fn step_done(mut steps: Vec<ActionStep>, done: usize, took_ms: u64) -> Vec<ActionStep> {
    if let Some(step) = steps.get_mut(done) {
        step.state = StepState::Done;
        step.took_ms = Some(took_ms);
    }
    if let Some(step) = steps.get_mut(done + 1) {
        step.state = StepState::Now;
    }
    steps
}

/// Step `failed` (from 0) was given up after `took_ms`.
#[must_use]
pub fn step_failed(mut steps: Vec<ActionStep>, failed: usize, took_ms: u64) -> Vec<ActionStep> {
    if let Some(step) = steps.get_mut(failed) {
        step.state = StepState::Failed;
        step.took_ms = Some(took_ms);
    }
    steps
}

/// The steps of an action that has ended: nothing is under way any more.
#[must_use]
pub fn last_steps(mut steps: Vec<ActionStep>, well: bool) -> Vec<ActionStep> {
    for step in &mut steps {
        match (well, step.state) {
            (true, _) => step.state = StepState::Done,
            (false, StepState::Now) => step.state = StepState::Failed,
            (false, _) => {}
        }
    }
    steps
}

/// Percent done when `done` of `all` steps are. Only an ended action stands at 100.
pub fn percent(done: usize, all: usize) -> u8 {
    let percent = (done * 100).checked_div(all).unwrap_or(0);
    u8::try_from(percent.min(99)).unwrap_or(99)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn states(steps: &[ActionStep]) -> Vec<StepState> {
        steps.iter().map(|step| step.state).collect()
    }

    #[test]
    fn steps_go_from_waiting_over_now_to_done() {
        use StepState::*;
        let steps = first_steps(&["Reserve", "Start"]);
        assert_eq!(states(&steps), [Now, Waiting]);
        let steps = step_done(steps, 0, 12);
        assert_eq!(states(&steps), [Done, Now]);
        assert_eq!(steps[0].took_ms, Some(12));
        assert_eq!(states(&last_steps(steps.clone(), true)), [Done, Done]);
        assert_eq!(states(&step_failed(steps.clone(), 1, 5)), [Done, Failed]);
        assert_eq!(states(&last_steps(steps, false)), [Done, Failed]);
    }

    proptest! {
        #[test]
        fn percent_grows_and_stays_below_100(done in 0usize..100, all in 0usize..100) {
            prop_assert!(percent(done, all) < 100);
            prop_assert!(percent(done, all) <= percent(done + 1, all));
        }
    }
}
