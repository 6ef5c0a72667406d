//! Dialogs: native, so that focus is kept inside, Escape closes, and the opener gets it back.

use leptos::html;
use leptos::prelude::*;

stylance::import_style!(css, "dialog.module.css");

/// A question, while `open`. Its children are made anew each time it opens; mark the control
/// that takes the focus with `autofocus`.
#[component]
pub fn Dialog(
    /// Is it open?
    open: RwSignal<bool>,
    /// Its title, a question.
    #[prop(into)]
    title: Signal<String>,
    /// What is done when the question is answered; the form is submitted.
    on_submit: Callback<()>,
    /// Explanation, fields, and [`DialogButtons`].
    children: ChildrenFn,
) -> impl IntoView {
    let children = StoredValue::new(children);
    view! {
        <Show when=move || open.get()>
            <Shown open=open title=title on_submit=on_submit>
                {children.with_value(|children| children())}
            </Shown>
        </Show>
    }
}

#[component]
fn Shown(
    open: RwSignal<bool>,
    title: Signal<String>,
    on_submit: Callback<()>,
    children: Children,
) -> impl IntoView {
    let node = NodeRef::<html::Dialog>::new();
    Effect::new(move |_| {
        if let Some(dialog) = node.get() {
            let _ = dialog.show_modal();
        }
    });
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        on_submit.run(());
    };
    let backdrop = move |event: web_sys::MouseEvent| {
        let dialog = node.get_untracked().map(web_sys::EventTarget::from);
        if event.target() == dialog {
            close(node);
        }
    };
    view! {
        <dialog
            class=css::dlg
            node_ref=node
            aria-labelledby="dialog-title"
            on:close=move |_| open.set(false)
            on:click=backdrop
        >
            <form on:submit=submit>
                <div class=css::grab></div>
                <h2 id="dialog-title">{title}</h2>
                {children()}
            </form>
        </dialog>
    }
}

fn close(node: NodeRef<html::Dialog>) {
    if let Some(dialog) = node.get_untracked() {
        dialog.close();
    }
}

/// The buttons at the foot of a dialog; on phones below each other, the last one first.
#[component]
pub fn DialogButtons(children: Children) -> impl IntoView {
    view! { <div class=css::foot>{children()}</div> }
}
