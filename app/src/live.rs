//! The one live store: what answers and events said, as signals.
//!
//! ```text
//!            ┌── Welcome (first visit) / Reset ──▶ epoch + 1: pages ask again
//!  Opening ──┴──▶ Open ──close──▶ Lost{since} ──wait, jitter──▶ Opening …
//!                  ▲  Event: shelves, by seq        │
//!                  └────── hello{last_seq} ─────────┘
//! ```
//!
//! While the link is lost the last data stays on the screen, dimmed and dated.

use std::collections::BTreeMap;

use berth_model::action::{Action, ActionStatus, ResourceKind};
use berth_model::event::{Change, Event, LiveCommand, LiveHello, LiveMessage, WATCH_MAX};
use berth_model::load::LoadSpan;
use berth_model::server::Server;
use berth_model::{ServerId, Timestamp};
use gloo_timers::callback::Timeout;
use leptos::prelude::*;
use wasm_bindgen_futures::spawn_local;

use crate::api::Api;
use crate::browser;
use crate::notices::Notices;
use crate::socket::Socket;
use crate::store::{Shelf, Trail, wait_before_retry_ms};
use crate::wire;
use crate::words::{Shown, Verb, shown};

/// How the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Being opened for the first time.
    Opening,
    /// Events come.
    Open,
    /// Gone; the data on the screen is of that time.
    Lost {
        /// When it was lost.
        since: Timestamp,
    },
}

/// The live store. A handle; copies are the same store.
#[derive(Clone, Copy)]
pub struct Live {
    api: Api,
    notices: Notices,
    servers: RwSignal<Shelf<Server>>,
    actions: RwSignal<Shelf<Action>>,
    pressed: RwSignal<BTreeMap<ServerId, Verb>>,
    trails: StoredValue<BTreeMap<ServerId, ArcRwSignal<Trail>>>,
    link: RwSignal<Link>,
    epoch: RwSignal<u32>,
    seen: StoredValue<Option<i64>>,
    attempt: StoredValue<u32>,
    watching: StoredValue<BTreeMap<u32, Vec<ServerId>>>,
    socket: StoredValue<Option<Socket>, LocalStorage>,
    retry: StoredValue<Option<Timeout>, LocalStorage>,
}

impl Live {
    /// An empty store without a connection.
    pub fn new(api: Api, notices: Notices) -> Self {
        Self {
            api,
            notices,
            servers: RwSignal::new(Shelf::default()),
            actions: RwSignal::new(Shelf::default()),
            pressed: RwSignal::new(BTreeMap::new()),
            trails: StoredValue::new(BTreeMap::new()),
            link: RwSignal::new(Link::Opening),
            epoch: RwSignal::new(0),
            seen: StoredValue::new(None),
            attempt: StoredValue::new(0),
            watching: StoredValue::new(BTreeMap::new()),
            socket: StoredValue::new_local(None),
            retry: StoredValue::new_local(None),
        }
    }

    // ---- the connection --------------------------------------------------

    /// Connects. For as long as the store lives, a lost connection is opened again.
    pub fn connect(self) {
        self.retry.set_value(None);
        let Some(project) = self.api.project() else { return };
        let location = window().location();
        let scheme = if location.protocol().is_ok_and(|p| p == "https:") { "wss" } else { "ws" };
        let url = format!("{scheme}://{}/v1/live?project={project}", location.host().unwrap_or_default());
        let socket =
            Socket::open(&url, move || self.opened(), move |text| self.heard(&text), move || self.closed());
        if socket.is_none() {
            self.closed();
        }
        self.socket.set_value(socket);
    }

    /// Closes the connection and forgets everything: somebody signed out.
    pub fn forget(self) {
        self.retry.set_value(None);
        self.socket.set_value(None);
        self.servers.update(Shelf::clear);
        self.actions.update(Shelf::clear);
        self.pressed.update(BTreeMap::clear);
        self.trails.update_value(BTreeMap::clear);
        self.link.set(Link::Opening);
        self.seen.set_value(None);
        self.attempt.set_value(0);
    }

