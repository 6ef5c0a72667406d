//! Durable jobs, with a small saga on a real database: cut off anywhere, fought over, undone.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use berth_model::action::{ActionStatus, ResourceKind, StepState};
use berth_model::{ActionId, ErrorCode, JobId, ProjectId};
use berth_server::jobs::{self, Queue, Registry, Saga, Settings, StepContext, StepError, StepName, Worker};
use berth_server::{World, actions, clock, entropy};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tokio::sync::Notify;

use crate::stage::{Plane, Stage};
use crate::support::until;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Pack,
    Travel,
    Arrive,
}

impl StepName for Step {
    const ALL: &'static [Self] = &[Self::Pack, Self::Travel, Self::Arrive];
    fn word(self) -> &'static str {
        match self {
            Self::Pack => "pack",
            Self::Travel => "travel",
            Self::Arrive => "arrive",
        }
    }
    fn title(self) -> &'static str {
        match self {
            Self::Pack => "Pack the bag",
            Self::Travel => "Travel",
            Self::Arrive => "Arrive",
        }
    }
}

/// Its outside things are words in a set; its rows stand in a table in which none may stand twice.
#[derive(Debug, Serialize, Deserialize)]
struct Trip {
    id: String,
    /// Steps recorded: changes of the data are kept from step to step.
    recorded: Vec<String>,
}

/// What a step does the next time, instead of doing well.
#[derive(Debug, Clone, Copy)]
enum Mood {
    NotYet,
    Retry,
    Fail,
    Panic,
    /// Does not end until [`Outside::go_on`].
    Hang,
}

/// The world outside the database, of one trip.
#[derive(Default)]
struct Outside {
    things: Mutex<BTreeSet<&'static str>>,
    log: Mutex<Vec<String>>,
    moods: Mutex<HashMap<String, VecDeque<Mood>>>,
    go_on: Notify,
}

static TRIPS: LazyLock<Mutex<HashMap<String, Arc<Outside>>>> = LazyLock::new(Mutex::default);

fn outside(trip: &str) -> Arc<Outside> {
    TRIPS.lock().unwrap().entry(trip.to_owned()).or_default().clone()
}

/// Logs when a step is dropped before its end.
struct Underway(Arc<Outside>, String);

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.log.lock().unwrap().push(format!("dropped {}", self.1));
    }
}

impl Outside {
    async fn half(self: Arc<Self>, what: String) -> Result<(), StepError> {
        self.log.lock().unwrap().push(what.clone());
        self.trouble(what).await
    }

    async fn trouble(self: Arc<Self>, what: String) -> Result<(), StepError> {
        let mood = self.moods.lock().unwrap().get_mut(&what).and_then(VecDeque::pop_front);
        match mood {
            None => Ok(()),
            Some(Mood::NotYet) => Err(StepError::NotYet(Duration::from_millis(30))),
            Some(Mood::Retry) => Err(StepError::Retry(anyhow::anyhow!("the weather"))),
            Some(Mood::Fail) => Err(StepError::fail(
                ErrorCode::ResourceUnavailable,
                "The road is closed.",
                anyhow::anyhow!("a tree fell"),
            )),
            Some(Mood::Panic) => panic!("a wheel came off"),
            Some(Mood::Hang) => {
                let underway = Underway(self.clone(), what);
                self.go_on.notified().await;
                std::mem::forget(underway);
                Ok(())
            }
        }
    }

    fn mood(&self, what: &str, moods: &[Mood]) {
        self.moods.lock().unwrap().insert(what.to_owned(), moods.iter().copied().collect());
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    fn has(&self, entry: &str) -> bool {
        self.log().iter().any(|line| line == entry)
    }
}

impl Saga for Trip {
    const KIND: &'static str = "trip";
    const QUEUE: Queue = Queue::Interactive;
    const DEADLINE: Duration = Duration::from_secs(600);
    const ATTEMPTS_MAX: u32 = 3;
    type Step = Step;

