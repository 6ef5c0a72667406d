//! Load: to whoever looks, into the database, and out of it in time.

use std::collections::HashSet;

use berth_model::load::{LoadReply, LoadSample, LoadSpan};
use berth_model::metrics::MetricsReply;
use berth_model::node::NodeState;
use berth_model::server::{ServerCreated, ServerStatus};
use berth_model::{ServerId, Timestamp};
use berth_server::load::{Load, queries, upkeep};
use berth_server::{clock, entropy};
use sqlx::PgPool;

use crate::fleet::Fleet;
use crate::support::{Berth, until};

fn sample(at: Timestamp, level: u32) -> LoadSample {
    LoadSample {
        at,
        cpu_millicores: level,
        memory_used_bytes: u64::from(level) * 1000,
        disk_read_bytes_per_s: 1,
        disk_write_bytes_per_s: 2,
        disk_read_ops_per_s: 3,
        disk_write_ops_per_s: 4,
        net_in_bytes_per_s: 5,
        net_out_bytes_per_s: u64::MAX,
        net_in_packets_per_s: 6,
        net_out_packets_per_s: 7,
    }
}

/// The beginning of this minute.
fn minute(at: Timestamp) -> Timestamp {
    Timestamp::from_unix_ms(at.unix_ms() / 60_000 * 60_000).unwrap()
}

async fn write(db: &PgPool, samples: &[(ServerId, LoadSample)], now: Timestamp) {
    let load = Load::new(db.clone(), entropy::uuid());
    load.take(samples, &HashSet::new(), now);
    load.flush().await.unwrap();
}

async fn read(db: &PgPool, server: ServerId, span: LoadSpan, to: Timestamp) -> Vec<LoadSample> {
    queries::samples(&mut db.acquire().await.unwrap(), server, span, to).await.unwrap()
}

async fn tables(db: &PgPool, like: &str) -> Vec<String> {
    let names = "select relname::text from pg_class where relkind = 'r' and relname like $1 order by 1";
    sqlx::query_scalar(names).bind(like).fetch_all(db).await.unwrap()
}

#[tokio::test]
async fn partitions_are_made_ahead_and_dropped_in_time() {
    let fleet = Fleet::start().await;
    let now = Timestamp::from_unix_ms(1_900_000_000_000).unwrap();
    upkeep(fleet.db(), now).await.unwrap();
    let first = tables(fleet.db(), "load\\_fine\\_%").await;
    assert_eq!(first.len(), 4, "{first:?}");
    upkeep(fleet.db(), now).await.unwrap();
    assert_eq!(tables(fleet.db(), "load\\_fine\\_%").await, first, "nothing to do twice");

    upkeep(fleet.db(), now.plus_seconds(3600)).await.unwrap();
    let later = tables(fleet.db(), "load\\_fine\\_%").await;
    assert!(first.iter().all(|name| later.contains(name)), "an hour is kept: {later:?}");
    upkeep(fleet.db(), now.plus_seconds(3 * 3600)).await.unwrap();
    let last = tables(fleet.db(), "load\\_fine\\_%").await;
    assert!(first.iter().all(|name| !last.contains(name)), "{last:?}");

    let days = tables(fleet.db(), "load\\_minute\\_%").await;
    upkeep(fleet.db(), now.plus_seconds(30 * 86_400)).await.unwrap();
    let kept = tables(fleet.db(), "load\\_minute\\_%").await;
    assert!(days.iter().all(|day| kept.contains(day)), "a month is kept: {kept:?}");
    upkeep(fleet.db(), now.plus_seconds(34 * 86_400)).await.unwrap();
    let month_on = tables(fleet.db(), "load\\_minute\\_%").await;
    assert!(days.iter().all(|day| !month_on.contains(day)), "{month_on:?}");
}

#[tokio::test]
async fn each_minute_is_computed_once_whoever_does_it() {
    let fleet = Fleet::start().await;
    let (db, server) = (fleet.db(), ServerId(5));
    let now = clock::now();
    let start = minute(now).plus_seconds(-180);
    upkeep(db, now).await.unwrap();
    // A sample stands for the time before it: the one at the full minute belongs to that minute.
    let samples = [(20, 100), (40, 200), (60, 600), (70, 50)]
        .map(|(s, level)| (server, sample(start.plus_seconds(s), level)));
    write(db, &samples, now).await;
    sqlx::query("update load_rollup set done_until = 'epoch'").execute(db).await.unwrap();

    let later = now.plus_seconds(120);
    let (one, other) = tokio::join!(upkeep(db, later), upkeep(db, later));
    one.unwrap();
    other.unwrap();
    let day = read(db, server, LoadSpan::Day, later).await;
    let minutes: i64 = sqlx::query_scalar("select count(*) from load_minute").fetch_one(db).await.unwrap();
    assert_eq!(minutes, 2);
    let cpu: Vec<i32> =
        sqlx::query_scalar("select cpu_millicores from load_minute order by at").fetch_all(db).await.unwrap();
    assert_eq!(cpu, [300, 50]);
    assert!(!day.is_empty());

    // What comes too late changes no minute that was told.
    write(db, &[(server, sample(start.plus_seconds(30), 9000))], now).await;
    upkeep(db, later.plus_seconds(60)).await.unwrap();
    let first: i32 = sqlx::query_scalar("select cpu_millicores from load_minute order by at limit 1")
        .fetch_one(db)
        .await
        .unwrap();
    assert_eq!(first, 300);
}

