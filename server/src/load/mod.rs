//! Load of servers: from counters to rates, live to whoever looks, and into the database.
//!
//! Words. A *reading* is what the agent counts; a *sample* is the load between two readings of one
//! VM ([`rules::rate`]). A server is *watched* while somebody looks at it in any control plane; its
//! agent then reads every 2 s instead of every 30.
//!
//! ```text
//!   agent ── readings ──▶ link ── samples ─▶ Load::take ─┬─▶ subscribers here
//!     ▲                    ▲                             ├─▶ NOTIFY load ─▶ subscribers elsewhere
//!     └── Watch{vms} ──────┤                             └─▶ buffer ─ 2 s ─▶ load_fine
//!                          │                                                   │ once a minute
//!   Load::watch ─▶ load_watches, NOTIFY watch                                  ▼
//!                                                                          load_minute
//! ```
//!
//! Samples are not events: a lost one is not missed, so they skip the outbox. `load_fine` keeps an
//! hour and some, `load_minute` a month; old partitions are dropped whole. The mean of a minute is
//! that of its samples, whatever span each stands for.

mod fan_out;
pub mod http;
mod partitions;
pub mod queries;
pub mod rules;
pub mod series;
mod upkeep;
mod writer;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_model::load::LoadSample;
use berth_model::{ServerId, Timestamp};
use sqlx::PgPool;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use fan_out::WatchGuard;
pub use upkeep::upkeep;

use crate::live::Signals;

/// The load of all servers. Cheap to clone.
#[derive(Clone)]
pub struct Load(Arc<Inner>);

struct Inner {
    db: PgPool,
    /// Marks our own samples among those that come back from the database.
    origin: Uuid,
    /// How many guards watch each server here.
    watches: Mutex<HashMap<ServerId, usize>>,
    watched_anew: Notify,
    subscribers: Mutex<HashMap<ServerId, broadcast::Sender<LoadSample>>>,
    latest: Mutex<HashMap<ServerId, LoadSample>>,
    buffer: Mutex<Vec<(ServerId, LoadSample)>>,
    /// Samples of watched servers on their way to the other control planes.
    outbound: Mutex<Vec<(ServerId, LoadSample)>>,
    outbound_filled: Notify,
}

impl Load {
    /// Nothing is watched yet; samples are kept in memory until [`Load::run`] runs.
    pub fn new(db: PgPool, origin: Uuid) -> Self {
        Self(Arc::new(Inner {
            db,
            origin,
            watches: Mutex::default(),
            watched_anew: Notify::new(),
            subscribers: Mutex::default(),
            latest: Mutex::default(),
            buffer: Mutex::default(),
            outbound: Mutex::default(),
            outbound_filled: Notify::new(),
        }))
    }

    /// Takes in samples that came from the streams held here. Those of `watched` servers go to the
    /// other control planes too. Says how many are left out, because the agent's clock is wrong.
    pub fn take(
        &self,
        samples: &[(ServerId, LoadSample)],
        watched: &HashSet<ServerId>,
        now: Timestamp,
    ) -> usize {
        let timely: Vec<_> = samples.iter().copied().filter(|(_, s)| rules::is_timely(s, now)).collect();
        let left_out = samples.len() - timely.len();
        metrics::counter!("berth_load_samples_dropped_total", "reason" => "clock").increment(left_out as u64);
        held(&self.0.latest).extend(timely.iter().copied());
        for (server, sample) in &timely {
            self.deliver(*server, *sample);
        }
        self.send_out(timely.iter().copied().filter(|(server, _)| watched.contains(server)));
        self.store(&timely);
        left_out
    }

    /// The newest sample of a server whose node's stream is held here, or that is watched.
    pub fn latest(&self, server: ServerId) -> Option<LoadSample> {
        held(&self.0.latest).get(&server).copied()
    }

    /// Writes samples, renews watches and keeps the tables until `stop`; then writes what is left.
    pub async fn run(self, signals: Signals, stop: CancellationToken) {
        tokio::join!(
            self.clone().hear_others(signals.load(), stop.clone()),
            self.clone().renew_watches(stop.clone()),
            self.clone().write_samples(stop.clone()),
            self.clone().send_samples(stop.clone()),
            self.clone().keep_tables(stop),
        );
    }
}

/// The lock is never held across anything that can fail, so a poisoned one is still good.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
