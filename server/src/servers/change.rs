//! Changes of what a server is made of: the rows change with the request, and an action that holds the server
//! brings its machine to them.
//!
//! A subject that has such a change writes its rows between [`hold`] and [`begin`], in one transaction:
//!
//! ```text
//!   hold ─▶ rows of the subject ─▶ begin: revision, action, lock, job ─▶ commit
//!                                                                          │
//!            done ◀── machine brought to all rows ◀── prepare ◀────────────┘
//!            revert, and the machine is brought back ◀──(given up)
//! ```

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use berth_model::action::{Action, ResourceKind};
use berth_model::agent::{Vm, VmSpec};
use berth_model::error::ApiError;
use berth_model::server::ServerStatus;
use berth_model::{ErrorCode, NodeId, ProjectId, ServerId, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::PgConnection;

use super::jobs::change::Changing;
use super::queries::{self, Held};
use super::rules;
use crate::actions::{self, NewAction};
use crate::agents::{AgentClient, AgentError};
use crate::http::{ApiResult, Problem};
use crate::jobs::{self, Queue, StepError};
use crate::{World, clock};

/// A change of what a server is made of. `self` is kept as JSON until it is over: what [`Change::revert`] needs.
pub trait Change: Serialize + DeserializeOwned + Clone + Debug + PartialEq + Send + Sync + 'static {
    /// The action's word, and the job's.
    const COMMAND: &'static str;
    /// The action's steps, as the customer reads them: the preparation, if there is one, and the change.
    const TITLES: &'static [&'static str];
    /// After this it is given up.
    const DEADLINE: Duration = Duration::from_secs(10 * 60);

    /// [`Self::DEADLINE`], where a single change needs longer.
    fn deadline(&self) -> Duration {
        Self::DEADLINE
    }

    /// Whose time it takes.
    fn queue(&self) -> Queue {
        Queue::Interactive
    }

    /// Brings to the node what the machine will need there. May run twice; what `self` is then, is kept.
    fn prepare(
        &mut self,
        _server: ServerId,
        _node: NodeId,
        _world: &World,
    ) -> impl Future<Output = Result<(), StepError>> + Send {
        async { Ok(()) }
    }

    /// Writes that it is prepared: what the machine may have from now on.
    fn prepared(&self, _conn: &mut PgConnection) -> impl Future<Output = sqlx::Result<()>> + Send {
        async { Ok(()) }
    }

    /// Tells the node what the machine is to be. May run twice.
    fn tell(
        &mut self,
        server: ServerId,
        spec: &VmSpec,
        agent: &AgentClient,
    ) -> impl Future<Output = Result<Vm, AgentError>> + Send {
        agent.put_vm(server.into(), spec)
    }

    /// It is given up after the node was told, or may have been: finds out what [`Change::revert`] must know of the
    /// machine. The server stays held until this works.
    fn given_up(
        &mut self,
        _server: ServerId,
        _agent: &AgentClient,
    ) -> impl Future<Output = Result<(), StepError>> + Send {
        async { Ok(()) }
    }

    /// Writes that it is done.
    fn done(
        &self,
        _conn: &mut PgConnection,
        _server: ServerId,
        _now: Timestamp,
    ) -> impl Future<Output = sqlx::Result<()>> + Send {
        async { Ok(()) }
    }

    /// Takes the rows back to what they were before the request.
    fn revert(
        &self,
        conn: &mut PgConnection,
        server: ServerId,
        now: Timestamp,
    ) -> impl Future<Output = sqlx::Result<()>> + Send;
}

/// A server of the project that can be changed now, its row locked until the transaction ends.
///
/// # Errors
/// `not_found`; `locked` while an action holds it.
pub async fn hold(conn: &mut PgConnection, project: ProjectId, id: ServerId) -> ApiResult<Held> {
    let held = queries::hold(conn, project, id).await?.ok_or_else(|| Problem::not_found("server"))?;
    refuse_locked(&held)?;
    Ok(held)
}

/// Refuses a server that an action holds.
///
/// # Errors
/// `locked`.
pub fn refuse_locked(server: &Held) -> Result<(), ApiError> {
    match &server.locked_by {
        Some(command) => Err(rules::locked(command)),
        None => Ok(()),
    }
}

/// Starts the action that brings the machine of a server to its rows, which have just been changed. It holds the
/// server, and works on `beside` as well.
///
/// # Errors
/// When the database fails.
pub async fn begin<C: Change>(
    conn: &mut PgConnection,
    project: ProjectId,
    server: &Held,
    beside: &[(ResourceKind, i64)],
    change: C,
) -> ApiResult<Action> {
    begin_as(conn, project, (server, server.status), beside, change).await
}

/// [`begin`] of what shows in the server's status meanwhile.
///
/// # Errors
/// When the database fails.
pub async fn begin_as<C: Change>(
    conn: &mut PgConnection,
    project: ProjectId,
    (server, status): (&Held, ServerStatus),
    beside: &[(ResourceKind, i64)],
    change: C,
) -> ApiResult<Action> {
    let now = clock::now();
    let node = placed(server)?;
    let mut resources = vec![(ResourceKind::Server, server.id.0)];
    resources.extend(beside);
    let action = NewAction { project, command: C::COMMAND, resources: &resources, steps: C::TITLES, now };
    let action = actions::queries::start(conn, &action).await?;
    queries::touch(conn, server.id).await?;
    queries::lock(conn, server.id, action.id, status).await?;
    jobs::enqueue(conn, &Changing::new(server.id, node, change), Some(action.id), now).await?;
    queries::publish(conn, server.id, now).await?;
    Ok(action)
}

/// Where the server stands. One that no action holds stands somewhere: it was placed when it was made.
///
/// # Errors
/// Never for one that no action holds.
pub fn placed(server: &Held) -> ApiResult<NodeId> {
    let placed = server.node;
    placed.ok_or_else(|| Problem::internal(anyhow::anyhow!("server {} stands on no node", server.id)))
}

/// Refuses what cannot be done to a server that runs.
///
/// # Errors
/// `server_not_stopped`.
pub fn refuse_unless_off(server: &Held) -> ApiResult<()> {
    match server.status {
        ServerStatus::Off => Ok(()),
        _ => Err(Problem::new(ErrorCode::ServerNotStopped, "Power the server off first.")),
    }
}
