//! `/servers/new`: all choices on one page, with the price beside them.

use berth_model::error::ErrorCode;
use berth_model::name::server_name_fault;
use leptos::prelude::*;

use super::server_new_choices::{Images, Locations, Types};
use super::server_new_keys::Keys;
use super::server_new_order::{Order, choose_first, load, name_fault, place};
use super::server_new_price::{PriceBar, PriceSide};
use crate::api::{Api, Fault};
use crate::components::banner::{Banner, Tone};
use crate::components::button::{LINK, QUIET, SM, btn};
use crate::components::crumbs::Crumbs;
use crate::components::field::{Field, Kind};
use crate::components::icon::icon_small;
use crate::components::skeleton::Bone;
use crate::live::Live;
use crate::{Secret, browser, forms, task};

use crate::route::Way;

stylance::import_style!(css, "server_new.module.css");

/// The page.
#[component]
pub fn ServerNewPage() -> impl IntoView {
    browser::title(|| "Create server".to_owned());
    let api = expect_context::<Api>();
    let live = expect_context::<Live>();
    let secret = expect_context::<RwSignal<Option<Secret>>>();
    let way = expect_context::<Way>();
    let order = Order::new();
    let load_fault = RwSignal::new(None::<Fault>);
    let tries = RwSignal::new(0u32);

    let taken = Memo::new(move |_| {
        live.servers()
            .with(|shelf| shelf.iter().map(|(_, server)| server.name.clone()).collect::<Vec<String>>())
    });
    Effect::new(move |_| {
        tries.track();
        task::scoped(async move {
            load_fault.set(None);
            match load(api, live, order).await {
                Ok(offer) => choose_first(order, offer),
                Err(fault) => load_fault.set(Some(fault)),
            }
        });
    });
    // A name to begin with: nobody should have to think of one.
    Effect::new(move |_| {
        if !order.named.get()
            && let Some(image) = order.chosen_image()
        {
            order.name.set(taken.with(|taken| forms::free_name(&image.os_flavor, taken)));
        }
    });

    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        if order.busy.get_untracked() {
            return;
        }
        order.fault.set(None);
        let body = match taken.with_untracked(|taken| order.read(taken)) {
            Ok(body) => body,
            Err(wrong) => return refuse(order, wrong),
        };
        order.wrong.set(Vec::new());
        order.busy.set(true);
        let asked = live.asking();
        wasm_bindgen_futures::spawn_local(async move {
            match api.server_create(&body).await {
                Ok(created) => {
                    let id = created.server.id;
                    secret.set(created.root_password.map(|password| Secret { server: id, password }));
                    live.learn_servers(asked, vec![created.server]);
                    live.learn_actions(
                        asked,
                        std::iter::once(created.action).chain(created.next_actions).collect(),
                    );
                    way.go(&format!("/servers/{id}"));
                }
                Err(fault) => {
                    if order.busy.try_set(false).is_some() {
                        return;
                    }
                    let mut wrong = fault.fields();
                    if wrong.is_empty() && fault.is(ErrorCode::UniquenessError) {
                        wrong.push(("name".to_owned(), fault.message()));
                    }
                    if wrong.is_empty() {
                        order.fault.set(Some(fault));
                        request_animation_frame(|| browser::focus("order-errors"));
                    } else {
                        refuse(order, wrong);
                    }
                }
            }
        });
    };
    let ready = Memo::new(move |_| order.offer.with(Option::is_some));
    view! {
        <Crumbs here="Create" />
        <div class="page-h">
            <h1>"Create server"</h1>
        </div>
        {move || {
            load_fault
                .get()
                .map(|fault| {
                    view! {
                        <Banner tone=Tone::Bad>
                            <b>"What can be ordered could not be loaded."</b>
                            <p>{fault.message()}</p>
                            <p>
                                <button
                                    type="button"
                                    class=btn(&[SM])
                                    on:click=move |_| {
                                        tries.update(|tries| *tries += 1);
                                    }
                                >
                                    "Try again"
                                </button>
                            </p>
                        </Banner>
                    }
                })
        }}
        <form class="main-side" class=(css::order, true) on:submit=submit novalidate=true hidden=move || load_fault.with(Option::is_some)>
            <div class=format!("stack {}", css::form)>
                <Summary order=order />
                <Show when=move || ready.get() fallback=Skeleton>
                    <Locations order=order />
                    <Images order=order />
                    <Types order=order />
                    <Keys order=order />
                    <Name order=order taken=taken />
                </Show>
            </div>
            <PriceSide order=order ready=ready />
            <PriceBar order=order ready=ready />
        </form>
    }
}

/// Shows what is wrong, and takes the reader there.
fn refuse(order: Order, wrong: Vec<(String, String)>) {
    order.wrong.set(wrong);
    request_animation_frame(|| browser::focus("order-errors"));
}

