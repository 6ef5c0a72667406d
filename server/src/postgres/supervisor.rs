//! Keeps one postmaster running.

use std::process::{Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

/// Pause before a postmaster that ended by itself is started again; also gives the last of its
/// children the time to let go of the shared memory.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
/// A fast shutdown that takes longer is made an immediate one, which recovers at the next start.
const FAST_STOP_MAX: Duration = Duration::from_secs(5);
/// How long an immediate shutdown may take.
const IMMEDIATE_STOP_MAX: Duration = Duration::from_secs(2);

/// One thread that starts the postmaster and waits for it. A thread, because the kernel interrupts
/// a child with that request when the *thread* that started it ends, and threads of an async
/// runtime come and go.
pub(super) struct Supervisor {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pid: Option<Pid>,
    stopping: bool,
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Three words that are always good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.lock().pid
            && let Err(error) = kill_process(pid, signal)
        {
            tracing::warn!("the postmaster cannot be signalled: {error}");
        }
    }
}

impl Supervisor {
    /// Runs `command` again and again until told to stop.
    pub(super) fn start(mut command: Command) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let ours = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("postgres".into()).spawn(move || {
            while !ours.lock().stopping {
                match run_once(&ours, &mut command) {
                    Ok(_) if ours.lock().stopping => break,
                    Ok(status) => {
                        tracing::warn!("the private PostgreSQL ended ({status}); it is started again");
                    }
                    Err(error) => tracing::error!("the private PostgreSQL cannot be started: {error}"),
                }
                let state = ours.lock();
                let _ = ours.changed.wait_timeout_while(state, RESTART_PAUSE, |state| !state.stopping);
            }
            ours.lock().ended = true;
            ours.changed.notify_all();
        });
        Ok(Self { shared, thread: Some(thread.context("a thread for the private PostgreSQL")?) })
    }

    /// Does a postmaster run at this moment?
    pub(super) fn is_alive(&self) -> bool {
        self.shared.lock().pid.is_some()
    }

    /// Stops the postmaster and waits until it is gone.
    pub(super) async fn stop(mut self) {
        let (shared, thread) = (Arc::clone(&self.shared), self.thread.take());
        let waited = tokio::task::spawn_blocking(move || {
            for (signal, limit) in [(Signal::INT, FAST_STOP_MAX), (Signal::QUIT, IMMEDIATE_STOP_MAX)] {
                if end(&shared, signal, limit) {
                    return thread.map(JoinHandle::join);
                }
            }
            tracing::warn!("the private PostgreSQL did not stop in time");
            None
        });
        let _ = waited.await;
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.shared.lock().stopping = true;
            self.shared.changed.notify_all();
            self.shared.signal(Signal::INT);
        }
    }
}

/// Sends `signal` and waits; true when the postmaster has ended.
fn end(shared: &Shared, signal: Signal, limit: Duration) -> bool {
    shared.lock().stopping = true;
    shared.changed.notify_all();
    shared.signal(signal);
    let began = Instant::now();
    let mut state = shared.lock();
    while !state.ended {
        let Some(left) = limit.checked_sub(began.elapsed()) else { return false };
        state = shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    true
}

/// Starts the postmaster and waits for its end.
fn run_once(shared: &Shared, command: &mut Command) -> std::io::Result<ExitStatus> {
    let mut child = {
        let mut state = shared.lock();
        // Told to stop in between: whoever told it found no process to signal.
        if state.stopping {
            return Ok(ExitStatus::default());
        }
        let child = command.spawn()?;
        state.pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        child
    };
    let status = child.wait();
    shared.lock().pid = None;
    status
}
