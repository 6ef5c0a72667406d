//! All SQL of `outbox` and `outbox_head`, but for writing an event, which is [`super::outbox`].

use std::time::Duration;

use berth_model::{ProjectId, Timestamp};
use serde_json::value::RawValue;
use sqlx::PgConnection;
use sqlx::types::Json;

/// Which events there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    /// The newest; 0 when there never was one.
    pub(super) last: i64,
    /// Everything after this one is still there.
    pub(super) after: i64,
}

/// An event as it stands in the table.
pub(super) struct Row {
    pub(super) seq: i64,
    pub(super) project: ProjectId,
    pub(super) at: Timestamp,
    pub(super) change: Json<Box<RawValue>>,
}

/// Which events there are, seen in one moment.
pub(super) async fn kept(conn: &mut PgConnection) -> sqlx::Result<Kept> {
    sqlx::query_as!(
        Kept,
        r#"select last_seq as "last!", coalesce((select min(seq) - 1 from outbox), last_seq) as "after!"
           from outbox_head"#
    )
    .fetch_one(conn)
    .await
}

/// Gives up to `limit` committed events their place; answers how many. One caller at a time.
pub(super) async fn number(conn: &mut PgConnection, limit: i64) -> sqlx::Result<u64> {
    // A statement of its own: the next one must see what was committed while this one waited.
    let last =
        sqlx::query_scalar!("select last_seq from outbox_head for update").fetch_one(&mut *conn).await?;
    let numbered = sqlx::query!(
        "with next as (select id, row_number() over (order by id) as place
                       from (select id from outbox where seq is null order by id limit $2) as waiting)
         update outbox set seq = $1 + next.place from next where outbox.id = next.id",
        last,
        limit,
    )
    .execute(&mut *conn)
    .await?
    .rows_affected();
    if numbered > 0 {
        sqlx::query!(
            "with head as (update outbox_head set last_seq = last_seq + $1)
             select pg_notify('published', '')",
            i64::try_from(numbered).unwrap_or(i64::MAX),
        )
        .fetch_one(conn)
        .await?;
    }
    Ok(numbered)
}

/// Up to `limit` events of all projects after `after`, in order.
pub(super) async fn published(conn: &mut PgConnection, after: i64, limit: i64) -> sqlx::Result<Vec<Row>> {
    sqlx::query_as!(
        Row,
        r#"select seq as "seq!", project_id as "project: ProjectId", at as "at: Timestamp",
                  change as "change: Json<Box<RawValue>>"
           from outbox where seq > $1 order by seq limit $2"#,
        after,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// Up to `limit` events of one project after `after` and not after `until`, in order.
pub(super) async fn of_project(
    conn: &mut PgConnection,
    project: ProjectId,
    after: i64,
    until: i64,
    limit: i64,
) -> sqlx::Result<Vec<Row>> {
    sqlx::query_as!(
        Row,
        r#"select seq as "seq!", project_id as "project: ProjectId", at as "at: Timestamp",
                  change as "change: Json<Box<RawValue>>"
           from outbox where project_id = $1 and seq > $2 and seq <= $3 order by seq limit $4"#,
        project as ProjectId,
        after,
        until,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// Removes up to `limit` of the oldest events, those older than `age` or beyond the newest `rows`;
/// answers how many. What is kept stays without gaps.
pub(super) async fn prune(
    conn: &mut PgConnection,
    age: Duration,
    rows: i64,
    limit: i64,
) -> sqlx::Result<u64> {
    let removed = sqlx::query!(
        "with oldest as (select seq, at from outbox where seq is not null order by seq limit $3),
              kept as (select min(seq) as first from oldest
                       where at >= clock_timestamp() - make_interval(secs => $1)
                         and seq > (select last_seq from outbox_head) - $2)
         delete from outbox using oldest, kept
         where outbox.seq = oldest.seq and (kept.first is null or oldest.seq < kept.first)",
        age.as_secs_f64(),
        rows,
        limit,
    )
    .execute(conn)
    .await?;
    Ok(removed.rows_affected())
}

/// How many events of one project lie after `after` and not after `until`; counted up to `limit`.
pub(super) async fn count(
    conn: &mut PgConnection,
    project: ProjectId,
    after: i64,
    until: i64,
    limit: i64,
) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"select count(*) as "count!" from
           (select from outbox where project_id = $1 and seq > $2 and seq <= $3 limit $4) as missed"#,
        project as ProjectId,
        after,
        until,
        limit,
    )
    .fetch_one(conn)
    .await
}
