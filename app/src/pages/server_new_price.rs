//! What an order costs, beside the choices; on narrow screens below them.

use std::collections::BTreeSet;

use berth_model::server_type::CpuKind;
use leptos::prelude::*;

use super::server_new_order::Order;
use crate::components::button::{BIG, PRIMARY, WIDE, btn};
use crate::components::kv::{Kv, KvList};
use crate::components::panel::{Below, Body, Plain};
use crate::format;

stylance::import_style!(css, "server_new_price.module.css");

fn month(order: Order) -> String {
    order.prices().map_or_else(|| format::NONE.to_owned(), |p| format::money(p.monthly))
}

fn hour(order: Order) -> String {
    order.prices().map_or_else(|| format::NONE.to_owned(), |p| format::money_per_hour(p.hourly))
}

/// The price and the order's summary, beside the choices.
#[component]
pub fn PriceSide(order: Order, ready: Memo<bool>) -> impl IntoView {
    let dash = || format::NONE.to_owned();
    let keys = move || match order.chosen_keys.with(BTreeSet::len) {
        0 => "None: a root password".to_owned(),
        n => format::count(n as u64, "key", "keys"),
    };
    let kind = move || {
        order.chosen_type().map_or_else(dash, |t| {
            let whose = if t.cpu_type == CpuKind::Shared { "shared" } else { "dedicated" };
            format!("{}, {whose}", t.name)
        })
    };
    view! {
        <aside class=css::price aria-label="Price">
            <Plain label="Price">
                <Body>
                    <div class="stack" style=("--gap", "var(--s-3)")>
                        <h2 class="cut">{move || order.name.get()} "\u{200b}"</h2>
                        <KvList>
                            <Kv key="Location">{move || order.chosen_location().map_or_else(dash, |l| l.city)}</Kv>
                            <Kv key="Image">{move || order.chosen_image().map_or_else(dash, |i| i.description)}</Kv>
                            <Kv key="Type">{kind}</Kv>
                            <Kv key="Address">"Public IPv4"</Kv>
                            <Kv key="SSH">{keys}</Kv>
                        </KvList>
                        <Below>
                            <div class=css::sum>
                                <b>
                                    <output data-testid="price-month">{move || month(order)}</output>
                                </b>
                            </div>
                            <p class="t-sm t-2 num">
                                "a month at most, " <output data-testid="price-hour">{move || hour(order)}</output> " an hour"
                            </p>
                        </Below>
                        <OrderButton order=order ready=ready wide=true />
                        <p class="t-xs t-3">"Without VAT. Delete it any time; the hour begun is charged."</p>
                    </div>
                </Body>
            </Plain>
        </aside>
    }
}

/// The same on narrow screens, within a thumb's reach.
#[component]
pub fn PriceBar(order: Order, ready: Memo<bool>) -> impl IntoView {
    view! {
        <div class=css::price_bar role="region" aria-label="Price, short">
            <span>
                <b>{move || month(order)}</b>
                " a month at most"
                <br />
                <span class="t-sm t-2">{move || hour(order)} " an hour"</span>
            </span>
            <OrderButton order=order ready=ready wide=false />
        </div>
    }
}

#[component]
fn OrderButton(order: Order, ready: Memo<bool>, wide: bool) -> impl IntoView {
    view! {
        <button
            type="submit"
            class=if wide { btn(&[PRIMARY, BIG, WIDE]) } else { btn(&[PRIMARY, BIG]) }
            disabled=move || !ready.get()
            aria-busy=move || order.busy.get().then_some("true")
        >
            "Create server"
        </button>
    }
}