    /// Doesn't wait any longer for the next try.
    pub fn try_now(self) {
        if matches!(self.link.get_untracked(), Link::Lost { .. }) {
            self.attempt.set_value(0);
            self.connect();
        }
    }

    /// Opens the connection anew although it seems open: a device that slept or changed its network is
    /// not told that the other end is gone. What was missed comes by its number.
    pub fn renew(self) {
        match self.link.get_untracked() {
            Link::Opening => {}
            Link::Open => self.connect(),
            Link::Lost { .. } => self.try_now(),
        }
    }

    /// How the connection is.
    pub fn link(self) -> Signal<Link> {
        self.link.into()
    }

    /// Grows when what is known may have holes: whoever shows something asks again.
    pub fn epoch(self) -> Signal<u32> {
        self.epoch.into()
    }

    fn send(self, message: &impl serde::Serialize) {
        let text = serde_json::to_string(message).expect("types of the model are JSON");
        self.socket.with_value(|socket| {
            if let Some(socket) = socket {
                socket.send(&text);
            }
        });
    }

    fn opened(self) {
        self.send(&LiveHello { last_seq: self.seen.get_value() });
        self.send_watch();
    }

    fn closed(self) {
        if !matches!(self.link.get_untracked(), Link::Lost { .. }) {
            self.link.set(Link::Lost { since: browser::now() });
        }
        let attempt = self.attempt.get_value();
        self.attempt.set_value(attempt.saturating_add(1));
        let wait_ms = wait_before_retry_ms(attempt, browser::jitter());
        self.retry.set_value(Some(Timeout::new(wait_ms, move || self.connect())));
    }

    fn heard(self, text: &str) {
        let Some(message) = wire::read(text) else { return };
        match message {
            LiveMessage::Welcome { seq } => {
                self.attempt.set_value(0);
                self.link.set(Link::Open);
                if self.seen.get_value().is_none() {
                    // What was asked for before may already be older than this.
                    self.seen.set_value(Some(seq));
                    self.ask_again();
                }
            }
            LiveMessage::Reset { seq } => {
                self.seen.set_value(Some(seq));
                // Numbers may have begun anew, with a restored database.
                self.servers.update(Shelf::forget_order);
                self.actions.update(Shelf::forget_order);
                self.ask_again();
            }
            LiveMessage::Event(event) => self.happened(event),
            LiveMessage::Load { server, sample } => self.trail(server).update(|trail| trail.push(sample)),
        }
    }

    fn ask_again(self) {
        self.epoch.update(|epoch| *epoch = epoch.wrapping_add(1));
    }

    fn happened(self, event: Event) {
        let seq = event.seq;
        self.seen.set_value(Some(seq.max(self.seen.get_value().unwrap_or(seq))));
        match event.change {
            Change::Server { server } => {
                self.put_server(server.id, |shelf| shelf.event(server.id.0, seq, Some(*server)));
            }
            Change::ServerGone { id } => {
                self.trails.update_value(|trails| {
                    trails.remove(&id);
                });
                self.announce_gone(id);
                self.put_server(id, |shelf| shelf.event(id.0, seq, None));
            }
            Change::Action { action } => {
                self.announce(&action);
                let id = action.id.0;
                self.actions.update(|shelf| {
                    shelf.event(id, seq, Some(*action));
                });
            }
        }
    }

    fn put_server(self, id: ServerId, put: impl FnOnce(&mut Shelf<Server>) -> bool) {
        let word = |status| shown(status, None, None);
        let before = self.servers.with_untracked(|shelf| shelf.get(id.0).map(|s| s.status));
        if !self
            .servers
            .try_maybe_update(|shelf| {
                let changed = put(shelf);
                (changed, changed)
            })
            .unwrap_or(false)
        {
            return;
        }
        let after = self.servers.with_untracked(|shelf| shelf.get(id.0).map(|s| (s.status, s.name.clone())));
        if let (Some(before), Some((after, name))) = (before, after)
            && before != after
        {
            self.notices.say(format!("{name}: {}", word(after).word));
        }
    }

