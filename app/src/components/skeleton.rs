//! Skeletons: the size of what they stand for.

use leptos::prelude::*;

stylance::import_style!(css, "skeleton.module.css");

/// A bar of this width, `8ch`.
#[component]
pub fn Bone(width: &'static str) -> impl IntoView {
    view! { <span class=css::sk style=("--w", width) aria-hidden="true"></span> }
}
