//! All SQL of the table `jobs`.
//!
//! Every time in it that matters to a lease is the database's, so control planes whose clocks
//! differ agree. Whoever writes to a leased job names its [`Ticket`]; when that is no longer the
//! newest, nothing is written.

use std::time::Duration;

use berth_model::action::ActionError;
use berth_model::{ActionId, JobId, Timestamp};
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::Queue;

/// How far a job is; drawn in [`super`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum State {
    /// Its step is to be done.
    Ready,
    /// Its step is to be undone.
    Undoing,
    /// All steps are done.
    Done,
    /// All steps are undone.
    Undone,
}

/// A job to be enqueued.
pub(super) struct NewJob<'a> {
    pub(super) kind: &'static str,
    /// Among unfinished jobs of its kind one has it.
    pub(super) key: Option<i64>,
    pub(super) queue: Queue,
    pub(super) step: &'static str,
    pub(super) data: serde_json::Value,
    pub(super) action: Option<ActionId>,
    pub(super) deadline: Duration,
    pub(super) request: Option<&'a str>,
    pub(super) now: Timestamp,
}

/// What proves that a worker holds a job.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket {
    pub(super) id: JobId,
    pub(super) fence: i64,
    pub(super) owner: Uuid,
}

/// A job that was claimed.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) id: JobId,
    pub(super) kind: String,
    pub(super) queue: Queue,
    pub(super) state: State,
    pub(super) step: String,
    pub(super) data: serde_json::Value,
    pub(super) action: Option<ActionId>,
    pub(super) attempts: i32,
    pub(super) fence: i64,
    /// Until the deadline, in milliseconds; not above zero when it has passed.
    pub(super) left_ms: i64,
    pub(super) staff_told: bool,
    pub(super) request: Option<String>,
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// Nothing when another unfinished job has its kind and key.
pub(super) async fn enqueue(conn: &mut PgConnection, job: &NewJob<'_>) -> sqlx::Result<Option<JobId>> {
    let row = sqlx::query!(
        r#"with job as (
             insert into jobs (kind, queue, step, state, data, action_id, run_at, deadline, request_id, created, key)
             values ($1, $2, $3, 'ready', $4, $5, now(), now() + make_interval(secs => $6), $7, $8, $9)
             on conflict (kind, key) where finished is null do nothing
             returning id)
           select id as "id: JobId", pg_notify('jobs', '') from job"#,
        job.kind,
        job.queue as Queue,
        job.step,
        job.data,
        job.action as Option<ActionId>,
        seconds(job.deadline),
        job.request,
        job.now as Timestamp,
        job.key,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| row.id))
}

/// The unfinished job of this kind and key is due, if nobody works on it. Waits for nobody: whoever has its row may
/// wait for a row that the caller has.
pub(super) async fn hurry(conn: &mut PgConnection, kind: &str, key: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "with job as (update jobs set run_at = least(run_at, now())
                      where id = (select id from jobs where kind = $1 and key = $2 and finished is null
                                      and lease_owner is null for update skip locked)
                      returning id)
         select pg_notify('jobs', '') from job",
        kind,
        key,
    )
    .fetch_optional(conn)
    .await?;
    Ok(())
}

/// Claims the job that has been due the longest.
pub(super) async fn claim(
    conn: &mut PgConnection,
    owner: Uuid,
    queue: Queue,
    kinds: &[String],
    lease: Duration,
) -> sqlx::Result<Option<Claimed>> {
    sqlx::query_as!(
        Claimed,
        r#"update jobs set lease_owner = $1, fence = fence + 1,
                  run_at = clock_timestamp() + make_interval(secs => $2),
                  step_started = coalesce(step_started, clock_timestamp())
           where id = (select id from jobs
                       where queue = $3 and finished is null and run_at <= now() and kind = any($4)
                       order by run_at, id limit 1 for update skip locked)
           returning id as "id: JobId", kind, queue as "queue: Queue", state as "state: State", step, data,
                     action_id as "action: ActionId", attempts, fence,
                     (extract(epoch from deadline - clock_timestamp()) * 1000)::bigint as "left_ms!",
                     staff_told is not null as "staff_told!", request_id as request"#,
        owner,
        seconds(lease),
        queue as Queue,
        kinds,
    )
    .fetch_optional(conn)
    .await
}

/// Unfinished jobs of a queue that no other worker holds.
pub(super) async fn open_but_for_others(
    conn: &mut PgConnection,
    queue: Queue,
    owner: Uuid,
) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"select count(*) as "open!" from jobs
           where queue = $1 and finished is null
             and (lease_owner is null or lease_owner = $2 or run_at < clock_timestamp())"#,
        queue as Queue,
        owner,
    )
    .fetch_one(conn)
    .await
}

/// How long until the next job is due that nobody may have claimed by then.
pub(super) async fn next_due(
    conn: &mut PgConnection,
    queue: Queue,
    kinds: &[String],
) -> sqlx::Result<Option<Duration>> {
    let ms = sqlx::query_scalar!(
        "select (extract(epoch from run_at - clock_timestamp()) * 1000)::bigint from jobs
         where queue = $1 and finished is null and kind = any($2) order by run_at limit 1",
        queue as Queue,
        kinds,
    )
    .fetch_optional(conn)
    .await?
    .flatten();
    Ok(ms.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0))))
}

