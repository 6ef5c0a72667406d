//! Light, dark, or as the system has it; kept by the browser, set before the first paint by the
//! shell in `index.html`.

use leptos::prelude::*;

use crate::browser;

const KEY: &str = "berth.theme";

/// How bright the panel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    /// As the system has it.
    System,
    /// Light.
    Light,
    /// Dark.
    Dark,
}

impl Theme {
    /// All, in the order of the menu.
    pub const ALL: [Self; 3] = [Self::System, Self::Light, Self::Dark];

    /// Its word in the menu.
    pub const fn label(self) -> &'static str {
        match self {
            Self::System => "As the system",
            Self::Light => "Light",
            Self::Dark => "Dark",
        }
    }

    const fn word(self) -> Option<&'static str> {
        match self {
            Self::System => None,
            Self::Light => Some("light"),
            Self::Dark => Some("dark"),
        }
    }

    /// The one that was chosen last.
    pub fn stored() -> Self {
        let kept = browser::stored(KEY);
        Self::ALL.into_iter().find(|theme| theme.word() == kept.as_deref()).unwrap_or(Self::System)
    }

    /// Puts it on the page and keeps it.
    pub fn choose(self, chosen: RwSignal<Self>) {
        browser::store(KEY, self.word());
        browser::mark_page("data-theme", self.word());
        chosen.set(self);
    }
}