#[tokio::test]
async fn a_chart_gets_samples_or_means_of_equal_steps() {
    let fleet = Fleet::start().await;
    let (db, server) = (fleet.db(), ServerId(5));
    let now = minute(clock::now());
    upkeep(db, now).await.unwrap();
    // A step of 30 s with a mean of 20, and one with 40; another server's do not count.
    let mine =
        [(-59, 10), (-30, 30), (-29, 40)].map(|(s, level)| (server, sample(now.plus_seconds(s), level)));
    write(db, &mine, now).await;
    write(db, &[(ServerId(6), sample(now.plus_seconds(-59), 7000))], now).await;
    let live = read(db, server, LoadSpan::Live, now).await;
    assert_eq!(live.iter().map(|s| s.cpu_millicores).collect::<Vec<_>>(), [10, 30, 40]);
    assert_eq!(live[0].net_out_bytes_per_s, i64::MAX as u64, "as large as the database can tell");
    let hour = read(db, server, LoadSpan::Hour, now).await;
    assert_eq!(
        hour.iter().map(|s| (s.at, s.cpu_millicores)).collect::<Vec<_>>(),
        [(now.plus_seconds(-30), 20), (now, 40)]
    );
}

#[tokio::test]
async fn samples_wait_while_the_database_has_no_room() {
    let fleet = Fleet::start().await;
    let now = clock::now();
    let load = Load::new(fleet.db().clone(), entropy::uuid());
    load.take(&[(ServerId(5), sample(now, 10))], &HashSet::new(), now);
    assert!(load.flush().await.is_err(), "there is no partition yet");
    upkeep(fleet.db(), now).await.unwrap();
    load.flush().await.unwrap();
    assert_eq!(read(fleet.db(), ServerId(5), LoadSpan::Live, now).await.len(), 1);
    let strange = [(ServerId(5), sample(now.plus_seconds(86_400), 10))];
    load.take(&strange, &HashSet::new(), now);
    load.flush().await.unwrap();
    assert_eq!(load.latest(ServerId(5)).unwrap().at, now, "from a clock that is wrong");
}

#[tokio::test]
async fn a_watched_server_is_seen_through_every_control_plane() {
    let fleet = Fleet::start().await;
    let node = fleet.node("n1").await;
    let server = fleet.server(node.id, ServerStatus::Off).await;
    node.boot(server);
    let planes = [fleet.plane(), fleet.plane()];
    fleet.state_becomes(node.id, NodeState::Up).await;
    let mut seen: Vec<_> = planes.iter().map(|plane| plane.load.subscribe(server)).collect();
    // One of the two does not keep the node: its samples come from the other.
    let guards: Vec<_> = planes.iter().map(|plane| plane.load.watch(&[server])).collect();
    for receiver in &mut seen {
        for _ in 0..3 {
            until("a sample comes", || {
                let received = receiver.try_recv();
                async { received.ok() }
            })
            .await;
        }
    }
    drop(guards);
    until("samples are in the database", || async {
        let rows: i64 =
            sqlx::query_scalar("select count(*) from load_fine").fetch_one(fleet.db()).await.unwrap();
        (rows > 0).then_some(())
    })
    .await;
    for plane in planes {
        plane.stop().await;
    }
}

#[tokio::test]
async fn a_watch_ends_with_its_last_guard() {
    let fleet = Fleet::start().await;
    let plane = fleet.plane();
    let watched = async || -> Vec<i64> {
        sqlx::query_scalar("select server_id from load_watches where until > now() order by 1")
            .fetch_all(fleet.db())
            .await
            .unwrap()
    };
    let (one, other) = (plane.load.watch(&[ServerId(1), ServerId(2)]), plane.load.watch(&[ServerId(2)]));
    until("both are watched", || async { (watched().await == [1, 2]).then_some(()) }).await;
    drop(one);
    // Let the first run out at once, instead of in 15 s.
    sqlx::query("update load_watches set until = now()").execute(fleet.db()).await.unwrap();
    until("one is renewed", || async { (watched().await == [2]).then_some(()) }).await;
    drop(other);
    plane.stop().await;
}

