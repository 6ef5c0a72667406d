//! The connection to libvirt's daemon, and a thread that keeps it.
//!
//! ```text
//!            open ok: subscribe, look
//! closed ───────────────────────────────► live
//!   ▲ └─ open failed: wait, try again       │ daemon gone, or silent for ~ 12 s
//!   └───────────────────────────────────────┘
//! ```
//!
//! Opening can hang when the daemon hangs, so only the keeper opens; whoever needs the connection
//! waits for it a limited time. On an open connection libvirt's keepalive ends calls that hang.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use virt::connect::Connect;
use virt::error::Error;

use super::ffi::{self, Lifecycle, Subscription};
use crate::hypervisor::HypervisorError;

/// How long a function waits for a connection that is not there.
const OPEN_WAIT: Duration = Duration::from_secs(5);
/// How often the keeper looks whether the connection is alive, and tries again when it is not.
const KEEPER_STEP: Duration = Duration::from_secs(1);
/// Seconds between keepalive messages.
const KEEPALIVE_INTERVAL_S: i32 = 3;
/// Keepalive messages without an answer until the connection is given up.
const KEEPALIVE_COUNT: u32 = 3;

/// Who is told what goes on.
pub trait Listener: Send + Sync + 'static {
    /// Something happened in a domain's life. Must not call libvirt.
    fn lifecycle(&self, happened: Lifecycle);
    /// The connection was opened, and events come from now on; what happened before is to be looked up.
    fn opened(&self, connect: &Connect);
}

/// A connection that comes back.
pub struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    uri: String,
    listener: Arc<dyn Listener>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    live: Option<Live>,
    last_error: String,
    /// Somebody waits for a connection: try at once.
    wanted: bool,
    stopped: bool,
}

struct Live {
    /// Before the connection, since it is dropped first.
    _subscription: Subscription,
    connect: Connect,
}

impl Connection {
    /// Begins to keep a connection to `uri`. Returns at once, whether libvirt is there or not.
    pub fn keep(uri: &str, listener: Arc<dyn Listener>) -> std::io::Result<Self> {
        start_event_loop()?;
        let state = State { live: None, last_error: String::new(), wanted: false, stopped: false };
        let shared = Arc::new(Shared {
            uri: uri.to_owned(),
            listener,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let keeper = shared.clone();
        std::thread::Builder::new().name("libvirt-keeper".to_owned()).spawn(move || keeper.keep())?;
        Ok(Self { shared })
    }

    /// The connection, waited for if need be.
    pub fn get(&self) -> Result<Connect, HypervisorError> {
        let deadline = Instant::now() + OPEN_WAIT;
        let mut state = self.shared.state();
        loop {
            if let Some(live) = &state.live
                && live.is_alive()
            {
                return Ok(live.connect.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.unavailable(&state.last_error));
            }
            state.wanted = true;
            self.shared.changed.notify_all();
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn unavailable(&self, last_error: &str) -> HypervisorError {
        let why = if last_error.is_empty() { "it does not answer" } else { last_error };
        HypervisorError::Unavailable(format!(
            "There is no connection to libvirt at {}: {why}.",
            self.shared.uri
        ))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The keeper is not waited for: it may hang in an attempt to open.
        self.shared.state().stopped = true;
        self.shared.changed.notify_all();
    }
}

impl Live {
    fn is_alive(&self) -> bool {
        self.connect.is_alive().unwrap_or(false)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the keeper does until it is stopped.
    fn keep(self: Arc<Self>) {
        loop {
            let dead = {
                let mut state = self.state();
                if state.stopped {
                    break;
                }
                state.live.take_if(|live| !live.is_alive())
            };
            if dead.is_some() {
                tracing::warn!(uri = self.uri, "libvirt closed the connection");
            }
            // Closed outside the lock: nobody shall wait for it.
            drop(dead);
            if self.state().live.is_none() {
                self.open();
            }
            self.rest();
        }
        let live = self.state().live.take();
        drop(live);
    }

    fn open(self: &Arc<Self>) {
        let opened = self.open_live();
        let mut state = self.state();
        match opened {
            Ok(live) => {
                tracing::info!(uri = self.uri, "connected to libvirt");
                state.last_error.clear();
                let connect = live.connect.clone();
                state.live = Some(live);
                state.wanted = false;
                drop(state);
                self.changed.notify_all();
                self.listener.opened(&connect);
            }
            Err(e) => {
                if state.last_error != e.message() {
                    tracing::warn!(uri = self.uri, error = e.message(), "could not connect to libvirt");
                }
                e.message().clone_into(&mut state.last_error);
            }
        }
    }

    fn open_live(self: &Arc<Self>) -> Result<Live, Error> {
        let connect = Connect::open(Some(&self.uri))?;
        // The test driver lives in this process and has no keepalive.
        let _ = connect.set_keep_alive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT);
        let listener = self.listener.clone();
        let subscription = ffi::subscribe(&connect, Box::new(move |happened| listener.lifecycle(happened)))?;
        Ok(Live { _subscription: subscription, connect })
    }

    /// Waits for the next look; not at all when a function begins to wait for a connection that just
    /// broke, and a short while when it could not be opened.
    fn rest(&self) {
        let mut state = self.state();
        let broken = state.live.is_none();
        state.wanted &= !broken;
        let deadline = Instant::now() + KEEPER_STEP;
        while !state.stopped && (broken || !state.wanted) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Starts libvirt's event loop, once in a process, on a thread of its own. Must come before the first
/// connection, or no events arrive.
fn start_event_loop() -> std::io::Result<()> {
    static STARTED: Once = Once::new();
    let mut spawned = Ok(());
    STARTED.call_once(|| {
        // Errors come back as values; libvirt need not print them too.
        virt::error::clear_error_callback();
        spawned = virt::event::event_register_default_impl().map_err(std::io::Error::other).and_then(|()| {
            std::thread::Builder::new().name("libvirt-events".to_owned()).spawn(run_event_loop).map(drop)
        });
    });
    spawned
}

fn run_event_loop() {
    loop {
        if let Err(e) = virt::event::event_run_default_impl() {
            tracing::error!(error = e.message(), "libvirt's event loop failed");
            std::thread::sleep(KEEPER_STEP);
        }
    }
}
