//! The panel: a single-page app, rendered by the browser.
//!
//! ```text
//!  index.html paints the frame ─▶ wasm: GET /v1/session ─▶ App replaces the shell
//!
//!  pages ──ask──▶ api ──────────────▶ /v1
//!    ▲             │ answers, dated
//!    └── signals ◀ live (store) ◀── events ── /v1/live
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | `pages` | one file per page |
//! | `components` | the pieces, each with its own style sheet |
//! | `api` | the one typed client |
//! | `live`, `store`, `wire`, `socket` | what is known, which report wins, the connection |
//! | `words`, `format`, `prices`, `plot`, `forms` | pure: sentences, numbers, paths, input |
//! | `route`, `browser`, `theme`, `notices`, `session`, `task` | the browser's air, and what pages share |

mod api;
mod browser;
mod components;
#[cfg(test)]
mod fixtures;
mod format;
mod forms;
mod live;
mod notices;
mod pages;
mod plot;
mod prices;
mod route;
mod session;
mod socket;
mod store;
mod task;
mod theme;
mod wire;
mod words;

use berth_model::ServerId;
use berth_model::people::Session;
use leptos::prelude::*;

use components::banner::{Banner, Tone};
use components::button::btn;
use components::frame::Inside;
use pages::door::{SignInPage, SignUpPage};
use pages::not_found::NotFoundPage;
use pages::server::ServerPage;
use pages::server_new::ServerNewPage;
use pages::servers::ServersPage;
use route::Place;

/// A root password that was told once, for as long as the page lives.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Secret {
    server: ServerId,
    password: String,
}

/// Starts the panel: asks who is signed in, then puts the app in the place of the shell.
pub fn start() {
    console_error_panic_hook::set_once();
    wasm_bindgen_futures::spawn_local(async {
        let session = api::session().await;
        if let Some(shell) = document().get_element_by_id("shell") {
            shell.remove();
        }
        match session {
            Ok(session) => mount_to_body(move || view! { <App session=session /> }),
            Err(fault) => mount_to_body(move || view! { <NoAnswer text=fault.message() /> }),
        }
    });
}

/// Everything, once it is known who is there.
#[component]
fn App(session: Option<Session>) -> impl IntoView {
    let api = api::Api::new();
    let notices = notices::Notices::new();
    let live = live::Live::new(api, notices);
    let door = session::Door::new(api, live, session);
    provide_context(api);
    provide_context(notices);
    provide_context(live);
    provide_context(door);
    provide_context(RwSignal::new(theme::Theme::stored()));
    provide_context(RwSignal::new(None::<Secret>));
    // A session that ends elsewhere ends here.
    let expired = api.expired();
    Effect::new(move |_| {
        if expired.get() {
            door.shut();
        }
    });
    let way = route::Way::new();
    provide_context(way);
    let place = way.place();
    let zone = Memo::new(move |_| Zone::of(place.get()));
    move || match zone.get() {
        Zone::SignIn => view! { <SignInPage /> }.into_any(),
        Zone::SignUp => view! { <SignUpPage /> }.into_any(),
        Zone::Inside => view! { <Inside page=ViewFn::from(move || page(way, place.get())) /> }.into_any(),
        Zone::Nowhere => view! { <NotFoundPage /> }.into_any(),
    }
}

/// What stays on the screen while places change within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Zone {
    SignIn,
    SignUp,
    Inside,
    Nowhere,
}

impl Zone {
    fn of(place: Place) -> Self {
        match place {
            Place::SignIn => Self::SignIn,
            Place::SignUp => Self::SignUp,
            Place::Home | Place::Servers | Place::ServerNew | Place::Server(_) => Self::Inside,
            Place::Nowhere => Self::Nowhere,
        }
    }
}

/// The page of a place inside the frame.
fn page(way: route::Way, place: Place) -> AnyView {
    match place {
        Place::Servers => view! { <ServersPage /> }.into_any(),
        Place::ServerNew => view! { <ServerNewPage /> }.into_any(),
        Place::Server(id) => view! { <ServerPage id=id /> }.into_any(),
        Place::Home | Place::SignIn | Place::SignUp | Place::Nowhere => {
            Effect::new(move |_| way.replace("/servers"));
            ().into_any()
        }
    }
}

/// Nobody said who is signed in.
#[component]
fn NoAnswer(text: String) -> impl IntoView {
    let reload = move |_| {
        let _ = window().location().reload();
    };
    view! {
        <main class="main" id="main">
            <div class="in">
                <Banner tone=Tone::Bad>
                    <b>"The panel could not start."</b>
                    <p>{text}</p>
                    <p>
                        <button type="button" class=btn(&[]) on:click=reload>
                            "Try again"
                        </button>
                    </p>
                </Banner>
            </div>
        </main>
    }
}
