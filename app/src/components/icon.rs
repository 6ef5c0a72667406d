//! Icons: masks of `style/icons.css`. The word beside one, or the button's label, says what it means.

use leptos::prelude::*;

/// An icon by its class, `i-copy`.
pub fn icon(name: &'static str) -> impl IntoView {
    view! { <i class=format!("i {name}") aria-hidden="true"></i> }
}

/// A small icon.
pub fn icon_small(name: &'static str) -> impl IntoView {
    view! { <i class=format!("i i-sm {name}") aria-hidden="true"></i> }
}

/// A large icon.
pub fn icon_large(name: &'static str) -> impl IntoView {
    view! { <i class=format!("i i-lg {name}") aria-hidden="true"></i> }
}
