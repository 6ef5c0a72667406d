//! `/servers/:id`: one server. Left what is acted on, right what is looked up.

use berth_model::ServerId;
use berth_model::error::ErrorCode;
use berth_model::server::{Server, ServerStatus};
use leptos::prelude::*;

use super::server_load::LoadPanel;
use crate::api::{Api, Fault};
use crate::components::action::ActionPanel;
use crate::components::banner::{Banner, Tone};
use crate::components::button::{BAD, PRIMARY, SM, btn};
use crate::components::copy::{Copy, Look};
use crate::components::crumbs::Crumbs;
use crate::components::empty::Empty;
use crate::components::gauge::Measure;
use crate::components::icon::{icon, icon_small};
use crate::components::kv::{Kv, KvList};
use crate::components::menu::Menu;
use crate::components::panel::{Panel, Plain};
use crate::components::power::{self, Asking, PowerDialog};
use crate::components::skeleton::Bone;
use crate::components::status::{Pill, Tag};
use crate::components::timeline::Timeline;
use crate::live::Live;
use crate::prices::Prices;
use crate::words::{Mark, Shown, Verb};
use crate::{Secret, browser, format, task};

use crate::route::Way;

stylance::import_style!(css, "server.module.css");

/// The page of one server.
#[component]
pub fn ServerPage(id: ServerId) -> impl IntoView {
    let api = expect_context::<Api>();
    let live = expect_context::<Live>();
    let server = live.server(id);
    let gone = live.is_gone(id);
    let name = Memo::new(move |_| server.with(|s| s.as_ref().map(|s| s.name.clone())).unwrap_or_default());
    browser::title(move || name.get());

    let fault = RwSignal::new(None::<Fault>);
    let tries = RwSignal::new(0u32);
    Effect::new(move |_| {
        live.epoch().track();
        tries.track();
        let asked = live.asking();
        task::scoped(async move {
            match api.server(id).await {
                Ok(reply) => {
                    fault.set(None);
                    live.learn_servers(asked, vec![reply.server]);
                }
                Err(error) if error.is(ErrorCode::NotFound) => live.learn_gone(asked, id),
                Err(error) => fault.set(Some(error)),
            }
        });
        task::scoped(async move {
            if let Ok(list) = api.server_actions(id).await {
                live.learn_actions(asked, list.actions);
            }
        });
    });
    // Whoever is on the page of a server that goes is taken back to the list.
    let way = expect_context::<Way>();
    let was_there = StoredValue::new(false);
    Effect::new(move |_| {
        if server.with(Option::is_some) {
            was_there.set_value(true);
        } else if gone.get() && was_there.get_value() {
            way.replace("/servers");
        }
    });

    let known = Memo::new(move |_| server.with(Option::is_some));
    view! {
        <Show
            when=move || known.get()
            fallback=move || {
                if gone.get() {
                    view! { <NoServer /> }.into_any()
                } else {
                    view! { <Loading fault=fault tries=tries /> }.into_any()
                }
            }
        >
            <Known id=id />
        </Show>
    }
}

/// The page of a server that is known. Its parts change one by one, as the store does.
#[component]
fn Known(id: ServerId) -> impl IntoView {
    let live = expect_context::<Live>();
    let stored = live.server(id);
    // While the last signals of a deleted server settle, its last form is shown.
    let last = StoredValue::new(stored.get_untracked());
    let server = Memo::new(move |_| {
        if let Some(server) = stored.get() {
            last.set_value(Some(server));
        }
        last.get_value().expect("shown only for a server that is known")
    });
    let under_way = live.under_way(id);
    let history = live.history(id);
    let asking = Asking::new(live);
    live.watch(Signal::stored(vec![id]));
    browser::on_key('r', move || {
        let server = server.get_untracked();
        if server.status == ServerStatus::Running && under_way.with_untracked(Option::is_none) {
            asking.request(&server, Verb::Restart);
        }
    });
    let last_action = StoredValue::new(under_way.get_untracked());
    let acting = Memo::new(move |_| under_way.with(Option::is_some));
    let action = Signal::derive(move || {
        if let Some(action) = under_way.get() {
            last_action.set_value(Some(action));
        }
        last_action.get_value().expect("shown only while an action is under way")
    });
    let has_history = Memo::new(move |_| history.with(|h| !h.is_empty()));

    view! {
        <Crumbs here=Signal::derive(move || server.with(|s| s.name.clone())) />
        <Head server=server asking=asking />
        <FreshPassword id=id />
        <div class="main-side">
            <div class="stack">
                <Show when=move || acting.get()>
                    <ActionPanel action=action />
                </Show>
                <LoadPanel server=server />
                <Panel title="Activity">
                    <Show
                        when=move || has_history.get()
                        fallback=|| view! { <p class="t-sm t-3">"Nothing has been done to it yet."</p> }
                    >
                        <Timeline actions=history />
                    </Show>
                </Panel>
            </div>
            <div class="stack">
                <Addresses server=server />
                <Cost server=server />
                <Details server=server />
                <Removal server=server asking=asking />
            </div>
        </div>
        <PowerDialog asking=asking />
    }
}

