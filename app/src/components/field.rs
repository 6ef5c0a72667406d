//! Fields: label, input, hint, error.

use leptos::prelude::*;

use super::button::{ICON, QUIET, btn};
use super::icon::icon;

stylance::import_style!(css, "field.module.css");

/// What a field takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// Words.
    #[default]
    Text,
    /// Names and codes, in the face of code.
    Code,
    /// A mail address.
    Email,
    /// A password, which can be shown.
    Password,
    /// Several lines, in the face of code.
    Lines,
}

/// What is wrong with a field, below it.
#[component]
pub fn FieldError(#[prop(into)] id: String, #[prop(into)] error: Signal<Option<String>>) -> impl IntoView {
    view! {
        <span class=css::err id=id hidden=move || error.with(Option::is_none)>
            {icon("i-warn")}
            <span>{move || error.get()}</span>
        </span>
    }
}

/// A labelled input.
#[component]
pub fn Field(
    /// Its id, unique on the page.
    id: &'static str,
    /// Its label.
    label: &'static str,
    /// What is typed.
    value: RwSignal<String>,
    /// What is wrong with it.
    #[prop(into)]
    error: Signal<Option<String>>,
    /// What to know before typing.
    #[prop(optional, into)]
    hint: Option<String>,
    /// What it takes.
    #[prop(optional)]
    kind: Kind,
    /// Its word for password managers.
    #[prop(default = "off")]
    autocomplete: &'static str,
    /// The label is for screen readers only; a heading says it already.
    #[prop(optional)]
    hide_label: bool,
    /// 44 px high everywhere: the door.
    #[prop(optional)]
    tall: bool,
    /// Not wider than a name needs.
    #[prop(optional)]
    narrow: bool,
    /// Takes the focus when it appears.
    #[prop(optional)]
    autofocus: bool,
    /// An example.
    #[prop(default = "")]
    placeholder: &'static str,
    /// Called when the field is left.
    #[prop(optional)]
    on_leave: Option<Callback<()>>,
) -> impl IntoView {
    let peek = RwSignal::new(false);
    let (hint_id, error_id) = (format!("{id}-hint"), format!("{id}-error"));
    let described = {
        let (hint_id, error_id) = (hint.is_some().then(|| hint_id.clone()), error_id.clone());
        move || {
            let error = error.with(Option::is_some).then(|| error_id.clone());
            let ids: Vec<String> = hint_id.clone().into_iter().chain(error).collect();
            (!ids.is_empty()).then(|| ids.join(" "))
        }
    };
    let invalid = move || error.with(Option::is_some).then_some("true");
    let leave = move |_| {
        if let Some(leave) = on_leave {
            leave.run(());
        }
    };
    let input_class = match kind {
        Kind::Code | Kind::Lines => format!("{} mono", css::text),
        _ => css::text.to_owned(),
    };
    let input = match kind {
        Kind::Lines => view! {
            <textarea
                id=id
                class=input_class
                autocomplete="off"
                spellcheck="false"
                placeholder=placeholder
                aria-invalid=invalid
                aria-describedby=described
                prop:value=value
                on:input=move |event| value.set(event_target_value(&event))
                on:blur=leave
            ></textarea>
        }
        .into_any(),
        _ => view! {
            <input
                id=id
                class=input_class
                type=move || match kind {
                    Kind::Email => "email",
                    Kind::Password if !peek.get() => "password",
                    _ => "text",
                }
                autocomplete=autocomplete
                autocapitalize="off"
                spellcheck="false"
                autofocus=autofocus
                placeholder=placeholder
                aria-invalid=invalid
                aria-describedby=described
                prop:value=value
                on:input=move |event| value.set(event_target_value(&event))
                on:blur=leave
            />
        }
        .into_any(),
    };
    let input = if kind == Kind::Password {
        view! {
            <span class=format!("{} {}", css::affix, css::bare)>
                {input}
                <button
                    type="button"
                    class=btn(&[QUIET, ICON])
                    aria-label="Show password"
                    aria-pressed=move || if peek.get() { "true" } else { "false" }
                    on:click=move |_| peek.update(|peek| *peek = !*peek)
                >
                    {icon("i-eye")}
                </button>
            </span>
        }
        .into_any()
    } else {
        input
    };
    view! {
        <div class=css::field class=(css::tall, tall) class=(css::narrow, narrow)>
            <label for=id class:vh=hide_label>
                {label}
            </label>
            {input}
            <FieldError id=error_id error=error />
            {hint.map(|hint| view! { <span class=css::hint id=hint_id>{hint}</span> })}
        </div>
    }
}

/// A hint that belongs to no single input.
#[component]
pub fn Hint(children: Children) -> impl IntoView {
    view! { <span class=css::hint>{children()}</span> }
}

/// A search field: its label is for screen readers, the icon says it to others.
#[component]
pub fn Search(
    /// Its label.
    label: &'static str,
    /// What is in it while it is empty.
    #[prop(into)]
    placeholder: Signal<String>,
    /// What is typed.
    value: RwSignal<String>,
) -> impl IntoView {
    view! {
        <label class=css::affix>
            <span class="vh">{label}</span>
            {icon("i-search")}
            <input
                class=css::text
                type="search"
                placeholder=placeholder
                prop:value=value
                on:input=move |event| value.set(event_target_value(&event))
            />
        </label>
    }
}