    async fn run(&mut self, step: Step, _: &StepContext, _: &World) -> Result<(), StepError> {
        let outside = outside(&self.id);
        outside.clone().half(format!("run {}", step.word())).await?;
        outside.things.lock().unwrap().insert(step.word());
        Ok(())
    }

    async fn record(
        &mut self,
        step: Step,
        _: &StepContext,
        conn: &mut PgConnection,
    ) -> Result<(), StepError> {
        sqlx::query("insert into trip_rows (trip, step) values ($1, $2)")
            .bind(&self.id)
            .bind(step.word())
            .execute(conn)
            .await?;
        outside(&self.id).trouble(format!("record {}", step.word())).await?;
        self.recorded.push(step.word().to_owned());
        Ok(())
    }

    async fn undo(&mut self, step: Step, _: &StepContext, _: &World) -> Result<(), StepError> {
        let outside = outside(&self.id);
        outside.clone().half(format!("undo {}", step.word())).await?;
        outside.things.lock().unwrap().remove(step.word());
        Ok(())
    }

    async fn record_undo(
        &mut self,
        step: Step,
        _: &StepContext,
        conn: &mut PgConnection,
    ) -> Result<(), StepError> {
        sqlx::query("delete from trip_rows where trip = $1 and step = $2")
            .bind(&self.id)
            .bind(step.word())
            .execute(conn)
            .await?;
        Ok(())
    }
}

/// A database in which trips can be made.
struct Harbour {
    plane: Plane,
    world: World,
    project: ProjectId,
    folder: tempfile::TempDir,
    /// Dropped last: with it goes the database.
    stage: Stage,
}

struct Made {
    id: String,
    job: JobId,
    action: ActionId,
    outside: Arc<Outside>,
}

/// How a job ended, or stands.
#[derive(Debug, PartialEq, Eq, sqlx::FromRow)]
struct Stand {
    state: String,
    step: String,
    attempts: i32,
    fence: i64,
    leased: bool,
    staff_told: bool,
}

impl Harbour {
    async fn new() -> Self {
        let stage = Stage::new().await;
        let plane = stage.plane().await;
        let project = stage.member().await.project;
        sqlx::query("create table trip_rows (trip text, step text, primary key (trip, step))")
            .execute(stage.db())
            .await
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        Self { world: plane.world.clone(), plane, project, folder, stage }
    }

    /// A lease long enough for a machine that stalls: nobody loses it but who dies or stops.
    fn settings(&self) -> Settings {
        Settings { poll: Duration::from_millis(50), ..Settings::default() }
    }

    /// For those who die, so that others go on soon.
    fn short_lease(&self) -> Settings {
        Settings { lease: Duration::from_millis(600), ..self.settings() }
    }

    /// Long enough not to be lost by accident, short enough to see it renewed.
    fn middling_lease(&self) -> Settings {
        Settings { lease: Duration::from_secs(4), ..self.settings() }
    }

    fn worker(&self) -> Worker {
        self.worker_with(&self.settings())
    }

    fn worker_with(&self, settings: &Settings) -> Worker {
        Worker::start(self.world.clone(), &Registry::new().with::<Trip>(), settings, &self.plane.signals)
    }

    fn faulty(&self, rule: &str) -> Worker {
        self.worker_with(&Settings { faults: rule.parse().unwrap(), ..self.settings() })
    }

    /// Enqueues a trip, after `prepare` has arranged what will go wrong.
    async fn trip(&self, prepare: impl FnOnce(&Outside)) -> Made {
        let id = entropy::alphanumeric(12);
        let outside = outside(&id);
        prepare(&outside);
        let now = clock::now();
        let mut tx = self.world.db.begin().await.unwrap();
        let steps = jobs::titles::<Trip>();
        let new = actions::NewAction {
            project: self.project,
            command: "make_trip",
            resources: &[(ResourceKind::Server, 1)],
            steps: &steps,
            now,
        };
        let action = actions::queries::start(&mut tx, &new).await.unwrap().id;
        let trip = Trip { id: id.clone(), recorded: Vec::new() };
        let job = jobs::enqueue(&mut tx, &trip, Some(action), now).await.unwrap();
        tx.commit().await.unwrap();
        Made { id, job, action, outside }
    }

