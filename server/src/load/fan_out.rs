//! Who looks at what: watches towards the agents, samples towards the sockets.

use std::collections::hash_map::Entry;
use std::time::Duration;

use berth_model::ServerId;
use berth_model::load::LoadSample;
use tokio::sync::broadcast;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{Load, held, queries, rules};

/// How often watches are written anew; a third of [`queries::WATCH_S`].
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// Samples a subscriber may lag behind before it misses some.
const LAG_MAX: usize = 16;
/// Most samples that wait to be sent to other control planes; older ones are dropped.
const OUTBOUND_MAX: usize = 10_000;

/// While it lives, its servers are watched: their samples come every two seconds.
#[must_use = "the watch ends when this is dropped"]
pub struct WatchGuard {
    load: Load,
    servers: Vec<ServerId>,
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        let mut watches = held(&self.load.0.watches);
        for server in &self.servers {
            if let Entry::Occupied(mut count) = watches.entry(*server) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    // Its row in the database runs out by itself.
                    count.remove();
                }
            }
        }
    }
}

impl Load {
    /// Watches these servers until the guard is dropped. Who may see them is for the caller to know.
    pub fn watch(&self, servers: &[ServerId]) -> WatchGuard {
        let mut watches = held(&self.0.watches);
        let mut anew = false;
        for server in servers {
            let count = watches.entry(*server).or_default();
            anew |= *count == 0;
            *count += 1;
        }
        drop(watches);
        if anew {
            self.0.watched_anew.notify_one();
        }
        WatchGuard { load: self.clone(), servers: servers.to_vec() }
    }

    /// Samples of a server as they come, through whichever control plane.
    pub fn subscribe(&self, server: ServerId) -> broadcast::Receiver<LoadSample> {
        let mut subscribers = held(&self.0.subscribers);
        subscribers.entry(server).or_insert_with(|| broadcast::channel(LAG_MAX).0).subscribe()
    }

    /// Hears what the other control planes send.
    pub(super) async fn hear_others(self, mut heard: broadcast::Receiver<String>, stop: CancellationToken) {
        loop {
            let payload = tokio::select! {
                payload = heard.recv() => payload,
                () = stop.cancelled() => return,
            };
            match payload {
                Ok(payload) => self.hear(&payload),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    metrics::counter!("berth_load_payloads_missed_total").increment(missed);
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    /// Takes in a payload of `NOTIFY load`; one of our own was delivered already.
    fn hear(&self, payload: &str) {
        let (origin, samples) = rules::read_payload(payload);
        if origin == self.0.origin.to_string() {
            return;
        }
        for (server, sample) in samples {
            self.deliver(server, sample);
        }
    }

    pub(super) fn deliver(&self, server: ServerId, sample: LoadSample) {
        let mut subscribers = held(&self.0.subscribers);
        // An error means that nobody listens any more.
        if let Entry::Occupied(sender) = subscribers.entry(server)
            && sender.get().send(sample).is_err()
        {
            sender.remove();
        }
    }

    pub(super) fn send_out(&self, samples: impl Iterator<Item = (ServerId, LoadSample)>) {
        let mut outbound = held(&self.0.outbound);
        outbound.extend(samples);
        let over = outbound.len().saturating_sub(OUTBOUND_MAX);
        outbound.drain(..over);
        if !outbound.is_empty() {
            self.0.outbound_filled.notify_one();
        }
    }

    /// Sends samples to the other control planes as they come; while the database is slow they
    /// gather and go together.
    pub(super) async fn send_samples(self, stop: CancellationToken) {
        let origin = self.0.origin.to_string();
        loop {
            tokio::select! {
                () = self.0.outbound_filled.notified() => {}
                () = stop.cancelled() => return,
            }
            let samples = std::mem::take(&mut *held(&self.0.outbound));
            let sent = async {
                let mut conn = self.0.db.acquire().await?;
                queries::notify(&mut conn, &rules::payloads(&origin, &samples)).await
            };
            if let Err(error) = sent.await {
                tracing::warn!(%error, "samples were not sent to the other control planes");
            }
        }
    }

    /// Writes what is watched here, at once when something new is and every few seconds.
    pub(super) async fn renew_watches(self, stop: CancellationToken) {
        let mut renewal = tokio::time::interval(RENEW_EVERY);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let anew = tokio::select! {
                () = self.0.watched_anew.notified() => true,
                _ = renewal.tick() => false,
                () = stop.cancelled() => return,
            };
            held(&self.0.subscribers).retain(|_, sender| sender.receiver_count() > 0);
            let servers: Vec<_> = held(&self.0.watches).keys().copied().collect();
            metrics::gauge!("berth_load_watched_servers").set(servers.len() as f64);
            if servers.is_empty() {
                continue;
            }
            let written = async {
                let mut conn = self.0.db.acquire().await?;
                queries::watch(&mut conn, &servers, anew).await
            };
            if let Err(error) = written.await {
                tracing::warn!(%error, "watches were not written; they are tried again soon");
            }
        }
    }
}
