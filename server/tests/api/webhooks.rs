//! Webhooks, with a real receiver that fails, hangs and redirects, and control planes that die.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Redirect, Response};
use berth_model::event::Change;
use berth_model::webhook::{
    DeliveryStatus, Webhook, WebhookCreated, WebhookDelivery, WebhookDeliveryList, WebhookDeliveryReply,
    WebhookEvent, WebhookList, WebhookReply,
};
use berth_model::{ProjectId, ServerId};
use berth_server::clock;
use berth_server::live::outbox;
use berth_server::serve::Options;
use berth_server::webhooks::rules;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::support::{Berth, Person, until};

/// Sends to receivers on this machine, and leaves servers alone.
const SENDS: &str = "workers_interactive = 0\nwebhook_networks = [\"127.0.0.0/8\"]";

/// How the receiver answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Takes,
    Fails,
    Hangs,
    Redirects,
}

#[derive(Debug, Clone)]
struct Post {
    path: String,
    headers: HeaderMap,
    body: String,
}

impl Post {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    fn event(&self) -> i64 {
        self.header("berth-event").parse().unwrap()
    }
}

/// A customer's program that takes events.
struct Receiver {
    url: String,
    inner: Arc<Inner>,
}

struct Inner {
    mood: Mutex<Mood>,
    posts: Mutex<Vec<Post>>,
}

