//! What all streams tell: one place that hears the hypervisor's events and reads its counters, however
//! many streams are open.
//!
//! ```text
//! events ─┐
//! list ───┼─► known: what every stream has been told ──► broadcast ──► streams
//! counters┘
//! ```
//!
//! Events may get lost (the hypervisor restarts, this side lags), so all VMs are listed every now and
//! then, and whatever differs from what is known is told. A list is older than an event that came
//! while it was made, so the event wins.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_model::VmId;
use berth_model::agent::{CounterSample, Vm, VmEvent, VmState};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::error::Refusal;
use crate::limits::Limits;
use crate::work::Work;

/// What is told to all streams.
#[derive(Debug)]
pub enum Told {
    /// A VM's state changed.
    Vm(VmEvent),
    /// Counters; for the watched ones only unless `all`.
    Samples {
        /// For all VMs?
        all: bool,
        /// Counters of all running VMs.
        samples: Vec<CounterSample>,
    },
}

/// The hub.
pub struct Hub {
    work: Arc<Work>,
    limits: Limits,
    told: broadcast::Sender<Arc<Told>>,
    places: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Counts what was heard.
    version: u64,
    /// Last told state of each VM, with the version it came with.
    known: BTreeMap<VmId, Known>,
    /// VMs that went, with the version: a list begun before that still has them. Kept until a list
    /// that began later is in.
    gone: HashMap<VmId, u64>,
    watched: HashMap<u64, HashSet<VmId>>,
    streams: u64,
}

#[derive(Clone, Copy)]
struct Known {
    event: VmEvent,
    version: u64,
}

/// One stream's place at the hub; it ends when dropped.
pub struct Seat {
    hub: Arc<Hub>,
    number: u64,
    /// What is told from now on.
    pub told: broadcast::Receiver<Arc<Told>>,
    _place: OwnedSemaphorePermit,
}

impl Hub {
    /// A hub before `work`.
    pub fn new(work: Arc<Work>, limits: Limits) -> Self {
        let (told, _) = broadcast::channel(limits.stream_backlog);
        let places = Arc::new(Semaphore::new(limits.streams));
        Self { work, limits, told, places, state: Mutex::default() }
    }

    /// Opens a stream: all VMs as they are, and whatever is told after that.
    pub async fn open(self: &Arc<Self>) -> Result<(Vec<VmEvent>, Seat), Refusal> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Err(Refusal::unavailable("Too many streams are open."));
        };
        self.relist().await?;
        let mut state = self.state();
        state.streams += 1;
        let number = state.streams;
        state.watched.insert(number, HashSet::new());
        let told = self.told.subscribe();
        let known = state.known.values().map(|known| known.event).collect();
        Ok((known, Seat { hub: Arc::clone(self), number, told, _place: place }))
    }

    /// Hears events and samples until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.hear_events() => {}
            () = self.sample() => {}
        }
    }

    /// The state of each VM, as told last.
    pub fn states(&self) -> Vec<VmState> {
        self.state().known.values().filter_map(|known| known.event.state).collect()
    }

    async fn hear_events(&self) {
        let mut every = tokio::time::interval(self.limits.relist_every);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut events = self.work.hypervisor().events();
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Ok(event) => self.hear(event),
                    Err(RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, "events were missed; all VMs are listed anew");
                        events = self.work.hypervisor().events();
                        self.relist_or_log().await;
                    }
                    Err(RecvError::Closed) => {
                        // The hypervisor opens a new channel when it is back; the list covers the gap.
                        every.tick().await;
                        events = self.work.hypervisor().events();
                        self.relist_or_log().await;
                    }
                },
                _ = every.tick() => self.relist_or_log().await,
            }
        }
    }

    async fn sample(&self) {
        let mut every = tokio::time::interval(self.limits.watched_every);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut round = 0_u32;
        loop {
            every.tick().await;
            round = (round + 1) % self.limits.all_every;
            let all = round == 0;
            let wanted = {
                let state = self.state();
                if all {
                    !state.watched.is_empty()
                } else {
                    state.watched.values().any(|vms| !vms.is_empty())
                }
            };
            if !wanted {
                continue;
            }
            match self.work.counters().await {
                Ok(samples) => self.tell(Told::Samples { all, samples }),
                Err(e) => tracing::debug!(error = %e, "no samples this time"),
            }
        }
    }

    async fn relist_or_log(&self) {
        if let Err(e) = self.relist().await {
            tracing::warn!(error = %e, "the VMs could not be listed");
        }
    }

    async fn relist(&self) -> Result<(), Refusal> {
        let before = self.state().version;
        let vms = self.work.list().await?;
        self.apply(before, &vms);
        Ok(())
    }

    fn hear(&self, event: VmEvent) {
        self.note(&mut self.state(), event);
    }

    /// Tells what a list shows differently, but for VMs of which something newer was heard.
    fn apply(&self, before: u64, vms: &[Vm]) {
        let mut state = self.state();
        let at = clock::now();
        let listed: BTreeMap<VmId, VmState> = vms.iter().map(|vm| (vm.id, vm.state)).collect();
        let newer = |state: &State, id: &VmId| {
            state.known.get(id).is_some_and(|known| known.version > before)
                || state.gone.get(id).is_some_and(|version| *version > before)
        };
        let vanished: Vec<VmId> = state.known.keys().filter(|id| !listed.contains_key(id)).copied().collect();
        let now = listed.iter().map(|(id, state)| (*id, Some(*state)));
        for (id, found) in now.chain(vanished.into_iter().map(|id| (id, None))) {
            if !newer(&state, &id) {
                self.note(&mut state, VmEvent { vm: id, state: found, at });
            }
        }
        state.gone.retain(|_, version| *version > before);
    }

    /// Tells an event unless it is known.
    fn note(&self, state: &mut State, event: VmEvent) {
        if state.known.get(&event.vm).map(|known| known.event.state) == Some(event.state) {
            return;
        }
        state.version += 1;
        let version = state.version;
        if event.state.is_some() {
            state.gone.remove(&event.vm);
            state.known.insert(event.vm, Known { event, version });
        } else {
            state.gone.insert(event.vm, version);
            if state.known.remove(&event.vm).is_none() {
                return;
            }
        }
        // Told under the lock, so that a stream that opens sees an event either in its first list or after it.
        self.tell(Told::Vm(event));
    }

    fn tell(&self, told: Told) {
        // No stream is open: nobody to tell.
        let _ = self.told.send(Arc::new(told));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in here is a bug that the next list mends.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Watches these VMs and no others.
    pub fn watch(&self, vms: impl IntoIterator<Item = VmId>) {
        self.hub.state().watched.insert(self.number, vms.into_iter().collect());
    }

    /// What of `told` this stream tells.
    pub fn pick(&self, told: &Told) -> Picked {
        match told {
            Told::Vm(event) => Picked::Vm(*event),
            Told::Samples { all: true, samples } => Picked::Samples(samples.clone()),
            Told::Samples { all: false, samples } => {
                let state = self.hub.state();
                let mine = &state.watched[&self.number];
                Picked::Samples(samples.iter().filter(|sample| mine.contains(&sample.vm)).cloned().collect())
            }
        }
    }
}

