//! `/servers`: the list. Up to one page of servers is filtered here; more are asked for by page.

use berth_model::ServerId;
use berth_model::page::Pagination;
use berth_model::server::{Server, ServerStatus};
use leptos::prelude::*;

use super::servers_row::{HeadRow, Row, SkeletonRow, Visible, table_class};
use crate::api::{Api, Fault, SERVERS_PER_PAGE, ServerQuery};
use crate::browser;
use crate::components::banner::{Banner, Tone};
use crate::components::button::{PRIMARY, SM, btn};
use crate::components::copy::{Copy, Look};
use crate::components::empty::Empty;
use crate::components::field::Search;
use crate::components::icon::icon;
use crate::components::panel::Plain;
use crate::components::power::{Asking, PowerDialog};
use crate::components::seg::Segments;
use crate::live::Live;
use crate::{format, forms, task};

use crate::route::Way;

stylance::import_style!(css, "servers.module.css");

/// Which servers are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    All,
    Running,
    Off,
    Attention,
}

impl Filter {
    const ALL: [(Self, &'static str); 4] =
        [(Self::All, "All"), (Self::Running, "Running"), (Self::Off, "Off"), (Self::Attention, "Attention")];

    fn takes(self, status: ServerStatus) -> bool {
        match self {
            Self::All => true,
            Self::Running => status == ServerStatus::Running,
            Self::Off => status == ServerStatus::Off,
            Self::Attention => status == ServerStatus::Unknown,
        }
    }

    /// The status to ask for, where the control plane filters.
    const fn status(self) -> Option<&'static str> {
        match self {
            Self::All => None,
            Self::Running => Some(ServerStatus::Running.word()),
            Self::Off => Some(ServerStatus::Off.word()),
            Self::Attention => Some(ServerStatus::Unknown.word()),
        }
    }
}

/// What the control plane last said of the list.
#[derive(Debug, Clone, PartialEq, Default)]
struct Answered {
    ids: Vec<ServerId>,
    page: Option<Pagination>,
}

/// The page.
#[component]
pub fn ServersPage() -> impl IntoView {
    browser::title(|| "Servers".to_owned());
    let api = expect_context::<Api>();
    let live = expect_context::<Live>();
    let way = expect_context::<Way>();
    browser::on_key('n', move || way.go("/servers/new"));

    let filter = RwSignal::new(Filter::All);
    let text = RwSignal::new(String::new());
    let page = RwSignal::new(1u32);
    let tries = RwSignal::new(0u32);
    let answered = RwSignal::new(None::<Answered>);
    let fault = RwSignal::new(None::<Fault>);
    // All servers, whatever is filtered; known from answers without a filter.
    let total = RwSignal::new(None::<u64>);
    let paged = Memo::new(move |_| total.get().is_some_and(|total| total > u64::from(SERVERS_PER_PAGE)));

    // With one page of servers the control plane is asked once, and filters act here.
    let query = Memo::new(move |_| {
        if !paged.get() {
            return ServerQuery { page: 1, ..ServerQuery::default() };
        }
        ServerQuery { page: page.get(), status: filter.get().status(), name: text.get().trim().to_owned() }
    });
    Effect::new(move |_| {
        filter.track();
        text.track();
        page.set(1);
    });
    Effect::new(move |_| {
        let (query, _, _) = (query.get(), live.epoch().get(), tries.get());
        let asked = live.asking();
        task::scoped(async move {
            match api.servers(&query).await {
                Ok(list) => {
                    let meta = list.meta.pagination;
                    let unfiltered = query.status.is_none() && query.name.is_empty();
                    let ids = list.servers.iter().map(|server| server.id).collect();
                    if unfiltered && meta.total_entries <= u64::from(SERVERS_PER_PAGE) {
                        live.learn_all_servers(asked, list.servers);
                    } else {
                        live.learn_servers(asked, list.servers);
                    }
                    if unfiltered {
                        total.set(Some(meta.total_entries));
                    }
                    fault.set(None);
                    answered.set(Some(Answered { ids, page: Some(meta) }));
                }
                Err(error) => fault.set(Some(error)),
            }
        });
    });
    Effect::new(move |_| {
        live.epoch().track();
        let asked = live.asking();
        task::scoped(async move {
            if let Ok(list) = api.running_actions().await {
                if list.meta.pagination.next_page.is_none() {
                    live.learn_running(asked, list.actions);
                } else {
                    live.learn_actions(asked, list.actions);
                }
            }
        });
    });

    let known = live.servers();
    let counts = Memo::new(move |_| {
        known.with(|shelf| {
            Filter::ALL.map(|(filter, _)| shelf.iter().filter(|(_, s)| filter.takes(s.status)).count() as u64)
        })
    });
    let ids = Memo::new(move |_| {
        if paged.get() {
            let ids = answered.with(|a| a.as_ref().map(|a| a.ids.clone())).unwrap_or_default();
            return known.with(|shelf| ids.into_iter().filter(|id| shelf.get(id.0).is_some()).collect());
        }
        let (filter, text) = (filter.get(), text.get());
        known.with(|shelf| {
            let mut fit: Vec<&Server> =
                shelf.iter().map(|(_, s)| s).filter(|s| filter.takes(s.status) && found(s, &text)).collect();
            fit.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            fit.into_iter().map(|server| server.id).collect::<Vec<_>>()
        })
    });
    let loaded = Memo::new(move |_| answered.with(Option::is_some));
    let options = Signal::derive(move || {
        let counts = (loaded.get() && !paged.get()).then(|| counts.get());
        let numbered = Filter::ALL.into_iter().enumerate();
        numbered.map(|(n, (filter, word))| (filter, word, counts.map(|counts| counts[n]))).collect::<Vec<_>>()
    });
    let empty = Memo::new(move |_| loaded.get() && !paged.get() && counts.get()[0] == 0);
    let summary = move || {
        if paged.get() {
            return total.get().map(|total| format::count(total, "server", "servers")).unwrap_or_default();
        }
        summary(counts.get())
    };
    let visible = Visible::new();
    live.watch(visible.ids());
    let asking = Asking::new(live);

    view! {
        <div class="page-h">
            <div>
                <h1>"Servers"</h1>
                <p class="sub">{move || (loaded.get() && !empty.get()).then(summary)} "\u{a0}"</p>
            </div>
            <Show when=move || loaded.get() && !empty.get()>
                <a href="/servers/new" class=btn(&[PRIMARY])>
                    {icon("i-plus")}
                    "Create server"
                    <kbd aria-hidden="true">"N"</kbd>
                </a>
            </Show>
        </div>
        {move || {
            fault
                .get()
                .map(|fault| {
                    view! {
                        <div class=css::gap>
                            <Banner tone=Tone::Bad>
                                <b>{if loaded.get_untracked() { "The list may be out of date." } else { "The list could not be loaded." }}</b>
                                <p>{fault.message()}</p>
                                <p>
                                    <button
                                        type="button"
                                        class=btn(&[SM])
                                        on:click=move |_| tries.update(|tries| *tries += 1)
                                    >
                                        "Try again"
                                    </button>
                                </p>
                            </Banner>
                        </div>
                    }
                })
        }}
        <Show when=move || loaded.get() || fault.with(Option::is_none)>
            <Show when=move || !empty.get() fallback=NoServers>
                <div class=format!("row split {}", css::filters)>
                    <Segments label="Show" options=options chosen=filter />
                    <Search
                        label="Filter by name, address or label"
                        placeholder=Signal::derive(move || {
                            if paged.get() { "Exact name" } else { "Name, address or label" }.to_owned()
                        })
                        value=text
                    />
                </div>
                <Plain label="Servers">
                    <table class=table_class() role="table">
                        <caption class="vh">"Servers in this project"</caption>
                        <HeadRow />
                        <tbody role="rowgroup">
                            <Show
                                when=move || loaded.get()
                                fallback=|| (0..3).map(|_| view! { <SkeletonRow /> }).collect_view()
                            >
                                <For each=move || ids.get() key=|id| *id let:id>
                                    <Row id=id asking=asking visible=visible />
                                </For>
                            </Show>
                        </tbody>
                    </table>
                    <Show when=move || loaded.get() && ids.with(Vec::is_empty)>
                        <p class=css::none>"No server fits. " <button
                            type="button"
                            class=btn(&[SM])
                            on:click=move |_| {
                                filter.set(Filter::All);
                                text.set(String::new());
                            }
                        >
                            "Show all"
                        </button></p>
                    </Show>
                </Plain>
                {move || {
                    let at = answered.with(|a| a.as_ref().and_then(|a| a.page)).filter(|_| paged.get())?;
                    (at.last_page > 1).then(|| view! { <Pager at=at page=page /> })
                }}
                <p class=format!(
                    "t-sm t-3 {}",
                    css::foot,
                )>
                    "CPU of the last ten minutes. An off server keeps its disk and address and is charged until you delete it."
                </p>
            </Show>
        </Show>
        <PowerDialog asking=asking />
    }
}

/// `5 running, 1 off`.
fn summary(counts: [u64; 4]) -> String {
    let [all, running, off, attention] = counts;
    let busy = all.saturating_sub(running + off + attention);
    let parts = [(running, "running"), (busy, "changing"), (off, "off"), (attention, "without an answer")];
    let said: Vec<String> =
        parts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    said.join(", ")
}

/// Does the text filter find this server?
fn found(server: &Server, text: &str) -> bool {
    let address = server.public_net.ipv4.as_ref().map(|v4| v4.ip.to_string()).unwrap_or_default();
    let labels: Vec<String> = server.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut parts = vec![server.name.as_str(), address.as_str()];
    parts.extend(labels.iter().map(String::as_str));
    forms::matches(text, &parts)
}

#[component]
fn Pager(at: Pagination, page: RwSignal<u32>) -> impl IntoView {
    let step = move |label: &'static str, to: Option<u32>| {
        view! {
            <button
                type="button"
                class=btn(&[SM])
                disabled=to.is_none()
                on:click=move |_| {
                    if let Some(to) = to {
                        page.set(to);
                    }
                }
            >
                {label}
            </button>
        }
    };
    view! {
        <nav class=format!("row {}", css::foot) aria-label="Pages">
            {step("Previous", at.previous_page)}
            <span class="t-sm t-2 num">{format!("Page {} of {}", at.page, at.last_page)}</span>
            {step("Next", at.next_page)}
        </nav>
    }
}

#[component]
fn NoServers() -> impl IntoView {
    let origin = window().location().origin().unwrap_or_default();
    let call = format!("curl -H \"Authorization: Bearer $TOKEN\" --json @server.json {origin}/v1/servers");
    view! {
        <Plain label="Servers">
            <Empty title="No servers in this project">
                <p>
                    "A server is ready within a minute of its order, with your SSH key on it. You pay by the hour, up to a fixed price per month."
                </p>
                <a href="/servers/new" class=btn(&[PRIMARY])>
                    {icon("i-plus")}
                    "Create server"
                </a>
                <p class="t-sm">"Or from your terminal:"</p>
                <Copy text=call look=Look::Box />
            </Empty>
        </Plain>
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_leaves_out_what_there_is_none_of() {
        assert_eq!(summary([7, 5, 1, 0]), "5 running, 1 changing, 1 off");
        assert_eq!(summary([1, 0, 0, 1]), "1 without an answer");
        assert_eq!(summary([0; 4]), "");
    }
}