/// State, name, place, address, and what can be done.
#[component]
fn Head(server: Memo<Server>, asking: Asking) -> impl IntoView {
    let live = expect_context::<Live>();
    let id = server.with_untracked(|s| s.id);
    let shown = live.shown(id);
    let shown = Signal::derive(move || shown.get().unwrap_or(Shown { mark: Mark::Busy, word: "Deleting" }));
    let name = Memo::new(move |_| server.with(|s| s.name.clone()));
    let what = Memo::new(move |_| {
        server.with(|s| {
            let image = s.image.as_ref().map(|i| i.description.clone());
            let parts = image.into_iter().chain([s.server_type.name.clone(), s.location.city.clone()]);
            parts.collect::<Vec<_>>().join(" · ")
        })
    });
    let address = address_of(server);
    let under_way = live.under_way(id);
    let pressed = live.pressed(id);
    let busy = Memo::new(move |_| under_way.with(Option::is_some) || pressed.get().is_some());
    let offered = Memo::new(move |_| power::verbs(server.with(|s| s.status)));
    let off = Memo::new(move |_| server.with(|s| s.status) == ServerStatus::Off);
    let entries = Callback::new(move |()| server.with_untracked(|s| power::entries(asking, s, false)));
    let press = move |verb: Verb| {
        move |_| {
            if !busy.get_untracked() {
                asking.request(&server.get_untracked(), verb);
            }
        }
    };
    let disabled = move || busy.get().then_some("true");
    view! {
        <div class="page-h">
            <div>
                <div class="row">
                    <h1>{name}</h1>
                    <Pill shown=shown />
                </div>
                <p class=format!("sub row {}", css::sub)>
                    {what}
                    {move || address.get().map(|address| view! { <span class="t-3">"·"</span> <Copy text=address /> })}
                </p>
            </div>
            <div class=format!("row {}", css::acts)>
                <Show when=move || off.get()>
                    <button type="button" class=btn(&[PRIMARY]) aria-disabled=disabled on:click=press(Verb::Start)>
                        {icon("i-power")}
                        "Start"
                    </button>
                </Show>
                <Show when=move || offered.get().contains(&Verb::Restart)>
                    <button type="button" class=btn(&[]) aria-disabled=disabled on:click=press(Verb::Restart)>
                        {icon("i-restart")}
                        "Restart"
                        <kbd aria-hidden="true">"R"</kbd>
                    </button>
                </Show>
                <Show when=move || { offered.get().len() > 1 }>
                    <Menu class=btn(&[]) entries=entries disabled=Signal::from(busy)>
                        {icon("i-power")}
                        "Power"
                        {icon_small("i-down")}
                    </Menu>
                </Show>
            </div>
        </div>
    }
}

fn address_of(server: Memo<Server>) -> Memo<Option<String>> {
    Memo::new(move |_| server.with(|s| s.public_net.ipv4.as_ref().map(|v4| v4.ip.to_string())))
}

/// The root password of a server that was just ordered: told once.
#[component]
fn FreshPassword(id: ServerId) -> impl IntoView {
    let secret = expect_context::<RwSignal<Option<Secret>>>();
    move || {
        let password = secret.get().filter(|secret| secret.server == id)?.password;
        Some(view! {
            <div class=css::gap>
                <Banner tone=Tone::Warn>
                    <b>"Root password, shown only now"</b>
                    <p>"Keep it somewhere safe. Berth does not store it; it is gone when this page is closed."</p>
                    <div class=css::secret data-testid="root-password">
                        <Copy text=password look=Look::Box />
                    </div>
                    <button type="button" class=btn(&[SM]) on:click=move |_| secret.set(None)>
                        "I have kept it"
                    </button>
                </Banner>
            </div>
        })
    }
}

#[component]
fn Addresses(server: Memo<Server>) -> impl IntoView {
    let v4 = address_of(server);
    let v6 = Memo::new(move |_| server.with(|s| s.public_net.ipv6.as_ref().map(|v6| v6.ip.clone())));
    view! {
        <Panel title="Addresses">
            {move || match v4.get() {
                Some(address) => {
                    let ssh = format!("ssh root@{address}");
                    view! {
                        <KvList>
                            <Kv key="IPv4">
                                <Copy text=address />
                            </Kv>
                            {move || v6.get().map(|v6| view! { <Kv key="IPv6"><Copy text=v6 /></Kv> })}
                        </KvList>
                        <div class=css::ssh>
                            <Copy text=ssh look=Look::Box />
                        </div>
                    }
                        .into_any()
                }
                None => view! { <p class="t-sm t-3">"It gets its address while it is created."</p> }.into_any(),
            }}
        </Panel>
    }
}

