//! One job, step by step, for as long as its lease is held.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use berth_model::action::ActionError;
use berth_model::{ActionId, ErrorCode, Timestamp};
use futures_util::FutureExt as _;
use sqlx::{PgConnection, PgPool};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use uuid::Uuid;

use super::faults::{Effect, Faults, Point};
use super::lease::Lease;
use super::queries::{self, Claimed, State, Ticket};
use super::rules::{self, Decision, Situation, Trouble};
use super::{Queue, Saga, StepContext, StepError, StepName as _};
use crate::actions;
use crate::http::RequestContext;
use crate::{World, clock, entropy};

/// The longest one try of what is never given up may take; after it, it is tried again.
const UNDO_TRY_MAX: Duration = Duration::from_secs(300);
/// Longest text of an operator's error that is kept.
const OPERATOR_ERROR_MAX: usize = 4_000;

/// What all jobs of a worker share.
pub(super) struct Shared {
    pub(super) world: World,
    /// The worker, in leases.
    pub(super) owner: Uuid,
    pub(super) lease: Duration,
    pub(super) faults: Faults,
    /// Finish the step under way, then hand the job back.
    pub(super) stopping: CancellationToken,
    /// Drop the step under way, and hand the job back.
    pub(super) cut_off: CancellationToken,
    /// A job was parked: look again when the next one is due.
    parked: [Notify; Queue::ALL.len()],
}

impl Shared {
    pub(super) fn new(world: World, lease: Duration, faults: Faults) -> Self {
        Self {
            world,
            owner: entropy::uuid(),
            lease,
            faults,
            stopping: CancellationToken::new(),
            cut_off: CancellationToken::new(),
            parked: Default::default(),
        }
    }

    pub(super) fn db(&self) -> &PgPool {
        &self.world.db
    }

    pub(super) fn parked(&self, queue: Queue) -> &Notify {
        &self.parked[queue as usize]
    }
}

/// Why a step did not end well, or why it is not ours any more.
enum Stopped {
    Step(StepError),
    DeadlinePassed,
    /// Somebody else holds the job now.
    Lost,
}

impl<E: Into<StepError>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::Step(error.into())
    }
}

/// What comes after a step.
enum Next {
    Step { state: State, step: &'static str, data: serde_json::Value },
    Over(State),
}

/// Works on a job that was claimed at `since` until it is over, has to wait, or is not ours any more.
pub(super) async fn work<S: Saga>(shared: &Shared, job: Claimed, since: Instant) {
    let span = tracing::info_span!("job", id = job.id.0, kind = S::KIND);
    let request = job.request.as_deref().and_then(|id| id.parse().ok()).unwrap_or_default();
    let working = hold::<S>(shared, job, since).instrument(span);
    crate::http::within(RequestContext::new(request), working).await;
}

async fn hold<S: Saga>(shared: &Shared, job: Claimed, since: Instant) {
    let ticket = Ticket { id: job.id, fence: job.fence, owner: shared.owner };
    let lease = Lease::keep(shared.db().clone(), ticket, shared.lease, since);
    let let_go = tokio::select! {
        biased;
        () = lease.lost() => {
            lost::<S>();
            Ok(false)
        }
        () = shared.cut_off.cancelled() => Ok(true),
        let_go = Box::pin(Run::<S> { shared, ticket, job, since, kind: std::marker::PhantomData }.steps()) => let_go,
    };
    drop(lease);
    let outcome = match let_go {
        Ok(true) => match shared.db().acquire().await {
            Ok(mut conn) => queries::hand_back(&mut conn, ticket).await,
            Err(error) => Err(error),
        },
        Ok(false) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = outcome {
        tracing::warn!("The job cannot be written to; it goes on when its lease has ended: {error}");
    }
}

fn lost<S: Saga>() {
    metrics::counter!("berth_jobs_leases_lost_total", "kind" => S::KIND).increment(1);
    tracing::warn!("The lease is lost; another worker goes on with the job.");
}

struct Run<'a, S> {
    shared: &'a Shared,
    ticket: Ticket,
    job: Claimed,
    since: Instant,
    kind: std::marker::PhantomData<fn() -> S>,
}

impl<S: Saga> Run<'_, S> {
    /// Takes step after step. Answers whether the job is to be handed back.
    async fn steps(mut self) -> sqlx::Result<bool> {
        loop {
            let began = Instant::now();
            let result = self.step().await;
            self.measure(&result, began.elapsed());
            match result {
                Ok(Next::Over(state)) => {
                    metrics::counter!("berth_jobs_finished_total", "kind" => S::KIND, "state" => word(state))
                        .increment(1);
                    tracing::info!(state = word(state), "The job is over.");
                    return Ok(false);
                }
                Ok(Next::Step { state, step, data }) => {
                    (self.job.state, self.job.step, self.job.data) = (state, step.to_owned(), data);
                    self.job.attempts = 0;
                }
                Err(Stopped::Lost) => {
                    lost::<S>();
                    return Ok(false);
                }
                Err(Stopped::Step(error)) => {
                    if !self.settle(error).await? {
                        return Ok(false);
                    }
                }
                Err(Stopped::DeadlinePassed) => {
                    if !self.settle_deadline().await? {
                        return Ok(false);
                    }
                }
            }
            if self.shared.stopping.is_cancelled() {
                return Ok(true);
            }
        }
    }

