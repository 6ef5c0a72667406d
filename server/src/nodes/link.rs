//! One node, kept by this control plane: its stream is open, and what comes through it is taken in.
//!
//! ```text
//!   ┌─▶ open ──▶ Hello: reconcile ──▶ listen ──┐   messages in batches, in their order
//!   │                                          │   at the same time: facts, certificate,
//!   └── pause ◀── silent, closed, refused ◀────┘   the lease that the node itself holds
//!         │
//!         └ not heard for a while: node down, its servers unknown
//! ```
//!
//! Any failure ends the stream, also one of ours: the next Hello sets everything right again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use berth_model::agent::{CounterSample, Health, StreamCommand, StreamMessage, VmEvent};
use berth_model::node::NodeState;
use berth_model::{ServerId, Timestamp, VmId};
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::grants::Granter;
use super::queries::{self, Lease};
use super::stream::Stream;
use super::{Pace, rules};
use crate::agents::{AgentAddress, AgentClient, Agents};
use crate::load::Load;
use crate::load::rules::Rates;
use crate::{clock, entropy, servers};

/// How often `last_seen` is written while nothing else changes.
const SEEN_EVERY: Duration = Duration::from_secs(15);
/// How often facts are asked for, and how soon again when that failed.
const FACTS_EVERY: Duration = Duration::from_secs(3600);
const FACTS_RETRY: Duration = Duration::from_secs(60);
/// How long its stream waits for a node's first facts.
const FACTS_PATIENCE: Duration = Duration::from_secs(5);
/// Most events that are written in one transaction.
const EVENTS_MAX: usize = 200;
/// Most VMs that an agent is asked to watch; the others are sampled every 30 s all the same.
const WATCHED_MAX: usize = 10_000;

/// What a link works with.
pub(super) struct Link {
    pub(super) db: PgPool,
    pub(super) agents: Arc<Agents>,
    pub(super) load: Load,
    pub(super) owner: Uuid,
    pub(super) pace: Pace,
    pub(super) lease: Lease,
    /// The servers of this node that somebody looks at.
    pub(super) watched: watch::Receiver<Arc<HashSet<ServerId>>>,
}

/// What is known of the node since the link began.
struct Known {
    state: Option<(NodeState, Vec<String>)>,
    heard: Instant,
    written: Instant,
    /// The operator was told that the node's clock is wrong.
    told_of_clock: bool,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("another control plane keeps this node")]
    LeaseLost,
    #[error("{0:#}")]
    Broken(#[from] anyhow::Error),
}

impl From<sqlx::Error> for Ended {
    fn from(error: sqlx::Error) -> Self {
        Self::Broken(anyhow::Error::from(error).context("the database"))
    }
}

