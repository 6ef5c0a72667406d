//! Servers: what a customer rents.
//!
//! Words. A *server* is the customer's; the agent calls the machine behind it a *vm*, by the same
//! number. An *action* that works on a server *holds* it: `locked_by` is set in the transaction
//! that starts the action and cleared in the one that ends it, so at most one works at a time.
//! What the agent tells of a VM is *observed*; while an action holds the server, the action
//! decides, otherwise what was observed wins ([`rules::observed`]). What comes after the action's
//! last look counts when it lets go ([`queries::unlock`]).
//!
//! ```text
//!  POST /servers ─▶ initializing ─▶ starting ─▶ running ◀──────────┐
//!                       │ │            ▲           │ poweroff,     │ seen again
//!                       │ └─▶ off ─────┘ poweron   ▼ shutdown      │
//!           (given up)  │      ▲ ◀─────────── stopping             │
//!                       ▼      │                                unknown
//!                     gone ◀─ deleting ◀─ DELETE /servers/{id}     ▲
//!                                                                  │ its node is lost
//!                                            running, off, … ──────┘
//! ```
//!
//! Invariants. A name is unique in its project, a MAC address everywhere (constraints). An address
//! belongs to one server (constraint, see [`crate::addresses`]). A number is never used again, so
//! news of a VM whose server is gone is news of a leftover: it is removed, but only when an action
//! says that we meant it to be gone ([`jobs::leftover`]).

pub mod change;
pub mod changes;
pub mod http;
pub mod imaging;
pub mod jobs;
pub mod machine;
pub mod queries;
pub mod rules;

mod observe;
mod order;

use berth_model::action::{Action, ResourceKind};
use berth_model::server::ServerStatus;
use berth_model::{ProjectId, ServerId, Timestamp};
use sqlx::PgConnection;

pub use http::router;
pub use observe::{observe, observe_all, unknown_on_node};

use crate::actions::{self, NewAction};
use crate::jobs::Saga;
use crate::{backups, images, networks, volumes};

/// A server's row goes with its backups, and its disk's image file if nothing else needs it.
async fn remove(conn: &mut PgConnection, id: ServerId, now: Timestamp) -> sqlx::Result<()> {
    volumes::leave(conn, id, now).await?;
    networks::leave_all(conn, id, now).await?;
    let Some(sha256) = queries::delete(conn, id, now).await? else { return Ok(()) };
    backups::remove_beyond(conn, id, 0, now).await?;
    images::jobs::remove::when_unused(conn, &sha256, now).await
}

/// Starts an action on a server, and on what is `beside` it: it holds the server from now on, and its job is
/// enqueued.
async fn start<S: Saga>(
    conn: &mut PgConnection,
    project: ProjectId,
    (id, status): (ServerId, ServerStatus),
    beside: &[(ResourceKind, i64)],
    saga: &S,
    now: Timestamp,
) -> sqlx::Result<Action> {
    let mut resources = vec![(ResourceKind::Server, id.0)];
    resources.extend(beside);
    let steps = crate::jobs::titles::<S>();
    let action = NewAction { project, command: S::KIND, resources: &resources, steps: &steps, now };
    let action = actions::queries::start(conn, &action).await?;
    queries::lock(conn, id, action.id, status).await?;
    crate::jobs::enqueue(conn, saga, Some(action.id), now).await?;
    queries::publish(conn, id, now).await?;
    Ok(action)
}

/// The action of another subject that held the server has ended. Its machine did nothing that it would not have
/// done by itself.
///
/// # Errors
/// When the database fails.
pub async fn let_go(conn: &mut PgConnection, id: ServerId, now: Timestamp) -> sqlx::Result<()> {
    queries::unlock(conn, id, None).await?;
    queries::publish(conn, id, now).await
}
