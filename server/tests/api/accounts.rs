//! Sign-up, sign-in, sessions, passwords and tokens, as people and programs see them.

use berth_model::Timestamp;
use berth_model::people::Role::{Customer, Owner};
use berth_model::people::{AccountList, AccountReply, Session, TokenAccess, TokenCreated, TokenList};
use berth_server::serve::Options;
use berth_server::{accounts, clock, entropy};
use http::StatusCode;
use serde_json::{Value, json};

use crate::support::{Berth, Client, PASSWORD, Reply, until};

fn sign_up(name: &str) -> Value {
    json!({"email": format!("{name}@example.org"), "name": "Ada Lovelace", "password": PASSWORD})
}

/// A browser that keeps the cookie of an answer.
fn signed_in(stranger: &Client, reply: &Reply) -> Client {
    stranger.clone().with_session(reply.cookie("berth_session").expect("a cookie"))
}

async fn sign_in(client: &Client, email: &str, password: &str) -> Reply {
    client.post("/v1/session", json!({"email": email, "password": password})).await
}

#[tokio::test]
async fn who_signs_up_is_signed_in_with_an_account_and_a_project() {
    let berth = Berth::without_workers().await;
    let stranger = berth.stranger();
    let reply = stranger.post("/v1/users", sign_up("Ada")).await;
    let session: Session = reply.expect(201);
    assert_eq!((session.user.email.as_str(), session.projects.len()), ("Ada@example.org", 1));
    assert_eq!(
        (session.projects[0].name.as_str(), session.projects[0].account.name.as_str()),
        ("default", "Ada Lovelace")
    );
    let cookie = reply.headers["set-cookie"].to_str().unwrap();
    for attribute in ["HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=2592000"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    assert!(!cookie.contains("Secure"), "over plain HTTP a browser would drop it: {cookie}");

    let again: Session = signed_in(&stranger, &reply).get("/v1/session").await.expect(200);
    assert_eq!(again.user, session.user);
    let taken = stranger.post("/v1/users", sign_up("ada")).await;
    assert_eq!(
        (taken.status.as_u16(), taken.code().as_str()),
        (409, "uniqueness_error"),
        "case does not matter"
    );
    assert!(taken.error().for_field("email").is_some());
}

#[tokio::test]
async fn a_cookie_is_for_https_only_where_people_come_by_https() {
    let berth = Berth::start_with("public_url = \"https://cloud.example.org\"", Options::default()).await;
    let reply = berth.stranger().post("/v1/users", sign_up("ada")).await;
    assert_eq!(reply.status, 201);
    assert!(reply.headers["set-cookie"].to_str().unwrap().contains("Secure"));
    assert!(reply.headers.contains_key("strict-transport-security"));
}

#[tokio::test]
async fn every_wrong_field_of_a_sign_up_is_named() {
    let berth = Berth::without_workers().await;
    let stranger = berth.stranger();
    let long = "a".repeat(101);
    let wrong: [(&str, Value); 17] = [
        ("email", json!("")),
        ("email", json!("ada")),
        ("email", json!("a b@example.org")),
        ("email", json!("ada@example.org\u{0}")),
        ("email", json!(format!("{}@example.org", "a".repeat(300)))),
        ("email", json!(5)),
        ("email", json!(null)),
        ("name", json!("")),
        ("name", json!("   ")),
        ("name", json!(long)),
        ("name", json!("a\nb")),
        ("name", json!(["a"])),
        ("password", json!("short")),
        ("password", json!("x".repeat(1025))),
        ("password", json!("aaaaaaaaaaaaaaa")),
        ("password", json!("ada@example.org")),
        ("password", json!(true)),
    ];
    for (field, value) in wrong {
        let mut form = sign_up("ada");
        form[field] = value.clone();
        let reply = stranger.post("/v1/users", form).await;
        assert!(reply.status == 422, "{field} {value}: {}", reply.text);
        reply.refuses(field);
    }
    for field in ["email", "name", "password"] {
        let mut form = sign_up("ada");
        form.as_object_mut().unwrap().remove(field);
        stranger.post("/v1/users", form).await.refuses(field);
    }
    let mut form = sign_up("ada");
    form["role"] = json!("owner");
    stranger.post("/v1/users", form).await.refuses("role");
    let all = stranger.post("/v1/users", json!({"email": "x", "name": "", "password": ""})).await;
    assert_eq!(all.error().details.unwrap().fields.len(), 3, "all are told at once");
}

#[tokio::test]
async fn every_wrong_field_of_a_sign_in_is_named() {
    let berth = Berth::without_workers().await;
    let stranger = berth.stranger();
    for (field, email, password) in [
        ("email", json!(""), json!("x")),
        ("email", json!(7), json!("x")),
        ("password", json!("a@b.c"), json!("")),
        ("password", json!("a@b.c"), json!("x".repeat(1025))),
        ("password", json!("a@b.c"), json!({})),
    ] {
        stranger.post("/v1/session", json!({"email": email, "password": password})).await.refuses(field);
    }
    stranger.post("/v1/session", json!({"email": "a@b.c"})).await.refuses("password");
    stranger.post("/v1/session", json!({"email": "a@b.c", "password": "x", "otp": 1})).await.refuses("otp");
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_look_alike() {
    let berth = Berth::without_workers().await;
    let ada = berth.customer().await;
    let wrong = sign_in(&berth.stranger(), ada.email(), "not the password").await;
    let unknown = sign_in(&berth.stranger(), "nobody@example.org", "not the password").await;
    assert_eq!((wrong.status.as_u16(), wrong.code().as_str()), (401, "unauthorized"));
    assert_eq!((wrong.status, wrong.error()), (unknown.status, unknown.error()));
    assert!(wrong.cookie("berth_session").is_none());
    sign_in(&berth.stranger(), &ada.email().to_uppercase(), PASSWORD).await.expect::<Session>(201);
}

#[tokio::test]
async fn signing_out_ends_the_session_for_good() {
    let berth = Berth::without_workers().await;
    let ada = berth.customer().await;
    let browser = signed_in(&berth.stranger(), &sign_in(&berth.stranger(), ada.email(), PASSWORD).await);
    let gone = browser.delete("/v1/session").await;
    assert_eq!(gone.status, 204);
    assert!(gone.headers["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    assert_eq!(browser.get("/v1/session").await.status, 401);
    assert_eq!(ada.get("/v1/session").await.status, 200, "her other browser is still signed in");
}

#[tokio::test]
async fn signing_in_again_replaces_the_session_of_the_browser() {
    let berth = Berth::without_workers().await;
    let ada = berth.customer().await;
    let first = signed_in(&berth.stranger(), &sign_in(&berth.stranger(), ada.email(), PASSWORD).await);
    let second = signed_in(&berth.stranger(), &sign_in(&first, ada.email(), PASSWORD).await);
    assert_eq!(first.get("/v1/session").await.status, 401);
    assert_eq!(second.get("/v1/session").await.status, 200);
}

#[tokio::test]
async fn a_session_ends_when_it_is_not_used_and_lives_on_when_it_is() {
    let berth = Berth::without_workers().await;
    let ada = berth.customer().await;
    let db = &berth.world().db;
    let shift = |hours: &'static str| {
        let sql =
            "update sessions set last_used = last_used - $1::interval, expires = expires - $1::interval";
        sqlx::query(sqlx::AssertSqlSafe(sql.replace("$1", &format!("'{hours}'")))).execute(db)
    };
    shift("50 minutes").await.unwrap();
    let session: Session = ada.get("/v1/session").await.expect(200);
    assert!(session.expires > clock::now().plus_seconds(29 * 24 * 3600), "its use put the end off");
    shift("31 days").await.unwrap();
    assert_eq!(ada.get("/v1/session").await.status, 401);
    let mut conn = db.acquire().await.unwrap();
    accounts::queries::prune(&mut conn, clock::now()).await.unwrap();
    let left: i64 = sqlx::query_scalar("select count(*) from sessions").fetch_one(db).await.unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_session_ends_when_the_password_changes() {
    let berth = Berth::without_workers().await;
    let ada = berth.customer().await;
    let browser = signed_in(&berth.stranger(), &sign_in(&berth.stranger(), ada.email(), PASSWORD).await);
    let change = |current: &str, new: &str| json!({"current_password": current, "new_password": new});
    let path = "/v1/session/password";
    browser.post(path, change("wrong", "another good one")).await.refuses("current_password");
    browser.post(path, change("", "another good one")).await.refuses("current_password");
    browser.post(path, change(PASSWORD, "short")).await.refuses("new_password");
    browser.post(path, change(PASSWORD, ada.email())).await.refuses("new_password");
    browser.post(path, json!({"new_password": "another good one"})).await.refuses("current_password");
    browser.post(path, json!({"current_password": 1, "new_password": "x"})).await.refuses("current_password");
    assert_eq!(browser.post(path, change(PASSWORD, "another good one")).await.status, 204);
    assert_eq!(browser.get("/v1/session").await.status, 200, "the one who changed it stays");
    assert_eq!(ada.get("/v1/session").await.status, 401, "all others end");
    assert_eq!(sign_in(&berth.stranger(), ada.email(), PASSWORD).await.status, 401);
    assert_eq!(sign_in(&berth.stranger(), ada.email(), "another good one").await.status, 201);
}

#[tokio::test]
async fn the_sixth_wrong_password_must_wait_and_so_must_the_right_one() {
    let berth = Berth::without_workers().await;
    let (ada, bob) = (berth.customer().await, berth.customer().await);
    for _ in 0..5 {
        assert_eq!(sign_in(&berth.stranger(), ada.email(), "wrong password").await.status, 401);
    }
    let limited = sign_in(&berth.stranger(), ada.email(), PASSWORD).await;
    assert_eq!((limited.status.as_u16(), limited.code().as_str()), (429, "rate_limit_exceeded"));
    assert!(limited.error().message.contains("Wait 10 minutes"), "{}", limited.text);
    let wait: u64 = limited.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=600).contains(&wait), "{wait}");
    assert_eq!(sign_in(&berth.stranger(), bob.email(), PASSWORD).await.status, 201, "others are not held up");
    sqlx::query("update sign_in_failures set at = at - interval '11 minutes'")
        .execute(&berth.world().db)
        .await
        .unwrap();
    assert_eq!(sign_in(&berth.stranger(), ada.email(), PASSWORD).await.status, 201);
}

#[tokio::test]
async fn a_hundred_tries_at_once_count_like_a_hundred_in_a_row() {
    let berth = Berth::without_workers().await;
    let ada = berth.customer().await;
    let tries = (0..30)
        .map(|_| async { sign_in(&berth.stranger(), ada.email(), "wrong password").await.status.as_u16() });
    let statuses = futures_util::future::join_all(tries).await;
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 5, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 25, "{statuses:?}");
}

#[tokio::test]
async fn an_address_that_tries_many_users_must_wait() {
    let berth = Berth::start_with("trusted_proxies = [\"127.0.0.1\"]", Options::default()).await;
    let ada = berth.customer().await;
    let from = |address: &str| berth.stranger().with("x-forwarded-for", address);
    for n in 0..20 {
        // All from one household: the last 64 bits of an IPv6 address are the customer's to choose.
        let client = from(&format!("2001:db8:1:2::{n:x}"));
        assert_eq!(sign_in(&client, &format!("user{n}@example.org"), "wrong password").await.status, 401);
    }
    assert_eq!(sign_in(&from("2001:db8:1:2::ffff"), ada.email(), PASSWORD).await.status, 429);
    assert_eq!(sign_in(&from("2001:db8:1:3::1"), ada.email(), PASSWORD).await.status, 201);
}

#[tokio::test]
async fn a_header_does_not_change_the_address_of_who_is_no_proxy() {
    let berth = Berth::without_workers().await;
    for n in 0..20 {
        let client = berth.stranger().with("x-forwarded-for", &format!("198.51.100.{n}"));
        assert_eq!(sign_in(&client, &format!("user{n}@example.org"), "wrong password").await.status, 401);
    }
    let client = berth.stranger().with("x-forwarded-for", "198.51.100.77");
    assert_eq!(sign_in(&client, "somebody@example.org", "wrong password").await.status, 429);
}

#[tokio::test]
async fn signing_in_from_another_sites_page_is_refused() {
    let berth = Berth::without_workers().await;
    let ada = berth.customer().await;
    let elsewhere = berth.stranger().with("origin", "https://evil.example");
    assert_eq!(sign_in(&elsewhere, ada.email(), PASSWORD).await.status, 403);
    let form = elsewhere.without("origin").request(http::Method::POST, "/v1/session");
    let form = form.header("content-type", "text/plain").body(r#"{"email":"a@b.c","password":"x"}"#);
    assert_eq!(Reply::of(form).await.code(), "json_error", "a form of another site cannot send JSON as JSON");
}

#[tokio::test]
async fn a_token_opens_its_project_until_it_is_deleted() {
    let berth = Berth::without_workers().await;
    let ada = berth.customer().await;
    let made: TokenCreated =
        ada.post("/v1/tokens", json!({"name": " ci ", "access": "read"})).await.expect(201);
    assert_eq!(
        (made.token.name.as_str(), made.token.access, made.secret.len()),
        ("ci", TokenAccess::Read, 64)
    );
    assert!(made.secret.bytes().all(|b| b.is_ascii_alphanumeric()) && made.token.last_used.is_none());
    let program = berth.stranger().with_token(&made.secret);
    assert_eq!(program.get("/v1/servers").await.status, 200);

    let list = ada.get("/v1/tokens").await;
    assert!(!list.text.contains(&made.secret));
    let TokenList { tokens } = list.expect(200);
    assert_eq!((tokens.len(), tokens[0].id), (1, made.token.id));
    let last_used = tokens[0].last_used.expect("its use is noted");
    assert_eq!(program.get("/v1/servers").await.status, 200);
    let TokenList { tokens } = ada.get("/v1/tokens").await.expect(200);
    assert_eq!(tokens[0].last_used, Some(last_used), "to the minute, not at every use");

    let id = made.token.id;
    assert_eq!(ada.delete(&format!("/v1/tokens/{id}")).await.status, 204);
    assert_eq!(program.get("/v1/servers").await.code(), "unauthorized");
    assert_eq!(ada.delete(&format!("/v1/tokens/{id}")).await.code(), "not_found");
}

#[tokio::test]
async fn a_deleted_token_opens_nothing_on_any_control_plane() {
    let berth = Berth::without_workers().await;
    let other = berth.another_with("workers_interactive = 0", Options::default()).await;
    let ada = berth.customer().await;
    let made: TokenCreated =
        ada.post("/v1/tokens", json!({"name": "ci", "access": "read_write"})).await.expect(201);
    let (here, there) =
        (berth.stranger().with_token(&made.secret), other.stranger().with_token(&made.secret));
    for _ in 0..3 {
        assert_eq!(
            (here.get("/v1/servers").await.status, there.get("/v1/servers").await.status),
            (StatusCode::OK, StatusCode::OK)
        );
    }
    assert_eq!(ada.delete(&format!("/v1/tokens/{}", made.token.id)).await.status, 204);
    assert_eq!(there.get("/v1/servers").await.code(), "unauthorized");
    assert_eq!(here.get("/v1/servers").await.code(), "unauthorized");
}

#[tokio::test]
async fn a_token_opens_nothing_once_it_has_expired() {
    let berth = Berth::without_workers().await;
    let ada = berth.customer().await;
    let soon = clock::now().plus_seconds(2);
    let form = json!({"name": "ci", "access": "read", "expires": soon});
    let made: TokenCreated = ada.post("/v1/tokens", form).await.expect(201);
    let told = |expires: Timestamp| expires.unix_ms() / 1000;
    assert_eq!(made.token.expires.map(told), Some(told(soon)));
    let program = berth.stranger().with_token(&made.secret);
    assert_eq!(program.get("/v1/servers").await.status, 200);
    until("the token has expired", async || (program.get("/v1/servers").await.status == 401).then_some(()))
        .await;
    assert!(clock::now() >= soon);
    let TokenList { tokens } = ada.get("/v1/tokens").await.expect(200);
    assert_eq!(tokens[0].id, made.token.id, "it is still listed");
    let past = json!({"name": "ci", "access": "read", "expires": clock::now().plus_seconds(-1)});
    ada.post("/v1/tokens", past).await.refuses("expires");
}

#[tokio::test]
async fn a_suspended_account_reads_and_is_told_why_it_may_not_write() {
    let berth = Berth::without_workers().await;
    let other = berth.another_with("workers_interactive = 0", Options::default()).await;
    let (ada, staff) = (berth.customer().await, berth.staff().await);
    let token = ada.token(TokenAccess::ReadWrite).await;
    let session: Session = ada.get("/v1/session").await.expect(200);
    let account = session.projects[0].account.id;
    let path = |verb: &str| format!("/v1/staff/accounts/{account}/{verb}");

    staff.post(&path("suspend"), json!({"reason": " "})).await.refuses("reason");
    let reason = "The invoice of May is not paid.";
    let told: AccountReply = staff.post(&path("suspend"), json!({"reason": reason})).await.expect(200);
    assert_eq!(told.account.suspended.unwrap().reason, reason);
    let key = json!({"name": "k", "public_key": crate::support::PUBLIC_KEYS[0]});
    let elsewhere = ada.client().clone().at(other.url());
    for client in [ada.client(), &token, &elsewhere] {
        let reply = client.post("/v1/ssh_keys", key.clone()).await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (403, "forbidden"));
        assert!(reply.error().message.contains(reason), "{}", reply.text);
        assert_eq!(client.get("/v1/ssh_keys").await.status, 200);
    }
    let session: Session = ada.get("/v1/session").await.expect(200);
    assert_eq!(session.projects[0].account.suspended.as_ref().unwrap().reason, reason);
    let email = ada.email();
    for (query, found) in
        [(format!("email={email}&suspended=true"), 1), (format!("email={email}&suspended=false"), 0)]
    {
        let list: AccountList = staff.get(&format!("/v1/staff/accounts?{query}")).await.expect(200);
        assert_eq!(list.accounts.len(), found, "{query}");
    }

    // The command line does the same.
    let db = &berth.world().db;
    let resumed = accounts::cli::account_suspend(db, email, None, clock::now()).await.unwrap();
    assert_eq!(resumed, [account]);
    assert_eq!(token.post("/v1/ssh_keys", key).await.status, 201);
    accounts::cli::account_suspend(db, email, Some("Again."), clock::now()).await.unwrap();
    assert!(token.delete("/v1/ssh_keys/0").await.error().message.contains("Again."));
    assert_eq!(staff.post(&path("resume"), json!({})).await.status, 200);
    assert_eq!(token.delete("/v1/ssh_keys/0").await.code(), "not_found");
    assert!(accounts::cli::account_suspend(db, "nobody@example.org", None, clock::now()).await.is_err());
    assert_eq!(staff.post("/v1/staff/accounts/0/resume", json!({})).await.code(), "not_found");
}

#[tokio::test]
async fn every_wrong_field_of_a_token_is_named() {
    let berth = Berth::without_workers().await;
    let ada = berth.customer().await;
    for (field, form) in [
        ("name", json!({"name": "", "access": "read"})),
        ("name", json!({"name": "a".repeat(101), "access": "read"})),
        ("name", json!({"name": 5, "access": "read"})),
        ("name", json!({"access": "read"})),
        ("access", json!({"name": "ci", "access": "everything"})),
        ("access", json!({"name": "ci", "access": null})),
        ("access", json!({"name": "ci"})),
        ("expires", json!({"name": "ci", "access": "read", "expires": 5})),
    ] {
        ada.post("/v1/tokens", form).await.refuses(field);
    }
    for path in ["/v1/tokens/0", "/v1/tokens/x", "/v1/tokens/99999999999999999999"] {
        assert_eq!(ada.delete(path).await.code(), "not_found", "{path}");
    }
}

#[tokio::test]
async fn a_project_has_a_bounded_number_of_tokens() {
    let berth = Berth::without_workers().await;
    let ada = berth.customer().await;
    sqlx::query(
        "insert into tokens (project_id, name, access, secret_hash, created)
         select $1, 'x', 'read', sha256(n::text::bytea), now() from generate_series(1, 200) n",
    )
    .bind(ada.project().0)
    .execute(&berth.world().db)
    .await
    .unwrap();
    let reply = ada.post("/v1/tokens", json!({"name": "ci", "access": "read"})).await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (403, "resource_limit_exceeded"));
}

