//! What all endpoints share, from outside: errors, limits, ids, idempotency, headers, the app.

use std::io::Write as _;
use std::time::Duration;

use berth_model::people::TokenAccess;
use berth_server::serve::Options;
use http::Method;
use serde_json::{Value, json};

use crate::support::{Berth, Client, Person, Reply, until};

#[tokio::test]
async fn every_error_has_the_apis_form() {
    let berth = Berth::without_workers().await;
    let ada = berth.customer().await;
    let post = |body: &'static str, kind: &'static str| {
        let request = ada.request(Method::POST, "/v1/tokens").header("content-type", kind);
        Reply::of(request.body(body))
    };
    for (body, code) in
        [("", "json_error"), ("{", "json_error"), ("{} x", "json_error"), ("\u{7f}", "json_error")]
    {
        assert_eq!(post(body, "application/json").await.code(), code, "{body:?}");
    }
    for body in ["[]", "5", "null", "\"x\""] {
        post(body, "application/json").await.refuses("body");
    }
    assert_eq!(post("{}", "text/plain").await.code(), "json_error");
    post("{}", "application/json; charset=utf-8").await.refuses("name");
    let long = ada.post("/v1/tokens", json!({"name": "x".repeat(70_000), "access": "read"})).await;
    long.refuses("body");
    let deep = "[".repeat(10_000);
    let request = ada.request(Method::POST, "/v1/tokens").header("content-type", "application/json");
    assert_eq!(Reply::of(request.body(deep)).await.code(), "json_error");

    for (path, status, code) in [
        ("/v1/nothing", 404, "not_found"),
        ("/v1/", 404, "not_found"),
        ("/v1/servers/7/nothing", 404, "not_found"),
        ("/v1/servers/seven", 404, "not_found"),
        ("/v1/servers/-1", 404, "not_found"),
        ("/v1/servers?page=0", 422, "invalid_input"),
        ("/v1/servers?per_page=51", 422, "invalid_input"),
        ("/v1/servers?name=%00", 422, "invalid_input"),
    ] {
        let reply = ada.get(path).await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (status, code), "{path}");
    }
    let reply = ada.put("/v1/session", json!({})).await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (405, "not_found"));
    assert!(reply.headers["allow"].to_str().unwrap().contains("DELETE"));
}

#[tokio::test]
async fn an_answer_carries_the_requests_id() {
    let berth = Berth::without_workers().await;
    let id = |reply: &Reply| reply.headers["x-request-id"].to_str().unwrap().to_owned();
    let given = berth.stranger().with("x-request-id", "order-7").get("/v1/servers").await;
    assert_eq!(id(&given), "order-7");
    let made = (berth.stranger().get("/healthz").await, berth.stranger().get("/healthz").await);
    assert!(id(&made.0).len() == 32 && id(&made.0) != id(&made.1));
    let unfit = berth.stranger().with("x-request-id", "a b\"c").get("/healthz").await;
    assert_eq!(id(&unfit).len(), 32);
}

