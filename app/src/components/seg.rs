//! Segmented controls: one of a few, pressed.

use leptos::prelude::*;

stylance::import_style!(css, "seg.module.css");

/// One of a few.
#[component]
pub fn Segments<T>(
    /// What the group is.
    label: &'static str,
    /// The values, their words, and a count where there is one.
    #[prop(into)]
    options: Signal<Vec<(T, &'static str, Option<u64>)>>,
    /// The one that is chosen.
    chosen: RwSignal<T>,
) -> impl IntoView
where
    T: Copy + PartialEq + Send + Sync + 'static,
{
    let one = move |(value, word, count): (T, &'static str, Option<u64>)| {
        view! {
            <button
                type="button"
                aria-pressed=move || if chosen.get() == value { "true" } else { "false" }
                on:click=move |_| chosen.set(value)
            >
                {word}
                {count.map(|count| view! { <span class=css::n>{count.to_string()}</span> })}
            </button>
        }
    };
    view! {
        <div class=css::seg role="group" aria-label=label>
            {move || options.get().into_iter().map(one).collect_view()}
        </div>
    }
}
