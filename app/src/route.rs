//! Where the panel is, and moving between places. A router of its own: six paths need no more,
//! and a general one weighs as much as all pages together.

use berth_model::ServerId;
use leptos::prelude::*;
use wasm_bindgen::{JsCast, JsValue};

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `/`: the list, in the end.
    Home,
    /// `/sign-in`
    SignIn,
    /// `/sign-up`
    SignUp,
    /// `/servers`
    Servers,
    /// `/servers/new`
    ServerNew,
    /// `/servers/7`
    Server(ServerId),
    /// Anything else.
    Nowhere,
}

impl Place {
    /// Reads a path.
    pub fn of(path: &str) -> Self {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        match parts.as_slice() {
            [] => Self::Home,
            ["sign-in"] => Self::SignIn,
            ["sign-up"] => Self::SignUp,
            ["servers"] => Self::Servers,
            ["servers", "new"] => Self::ServerNew,
            ["servers", id] => id.parse().map_or(Self::Nowhere, Self::Server),
            _ => Self::Nowhere,
        }
    }
}

/// The way through the panel. A handle; copies are the same.
#[derive(Clone, Copy)]
pub struct Way {
    path: RwSignal<String>,
}

impl Way {
    /// Follows the address bar, and the links that lead to other places of the panel.
    pub fn new() -> Self {
        let way = Self { path: RwSignal::new(here()) };
        window_event_listener(leptos::ev::popstate, move |_| way.path.set(here()));
        window_event_listener(leptos::ev::click, move |event| {
            let held = event.ctrl_key() || event.meta_key() || event.shift_key() || event.alt_key();
            if held || event.button() != 0 || event.default_prevented() {
                return;
            }
            if let Some(to) = link_of(&event) {
                event.prevent_default();
                way.go(&to);
            }
        });
        way
    }

    /// Where it leads now.
    pub fn place(self) -> Memo<Place> {
        Memo::new(move |_| self.path.with(|path| Place::of(path)))
    }

    /// The path, as it is now.
    pub fn path(self) -> String {
        self.path.get_untracked()
    }

    /// Goes somewhere, with a way back.
    pub fn go(self, to: &str) {
        if let Ok(history) = window().history() {
            let _ = history.push_state_with_url(&JsValue::NULL, "", Some(to));
        }
        self.path.set(here());
        // Coming back is the browser's: it knows where the reader was.
        window().scroll_to_with_x_and_y(0.0, 0.0);
    }

    /// Goes somewhere instead of here.
    pub fn replace(self, to: &str) {
        if let Ok(history) = window().history() {
            let _ = history.replace_state_with_url(&JsValue::NULL, "", Some(to));
        }
        self.path.set(here());
    }
}

fn here() -> String {
    window().location().pathname().unwrap_or_default()
}

/// A value behind the `?` of the address.
pub fn query(name: &str) -> Option<String> {
    let search = window().location().search().ok()?;
    web_sys::UrlSearchParams::new_with_str(&search).ok()?.get(name)
}

/// The path of the link that was clicked, if it is one of this site.
fn link_of(event: &web_sys::MouseEvent) -> Option<String> {
    let target: web_sys::Element = event.target()?.dyn_into().ok()?;
    let link = target.closest("a[href]").ok()??;
    let to = link.get_attribute("href")?;
    let inside = to.starts_with('/') && !to.starts_with("//");
    (inside && !link.has_attribute("target") && !link.has_attribute("download")).then_some(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_their_places() {
        for (path, place) in [
            ("/", Place::Home),
            ("/sign-in", Place::SignIn),
            ("/servers/", Place::Servers),
            ("/servers/new", Place::ServerNew),
            ("/servers/7", Place::Server(ServerId(7))),
            ("/servers/seven", Place::Nowhere),
            ("/servers/7/console", Place::Nowhere),
            ("/nowhere", Place::Nowhere),
        ] {
            assert_eq!(Place::of(path), place, "{path}");
        }
    }
}