#[component]
fn Cost(server: Memo<Server>) -> impl IntoView {
    let prices = Memo::new(move |_| server.with(Prices::of_server));
    let month = move || prices.get().map_or_else(|| format::NONE.to_owned(), |p| format::money(p.monthly));
    let hour = move || {
        prices.get().map(|p| format!("a month at most, {} an hour", format::money_per_hour(p.hourly)))
    };
    let sent = Memo::new(move |_| server.with(|s| s.outgoing_traffic.map(|sent| (sent, s.included_traffic))));
    view! {
        <Panel title="Price">
            <div class="stack">
                <div class=css::fig>
                    <b>{month}</b>
                    <small>{hour}</small>
                </div>
                {move || {
                    let (sent, of) = sent.get().filter(|(_, of)| *of > 0)?;
                    Some(view! {
                        <Measure
                            label="Traffic out this month"
                            words=format!("{} of {}", format::traffic(sent), format::traffic(of))
                            percent=sent as f64 / of as f64 * 100.0
                            mark=90
                        />
                    })
                }}
                <p class="t-xs t-3">"Without VAT."</p>
            </div>
        </Panel>
    }
}

#[component]
fn Details(server: Memo<Server>) -> impl IntoView {
    let of = move |read: fn(&Server) -> String| Memo::new(move |_| server.with(read));
    let shape = of(|s| {
        let t = &s.server_type;
        format!("{} vCPU, {}, {} GB", t.cores, format::gigabytes(t.memory), s.primary_disk_size)
    });
    let image = of(|s| s.image.as_ref().map_or_else(|| format::NONE.to_owned(), |i| i.description.clone()));
    let place = of(|s| format!("{}, {}", s.location.city, s.location.name));
    let created = Memo::new(move |_| server.with(|s| s.created));
    let labels = Memo::new(move |_| server.with(|s| s.labels.clone()));
    view! {
        <Panel title="Details">
            <KvList>
                <Kv key="Type">{shape}</Kv>
                <Kv key="Image">{image}</Kv>
                <Kv key="Location">{place}</Kv>
                <Kv key="Created">
                    <time datetime=move || {
                        created.get().to_string()
                    }>{move || browser::here().moment(created.get())}</time>
                </Kv>
                <Kv key="Id">
                    <Copy text=server.with_untracked(|s| s.id.to_string()) />
                </Kv>
                {move || {
                    let labels = labels.get();
                    (!labels.is_empty())
                        .then(|| {
                            let tag = |(key, value): (String, String)| {
                                let text = if value.is_empty() { key } else { format!("{key}: {value}") };
                                view! { <Tag text=text /> }
                            };
                            view! { <Kv key="Labels">{labels.into_iter().map(tag).collect_view()}</Kv> }
                        })
                }}
            </KvList>
        </Panel>
    }
}

#[component]
fn Removal(server: Memo<Server>, asking: Asking) -> impl IntoView {
    let live = expect_context::<Live>();
    let id = server.with_untracked(|s| s.id);
    let under_way = live.under_way(id);
    let pressed = live.pressed(id);
    let busy = Memo::new(move |_| under_way.with(Option::is_some) || pressed.get().is_some());
    view! {
        <Panel title="Delete">
            <div class="stack">
                <p class="t-sm t-2">"Erases its disk and gives its address back. The charge ends with the hour begun."</p>
                <div>
                    <button
                        type="button"
                        class=btn(&[BAD])
                        aria-disabled=move || busy.get().then_some("true")
                        on:click=move |_| {
                            if !busy.get_untracked() {
                                asking.request(&server.get_untracked(), Verb::Delete);
                            }
                        }
                    >
                        {icon("i-trash")}
                        "Delete server"
                    </button>
                </div>
            </div>
        </Panel>
    }
}

/// While nothing is known yet, or why nothing is known.
#[component]
fn Loading(fault: RwSignal<Option<Fault>>, tries: RwSignal<u32>) -> impl IntoView {
    view! {
        <Crumbs here="…" />
        {move || match fault.get() {
            Some(fault) => {
                view! {
                    <Banner tone=Tone::Bad>
                        <b>"The server could not be loaded."</b>
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
                    .into_any()
            }
            None => {
                view! {
                    <div class="page-h" aria-busy="true" aria-label="Loading the server">
                        <div>
                            <h1>
                                <Bone width="6ch" />
                            </h1>
                            <p class=format!("sub row {}", css::sub)>
                                <Bone width="24ch" />
                            </p>
                        </div>
                    </div>
                    <div class="main-side">
                        <Plain label="Loading">
                            <div class=css::blank></div>
                        </Plain>
                        <Plain label="Loading">
                            <div class=css::blank_low></div>
                        </Plain>
                    </div>
                }
                    .into_any()
            }
        }}
    }
}

#[component]
fn NoServer() -> impl IntoView {
    browser::title(|| "No such server".to_owned());
    view! {
        <Crumbs here="Not found" />
        <Plain label="Not found">
            <Empty title="There is no such server">
                <p>"It was deleted, or it never was in this project."</p>
                <a href="/servers" class=btn(&[])>
                    "Go to your servers"
                </a>
            </Empty>
        </Plain>
    }
}
