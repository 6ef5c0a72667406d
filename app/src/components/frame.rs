//! The frame: rail and main; on phones top bar, main and tab bar. Only what exists is linked.

use leptos::prelude::*;

use super::avatar::{AccountSign, Person};
use super::button::{ICON, QUIET, btn};
use super::icon::{icon, icon_large};
use super::menu::{Entry, Menu, Side};
use super::netbar::Netbar;
use super::toast::Toasts;
use crate::format;
use crate::live::Live;
use crate::notices::Notices;
use crate::route::{Place, Way};
use crate::session::Door;
use crate::theme::Theme;

/// What is inside the door: the frame around its pages, or the way to the door.
#[component]
pub fn Inside(page: ViewFn) -> impl IntoView {
    let door = expect_context::<Door>();
    let way = expect_context::<Way>();
    let is_in = door.is_in();
    Effect::new(move |_| {
        if !is_in.get() {
            let to = way.path();
            let query =
                if to == "/" { String::new() } else { format!("?to={}", js_sys::encode_uri_component(&to)) };
            way.replace(&format!("/sign-in{query}"));
        }
    });
    move || {
        let page = page.clone();
        is_in.get().then(|| view! { <Frame>{move || page.run()}</Frame> })
    }
}

/// The frame around a page.
#[component]
pub fn Frame(children: Children) -> impl IntoView {
    let live = expect_context::<Live>();
    let place = expect_context::<Way>().place();
    let on_list = Memo::new(move |_| place.get() == Place::Servers);
    let ordering = Memo::new(move |_| place.get() == Place::ServerNew);
    let in_servers =
        Memo::new(move |_| matches!(place.get(), Place::Servers | Place::ServerNew | Place::Server(_)));
    let here = move |is: bool| is.then_some("page");
    let count = move || live.servers().with(|shelf| shelf.iter().count());

    // After moving to another page the keyboard goes on from its start, not from the old link.
    let first = StoredValue::new(true);
    Effect::new(move |_| {
        place.track();
        if !first.get_value() {
            crate::browser::begin_page();
        }
        first.set_value(false);
    });

    view! {
        <a class="skip" href="#main">
            "Skip to content"
        </a>
        <div class="app" class=("no-tabbar", ordering)>
            <nav class="rail" aria-label="Main">
                <a class="brand" href="/servers">
                    {icon("i-mark")}
                    <span>"Berth"</span>
                </a>
                <Account />
                <div class="nav">
                    <a href="/servers" title="Servers" aria-current=move || here(in_servers.get())>
                        {icon("i-server")}
                        <span class="lbl">"Servers"</span>
                        <span class="n">{move || (count() > 0).then(count)}</span>
                    </a>
                </div>
                <div class="rail-foot">
                    <You side=Side::UpStart />
                </div>
            </nav>
            <header class="topbar">
                <Show
                    when=move || on_list.get()
                    fallback=move || {
                        view! {
                            <span class="back">
                                <a href="/servers" class=btn(&[QUIET, ICON]) aria-label="Back to Servers">
                                    {icon_large("i-left")}
                                </a>
                            </span>
                            <span class="ttl">
                                <span class="cut">"Servers"</span>
                            </span>
                        }
                    }
                >
                    <a class="ttl" href="/servers">
                        {icon("i-mark")}
                        <span class="cut">"Berth"</span>
                    </a>
                </Show>
                <You side=Side::End />
            </header>
            <main class="main" id="main" tabindex="-1">
                <div class="in">{children()}</div>
            </main>
            <nav class="tabbar" aria-label="Main, short">
                <a href="/servers" aria-current=move || here(in_servers.get() && !ordering.get())>
                    {icon("i-server")}
                    "Servers"
                </a>
                <a href="/servers/new" aria-current=move || here(ordering.get())>
                    {icon("i-plus")}
                    "Create"
                </a>
            </nav>
        </div>
        <Netbar />
        <Toasts />
    }
}

/// The account and the project that are entered.
#[component]
fn Account() -> impl IntoView {
    let project = expect_context::<Door>().project();
    project.map(|project| {
        let account = project.account.name;
        view! {
            <div class="who still" title=format!("{account}, project {}", project.name)>
                <AccountSign initials=format::initials(&account) />
                <span class="grow cut">
                    <b>{project.name.clone()}</b>
                    <br />
                    <span class="t-3">{account.clone()}</span>
                </span>
            </div>
        }
    })
}

/// The person's menu: theme, the API's reference and sign-out. On phones it is an avatar in the top bar.
#[component]
fn You(side: Side) -> impl IntoView {
    let door = expect_context::<Door>();
    let notices = expect_context::<Notices>();
    let theme = expect_context::<RwSignal<Theme>>();
    let leave = Callback::new(move |()| {
        wasm_bindgen_futures::spawn_local(async move {
            if let Err(fault) = door.leave().await {
                notices.failed("You are still signed in", fault.message());
            }
        });
    });
    let entries = Callback::new(move |()| {
        let themes = Theme::ALL.into_iter().map(|one| Entry::Choose {
            label: one.label(),
            chosen: theme.get_untracked() == one,
            run: Callback::new(move |()| one.choose(theme)),
        });
        // It is a page of the control plane's own.
        let read = Callback::new(move |()| {
            let _ = window().location().set_href("/reference");
        });
        let reference =
            Entry::Do { icon: "i-doc", label: "API reference", hint: None, bad: false, run: read };
        let out = Entry::Do { icon: "i-left", label: "Sign out", hint: None, bad: false, run: leave };
        themes.chain([Entry::Line, reference, out]).collect()
    });
    let name = door.user().map(|user| user.name).unwrap_or_default();
    let label = format!("{name}: theme, sign out");
    let (class, wide) =
        if side == Side::End { (btn(&[QUIET, ICON]), false) } else { ("who".to_owned(), true) };
    view! {
        <Menu class=class label=label entries=entries side=side>
            <Person initials=format::initials(&name) />
            {wide.then(|| view! { <span class="grow cut">{name}</span> })}
        </Menu>
    }
}
