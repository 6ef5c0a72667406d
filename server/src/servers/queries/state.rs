//! What a server does: seen by its node, held by an action.

use berth_model::agent::{VmEvent, VmState};
use berth_model::server::ServerStatus;
use berth_model::{ActionId, NodeId, ProjectId, ServerId, Timestamp};
use sqlx::PgConnection;

use crate::servers::jobs::Look;
use crate::servers::rules;

/// What a handler must know of a server before it changes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its number.
    pub id: ServerId,
    /// What it does now.
    pub status: ServerStatus,
    /// Where it stands.
    pub node: Option<NodeId>,
    /// It cannot be deleted.
    pub protect_delete: bool,
    /// It cannot be rebuilt.
    pub protect_rebuild: bool,
    /// The command of the action that holds it.
    pub locked_by: Option<String>,
}

/// A server of the project, its row locked until the transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn hold(conn: &mut PgConnection, project: ProjectId, id: ServerId) -> sqlx::Result<Option<Held>> {
    // Locked in a statement of its own: one that had to wait reads the locked row anew, but not the
    // action joined to it, and a server that somebody just locked would look free.
    let locked = sqlx::query_scalar!(
        "select id from servers where project_id = $1 and id = $2 for no key update",
        project.0,
        id.0
    );
    if locked.fetch_optional(&mut *conn).await?.is_none() {
        return Ok(None);
    }
    sqlx::query_as!(
        Held,
        r#"select s.id as "id: ServerId", s.status as "status: ServerStatus", s.node_id as "node: NodeId",
                  s.protect_delete, s.protect_rebuild, a.command as "locked_by?"
           from servers s left join actions a on a.id = s.locked_by
           where s.project_id = $1 and s.id = $2"#,
        project.0,
        id.0
    )
    .fetch_optional(conn)
    .await
}

/// What is known of a server of which there is news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// What it does now.
    pub status: ServerStatus,
    /// Where it stands.
    pub node: Option<NodeId>,
    /// An action holds it.
    pub locked: bool,
    /// When the last news was seen.
    pub observed: Option<Timestamp>,
    /// What its machine did then.
    pub seen: Option<VmState>,
}

/// A server of which there is news, its row locked until the transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn hold_observed(conn: &mut PgConnection, id: ServerId) -> sqlx::Result<Option<Known>> {
    sqlx::query_as!(
        Known,
        r#"select status as "status: ServerStatus", node_id as "node: NodeId",
                  locked_by is not null as "locked!", observed as "observed: Timestamp",
                  seen as "seen: VmState"
           from servers where id = $1 for no key update"#,
        id.0
    )
    .fetch_optional(conn)
    .await
}

/// Notes what was seen of a server, and when.
///
/// # Errors
/// When the database fails.
pub async fn set_observed(
    conn: &mut PgConnection,
    id: ServerId,
    status: ServerStatus,
    news: &VmEvent,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update servers set status = $2, observed = $3, seen = $4 where id = $1",
        id.0,
        status as ServerStatus,
        news.at as Timestamp,
        news.state as Option<VmState>
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes that nothing is seen of the node's servers any more: their status is `unknown`, except of
/// those that an action holds. Says which may have changed.
///
/// # Errors
/// When the database fails.
pub async fn set_unknown(conn: &mut PgConnection, node: NodeId) -> sqlx::Result<Vec<ServerId>> {
    // Not the time of now: the next news carry the node's own clock, which may be behind.
    sqlx::query_scalar!(
        r#"update servers set observed = null, seen = null,
               status = case when locked_by is null then 'unknown' else status end
           where id in (select id from servers where node_id = $1 and status <> 'unknown'
                        order by id for no key update)
           returning id as "id: ServerId""#,
        node.0
    )
    .fetch_all(conn)
    .await
}

/// From now on the action holds the server, and it does this.
///
/// # Errors
/// When the database fails.
pub async fn lock(
    conn: &mut PgConnection,
    id: ServerId,
    action: ActionId,
    status: ServerStatus,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update servers set locked_by = $2, status = $3 where id = $1",
        id.0,
        action.0,
        status as ServerStatus
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// When the last news of a server was seen.
///
/// # Errors
/// When the database fails.
pub async fn observed(conn: &mut PgConnection, id: ServerId) -> sqlx::Result<Option<Timestamp>> {
    let observed =
        sqlx::query_scalar!(r#"select observed as "observed: Timestamp" from servers where id = $1"#, id.0);
    Ok(observed.fetch_optional(conn).await?.flatten())
}

/// No action holds the server any more. It does what its machine did at the action's last look, or
/// by the news, when some came since or there was no look.
///
/// # Errors
/// When the database fails.
pub async fn unlock(conn: &mut PgConnection, id: ServerId, look: Option<Look>) -> sqlx::Result<()> {
    let Some(known) = hold_observed(conn, id).await? else { return Ok(()) };
    let look = look.filter(|look| look.observed == known.observed);
    let status = rules::status_of(look.map_or(known.seen, |look| look.state));
    sqlx::query!(
        "update servers set locked_by = null, status = $2 where id = $1",
        id.0,
        status as ServerStatus
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A server that is being made was told to start. Its agent may have been faster to say that it runs.
///
/// # Errors
/// When the database fails.
pub async fn set_starting(conn: &mut PgConnection, id: ServerId) -> sqlx::Result<()> {
    sqlx::query!("update servers set status = 'starting' where id = $1 and status = 'initializing'", id.0)
        .execute(conn)
        .await?;
    Ok(())
}