    /// Does, or undoes, the step at which the job stands.
    async fn step(&self) -> Result<Next, Stopped> {
        let index = S::Step::ALL.iter().position(|step| step.word() == self.job.step);
        let index = index.ok_or_else(|| {
            StepError::Retry(anyhow::anyhow!("saga {} has no step {}", S::KIND, self.job.step))
        })?;
        let saga: S = serde_json::from_value(self.job.data.clone()).map_err(|error| {
            StepError::Retry(anyhow::Error::new(error).context("the job's data cannot be read"))
        })?;
        let cx = StepContext { now: clock::now(), action: self.job.action, attempt: self.attempts() };
        match self.job.state {
            State::Undoing => self.backward(saga, index, &cx).await,
            _ => self.forward(saga, index, &cx).await,
        }
    }

    async fn forward(&self, mut saga: S, index: usize, cx: &StepContext) -> Result<Next, Stopped> {
        let step = S::Step::ALL[index];
        let left = if S::UNDOABLE { self.left() } else { UNDO_TRY_MAX };
        if left.is_zero() {
            return Err(Stopped::DeadlinePassed);
        }
        self.fault(false, Point::Before).await?;
        let world = &self.shared.world;
        let run = caught(saga.run(step, cx, world));
        timeout(left, run).await.map_err(|_| Stopped::DeadlinePassed)??;
        if self.fault(false, Point::AfterRun).await? == Some(Effect::Twice) {
            caught(saga.run(step, cx, world)).await?;
        }

        let mut tx = self.shared.db().begin().await?;
        let took = queries::hold(&mut tx, self.ticket, State::Ready, step.word()).await?;
        let took = took.ok_or(Stopped::Lost)?;
        caught(saga.record(step, cx, &mut tx)).await?;
        let data = encode(&saga)?;
        let now = clock::now();
        let next = match S::Step::ALL.get(index + 1) {
            Some(next) => {
                queries::advance(&mut tx, self.job.id, next.word(), &data).await?;
                if let Some(action) = cx.action {
                    show_done::<S>(&mut tx, action, index, took, now).await?;
                }
                Next::Step { state: State::Ready, step: next.word(), data }
            }
            None => {
                queries::finish(&mut tx, self.job.id, State::Done, &data).await?;
                if let Some(action) = cx.action {
                    show_done::<S>(&mut tx, action, index, took, now).await?;
                    actions::queries::finish(&mut tx, action, Ok(()), now).await?;
                }
                Next::Over(State::Done)
            }
        };
        tx.commit().await?;
        self.fault(false, Point::AfterRecord).await?;
        Ok(next)
    }

