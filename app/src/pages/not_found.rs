//! Where a path leads nowhere.

use leptos::prelude::*;

use crate::browser;
use crate::components::button::btn;
use crate::components::empty::Empty;
use crate::components::frame::Frame;
use crate::components::panel::Plain;
use crate::session::Door;

/// Any path that no page has.
#[component]
pub fn NotFoundPage() -> impl IntoView {
    browser::title(|| "Not found".to_owned());
    let inside = expect_context::<Door>().is_in().get_untracked();
    if inside {
        view! {
            <Frame>
                <Nothing />
            </Frame>
        }
        .into_any()
    } else {
        view! {
            <main class="main" id="main">
                <div class="in">
                    <Nothing />
                </div>
            </main>
        }
        .into_any()
    }
}

#[component]
fn Nothing() -> impl IntoView {
    view! {
        <Plain label="Not found">
            <Empty title="Nothing is moored here">
                <p>"The address leads nowhere. It may have been typed wrong, or what was here is gone."</p>
                <a href="/servers" class=btn(&[])>
                    "Go to your servers"
                </a>
            </Empty>
        </Plain>
    }
}