impl Link {
    /// Keeps the stream until `stop`, or until another control plane keeps it.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let now = Instant::now();
        let mut known = Known { state: None, heard: now, written: now, told_of_clock: false };
        let mut failures = 0;
        loop {
            let heard_before = known.heard;
            let ended = tokio::select! {
                ended = self.listen(&mut known) => ended,
                () = stop.cancelled() => return,
            };
            let Err(ended) = ended;
            if known.heard > heard_before {
                failures = 0;
            }
            metrics::counter!("berth_node_stream_ends_total").increment(1);
            let (node, address) = (self.lease.node, &self.lease.address);
            match ended {
                Ended::LeaseLost => {
                    tracing::info!(%node, "another control plane keeps this node's stream");
                    return;
                }
                Ended::Broken(error) if failures == 0 => {
                    tracing::warn!(%node, address, "the stream of a node ended: {error:#}");
                }
                Ended::Broken(error) => tracing::debug!(%node, address, "no stream of this node: {error:#}"),
            }
            if let Err(Ended::LeaseLost) = self.note_if_down(&mut known).await {
                return;
            }
            tokio::select! {
                () = sleep(rules::retry_pause(failures, entropy::fraction())) => {}
                () = stop.cancelled() => return,
            }
            failures += 1;
        }
    }

    /// Opens the stream and takes in what comes. Ends only with an error.
    async fn listen(&mut self, known: &mut Known) -> Result<std::convert::Infallible, Ended> {
        let address =
            AgentAddress::parse(self.lease.node, &self.lease.address).map_err(anyhow::Error::msg)?;
        let mut stream = Stream::open(self.agents.credentials(), &address, self.pace.silence_max).await?;
        let mut rates = Rates::default();
        let mut hello = false;
        // A watch that began before this stream must be told to it.
        self.watched.mark_changed();
        let agent = self.agents.at(self.lease.node, address.clone());
        // Before Hello is taken in: a node that is up must be known for what it is.
        let asked = refresh_facts(&self.db, &agent, self.owner, &self.lease);
        let pause = match tokio::time::timeout(FACTS_PATIENCE, asked).await {
            Ok(Err(Ended::LeaseLost)) => return Err(Ended::LeaseLost),
            Ok(Ok(())) => FACTS_EVERY,
            Ok(Err(Ended::Broken(_))) | Err(_) => Duration::ZERO,
        };
        // A task of its own: it must not stand still inside a transaction while a batch is taken in.
        let facts = keep_facts(self.db.clone(), agent.clone(), self.owner, self.lease.clone(), pause);
        let mut facts = AbortOnDropHandle::new(tokio::spawn(facts));
        let mut granter = AbortOnDropHandle::new(tokio::spawn(self.granter(agent).run()));
        let ended = loop {
            tokio::select! {
                batch = stream.next_batch() => {
                    let taken = match batch {
                        Ok(batch) => self.take(batch, &mut hello, &mut rates, known).await,
                        Err(error) => Err(error.into()),
                    };
                    if let Err(ended) = taken {
                        break ended;
                    }
                }
                // Not before Hello: the agent speaks first.
                changed = self.watched.changed(), if hello => {
                    if changed.is_err() {
                        break Ended::LeaseLost;
                    }
                    let vms: Vec<VmId> = self.watched.borrow_and_update().iter().map(|s| VmId::from(*s)).take(WATCHED_MAX).collect();
                    if let Err(error) = stream.send(&StreamCommand::Watch { vms }).await {
                        break error.into();
                    }
                }
                lost = &mut facts, if hello => {
                    break lost.unwrap_or_else(|panic| anyhow::Error::from(panic).into());
                }
                lost = &mut granter, if hello => {
                    break lost.unwrap_or_else(|panic| anyhow::Error::from(panic).into());
                }
            }
        };
        stream.close().await;
        Err(ended)
    }

    fn granter(&self, agent: AgentClient) -> Granter {
        Granter {
            db: self.db.clone(),
            agent,
            owner: self.owner,
            lease: self.lease.clone(),
            grants: self.pace.grants,
        }
    }

    /// Takes in messages that came together, in their order.
    async fn take(
        &self,
        batch: Vec<StreamMessage>,
        hello: &mut bool,
        rates: &mut Rates,
        known: &mut Known,
    ) -> Result<(), Ended> {
        known.heard = Instant::now();
        let (mut events, mut samples, mut told) = (Vec::new(), Vec::new(), None);
        for message in batch {
            match message {
                StreamMessage::Hello { vms, health } => {
                    self.reconcile(&vms).await?;
                    *hello = true;
                    told = Some(health);
                }
                _ if !*hello => return Err(anyhow::anyhow!("it did not begin with Hello").into()),
                StreamMessage::Vm(event) => {
                    if event.state.is_none() {
                        rates.forget(event.vm);
                    }
                    events.push(event);
                }
                StreamMessage::Samples { samples: readings } => samples.extend(readings),
                StreamMessage::Beat { health } => told = Some(health),
            }
        }
        self.observe(events).await?;
        self.measure(&samples, rates, known).await?;
        match told {
            Some(health) => self.note_health(health, known).await,
            None => Ok(()),
        }
    }

    /// Everything the agent has, as of now: also what it lacks is news.
    async fn reconcile(&self, vms: &[VmEvent]) -> Result<(), Ended> {
        let mut tx = self.db.begin().await?;
        let now = self.hold(&mut tx).await?;
        let vms: Vec<_> = vms.iter().map(|event| VmEvent { at: now, ..*event }).collect();
        servers::observe_all(&mut tx, self.lease.node, &vms, now, now).await?;
        Ok(tx.commit().await?)
    }

    /// Events are dated anew, by the one clock that all control planes share: in a stream the order
    /// counts, and an agent's clock may be set back.
    async fn observe(&self, mut events: Vec<VmEvent>) -> Result<(), Ended> {
        // Stable: news of one VM stay in order. By number, like all who lock several servers.
        events.sort_by_key(|event| event.vm);
        for some in events.chunks(EVENTS_MAX) {
            let mut tx = self.db.begin().await?;
            let now = self.hold(&mut tx).await?;
            for event in some {
                servers::observe(&mut tx, self.lease.node, &VmEvent { at: now, ..*event }, now).await?;
                let lag_ms = (now.unix_ms() - event.at.unix_ms()).max(0);
                metrics::histogram!("berth_node_event_lag_seconds").record(lag_ms as f64 / 1000.0);
            }
            tx.commit().await?;
        }
        Ok(())
    }

    /// Makes rates of readings. Only of servers that stand on this node: an agent speaks for its own.
    async fn measure(
        &self,
        readings: &[CounterSample],
        rates: &mut Rates,
        known: &mut Known,
    ) -> Result<(), Ended> {
        let samples: Vec<_> =
            readings.iter().filter_map(|r| Some((ServerId::from(r.vm), rates.take(r)?))).collect();
        if samples.is_empty() {
            return Ok(());
        }
        let own: HashSet<_> = {
            let mut conn = self.db.acquire().await?;
            servers::queries::on_node(&mut conn, self.lease.node).await?.into_iter().collect()
        };
        let samples: Vec<_> = samples.into_iter().filter(|(server, _)| own.contains(server)).collect();
        let watched = Arc::clone(&self.watched.borrow());
        let left_out = self.load.take(&samples, &watched, clock::now());
        if left_out > 0 && !known.told_of_clock {
            known.told_of_clock = true;
            let node = self.lease.node;
            tracing::warn!(%node, "samples are left out: the clock of this node is minutes off; does it run NTP?");
        }
        Ok(())
    }

    async fn note_health(&self, health: Health, known: &mut Known) -> Result<(), Ended> {
        let state = (rules::state_of(&health), health.faults);
        if known.state.as_ref() == Some(&state) && known.written.elapsed() < SEEN_EVERY {
            return Ok(());
        }
        if known.state.as_ref() != Some(&state) {
            tracing::info!(node = %self.lease.node, state = ?state.0, faults = ?state.1, "a node told how it is");
        }
        self.write_state(&state, true).await?;
        (known.state, known.written) = (Some(state), Instant::now());
        Ok(())
    }

    async fn write_state(&self, (state, faults): &(NodeState, Vec<String>), seen: bool) -> Result<(), Ended> {
        let mut tx = self.db.begin().await?;
        let now = self.hold(&mut tx).await?;
        queries::set_state(&mut tx, self.lease.node, *state, faults, seen.then_some(now)).await?;
        if *state == NodeState::Down {
            servers::unknown_on_node(&mut tx, self.lease.node, now).await?;
        }
        Ok(tx.commit().await?)
    }

    /// When the node was not heard for too long, it is down, and what its servers do is not known.
    async fn note_if_down(&self, known: &mut Known) -> Result<(), Ended> {
        let is_down = matches!(known.state, Some((NodeState::Down, _)));
        if is_down || known.heard.elapsed() < self.pace.down_after {
            return Ok(());
        }
        let state = (NodeState::Down, vec!["Its agent does not answer.".to_owned()]);
        match self.write_state(&state, false).await {
            Ok(()) => {
                tracing::error!(node = %self.lease.node, "a node is down: its agent does not answer");
                known.state = Some(state);
                Ok(())
            }
            // The database is away too: it is noted when that is back.
            Err(Ended::Broken(error)) => {
                tracing::warn!("a node that is down could not be noted: {error:#}");
                Ok(())
            }
            Err(Ended::LeaseLost) => Err(Ended::LeaseLost),
        }
    }

    /// Makes sure that the lease is ours until the transaction ends, and tells the time.
    async fn hold(&self, conn: &mut sqlx::PgConnection) -> Result<Timestamp, Ended> {
        queries::hold(conn, self.owner, &self.lease).await?.ok_or(Ended::LeaseLost)
    }
}

