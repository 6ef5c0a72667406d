//! Who is signed in.

use berth_model::people::{Project, Session, User};
use leptos::prelude::*;

use crate::api::{Api, Fault};
use crate::browser;
use crate::live::Live;

/// Remembered by the browser so that the shell paints the right page before the app is there.
const HINT: &str = "berth.signed-in";

/// The session. A handle; copies are the same.
#[derive(Clone, Copy)]
pub struct Door {
    api: Api,
    live: Live,
    session: RwSignal<Option<Session>>,
}

impl Door {
    /// Stands at the door with what the control plane said at the start.
    pub fn new(api: Api, live: Live, session: Option<Session>) -> Self {
        let door = Self { api, live, session: RwSignal::new(None) };
        match session {
            Some(session) => door.enter(session),
            None => browser::store(HINT, None),
        }
        door
    }

    /// Is somebody signed in?
    pub fn is_in(self) -> Memo<bool> {
        Memo::new(move |_| self.session.with(Option::is_some))
    }

    /// The user; the frame is made anew for another one.
    pub fn user(self) -> Option<User> {
        self.session.with_untracked(|session| session.as_ref().map(|s| s.user.clone()))
    }

    /// The project that is entered.
    pub fn project(self) -> Option<Project> {
        self.session.with_untracked(|session| session.as_ref().and_then(|s| s.projects.first().cloned()))
    }

    /// Goes in.
    pub fn enter(self, session: Session) {
        browser::store(HINT, Some("1"));
        self.api.enter(session.projects.first().map(|project| project.id));
        self.session.set(Some(session));
        self.live.connect();
    }

    /// Signs out, here and on the control plane.
    ///
    /// # Errors
    /// When the control plane could not be told; then nothing has changed.
    pub async fn leave(self) -> Result<(), Fault> {
        self.api.session_delete().await?;
        self.shut();
        Ok(())
    }

    /// The session ended: forget what belongs to it.
    pub fn shut(self) {
        browser::store(HINT, None);
        self.session.set(None);
        self.api.enter(None);
        self.live.forget();
    }
}
