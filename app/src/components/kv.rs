//! Key/value lists.

use leptos::prelude::*;

stylance::import_style!(css, "kv.module.css");

/// A list of [`Kv`].
#[component]
pub fn KvList(children: Children) -> impl IntoView {
    view! { <dl class=css::kv>{children()}</dl> }
}

/// One key and its value.
#[component]
pub fn Kv(key: &'static str, children: Children) -> impl IntoView {
    view! {
        <div>
            <dt>{key}</dt>
            <dd>{children()}</dd>
        </div>
    }
}
