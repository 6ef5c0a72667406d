//! The choices of an order: where, which system, which shape.

use berth_model::image::Image;
use berth_model::location::Location;
use berth_model::server_type::{CpuKind, ServerType};
use leptos::prelude::*;

use super::server_new_order::Order;
use crate::components::field::{FieldError, Hint};
use crate::components::pick::{Pick, Picks, TypeHead, TypeRow};
use crate::components::seg::Segments;
use crate::format;
use crate::prices::Prices;

stylance::import_style!(css, "server_new_choices.module.css");

/// The locations to choose from.
#[component]
pub fn Locations(order: Order) -> impl IntoView {
    let all = order.offer.with_untracked(|o| o.as_ref().map(|o| o.locations.clone())).unwrap_or_default();
    let card = move |location: Location| {
        let name = location.name.clone();
        let served = order.offer.with_untracked(|o| {
            o.as_ref().is_some_and(|o| o.types.iter().any(|t| Prices::of(t, &location.name).is_some()))
        });
        let text = if served { location.name.clone() } else { format!("{} · sold out", location.name) };
        let chosen = name.clone();
        view! {
            <Pick
                group="location"
                value=location.name.clone()
                chosen=Signal::derive(move || order.location.with(|l| *l == chosen))
                disabled=!served
                on_choose=Callback::new(move |_| {
                    order.mend("location");
                    order.location.set(name.clone());
                })
                title=location.city
                text=text
            />
        }
    };
    view! {
        <Section id="location" title="Location" order=order>
            <Picks>{all.into_iter().map(card).collect_view()}</Picks>
        </Section>
    }
}

/// The images to choose from.
#[component]
pub fn Images(order: Order) -> impl IntoView {
    let all = order.offer.with_untracked(|o| o.as_ref().map(|o| o.images.clone())).unwrap_or_default();
    let card = move |image: Image| {
        let name = image.name.clone().unwrap_or_default();
        let (value, chosen) = (name.clone(), name.clone());
        let disk = image.disk_size;
        let too_big = Signal::derive(move || order.chosen_type().is_some_and(|t| f64::from(t.disk) < disk));
        let text = name.clone();
        view! {
            <Pick
                group="image"
                value=value
                chosen=Signal::derive(move || order.image.with(|i| *i == chosen))
                on_choose=Callback::new(move |_| {
                    order.mend("image");
                    order.image.set(name.clone());
                })
                title=image.description
                text=Signal::derive(move || {
                    if too_big.get() { format!("{text} · needs {disk:.0} GB") } else { text.clone() }
                })
            />
        }
    };
    view! {
        <Section id="image" title="Image" order=order>
            <Picks>{all.into_iter().map(card).collect_view()}</Picks>
        </Section>
    }
}

/// The types to choose from.
#[component]
pub fn Types(order: Order) -> impl IntoView {
    let all = order.offer.with_untracked(|o| o.as_ref().map(|o| o.types.clone())).unwrap_or_default();
    let both =
        [CpuKind::Shared, CpuKind::Dedicated].iter().all(|kind| all.iter().any(|t| t.cpu_type == *kind));
    let options = Signal::stored(vec![
        (CpuKind::Shared, "Shared CPU", None),
        (CpuKind::Dedicated, "Dedicated CPU", None),
    ]);
    let row = move |kind: ServerType| {
        let here = {
            let kind = kind.clone();
            Memo::new(move |_| Prices::of(&kind, &order.location.get()))
        };
        let disk = kind.disk;
        let small = Memo::new(move |_| order.chosen_image().is_some_and(|i| i.disk_size > f64::from(disk)));
        let (name, chosen) = (kind.name.clone(), kind.name.clone());
        let said = move |write: fn(Prices) -> String| {
            Signal::derive(move || here.get().map_or_else(|| "not here".to_owned(), write))
        };
        view! {
            <TypeRow
                name=kind.name
                cores=kind.cores
                memory=format::gigabytes(kind.memory)
                disk=format!("{} GB", kind.disk)
                traffic=Signal::derive(move || here.get().map_or_else(|| format::NONE.to_owned(), |p| format::traffic(p.traffic)))
                per_hour=Signal::derive(move || {
                    here.get().map(|p| format::money_per_hour(p.hourly)).unwrap_or_default()
                })
                per_month=said(|p| format::money(p.monthly))
                chosen=Signal::derive(move || order.kind.with(|k| *k == chosen))
                disabled=Signal::derive(move || here.get().is_none() || small.get())
                on_choose=Callback::new(move |()| {
                    order.mend("server_type");
                    order.kind.set(name.clone());
                })
            />
        }
    };
    let shown = move || {
        let cpu = order.cpu.get();
        all.iter().filter(|t| !both || t.cpu_type == cpu).cloned().map(row).collect_view()
    };
    view! {
        <Section id="server_type" title="Type" order=order>
            {both
                .then(|| {
                    view! {
                        <div class=format!("row {}", css::below)>
                            <Segments label="Kind of CPU" options=options chosen=order.cpu />
                            <Hint>"Shared suits most work; dedicated never waits for a neighbour."</Hint>
                        </div>
                    }
                })}
            <div class=format!("stack {}", css::rows)>
                <TypeHead />
                {shown}
            </div>
        </Section>
    }
}

/// A group of choices with its title, and what is wrong with it.
#[component]
pub fn Section(id: &'static str, title: &'static str, order: Order, children: Children) -> impl IntoView {
    let error = order.error(id);
    let error_id = format!("{id}-error");
    view! {
        <fieldset id=id aria-describedby=error_id.clone()>
            <legend>
                <h2>{title}</h2>
            </legend>
            {children()}
            <div class=css::error hidden=move || error.with(Option::is_none)>
                <FieldError id=error_id.clone() error=error />
            </div>
        </fieldset>
    }
}
