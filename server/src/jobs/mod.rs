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
pub use worker::{LEASE_MAX, Settings, Worker};

use berth_model::{ActionId, JobId, Timestamp};
use sqlx::PgConnection;

/// Enqueues a job in the caller's transaction; it is due when that commits.
pub async fn enqueue<S: Saga>(
    conn: &mut PgConnection,
    saga: &S,
    action: Option<ActionId>,
    now: Timestamp,
) -> sqlx::Result<JobId> {
    let data = serde_json::to_value(saga).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let request = crate::http::request_id();
    let job = queries::NewJob {
        kind: S::KIND,
        queue: S::QUEUE,
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
