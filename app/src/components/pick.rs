//! Select cards: a radio or a checkbox that shows what it stands for.

use leptos::prelude::*;

stylance::import_style!(css, "pick.module.css");

/// Cards side by side.
#[component]
pub fn Picks(
    /// Cards wide enough for a fingerprint.
    #[prop(optional)]
    wide: bool,
    children: Children,
) -> impl IntoView {
    view! { <div class=css::picks class=(css::wide, wide)>{children()}</div> }
}

/// One of several.
#[component]
pub fn Pick(
    /// The group's name.
    group: &'static str,
    /// Its value on the wire.
    #[prop(into)]
    value: String,
    /// Is it chosen?
    #[prop(into)]
    chosen: Signal<bool>,
    /// It cannot be chosen now; the second line says why.
    #[prop(optional, into)]
    disabled: Signal<bool>,
    /// Several can be chosen.
    #[prop(optional)]
    many: bool,
    /// Called when it is chosen, or with `false` when it no longer is.
    on_choose: Callback<bool>,
    /// Its first line.
    #[prop(into)]
    title: String,
    /// Its second line.
    #[prop(into)]
    text: Signal<String>,
) -> impl IntoView {
    view! {
        <label class=css::pick>
            <input
                type=if many { "checkbox" } else { "radio" }
                name=group
                value=value
                prop:checked=chosen
                disabled=disabled
                on:change=move |event| on_choose.run(event_target_checked(&event))
            />
            <span>
                <b class=css::title>{title}</b>
                <small class="cut">{text}</small>
            </span>
        </label>
    }
}

/// A dashed card that adds one more.
#[component]
pub fn PickAdd(
    label: &'static str,
    #[prop(into)] open: Signal<bool>,
    on_press: Callback<()>,
) -> impl IntoView {
    view! {
        <button
            type="button"
            class=css::add
            aria-expanded=move || if open.get() { "true" } else { "false" }
            on:click=move |_| on_press.run(())
        >
            {super::icon::icon("i-plus")}
            {label}
        </button>
    }
}

/// What the columns of [`TypeRow`] are.
#[component]
pub fn TypeHead() -> impl IntoView {
    view! {
        <div class=format!("{} {} {}", css::pick, css::row, css::head) aria-hidden="true">
            <span></span>
            <span>"Type"</span>
            <span>"vCPU"</span>
            <span>"Memory"</span>
            <span>"Disk"</span>
            <span>"Traffic"</span>
            <span>"Per hour"</span>
            <span>"Max per month"</span>
        </div>
    }
}

/// A server type with its shape and its price.
#[component]
pub fn TypeRow(
    /// Its name.
    #[prop(into)]
    name: String,
    /// Cores.
    cores: u32,
    /// Memory, in words.
    #[prop(into)]
    memory: String,
    /// Disk, in words.
    #[prop(into)]
    disk: String,
    /// Traffic, in words.
    #[prop(into)]
    traffic: Signal<String>,
    /// Price per hour, in words.
    #[prop(into)]
    per_hour: Signal<String>,
    /// Most per month, in words.
    #[prop(into)]
    per_month: Signal<String>,
    /// Is it chosen?
    #[prop(into)]
    chosen: Signal<bool>,
    /// It cannot be chosen now.
    #[prop(into)]
    disabled: Signal<bool>,
    /// Called when it is chosen.
    on_choose: Callback<()>,
) -> impl IntoView {
    view! {
        <label class=format!("{} {}", css::pick, css::row)>
            <input
                type="radio"
                name="server_type"
                value=name.clone()
                prop:checked=chosen
                disabled=disabled
                on:change=move |_| on_choose.run(())
            />
            <b>{name}</b>
            <span class=css::specs>
                <span class=css::spec>{cores.to_string()} <i>" vCPU · "</i></span>
                <span class=css::spec>{memory} <i>" · "</i></span>
                <span class=css::spec>{disk} <i>" · "</i></span>
                <span class=css::spec>{traffic}</span>
            </span>
            <span class=css::ph>{per_hour}</span>
            <b class=css::pm>{per_month}</b>
        </label>
    }
}
