//! The way from the async side to what blocks: the hypervisor, the node's files, its programs.
//!
//! ```text
//! read ───────────────────────────── slot ── blocking thread ──► answer
//! change, long ── claim ── run ───── slot ── blocking thread ──► answer, log
//!                   │ held by the same request: its answer is this one's, too
//!                   │ held by another, for too long: conflict, which names it
//! ```
//!
//! What is claimed are things by name, such as `VM 7` and `disk of VM 7`: all that a function works on, or nothing.
//!
//! What hangs costs a bounded number of threads, never the runtime. A function that was begun goes on
//! when its caller goes away, and keeps what it works on until it ends: nobody else touches that.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_model::ErrorCode;
use berth_model::agent::function::Kind;
use berth_model::agent::{CounterSample, Run, RunId, Vm};
use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use crate::error::Refusal;
use crate::hypervisor::Hypervisor;
use crate::hypervisor::libvirt::ffi::give_back_memory;
use crate::limits::Limits;
use crate::runs::{Cx, Runs};

/// What was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The function's name.
    pub function: &'static str,
    /// How it works.
    pub kind: Kind,
    /// What it works on, for people: `VM 7`.
    pub on: String,
    /// The request's words: the same on the same is the same function.
    pub words: String,
    /// Who asked.
    pub by: String,
    /// How long the caller waits for a long function.
    pub wait: Option<Duration>,
}

/// How a function answers.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// With its answer, JSON.
    Done(Bytes),
    /// Not yet: the caller has waited as long as it wanted to.
    GoesOn(Run),
}

type Ended = Option<Result<Bytes, Refusal>>;

/// Bounded work, with deadlines, a log, and one function at a time on each thing.
pub struct Work {
    hypervisor: Arc<dyn Hypervisor>,
    reads: Pool,
    changes: Pool,
    longs: Pool,
    busy: Arc<Busy>,
    runs: Arc<Runs>,
    patience: Patience,
}

#[derive(Clone, Copy)]
struct Patience {
    read: Duration,
    claim: Duration,
    change: Duration,
    long: Duration,
}

impl Work {
    /// Stands before `hypervisor`; `runs` keeps the log.
    pub fn new(hypervisor: Arc<dyn Hypervisor>, runs: Arc<Runs>, limits: &Limits) -> Self {
        Self {
            hypervisor,
            reads: Pool::new(limits.reads),
            changes: Pool::new(limits.changes),
            longs: Pool::new(limits.longs),
            busy: Arc::default(),
            runs,
            patience: Patience {
                read: limits.read_patience,
                claim: limits.vm_patience,
                change: limits.change_patience,
                long: limits.long_wait,
            },
        }
    }

    /// The hypervisor itself, for what must not wait in line.
    pub fn hypervisor(&self) -> &Arc<dyn Hypervisor> {
        &self.hypervisor
    }

    /// The log.
    pub fn runs(&self) -> &Arc<Runs> {
        &self.runs
    }

    /// Calls that took too long and have not ended yet.
    pub fn overdue(&self) -> usize {
        self.reads.overdue() + self.changes.overdue()
    }

    /// Keeps things from all functions, unless one works on any of them.
    pub fn try_hold(&self, function: &'static str, things: Vec<String>) -> Option<Claim> {
        self.busy.try_hold(function, things).ok()
    }

    /// All VMs.
    pub async fn list(&self) -> Result<Vec<Vm>, Refusal> {
        let hypervisor = Arc::clone(&self.hypervisor);
        self.read("vm.list", move || Ok(hypervisor.list()?)).await
    }

    /// Counters of all running VMs.
    pub async fn counters(&self) -> Result<Vec<CounterSample>, Refusal> {
        let hypervisor = Arc::clone(&self.hypervisor);
        self.read("counters", move || Ok(hypervisor.counters()?)).await
    }

