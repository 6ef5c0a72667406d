//! The state of the network: a fixed layer, so that losing it moves nothing under the finger.

use leptos::prelude::*;

use super::icon::icon;
use crate::browser;
use crate::live::{Link, Live};

stylance::import_style!(css, "netbar.module.css");

/// A page that was hidden for longer may have slept, and its connection died without a word.
const ASLEEP_S: i64 = 30;

/// "Showing data from 12:03. Reconnecting…", while the link is lost; the page is dimmed meanwhile.
#[component]
pub fn Netbar() -> impl IntoView {
    let live = expect_context::<Live>();
    let lost = Memo::new(move |_| match live.link().get() {
        Link::Lost { since } => Some(since),
        Link::Opening | Link::Open => None,
    });
    Effect::new(move |_| browser::mark_page("data-net", lost.get().map(|_| "offline")));
    let online = window_event_listener(leptos::ev::online, move |_| live.renew());
    let hidden_since = StoredValue::new(None);
    let seen = window_event_listener(leptos::ev::visibilitychange, move |_| {
        if document().hidden() {
            return hidden_since.set_value(Some(browser::now()));
        }
        let asleep =
            hidden_since.get_value().is_some_and(|since| since.plus_seconds(ASLEEP_S) < browser::now());
        if asleep { live.renew() } else { live.try_now() }
    });
    on_cleanup(move || {
        online.remove();
        seen.remove();
        browser::mark_page("data-net", None);
    });
    view! {
        <div role="status">
            {move || {
                lost.get()
                    .map(|since| {
                        view! {
                            <div class=format!("netbar {}", css::netbar)>
                                {icon("i-offline")}
                                <span>
                                    "Showing data from " {browser::here().moment(since)} ". Reconnecting…"
                                </span>
                                <button type="button" on:click=move |_| live.try_now()>
                                    "Try now"
                                </button>
                            </div>
                        }
                    })
            }}
        </div>
    }
}
