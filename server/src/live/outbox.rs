//! What changes a row that others look at writes it here too, in the same transaction. And reading back what
//! was published, for who tells it to others.

use berth_model::event::Change;
use berth_model::{ProjectId, Timestamp};
use serde_json::value::RawValue;
use sqlx::PgConnection;
use sqlx::types::Json;

/// Tells everyone who may see `project` of a change, once the caller's transaction commits.
///
/// Call it after the changed row was written: the row's lock then keeps two writers of one
/// resource in order, and their events too.
pub async fn publish(
    conn: &mut PgConnection,
    project: ProjectId,
    change: &Change,
    now: Timestamp,
) -> sqlx::Result<()> {
    sqlx::query!(
        "with written as (insert into outbox (project_id, at, change) values ($1, $2, $3))
         select pg_notify('outbox', '')",
        project as ProjectId,
        now as Timestamp,
        Json(change) as _,
    )
    .fetch_one(conn)
    .await?;
    Ok(())
}

/// The number of the newest event that was published; 0 when there never was one.
///
/// # Errors
/// When the database fails.
pub async fn newest(conn: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar!("select last_seq from outbox_head").fetch_one(conn).await
}

/// An event that was published.
#[derive(Debug)]
pub struct Written {
    /// Its place in the order.
    pub seq: i64,
    /// Who may see it.
    pub project: ProjectId,
    /// When it was written.
    pub at: Timestamp,
    /// The [`Change`], as it was written.
    pub change: Json<Box<RawValue>>,
}

/// Up to `limit` events of these projects after `after` and not after `until`, in order.
///
/// # Errors
/// When the database fails.
pub async fn read(
    conn: &mut PgConnection,
    after: i64,
    until: i64,
    projects: &[ProjectId],
    limit: i64,
) -> sqlx::Result<Vec<Written>> {
    let projects: Vec<_> = projects.iter().map(|project| project.0).collect();
    sqlx::query_as!(
        Written,
        r#"select seq as "seq!", project_id as "project: ProjectId", at as "at: Timestamp",
                  change as "change: Json<Box<RawValue>>"
           from outbox where seq > $1 and seq <= $2 and project_id = any($3) order by seq limit $4"#,
        after,
        until,
        &projects,
        limit,
    )
    .fetch_all(conn)
    .await
}
