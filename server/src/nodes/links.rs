//! Which nodes' streams this control plane keeps.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use berth_model::{NodeId, ServerId};
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Pace;
use super::link::Link;
use super::queries::{self, Lease};
use super::rules::fair_share;
use crate::agents::Agents;
use crate::clock;
use crate::live::{Channel, Signals};
use crate::load::{self, Load};

/// How long links may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Keeps this control plane's part of the nodes.
pub struct Links {
    db: PgPool,
    agents: Arc<Agents>,
    load: Load,
    owner: Uuid,
    pace: Pace,
    kept: HashMap<NodeId, Kept>,
    /// When the leases were last renewed.
    renewed: Instant,
}

/// A link under way.
struct Kept {
    lease: Lease,
    watched: watch::Sender<Arc<HashSet<ServerId>>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Drop for Kept {
    /// A link never outlives what keeps it.
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Links {
    /// Keeps nothing yet. `owner` names this control plane, and no other process ever.
    pub fn new(db: PgPool, agents: Arc<Agents>, load: Load, owner: Uuid, pace: Pace) -> Self {
        Self { db, agents, load, owner, pace, kept: HashMap::new(), renewed: Instant::now() }
    }

    /// Keeps nodes until `stop`; then gives them back, so that others take over at once.
    pub async fn run(mut self, signals: Signals, stop: CancellationToken) {
        let mut tick = tokio::time::interval(self.pace.tend_every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watches = signals.on(Channel::Watch);
        loop {
            let worked = tokio::select! {
                _ = tick.tick() => self.tend().await,
                Ok(()) = watches.changed() => self.spread_watches().await,
                () = stop.cancelled() => break,
            };
            if let Err(error) = worked {
                tracing::warn!(%error, "the nodes could not be looked after; it is tried again soon");
            }
            // Leases that could not be renewed are somebody else's by now.
            if self.renewed.elapsed() > self.pace.lease {
                self.end(|_, _| true).await;
            }
        }
        self.end(|_, _| true).await;
        let left = async { queries::leave(&mut *self.db.acquire().await?, self.owner).await };
        if let Err(error) = left.await {
            tracing::warn!(%error, "the nodes were not given back; they are free when the leases end");
        }
    }

    /// Renews the leases, gives back what is more than our part, and takes what nobody keeps.
    async fn tend(&mut self) -> sqlx::Result<()> {
        if let Err(error) = self.agents.credentials().renew_if_due(clock::now()) {
            tracing::error!("the control plane's own certificate was not renewed: {error:#}");
        }
        let (asked, lease_s) = (Instant::now(), self.pace.lease.as_secs_f64());
        let mut conn = self.db.acquire().await?;
        let mut leases = queries::renew(&mut conn, self.owner, lease_s).await?;
        self.renewed = asked;

        let (nodes, planes) = queries::shared(&mut conn).await?;
        let share = usize::try_from(fair_share(nodes, planes)).unwrap_or(usize::MAX);
        leases.sort_by_key(|lease| lease.node);
        let excess: Vec<_> = leases.drain(share.min(leases.len())..).map(|lease| lease.node).collect();
        let free = share - leases.len();
        if free > 0 {
            leases.extend(queries::claim(&mut conn, self.owner, free as u64, lease_s).await?);
        }
        // Also what was lost or ended by itself, and nodes that moved.
        self.end(|_, kept| kept.task.is_finished() || !leases.contains(&kept.lease)).await;
        if !excess.is_empty() {
            queries::release(&mut conn, self.owner, &excess).await?;
        }
        for (state, count) in queries::count_by_state(&mut conn).await? {
            metrics::gauge!("berth_nodes", "state" => format!("{state:?}").to_lowercase()).set(count as f64);
        }
        drop(conn);

        for lease in leases {
            let node = lease.node;
            if !self.kept.contains_key(&node) {
                let kept = self.begin(lease);
                self.kept.insert(node, kept);
            }
        }
        metrics::gauge!("berth_node_streams_kept").set(self.kept.len() as f64);
        self.spread_watches().await
    }

    fn begin(&self, lease: Lease) -> Kept {
        let (sender, watched) = watch::channel(Arc::default());
        let stop = CancellationToken::new();
        let link = Link {
            db: self.db.clone(),
            agents: Arc::clone(&self.agents),
            load: self.load.clone(),
            owner: self.owner,
            pace: self.pace,
            lease: lease.clone(),
            watched,
        };
        let task = tokio::spawn(link.run(stop.clone()));
        Kept { lease, watched: sender, stop, task }
    }

    /// Ends the links for which `which` holds, and waits for them.
    async fn end(&mut self, which: impl Fn(&NodeId, &Kept) -> bool) {
        let ending: Vec<_> =
            self.kept.extract_if(|node, kept| which(node, kept)).map(|(_, kept)| kept).collect();
        for kept in &ending {
            kept.stop.cancel();
        }
        for mut kept in ending {
            // One that takes too long is cut off.
            let _ = tokio::time::timeout(END_TIMEOUT, &mut kept.task).await;
        }
    }

    /// Tells each link what somebody looks at on its node, if that changed.
    async fn spread_watches(&mut self) -> sqlx::Result<()> {
        if self.kept.is_empty() {
            return Ok(());
        }
        let nodes: Vec<_> = self.kept.keys().copied().collect();
        let watched = load::queries::watched(&mut *self.db.acquire().await?, &nodes).await?;
        let mut by_node: HashMap<NodeId, HashSet<ServerId>> = HashMap::new();
        for (node, server) in watched {
            by_node.entry(node).or_default().insert(server);
        }
        for (node, kept) in &self.kept {
            let now = by_node.remove(node).unwrap_or_default();
            kept.watched.send_if_modified(|before| {
                let changed = **before != now;
                if changed {
                    *before = Arc::new(now);
                }
                changed
            });
        }
        Ok(())
    }
}
