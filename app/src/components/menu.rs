//! Menus: a button and what it opens. Arrow keys, Home, End and first letters move; Escape and
//! Tab close; the focus goes back to the button before an entry acts, so that a dialog it opens
//! returns there.

use leptos::html;
use leptos::prelude::*;
use wasm_bindgen::JsCast;

use super::icon::icon;

stylance::import_style!(css, "menu.module.css");

/// One line of a menu.
#[derive(Clone)]
pub enum Entry {
    /// Something to do.
    Do {
        /// Its icon.
        icon: &'static str,
        /// Its words: a verb.
        label: &'static str,
        /// The consequence.
        hint: Option<&'static str>,
        /// Data may be lost.
        bad: bool,
        /// What it does.
        run: Callback<()>,
    },
    /// One of several that exclude each other.
    Choose {
        /// Its words.
        label: &'static str,
        /// Is it chosen?
        chosen: bool,
        /// Chooses it.
        run: Callback<()>,
    },
    /// A line between groups.
    Line,
}

/// Where the menu opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Side {
    /// Below the button where there is room, at its end.
    #[default]
    End,
    /// Above the button, at its start.
    UpStart,
}

/// Roughly how high an entry is, to know whether there is room below.
const ENTRY_PX: f64 = 52.0;

/// A button with a menu.
#[component]
pub fn Menu(
    /// The classes of the button.
    #[prop(into)]
    class: String,
    /// The button's name for screen readers; without one, its children are it.
    #[prop(optional, into)]
    label: Option<String>,
    /// What the menu holds; made anew each time it opens.
    entries: Callback<(), Vec<Entry>>,
    /// Where it opens.
    #[prop(optional)]
    side: Side,
    /// Raised over a row that is a link.
    #[prop(optional)]
    lift: bool,
    /// Nothing can be done now.
    #[prop(optional, into)]
    disabled: Signal<bool>,
    /// The inside of the button.
    children: Children,
) -> impl IntoView {
    let open = RwSignal::new(false);
    let up = RwSignal::new(side == Side::UpStart);
    let root = NodeRef::<html::Div>::new();
    let button = NodeRef::<html::Button>::new();

    let close = move |back: bool| {
        open.set(false);
        if back && let Some(button) = button.get_untracked() {
            let _ = button.focus();
        }
    };
    let toggle = move |_| {
        if disabled.get_untracked() {
            return;
        }
        if let Some(button) = button.get_untracked()
            && side == Side::End
        {
            let height = window().inner_height().ok().and_then(|h| h.as_f64()).unwrap_or(f64::MAX);
            let below = height - button.get_bounding_client_rect().bottom();
            let wanted = entries.run(()).len() as f64 * ENTRY_PX;
            up.set(below < wanted && button.get_bounding_client_rect().top() > wanted);
        }
        open.update(|open| *open = !*open);
    };
    let outside = window_event_listener(leptos::ev::pointerdown, move |event| {
        let inside = event
            .target()
            .and_then(|target| target.dyn_into::<web_sys::Node>().ok())
            .zip(root.get_untracked())
            .is_some_and(|(target, root)| root.contains(Some(&target)));
        if !inside && open.get_untracked() {
            close(false);
        }
    });
    on_cleanup(move || outside.remove());

    let on_key = move |event: web_sys::KeyboardEvent| {
        let key = event.key();
        if !open.get_untracked() {
            if key == "ArrowDown" || key == "ArrowUp" {
                event.prevent_default();
                toggle(());
            }
            return;
        }
        match key.as_str() {
            "Escape" => {
                event.prevent_default();
                event.stop_propagation();
                close(true);
            }
            "Tab" => close(false),
            "ArrowDown" | "ArrowUp" | "Home" | "End" => {
                event.prevent_default();
                walk(root, &key);
            }
            letter if letter.chars().count() == 1 && letter != " " => {
                event.prevent_default();
                walk(root, letter);
            }
            _ => {}
        }
    };
    // The first entry takes the focus when the menu appears.
    Effect::new(move |_| {
        if open.get() {
            request_animation_frame(move || walk(root, "Home"));
        }
    });

    let entry = move |entry: Entry| match entry {
        Entry::Line => view! { <hr role="separator" /> }.into_any(),
        Entry::Do { icon: sign, label, hint, bad, run } => view! {
            <button
                type="button"
                role="menuitem"
                tabindex="-1"
                class=(css::bad, bad)
                on:click=move |_| {
                    close(true);
                    run.run(());
                }
            >
                {icon(sign)}
                <span>{label} {hint.map(|hint| view! { <small>{hint}</small> })}</span>
            </button>
        }
        .into_any(),
        Entry::Choose { label, chosen, run } => view! {
            <button
                type="button"
                role="menuitemradio"
                tabindex="-1"
                aria-checked=if chosen { "true" } else { "false" }
                on:click=move |_| {
                    close(true);
                    run.run(());
                }
            >
                <span class=css::tick></span>
                <span>{label}</span>
            </button>
        }
        .into_any(),
    };
    view! {
        <div
            class=css::drop
            class=(css::lift, lift)
            class=(css::open, open)
            node_ref=root
            on:keydown=on_key
        >
            <button
                type="button"
                class=class
                node_ref=button
                aria-label=label
                aria-haspopup="menu"
                aria-expanded=move || if open.get() { "true" } else { "false" }
                aria-disabled=move || disabled.get().then_some("true")
                on:click=move |_| toggle(())
            >
                {children()}
            </button>
            <Show when=move || open.get()>
                <div
                    class=css::menu
                    class=(css::up, up)
                    class=(css::from_start, side == Side::UpStart)
                    role="menu"
                >
                    {entries.run(()).into_iter().map(entry).collect_view()}
                </div>
            </Show>
        </div>
    }
}