    async fn stand(&self, made: &Made) -> Stand {
        sqlx::query_as(
            "select state, step, attempts, fence, lease_owner is not null as leased,
                    staff_told is not null as staff_told from jobs where id = $1",
        )
        .bind(made.job)
        .fetch_one(&self.world.db)
        .await
        .unwrap()
    }

    async fn ends(&self, made: &Made) -> Stand {
        until("the job is over", async || {
            let stand = self.stand(made).await;
            matches!(stand.state.as_str(), "done" | "undone").then_some(stand)
        })
        .await
    }

    async fn rows(&self, made: &Made) -> Vec<String> {
        sqlx::query_scalar("select step from trip_rows where trip = $1 order by step")
            .bind(&made.id)
            .fetch_all(&self.world.db)
            .await
            .unwrap()
    }

    async fn action(&self, made: &Made) -> berth_model::action::Action {
        let mut conn = self.world.db.acquire().await.unwrap();
        actions::queries::get(&mut conn, self.project, made.action).await.unwrap().unwrap()
    }

    /// Either all is there and the action says so, or nothing is left and the action says why.
    async fn is_clean(&self, made: &Made, what: &str) {
        let stand = self.ends(made).await;
        let action = self.action(made).await;
        let things = made.outside.things.lock().unwrap().clone();
        let rows = self.rows(made).await;
        if stand.state == "done" {
            assert_eq!(rows, ["arrive", "pack", "travel"], "{what}");
            assert_eq!(things.len(), 3, "{what}");
            assert_eq!((action.status, action.progress), (ActionStatus::Success, 100), "{what}");
        } else {
            assert_eq!((rows.len(), things.len()), (0, 0), "{what}: {rows:?} {things:?}");
            assert_eq!(action.status, ActionStatus::Error, "{what}");
            assert!(action.error.is_some(), "{what}");
        }
        assert!(!stand.leased, "{what}");
    }

