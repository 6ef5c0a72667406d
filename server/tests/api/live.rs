//! Live push: nothing lost, nothing twice, nothing out of order, nothing to whom it does not concern.

use std::collections::HashMap;
use std::time::Duration;

use berth_model::event::{CLOSE_ENDED, CLOSE_TOO_SLOW, Change, Event, LiveMessage, WATCH_MAX};
use berth_model::load::LoadSample;
use berth_model::people::TokenCreated;
use berth_model::{ProjectId, ServerId};
use berth_server::live::{Settings, outbox};
use berth_server::serve::Options;
use berth_server::{clock, entropy};
use futures_util::{SinkExt as _, StreamExt as _};
use sqlx::PgPool;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::stage::{Member, Plane, Stage};
use crate::support::{Berth, PASSWORD, PATIENCE, until};

/// A client of `/v1/live`.
struct Ear(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Ear {
    async fn dial(plane: &Plane, member: &Member) -> Result<Self, Error> {
        let bearer = format!("Bearer {}", member.token);
        Self::show(&format!("ws://{}", plane.address), &[("authorization", &bearer)]).await
    }

    async fn show(base: &str, headers: &[(&'static str, &str)]) -> Result<Self, Error> {
        let mut request = format!("{base}/v1/live").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        connect_async(request).await.map(|(socket, _)| Self(socket))
    }

    async fn open(plane: &Plane, member: &Member, last_seq: Option<i64>) -> (Self, i64) {
        Self::dial(plane, member).await.unwrap().greet(last_seq).await
    }

    /// The page of a customer who has just signed up.
    async fn of_page(berth: &Berth) -> (Self, i64) {
        let email = format!("{}@example.org", entropy::alphanumeric(10));
        let form = serde_json::json!({"email": email, "name": "Ada", "password": PASSWORD});
        let reply = berth.stranger().post("/v1/users", form).await;
        let cookie = format!("berth_session={}", reply.cookie("berth_session").unwrap());
        let shows = [("cookie", cookie.as_str()), ("origin", berth.url())];
        Self::show(&berth.url().replace("http", "ws"), &shows).await.unwrap().greet(None).await
    }

    /// Says hello, and answers what was said first.
    async fn greet(self, last_seq: Option<i64>) -> (Self, i64) {
        let mut ear = self;
        ear.say(&serde_json::json!({ "last_seq": last_seq }).to_string()).await;
        match ear.next().await {
            LiveMessage::Welcome { seq } => (ear, seq),
            other => panic!("no welcome: {other:?}"),
        }
    }

    async fn say(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    async fn next(&mut self) -> LiveMessage {
        loop {
            match timeout(PATIENCE, self.0.next()).await.expect("a message in time") {
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("no message: {other:?}"),
            }
        }
    }

    async fn event(&mut self) -> Event {
        match self.next().await {
            LiveMessage::Event(event) => event,
            other => panic!("no event: {other:?}"),
        }
    }

    /// The number of the next event, and of the server it is about.
    async fn gone(&mut self) -> (i64, i64) {
        let event = self.event().await;
        (event.seq, number(&event))
    }

    /// Reads until the server closes, and answers its code.
    async fn close_code(&mut self) -> u16 {
        loop {
            match timeout(PATIENCE, self.0.next()).await.expect("closed in time") {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(_)) => {}
                other => panic!("no farewell: {other:?}"),
            }
        }
    }
}

fn number(event: &Event) -> i64 {
    match event.change {
        Change::ServerGone { id } => id.0,
        ref other => panic!("another change: {other:?}"),
    }
}

async fn emit(db: &PgPool, project: ProjectId, id: i64) {
    let change = Change::ServerGone { id: ServerId(id) };
    outbox::publish(&mut db.acquire().await.unwrap(), project, &change, clock::now()).await.unwrap();
}

/// Waits until so many events have their place.
async fn published(db: &PgPool, count: i64) {
    until("the events are published", async || {
        let last: i64 = sqlx::query_scalar("select last_seq from outbox_head").fetch_one(db).await.unwrap();
        (last >= count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_event_reaches_a_listener_on_every_control_plane() {
    let stage = Stage::new().await;
    let (one, two) = (stage.plane().await, stage.plane().await);
    let member = stage.member().await;
    let (mut here, seq) = Ear::open(&one, &member, None).await;
    let (mut there, _) = Ear::open(&two, &member, None).await;
    assert_eq!(seq, 0);
    for id in 1..=3 {
        emit(&one.world.db, member.project, id).await;
    }
    for id in 1..=3 {
        assert_eq!(here.gone().await, (id, id));
        assert_eq!(there.gone().await, (id, id));
    }
}

#[tokio::test]
async fn what_commits_late_is_neither_lost_nor_put_before_what_was_seen() {
    let stage = Stage::new().await;
    let plane = stage.plane().await;
    let member = stage.member().await;
    let (mut ear, _) = Ear::open(&plane, &member, None).await;

    let (mut early, mut late) = (stage.db().begin().await.unwrap(), stage.db().begin().await.unwrap());
    let change = |id| Change::ServerGone { id: ServerId(id) };
    outbox::publish(&mut late, member.project, &change(1), clock::now()).await.unwrap();
    outbox::publish(&mut early, member.project, &change(2), clock::now()).await.unwrap();
    early.commit().await.unwrap();
    assert_eq!(ear.gone().await, (1, 2), "written second, visible first");
    // Somebody who has seen that, and comes back after the other one has committed.
    drop(ear);
    late.commit().await.unwrap();
    let (mut back, _) = Ear::open(&plane, &member, Some(1)).await;
    assert_eq!(back.gone().await, (2, 1));
    let order: Vec<(i64, i64)> =
        sqlx::query_as("select id, seq from outbox order by id").fetch_all(stage.db()).await.unwrap();
    assert_eq!(order, [(1, 2), (2, 1)]);
}

#[tokio::test]
async fn events_come_also_without_a_signal_and_after_the_database_hung_up() {
    let stage = Stage::new().await;
    let plane = stage.plane().await;
    let member = stage.member().await;
    let (mut ear, _) = Ear::open(&plane, &member, None).await;
    sqlx::query("insert into outbox (project_id, at, change) values ($1, now(), '{\"kind\": \"server_gone\", \"id\": 1}')")
        .bind(member.project)
        .execute(stage.db())
        .await
        .unwrap();
    assert_eq!(ear.gone().await, (1, 1));
    sqlx::query(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid()",
    )
    .execute(stage.db())
    .await
    .unwrap();
    for id in 2..=5 {
        emit(stage.db(), member.project, id).await;
        assert_eq!(ear.gone().await, (id, id));
    }
}

/// Writers hold a row each time they write, as those who change a server do.
async fn writer(db: PgPool, project: ProjectId, writes: i64, resources: i64) {
    for _ in 0..writes {
        let resource = (entropy::fraction() * resources as f64) as i64;
        let mut tx = db.begin().await.unwrap();
        let count: i64 = sqlx::query_scalar("update counters set n = n + 1 where id = $1 returning n")
            .bind(resource)
            .fetch_one(&mut *tx)
            .await
            .unwrap();
        let change = Change::ServerGone { id: ServerId(resource * 1_000_000 + count) };
        outbox::publish(&mut tx, project, &change, clock::now()).await.unwrap();
        let pause = (entropy::fraction() * 8.0) as u64;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if entropy::fraction() < 0.1 {
            tx.rollback().await.unwrap();
        } else {
            tx.commit().await.unwrap();
        }
    }
}

/// Reads everything once, hanging up at random and going on at either control plane.
async fn reader(planes: [&Plane; 2], member: &Member, total: i64) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    while (events.len() as i64) < total {
        let plane = planes[usize::from(entropy::fraction() < 0.5)];
        let last = events.last().map_or(0, |event| event.seq);
        let (mut ear, _) = Ear::open(plane, member, Some(last)).await;
        let more = 1 + (entropy::fraction() * 60.0) as usize;
        for _ in 0..more {
            if events.len() as i64 == total {
                break;
            }
            events.push(ear.event().await);
        }
    }
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_lose_nothing_and_each_resource_stays_in_order() {
    const WRITERS: usize = 8;
    const WRITES: i64 = 60;
    const RESOURCES: i64 = 5;
    let stage = Stage::new().await;
    let (one, two) = (stage.plane().await, stage.plane().await);
    let member = stage.member().await;
    let db = stage.db().clone();
    sqlx::raw_sql(
        "create table counters (id bigint primary key, n bigint not null default 0);
                   insert into counters (id) select generate_series(0, 4)",
    )
    .execute(&db)
    .await
    .unwrap();

    // A reader that is there while it happens, and hangs up again and again.
    let (mut live, _) = Ear::open(&one, &member, None).await;
    let writing: Vec<_> =
        (0..WRITERS).map(|_| tokio::spawn(writer(db.clone(), member.project, WRITES, RESOURCES))).collect();
    let mut during = vec![live.event().await];
    while !writing.iter().all(tokio::task::JoinHandle::is_finished) {
        let last = during.last().map_or(0, |event: &Event| event.seq);
        let plane = if entropy::fraction() < 0.5 { &one } else { &two };
        let (mut ear, _) = Ear::open(plane, &member, Some(last)).await;
        for _ in 0..(entropy::fraction() * 40.0) as usize {
            match timeout(Duration::from_millis(200), ear.event()).await {
                Ok(event) => during.push(event),
                Err(_) => break,
            }
        }
    }
    for writer in writing {
        writer.await.unwrap();
    }
    let counts: Vec<(i64, i64)> = sqlx::query_as("select id, n from counters").fetch_all(&db).await.unwrap();
    let counts: HashMap<i64, i64> = counts.into_iter().collect();
    let total: i64 = counts.values().sum();
    let last = during.last().map_or(0, |event| event.seq);
    let (mut rest, _) = Ear::open(&two, &member, Some(last)).await;
    while (during.len() as i64) < total {
        during.push(rest.event().await);
    }
    published(&db, total).await;
    let after = reader([&one, &two], &member, total).await;

    for events in [&during, &after] {
        let seqs: Vec<i64> = events.iter().map(|event| event.seq).collect();
        assert_eq!(seqs, (1..=total).collect::<Vec<_>>(), "each once, in order, without a gap");
        let mut next: HashMap<i64, i64> = HashMap::new();
        for event in events {
            let (resource, count) = (number(event) / 1_000_000, number(event) % 1_000_000);
            let expected = next.entry(resource).or_insert(1);
            assert_eq!(count, *expected, "resource {resource} is out of order");
            *expected += 1;
        }
    }
    assert_eq!(during, after);
}

#[tokio::test]
async fn who_resumes_gets_what_was_missed_and_then_what_comes() {
    let stage = Stage::new().await;
    let plane = stage.plane().await;
    let (member, other) = (stage.member().await, stage.member().await);
    for id in 1..=450 {
        emit(stage.db(), if id % 3 == 0 { other.project } else { member.project }, id).await;
    }
    published(stage.db(), 450).await;
    let (mut ear, _) = Ear::open(&plane, &member, Some(7)).await;
    for id in (8..=450).filter(|id| id % 3 != 0) {
        assert_eq!(ear.gone().await.1, id);
    }
    emit(stage.db(), member.project, 451).await;
    assert_eq!(ear.gone().await, (451, 451));
    let (mut fresh, seq) = Ear::open(&plane, &member, None).await;
    assert_eq!(seq, 451, "on a first visit nothing is replayed");
    emit(stage.db(), member.project, 452).await;
    assert_eq!(fresh.gone().await, (452, 452));
}

#[tokio::test]
async fn who_was_away_too_long_or_knows_the_future_is_told_to_begin_anew() {
    let stage = Stage::new().await;
    let settings = Settings { replay_max: 20, ..Settings::default() };
    let plane = stage.plane_with(settings).await;
    let member = stage.member().await;
    for id in 1..=30 {
        emit(stage.db(), member.project, id).await;
    }
    published(stage.db(), 30).await;
    sqlx::query("delete from outbox where seq <= 10").execute(stage.db()).await.unwrap();
    for (last, reset) in [(31, true), (9, true), (-1, true), (10, false), (30, false)] {
        let (mut ear, seq) = Ear::open(&plane, &member, Some(last)).await;
        assert_eq!(seq, 30);
        if reset {
            assert_eq!(ear.next().await, LiveMessage::Reset { seq: 30 }, "after {last}");
        } else if last < 30 {
            assert_eq!(ear.gone().await.0, last + 1);
        }
    }
    for id in 31..=50 {
        emit(stage.db(), member.project, id).await;
    }
    published(stage.db(), 50).await;
    until("the hub has read them", async || (Ear::open(&plane, &member, None).await.1 == 50).then_some(()))
        .await;
    let (mut ear, _) = Ear::open(&plane, &member, Some(10)).await;
    assert_eq!(ear.next().await, LiveMessage::Reset { seq: 50 }, "forty are more than twenty");
    emit(stage.db(), member.project, 51).await;
    assert_eq!(ear.gone().await, (51, 51), "and then it goes on");
    sqlx::query("delete from outbox").execute(stage.db()).await.unwrap();
    let (mut ear, _) = Ear::open(&plane, &member, Some(50)).await;
    assert!(matches!(ear.next().await, LiveMessage::Reset { .. }), "also when nothing is left");
}

#[tokio::test]
async fn old_events_are_removed_by_age_and_by_number() {
    let stage = Stage::new().await;
    let member = stage.member().await;
    for id in 1..=30 {
        emit(stage.db(), member.project, id).await;
    }
    sqlx::query("update outbox set at = now() - interval '25 hours' where id <= 12")
        .execute(stage.db())
        .await
        .unwrap();
    let first = async || -> Option<i64> {
        sqlx::query_scalar("select min(seq) from outbox").fetch_one(stage.db()).await.unwrap()
    };
    let plane = stage.plane().await;
    published(stage.db(), 30).await;
    plane.world.live.prune_once(stage.db()).await.unwrap();
    assert_eq!(first().await, Some(13));
    let small = stage.plane_with(Settings { kept_rows: 5, ..Settings::default() }).await;
    small.world.live.prune_once(stage.db()).await.unwrap();
    assert_eq!(first().await, Some(26));
    emit(stage.db(), member.project, 31).await;
    published(stage.db(), 31).await;
}

#[tokio::test]
async fn an_event_of_another_project_is_not_heard() {
    let stage = Stage::new().await;
    let plane = stage.plane().await;
    let (one, two) = (stage.member().await, stage.member().await);
    let (mut first, _) = Ear::open(&plane, &one, None).await;
    let (mut second, _) = Ear::open(&plane, &two, None).await;
    for id in 1..=20 {
        emit(stage.db(), if id % 2 == 0 { one.project } else { two.project }, id).await;
    }
    for id in 1..=20 {
        let ear = if id % 2 == 0 { &mut first } else { &mut second };
        assert_eq!(ear.gone().await, (id, id));
    }
    let (mut replayed, _) = Ear::open(&plane, &one, Some(0)).await;
    for id in (2..=20).step_by(2) {
        assert_eq!(replayed.gone().await, (id, id));
    }
    let nobody = Member { token: "x".repeat(64), ..one };
    assert!(matches!(Ear::dial(&plane, &nobody).await, Err(Error::Http(answer)) if answer.status() == 401));
}

fn sample(level: u32) -> LoadSample {
    LoadSample {
        at: clock::now(),
        cpu_millicores: level,
        memory_used_bytes: 1,
        disk_read_bytes_per_s: 2,
        disk_write_bytes_per_s: 3,
        disk_read_ops_per_s: 4,
        disk_write_ops_per_s: 5,
        net_in_bytes_per_s: 6,
        net_out_bytes_per_s: 7,
        net_in_packets_per_s: 8,
        net_out_packets_per_s: 9,
    }
}

#[tokio::test]
async fn samples_come_of_ones_own_watched_servers_only() {
    let stage = Stage::new().await;
    let plane = stage.plane().await;
    let (member, other) = (stage.member().await, stage.member().await);
    let (first, second) = (stage.server(member.project).await, stage.server(member.project).await);
    let foreign = stage.server(other.project).await;
    let (mut ear, _) = Ear::open(&plane, &member, None).await;
    let load = plane.world.load.clone();
    let feeding = tokio::spawn(async move {
        for level in 0.. {
            let samples = [foreign, first, second].map(|server| (server, sample(level)));
            load.take(&samples, &std::collections::HashSet::new(), clock::now());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let watch = |servers: &[ServerId]| serde_json::json!({ "type": "watch", "servers": servers }).to_string();
    ear.say(&watch(&[foreign, first])).await;
    for _ in 0..5 {
        assert!(matches!(ear.next().await, LiveMessage::Load { server, .. } if server == first));
    }
    // From now on the other one, and no more of the first.
    ear.say(&watch(&[second])).await;
    until("the second one is heard", async || {
        matches!(ear.next().await, LiveMessage::Load { server, .. } if server == second).then_some(())
    })
    .await;
    for _ in 0..5 {
        assert!(matches!(ear.next().await, LiveMessage::Load { server, .. } if server == second));
    }
    // Events come between samples, and an empty list ends them.
    ear.say(&watch(&[])).await;
    emit(stage.db(), member.project, 9).await;
    until("the event is heard", async || matches!(ear.next().await, LiveMessage::Event(_)).then_some(()))
        .await;
    feeding.abort();
}

#[tokio::test]
async fn a_client_that_says_what_it_may_not_is_closed() {
    let stage = Stage::new().await;
    let plane = stage.plane().await;
    let member = stage.member().await;
    for hello in ["", "hello", "{}x", r#"{"last_seq": "1"}"#, r#"{"last": 1}"#] {
        let mut ear = Ear::dial(&plane, &member).await.unwrap();
        ear.say(hello).await;
        assert_eq!(ear.close_code().await, 1008, "{hello:?}");
    }
    let too_many: Vec<i64> = (0..=WATCH_MAX as i64).collect();
    let too_many = serde_json::json!({ "type": "watch", "servers": too_many }).to_string();
    for command in ["watch", r#"{"type": "dance"}"#, r#"{"type": "watch", "servers": ["a"]}"#, &too_many] {
        let (mut ear, _) = Ear::open(&plane, &member, None).await;
        ear.say(command).await;
        assert_eq!(ear.close_code().await, 1008, "{command:?}");
    }
    let (mut ear, _) = Ear::open(&plane, &member, None).await;
    ear.0.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    assert_eq!(ear.close_code().await, 1008);
}

#[tokio::test]
async fn a_socket_ends_with_its_token_and_with_the_control_plane() {
    let stage = Stage::new().await;
    let settings = Settings { recheck_every: Duration::from_millis(100), ..Settings::default() };
    let plane = stage.plane_with(settings).await;
    let (one, two) = (stage.member().await, stage.member().await);
    let (mut ends, _) = Ear::open(&plane, &one, None).await;
    let (mut stays, _) = Ear::open(&plane, &two, None).await;
    sqlx::query("delete from tokens where project_id = $1")
        .bind(one.project)
        .execute(stage.db())
        .await
        .unwrap();
    assert_eq!(ends.close_code().await, CLOSE_ENDED);
    emit(stage.db(), two.project, 1).await;
    assert_eq!(stays.gone().await, (1, 1));
    plane.stop();
    assert_eq!(stays.close_code().await, 1001);
}

#[tokio::test]
async fn a_deleted_token_closes_its_sockets_at_once_on_every_control_plane() {
    // Nothing is asked again by itself in this test.
    let live = Settings { recheck_every: Duration::from_secs(3600), ..Settings::default() };
    let berth =
        Berth::start_with("workers_interactive = 0", Options { live: live.clone(), ..Options::default() })
            .await;
    let other = berth.another_with("workers_interactive = 0", Options { live, ..Options::default() }).await;
    let ada = berth.customer().await;
    let mut ears = Vec::new();
    let form = serde_json::json!({"name": "ci", "access": "read"});
    let tokens: [TokenCreated; 2] = [
        ada.post("/v1/tokens", form.clone()).await.expect(201),
        ada.post("/v1/tokens", form).await.expect(201),
    ];
    for token in &tokens {
        let bearer = format!("Bearer {}", token.secret);
        let base = other.url().replace("http", "ws");
        ears.push(Ear::show(&base, &[("authorization", &bearer)]).await.unwrap().greet(None).await.0);
    }
    assert_eq!(ada.delete(&format!("/v1/tokens/{}", tokens[0].token.id)).await.status, 204);
    assert_eq!(timeout(PATIENCE, ears[0].close_code()).await.expect("it is closed"), CLOSE_ENDED);
    emit(&berth.world().db, ada.project(), 1).await;
    assert!(matches!(ears[1].next().await, LiveMessage::Event(_)), "the other stays");
}

#[tokio::test]
async fn a_page_left_open_does_not_keep_its_session_alive() {
    let live = Settings { recheck_every: Duration::from_millis(100), ..Settings::default() };
    let berth = Berth::start_with("", Options { live, ..Options::default() }).await;
    let (mut ear, _) = Ear::of_page(&berth).await;
    let sql =
        "update sessions set last_used = now() - interval '1 hour', expires = now() + interval '2 seconds'";
    sqlx::query(sql).execute(&berth.world().db).await.unwrap();
    let closed = timeout(PATIENCE, ear.close_code()).await.expect("it ends with its session");
    assert_eq!(closed, CLOSE_ENDED);
}

#[tokio::test]
async fn open_sockets_do_not_hold_up_the_end() {
    let berth = Berth::start_with("", Options::default()).await;
    // One that takes leave, and one that says nothing any more.
    let ((mut polite, _), (_silent, _)) = (Ear::of_page(&berth).await, Ear::of_page(&berth).await);
    let stopping = tokio::spawn(timeout(Duration::from_secs(10), berth.stop()));
    assert_eq!(polite.close_code().await, 1001);
    stopping.await.unwrap().expect("it stops within ten seconds");
}

#[tokio::test]
async fn who_holds_too_many_sockets_gets_no_more() {
    let stage = Stage::new().await;
    let plane = stage.plane().await;
    let (member, other) = (stage.member().await, stage.member().await);
    let mut ears = Vec::new();
    for _ in 0..berth_server::live::SOCKETS_PER_HOLDER {
        ears.push(Ear::dial(&plane, &member).await.unwrap());
    }
    assert!(matches!(Ear::dial(&plane, &member).await, Err(Error::Http(answer)) if answer.status() == 429));
    assert!(Ear::dial(&plane, &other).await.is_ok());
    ears.pop();
    until("there is a place again", async || Ear::dial(&plane, &member).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_dropped_holds_up_nobody_and_resumes() {
    let stage = Stage::new().await;
    let plane = stage.plane().await;
    let member = stage.member().await;
    let (mut slow, _) = Ear::open(&plane, &member, None).await;
    let (mut quick, _) = Ear::open(&plane, &member, None).await;

    // Until the kernel's buffers and the queue are full; each batch is less than a queue holds, and
    // is read by the quick one before the next.
    const BATCH: i64 = 50;
    let steps = serde_json::json!([{ "title": "x".repeat(16 * 1024), "state": "now", "took_ms": null }]);
    let mut total = 0;
    while plane.world.live.listeners() == 2 {
        assert!(total < 20_000, "the slow one holds memory without bound");
        let mut tx = stage.db().begin().await.unwrap();
        sqlx::query(
            "insert into outbox (project_id, at, change)
             select $1, now(), jsonb_build_object('kind', 'action', 'action', jsonb_build_object(
                 'id', n, 'command', 'x', 'status', 'running', 'progress', 0, 'started', '2026-11-20T02:14:00Z',
                 'finished', null, 'resources', '[]'::jsonb, 'error', null, 'steps', $2::jsonb))
             from generate_series(1, $3) n",
        )
        .bind(member.project)
        .bind(&steps)
        .bind(BATCH)
        .execute(&mut *tx)
        .await
        .unwrap();
        sqlx::query("select pg_notify('outbox', '')").execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        for seq in total + 1..=total + BATCH {
            assert_eq!(quick.event().await.seq, seq, "the quick one is not held up");
        }
        total += BATCH;
    }

    let mut last = 0;
    let code = loop {
        match timeout(PATIENCE, slow.0.next()).await.expect("closed in time") {
            Some(Ok(Message::Text(text))) => {
                let LiveMessage::Event(event) = serde_json::from_str(&text).unwrap() else {
                    panic!("{text}")
                };
                assert_eq!(event.seq, last + 1);
                last = event.seq;
            }
            Some(Ok(Message::Close(Some(frame)))) => break u16::from(frame.code),
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(code, CLOSE_TOO_SLOW);
    assert!(last < total, "it was dropped before the end");
    let (mut back, _) = Ear::open(&plane, &member, Some(last)).await;
    for seq in last + 1..=total {
        assert_eq!(back.event().await.seq, seq);
    }
}
