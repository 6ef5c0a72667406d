//! One row of the list of servers; on phones a card.

use std::collections::BTreeSet;

use berth_model::ServerId;
use berth_model::server::{Server, ServerStatus};
use leptos::html;
use leptos::prelude::*;
use wasm_bindgen::JsCast;
use wasm_bindgen::prelude::Closure;

use crate::components::button::{ICON, QUIET, SM, btn};
use crate::components::copy::Copy;
use crate::components::icon::icon;
use crate::components::menu::Menu;
use crate::components::power::{self, Asking};
use crate::components::skeleton::Bone;
use crate::components::spark::Spark;
use crate::components::status::MarkOnly;
use crate::live::Live;
use crate::prices::Prices;
use crate::words::{self, Mark, Shown};
use crate::{format, task};

stylance::import_style!(css, "servers_row.module.css");

/// The classes of the table these rows stand in.
pub fn table_class() -> &'static str {
    css::t
}

/// Which rows are on the screen, seen by one observer.
#[derive(Clone, Copy)]
pub struct Visible {
    ids: RwSignal<BTreeSet<ServerId>>,
    observer: StoredValue<Option<Observer>, LocalStorage>,
}

struct Observer {
    observer: web_sys::IntersectionObserver,
    _on_change: Closure<dyn FnMut(js_sys::Array)>,
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.observer.disconnect();
    }
}

/// The attribute that tells the observer whose row it sees.
const ROW_ID: &str = "data-server";

impl Visible {
    /// None yet. The observer ends with the component that made it.
    pub fn new() -> Self {
        let ids = RwSignal::new(BTreeSet::new());
        let on_change: Closure<dyn FnMut(js_sys::Array)> = Closure::new(move |entries: js_sys::Array| {
            ids.try_update(|ids: &mut BTreeSet<ServerId>| {
                for entry in
                    entries.iter().filter_map(|e| e.dyn_into::<web_sys::IntersectionObserverEntry>().ok())
                {
                    let Some(id) = entry.target().get_attribute(ROW_ID).and_then(|id| id.parse().ok()) else {
                        continue;
                    };
                    if entry.is_intersecting() {
                        ids.insert(id)
                    } else {
                        ids.remove(&id)
                    };
                }
            });
        });
        let observer = web_sys::IntersectionObserver::new(on_change.as_ref().unchecked_ref()).ok();
        let observer = observer.map(|observer| Observer { observer, _on_change: on_change });
        Self { ids, observer: StoredValue::new_local(observer) }
    }

    /// The servers whose rows are on the screen.
    pub fn ids(self) -> Signal<Vec<ServerId>> {
        Memo::new(move |_| self.ids.with(|ids| ids.iter().copied().collect())).into()
    }

    fn has(self, id: ServerId) -> Memo<bool> {
        Memo::new(move |_| self.ids.with(|ids| ids.contains(&id)))
    }

    fn follow(self, id: ServerId, row: NodeRef<html::Tr>) {
        Effect::new(move |_| {
            if let Some(row) = row.get() {
                self.observer.with_value(|o| o.as_ref().map(|o| o.observer.observe(&row)));
            }
        });
        on_cleanup(move || {
            let _ = self.ids.try_update(|ids| ids.remove(&id));
        });
    }
}

/// What the columns are.
#[component]
pub fn HeadRow() -> impl IntoView {
    view! {
        <thead role="rowgroup">
            <tr role="row">
                <th role="columnheader">"Name"</th>
                <th role="columnheader">"Address"</th>
                <th role="columnheader">"Type"</th>
                <th role="columnheader">"CPU"</th>
                <th role="columnheader" class=css::r>
                    "Max per month"
                </th>
                <th role="columnheader">
                    <span class="vh">"Actions"</span>
                </th>
            </tr>
        </thead>
    }
}

/// Stands for a row that is being loaded.
#[component]
pub fn SkeletonRow() -> impl IntoView {
    view! {
        <tr aria-hidden="true">
            <td class=css::c_name>
                <div class=css::name>
                    <Bone width=".6875rem" />
                    <div>
                        <Bone width="7ch" />
                        <span class=css::sub>
                            <Bone width="9ch" />
                        </span>
                    </div>
                </div>
            </td>
            <td class=css::c_addr>
                <Bone width="13ch" />
            </td>
            <td class=css::c_type>
                <Bone width="4ch" />
            </td>
            <td class=css::c_cpu>
                <Bone width="9rem" />
            </td>
            <td class=format!("{} {}", css::c_cost, css::r)>
                <Bone width="5ch" />
            </td>
            <td class=css::menu_cell></td>
        </tr>
    }
}

