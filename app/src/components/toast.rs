//! Toasts, and the one region that screen readers announce.

use leptos::prelude::*;

use super::button::{ICON, QUIET, SM, btn};
use super::icon::icon;
use super::status::MarkOnly;
use crate::notices::Notices;
use crate::words::{Mark, Shown};

stylance::import_style!(css, "toast.module.css");

/// All of them, in a layer of their own.
#[component]
pub fn Toasts() -> impl IntoView {
    let notices = expect_context::<Notices>();
    view! {
        <div class="vh" role="status" data-testid="said">
            {notices.said()}
        </div>
        <div class=format!("toasts {}", css::toasts)>
            <For each=move || notices.toasts().get() key=|toast| toast.id let:toast>
                <div class=css::toast role=if toast.mark == Mark::Bad { "alert" } else { "status" }>
                    <span class=css::lead>
                        <MarkOnly shown=Shown { mark: toast.mark, word: if toast.mark == Mark::Bad { "Failed" } else { "Done" } } />
                    </span>
                    <div>
                        <b>{toast.title.clone()}</b>
                        {toast.text.clone().map(|text| view! { <p>{text}</p> })}
                    </div>
                    <button
                        type="button"
                        class=btn(&[QUIET, ICON, SM])
                        aria-label="Dismiss"
                        on:click=move |_| notices.dismiss(toast.id)
                    >
                        {icon("i-x")}
                    </button>
                </div>
            </For>
        </div>
    }
}
