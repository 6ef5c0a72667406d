//! Sparklines: the recent past beside its number, which screen readers get instead.

use leptos::prelude::*;

use crate::plot;

stylance::import_style!(css, "spark.module.css");

/// Points of a sparkline: more would be a blur at its width.
const POINTS: usize = 40;
/// From here a line is worth a look.
const HOT: f64 = 0.9;

/// A line of shares of one, newest last; dotted while there is nothing to show.
#[component]
pub fn Spark(#[prop(into)] shares: Signal<Vec<f64>>) -> impl IntoView {
    let thin = Memo::new(move |_| shares.with(|shares| plot::thinned(shares, POINTS)));
    let flat = move || thin.with(|thin| thin.len() < 2);
    let path = move || {
        if flat() { "M0 23H96".to_owned() } else { thin.with(|thin| plot::spark(thin)) }
    };
    view! {
        <svg
            class=css::spark
            class=(css::flat, flat)
            class=(css::hot, move || thin.with(|thin| thin.last().is_some_and(|last| *last > HOT)))
            viewBox="0 0 96 24"
            preserveAspectRatio="none"
            aria-hidden="true"
        >
            <path d=path />
        </svg>
    }
}