    async fn backward(&self, mut saga: S, index: usize, cx: &StepContext) -> Result<Next, Stopped> {
        let step = S::Step::ALL[index];
        self.fault(true, Point::Before).await?;
        let world = &self.shared.world;
        let undo = caught(saga.undo(step, cx, world));
        let too_long = |_| StepError::Retry(anyhow::anyhow!("the undo took longer than {UNDO_TRY_MAX:?}"));
        timeout(UNDO_TRY_MAX, undo).await.map_err(too_long)??;
        if self.fault(true, Point::AfterRun).await? == Some(Effect::Twice) {
            caught(saga.undo(step, cx, world)).await?;
        }

        let mut tx = self.shared.db().begin().await?;
        let held = queries::hold(&mut tx, self.ticket, State::Undoing, step.word()).await?;
        held.ok_or(Stopped::Lost)?;
        caught(saga.record_undo(step, cx, &mut tx)).await?;
        let data = encode(&saga)?;
        let next = match index.checked_sub(1).map(|before| S::Step::ALL[before]) {
            Some(before) => {
                queries::advance(&mut tx, self.job.id, before.word(), &data).await?;
                Next::Step { state: State::Undoing, step: before.word(), data }
            }
            None => {
                let error = queries::finish(&mut tx, self.job.id, State::Undone, &data).await?;
                if let Some(action) = cx.action {
                    let error = error.unwrap_or_else(gave_up);
                    actions::queries::finish(&mut tx, action, Err(error), clock::now()).await?;
                }
                Next::Over(State::Undone)
            }
        };
        tx.commit().await?;
        self.fault(true, Point::AfterRecord).await?;
        Ok(next)
    }

    /// Writes down what follows from an error. Answers whether there is something to do now.
    async fn settle(&mut self, error: StepError) -> sqlx::Result<bool> {
        let operator = shortened(format!("{error:#}"));
        let (trouble, customer) = match error {
            StepError::NotYet(after) => (Trouble::NotYet(after), None),
            StepError::Retry(_) => (Trouble::Retry, None),
            StepError::Fail { customer, .. } => (Trouble::Fail, Some(customer)),
        };
        if !matches!(trouble, Trouble::NotYet(_)) {
            tracing::warn!(step = self.job.step, attempts = self.attempts(), "A step failed: {operator}");
        }
        self.follow(trouble, customer, &operator).await
    }

    async fn settle_deadline(&mut self) -> sqlx::Result<bool> {
        let operator = format!("The deadline passed at step {}.", self.job.step);
        self.follow(Trouble::DeadlinePassed, None, &operator).await
    }

    async fn follow(
        &mut self,
        trouble: Trouble,
        customer: Option<ActionError>,
        operator: &str,
    ) -> sqlx::Result<bool> {
        let at = Situation {
            state: self.job.state,
            attempts: self.attempts(),
            attempts_max: S::ATTEMPTS_MAX,
            left: self.left(),
            undoable: S::UNDOABLE,
        };
        let waits = matches!(trouble, Trouble::NotYet(_));
        match rules::decide(trouble, at, entropy::fraction()) {
            Decision::Park { after, attempts, tell_staff } => {
                let mut conn = self.shared.db().acquire().await?;
                let error = (!waits).then_some(operator);
                queries::park(&mut conn, self.ticket, after, attempts, error, tell_staff).await?;
                self.shared.parked(self.job.queue).notify_one();
                self.tell_staff(tell_staff, operator);
                Ok(false)
            }
            Decision::Undo { tell_staff } => {
                let customer =
                    customer.unwrap_or_else(|| if self.left().is_zero() { too_late() } else { gave_up() });
                let begun = self.begin_undo(&customer, operator, tell_staff).await?;
                self.tell_staff(begun && tell_staff, operator);
                (self.job.state, self.job.attempts) = (State::Undoing, 0);
                Ok(begun)
            }
        }
    }

