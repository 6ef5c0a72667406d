//! What the nodes tell of their VMs becomes the status of servers. The caller owns the
//! transaction: rows and live events are written together.

use berth_model::agent::VmEvent;
use berth_model::{NodeId, ServerId, Timestamp};
use sqlx::PgConnection;

use super::jobs::leftover;
use super::{queries, rules};

/// Takes in what the agent of `node` saw of one VM. News older than the last, and news from a
/// node where the server does not stand, changes nothing.
///
/// # Errors
/// When the database fails.
pub async fn observe(
    conn: &mut PgConnection,
    node: NodeId,
    event: &VmEvent,
    now: Timestamp,
) -> sqlx::Result<()> {
    let id = ServerId::from(event.vm);
    let Some(known) = queries::hold_observed(conn, id).await? else {
        if event.state.is_some() {
            leftover::remove(conn, node, event.vm, now).await?;
        }
        return Ok(());
    };
    if known.node != Some(node) || known.observed.is_some_and(|last| event.at < last) {
        return Ok(());
    }
    let status = rules::observed(known.status, event.state, known.locked);
    if event.state.is_none() && status.is_some() {
        tracing::error!(%node, server = %id, "A server's machine is no longer on its node.");
    }
    queries::set_observed(conn, id, status.unwrap_or(known.status), event).await?;
    match status {
        Some(_) => queries::publish(conn, id, now).await,
        None => Ok(()),
    }
}

/// Takes in everything the agent of `node` sees at one moment, as it says when its stream opens:
/// a server that should stand there and is not among the VMs is news too.
///
/// # Errors
/// When the database fails.
pub async fn observe_all(
    conn: &mut PgConnection,
    node: NodeId,
    events: &[VmEvent],
    at: Timestamp,
    now: Timestamp,
) -> sqlx::Result<()> {
    let mut seen = events.to_vec();
    for id in queries::on_node(conn, node).await? {
        if !events.iter().any(|event| ServerId::from(event.vm) == id) {
            seen.push(VmEvent { vm: id.into(), state: None, at });
        }
    }
    // By number, like all who lock several servers; news of one stay in order.
    seen.sort_by_key(|event| event.vm);
    for event in &seen {
        observe(conn, node, event, now).await?;
    }
    Ok(())
}

/// The node no longer answers: what its servers do is not known. The status of those that an action
/// holds is left to the action. They come back with [`observe_all`].
///
/// # Errors
/// When the database fails.
pub async fn unknown_on_node(conn: &mut PgConnection, node: NodeId, now: Timestamp) -> sqlx::Result<()> {
    let lost = queries::set_unknown(conn, node).await?;
    queries::publish_all(conn, &lost, now).await
}