impl Receiver {
    async fn new(mood: Mood) -> Self {
        let inner = Arc::new(Inner { mood: Mutex::new(mood), posts: Mutex::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let routes = Router::new().fallback(take).with_state(inner.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { url, inner }
    }

    fn becomes(&self, mood: Mood) {
        *self.inner.mood.lock().unwrap() = mood;
    }

    fn posts(&self) -> Vec<Post> {
        self.inner.posts.lock().unwrap().clone()
    }

    fn events(&self) -> BTreeSet<i64> {
        self.posts().iter().map(Post::event).collect()
    }

    async fn has(&self, count: usize) -> Vec<Post> {
        until("the receiver has that many posts", async || {
            let posts = self.posts();
            (posts.len() >= count).then_some(posts)
        })
        .await
    }
}

async fn take(State(inner): State<Arc<Inner>>, request: axum::extract::Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let post = Post {
        path: parts.uri.path().to_owned(),
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    };
    inner.posts.lock().unwrap().push(post);
    let mood = *inner.mood.lock().unwrap();
    match mood {
        Mood::Takes => StatusCode::NO_CONTENT.into_response(),
        Mood::Fails => (StatusCode::BAD_GATEWAY, "no").into_response(),
        Mood::Redirects => Redirect::temporary("/elsewhere").into_response(),
        Mood::Hangs => std::future::pending().await,
    }
}

async fn hook(person: &Person, url: &str) -> WebhookCreated {
    person.post("/v1/webhooks", json!({"name": "mine", "url": url})).await.expect(201)
}

/// Something happens in the project.
async fn happens(db: &PgPool, project: ProjectId, count: i64) {
    for n in 0..count {
        let mut tx = db.begin().await.unwrap();
        let change = Change::ServerGone { id: ServerId(n) };
        outbox::publish(&mut tx, project, &change, clock::now()).await.unwrap();
        tx.commit().await.unwrap();
    }
}

async fn deliveries(person: &Person, webhook: &Webhook) -> Vec<WebhookDelivery> {
    let path = format!("/v1/webhooks/{}/deliveries?per_page=50", webhook.id);
    person.get(&path).await.expect::<WebhookDeliveryList>(200).deliveries
}

/// The pauses and leases are over.
async fn time_passes(db: &PgPool) {
    sqlx::query("update webhook_deliveries set next_attempt = now() where status = 'pending'")
        .execute(db)
        .await
        .unwrap();
    sqlx::query("update webhooks set next_due = now() where next_due is not null").execute(db).await.unwrap();
}

#[tokio::test]
async fn an_event_reaches_its_receiver_signed_and_once() {
    let berth = Berth::start_with(SENDS, Options::default()).await;
    let (ada, bob, db) = (berth.customer().await, berth.customer().await, &berth.world().db);
    happens(db, ada.project(), 1).await;
    let receiver = Receiver::new(Mood::Takes).await;
    until("what came before is published", async || {
        let open = sqlx::query_scalar::<_, i64>("select count(*) from outbox where seq is null");
        (open.fetch_one(db).await.unwrap() == 0).then_some(())
    })
    .await;
    let WebhookCreated { webhook, secret } = hook(&ada, &receiver.url).await;
    let picky =
        json!({"name": "picky", "url": receiver.url.replace("hook", "picky"), "kinds": ["action.error"]});
    ada.post("/v1/webhooks", picky).await.expect::<WebhookCreated>(201);
    happens(db, bob.project(), 1).await;
    happens(db, ada.project(), 3).await;

    let posts = receiver.has(3).await;
    let all = deliveries(&ada, &webhook).await;
    assert_eq!((posts.len(), all.len()), (3, 3), "neither others' events, nor older, nor of another kind");
    for post in &posts {
        let (timestamp, body) = (post.header("berth-timestamp").parse::<i64>().unwrap(), &post.body);
        assert_eq!(post.header("berth-signature"), rules::signature(secret.as_bytes(), timestamp, body));
        assert!((clock::now().unix_ms() / 1000 - timestamp).abs() < 120);
        let event: WebhookEvent<Value> = serde_json::from_str(body).unwrap();
        assert_eq!(
            (event.id, event.kind.as_str(), event.project),
            (post.event(), "server.deleted", ada.project())
        );
        assert!(event.data["id"].is_i64());
        assert_eq!((post.path.as_str(), post.header("content-type")), ("/hook", "application/json"));
    }
    let order: Vec<_> = posts.iter().map(Post::event).collect();
    assert!(order.is_sorted() && receiver.events().len() == 3, "{order:?}");
    until("all are noted as delivered", async || {
        let all = deliveries(&ada, &webhook).await;
        all.iter()
            .all(|one| one.status == DeliveryStatus::Delivered && one.http_status == Some(204))
            .then_some(())
    })
    .await;

    let list = ada.get("/v1/webhooks").await;
    assert!(!list.text.contains(&secret) && list.expect::<WebhookList>(200).webhooks.len() == 2);
    let kept: Vec<u8> = sqlx::query_scalar("select secret_sealed from webhooks where id = $1")
        .bind(webhook.id.0)
        .fetch_one(db)
        .await
        .unwrap();
    assert!(!kept.windows(secret.len()).any(|part| part == secret.as_bytes()));

    // Replayed, it comes again with the same number and body.
    let first = all.last().unwrap();
    let path = format!("/v1/webhooks/{}/deliveries/{}", webhook.id, first.id);
    ada.post(&format!("{path}/replay"), json!({})).await.expect::<WebhookDeliveryReply>(201);
    let again = receiver.has(4).await.pop().unwrap();
    assert_eq!((again.event(), &again.body), (first.event, &first.body));
    assert_eq!(ada.delete(&format!("/v1/webhooks/{}", webhook.id)).await.status, 204);
    assert_eq!(ada.get(&path).await.code(), "not_found");
}

#[tokio::test]
async fn what_fails_is_tried_again_under_the_same_number_and_redirects_are_not_followed() {
    let berth = Berth::start_with(SENDS, Options::default()).await;
    let (ada, db) = (berth.customer().await, &berth.world().db);
    let receiver = Receiver::new(Mood::Fails).await;
    let webhook = hook(&ada, &receiver.url).await.webhook;
    happens(db, ada.project(), 1).await;
    let failed = async |error: &str, attempts: i32| {
        until("the try is noted", async || {
            let one = deliveries(&ada, &webhook).await.pop()?;
            let is_noted =
                one.attempts == attempts && one.error.as_ref().is_some_and(|said| said.contains(error));
            is_noted.then(|| {
                assert_eq!((one.status, one.next_attempt.is_some()), (DeliveryStatus::Pending, true));
            })
        })
        .await;
    };
    failed("answered 502", 1).await;
    let shown: WebhookReply = ada.get(&format!("/v1/webhooks/{}", webhook.id)).await.expect(200);
    assert!(shown.webhook.failing_since.is_some() && shown.webhook.enabled);
    receiver.becomes(Mood::Redirects);
    time_passes(db).await;
    failed("answered 307", 2).await;
    assert!(receiver.posts().iter().all(|post| post.path == "/hook"));
    receiver.becomes(Mood::Takes);
    time_passes(db).await;
    until("it is delivered", async || {
        let one = deliveries(&ada, &webhook).await.pop().unwrap();
        (one.status == DeliveryStatus::Delivered && one.attempts == 3 && one.error.is_none()).then_some(())
    })
    .await;
    assert_eq!((receiver.posts().len(), receiver.events().len()), (3, 1));
    let shown: WebhookReply = ada.get(&format!("/v1/webhooks/{}", webhook.id)).await.expect(200);
    assert_eq!(shown.webhook.failing_since, None);
}

#[tokio::test]
async fn every_event_arrives_although_its_sender_is_killed_and_the_receiver_hangs() {
    // The first only serves; the one that sends is killed in the middle of a try.
    let berth = Berth::start_with(&format!("workers_background = 0\n{SENDS}"), Options::default()).await;
    let killed = berth.another_with(SENDS, Options::default()).await;
    let (ada, db) = (berth.customer().await, berth.world().db.clone());
    let receiver = Receiver::new(Mood::Hangs).await;
    let webhook = hook(&ada, &receiver.url).await.webhook;
    happens(&db, ada.project(), 10).await;
    receiver.has(1).await;
    drop(killed);
    happens(&db, ada.project(), 10).await;
    receiver.becomes(Mood::Takes);
    let survivor = berth.another_with(SENDS, Options::default()).await;
    until("every event was delivered", async || {
        // Leases end and pauses pass; a try that hangs is over after ten seconds.
        time_passes(&db).await;
        let all = deliveries(&ada, &webhook).await;
        (all.len() == 20 && all.iter().all(|one| one.status == DeliveryStatus::Delivered)).then_some(())
    })
    .await;
    let events: Vec<i64> = sqlx::query_scalar("select seq from outbox where project_id = $1 order by seq")
        .bind(ada.project().0)
        .fetch_all(&db)
        .await
        .unwrap();
    assert_eq!(receiver.events().into_iter().collect::<Vec<_>>(), events, "none is lost, none invented");
    drop(survivor);
}

#[tokio::test]
async fn a_name_that_leads_to_this_machine_is_refused_at_every_try() {
    let berth = Berth::start_with("workers_interactive = 0", Options::default()).await;
    let (ada, db) = (berth.customer().await, &berth.world().db);
    let receiver = Receiver::new(Mood::Takes).await;
    let by_name = receiver.url.replace("127.0.0.1", "localhost");
    let webhook = hook(&ada, &by_name).await.webhook;
    happens(db, ada.project(), 1).await;
    until("the try is refused", async || {
        let one = deliveries(&ada, &webhook).await.pop()?;
        one.error.filter(|error| error.contains("not public"))
    })
    .await;
    assert!(receiver.posts().is_empty());
    let direct = json!({"name": "direct", "url": receiver.url});
    ada.post("/v1/webhooks", direct).await.refuses("url");
}

#[tokio::test]
async fn a_webhook_that_fails_for_days_is_disabled_with_a_note() {
    let berth = Berth::start_with(SENDS, Options::default()).await;
    let (ada, db) = (berth.customer().await, &berth.world().db);
    let receiver = Receiver::new(Mood::Fails).await;
    let webhook = hook(&ada, &receiver.url).await.webhook;
    let path = format!("/v1/webhooks/{}", webhook.id);
    sqlx::query("update webhooks set failing_since = now() - interval '73 hours'").execute(db).await.unwrap();
    happens(db, ada.project(), 1).await;
    let disabled = until("it is disabled", async || {
        let shown: WebhookReply = ada.get(&path).await.expect(200);
        (!shown.webhook.enabled).then_some(shown.webhook)
    })
    .await;
    assert!(disabled.note.is_some_and(|note| note.contains("three days")));
    let one = deliveries(&ada, &webhook).await.pop().unwrap();
    assert_eq!(one.status, DeliveryStatus::Failed);
    assert_eq!(
        ada.post(&format!("{path}/deliveries/{}/replay", one.id), json!({})).await.code(),
        "unsupported_error"
    );

    receiver.becomes(Mood::Takes);
    let enabled: WebhookReply = ada.put(&path, json!({"enabled": true})).await.expect(200);
    assert_eq!(
        (enabled.webhook.enabled, enabled.webhook.note, enabled.webhook.failing_since),
        (true, None, None)
    );
    happens(db, ada.project(), 1).await;
    receiver.has(2).await;
    // A delivery that is a day old is given up.
    receiver.becomes(Mood::Fails);
    happens(db, ada.project(), 1).await;
    until("it is given up", async || {
        sqlx::query("update webhook_deliveries set give_up = now() where status = 'pending'")
            .execute(db)
            .await
            .unwrap();
        time_passes(db).await;
        let newest = deliveries(&ada, &webhook).await.remove(0);
        (newest.status == DeliveryStatus::Failed && newest.finished.is_some()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn every_wrong_field_of_a_webhook_is_named() {
    let berth = Berth::without_workers().await;
    let (ada, bob) = (berth.customer().await, berth.customer().await);
    let of = |name: &str, url: &str, kinds: Value| json!({"name": name, "url": url, "kinds": kinds});
    let url = "https://example.org/hook";
    for (field, form) in [
        ("name", of("", url, json!([]))),
        ("name", of(&"x".repeat(65), url, json!([]))),
        ("url", of("x", "example.org", json!([]))),
        ("url", of("x", "http://169.254.169.254/hetzner/v1/metadata", json!([]))),
        ("url", of("x", "http://[::1]:5432/", json!([]))),
        ("kinds[0]", of("x", url, json!(["server.sneezed"]))),
        ("kinds", of("x", url, json!("server.changed"))),
        ("secret", json!({"name": "x", "url": url, "secret": "mine"})),
    ] {
        ada.post("/v1/webhooks", form).await.refuses(field);
    }
    let made = hook(&ada, url).await.webhook;
    let twice = ada.post("/v1/webhooks", of("mine", url, json!([]))).await;
    assert_eq!((twice.status.as_u16(), twice.code().as_str()), (409, "uniqueness_error"));
    hook(&bob, url).await;
    let path = format!("/v1/webhooks/{}", made.id);
    ada.put(&path, json!({"url": "http://10.0.0.1/"})).await.refuses("url");
    let changed: WebhookReply = ada
        .put(&path, json!({"name": "yours", "kinds": ["action.error"], "enabled": false}))
        .await
        .expect(200);
    let Webhook { name, kinds, enabled, url: same, .. } = changed.webhook;
    assert_eq!((name.as_str(), kinds.len(), enabled, same.as_str()), ("yours", 1, false, url));
    let found: WebhookList = ada.get("/v1/webhooks?name=yours").await.expect(200);
    assert_eq!(found.webhooks.len(), 1);
    for n in 0..9 {
        ada.post("/v1/webhooks", of(&format!("w{n}"), url, json!([]))).await.ok::<Value>();
    }
    assert_eq!(
        ada.post("/v1/webhooks", of("eleven", url, json!([]))).await.code(),
        "resource_limit_exceeded"
    );
}
