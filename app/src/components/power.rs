//! What can be done to a server, in menus and dialogs. What may lose data asks first.

use berth_model::ServerId;
use berth_model::server::{Server, ServerStatus};
use leptos::prelude::*;

use super::button::{BAD, PRIMARY, SOLID, btn};
use super::dialog::{Dialog, DialogButtons};
use super::field::{Field, Kind};
use super::menu::Entry;
use crate::live::Live;
use crate::words::Verb;

/// The server and the verb that is being asked about, on the page that provides it.
#[derive(Clone, Copy)]
pub struct Asking {
    what: RwSignal<Option<(ServerId, String, Verb)>>,
    open: RwSignal<bool>,
    live: Live,
}

impl Asking {
    /// Asks nothing.
    pub fn new(live: Live) -> Self {
        Self { what: RwSignal::new(None), open: RwSignal::new(false), live }
    }

    /// Does it at once, or asks first where something may be lost.
    pub fn request(self, server: &Server, verb: Verb) {
        match verb {
            Verb::Start | Verb::Create => self.live.press(server.id, server.name.clone(), verb),
            _ => {
                self.what.set(Some((server.id, server.name.clone(), verb)));
                self.open.set(true);
            }
        }
    }

    fn confirmed(self) {
        self.open.set(false);
        if let Some((id, name, verb)) = self.what.get_untracked() {
            self.live.press(id, name, verb);
        }
    }
}

/// What a menu offers for a server in this state.
pub fn verbs(status: ServerStatus) -> &'static [Verb] {
    match status {
        ServerStatus::Off => &[Verb::Start],
        ServerStatus::Running | ServerStatus::Stopping => {
            &[Verb::Restart, Verb::ShutDown, Verb::Reset, Verb::CutPower]
        }
        ServerStatus::Starting | ServerStatus::Unknown => &[Verb::Reset, Verb::CutPower],
        ServerStatus::Initializing
        | ServerStatus::Deleting
        | ServerStatus::Migrating
        | ServerStatus::Rebuilding => &[],
    }
}

/// The words of a verb in a menu: what it is called, and its consequence.
const fn offered(verb: Verb) -> (&'static str, Option<&'static str>, bool) {
    match verb {
        Verb::Create => ("Create server", None, false),
        Verb::Start => ("Start", Some("Boots from its disk"), false),
        Verb::Restart => ("Restart", Some("Asks the system to reboot. About 20 s"), false),
        Verb::ShutDown => ("Shut down", Some("Asks the system to stop. Still charged"), false),
        Verb::Reset => ("Reset", Some("Like the reset button. Unsaved data is lost"), true),
        Verb::CutPower => ("Cut power", Some("Like pulling the plug. Unsaved data is lost"), true),
        Verb::Delete => ("Delete", Some("Its disk and its address are given up"), true),
    }
}

/// The entries for a server, dangerous ones below a line; with deleting where there is no other place for it.
pub fn entries(asking: Asking, server: &Server, with_delete: bool) -> Vec<Entry> {
    let entry = |verb: Verb| {
        let (label, hint, bad) = offered(verb);
        let server = server.clone();
        let run = Callback::new(move |()| asking.request(&server, verb));
        Entry::Do { icon: verb.icon(), label, hint, bad, run }
    };
    let delete = with_delete.then_some(Verb::Delete);
    let all: Vec<Verb> = verbs(server.status).iter().copied().chain(delete).collect();
    let (bad, calm): (Vec<Verb>, Vec<Verb>) = all.into_iter().partition(|verb| offered(*verb).2);
    let line = (!calm.is_empty() && !bad.is_empty()).then_some(Entry::Line);
    calm.into_iter().map(entry).chain(line).chain(bad.into_iter().map(entry)).collect()
}

/// The question, while one is asked.
#[component]
pub fn PowerDialog(asking: Asking) -> impl IntoView {
    let name =
        move || asking.what.with(|what| what.as_ref().map(|(_, name, _)| name.clone()).unwrap_or_default());
    let verb = move || asking.what.with(|what| what.as_ref().map(|(.., verb)| *verb));
    let title = Signal::derive(move || {
        let what = verb().map_or("", |verb| offered(verb).0);
        if verb() == Some(Verb::CutPower) {
            format!("Cut power of {}?", name())
        } else {
            format!("{what} {}?", name())
        }
    });
    let typed = RwSignal::new(String::new());
    Effect::new(move |_| {
        asking.open.track();
        typed.set(String::new());
    });
    let armed = move || verb() != Some(Verb::Delete) || typed.get() == name();
    let submit = Callback::new(move |()| {
        if armed() {
            asking.confirmed();
        }
    });
    view! {
        <Dialog open=asking.open title=title on_submit=submit>
            <p class="t-2">{move || verb().map(consequence)}</p>
            {move || {
                (verb() == Some(Verb::Delete))
                    .then(|| {
                        view! {
                            <p class="t-sm">"Type " <b class="mono">{name}</b> " to delete it."</p>
                            <Field
                                id="confirm-name"
                                label="Name of the server"
                                hide_label=true
                                value=typed
                                error=Signal::stored(None::<String>)
                                kind=Kind::Code
                                autofocus=true
                            />
                        }
                    })
            }}
            <DialogButtons>
                <button
                    type="button"
                    class=btn(&[])
                    autofocus=move || verb() != Some(Verb::Delete)
                    on:click=move |_| asking.open.set(false)
                >
                    "Cancel"
                </button>
                <button
                    type="submit"
                    class=move || {
                        if verb().is_some_and(|verb| offered(verb).2) { btn(&[BAD, SOLID]) } else { btn(&[PRIMARY]) }
                    }
                    disabled=move || !armed()
                >
                    {move || match verb() {
                        Some(Verb::Delete) => "Delete server",
                        Some(verb) => offered(verb).0,
                        None => "",
                    }}
                </button>
            </DialogButtons>
        </Dialog>
    }
}

const fn consequence(verb: Verb) -> &'static str {
    match verb {
        Verb::Restart => {
            "The system is asked to reboot. What runs on it is unreachable for about 20 seconds. If it does not react, nothing is forced."
        }
        Verb::ShutDown => {
            "The system is asked to stop. What runs on it is unreachable until you start it again. Its disk and its address are kept, and it is still charged."
        }
        Verb::Reset => {
            "The server starts again at once, without asking its system. What is not yet written to its disk is lost."
        }
        Verb::CutPower => {
            "The server stops at once, without asking its system. What is not yet written to its disk is lost. It is still charged."
        }
        Verb::Delete => {
            "Its disk is erased and its address is given back, now and for good; there is no way to get them back. The charge ends with the hour begun."
        }
        Verb::Start | Verb::Create => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_lose_data_is_marked_and_says_so() {
        for verb in [Verb::Reset, Verb::CutPower] {
            let (_, hint, bad) = offered(verb);
            assert!(bad && hint.is_some_and(|hint| hint.contains("lost")), "{verb:?}");
            assert!(consequence(verb).contains("lost"), "{verb:?}");
        }
        assert!(offered(Verb::Delete).2);
    }

    #[test]
    fn a_server_that_is_off_can_only_be_started() {
        assert_eq!(verbs(ServerStatus::Off), [Verb::Start]);
        assert!(verbs(ServerStatus::Initializing).is_empty());
    }
}
