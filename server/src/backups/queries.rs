//! All SQL of `backup_plans`.

use berth_model::{ProjectId, ServerId, Timestamp};
use sqlx::PgConnection;

/// The server whose backup is due the longest and was not tried just now.
pub(super) async fn due(
    conn: &mut PgConnection,
    now: Timestamp,
) -> sqlx::Result<Option<(ServerId, ProjectId)>> {
    let row = sqlx::query!(
        r#"select server_id as "server: ServerId", project_id as "project: ProjectId"
           from backup_plans where greatest(due, again) <= $1 order by greatest(due, again), server_id limit 1"#,
        now as Timestamp
    );
    Ok(row.fetch_optional(conn).await?.map(|row| (row.server, row.project)))
}

/// A backup that is due could not begin: it is tried again then.
pub(super) async fn put_off(conn: &mut PgConnection, server: ServerId, again: Timestamp) -> sqlx::Result<()> {
    sqlx::query!("update backup_plans set again = $2 where server_id = $1", server.0, again as Timestamp)
        .execute(conn)
        .await
        .map(drop)
}

/// The first hour of the window of a server whose backup is due, the plan locked until the transaction ends.
pub(super) async fn hold_due(
    conn: &mut PgConnection,
    server: ServerId,
    now: Timestamp,
) -> sqlx::Result<Option<i16>> {
    sqlx::query_scalar!(
        "select first_hour from backup_plans where server_id = $1 and due <= $2 for update",
        server.0,
        now as Timestamp
    )
    .fetch_optional(conn)
    .await
}

/// The next backup is due then.
pub(super) async fn set_due(conn: &mut PgConnection, server: ServerId, due: Timestamp) -> sqlx::Result<()> {
    sqlx::query!(
        "update backup_plans set due = $2, again = null where server_id = $1",
        server.0,
        due as Timestamp
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Writes a plan; one that is there stays as it is.
pub(super) async fn insert(
    conn: &mut PgConnection,
    (project, server): (ProjectId, ServerId),
    first_hour: i16,
    due: Timestamp,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into backup_plans (server_id, project_id, first_hour, due) values ($1, $2, $3, $4)
         on conflict (server_id) do nothing",
        server.0,
        project.0,
        first_hour,
        due as Timestamp
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Removes a plan.
pub(super) async fn delete(conn: &mut PgConnection, server: ServerId) -> sqlx::Result<()> {
    sqlx::query!("delete from backup_plans where server_id = $1", server.0).execute(conn).await.map(drop)
}

/// Has the server a plan?
pub(super) async fn has_plan(conn: &mut PgConnection, server: ServerId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from backup_plans where server_id = $1) as "has!""#,
        server.0
    )
    .fetch_one(conn)
    .await
}