    /// Tells that a server is gone that somebody deleted. One that could not be made has told that already.
    fn announce_gone(self, id: ServerId) {
        let deleted = self.actions.with_untracked(|shelf| {
            shelf.iter().any(|(_, a)| concerns(a, id) && Verb::of_command(&a.command) == Some(Verb::Delete))
        });
        if let Some(name) = self.name_of(id).filter(|_| deleted) {
            self.notices.done(format!("{name} is deleted"));
        }
    }

    fn name_of(self, id: ServerId) -> Option<String> {
        self.servers.with_untracked(|shelf| shelf.get(id.0).map(|server| server.name.clone()))
    }

    /// Tells how an action ended that was seen under way.
    fn announce(self, action: &Action) {
        let was_running = self.actions.with_untracked(|shelf| {
            shelf.get(action.id.0).is_some_and(|known| known.status == ActionStatus::Running)
        });
        let Some(verb) = Verb::of_command(&action.command) else { return };
        if !was_running || action.status != ActionStatus::Error {
            return;
        }
        let id = action.resources.iter().find(|r| r.kind == ResourceKind::Server).map(|r| r.id);
        let name = id.and_then(|id| self.name_of(ServerId(id)));
        let name = name.unwrap_or_else(|| "The server".to_owned());
        let reason = action.error.as_ref().map(|error| error.message.clone()).unwrap_or_default();
        self.notices.failed(format!("{name} {}", verb.failed()), format!("{reason} {}", verb.next_step()));
    }

    // ---- answers ---------------------------------------------------------

    /// The mark to date an answer with: taken before asking.
    pub fn asking(self) -> i64 {
        self.seen.get_value().unwrap_or(0)
    }

    /// Takes servers of an answer.
    pub fn learn_servers(self, asked: i64, servers: Vec<Server>) {
        self.servers.update(|shelf| {
            for server in servers {
                shelf.answer(server.id.0, asked, Some(server));
            }
        });
    }

    /// Takes the answer that a server does not exist.
    pub fn learn_gone(self, asked: i64, id: ServerId) {
        self.servers.update(|shelf| {
            shelf.answer(id.0, asked, None);
        });
    }

    /// Takes a complete list: what is not in it is gone.
    pub fn learn_all_servers(self, asked: i64, servers: Vec<Server>) {
        let there: Vec<i64> = servers.iter().map(|server| server.id.0).collect();
        self.servers.update(|shelf| {
            let known: Vec<i64> = shelf.iter().map(|(id, _)| id).collect();
            for id in known.into_iter().filter(|id| !there.contains(id)) {
                shelf.answer(id, asked, None);
            }
        });
        self.learn_servers(asked, servers);
    }

    /// Takes actions of an answer.
    pub fn learn_actions(self, asked: i64, actions: Vec<Action>) {
        self.actions.update(|shelf| {
            for action in actions {
                shelf.answer(action.id.0, asked, Some(action));
            }
        });
    }

    /// Takes all actions that run: one that is not among them has ended.
    pub fn learn_running(self, asked: i64, running: Vec<Action>) {
        self.actions.update(|shelf| {
            let over = |id: &i64| running.iter().all(|action| action.id.0 != *id);
            let known = shelf.iter().filter(|(_, action)| action.status == ActionStatus::Running);
            let ended: Vec<i64> = known.map(|(id, _)| id).filter(over).collect();
            for id in ended {
                shelf.answer(id, asked, None);
            }
        });
        self.learn_actions(asked, running);
    }

    // ---- what is known ---------------------------------------------------

    /// All servers that are known.
    pub fn servers(self) -> Signal<Shelf<Server>> {
        self.servers.into()
    }

    /// A server; changes only when it does.
    pub fn server(self, id: ServerId) -> Memo<Option<Server>> {
        Memo::new(move |_| self.servers.with(|shelf| shelf.get(id.0).cloned()))
    }

    /// Is this server known to be gone?
    pub fn is_gone(self, id: ServerId) -> Memo<bool> {
        Memo::new(move |_| self.servers.with(|shelf| shelf.is_gone(id.0)))
    }

