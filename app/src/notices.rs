//! What the panel tells beside the page: toasts, and one region that screen readers announce.

use leptos::prelude::*;

use crate::words::Mark;

/// Most toasts at a time.
const TOASTS_MAX: usize = 3;
/// How long a toast stays that is no failure.
const TOAST_MS: u32 = 6_000;

/// A short message that floats.
#[derive(Debug, Clone, PartialEq)]
pub struct Toast {
    /// Its number, for keys.
    pub id: u32,
    /// Its shape.
    pub mark: Mark,
    /// What happened.
    pub title: String,
    /// What to do now.
    pub text: Option<String>,
}

/// The notices on the screen.
#[derive(Clone, Copy)]
pub struct Notices {
    toasts: RwSignal<Vec<Toast>>,
    said: RwSignal<String>,
    next: StoredValue<u32>,
}

impl Notices {
    /// None yet.
    pub fn new() -> Self {
        Self {
            toasts: RwSignal::new(Vec::new()),
            said: RwSignal::new(String::new()),
            next: StoredValue::new(0),
        }
    }

    /// The toasts, oldest first.
    pub fn toasts(self) -> Signal<Vec<Toast>> {
        self.toasts.into()
    }

    /// What the status region holds.
    pub fn said(self) -> Signal<String> {
        self.said.into()
    }

    /// Announces a change of state, once.
    pub fn say(self, text: impl Into<String>) {
        self.said.set(text.into());
    }

    /// Tells that something is done; goes by itself.
    pub fn done(self, title: impl Into<String>) {
        let id = self.push(Mark::Run, title.into(), None);
        wasm_bindgen_futures::spawn_local(async move {
            gloo_timers::future::TimeoutFuture::new(TOAST_MS).await;
            self.dismiss(id);
        });
    }

    /// Tells that something failed, and what to do; stays until dismissed.
    pub fn failed(self, title: impl Into<String>, text: impl Into<String>) {
        self.push(Mark::Bad, title.into(), Some(text.into()));
    }

    fn push(self, mark: Mark, title: String, text: Option<String>) -> u32 {
        let id = self.next.get_value();
        self.next.set_value(id.wrapping_add(1));
        self.toasts.update(|toasts| {
            toasts.retain(|toast| toast.title != title);
            toasts.push(Toast { id, mark, title, text });
            let extra = toasts.len().saturating_sub(TOASTS_MAX);
            toasts.drain(..extra);
        });
        id
    }

    /// Takes a toast away.
    pub fn dismiss(self, id: u32) {
        self.toasts.update(|toasts| toasts.retain(|toast| toast.id != id));
    }
}
