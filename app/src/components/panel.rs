//! Panels: a surface with a hairline. No panel inside a panel.

use leptos::prelude::*;

stylance::import_style!(css, "panel.module.css");

/// A panel with a title, and something beside it.
#[component]
pub fn Panel(
    /// Its title.
    title: &'static str,
    /// What stands beside the title.
    #[prop(optional, into)]
    aside: ViewFn,
    /// Its edge warns.
    #[prop(optional)]
    bad: bool,
    /// Its body.
    children: Children,
) -> impl IntoView {
    view! {
        <section class=css::panel class=(css::bad_edge, bad) aria-label=title>
            <div class=css::head>
                <h2>{title}</h2>
                {move || aside.run()}
            </div>
            <div class=css::body>{children()}</div>
        </section>
    }
}

/// A panel without head and body: what is in it keeps its own distance.
#[component]
pub fn Plain(
    #[prop(optional)] busy: bool,
    #[prop(into)] label: Signal<String>,
    children: Children,
) -> impl IntoView {
    view! {
        <section class=css::panel aria-busy=busy.then_some("true") aria-label=label>
            {children()}
        </section>
    }
}

/// The inside of a [`Plain`] panel that wants a panel's distance.
#[component]
pub fn Body(children: Children) -> impl IntoView {
    view! { <div class=css::body>{children()}</div> }
}

/// A line across a panel, and what is below it.
#[component]
pub fn Below(children: Children) -> impl IntoView {
    view! { <div class=css::line>{children()}</div> }
}
