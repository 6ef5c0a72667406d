//! The way from the async side to the blocking [`Hypervisor`].
//!
//! ```text
//! request ── claim the VM ── take a slot ── blocking thread ──► answer
//!              │ held by another    │ none free      │ too slow
//!              ▼ conflict           ▼ unavailable    ▼ unavailable; the thread keeps
//!                                                      the slot and the VM until it ends
//! ```
//!
//! A hypervisor that hangs therefore costs a bounded number of threads, never the runtime, and a VM
//! on which a lost call still works is not touched by a second one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_model::agent::{CounterSample, PowerVerb, Vm, VmSpec};
use berth_model::error::ApiError;
use berth_model::{ErrorCode, VmId};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::error::Refusal;
use crate::hypervisor::{Hypervisor, HypervisorError};
use crate::images::ImageUses;
use crate::limits::Limits;
use crate::spec;

/// The functions of the [`Hypervisor`], async, bounded and with deadlines.
pub struct Vms {
    hypervisor: Arc<dyn Hypervisor>,
    images: Arc<ImageUses>,
    reads: Pool,
    changes: Pool,
    busy: Arc<Busy>,
    vm_patience: Duration,
}

impl Vms {
    /// Stands before `hypervisor`.
    pub fn new(hypervisor: Arc<dyn Hypervisor>, images: Arc<ImageUses>, limits: &Limits) -> Self {
        Self {
            hypervisor,
            images,
            reads: Pool::new(limits.reads, limits.read_patience),
            changes: Pool::new(limits.changes, limits.change_patience),
            busy: Arc::default(),
            vm_patience: limits.vm_patience,
        }
    }

    /// The hypervisor itself, for what must not wait in line.
    pub fn hypervisor(&self) -> &Arc<dyn Hypervisor> {
        &self.hypervisor
    }

    /// Calls that took too long and have not ended yet.
    pub fn overdue(&self) -> usize {
        self.reads.overdue() + self.changes.overdue()
    }

    /// All VMs.
    pub async fn list(&self) -> Result<Vec<Vm>, Refusal> {
        self.reads.run(&self.hypervisor, "list", |h| h.list()).await
    }

    /// One VM.
    pub async fn get(&self, id: VmId) -> Result<Vm, Refusal> {
        self.reads.run(&self.hypervisor, "get", move |h| h.get(id)).await
    }

    /// Counters of all running VMs.
    pub async fn counters(&self) -> Result<Vec<CounterSample>, Refusal> {
        self.reads.run(&self.hypervisor, "counters", |h| h.counters()).await
    }

    /// Brings a VM to `spec`.
    pub async fn put(&self, id: VmId, spec: VmSpec) -> Result<Vm, Refusal> {
        let faults = spec::faults(&spec);
        if !faults.is_empty() {
            return Err(Refusal(ApiError::fields(faults)));
        }
        let claim = self.busy.claim(id, "put", self.vm_patience).await?;
        let image = self.images.hold(&spec.image.sha256)?;
        let put = move |h: &dyn Hypervisor| {
            let _held = (claim, image);
            h.put(id, &spec)
        };
        self.changes.run(&self.hypervisor, "put", put).await
    }

    /// Leaves nothing of a VM.
    pub async fn delete(&self, id: VmId) -> Result<(), Refusal> {
        let claim = self.busy.claim(id, "delete", self.vm_patience).await?;
        let delete = move |h: &dyn Hypervisor| {
            let _held = claim;
            h.delete(id)
        };
        self.changes.run(&self.hypervisor, "delete", delete).await
    }

    /// Changes a VM's power.
    pub async fn power(&self, id: VmId, verb: PowerVerb) -> Result<Vm, Refusal> {
        let claim = self.busy.claim(id, verb_word(verb), self.vm_patience).await?;
        let power = move |h: &dyn Hypervisor| {
            let _held = claim;
            h.power(id, verb)
        };
        self.changes.run(&self.hypervisor, verb_word(verb), power).await
    }
}

const fn verb_word(verb: PowerVerb) -> &'static str {
    match verb {
        PowerVerb::Start => "start",
        PowerVerb::Shutdown => "shutdown",
        PowerVerb::Reboot => "reboot",
        PowerVerb::Reset => "reset",
        PowerVerb::PowerOff => "power off",
    }
}

/// Blocking threads, so many and no more.
struct Pool {
    slots: Arc<Semaphore>,
    size: usize,
    overdue: Arc<AtomicUsize>,
    patience: Duration,
}

impl Pool {
    fn new(size: usize, patience: Duration) -> Self {
        Self { slots: Arc::new(Semaphore::new(size)), size, overdue: Arc::default(), patience }
    }

    fn overdue(&self) -> usize {
        self.overdue.load(Ordering::Relaxed)
    }

    async fn run<T: Send + 'static>(
        &self,
        hypervisor: &Arc<dyn Hypervisor>,
        function: &'static str,
        call: impl FnOnce(&dyn Hypervisor) -> Result<T, HypervisorError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let until = Instant::now() + self.patience;
        let silent =
            || Refusal::unavailable(format!("The hypervisor does not answer (function “{function}”)."));
        if self.overdue() >= self.size {
            return Err(silent());
        }
        let slot = timeout_at(until, Arc::clone(&self.slots).acquire_owned()).await.map_err(|_| silent())?;
        let hypervisor = Arc::clone(hypervisor);
        let span = tracing::Span::current();
        let mut task = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            span.in_scope(|| call(&*hypervisor))
        });
        match timeout_at(until, &mut task).await {
            Ok(Ok(result)) => result.map_err(Refusal::from),
            Ok(Err(broken)) => Err(Refusal::own("A hypervisor's function broke off", &broken)),
            Err(_) => {
                self.overdue.fetch_add(1, Ordering::Relaxed);
                let overdue = Arc::clone(&self.overdue);
                tokio::spawn(async move {
                    let _ = task.await;
                    overdue.fetch_sub(1, Ordering::Relaxed);
                });
                Err(silent())
            }
        }
    }
}

/// What works on which VM.
#[derive(Default)]
struct Busy {
    doing: Mutex<HashMap<VmId, &'static str>>,
    freed: Notify,
}

/// A VM that belongs to one function until this is dropped.
struct Claim {
    busy: Arc<Busy>,
    id: VmId,
}

impl Busy {
    async fn claim(
        self: &Arc<Self>,
        id: VmId,
        function: &'static str,
        patience: Duration,
    ) -> Result<Claim, Refusal> {
        let until = Instant::now() + patience;
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            // Listens before it looks, so that a VM freed in between is not missed.
            freed.as_mut().enable();
            let Some(other) = self.try_claim(id, function) else {
                return Ok(Claim { busy: Arc::clone(self), id });
            };
            if timeout_at(until, freed).await.is_err() {
                let message = format!("VM {id} is busy with “{other}”; try again when that is done.");
                return Err(Refusal::new(ErrorCode::Conflict, message));
            }
        }
    }

    /// The function that has the VM, if another has it.
    fn try_claim(&self, id: VmId, function: &'static str) -> Option<&'static str> {
        let mut doing = self.doing();
        if let Some(other) = doing.get(&id) {
            return Some(other);
        }
        doing.insert(id, function);
        None
    }

    fn doing(&self) -> MutexGuard<'_, HashMap<VmId, &'static str>> {
        // Single inserts and removes: whole after any panic.
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.busy.doing().remove(&self.id);
        self.busy.freed.notify_waiters();
    }
}