#[tokio::test]
async fn a_chart_is_for_those_who_may_see_the_server() {
    let berth = Berth::without_workers().await;
    berth.catalog().await;
    let (customer, other) = (berth.customer().await, berth.other_customer().await);
    let order = serde_json::json!({"name": "web", "server_type": "s1", "image": "tiny", "location": "rtm1"});
    let created: ServerCreated = customer.post("/v1/servers", order).await.ok();
    let (server, now) = (created.server.id, clock::now());
    let db = &berth.world().db;
    // The control plane's own upkeep may be at it, then this one finds nothing to do.
    until("the partitions", async || {
        upkeep(db, now).await.unwrap();
        (!tables(db, "load\\_fine\\_%").await.is_empty()).then_some(())
    })
    .await;
    write(db, &[(server, sample(now.plus_seconds(-5), 70))], now).await;

    let path = format!("/v1/servers/{server}/load");
    let reply: LoadReply = customer.get(&path).await.ok();
    assert_eq!((reply.server, reply.step_s, reply.samples.len()), (server, 2, 1));
    assert_eq!(reply.to.unix_ms() - reply.from.unix_ms(), 600_000);
    for span in [LoadSpan::Live, LoadSpan::Hour, LoadSpan::Day, LoadSpan::Week, LoadSpan::Month] {
        let reply: LoadReply = customer.get(&format!("{path}?span={}", span.word())).await.ok();
        assert_eq!(reply.step_s, span.step_s());
    }
    customer.get(&format!("{path}?span=2h")).await.refuses("span");
    assert_eq!(other.get(&path).await.code(), "not_found");
    assert_eq!(berth.stranger().get(&path).await.code(), "unauthorized");
    berth.stop().await;
}

#[tokio::test]
async fn metrics_are_means_over_the_steps_that_were_asked_for() {
    let berth = Berth::without_workers().await;
    berth.catalog().await;
    let (customer, other) = (berth.customer().await, berth.other_customer().await);
    let order = serde_json::json!({"name": "web", "server_type": "s1", "image": "tiny", "location": "rtm1"});
    let created: ServerCreated = customer.post("/v1/servers", order).await.ok();
    let (server, now) = (created.server.id, clock::now());
    let db = &berth.world().db;
    until("the partitions", async || {
        upkeep(db, now).await.unwrap();
        (!tables(db, "load\\_fine\\_%").await.is_empty()).then_some(())
    })
    .await;
    let start = minute(now.plus_seconds(-120));
    let mine =
        [(10, 1000), (20, 2010), (40, 55)].map(|(s, level)| (server, sample(start.plus_seconds(s), level)));
    write(db, &mine, now).await;

    let path = format!("/v1/servers/{server}/metrics");
    let ask = async |query: &str| {
        let end = start.plus_seconds(60);
        customer.get(&format!("{path}?start={start}&end={end}&{query}")).await
    };
    let reply: MetricsReply = ask("type=cpu,network&step=30").await.expect(200);
    assert_eq!((reply.metrics.start, reply.metrics.step), (start, 30.0));
    let at = |s: i64| start.plus_seconds(s).unix_ms() as f64 / 1000.0;
    let values = |name: &str| reply.metrics.time_series[name].values.clone();
    assert_eq!(values("cpu"), [(at(30), "150.5".to_owned()), (at(60), "5.5".to_owned())]);
    assert_eq!(values("network.0.pps.out"), [(at(30), "7".to_owned()), (at(60), "7".to_owned())]);
    assert!(!reply.metrics.time_series.contains_key("disk.0.iops.read"));
    let usual: MetricsReply = ask("type=disk").await.expect(200);
    assert_eq!((usual.metrics.step, usual.metrics.time_series.len()), (2.0, 4));
    // By the minute, and where nothing was measured: no points.
    let long = format!("{path}?type=cpu&start=2020-01-01T00:00:00%2B02:00&end=2021-01-01T00:00:00Z&step=1");
    let long: MetricsReply = customer.get(&long).await.expect(200);
    assert!(long.metrics.step > 3600.0 && long.metrics.time_series["cpu"].values.is_empty());

    ask("type=cake").await.refuses("type");
    ask("step=1").await.refuses("type");
    ask("type=cpu&step=0").await.refuses("step");
    customer.get(&format!("{path}?type=cpu&start=yesterday&end={now}")).await.refuses("start");
    customer.get(&format!("{path}?type=cpu&start={now}&end={start}")).await.refuses("end");
    customer.get(&format!("{path}?type=cpu&end={now}")).await.refuses("start");
    assert_eq!(other.get(&format!("{path}?type=cpu&start={start}&end={now}")).await.code(), "not_found");
    berth.stop().await;
}
