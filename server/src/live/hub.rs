//! Fan-out inside one control plane: each event is read once, and goes to every subscriber of its
//! project as the same bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::ws::Utf8Bytes;
use berth_model::{ProjectId, Timestamp};
use futures_util::FutureExt as _;
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::PgPool;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::yield_now;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::queries::{self, Row};
use super::seats::Seats;
use super::{Channel, Doubts, Signals, publisher};
use crate::vital::Vital;

/// Events that wait for one subscriber; with one more it is dropped.
pub const QUEUE_MAX: usize = 256;
/// Events read at once: fewer than a queue holds, so that no burst drops who keeps up.
const BATCH: i64 = 100;
/// In a burst, how long those whose queue is filling get to empty it. One that does not is dropped
/// after a few of these, so it delays the others only by that.
const BREATH: Duration = Duration::from_millis(20);
/// How often it looks when nobody wakes it.
const POLL: Duration = Duration::from_secs(2);
/// After the database did not answer.
const TROUBLE_PAUSE: Duration = Duration::from_millis(500);
/// Old events are removed this often, in batches of [`PRUNE_MAX`].
const PRUNE_EVERY: Duration = Duration::from_secs(30);
/// Events removed at once, so that removing never holds up publishing.
const PRUNE_MAX: i64 = 2_000;

/// How long events are kept for those who resume, and how long trust lasts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// At most this long.
    pub kept_for: Duration,
    /// At most this many.
    pub kept_rows: i64,
    /// Who missed more than this fetches its lists again instead, which is less to read.
    pub replay_max: i64,
    /// How often it is asked whether who listens still may.
    pub recheck_every: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            kept_for: Duration::from_secs(24 * 3600),
            kept_rows: 1_000_000,
            replay_max: 2_000,
            recheck_every: Duration::from_secs(30),
        }
    }
}

/// An event as it goes to every subscriber.
#[derive(Debug, Clone)]
pub(super) struct Published {
    pub(super) seq: i64,
    pub(super) text: Utf8Bytes,
}

/// The fan-out of this control plane. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    seats: Seats,
    /// Ends with the control plane; sockets say good-bye then.
    stop: CancellationToken,
    signals: Signals,
    subscribers: Mutex<Subscribers>,
}

struct Subscribers {
    /// Up to here everything has been handed to the queues.
    seq: i64,
    next_id: u64,
    by_project: HashMap<ProjectId, Vec<Outlet>>,
}

struct Outlet {
    id: u64,
    queue: mpsc::Sender<Published>,
    too_slow: CancellationToken,
}

/// What one socket gets. Dropped, it gets nothing more.
pub(super) struct Subscription {
    hub: Hub,
    project: ProjectId,
    id: u64,
    /// The events before and at this one are in the table; those after it come through the queue.
    pub(super) since: i64,
    pub(super) events: mpsc::Receiver<Published>,
    /// Its queue was full, or the hub lost its place: what was sent has a gap after the queue's last.
    pub(super) too_slow: CancellationToken,
}

impl Hub {
    /// Starts publishing, fan-out and pruning, until all stops.
    pub async fn start(
        db: PgPool,
        signals: &Signals,
        settings: Settings,
        vital: &Vital,
    ) -> sqlx::Result<Self> {
        let seq = queries::kept(&mut *db.acquire().await?).await?.last;
        let subscribers = Subscribers { seq, next_id: 0, by_project: HashMap::new() };
        let subscribers = Mutex::new(subscribers);
        let stop = vital.stop().clone();
        let inner = Inner {
            settings,
            seats: Seats::default(),
            stop: stop.clone(),
            signals: signals.clone(),
            subscribers,
        };
        let hub = Self { inner: Arc::new(inner) };
        let publishing = publisher::publish(db.clone(), signals.on(Channel::Outbox));
        let reading = hub.clone().read(db.clone(), signals.on(Channel::Published));
        let pruning = hub.clone().prune(db);
        let work = async { tokio::join!(publishing, reading, pruning) };
        tokio::spawn(vital.watch("live events", stop.run_until_cancelled_owned(work).map(drop)));
        Ok(hub)
    }

    /// How long events are kept, and how many are replayed.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// How many sockets are served now; one that was dropped is not.
    pub fn listeners(&self) -> usize {
        self.lock().by_project.values().map(Vec::len).sum()
    }

    /// The places for sockets.
    pub(super) fn seats(&self) -> &Seats {
        &self.inner.seats
    }

