//! What changes a row that others look at writes it here too, in the same transaction.

use berth_model::event::Change;
use berth_model::{ProjectId, Timestamp};
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