    /// Runs a trip into `place`, lets its worker die there, and lets another one go on.
    async fn cut_off_at(&self, place: &str, prepare: impl FnOnce(&Outside)) -> Made {
        let marker = self.folder.path().join(entropy::alphanumeric(8));
        let faults = format!("trip.{place}=pause:{}", marker.display()).parse().unwrap();
        let dying = self.worker_with(&Settings { faults, ..self.settings() });
        let made = self.trip(prepare).await;
        until("the worker is at the place", async || marker.exists().then_some(())).await;
        drop(dying);
        let was_over = matches!(self.stand(&made).await.state.as_str(), "done" | "undone");
        // Its lease runs out; that it does so by itself is another test.
        sqlx::query("update jobs set run_at = now() where id = $1")
            .bind(made.job)
            .execute(&self.world.db)
            .await
            .unwrap();
        let other = self.worker();
        self.is_clean(&made, place).await;
        assert!(was_over || self.stand(&made).await.fence >= 2, "the other one took a lease: {place}");
        other.stop(Duration::from_secs(10)).await;
        made
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_are_done_in_order_and_the_action_shows_them() {
    let harbour = Harbour::new().await;
    let _worker = harbour.worker();
    let made = harbour.trip(|_| ()).await;
    let stand = harbour.ends(&made).await;
    assert_eq!((stand.state.as_str(), stand.fence, stand.leased), ("done", 1, false));
    assert_eq!(made.outside.log(), ["run pack", "run travel", "run arrive"]);
    let action = harbour.action(&made).await;
    assert_eq!((action.status, action.progress, action.error), (ActionStatus::Success, 100, None));
    assert!(action.finished.is_some());
    assert!(action.steps.iter().all(|step| step.state == StepState::Done && step.took_ms.is_some()));
    let titles: Vec<_> = action.steps.iter().map(|step| step.title.as_str()).collect();
    assert_eq!(titles, ["Pack the bag", "Travel", "Arrive"]);
    let data: serde_json::Value = sqlx::query_scalar("select data from jobs where id = $1")
        .bind(made.job)
        .fetch_one(&harbour.world.db)
        .await
        .unwrap();
    assert_eq!(data["recorded"], serde_json::json!(["pack", "travel", "arrive"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_on_wherever_its_worker_dies() {
    let harbour = Harbour::new().await;
    for step in Step::ALL {
        for point in ["before", "after_run", "after_record"] {
            let made = harbour.cut_off_at(&format!("{}.{point}", step.word()), |_| ()).await;
            assert_eq!(harbour.stand(&made).await.state, "done", "{step:?} {point}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_goes_on_wherever_its_worker_dies() {
    let harbour = Harbour::new().await;
    for step in Step::ALL {
        for point in ["before", "after_run", "after_record"] {
            let place = format!("undo.{}.{point}", step.word());
            let made =
                harbour.cut_off_at(&place, |outside| outside.mood("run arrive", &[Mood::Fail; 9])).await;
            assert_eq!(harbour.stand(&made).await.state, "undone", "{step:?} {point}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_may_run_twice_fail_once_or_fail_for_good() {
    let harbour = Harbour::new().await;
    for step in Step::ALL {
        for (fault, end) in [
            ("after_run=twice", "done"),
            ("before=retry", "done"),
            ("after_run=retry", "done"),
            ("before=error", "undone"),
            ("after_run=error", "undone"),
        ] {
            let rule = format!("trip.{}.{fault}", step.word());
            let worker = harbour.faulty(&rule);
            let made = harbour.trip(|_| ()).await;
            harbour.is_clean(&made, &rule).await;
            assert_eq!(harbour.stand(&made).await.state, end, "{rule}");
            worker.stop(Duration::from_secs(10)).await;
        }
        for fault in ["after_run=twice", "before=error", "after_run=retry"] {
            let rule = format!("trip.undo.{}.{fault}", step.word());
            let worker = harbour.faulty(&rule);
            let made = harbour.trip(|outside| outside.mood("run arrive", &[Mood::Fail; 9])).await;
            harbour.is_clean(&made, &rule).await;
            assert_eq!(harbour.stand(&made).await.state, "undone", "{rule}");
            worker.stop(Duration::from_secs(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn undo_goes_back_from_the_step_that_failed_and_tells_the_customer_why() {
    let harbour = Harbour::new().await;
    let _worker = harbour.worker();
    let made = harbour.trip(|outside| outside.mood("run travel", &[Mood::Fail])).await;
    harbour.is_clean(&made, "travel fails").await;
    assert_eq!(made.outside.log(), ["run pack", "run travel", "undo travel", "undo pack"]);
    let action = harbour.action(&made).await;
    let error = action.error.unwrap();
    assert_eq!((error.code, error.message.as_str()), (ErrorCode::ResourceUnavailable, "The road is closed."));
    let states: Vec<_> = action.steps.iter().map(|step| step.state).collect();
    assert_eq!(states, [StepState::Done, StepState::Failed, StepState::Waiting]);
    assert!(!harbour.stand(&made).await.staff_told, "it is nothing that staff could mend");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_never_both_commit_a_step() {
    let harbour = Harbour::new().await;
    let marker = harbour.folder.path().join("stalled");
    // Its lease is so long that it does not notice the theft by itself.
    let stalled = harbour.worker_with(&Settings {
        lease: Duration::from_secs(30),
        faults: format!("trip.travel.after_run=pause:{}", marker.display()).parse().unwrap(),
        ..harbour.settings()
    });
    let made = harbour.trip(|_| ()).await;
    until("the worker stalls", async || marker.exists().then_some(())).await;

    let other = harbour.worker();
    until("the other one has taken it", async || {
        sqlx::query("update jobs set run_at = now() where id = $1 and fence = 1")
            .bind(made.job)
            .execute(&harbour.world.db)
            .await
            .unwrap();
        (harbour.stand(&made).await.fence == 2).then_some(())
    })
    .await;
    let stand = harbour.ends(&made).await;
    assert_eq!((stand.state.as_str(), stand.fence), ("done", 2));

    std::fs::remove_file(&marker).unwrap();
    // It comes back, finds that it holds nothing any more, and ends.
    stalled.stop(Duration::from_secs(30)).await;
    assert_eq!(harbour.stand(&made).await, stand);
    assert_eq!(harbour.rows(&made).await.len(), 3);
    let ran = made.outside.log();
    assert_eq!(ran.iter().filter(|line| *line == "run travel").count(), 2, "both ran it, one recorded it");
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_jobs_are_shared_and_each_step_is_recorded_once() {
    let harbour = Harbour::new().await;
    let workers = [harbour.worker(), harbour.worker()];
    let mut trips = Vec::new();
    for number in 0..40 {
        trips.push(
            harbour
                .trip(|outside| match number % 4 {
                    0 => outside.mood("run travel", &[Mood::Retry]),
                    1 => outside.mood("run arrive", &[Mood::NotYet, Mood::NotYet]),
                    2 => outside.mood("run travel", &[Mood::Fail]),
                    _ => (),
                })
                .await,
        );
    }
    for made in &trips {
        harbour.is_clean(made, "one of many").await;
    }
    drop(workers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_workers_job_goes_on_when_its_lease_ends() {
    let harbour = Harbour::new().await;
    let dying = harbour.worker_with(&harbour.short_lease());
    let made = harbour.trip(|outside| outside.mood("run travel", &[Mood::Hang])).await;
    until("the step hangs", async || made.outside.has("run travel").then_some(())).await;
    drop(dying);
    let _other = harbour.worker();
    harbour.is_clean(&made, "taken over").await;
    assert!(harbour.stand(&made).await.fence >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_renewed_while_a_step_works() {
    let harbour = Harbour::new().await;
    let _one = harbour.worker_with(&harbour.middling_lease());
    let _two = harbour.worker_with(&harbour.middling_lease());
    let made = harbour.trip(|outside| outside.mood("run travel", &[Mood::Hang])).await;
    until("the step hangs", async || made.outside.has("run travel").then_some(())).await;
    let lease_end = async || -> time::OffsetDateTime {
        let query = sqlx::query_scalar("select run_at from jobs where id = $1").bind(made.job);
        query.fetch_one(&harbour.world.db).await.unwrap()
    };
    let first = lease_end().await;
    until("the lease has lasted for more than its length", async || {
        (lease_end().await - first > time::Duration::seconds(4)).then_some(())
    })
    .await;
    assert_eq!(harbour.stand(&made).await.fence, 1, "nobody else has taken it");
    made.outside.go_on.notify_one();
    assert_eq!(harbour.ends(&made).await.fence, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_the_lease_stops_quietly() {
    let harbour = Harbour::new().await;
    let worker = harbour.worker_with(&harbour.middling_lease());
    let made = harbour.trip(|outside| outside.mood("run travel", &[Mood::Hang])).await;
    until("the step hangs", async || made.outside.has("run travel").then_some(())).await;
    sqlx::query(
        "update jobs set fence = fence + 1, lease_owner = $2, run_at = now() + interval '1 hour' where id = $1",
    )
    .bind(made.job)
    .bind(entropy::uuid())
    .execute(&harbour.world.db)
    .await
    .unwrap();
    until("the step is dropped", async || made.outside.has("dropped run travel").then_some(())).await;
    worker.stop(Duration::from_secs(10)).await;
    let stand = harbour.stand(&made).await;
    assert_eq!((stand.state.as_str(), stand.step.as_str(), stand.leased), ("ready", "travel", true));
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_is_no_attempt_and_a_panic_is_one() {
    let harbour = Harbour::new().await;
    let _worker = harbour.worker();
    let waits = harbour.trip(|outside| outside.mood("run pack", &[Mood::NotYet; 6])).await;
    let panics = harbour.trip(|outside| outside.mood("run pack", &[Mood::Panic, Mood::Retry])).await;
    assert_eq!(harbour.ends(&waits).await.state, "done", "six times is more than it may fail");
    let stand = harbour.ends(&panics).await;
    assert_eq!((stand.state.as_str(), stand.attempts), ("done", 0));
    let error: Option<String> = sqlx::query_scalar("select operator_error from jobs where id = $1")
        .bind(panics.job)
        .fetch_one(&harbour.world.db)
        .await
        .unwrap();
    assert_eq!(error.as_deref(), Some("the weather"), "the last error is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_fails_leaves_no_rows_and_no_data() {
    let harbour = Harbour::new().await;
    let _worker = harbour.worker();
    let again = harbour.trip(|outside| outside.mood("record travel", &[Mood::Retry, Mood::Panic])).await;
    let never = harbour.trip(|outside| outside.mood("record travel", &[Mood::Fail])).await;
    harbour.is_clean(&again, "recorded at the third try").await;
    assert_eq!(harbour.stand(&again).await.state, "done", "rows of a failed try would be in its way");
    harbour.is_clean(&never, "never recorded").await;
    assert_eq!(harbour.stand(&never).await.state, "undone");
    let data: serde_json::Value = sqlx::query_scalar("select data from jobs where id = $1")
        .bind(never.job)
        .fetch_one(&harbour.world.db)
        .await
        .unwrap();
    assert_eq!(data["recorded"], serde_json::json!(["pack"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_outlives_its_connections_and_finds_jobs_without_signals() {
    let harbour = Harbour::new().await;
    let worker = harbour.worker();
    let underway = harbour.trip(|outside| outside.mood("run travel", &[Mood::Hang])).await;
    until("the step hangs", async || underway.outside.has("run travel").then_some(())).await;
    harbour.plane.stop();
    sqlx::query(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid()",
    )
    .execute(harbour.stage.db())
    .await
    .unwrap();
    underway.outside.go_on.notify_one();
    harbour.is_clean(&underway, "underway").await;
    let made = harbour.trip(|_| ()).await;
    harbour.is_clean(&made, "found by looking").await;
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_keeps_failing_is_given_up_and_staff_are_told() {
    let harbour = Harbour::new().await;
    let _worker = harbour.worker();
    let made =
        harbour.trip(|outside| outside.mood("run travel", &[Mood::Panic, Mood::Retry, Mood::Retry])).await;
    harbour.is_clean(&made, "travel keeps failing").await;
    let stand = harbour.stand(&made).await;
    assert!(stand.state == "undone" && stand.staff_told);
    assert_eq!(harbour.action(&made).await.error.unwrap().code, ErrorCode::ServiceError);
}

#[tokio::test(flavor = "multi_thread")]
async fn past_its_deadline_a_job_is_undone_and_staff_are_told() {
    let harbour = Harbour::new().await;
    let hangs = harbour.trip(|outside| outside.mood("run travel", &[Mood::Hang])).await;
    let waits = harbour.trip(|outside| outside.mood("run travel", &[Mood::NotYet; 1000])).await;
    let late = harbour.trip(|_| ()).await;
    sqlx::query(
        "update jobs set deadline = now() + case id when $1 then interval '-1 s' else interval '1 s' end",
    )
    .bind(late.job)
    .execute(&harbour.world.db)
    .await
    .unwrap();
    let _worker = harbour.worker();
    for made in [&hangs, &waits, &late] {
        harbour.is_clean(made, "the deadline").await;
        let stand = harbour.stand(made).await;
        assert!(stand.state == "undone" && stand.staff_told);
        assert_eq!(harbour.action(made).await.error.unwrap().code, ErrorCode::Timeout);
    }
    assert!(hangs.outside.has("dropped run travel"));
    assert_eq!(late.outside.log(), ["undo pack"], "what is too late does not begin");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_is_tried_until_it_works_and_staff_are_told() {
    let harbour = Harbour::new().await;
    let _worker = harbour.worker();
    let made = harbour
        .trip(|outside| {
            outside.mood("run travel", &[Mood::Fail]);
            outside.mood("undo travel", &[Mood::NotYet, Mood::Retry, Mood::Fail, Mood::Panic]);
        })
        .await;
    harbour.is_clean(&made, "a stubborn undo").await;
    assert!(harbour.stand(&made).await.staff_told);
    let error = harbour.action(&made).await.error.unwrap();
    assert_eq!(error.message, "The road is closed.", "the customer is told of the first failure");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_ends_its_step_and_hands_the_job_back() {
    let harbour = Harbour::new().await;
    let worker = harbour.worker();
    let made = harbour.trip(|outside| outside.mood("run travel", &[Mood::Hang])).await;
    until("the step hangs", async || made.outside.has("run travel").then_some(())).await;
    let stopping = tokio::spawn(worker.stop(Duration::from_secs(60)));
    made.outside.go_on.notify_one();
    stopping.await.unwrap();
    let stand = harbour.stand(&made).await;
    assert_eq!((stand.state.as_str(), stand.leased), ("ready", false));
    // Not a lease of 30 s later, but at once.
    let due: bool = sqlx::query_scalar("select run_at <= clock_timestamp() from jobs where id = $1")
        .bind(made.job)
        .fetch_one(&harbour.world.db)
        .await
        .unwrap();
    assert!(due);
    let _other = harbour.worker();
    harbour.is_clean(&made, "handed back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_cuts_off_a_step_that_does_not_end() {
    let harbour = Harbour::new().await;
    let worker = harbour.worker();
    let made = harbour.trip(|outside| outside.mood("run travel", &[Mood::Hang])).await;
    until("the step hangs", async || made.outside.has("run travel").then_some(())).await;
    worker.stop(Duration::from_millis(100)).await;
    assert!(made.outside.has("dropped run travel"));
    assert!(!harbour.stand(&made).await.leased);
    let _other = harbour.worker();
    harbour.is_clean(&made, "cut off").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_there_when_its_transaction_commits_and_a_signal_wakes_a_worker() {
    let harbour = Harbour::new().await;
    let _worker = harbour.worker_with(&Settings { poll: Duration::from_secs(3600), ..harbour.settings() });
    let now = clock::now();
    let gone = Trip { id: entropy::alphanumeric(12), recorded: Vec::new() };
    let mut tx = harbour.world.db.begin().await.unwrap();
    jobs::enqueue(&mut tx, &gone, None, now).await.unwrap();
    tx.rollback().await.unwrap();
    let made = harbour.trip(|_| ()).await;
    harbour.is_clean(&made, "woken").await;
    assert!(outside(&gone.id).log().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_a_worker_does_not_know_is_left_to_others() {
    let harbour = Harbour::new().await;
    let strange = harbour.trip(|_| ()).await;
    sqlx::query("update jobs set kind = 'of_tomorrow' where id = $1")
        .bind(strange.job)
        .execute(&harbour.world.db)
        .await
        .unwrap();
    let _worker = harbour.worker();
    let made = harbour.trip(|_| ()).await;
    harbour.is_clean(&made, "known").await;
    assert_eq!(harbour.stand(&strange).await.fence, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_cannot_be_read_waits_for_a_person() {
    let harbour = Harbour::new().await;
    let made = harbour.trip(|_| ()).await;
    sqlx::query("update jobs set data = '{}' where id = $1")
        .bind(made.job)
        .execute(&harbour.world.db)
        .await
        .unwrap();
    let _worker = harbour.worker();
    let stand = until("staff are told", async || {
        let stand = harbour.stand(&made).await;
        (stand.staff_told && stand.state == "undoing" && stand.attempts > 0).then_some(stand)
    })
    .await;
    assert_eq!(stand.step, "pack");
    assert!(made.outside.log().is_empty());
}