    /// Done when the control plane stops.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.inner.stop
    }

    /// Whose rights end, from now on.
    pub(super) fn access(&self) -> broadcast::Receiver<String> {
        self.inner.signals.access()
    }

    /// When rights that are looked at next should be looked at again.
    pub fn doubts(&self) -> Doubts {
        Doubts::new(self)
    }

    /// From now on the events of `project`.
    pub(super) fn subscribe(&self, project: ProjectId) -> Subscription {
        let (queue, events) = mpsc::channel(QUEUE_MAX);
        let too_slow = CancellationToken::new();
        let mut subscribers = self.lock();
        let id = subscribers.next_id;
        subscribers.next_id += 1;
        let outlet = Outlet { id, queue, too_slow: too_slow.clone() };
        subscribers.by_project.entry(project).or_default().push(outlet);
        let since = subscribers.seq;
        Subscription { hub: self.clone(), project, id, since, events, too_slow }
    }

    fn lock(&self) -> MutexGuard<'_, Subscribers> {
        // Nothing in here can be left half done: a panic while it is locked harms nobody.
        self.inner.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(self, db: PgPool, mut woken: watch::Receiver<u64>) {
        loop {
            woken.borrow_and_update();
            match self.round(&db).await {
                Ok(read) if read < BATCH as usize => {
                    let _ = timeout(POLL, woken.changed()).await;
                }
                Ok(_) if self.lock().is_crowded() => sleep(BREATH).await,
                Ok(_) => yield_now().await,
                Err(error) => {
                    tracing::warn!("Published events cannot be read: {error}");
                    sleep(TROUBLE_PAUSE).await;
                }
            }
        }
    }

    async fn round(&self, db: &PgPool) -> sqlx::Result<usize> {
        let after = self.lock().seq;
        let rows = queries::published(&mut *db.acquire().await?, after, BATCH).await?;
        let read = rows.len();
        let mut subscribers = self.lock();
        for row in rows {
            subscribers.hand_out(&row);
        }
        Ok(read)
    }

    async fn prune(self, db: PgPool) {
        let mut tick = interval(PRUNE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Err(error) = self.prune_once(&db).await {
                tracing::warn!("Old events cannot be removed: {error}");
            }
        }
    }

    /// Removes what is too old, or too much. Done from time to time anyway.
    pub async fn prune_once(&self, db: &PgPool) -> sqlx::Result<()> {
        let Settings { kept_for, kept_rows, .. } = *self.settings();
        let mut conn = db.acquire().await?;
        while queries::prune(&mut conn, kept_for, kept_rows, PRUNE_MAX).await? == PRUNE_MAX as u64 {}
        Ok(())
    }
}

impl Subscribers {
    /// Whether somebody could not take another batch.
    fn is_crowded(&self) -> bool {
        self.by_project.values().flatten().any(|outlet| outlet.queue.capacity() < BATCH as usize)
    }

    fn hand_out(&mut self, row: &Row) {
        if row.seq != self.seq + 1 {
            // Only after so long without the database that the events between are removed already.
            tracing::warn!(from = self.seq, to = row.seq, "Events were missed; all sockets resume.");
            self.by_project.drain().flat_map(|(_, outlets)| outlets).for_each(|o| o.too_slow.cancel());
        }
        self.seq = row.seq;
        let Some(outlets) = self.by_project.get_mut(&row.project) else { return };
        let published = Published { seq: row.seq, text: text(row) };
        outlets.retain(|outlet| match outlet.queue.try_send(published.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                metrics::counter!("berth_live_too_slow_total").increment(1);
                outlet.too_slow.cancel();
                false
            }
        });
        if outlets.is_empty() {
            self.by_project.remove(&row.project);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut subscribers = self.hub.lock();
        if let Some(outlets) = subscribers.by_project.get_mut(&self.project) {
            outlets.retain(|outlet| outlet.id != self.id);
            if outlets.is_empty() {
                subscribers.by_project.remove(&self.project);
            }
        }
    }
}

/// The message of an event. The change is passed on as it was written, so that an older control
/// plane serves what a newer one wrote.
pub(super) fn text(row: &Row) -> Utf8Bytes {
    /// [`berth_model::event::LiveMessage::Event`], with the change as text.
    #[derive(Serialize)]
    struct Message<'a> {
        r#type: &'static str,
        seq: i64,
        at: Timestamp,
        change: &'a RawValue,
    }
    let message = Message { r#type: "event", seq: row.seq, at: row.at, change: &row.change.0 };
    serde_json::to_string(&message).expect("numbers, times and JSON can be written as JSON").into()
}