    /// Looks at something.
    pub async fn read<T: Send + 'static>(
        &self,
        function: &'static str,
        call: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let until = Instant::now() + self.patience.read;
        let slot = self.reads.slot(function, until).await?;
        let span = tracing::Span::current();
        let mut task = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            span.in_scope(call)
        });
        match timeout_at(until, &mut task).await {
            Ok(Ok(result)) => result,
            Ok(Err(broken)) => Err(Refusal::own("A hypervisor's function broke off", &broken)),
            Err(_) => {
                self.reads.count_until_ended(task);
                Err(silent(function))
            }
        }
    }

    /// Changes something, or waits for the same change that is under way. One function at a time works on each of
    /// the `things`.
    pub async fn change(
        &self,
        asked: Asked,
        things: Vec<String>,
        call: impl FnOnce(&Cx) -> Result<Bytes, Refusal> + Send + 'static,
    ) -> Result<Outcome, Refusal> {
        let began = Instant::now();
        match self.busy.claim(&asked, &things, self.patience.claim).await? {
            Place::Shared(holder) => self.wait(&asked, began, holder.run, holder.ended).await,
            Place::Own(claim) => self.begin(asked, began, claim, call).await,
        }
    }

    async fn begin(
        &self,
        asked: Asked,
        began: Instant,
        claim: Claim,
        call: impl FnOnce(&Cx) -> Result<Bytes, Refusal> + Send + 'static,
    ) -> Result<Outcome, Refusal> {
        let pool = if asked.kind == Kind::Long { &self.longs } else { &self.changes };
        // Nothing has been done yet: who waits in vain for a slot is told so, and nothing is logged.
        let slot = pool.slot(asked.function, began + self.patience.change).await?;
        let cx = self.runs.begin(&asked);
        let id = cx.run();
        let (tell, ended) = watch::channel(None);
        claim.holder(&Holder {
            function: asked.function,
            words: asked.words.clone(),
            run: id,
            ended: ended.clone(),
        });
        let runs = Arc::clone(&self.runs);
        let is_long = asked.kind == Kind::Long;
        let span = tracing::Span::current();
        let task = tokio::task::spawn_blocking(move || {
            let result =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| span.in_scope(|| call(&cx))));
            let result = result.unwrap_or_else(|_| Err(broke_off()));
            runs.end(&cx, result.as_ref().err());
            // Let go before it is told: whoever asks for the same after the answer has it done anew.
            drop((slot, claim));
            let _nobody_waits = tell.send(Some(result));
            // Copies and backups need tens of megabytes for a while.
            if is_long {
                give_back_memory();
            }
        });
        let outcome = self.wait(&asked, began, id, ended).await;
        if !task.is_finished() && asked.kind == Kind::Change {
            self.changes.count_until_ended(task);
        }
        outcome
    }

    async fn wait(
        &self,
        asked: &Asked,
        began: Instant,
        run: RunId,
        mut ended: watch::Receiver<Ended>,
    ) -> Result<Outcome, Refusal> {
        let patience = match asked.kind {
            Kind::Long => asked.wait.unwrap_or(self.patience.long),
            Kind::Read | Kind::Change => asked.wait.unwrap_or(self.patience.change).min(self.patience.change),
        };
        let done = timeout_at(began + patience, ended.wait_for(Option::is_some)).await;
        match done {
            Ok(Ok(result)) => match &*result {
                Some(result) => result.clone().map(Outcome::Done),
                None => Err(silent(asked.function)),
            },
            Ok(Err(_)) => Err(broke_off()),
            Err(_) if asked.kind == Kind::Long || asked.wait.is_some() => match self.runs.get(run) {
                Some(run) => Ok(Outcome::GoesOn(run)),
                None => Err(silent(asked.function)),
            },
            Err(_) => Err(silent(asked.function)),
        }
    }
}

fn broke_off() -> Refusal {
    Refusal::new(ErrorCode::ServerError, "The function broke off; the agent's log says more.")
}

fn silent(function: &str) -> Refusal {
    Refusal::unavailable(format!("The hypervisor does not answer (function “{function}”)."))
}

