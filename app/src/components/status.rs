//! A state: shape, word, colour, in this order.

use leptos::prelude::*;

use crate::words::{Mark, Shown};

stylance::import_style!(css, "status.module.css");

fn classes(mark: Mark) -> String {
    let (shape, color) = match mark {
        Mark::Run => ("st-run", css::run),
        Mark::Off => ("st-off", css::off),
        Mark::Busy => ("st-busy", css::busy),
        Mark::Warn => ("st-warn", css::warn),
        Mark::Bad => ("st-bad", css::bad),
    };
    format!("{} {shape} {color}", css::st)
}

/// A state on its wash, beside a title.
#[component]
pub fn Pill(#[prop(into)] shown: Signal<Shown>) -> impl IntoView {
    view! {
        <span class=move || format!("{} {}", classes(shown.get().mark), css::pill) data-testid="state">
            {move || shown.get().word}
        </span>
    }
}

/// The shape alone; the word is there for screen readers, and elsewhere in the row.
#[component]
pub fn MarkOnly(#[prop(into)] shown: Signal<Shown>) -> impl IntoView {
    view! {
        <span class=move || format!("{} {}", classes(shown.get().mark), css::mark)>
            {move || format!("{}, ", shown.get().word)}
        </span>
    }
}

/// A word in a box: a label.
#[component]
pub fn Tag(#[prop(into)] text: String) -> impl IntoView {
    view! { <span class=css::tag>{text}</span> }
}