/// Makes the lease last for `lease` from now; false when it is lost.
pub(super) async fn renew(conn: &mut PgConnection, ticket: Ticket, lease: Duration) -> sqlx::Result<bool> {
    let renewed = sqlx::query!(
        "update jobs set run_at = clock_timestamp() + make_interval(secs => $4)
         where id = $1 and fence = $2 and lease_owner = $3",
        ticket.id as JobId,
        ticket.fence,
        ticket.owner,
        seconds(lease),
    )
    .execute(conn)
    .await?;
    Ok(renewed.rows_affected() == 1)
}

/// Locks the job's row until the transaction ends, so that nobody can claim it meanwhile. Answers
/// how many milliseconds the step took so far, or `None` when the lease is lost or the job stands
/// elsewhere.
pub(super) async fn hold(
    conn: &mut PgConnection,
    ticket: Ticket,
    state: State,
    step: &str,
) -> sqlx::Result<Option<u64>> {
    let took = sqlx::query_scalar!(
        r#"select (extract(epoch from clock_timestamp() - coalesce(step_started, created)) * 1000)::bigint as "took!"
           from jobs where id = $1 and fence = $2 and lease_owner = $3 and state = $4 and step = $5 for update"#,
        ticket.id as JobId,
        ticket.fence,
        ticket.owner,
        state as State,
        step,
    )
    .fetch_optional(conn)
    .await?;
    Ok(took.map(|ms| u64::try_from(ms).unwrap_or(0)))
}

/// The step is done, or undone; `step` is next. Only for a job that is held.
pub(super) async fn advance(
    conn: &mut PgConnection,
    id: JobId,
    step: &str,
    data: &serde_json::Value,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update jobs set step = $2, data = $3, attempts = 0, step_started = clock_timestamp() where id = $1",
        id as JobId,
        step,
        data,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The job is over. Answers the customer's error, if it was undone. Only for a job that is held.
pub(super) async fn finish(
    conn: &mut PgConnection,
    id: JobId,
    state: State,
    data: &serde_json::Value,
) -> sqlx::Result<Option<ActionError>> {
    let error = sqlx::query_scalar!(
        r#"update jobs set state = $2, data = $3, lease_owner = null, finished = clock_timestamp()
           where id = $1 returning customer_error as "error: Json<ActionError>""#,
        id as JobId,
        state as State,
        data,
    )
    .fetch_one(conn)
    .await?;
    Ok(error.map(|error| error.0))
}

/// From now on the job is undone, beginning with its present step. Only for a job that is held.
pub(super) async fn begin_undo(
    conn: &mut PgConnection,
    id: JobId,
    customer: &ActionError,
    operator: &str,
    tell_staff: bool,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update jobs set state = 'undoing', attempts = 0, customer_error = $2, operator_error = $3,
                staff_told = coalesce(staff_told, case when $4 then clock_timestamp() end)
         where id = $1",
        id as JobId,
        Json(customer) as _,
        operator,
        tell_staff,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Lets go of the job until the same step is due again.
pub(super) async fn park(
    conn: &mut PgConnection,
    ticket: Ticket,
    after: Duration,
    attempts: u32,
    operator: Option<&str>,
    tell_staff: bool,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update jobs set lease_owner = null, run_at = clock_timestamp() + make_interval(secs => $4),
                attempts = $5, operator_error = coalesce($6, operator_error),
                staff_told = coalesce(staff_told, case when $7 then clock_timestamp() end)
         where id = $1 and fence = $2 and lease_owner = $3 and finished is null",
        ticket.id as JobId,
        ticket.fence,
        ticket.owner,
        seconds(after),
        i32::try_from(attempts).unwrap_or(i32::MAX),
        operator,
        tell_staff,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Lets go of the job; any worker may go on with it at once.
pub(super) async fn hand_back(conn: &mut PgConnection, ticket: Ticket) -> sqlx::Result<()> {
    sqlx::query!(
        "with job as (update jobs set lease_owner = null, run_at = clock_timestamp()
                      where id = $1 and fence = $2 and lease_owner = $3 and finished is null returning id)
         select pg_notify('jobs', '') from job",
        ticket.id as JobId,
        ticket.fence,
        ticket.owner,
    )
    .fetch_optional(conn)
    .await?;
    Ok(())
}

/// Removes up to `limit` jobs that were over for `age`; answers how many.
pub(super) async fn prune(conn: &mut PgConnection, age: Duration, limit: i64) -> sqlx::Result<u64> {
    let removed = sqlx::query!(
        "delete from jobs where id in (select id from jobs
             where finished < clock_timestamp() - make_interval(secs => $1) order by finished limit $2)",
        seconds(age),
        limit,
    )
    .execute(conn)
    .await?;
    Ok(removed.rows_affected())
}

/// How a queue stands.
pub(super) struct Depth {
    pub(super) queue: Queue,
    /// Jobs that are not over.
    pub(super) open: i64,
    /// Seconds the longest has been due and unclaimed.
    pub(super) overdue_s: f64,
    /// Jobs that staff were told of.
    pub(super) staff_told: i64,
}

/// How the queues stand; one without open jobs is left out.
pub(super) async fn depths(conn: &mut PgConnection) -> sqlx::Result<Vec<Depth>> {
    sqlx::query_as!(
        Depth,
        r#"select queue as "queue: Queue", count(*) as "open!",
                  greatest(extract(epoch from clock_timestamp() - min(run_at)), 0)::float8 as "overdue_s!",
                  count(staff_told) as "staff_told!"
           from jobs where finished is null group by queue"#
    )
    .fetch_all(conn)
    .await
}
