//! Empty states: what the thing is for, the one next step, and the API call that does it.

use leptos::prelude::*;

use super::icon::icon_large;

stylance::import_style!(css, "empty.module.css");

/// Stands where there is nothing to show.
#[component]
pub fn Empty(#[prop(into)] title: String, children: Children) -> impl IntoView {
    view! {
        <div class=css::empty>
            {icon_large("i-mark")} <h2>{title}</h2> {children()}
        </div>
    }
}