#[tokio::test]
async fn a_caller_that_asks_too_often_is_told_when_to_come_back() {
    let berth = Berth::start_with("rate_limit_per_hour = 5", Options::default()).await;
    let ada = berth.customer().await;
    for left in (0..5).rev() {
        let reply = ada.get("/v1/session").await;
        assert_eq!(reply.status, 200);
        assert_eq!(
            (reply.headers["ratelimit-limit"].as_bytes(), &reply.headers["ratelimit-remaining"]),
            (&b"5"[..], &left.to_string().parse().unwrap())
        );
    }
    let reply = ada.get("/v1/session").await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (429, "rate_limit_exceeded"));
    assert!(reply.headers.contains_key("retry-after") && reply.headers.contains_key("ratelimit-reset"));
    assert_eq!(berth.customer().await.get("/v1/session").await.status, 200, "others have their own");
    assert_eq!(ada.get("/healthz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn control_planes_share_what_a_caller_may_send() {
    // 7,200 an hour: two come back every second, and a control plane settles after 20.
    let limit = "rate_limit_per_hour = 7200\nworkers_interactive = 0\nworkers_background = 0";
    let berth = Berth::start_with(limit, Options::default()).await;
    let other = berth.another_with(limit, Options::default()).await;
    let ada = berth.customer().await;
    let here = ada.token(TokenAccess::Read).await;
    let there = here.clone().at(other.url());
    let left = |reply: &Reply| reply.headers["ratelimit-remaining"].to_str().unwrap().parse::<i64>().unwrap();

    // The bucket is nearly empty already, as the database has it.
    for _ in 0..20 {
        assert_eq!(here.get("/v1/locations").await.status, 200);
    }
    let db = &berth.world().db;
    until("the shared bucket is there", async || {
        let emptied = sqlx::query("update rate_buckets set remaining = 200, at = clock_timestamp()");
        (emptied.execute(db).await.unwrap().rows_affected() > 0).then_some(())
    })
    .await;
    let began = std::time::Instant::now();
    let both = (0..600).map(async |n| if n % 2 == 0 { &here } else { &there }.get("/v1/locations").await);
    let replies = futures_util::StreamExt::collect::<Vec<_>>(futures_util::StreamExt::buffer_unordered(
        futures_util::stream::iter(both),
        8,
    ))
    .await;
    let allowed = replies.iter().filter(|reply| reply.status == 200).count();
    // What came back meanwhile, and at most 40 that each of the two let through before it knew.
    let most = 200 + 2 * (began.elapsed().as_secs() as usize + 1) + 2 * 40;
    assert!((200..=most).contains(&allowed), "{allowed} of 600 were let through, {most} at most");
    for reply in replies.iter().filter(|reply| reply.status != 200) {
        assert_eq!((reply.code().as_str(), left(reply)), ("rate_limit_exceeded", 0));
        assert!(reply.headers.contains_key("retry-after"));
    }
    // What was let through too much is paid back: the shared bucket is about empty, whatever each counted.
    until("all is settled", async || {
        let shared: f64 =
            sqlx::query_scalar("select remaining from rate_buckets").fetch_one(db).await.unwrap();
        (shared < 10.0).then_some(())
    })
    .await;
    let reply = Reply::of(berth.stranger().request(Method::GET, "/v1/locations")).await;
    assert_eq!(left(&reply), 7199, "others have their own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_dropped_counts() {
    // Of so few, each is settled before it is answered.
    let berth = Berth::start_with("rate_limit_per_hour = 100", Options::default()).await;
    let (db, nobody) = (&berth.world().db, berth.stranger().with_token(&"x".repeat(64)));
    assert_eq!(nobody.get("/v1/locations").await.status, 401);
    // Others give theirs back by and by: until none comes any more.
    let mut held = Vec::new();
    while let Ok(conn) = tokio::time::timeout(Duration::from_millis(500), db.acquire()).await {
        held.push(conn.unwrap());
    }
    let waits = nobody.request(Method::GET, "/v1/locations").timeout(Duration::from_secs(1)).send().await;
    assert!(waits.is_err_and(|error| error.is_timeout()), "it waits for a connection");
    drop(held);
    until("both are counted", async || {
        let left: f64 =
            sqlx::query_scalar("select min(remaining) from rate_buckets").fetch_one(db).await.unwrap();
        (left < 98.5).then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_asks_once_is_counted_without_a_write() {
    let berth = Berth::start_with("rate_limit_per_hour = 3600", Options::default()).await;
    for n in 0..50 {
        let invented = berth.stranger().with_token(&format!("{n:064}"));
        assert_eq!(invented.get("/v1/servers").await.headers["ratelimit-remaining"], "3599");
    }
    berth.world().db.acquire().await.unwrap();
    let rows: i64 =
        sqlx::query_scalar("select count(*) from rate_buckets").fetch_one(&berth.world().db).await.unwrap();
    assert_eq!(rows, 0);
}

async fn get_if_none_match(client: &Client, path: &str, tag: &str) -> Reply {
    Reply::of(client.request(Method::GET, path).header("if-none-match", tag)).await
}

#[tokio::test]
async fn who_has_a_list_already_is_not_sent_it_again() {
    let berth = Berth::without_workers().await;
    berth.catalog().await;
    let (ada, bob) = (berth.customer().await, berth.customer().await);
    let key = json!({"name": "k", "public_key": crate::support::PUBLIC_KEYS[0]});
    for path in [
        "/v1/servers",
        "/v1/images",
        "/v1/locations",
        "/v1/server_types",
        "/v1/ssh_keys",
        "/v1/session",
        "/v1/limits",
    ] {
        let first = ada.get(path).await;
        assert_eq!(
            (first.status.as_u16(), &first.headers["cache-control"]),
            (200, &"private, no-cache".parse().unwrap())
        );
        assert_eq!(first.headers["vary"], "authorization, cookie, berth-project");
        let tag = first.headers["etag"].to_str().unwrap().to_owned();
        let again = get_if_none_match(ada.client(), path, &tag).await;
        assert_eq!((again.status.as_u16(), again.text.as_str()), (304, ""), "{path}");
        assert_eq!(
            (&again.headers["etag"], again.headers.get("content-type")),
            (&first.headers["etag"], None)
        );
        // Rights come first, and nobody's tag is good for another, even where both see the same.
        assert_eq!(get_if_none_match(&berth.stranger(), path, &tag).await.status, 401, "{path}");
        assert_eq!(get_if_none_match(bob.client(), path, &tag).await.status, 200, "{path}");
    }
    let tag = ada.get("/v1/ssh_keys").await.headers["etag"].to_str().unwrap().to_owned();
    let made = ada.post("/v1/ssh_keys", key).await;
    assert!(made.headers.get("etag").is_none() && made.headers["cache-control"] == "no-store");
    assert_eq!(
        get_if_none_match(ada.client(), "/v1/ssh_keys", &tag).await.status,
        200,
        "it is another list now"
    );
    let token = ada.post("/v1/tokens", json!({"name": "ci", "access": "read"})).await;
    assert!(token.headers.get("etag").is_none());
    assert!(ada.get("/v1/servers/0").await.headers.get("etag").is_none(), "errors have none");
}

#[tokio::test]
async fn what_only_people_may_ask_for_is_not_told_to_a_program_with_the_same_key() {
    let berth = Berth::without_workers().await;
    let ada = berth.customer().await;
    let program = ada.token(TokenAccess::ReadWrite).await;
    let body = json!({"name": "ci", "access": "read"});
    let first = Reply::of(with_key(ada.client(), "k", &body)).await;
    let stolen = Reply::of(with_key(&program, "k", &body)).await;
    assert_eq!((first.status.as_u16(), stolen.code().as_str()), (201, "conflict"), "{}", stolen.text);
    let staff = berth.staff().await;
    let suspend =
        staff.client().request(Method::POST, "/v1/staff/accounts/0/resume").header("idempotency-key", "k");
    assert_eq!(Reply::of(suspend).await.error().message, "There is no such account.");
}

fn with_key(client: &Client, key: &str, body: &Value) -> reqwest::RequestBuilder {
    client.request(Method::POST, "/v1/tokens").header("idempotency-key", key).json(body)
}

async fn tokens(person: &Person) -> usize {
    person.get("/v1/tokens").await.json()["tokens"].as_array().unwrap().len()
}

#[tokio::test]
async fn the_same_key_and_body_give_the_same_answer_and_do_nothing_twice() {
    let berth = Berth::without_workers().await;
    let (ada, bob) = (berth.customer().await, berth.customer().await);
    let body = json!({"name": "ci", "access": "read"});
    let first = Reply::of(with_key(ada.client(), "k1", &body)).await;
    let again = Reply::of(with_key(ada.client(), "k1", &body)).await;
    assert_eq!((first.status.as_u16(), &first.text), (201, &again.text));
    assert_eq!(again.status, 201);
    assert!(again.headers.contains_key("idempotency-replayed"));
    assert_eq!(tokens(&ada).await, 1);

    let other_body = json!({"name": "cd", "access": "read"});
    let other = Reply::of(with_key(ada.client(), "k1", &other_body)).await;
    assert_eq!((other.status.as_u16(), other.code().as_str()), (409, "conflict"));
    assert_eq!(Reply::of(with_key(ada.client(), "k2", &other_body)).await.status, 201);
    assert_eq!(
        Reply::of(with_key(bob.client(), "k1", &body)).await.status,
        201,
        "a key belongs to a project"
    );
    assert_eq!((tokens(&ada).await, tokens(&bob).await), (2, 1));

    // A mistake is answered again too.
    let wrong = json!({"name": "", "access": "read"});
    let (one, two) = (
        Reply::of(with_key(ada.client(), "k3", &wrong)).await,
        Reply::of(with_key(ada.client(), "k3", &wrong)).await,
    );
    assert_eq!((one.status.as_u16(), one.error()), (422, two.error()));
    Reply::of(with_key(ada.client(), &"k".repeat(256), &body)).await.refuses("Idempotency-Key");
    let stranger = Reply::of(with_key(&berth.stranger(), "k1", &body)).await;
    assert_eq!(stranger.code(), "unauthorized");
}

#[tokio::test]
async fn many_with_one_key_at_once_do_it_once() {
    let berth = Berth::without_workers().await;
    let ada = berth.customer().await;
    let body = json!({"name": "ci", "access": "read"});
    let replies = (0..10).map(|_| Reply::of(with_key(ada.client(), "k", &body)));
    let replies = futures_util::future::join_all(replies).await;
    for reply in &replies {
        assert!([201, 409].contains(&reply.status.as_u16()), "{}", reply.text);
    }
    assert_eq!(tokens(&ada).await, 1);
    assert_eq!(Reply::of(with_key(ada.client(), "k", &body)).await.status, 201);
}

#[tokio::test]
async fn a_request_that_was_cut_off_is_not_done_again_under_its_key() {
    let berth = Berth::without_workers().await;
    let ada = berth.customer().await;
    let db = &berth.world().db;
    let body = json!({"name": "ci", "access": "read"});
    assert_eq!(Reply::of(with_key(ada.client(), "k", &body)).await.status, 201);
    // As a process leaves it that dies between the handler's commit and its answer.
    sqlx::query("update idempotency_keys set status = null, response = null").execute(db).await.unwrap();
    let reply = Reply::of(with_key(ada.client(), "k", &body)).await;
    assert!(
        reply.code() == "conflict" && reply.error().message.contains("still under way"),
        "{}",
        reply.text
    );
    let age = |minutes: i32| {
        sqlx::query("update idempotency_keys set created = created - make_interval(mins => $1)")
            .bind(minutes)
            .execute(db)
    };
    age(5).await.unwrap();
    let reply = Reply::of(with_key(ada.client(), "k", &body)).await;
    assert!(reply.code() == "conflict" && reply.error().message.contains("cut off"), "{}", reply.text);
    assert_eq!(tokens(&ada).await, 1);
    age(24 * 60).await.unwrap();
    assert_eq!(
        Reply::of(with_key(ada.client(), "k", &body)).await.status,
        201,
        "after a day it is a new key"
    );
}

#[tokio::test]
async fn a_failure_of_ours_is_not_kept_under_a_key() {
    let berth = Berth::without_workers().await;
    let ada = berth.customer().await;
    let db = &berth.world().db;
    let body = json!({"name": "ci", "access": "read"});
    sqlx::raw_sql("alter table tokens add constraint broken check (name <> 'ci')").execute(db).await.unwrap();
    let reply = Reply::of(with_key(ada.client(), "k", &body)).await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (500, "server_error"));
    let id = reply.headers["x-request-id"].to_str().unwrap();
    assert!(reply.error().message.contains(id) && !reply.text.contains("broken"), "{}", reply.text);
    sqlx::raw_sql("alter table tokens drop constraint broken").execute(db).await.unwrap();
    assert_eq!(Reply::of(with_key(ada.client(), "k", &body)).await.status, 201);
}

#[tokio::test]
async fn a_caller_that_hangs_up_finds_the_answer_under_its_key() {
    let berth = Berth::without_workers().await;
    let ada = berth.customer().await;
    let db = &berth.world().db;
    let body = json!({"name": "ci", "access": "read"});
    // Everything that refers to the project waits for this lock, the key's row too.
    let mut tx = db.begin().await.unwrap();
    sqlx::query("select id from projects for update").execute(&mut *tx).await.unwrap();
    let request = with_key(ada.client(), "k", &body).timeout(std::time::Duration::from_millis(300));
    assert!(request.send().await.is_err(), "the caller gave up");
    tx.rollback().await.unwrap();
    let reply = until("the answer is kept", async || {
        let reply = Reply::of(with_key(ada.client(), "k", &body)).await;
        (reply.status == 201).then_some(reply)
    })
    .await;
    assert!(reply.headers.contains_key("idempotency-replayed"));
    assert_eq!(tokens(&ada).await, 1);
}

#[tokio::test]
async fn readiness_is_about_the_database() {
    let berth = Berth::without_workers().await;
    assert_eq!(berth.stranger().get("/healthz").await.status, 200);
    let ready: Value = berth.stranger().get("/readyz").await.expect(200);
    assert_eq!(ready, json!({"ready": true, "database": true, "migrations": true, "nodes": []}));
    sqlx::raw_sql("delete from _sqlx_migrations").execute(&berth.world().db).await.unwrap();
    let ready: Value = berth.stranger().get("/readyz").await.expect(503);
    assert_eq!((&ready["database"], &ready["migrations"]), (&json!(true), &json!(false)));
    berth.world().db.close().await;
    let ready: Value = berth.stranger().get("/readyz").await.expect(503);
    assert_eq!((&ready["ready"], &ready["database"]), (&json!(false), &json!(false)));
    assert_eq!(berth.stranger().get("/healthz").await.status, 200, "it lives all the same");
}

#[tokio::test]
async fn metrics_are_for_this_machine_only() {
    let berth = Berth::without_workers().await;
    berth.stranger().get("/v1/servers").await;
    let metrics = berth.stranger().get("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(
        metrics.text.contains("http_requests_total{method=\"GET\",path=\"/v1/servers\",status=\"401\"}"),
        "{}",
        metrics.text
    );
    let passed_on = berth.stranger().with("x-forwarded-for", "198.51.100.1").get("/metrics").await;
    assert_eq!(passed_on.status, 404);
}

#[tokio::test]
async fn metrics_with_an_address_of_their_own_are_there_and_nowhere_else() {
    // A loopback address that no other test takes.
    let [a, b, c] = berth_server::entropy::bytes::<3>();
    let address = format!("127.{a}.{b}.{}:7790", c.clamp(1, 254));
    let settings = format!("metrics_listen = \"{address}\"\nworkers_interactive = 0");
    let berth = Berth::start_with(&settings, Options::default()).await;
    let own = Client::new(&format!("http://{address}"));
    let metrics = own.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.headers["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    assert!(metrics.text.contains("# TYPE database_connections gauge"), "{}", metrics.text);
    assert_eq!(berth.stranger().get("/metrics").await.status, 404);
    assert_eq!(own.get("/v1/servers").await.status, 404, "it serves nothing else");
}

fn app(berth: &Berth) -> Client {
    let folder = berth.folder().join("app");
    std::fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, content: &str| {
        std::fs::File::create(folder.join(name)).unwrap().write_all(content.as_bytes()).unwrap();
    };
    write("index.html", "<!doctype html><script type=\"module\">start()</script><style>a{}</style>");
    write("app-0123456789abcdef.js", "plain");
    write("app-0123456789abcdef.js.br", "brotli");
    write("app-0123456789abcdef.js.gz", "gzip");
    write("icon.svg", "<svg/>");
    berth.stranger()
}

#[tokio::test]
async fn a_page_is_the_app_whatever_its_address() {
    let berth = Berth::without_workers().await;
    let client = app(&berth);
    let browser = client.clone().with("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
    for path in ["/", "/servers", "/servers/7", "/index.html"] {
        let page = browser.get(path).await;
        assert_eq!(page.status, 200, "{path}");
        assert!(page.text.contains("start()"), "{path}");
        assert_eq!(page.headers["cache-control"], "no-cache", "{path}");
        assert_eq!(page.headers["x-content-type-options"], "nosniff");
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        // printf 'start()' | openssl dgst -sha256 -binary | base64; the same for 'a{}'
        let hash = |text: &str| {
            use base64::Engine as _;
            use sha2::Digest as _;
            base64::prelude::BASE64_STANDARD.encode(sha2::Sha256::digest(text))
        };
        assert!(policy.contains(&format!("'sha256-{}'", hash("start()"))), "{policy}");
        assert!(policy.contains(&format!("'sha256-{}'", hash("a{}"))), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe-inline"), "{policy}");
    }
    assert_eq!(browser.get("/v1/nothing").await.code(), "not_found", "the API is no page");
    assert_eq!(browser.get("/nothing.js").await.code(), "not_found", "a file that is missing is no page");
    assert_eq!(client.get("/servers").await.code(), "not_found", "a program wants no page");
    assert_eq!(browser.post("/servers", json!({})).await.code(), "not_found");
    assert_eq!(browser.get("/../Cargo.toml").await.code(), "not_found");
    assert_eq!(browser.get("/..%2f..%2fetc%2fpasswd").await.code(), "not_found");
}

#[tokio::test]
async fn files_are_sent_compressed_and_kept_by_their_hash() {
    let berth = Berth::without_workers().await;
    let client = app(&berth);
    let path = "/app-0123456789abcdef.js";
    for (accepts, is) in [("br, gzip", "brotli"), ("gzip", "gzip"), ("identity", "plain")] {
        let file = client.clone().with("accept-encoding", accepts).get(path).await;
        assert_eq!((file.status.as_u16(), file.text.as_str()), (200, is));
        assert_eq!(file.headers["cache-control"], "public, max-age=31536000, immutable");
        assert!(file.headers["content-type"].to_str().unwrap().contains("javascript"));
    }
    assert_eq!(client.get("/icon.svg").await.headers["cache-control"], "no-cache");
}

#[tokio::test]
async fn a_request_under_way_ends_well_when_the_control_plane_stops() {
    let berth = Berth::without_workers().await;
    let plane =
        berth.another_with("workers_interactive = 0\nworkers_background = 0", Options::default()).await;
    let ada = plane.customer().await;
    let mut tx = berth.world().db.begin().await.unwrap();
    sqlx::query("select id from projects for update").execute(&mut *tx).await.unwrap();
    let client = ada.client().clone();
    let order =
        tokio::spawn(async move { client.post("/v1/tokens", json!({"name": "ci", "access": "read"})).await });
    let db = &berth.world().db;
    until("the request waits", async || {
        let waiting =
            "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        sqlx::query(waiting).fetch_optional(db).await.unwrap().map(|_| ())
    })
    .await;
    let address = plane.url().to_owned();
    let stopping = tokio::spawn(plane.stop());
    let stranger = Client::new(&address);
    until("no new connection is taken", async || {
        stranger.request(Method::GET, "/healthz").send().await.is_err().then_some(())
    })
    .await;
    tx.rollback().await.unwrap();
    assert_eq!(order.await.unwrap().status, 201);
    stopping.await.unwrap();
}

#[tokio::test]
async fn a_second_control_plane_serves_the_same() {
    let berth = Berth::without_workers().await;
    let other = berth.another().await;
    let ada = berth.customer().await;
    let token = ada.token(TokenAccess::Read).await;
    assert_eq!(token.get("/v1/servers").await.status, 200);
    let secret = ada.post("/v1/tokens", json!({"name": "x", "access": "read"})).await.json()["secret"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(other.stranger().with_token(&secret).get("/v1/servers").await.status, 200);
    other.stop().await;
    assert_eq!(token.get("/v1/servers").await.status, 200);
}