#[tokio::test]
async fn a_session_names_its_project_in_a_header() {
    let berth = Berth::without_workers().await;
    let (ada, bob) = (berth.customer().await, berth.customer().await);
    let in_project = |id: String| ada.client().clone().with("berth-project", &id);
    assert_eq!(in_project(ada.project().to_string()).get("/v1/servers").await.status, 200);
    for id in [bob.project().to_string(), "0".into(), "x".into(), String::new()] {
        let reply = in_project(id.clone()).get("/v1/servers").await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (404, "not_found"), "{id:?}");
    }
    let staff = berth.staff().await;
    assert_eq!(staff.get("/v1/servers").await.code(), "not_found", "staff have no project of their own");
}

#[tokio::test]
async fn nothing_in_the_database_opens_anything() {
    let berth = Berth::without_workers().await;
    let reply = berth.stranger().post("/v1/users", sign_up("ada")).await;
    let cookie = reply.cookie("berth_session").unwrap().to_owned();
    let browser = signed_in(&berth.stranger(), &reply);
    let key = entropy::alphanumeric(10);
    let request = browser.request(http::Method::POST, "/v1/tokens").header("idempotency-key", key);
    let token: TokenCreated =
        Reply::of(request.json(&json!({"name": "ci", "access": "read"}))).await.expect(201);
    let tables = ["users", "sessions", "tokens", "idempotency_keys", "sign_in_failures"];
    for table in tables {
        let sql = format!("select coalesce(string_agg(t::text, ' '), '') from {table} t");
        let rows: String =
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&berth.world().db).await.unwrap();
        for secret in [cookie.as_str(), &token.secret, PASSWORD] {
            let is_there = rows.contains(secret) || rows.contains(&hex::encode(secret));
            assert!(!is_there, "{table} holds a secret in the clear");
        }
    }
}