/// What has to change, with the way there.
#[component]
fn Summary(order: Order) -> impl IntoView {
    move || {
        let wrong = order.wrong.get();
        if let Some(fault) = order.fault.get() {
            return Some(
                view! {
                    <Banner tone=Tone::Bad id="order-errors">
                        <b>"The server was not created."</b>
                        <p>{fault.message()}</p>
                    </Banner>
                }
                .into_any(),
            );
        }
        if wrong.is_empty() {
            return None;
        }
        let head = match wrong.len() {
            1 => "One thing needs a change before the server can be created.".to_owned(),
            n => format!("{n} things need a change before the server can be created."),
        };
        let link = |(path, text): (String, String)| {
            let (id, word) = place(&path);
            view! {
                <li>
                    <button type="button" class=LINK on:click=move |_| browser::focus(id)>
                        {word}
                    </button>
                    ": "
                    {text}
                </li>
            }
        };
        Some(
            view! {
                <Banner tone=Tone::Bad id="order-errors">
                    <b>{head}</b>
                    <ul class=css::faults>{wrong.into_iter().map(link).collect_view()}</ul>
                </Banner>
            }
            .into_any(),
        )
    }
}

#[component]
fn Name(order: Order, taken: Memo<Vec<String>>) -> impl IntoView {
    let touched = RwSignal::new(false);
    let typed = RwSignal::new(order.name.get_untracked());
    // The field and the suggestion write the same name.
    Effect::new(move |_| {
        let name = order.name.get();
        if typed.get_untracked() != name {
            typed.set(name);
        }
    });
    Effect::new(move |before: Option<String>| {
        let now = typed.get();
        if before.is_some() && order.name.get_untracked() != now {
            order.named.set(true);
            order.mend("name");
            order.name.set(now.clone());
        }
        now
    });
    let told = order.error("name");
    let error = Signal::derive(move || {
        told.get().or_else(|| {
            let name = order.name.get();
            let checked = touched.get() && order.named.get();
            checked.then(|| taken.with(|taken| name_fault(name.trim(), taken))).flatten()
        })
    });
    let next = Memo::new(move |_| {
        let name = order.name.get();
        let is_taken = taken.with(|taken| taken.iter().any(|t| t == name.trim()))
            || told.get().is_some_and(|_| server_name_fault(name.trim()).is_none());
        is_taken.then(|| {
            taken.with(|taken| {
                let mut taken = taken.clone();
                taken.push(name.trim().to_owned());
                forms::free_name(name.trim(), &taken)
            })
        })
    });
    let labels = RwSignal::new(String::new());
    let user_data = RwSignal::new(String::new());
    Effect::new(move |_| {
        order.mend("labels");
        order.labels.set(labels.get());
    });
    Effect::new(move |_| {
        order.mend("user_data");
        order.user_data.set(user_data.get());
    });
    let (labels_error, data_error) = (order.error("labels"), order.error("user_data"));
    let open = move || labels_error.with(Option::is_some) || data_error.with(Option::is_some);
    view! {
        <fieldset>
            <legend>
                <h2>"Name"</h2>
            </legend>
            <Field
                id="name"
                label="Name"
                hide_label=true
                value=typed
                error=error
                kind=Kind::Code
                hint="Becomes the host name. Letters, digits, dots and hyphens."
                narrow=true
                on_leave=Callback::new(move |()| touched.set(true))
            />
            {move || {
                let next = next.get()?;
                let name = next.clone();
                Some(
                    view! {
                        <p class=css::next>
                            <button
                                type="button"
                                class=LINK
                                on:click=move |_| {
                                    order.mend("name");
                                    order.name.set(name.clone());
                                }
                            >
                                "Use "
                                {next}
                            </button>
                        </p>
                    },
                )
            }}
            <details class=css::more open=open>
                <summary class=btn(&[QUIET, SM])>{icon_small("i-right")} "Labels, cloud-init"</summary>
                <div class="stack">
                    <Field
                        id="labels"
                        label="Labels"
                        value=labels
                        error=labels_error
                        kind=Kind::Code
                        placeholder="role=web, env=prod"
                        hint="Your own marks, to find and group servers. Keys and values, with commas between them."
                    />
                    <Field
                        id="user_data"
                        label="User data"
                        value=user_data
                        error=data_error
                        kind=Kind::Lines
                        placeholder="#cloud-config"
                        hint="Run by cloud-init at the first start. At most 32 KiB."
                    />
                </div>
            </details>
        </fieldset>
    }
}

#[component]
fn Skeleton() -> impl IntoView {
    let block = |title: &'static str| {
        view! {
            <div>
                <h2 class=css::head>{title}</h2>
                <div class=css::blank>
                    <Bone width="100%" />
                </div>
            </div>
        }
    };
    view! { {["Location", "Image", "Type", "SSH keys", "Name"].map(block).collect_view()} }
}
