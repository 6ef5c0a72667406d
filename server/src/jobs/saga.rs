//! What a kind of job has to say of itself.

use std::future::Future;
use std::time::Duration;

use berth_model::action::ActionError;
use berth_model::{ActionId, ErrorCode, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::PgConnection;

use crate::World;

/// Whose time a job takes. Each queue has workers of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Queue {
    /// A customer waits for it.
    Interactive,
    /// Nobody waits for it.
    Background,
    /// Brings nodes to what the rows say already, and waits for those that are away.
    Follow,
    /// A customer waits for an image, which may take hours.
    Image,
    /// Backups, which come by themselves and take as long.
    Backup,
}

impl Queue {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Interactive, Self::Background, Self::Follow, Self::Image, Self::Backup];

    /// Its word in metrics.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Background => "background",
            Self::Follow => "follow",
            Self::Image => "image",
            Self::Backup => "backup",
        }
    }
}

/// The steps of a saga, in order.
pub trait StepName: Copy + PartialEq + std::fmt::Debug + Send + Sync + 'static {
    /// All of them, in order; at least one.
    const ALL: &'static [Self];
    /// Its word in the database: stable, snake case.
    fn word(self) -> &'static str;
    /// What the customer reads: `Reserve an address`.
    fn title(self) -> &'static str;
}

/// How a step ended, if not well.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// What it waits for has not happened; ask again after this long. Not an attempt.
    #[error("not yet")]
    NotYet(Duration),
    /// It may work later: tried again with growing pauses until the saga's deadline or
    /// [`Saga::ATTEMPTS_MAX`].
    #[error("{0:#}")]
    Retry(anyhow::Error),
    /// It will never work: what was done is undone, and the action tells the customer.
    #[error("{operator:#}")]
    Fail {
        /// For the customer.
        customer: ActionError,
        /// For the operator, with its causes.
        operator: anyhow::Error,
    },
}

impl StepError {
    /// A failure with a sentence for the customer and a cause for the operator.
    pub fn fail(code: ErrorCode, customer: impl Into<String>, operator: impl Into<anyhow::Error>) -> Self {
        Self::Fail { customer: ActionError { code, message: customer.into() }, operator: operator.into() }
    }
}

impl From<sqlx::Error> for StepError {
    fn from(error: sqlx::Error) -> Self {
        Self::Retry(error.into())
    }
}

/// What a step may know of the job around it.
#[derive(Debug, Clone, Copy)]
pub struct StepContext {
    /// The time when the step began.
    pub now: Timestamp,
    /// The action behind the job, if it has one.
    pub action: Option<ActionId>,
    /// How often this step was tried before.
    pub attempt: u32,
}

/// One kind of durable work. `self` is its data: kept as JSON after every step, so changes that a
/// step makes to it are seen by the next.
pub trait Saga: Serialize + DeserializeOwned + Send + Sync + Sized + 'static {
    /// Its word in the database: stable, snake case, the same as its action's command where it has one.
    const KIND: &'static str;
    /// Whose time it takes.
    const QUEUE: Queue;
    /// After this, staff are told and the job is undone.
    const DEADLINE: Duration;
    /// Failed tries of one step before it is given up.
    const ATTEMPTS_MAX: u32 = 20;
    /// `false`: it can only go forward, such as a deletion, which cannot give back what is gone.
    /// No error, attempt or deadline makes it undo: its step is tried again, with growing
    /// pauses, until it works, and staff are told where others would be undone.
    const UNDOABLE: bool = true;
    /// Its steps.
    type Step: StepName;

    /// [`Self::DEADLINE`], where a single job needs longer.
    fn deadline(&self) -> Duration {
        Self::DEADLINE
    }

    /// Whose time this very job takes.
    fn queue(&self) -> Queue {
        Self::QUEUE
    }

    /// Does the outside half of a step. May run twice, and may be cut off anywhere.
    fn run(
        &mut self,
        step: Self::Step,
        cx: &StepContext,
        world: &World,
    ) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Writes the rows of a step, in the transaction that marks it done.
    fn record(
        &mut self,
        step: Self::Step,
        cx: &StepContext,
        conn: &mut PgConnection,
    ) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Takes the outside half of a step back; also of a step that was only begun. May run twice.
    fn undo(
        &mut self,
        step: Self::Step,
        cx: &StepContext,
        world: &World,
    ) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Takes the rows of a step back, in the transaction that marks it undone.
    fn record_undo(
        &mut self,
        step: Self::Step,
        cx: &StepContext,
        conn: &mut PgConnection,
    ) -> impl Future<Output = Result<(), StepError>> + Send;
}
