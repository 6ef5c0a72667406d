//! An action in progress: what, how far, how long, and its steps.

use berth_model::action::{Action, ActionStep, StepState};
use leptos::prelude::*;

use super::gauge::Progress;
use super::panel::Plain;
use crate::browser;
use crate::format;
use crate::words::Verb;

stylance::import_style!(css, "action.module.css");

/// An action under way.
#[component]
pub fn ActionPanel(#[prop(into)] action: Signal<Action>) -> impl IntoView {
    // The step under way is counted here between two reports.
    let now = RwSignal::new(browser::now());
    let tick = set_interval_with_handle(move || now.set(browser::now()), std::time::Duration::from_secs(1));
    on_cleanup(move || {
        if let Ok(tick) = tick {
            tick.clear();
        }
    });
    let verb = move || action.with(|a| Verb::of_command(&a.command));
    let title = Signal::derive(move || verb().map_or("Working", Verb::doing).to_owned());
    let elapsed = move || {
        let started = action.with(|a| a.started);
        format::took_whole((now.get().unix_ms() - started.unix_ms()).max(0) as u64)
    };
    let times = Memo::new(move |_| {
        let now = now.get();
        action.with(|a| a.steps.iter().map(|step| step_time(a, step, now.unix_ms())).collect::<Vec<_>>())
    });
    let step_count = Memo::new(move |_| action.with(|a| a.steps.len()));
    let step = move |n: usize| Memo::new(move |_| action.with(|a| a.steps.get(n).cloned()));
    let row = move |n: usize| {
        let step = step(n);
        let state = move || step.with(|s| s.as_ref().map(|s| word(s.state)));
        view! {
            <li data-s=state aria-current=move || (state() == Some("now")).then_some("step")>
                <span>{move || step.with(|s| s.as_ref().map(|s| s.title.clone()))}</span>
                <time>{move || times.with(|times| times.get(n).cloned().flatten())}</time>
            </li>
        }
    };
    view! {
        <Plain label="Action in progress">
            <div class=css::act data-testid="action">
                <div class="row split">
                    <h2 class=css::title>{title}</h2>
                    <span class="t-sm t-2 num">
                        "started " {move || browser::here().moment(action.with(|a| a.started))} " · " {elapsed}
                    </span>
                </div>
                <Progress percent=Signal::derive(move || action.with(|a| a.progress)) label="Progress" />
                <ol class=css::steps>{move || (0..step_count.get()).map(row).collect_view()}</ol>
                <p class="t-sm t-3">{move || verb().map(Verb::meanwhile)}</p>
            </div>
        </Plain>
    }
}

const fn word(state: StepState) -> &'static str {
    match state {
        StepState::Waiting => "waiting",
        StepState::Now => "now",
        StepState::Done => "done",
        StepState::Failed => "failed",
    }
}

/// How long a step took, or has taken.
fn step_time(action: &Action, step: &ActionStep, now_ms: i64) -> Option<String> {
    match step.state {
        StepState::Waiting => None,
        StepState::Done | StepState::Failed => step.took_ms.map(format::took),
        StepState::Now => {
            let before: u64 =
                action.steps.iter().filter(|s| s.state == StepState::Done).filter_map(|s| s.took_ms).sum();
            let since = now_ms - action.started.unix_ms() - i64::try_from(before).ok()?;
            let told = step.took_ms.unwrap_or(0);
            Some(format::took_whole(told.max(u64::try_from(since).unwrap_or(0))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[test]
    fn a_step_under_way_counts_on_between_reports() {
        let mut action = fixtures::action(1, 7, "create_server");
        let step = |state, took_ms| ActionStep { title: String::new(), state, took_ms };
        action.steps = vec![
            step(StepState::Done, Some(400)),
            step(StepState::Now, None),
            step(StepState::Waiting, None),
        ];
        let times: Vec<_> = action.steps.iter().map(|s| step_time(&action, s, 72_400)).collect();
        assert_eq!(times, [Some("0.4 s".to_owned()), Some("1 min 12 s".to_owned()), None]);
    }
}
