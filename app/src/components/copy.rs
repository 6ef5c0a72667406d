//! Copy fields: a text and the button to copy it are one. The icon swaps in place.

use leptos::prelude::*;

use super::icon::icon;
use crate::browser;
use crate::notices::Notices;

stylance::import_style!(css, "copy.module.css");

/// How long the tick stays.
const DONE_MS: u32 = 1_600;

/// How a copy field stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Look {
    /// In a line of text.
    #[default]
    Inline,
    /// In a box of its own, which wraps.
    Box,
}

/// A text that is copied when pressed.
#[component]
pub fn Copy(
    /// What is copied, and shown.
    #[prop(into)]
    text: String,
    /// How it stands.
    #[prop(optional)]
    look: Look,
    /// Raised over a row that is a link.
    #[prop(optional)]
    lift: bool,
) -> impl IntoView {
    let notices = expect_context::<Notices>();
    let done = RwSignal::new(false);
    let class = match look {
        Look::Inline => css::copy.to_owned(),
        Look::Box => format!("{} {} {}", css::copy, css::boxed, css::wrap),
    };
    let shown = text.clone();
    let label = format!("Copy {text}");
    let copy = move |_| {
        browser::copy(&text);
        notices.say("Copied");
        done.set(true);
        wasm_bindgen_futures::spawn_local(async move {
            gloo_timers::future::TimeoutFuture::new(DONE_MS).await;
            let _ = done.try_set(false);
        });
    };
    view! {
        <button
            type="button"
            class=class
            class=(css::lift, lift)
            aria-label=label
            data-done=move || done.get().then_some("")
            on:click=copy
        >
            <span>{shown}</span>
            {icon("i-copy")}
        </button>
    }
}