/// Asks what the node is, after `pause` and then every hour, and changes its certificate in time.
/// Ends only when the lease is lost.
async fn keep_facts(db: PgPool, agent: AgentClient, owner: Uuid, lease: Lease, mut pause: Duration) -> Ended {
    loop {
        sleep(pause).await;
        pause = match refresh_facts(&db, &agent, owner, &lease).await {
            Ok(()) => FACTS_EVERY,
            Err(Ended::LeaseLost) => return Ended::LeaseLost,
            Err(Ended::Broken(error)) => {
                tracing::warn!(node = %lease.node, "a node was not asked what it is: {error:#}");
                FACTS_RETRY
            }
        };
    }
}

async fn refresh_facts(db: &PgPool, agent: &AgentClient, owner: Uuid, lease: &Lease) -> Result<(), Ended> {
    let node = agent.node().await.context("GET /v1/node")?;
    let mut expires = node.certificate_expires;
    if expires.is_some_and(|expires| rules::certificate_is_due(expires, clock::now())) {
        expires = Some(agent.change_certificate(clock::now()).await.context("a new certificate")?);
        tracing::info!(node = %lease.node, "the agent has a new certificate");
    }
    let mut tx = db.begin().await?;
    queries::hold(&mut tx, owner, lease).await?.ok_or(Ended::LeaseLost)?;
    queries::set_facts(&mut tx, lease.node, &node.facts, expires).await?;
    Ok(tx.commit().await?)
}