/// What one stream tells.
pub enum Picked {
    /// A VM's state changed.
    Vm(VmEvent),
    /// Counters.
    Samples(Vec<CounterSample>),
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.state().watched.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::simulator::{Simulator, SimulatorConfig};
    use crate::runs::Runs;

    fn hub() -> Hub {
        let simulator = Simulator::new(SimulatorConfig::default()).unwrap();
        let limits = Limits::default();
        let folder = tempfile::tempdir().unwrap();
        let runs = Arc::new(Runs::open(folder.path()).unwrap());
        Hub::new(Arc::new(Work::new(Arc::new(simulator), runs, &limits)), limits)
    }

    fn event(vm: i64, state: Option<VmState>) -> VmEvent {
        VmEvent { vm: VmId(vm), state, at: Timestamp::from_unix_ms(0).unwrap() }
    }

    fn vm(id: i64, state: VmState) -> Vm {
        Vm { id: VmId(id), state, spec: None, started: None, saved: false, pending: vec![] }
    }

    use berth_model::Timestamp;

    fn told(receiver: &mut broadcast::Receiver<Arc<Told>>) -> Vec<(i64, Option<VmState>)> {
        let mut all = Vec::new();
        while let Ok(told) = receiver.try_recv() {
            if let Told::Vm(event) = &*told {
                all.push((event.vm.0, event.state));
            }
        }
        all
    }

    #[test]
    fn a_list_tells_only_what_differs() {
        let hub = hub();
        let mut receiver = hub.told.subscribe();
        hub.apply(0, &[vm(1, VmState::Running), vm(2, VmState::Off)]);
        assert_eq!(told(&mut receiver), [(1, Some(VmState::Running)), (2, Some(VmState::Off))]);
        let version = hub.state().version;
        hub.apply(version, &[vm(1, VmState::Running)]);
        assert_eq!(told(&mut receiver), [(2, None)]);
    }

    #[test]
    fn an_event_wins_over_a_list_that_began_before_it() {
        let hub = hub();
        hub.apply(0, &[vm(1, VmState::Running), vm(2, VmState::Running)]);
        let began = hub.state().version;
        hub.hear(event(1, Some(VmState::Off)));
        hub.hear(event(2, None));
        hub.hear(event(3, Some(VmState::Running)));
        let mut receiver = hub.told.subscribe();
        hub.apply(began, &[vm(1, VmState::Running), vm(2, VmState::Running)]);
        assert_eq!(told(&mut receiver), [], "the list is older than all three");
        let began = hub.state().version;
        hub.apply(began, &[vm(1, VmState::Running), vm(2, VmState::Running)]);
        let newer = [(1, Some(VmState::Running)), (2, Some(VmState::Running)), (3, None)];
        assert_eq!(told(&mut receiver), newer, "this list is newer");
    }

    #[test]
    fn what_is_known_is_not_told_again() {
        let hub = hub();
        let mut receiver = hub.told.subscribe();
        hub.hear(event(1, Some(VmState::Running)));
        hub.hear(event(1, Some(VmState::Running)));
        hub.hear(event(1, None));
        hub.hear(event(1, None));
        assert_eq!(told(&mut receiver), [(1, Some(VmState::Running)), (1, None)]);
    }
}
