//! From libvirt's lifecycle events to [`VmEvent`]s.
//!
//! Events that come while the connection is down are lost, so each time it comes back all states are
//! looked up, and what differs from the last told is told.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_model::VmId;
use berth_model::agent::{VmEvent, VmState};
use tokio::sync::broadcast;
use virt::connect::Connect;
use virt::sys;

use super::connection::Listener;
use super::ffi::{self, Lifecycle};
use super::names::Prefix;
use crate::clock;

/// Events that a slow receiver may lie behind before it lags.
const EVENTS_KEPT: usize = 4096;

/// Tells what VMs do.
pub struct Hub {
    prefix: Prefix,
    sender: broadcast::Sender<VmEvent>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Was there a look already? The first one only fills `states`.
    looked: bool,
    /// Counts what was told.
    told: u64,
    /// What was told last of each VM that has a domain, and which telling that was.
    states: BTreeMap<VmId, (VmState, u64)>,
}

impl Hub {
    /// A hub that heard nothing yet.
    pub fn new(prefix: Prefix) -> Self {
        Self { prefix, sender: broadcast::Sender::new(EVENTS_KEPT), known: Mutex::default() }
    }

    /// Events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<VmEvent> {
        self.sender.subscribe()
    }

    /// Tells that nothing is left of a VM that never had a domain.
    pub fn tell_gone(&self, vm: VmId) {
        self.send(vm, None);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, vm: VmId, state: Option<VmState>) {
        // It is no error that nobody listens.
        let _ = self.sender.send(VmEvent { vm, state, at: clock::now() });
    }

    fn tell(&self, known: &mut Known, vm: VmId, state: Option<VmState>) {
        known.told += 1;
        let before = match state {
            Some(state) => known.states.insert(vm, (state, known.told)),
            None => known.states.remove(&vm),
        };
        if before.map(|(before, _)| before) != state {
            self.send(vm, state);
        }
    }

    fn states(&self, connect: &Connect) -> Result<BTreeMap<VmId, VmState>, virt::error::Error> {
        let mut states = BTreeMap::new();
        for domain in connect.list_all_domains(0)? {
            if let Some(vm) = self.prefix.vm(&domain.name()?) {
                let (state, reason) = ffi::state(&domain)?;
                states.insert(vm, state_of(state, reason));
            }
        }
        Ok(states)
    }
}

impl Listener for Hub {
    fn lifecycle(&self, happened: Lifecycle) {
        if let Some(vm) = self.prefix.vm(&happened.name)
            && let Some(state) = state_after(happened.event, happened.detail)
        {
            self.tell(&mut self.known(), vm, state);
        }
    }

    fn opened(&self, connect: &Connect) {
        let before = self.known().told;
        let now = match self.states(connect) {
            Ok(states) => states,
            Err(e) => return tracing::warn!(error = e.message(), "could not look up the VMs' states"),
        };
        let mut known = self.known();
        if !known.looked {
            known.looked = true;
            for (vm, state) in now {
                known.states.entry(vm).or_insert((state, before));
            }
            return;
        }
        // What an event told since the look began is newer than the look.
        let old = |known: &Known, vm: &VmId| known.states.get(vm).is_none_or(|(_, told)| *told <= before);
        let gone: Vec<_> = known.states.keys().filter(|vm| !now.contains_key(vm)).copied().collect();
        for vm in gone.into_iter().filter(|vm| old(&known, vm)).collect::<Vec<_>>() {
            self.tell(&mut known, vm, None);
        }
        for (vm, state) in now {
            if old(&known, &vm) {
                self.tell(&mut known, vm, Some(state));
            }
        }
    }
}

/// What a domain's state means.
pub fn state_of(state: u32, reason: u32) -> VmState {
    match state {
        sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED | sys::VIR_DOMAIN_SHUTDOWN => VmState::Running,
        sys::VIR_DOMAIN_PAUSED | sys::VIR_DOMAIN_PMSUSPENDED => VmState::Paused,
        sys::VIR_DOMAIN_CRASHED => VmState::Crashed,
        sys::VIR_DOMAIN_SHUTOFF if reason == sys::VIR_DOMAIN_SHUTOFF_CRASHED => VmState::Crashed,
        _ => VmState::Off,
    }
}

