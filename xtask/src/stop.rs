//! Ctrl-C: the terminal tells it to every program that runs in the foreground, and to this one, which
//! then ends in order what it had started.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use anyhow::{Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

#[derive(Default)]
struct Asked {
    yes: AtomicBool,
    changed: (Mutex<()>, Condvar),
}

static ASKED: OnceLock<Arc<Asked>> = OnceLock::new();

fn asked() -> &'static Arc<Asked> {
    ASKED.get_or_init(Arc::default)
}

/// Begins to listen for SIGINT, SIGTERM and SIGHUP.
pub fn listen() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let asked = asked().clone();
    std::thread::spawn(move || {
        for _ in signals.forever() {
            let _held = asked.changed.0.lock();
            asked.yes.store(true, Ordering::SeqCst);
            asked.changed.1.notify_all();
        }
    });
    Ok(())
}

/// Was it asked to stop?
pub fn is_asked() -> bool {
    asked().yes.load(Ordering::SeqCst)
}

/// An error when it was.
pub fn check() -> Result<()> {
    if is_asked() {
        bail!("Stopped.");
    }
    Ok(())
}

/// Waits until it is asked to stop, at most this long. True when it is.
pub fn wait(at_most: Duration) -> bool {
    let (mutex, condvar) = &asked().changed;
    if let Ok(held) = mutex.lock() {
        // Nothing is kept behind the lock: a poisoned one would be as good.
        drop(condvar.wait_timeout_while(held, at_most, |()| !is_asked()));
    }
    is_asked()
}
