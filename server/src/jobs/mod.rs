//! Durable work: sagas of a few typed steps, in PostgreSQL.
//!
//! Words. A *job* is one run of a *saga* (its kind). It stands at a *step*. A worker takes a job
//! by a *lease*, and with it a *fence*, a number that grows with each lease taken: whoever
//! commits must still hold the newest fence, so two workers never both commit a step.
//!
//! ```text
//!            run + record                       undo + record_undo
//!   ready ───────────────▶ ready (next step)   undoing ─────────▶ undoing (step before)
//!     │ last step recorded                        │ first step undone
//!     ▼                                           ▼
//!    done            ready ──[a step fails]──▶ undoing … ▶ undone
//! ```
//!
//! A step has two halves. [`Saga::run`] does what is outside the database and may be repeated or
//! cut off anywhere. [`Saga::record`] writes rows in the one transaction that also marks the step
//! done. So no transaction is open while anything outside is waited for, by construction.
//!
//! A job is due at its `run_at`. A lease moves `run_at` to the lease's end and is renewed every
//! third of its length, so a dead worker's job falls due by itself, and nobody has to look for it.
//! `NOTIFY` only wakes a worker that sleeps; who misses it finds the job at the next poll.
//!
//! What the files hold: [`saga`] what a kind of job says of itself; `rules` pauses and what follows
//! from an error; `queries` the SQL; `lease` renewing; `run` one job, step by step; [`Worker`] the
//! queues; [`faults`] places where a test cuts in; `housekeeping` metrics and pruning.

pub mod faults;
mod housekeeping;
mod lease;
pub mod queries;
mod registry;
mod rules;
mod run;
pub mod saga;
mod worker;

pub use registry::Registry;
pub use saga::{Queue, Saga, StepContext, StepError, StepName};
pub use worker::{LEASE_MAX, Places, Settings, Worker};

use berth_model::{ActionId, JobId, Timestamp};
use sqlx::PgConnection;

/// Enqueues a job in the caller's transaction; it is due when that commits.
pub async fn enqueue<S: Saga>(
    conn: &mut PgConnection,
    saga: &S,
    action: Option<ActionId>,
    now: Timestamp,
) -> sqlx::Result<JobId> {
    write(conn, saga, None, action, now).await?.ok_or(sqlx::Error::RowNotFound)
}

/// [`enqueue`], unless an unfinished job of this kind has this key: then that one is due, if it waits.
///
/// That one may be in the middle of its step, and be recorded before the caller's transaction commits or after. So
/// the caller locks a row before, which the job's record locks, too, and in which it finds what it has not heard of.
pub async fn enqueue_once<S: Saga>(
    conn: &mut PgConnection,
    saga: &S,
    key: i64,
    now: Timestamp,
) -> sqlx::Result<()> {
    match write(conn, saga, Some(key), None, now).await? {
        Some(_) => Ok(()),
        None => queries::hurry(conn, S::KIND, key).await,
    }
}

async fn write<S: Saga>(
    conn: &mut PgConnection,
    saga: &S,
    key: Option<i64>,
    action: Option<ActionId>,
    now: Timestamp,
) -> sqlx::Result<Option<JobId>> {
    let data = serde_json::to_value(saga).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let request = crate::http::request_id();
    let job = queries::NewJob {
        kind: S::KIND,
        key,
        queue: saga.queue(),
        step: S::Step::ALL[0].word(),
        data,
        action,
        deadline: saga.deadline(),
        request: request.as_deref(),
        now,
    };
    queries::enqueue(conn, &job).await
}

/// The titles of a saga's steps, for [`crate::actions::NewAction::steps`].
pub fn titles<S: Saga>() -> Vec<&'static str> {
    S::Step::ALL.iter().map(|step| step.title()).collect()
}