/// Blocking threads, so many and no more.
struct Pool {
    slots: Arc<Semaphore>,
    size: usize,
    overdue: Arc<AtomicUsize>,
}

impl Pool {
    fn new(size: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(size)), size, overdue: Arc::default() }
    }

    fn overdue(&self) -> usize {
        self.overdue.load(Ordering::Relaxed)
    }

    async fn slot(&self, function: &str, until: Instant) -> Result<OwnedSemaphorePermit, Refusal> {
        if self.overdue() >= self.size {
            return Err(silent(function));
        }
        let slot = timeout_at(until, Arc::clone(&self.slots).acquire_owned()).await;
        slot.ok().and_then(Result::ok).ok_or_else(|| silent(function))
    }

    fn count_until_ended<T: Send + 'static>(&self, task: tokio::task::JoinHandle<T>) {
        self.overdue.fetch_add(1, Ordering::Relaxed);
        let overdue = Arc::clone(&self.overdue);
        tokio::spawn(async move {
            let _ = task.await;
            overdue.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// Who works on what.
#[derive(Default)]
struct Busy {
    doing: Mutex<HashMap<String, Doing>>,
    freed: Notify,
}

/// Who has a thing.
#[derive(Clone)]
enum Doing {
    /// This function, which has not begun yet or is no run.
    Held(&'static str),
    /// A run.
    Run(Holder),
}

/// The function that has things.
#[derive(Clone)]
struct Holder {
    function: &'static str,
    words: String,
    run: RunId,
    ended: watch::Receiver<Ended>,
}

enum Place {
    /// All is free, and ours now.
    Own(Claim),
    /// The same request works on the same.
    Shared(Holder),
}

/// Things that belong to one function until this is dropped.
pub struct Claim {
    busy: Arc<Busy>,
    things: Vec<String>,
}

impl Busy {
    async fn claim(
        self: &Arc<Self>,
        asked: &Asked,
        things: &[String],
        patience: Duration,
    ) -> Result<Place, Refusal> {
        let until = Instant::now() + patience;
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            // Listens before it looks, so that what is freed in between is not missed.
            freed.as_mut().enable();
            let other = match self.try_claim(asked, things) {
                Ok(place) => return Ok(place),
                Err(other) => other,
            };
            if timeout_at(until, freed).await.is_err() {
                let on = &asked.on;
                let message = format!("{on} is busy with “{other}”; try again when that is done.");
                return Err(Refusal::conflict(message));
            }
        }
    }

    /// A place, or the function that has one of the things.
    fn try_claim(self: &Arc<Self>, asked: &Asked, things: &[String]) -> Result<Place, &'static str> {
        let is_same = |holder: &Holder| holder.function == asked.function && holder.words == asked.words;
        match things.first().and_then(|thing| self.doing().get(thing).cloned()) {
            Some(Doing::Run(holder)) if is_same(&holder) => Ok(Place::Shared(holder)),
            _ => self.try_hold(asked.function, things.to_vec()).map(Place::Own),
        }
    }

    /// The things, or the function that has one of them.
    fn try_hold(
        self: &Arc<Self>,
        function: &'static str,
        things: Vec<String>,
    ) -> Result<Claim, &'static str> {
        let mut doing = self.doing();
        match things.iter().find_map(|thing| doing.get(thing)) {
            Some(Doing::Run(holder)) => return Err(holder.function),
            Some(Doing::Held(other)) => return Err(other),
            None => {}
        }
        doing.extend(things.iter().map(|thing| (thing.clone(), Doing::Held(function))));
        Ok(Claim { busy: Arc::clone(self), things })
    }

    fn doing(&self) -> MutexGuard<'_, HashMap<String, Doing>> {
        // Single inserts and removes: whole after any panic.
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// Says who has them.
    fn holder(&self, holder: &Holder) {
        let run = |thing: &String| (thing.clone(), Doing::Run(holder.clone()));
        self.busy.doing().extend(self.things.iter().map(run));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.busy.doing().retain(|thing, _| !self.things.contains(thing));
        self.busy.freed.notify_waiters();
    }
}
