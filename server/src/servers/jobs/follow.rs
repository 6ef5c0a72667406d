//! `follow_server`: brings a server's machine to its rows without holding the server: after a change of something
//! that many servers share, such as a firewall, and after a change that was given up.
//!
//! Of each server there is one such job at a time, whatever has changed since: it ends when its node was told all. The
//! actions that wait for that end with it.

use std::time::Duration;

use berth_model::agent::WantedPower;
use berth_model::server::ServerStatus;
use berth_model::{ActionId, NodeId, ServerId, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::jobs::{self, Queue, Saga, StepContext, StepError, StepName};
use crate::servers::{machine, queries};
use crate::{World, actions};

/// The job's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFollow {
    server: ServerId,
    /// What the node was told, by its revision; none when there was nobody to tell.
    #[serde(skip)]
    told: Option<i64>,
}

/// The only step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step;

impl StepName for Step {
    const ALL: &'static [Self] = &[Self];

    fn word(self) -> &'static str {
        "tell"
    }

    fn title(self) -> &'static str {
        "Tell the node"
    }
}

/// Something that the server's machine is made of has changed in the caller's transaction; its node is told in the
/// background.
///
/// # Errors
/// When the database fails.
pub async fn told_anew(conn: &mut PgConnection, server: ServerId, now: Timestamp) -> sqlx::Result<()> {
    queries::touch(conn, server).await?;
    follow(conn, server, now).await
}

async fn follow(conn: &mut PgConnection, server: ServerId, now: Timestamp) -> sqlx::Result<()> {
    jobs::enqueue_once(conn, &ServerFollow { server, told: None }, server.0, now).await
}

/// [`told_anew`] if its node was not told all yet. The server's row is locked.
///
/// # Errors
/// When the database fails.
pub async fn catch_up(conn: &mut PgConnection, server: ServerId, now: Timestamp) -> sqlx::Result<()> {
    if queries::is_told(conn, server).await? { Ok(()) } else { follow(conn, server, now).await }
}

/// [`told_anew`] as the work of an action, which ends when the node was told.
///
/// # Errors
/// When the database fails.
pub async fn told_by(
    conn: &mut PgConnection,
    server: ServerId,
    action: ActionId,
    now: Timestamp,
) -> sqlx::Result<()> {
    queries::touch(conn, server).await?;
    if queries::await_told(conn, server, action).await? {
        return follow(conn, server, now).await;
    }
    actions::queries::finish(conn, action, Ok(()), now).await
}

/// What came of telling a server's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The server has no machine.
    Nobody,
    /// The server is being made or removed, and told by whoever does that.
    ComesOrGoes,
    /// The node knows what the rows said at this revision. To be recorded with [`queries::set_told`].
    Told(i64),
}

/// Tells a server's node what the server's machine is made of now. Also when it was told before: what another sent may
/// have been older, and heard later.
///
/// # Errors
/// When the node does not answer, or refuses.
pub async fn tell(world: &World, server: ServerId) -> Result<Heard, StepError> {
    let mut conn = world.db.acquire().await?;
    let wanted = machine::wanted(&mut conn, &world.config, server, WantedPower::Keep).await?;
    drop(conn);
    let Some(machine::Wanted { machine, spec }) = wanted else { return Ok(Heard::Nobody) };
    match (machine.status, machine.node) {
        (status, node) if comes_or_goes(status, node) => Ok(Heard::ComesOrGoes),
        (_, None) => Ok(Heard::Nobody),
        (_, Some(node)) => {
            world.agents.node(node).put_vm(server.into(), &spec).await?;
            Ok(Heard::Told(machine.revision))
        }
    }
}

fn comes_or_goes(status: ServerStatus, node: Option<NodeId>) -> bool {
    match status {
        ServerStatus::Initializing => true,
        ServerStatus::Deleting => node.is_some(),
        _ => false,
    }
}

impl Saga for ServerFollow {
    const KIND: &'static str = "follow_server";
    const QUEUE: Queue = Queue::Follow;
    const DEADLINE: Duration = Duration::from_secs(15 * 60);
    /// Whatever the rows say now must come to the node in the end.
    const UNDOABLE: bool = false;
    type Step = Step;

    async fn run(&mut self, _: Step, _: &StepContext, world: &World) -> Result<(), StepError> {
        self.told = match tell(world, self.server).await? {
            Heard::Told(revision) => Some(revision),
            Heard::Nobody | Heard::ComesOrGoes => None,
        };
        Ok(())
    }

    async fn record(&mut self, _: Step, cx: &StepContext, conn: &mut PgConnection) -> Result<(), StepError> {
        let known = queries::hold_observed(conn, self.server).await?;
        let heard_all = match (self.told, known) {
            (_, None) => true,
            (Some(told), Some(_)) => queries::set_told(conn, self.server, told).await? != Some(false),
            // Whoever makes it or removes it goes on with what the rows say, unless that is over by now.
            (None, Some(known)) => known.node.is_none() || comes_or_goes(known.status, known.node),
        };
        if !heard_all {
            return Err(StepError::NotYet(Duration::ZERO));
        }
        for action in queries::heard(conn, self.server).await? {
            actions::queries::finish(conn, action, Ok(()), cx.now).await?;
        }
        // What was pending is applied.
        Ok(queries::publish(conn, self.server, cx.now).await?)
    }

    async fn undo(&mut self, _: Step, _: &StepContext, _: &World) -> Result<(), StepError> {
        Ok(())
    }

    async fn record_undo(&mut self, _: Step, _: &StepContext, _: &mut PgConnection) -> Result<(), StepError> {
        Ok(())
    }
}