/// The state after an event: `None` when the event changes none, `Some(None)` when the domain is gone.
fn state_after(event: u32, detail: u32) -> Option<Option<VmState>> {
    let state = match event {
        sys::VIR_DOMAIN_EVENT_DEFINED if detail == sys::VIR_DOMAIN_EVENT_DEFINED_ADDED => VmState::Off,
        sys::VIR_DOMAIN_EVENT_UNDEFINED => return Some(None),
        sys::VIR_DOMAIN_EVENT_STARTED | sys::VIR_DOMAIN_EVENT_RESUMED => VmState::Running,
        sys::VIR_DOMAIN_EVENT_SUSPENDED | sys::VIR_DOMAIN_EVENT_PMSUSPENDED => VmState::Paused,
        // libvirt says "failed" of a process that ended by itself, and keeps "crashed" as the reason.
        sys::VIR_DOMAIN_EVENT_STOPPED => match detail {
            sys::VIR_DOMAIN_EVENT_STOPPED_CRASHED | sys::VIR_DOMAIN_EVENT_STOPPED_FAILED => VmState::Crashed,
            _ => VmState::Off,
        },
        sys::VIR_DOMAIN_EVENT_CRASHED => VmState::Crashed,
        _ => return None,
    };
    Some(Some(state))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub() -> Hub {
        Hub::new(Prefix::new("t-").unwrap())
    }

    fn happened(name: &str, event: u32, detail: u32) -> Lifecycle {
        Lifecycle { name: name.to_owned(), event, detail }
    }

    #[test]
    fn a_life_is_told_in_order_and_each_state_once() {
        let hub = hub();
        let mut events = hub.subscribe();
        for (event, detail) in [
            (sys::VIR_DOMAIN_EVENT_DEFINED, sys::VIR_DOMAIN_EVENT_DEFINED_ADDED),
            (sys::VIR_DOMAIN_EVENT_DEFINED, sys::VIR_DOMAIN_EVENT_DEFINED_UPDATED),
            (sys::VIR_DOMAIN_EVENT_RESUMED, 0),
            (sys::VIR_DOMAIN_EVENT_STARTED, 0),
            (sys::VIR_DOMAIN_EVENT_SUSPENDED, 0),
            (sys::VIR_DOMAIN_EVENT_RESUMED, 0),
            (sys::VIR_DOMAIN_EVENT_SHUTDOWN, 0),
            (sys::VIR_DOMAIN_EVENT_STOPPED, sys::VIR_DOMAIN_EVENT_STOPPED_FAILED),
            (sys::VIR_DOMAIN_EVENT_STARTED, 0),
            (sys::VIR_DOMAIN_EVENT_STOPPED, sys::VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN),
            (sys::VIR_DOMAIN_EVENT_UNDEFINED, 0),
        ] {
            hub.lifecycle(happened("t-7", event, detail));
        }
        let told: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).map(|e| (e.vm, e.state)).collect();
        let states = [
            Some(VmState::Off),
            Some(VmState::Running),
            Some(VmState::Paused),
            Some(VmState::Running),
            Some(VmState::Crashed),
            Some(VmState::Running),
            Some(VmState::Off),
            None,
        ];
        assert_eq!(told, states.map(|state| (VmId(7), state)));
    }

    #[test]
    fn other_peoples_domains_are_not_told() {
        let hub = hub();
        let mut events = hub.subscribe();
        for name in ["u-7", "7", "t-x", "t-07"] {
            hub.lifecycle(happened(name, sys::VIR_DOMAIN_EVENT_STARTED, 0));
        }
        assert!(events.try_recv().is_err());
    }

    #[test]
    fn a_state_is_read_with_its_reason() {
        assert_eq!(state_of(sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_CRASHED), VmState::Crashed);
        assert_eq!(state_of(sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_DESTROYED), VmState::Off);
        assert_eq!(state_of(sys::VIR_DOMAIN_RUNNING, 0), VmState::Running);
        assert_eq!(state_of(sys::VIR_DOMAIN_PAUSED, 0), VmState::Paused);
    }
}
