//! Avatars: people are round, accounts are square.

use leptos::prelude::*;

stylance::import_style!(css, "avatar.module.css");

/// A person, by the first letters of their name.
#[component]
pub fn Person(initials: String) -> impl IntoView {
    view! { <span class=css::av aria-hidden="true">{initials}</span> }
}

/// An account, by the first letters of its name.
#[component]
pub fn AccountSign(initials: String) -> impl IntoView {
    view! { <span class=format!("{} {}", css::av, css::square) aria-hidden="true">{initials}</span> }
}