    /// What is under way on a server: its newest action that runs.
    pub fn under_way(self, id: ServerId) -> Memo<Option<Action>> {
        Memo::new(move |_| {
            self.actions.with(|shelf| {
                let of_server = shelf.iter().filter(|(_, action)| concerns(action, id));
                of_server
                    .filter(|(_, action)| action.status == ActionStatus::Running)
                    .last()
                    .map(|(_, a)| a.clone())
            })
        })
    }

    /// Everything known to have been done to a server, newest first.
    pub fn history(self, id: ServerId) -> Memo<Vec<Action>> {
        Memo::new(move |_| {
            self.actions.with(|shelf| {
                let mut of_server: Vec<Action> =
                    shelf.iter().filter(|(_, action)| concerns(action, id)).map(|(_, a)| a.clone()).collect();
                of_server.reverse();
                of_server
            })
        })
    }

    /// The button that was just pressed for a server, until the control plane has answered.
    pub fn pressed(self, id: ServerId) -> Memo<Option<Verb>> {
        Memo::new(move |_| self.pressed.with(|pressed| pressed.get(&id).copied()))
    }

    /// What to show of a server's state.
    pub fn shown(self, id: ServerId) -> Memo<Option<Shown>> {
        let (server, pressed, under_way) = (self.server(id), self.pressed(id), self.under_way(id));
        Memo::new(move |_| {
            let verb = under_way.with(|action| action.as_ref().and_then(|a| Verb::of_command(&a.command)));
            server.with(|server| server.as_ref().map(|s| shown(s.status, pressed.get(), verb)))
        })
    }

    // ---- doing something -------------------------------------------------

    /// Presses a button: shown at once, settled when the control plane answers.
    pub fn press(self, id: ServerId, name: String, verb: Verb) {
        self.pressed.update(|pressed| {
            pressed.insert(id, verb);
        });
        self.notices.say(format!("{name}: {}", verb.doing()));
        let asked = self.asking();
        spawn_local(async move {
            match self.api.act(id, verb).await {
                Ok(action) => self.learn_actions(asked, vec![action]),
                Err(fault) => self.notices.failed(format!("{name} {}", verb.failed()), fault.message()),
            }
            self.pressed.update(|pressed| {
                pressed.remove(&id);
            });
        });
    }

    // ---- load ------------------------------------------------------------

    /// The recent load of a server.
    pub fn trail(self, id: ServerId) -> ArcRwSignal<Trail> {
        let mut trail = None;
        self.trails.update_value(|trails| trail = Some(trails.entry(id).or_default().clone()));
        trail.unwrap_or_default()
    }

    /// Fetches the last ten minutes of a server's load, to put before what comes live.
    pub async fn fill_trail(self, id: ServerId) {
        if let Ok(reply) = self.api.load(id, LoadSpan::Live).await {
            self.trail(id).update(|trail| trail.fill(reply.samples));
        }
    }

    /// Watches servers for as long as the reactive owner around the call lives.
    pub fn watch(self, servers: Signal<Vec<ServerId>>) {
        let key = self.watching.with_value(|watching| watching.keys().next_back().map_or(0, |last| last + 1));
        Effect::new(move |_| {
            let servers = servers.get();
            self.watching.update_value(|watching| {
                watching.insert(key, servers);
            });
            self.send_watch();
        });
        on_cleanup(move || {
            self.watching.update_value(|watching| {
                watching.remove(&key);
            });
            self.send_watch();
        });
    }

    fn send_watch(self) {
        let mut wanted: Vec<ServerId> = self.watching.with_value(|w| w.values().flatten().copied().collect());
        wanted.sort_unstable();
        wanted.dedup();
        wanted.truncate(WATCH_MAX);
        self.send(&LiveCommand::Watch { servers: wanted });
    }
}

fn concerns(action: &Action, id: ServerId) -> bool {
    action.resources.iter().any(|r| r.kind == ResourceKind::Server && r.id == id.0)
}