    /// False when the job is not ours any more.
    async fn begin_undo(
        &self,
        customer: &ActionError,
        operator: &str,
        tell_staff: bool,
    ) -> sqlx::Result<bool> {
        let mut tx = self.shared.db().begin().await?;
        let took = queries::hold(&mut tx, self.ticket, State::Ready, &self.job.step).await?;
        let Some(took) = took else { return Ok(false) };
        queries::begin_undo(&mut tx, self.job.id, customer, operator, tell_staff).await?;
        let index = S::Step::ALL.iter().position(|step| step.word() == self.job.step);
        if let (Some(action), Some(index)) = (self.job.action, index)
            && let Some(steps) = actions::queries::steps(&mut tx, action).await?
        {
            let steps = actions::rules::step_failed(steps, index, took);
            let percent = actions::rules::percent(index, S::Step::ALL.len());
            actions::queries::progress(&mut tx, action, &steps, percent, clock::now()).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// The log's errors and the metric are what pages staff; the row is what their screen shows.
    fn tell_staff(&mut self, tell: bool, operator: &str) {
        if tell && !self.job.staff_told {
            self.job.staff_told = true;
            metrics::counter!("berth_jobs_staff_told_total", "kind" => S::KIND).increment(1);
            let state = word(self.job.state);
            tracing::error!(step = self.job.step, state, "A job needs a person's eye: {operator}");
        }
    }

    async fn fault(&self, undo: bool, point: Point) -> Result<Option<Effect>, Stopped> {
        let fault = || anyhow::anyhow!("asked for by BERTH_FAULTS");
        match self.shared.faults.at(S::KIND, undo, &self.job.step, point).await {
            Some(Effect::Error) => {
                Err(StepError::fail(ErrorCode::ServiceError, "This failed on purpose.", fault()).into())
            }
            Some(Effect::Retry) => Err(StepError::Retry(fault()).into()),
            effect => Ok(effect),
        }
    }

    fn attempts(&self) -> u32 {
        u32::try_from(self.job.attempts).unwrap_or(0)
    }

    /// Time until the deadline.
    fn left(&self) -> Duration {
        let left = Duration::from_millis(u64::try_from(self.job.left_ms).unwrap_or(0));
        left.saturating_sub(self.since.elapsed())
    }

    fn measure(&self, result: &Result<Next, Stopped>, took: Duration) {
        let outcome = match result {
            Ok(_) => "done",
            Err(Stopped::Step(StepError::NotYet(_))) => "not_yet",
            Err(Stopped::Step(StepError::Retry(_))) => "retry",
            Err(Stopped::Step(StepError::Fail { .. })) => "fail",
            Err(Stopped::DeadlinePassed) => "deadline",
            Err(Stopped::Lost) => "lost",
        };
        let step = S::Step::ALL.iter().map(|step| step.word()).find(|word| *word == self.job.step);
        let way = if self.job.state == State::Undoing { "undo" } else { "do" };
        let labels =
            [("kind", S::KIND), ("step", step.unwrap_or("unknown")), ("way", way), ("outcome", outcome)];
        metrics::histogram!("berth_job_step_seconds", &labels).record(took);
    }
}

/// Shows in the action that step `index` is done and the next has begun.
async fn show_done<S: Saga>(
    conn: &mut PgConnection,
    action: ActionId,
    index: usize,
    took_ms: u64,
    now: Timestamp,
) -> sqlx::Result<()> {
    let Some(steps) = actions::queries::steps(conn, action).await? else { return Ok(()) };
    let steps = actions::rules::step_done(steps, index, took_ms);
    let percent = actions::rules::percent(index + 1, S::Step::ALL.len());
    actions::queries::progress(conn, action, &steps, percent, now).await
}

/// A panic of a step is an error like another: it may work later.
async fn caught(half: impl Future<Output = Result<(), StepError>>) -> Result<(), StepError> {
    match AssertUnwindSafe(half).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => Err(StepError::Retry(anyhow::anyhow!("it panicked: {}", panic_text(&*panic)))),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

fn encode(saga: &impl Saga) -> Result<serde_json::Value, StepError> {
    let written = serde_json::to_value(saga);
    written.map_err(|error| {
        StepError::Retry(anyhow::Error::new(error).context("the job's data cannot be written"))
    })
}

fn shortened(mut text: String) -> String {
    if text.len() > OPERATOR_ERROR_MAX {
        let end = (0..=OPERATOR_ERROR_MAX).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

fn too_late() -> ActionError {
    let message = "This took longer than it may. What had begun was taken back.".to_owned();
    ActionError { code: ErrorCode::Timeout, message }
}

fn gave_up() -> ActionError {
    let message =
        "Something on our side kept failing. What had begun was taken back, and we were told.".to_owned();
    ActionError { code: ErrorCode::ServiceError, message }
}

const fn word(state: State) -> &'static str {
    match state {
        State::Ready => "ready",
        State::Undoing => "undoing",
        State::Done => "done",
        State::Undone => "undone",
    }
}