/// Moves the focus among the entries: by a key's name, or to the next that begins with a letter.
fn walk(root: NodeRef<html::Div>, key: &str) {
    let Some(root) = root.get_untracked() else { return };
    let Ok(found) = root.query_selector_all("[role^=menuitem]") else { return };
    let entries: Vec<web_sys::HtmlElement> =
        (0..found.length()).filter_map(|n| found.item(n)?.dyn_into().ok()).collect();
    let focused = document().active_element();
    let at = entries.iter().position(|entry| focused.as_ref().is_some_and(|f| entry.is_same_node(Some(f))));
    let texts: Vec<String> = entries.iter().map(|e| e.text_content().unwrap_or_default()).collect();
    if let Some(entry) = next_entry(&texts, at, key).and_then(|n| entries.get(n)) {
        let _ = entry.focus();
    }
}

/// Which entry a key leads to.
fn next_entry(texts: &[String], at: Option<usize>, key: &str) -> Option<usize> {
    let last = texts.len().checked_sub(1)?;
    match key {
        "Home" => Some(0),
        "End" => Some(last),
        "ArrowDown" => Some(at.map_or(0, |at| if at == last { 0 } else { at + 1 })),
        "ArrowUp" => Some(at.map_or(last, |at| if at == 0 { last } else { at - 1 })),
        letter => {
            let from = at.map_or(0, |at| at + 1);
            let order = (from..texts.len()).chain(0..from.min(texts.len()));
            let letter = letter.to_lowercase();
            order.into_iter().find(|n| texts[*n].to_lowercase().starts_with(&letter))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_walk_in_a_circle_and_letters_jump() {
        let texts = ["Restart", "Shut down", "Reset"].map(str::to_owned);
        let next = |at, key| next_entry(&texts, at, key);
        assert_eq!(next(None, "Home"), Some(0));
        assert_eq!(next(Some(2), "ArrowDown"), Some(0));
        assert_eq!(next(Some(0), "ArrowUp"), Some(2));
        assert_eq!(next(Some(0), "r"), Some(2), "the next one that begins with it");
        assert_eq!(next(Some(2), "r"), Some(0));
        assert_eq!(next(Some(1), "x"), None);
        assert_eq!(next_entry(&[], None, "Home"), None);
    }
}
