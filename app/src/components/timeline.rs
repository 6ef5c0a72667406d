//! What happened, newest first.

use berth_model::action::{Action, ActionStatus};
use leptos::prelude::*;

use crate::browser;
use crate::words::{self, Verb};

stylance::import_style!(css, "timeline.module.css");

/// The actions of a server as a timeline.
#[component]
pub fn Timeline(#[prop(into)] actions: Signal<Vec<Action>>) -> impl IntoView {
    view! {
        <ul class=css::tl>
            <For each=move || actions.get() key=|action| (action.id, action.status, action.progress) let:action>
                <Entry action=action />
            </For>
        </ul>
    }
}

#[component]
fn Entry(action: Action) -> impl IntoView {
    let (head, below) = words::told(&action);
    let failed = action.status == ActionStatus::Error;
    let sign = if failed { "i-warn" } else { Verb::of_command(&action.command).map_or("i-jobs", Verb::icon) };
    let at = action.started;
    view! {
        <li>
            <i class=format!("i {sign}") class=(css::bad, failed) aria-hidden="true"></i>
            <div>
                <span class=(css::bad, failed)>{head}</span>
                {below.map(|below| view! { <div class=css::sub>{below}</div> })}
            </div>
            <time datetime=at.to_string()>{browser::here().moment(at)}</time>
        </li>
    }
}
