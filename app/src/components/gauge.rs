//! Gauges: a bar, and the load line it should not pass.

use leptos::prelude::*;

stylance::import_style!(css, "gauge.module.css");

/// Progress in percent. The bar moves through a custom property, which the policy for style
/// attributes does not forbid.
#[component]
pub fn Progress(#[prop(into)] percent: Signal<u8>, label: &'static str) -> impl IntoView {
    view! {
        <div
            class=format!("{} {}", css::gauge, css::acc)
            style=("--v", move || percent.get().to_string())
            role="progressbar"
            aria-valuemin="0"
            aria-valuemax="100"
            aria-valuenow=move || percent.get().to_string()
            aria-label=label
        ></div>
    }
}

/// An amount of a limit: a label, the words, and the bar with its load line at `mark` percent.
#[component]
pub fn Measure(
    /// What is measured.
    label: &'static str,
    /// `1.2 of 20 TB`.
    #[prop(into)]
    words: Signal<String>,
    /// How full.
    #[prop(into)]
    percent: Signal<f64>,
    /// Where the load line is.
    mark: u8,
) -> impl IntoView {
    view! {
        <div class=css::meas>
            <div>
                <span>{label}</span>
                <span>{words}</span>
            </div>
            <div
                class=css::gauge
                class=(css::warn, move || percent.get() > f64::from(mark))
                data-load=""
                style=("--v", move || format!("{:.1}", percent.get().clamp(0.0, 100.0)))
                style=("--mark", mark.to_string())
                role="meter"
                aria-valuemin="0"
                aria-valuemax="100"
                aria-valuenow=move || format!("{:.0}", percent.get())
                aria-label=label
            ></div>
        </div>
    }
}