/// A server. Its cells change one by one, as the store does.
#[component]
pub fn Row(id: ServerId, asking: Asking, visible: Visible) -> impl IntoView {
    let live = expect_context::<Live>();
    let server = live.server(id);
    let shown = live.shown(id);
    let under_way = live.under_way(id);
    let row = NodeRef::<html::Tr>::new();
    visible.follow(id, row);

    let of = move |read: fn(&Server) -> String| Memo::new(move |_| server.with(|s| s.as_ref().map(read)));
    let name = of(|s| s.name.clone());
    let image = of(|s| s.image.as_ref().map(|i| i.description.clone()).unwrap_or_default());
    let kind = of(|s| s.server_type.name.clone());
    let place = of(|s| s.location.city.clone());
    let address = of(|s| s.public_net.ipv4.as_ref().map(|v4| v4.ip.to_string()).unwrap_or_default());
    let cost =
        of(|s| Prices::of_server(s).map_or_else(|| format::NONE.to_owned(), |p| format::money(p.monthly)));
    let cores = Memo::new(move |_| server.with(|s| s.as_ref().map_or(1, |s| s.server_type.cores.max(1))));
    let runs =
        Memo::new(move |_| server.with(|s| s.as_ref().is_some_and(|s| s.status == ServerStatus::Running)));
    let state = Signal::derive(move || shown.get().unwrap_or(Shown { mark: Mark::Busy, word: "Deleting" }));

    let trail = StoredValue::new(live.trail(id));
    let seen = visible.has(id);
    // The past is fetched once, when a running server first comes on the screen.
    let filled = StoredValue::new(false);
    Effect::new(move |_| {
        if seen.get() && runs.get() && !filled.get_value() {
            filled.set_value(true);
            task::scoped(async move { live.fill_trail(id).await });
        }
    });
    let shares = Signal::derive(move || {
        if !runs.get() {
            return Vec::new();
        }
        let full = f64::from(cores.get()) * 1000.0;
        trail.with_value(|t| t.with(|t| t.iter().map(|s| f64::from(s.cpu_millicores) / full).collect()))
    });
    let cpu = move || {
        let share = shares.with(|shares| shares.last().copied());
        share.map_or_else(|| format::NONE.to_owned(), |share| format::percent(share * 100.0))
    };
    let below = move || {
        let step = under_way.with(|a| a.as_ref().and_then(words::step_of)).map(|step| format!(", {step}"));
        if let Some(step) = step {
            return format!("{}{step}", state.get().word);
        }
        let image = image.get().filter(|image| !image.is_empty()).map(|image| format!(" · {image}"));
        format!("{}{}", state.get().word, image.unwrap_or_default())
    };
    let entries = Callback::new(move |()| {
        server.with_untracked(|s| s.as_ref().map(|s| power::entries(asking, s, true))).unwrap_or_default()
    });
    let busy = Signal::derive(move || under_way.with(Option::is_some) || live.pressed(id).get().is_some());
    let label = move || format!("Actions for {}", name.get().unwrap_or_default());

    view! {
        <tr role="row" node_ref=row data-server=id.to_string()>
            <td role="cell" class=css::c_name>
                <div class=css::name>
                    <span class=css::mark_cell>
                        <MarkOnly shown=state />
                    </span>
                    <div class=css::words>
                        <a class=format!("cut {}", css::row_link) href=format!("/servers/{id}")>
                            {name}
                        </a>
                        <span class=format!("cut {}", css::sub) class=(css::attention, move || state.get().mark == Mark::Warn)>
                            {below}
                        </span>
                    </div>
                </div>
            </td>
            <td role="cell" class=css::c_addr>
                {move || match address.get().filter(|a| !a.is_empty()) {
                    Some(address) => view! { <Copy text=address lift=true /> }.into_any(),
                    None => view! { <span class="t-3">{format::NONE}</span> }.into_any(),
                }}
            </td>
            <td role="cell" class=css::c_type>
                {kind}
                <span class=css::sub>{place}</span>
            </td>
            <td role="cell" class=css::c_cpu>
                <div class=css::cpu>
                    <Spark shares=shares />
                    <output aria-label="CPU">{cpu}</output>
                </div>
            </td>
            <td role="cell" class=format!("{} {}", css::c_cost, css::r)>
                {cost}
            </td>
            <td role="cell" class=format!("{} {}", css::menu_cell, css::r)>
                {move || {
                    view! {
                        <Menu
                            class=btn(&[QUIET, ICON, SM])
                            label=label()
                            entries=entries
                            lift=true
                            disabled=busy
                        >
                            {icon("i-dots")}
                        </Menu>
                    }
                }}
            </td>
        </tr>
    }
}
