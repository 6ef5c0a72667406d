//! The queues and those who work on them.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::faults::Faults;
use super::queries::{self, Claimed};
use super::run::Shared;
use super::{Queue, Registry, housekeeping};
use crate::World;
use crate::live::{Channel, Signals};

/// The longest a lease may be: how long a dead worker's job stands still.
pub const LEASE_MAX: Duration = Duration::from_secs(30);
/// The shortest sleep between two looks at a queue.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(10);
/// After the database did not answer.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);
/// How long handing back the leases may take once the steps were cut off.
const HAND_BACK_MAX: Duration = Duration::from_secs(2);

/// How a worker works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a lease lasts unless renewed; it is renewed every third of this. At most [`LEASE_MAX`].
    pub lease: Duration,
    /// How often it looks for due jobs when nobody wakes it.
    pub poll: Duration,
    /// Jobs a customer waits for that are worked on at once.
    pub interactive: usize,
    /// Jobs of each other queue that are worked on at once.
    pub background: usize,
    /// Where tests cut in.
    pub faults: Faults,
}

impl Settings {
    /// How many jobs of a queue are worked on at once.
    fn places(&self, queue: Queue) -> usize {
        match queue {
            Queue::Interactive => self.interactive,
            Queue::Background | Queue::Follow | Queue::Image | Queue::Backup => self.background,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            poll: Duration::from_secs(2),
            interactive: 16,
            background: 4,
            faults: Faults::default(),
        }
    }
}

/// Works on all queues. Dropped, it lets go of everything like a worker that died.
pub struct Worker {
    shared: Arc<Shared>,
    queues: JoinSet<()>,
}

impl Worker {
    /// Starts to work on the jobs that `registry` knows.
    pub fn start(world: World, registry: &Registry, settings: &Settings, signals: &Signals) -> Self {
        let lease = settings.lease.min(LEASE_MAX);
        let shared = Arc::new(Shared::new(world, lease, settings.faults.clone()));
        let mut queues = JoinSet::new();
        for queue in Queue::ALL {
            let line = Line {
                shared: shared.clone(),
                registry: registry.clone(),
                kinds: registry.kinds(),
                queue,
                places: settings.places(queue),
                poll: settings.poll,
            };
            queues.spawn(line.serve(signals.on(Channel::Jobs)));
        }
        queues.spawn(housekeeping::keep(shared.world.db.clone(), shared.stopping.clone()));
        Self { shared, queues }
    }

    /// The places that it has in a queue.
    pub fn places(&self, queue: Queue, settings: &Settings) -> Places {
        Places { owner: self.shared.owner, queue, all: settings.places(queue) }
    }

    /// The name under which it takes leases.
    pub fn owner(&self) -> Uuid {
        self.shared.owner
    }

    /// Waits until one of its tasks is over, which none is before it stops.
    pub async fn lost(&mut self) {
        let _ = self.queues.join_next().await;
    }

    /// Takes no more jobs, lets the steps under way end for as long as `within`, cuts off those that
    /// have not, and hands all leases back.
    pub async fn stop(mut self, within: Duration) {
        self.shared.stopping.cancel();
        if timeout(within, async { while self.queues.join_next().await.is_some() {} }).await.is_err() {
            tracing::info!("Steps that are not over yet are cut off; another worker goes on with them.");
            self.shared.cut_off.cancel();
            let _ = timeout(HAND_BACK_MAX, async { while self.queues.join_next().await.is_some() {} }).await;
        }
    }
}

/// The places of one worker in one queue.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    owner: Uuid,
    queue: Queue,
    all: usize,
}

impl Places {
    /// How many jobs may be added that this worker begins at once: those that it works on and those that wait have a
    /// place already.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn free(&self, conn: &mut PgConnection) -> sqlx::Result<usize> {
        let taken = queries::open_but_for_others(conn, self.queue, self.owner).await?;
        Ok(self.all.saturating_sub(usize::try_from(taken).unwrap_or(usize::MAX)))
    }
}

/// One queue: what it may hold at once, and what it is waiting for.
struct Line {
    shared: Arc<Shared>,
    registry: Registry,
    kinds: Vec<String>,
    queue: Queue,
    places: usize,
    poll: Duration,
}

impl Line {
    async fn serve(self, mut woken: watch::Receiver<u64>) {
        let stopping = self.shared.stopping.clone();
        let mut jobs = JoinSet::new();
        while !stopping.is_cancelled() {
            while jobs.try_join_next().is_some() {}
            if jobs.len() >= self.places {
                tokio::select! {
                    _ = jobs.join_next(), if !jobs.is_empty() => {}
                    () = stopping.cancelled() => {}
                }
                continue;
            }
            // Marked as seen before looking, so that what comes while looking wakes us after.
            woken.borrow_and_update();
            let since = Instant::now();
            let pause = match self.claim().await {
                Ok(Ok(job)) => {
                    if let Some(kind) = self.registry.kind(&job.kind) {
                        let shared = self.shared.clone();
                        jobs.spawn(async move { kind.work(&shared, job, since).await });
                    }
                    continue;
                }
                Ok(Err(due)) => due.unwrap_or(self.poll).clamp(LOOK_PAUSE_MIN, self.poll.max(LOOK_PAUSE_MIN)),
                Err(error) => {
                    tracing::warn!(queue = ?self.queue, "The queue cannot be read: {error}");
                    TROUBLE_PAUSE
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = stopping.cancelled() => {}
                () = self.shared.parked(self.queue).notified() => {}
                Ok(()) = woken.changed() => {}
            }
        }
        while jobs.join_next().await.is_some() {}
    }

    /// A job, or how long until one may be due.
    async fn claim(&self) -> sqlx::Result<Result<Claimed, Option<Duration>>> {
        let mut conn = self.shared.db().acquire().await?;
        let lease = self.shared.lease;
        match queries::claim(&mut conn, self.shared.owner, self.queue, &self.kinds, lease).await? {
            Some(job) => Ok(Ok(job)),
            None => Ok(Err(queries::next_due(&mut conn, self.queue, &self.kinds).await?)),
        }
    }
}