#[tokio::test]
async fn people_and_tokens_are_made_from_the_command_line() {
    let berth = Berth::without_workers().await;
    let (db, now) = (&berth.world().db, clock::now());
    let add = |email: &'static str, role, password: &'static str| {
        accounts::cli::user_add(db, email, "Ada", role, password, now)
    };
    add("ada@example.org", Customer, PASSWORD).await.unwrap();
    add("own@example.org", Owner, PASSWORD).await.unwrap();
    let error = add("ADA@example.org", Customer, PASSWORD).await.unwrap_err().to_string();
    assert!(error.contains("already"), "{error}");
    assert!(add("bob@example.org", Customer, "short").await.is_err());
    assert!(add("bob", Customer, PASSWORD).await.is_err());
    assert_eq!(sign_in(&berth.stranger(), "ada@example.org", PASSWORD).await.status, 201);

    let token =
        |email: &'static str| accounts::cli::token_create(db, email, "ci", TokenAccess::ReadWrite, None, now);
    let secret = token("ada@example.org").await.unwrap();
    assert_eq!(berth.stranger().with_token(secret.expose()).get("/v1/servers").await.status, 200);
    assert!(token("own@example.org").await.unwrap_err().to_string().contains("no project"));
    assert!(token("nobody@example.org").await.unwrap_err().to_string().contains("no user"));
}
