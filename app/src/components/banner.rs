//! Banners: something the page has to say before anything else.

use leptos::prelude::*;

use super::icon::icon;

stylance::import_style!(css, "banner.module.css");

/// How serious it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Somebody should look.
    Warn,
    /// It failed.
    Bad,
}

/// A banner. A bad one is announced at once.
#[component]
pub fn Banner(tone: Tone, #[prop(optional)] id: &'static str, children: Children) -> impl IntoView {
    let (class, sign, role) = match tone {
        Tone::Warn => (css::warn, "i-warn", "status"),
        Tone::Bad => (css::bad, "i-warn", "alert"),
    };
    view! {
        <div class=format!("{} {class}", css::banner) role=role id=id tabindex="-1">
            {icon(sign)} <div>{children()}</div>
        </div>
    }
}
