//! The way back to the list, in words.

use leptos::prelude::*;

use super::icon::icon;

stylance::import_style!(css, "crumbs.module.css");

/// `Servers › web-1`.
#[component]
pub fn Crumbs(#[prop(into)] here: Signal<String>) -> impl IntoView {
    view! {
        <nav class=css::crumbs aria-label="Breadcrumb">
            <a href="/servers">"Servers"</a>
            {icon("i-right")}
            <span class="cut">{here}</span>
        </nav>
    }
}
