//! Consoles: for who has a ticket, once, and the password.

use std::time::Duration;

use berth_agent::hypervisor::Hypervisor as _;
use berth_model::people::TokenCreated;
use berth_model::server::ConsoleRequested;
use berth_model::{ServerId, VmId};
use berth_server::consoles::{PER_SERVER_MAX, rfb};
use berth_server::live::Settings;
use berth_server::serve::Options;
use berth_server::{accounts, clock};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::shop::Shop;
use crate::support::{Client, PATIENCE, until};

/// A viewer in a browser.
struct Viewer {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    heard: Vec<u8>,
}

impl Viewer {
    async fn open(url: &str) -> Result<Self, u16> {
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "binary".parse().unwrap());
        match connect_async(request).await {
            Ok((socket, answer)) => {
                assert_eq!(answer.headers()["sec-websocket-protocol"], "binary");
                Ok(Self { socket, heard: Vec::new() })
            }
            Err(Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.socket.send(Message::binary(bytes.to_vec())).await.unwrap();
    }

    /// The next bytes, or how it was closed.
    async fn hear(&mut self) -> Result<(), Option<CloseFrame>> {
        loop {
            match timeout(PATIENCE, self.socket.next()).await.expect("something is said") {
                Some(Ok(Message::Binary(bytes))) => {
                    self.heard.extend(bytes);
                    return Ok(());
                }
                Some(Ok(Message::Close(frame))) => return Err(frame),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    async fn take<const N: usize>(&mut self) -> [u8; N] {
        while self.heard.len() < N {
            self.hear().await.expect("it is open");
        }
        let taken = self.heard[..N].try_into().unwrap();
        self.heard.drain(..N);
        taken
    }

    /// The words with which it was closed.
    async fn farewell(&mut self) -> String {
        loop {
            if let Err(frame) = self.hear().await {
                return frame.expect("a reason").reason.to_string();
            }
        }
    }

    /// Shakes hands up to the answer to the password: 0 is let in.
    async fn show(&mut self, password: &str) -> u32 {
        assert_eq!(&self.take::<12>().await, b"RFB 003.008\n");
        self.say(b"RFB 003.008\n").await;
        assert_eq!(self.take::<2>().await, [1, 2], "a password is asked for");
        self.say(&[2]).await;
        let challenge = self.take::<16>().await;
        self.say(&rfb::answer(password, challenge)).await;
        u32::from_be_bytes(self.take().await)
    }

    /// Goes on to the size of the screen.
    async fn screen(&mut self) -> (u16, u16) {
        self.say(&[1]).await;
        let [w1, w2, h1, h2] = self.take().await;
        (u16::from_be_bytes([w1, w2]), u16::from_be_bytes([h1, h2]))
    }
}

async fn ask(shop: &Shop, server: ServerId) -> ConsoleRequested {
    ask_as(shop.customer.client(), server).await
}

async fn ask_as(client: &Client, server: ServerId) -> ConsoleRequested {
    client.post(&format!("/v1/servers/{server}/actions/request_console"), json!({})).await.expect(201)
}

/// A console at which somebody sits.
async fn sat_at(client: &Client, server: ServerId) -> Viewer {
    let console = ask_as(client, server).await;
    let mut viewer = Viewer::open(&console.wss_url).await.unwrap();
    assert_eq!(viewer.show(&console.password).await, 0);
    viewer.screen().await;
    viewer
}

async fn running(shop: &Shop) -> ServerId {
    let made = shop.order().await;
    shop.succeeds(made.action.id).await;
    made.server.id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_opens_in_a_browser_and_ends_with_its_server() {
    let shop = Shop::open().await;
    let worker = shop.worker("");
    let server = running(&shop).await;
    let console = ask(&shop, server).await;
    assert_eq!((console.action.command.as_str(), console.action.progress), ("request_console", 100));
    assert!(console.wss_url.starts_with(&shop.berth.url().replacen("http", "ws", 1)), "{}", console.wss_url);
    let mut viewer = Viewer::open(&console.wss_url).await.unwrap();
    assert_eq!(viewer.show(&console.password).await, 0);
    assert_eq!(viewer.screen().await, (720, 400));
    shop.node.simulator.power(VmId::from(server), berth_model::agent::PowerVerb::PowerOff).unwrap();
    assert_eq!(viewer.farewell().await, "the console ended with its server");
    until("it is seen to be off", async || {
        let reply =
            shop.customer.post(&format!("/v1/servers/{server}/actions/request_console"), json!({})).await;
        (reply.status == 422).then_some(())
    })
    .await;
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_was_used_is_late_or_for_another_server_opens_nothing() {
    let shop = Shop::open().await;
    let worker = shop.worker("");
    let (server, another) = (running(&shop).await, running(&shop).await);
    let db = &shop.berth.world().db;

    let used = ask(&shop, server).await;
    drop(Viewer::open(&used.wss_url).await.unwrap());
    assert_eq!(Viewer::open(&used.wss_url).await.err(), Some(401), "used");

    let late = ask(&shop, server).await;
    sqlx::query("update console_tickets set expires = now()").execute(db).await.unwrap();
    assert_eq!(Viewer::open(&late.wss_url).await.err(), Some(401), "late");

    let elsewhere = ask(&shop, server).await;
    let url = elsewhere.wss_url.replace(&format!("/servers/{server}/"), &format!("/servers/{another}/"));
    assert_ne!(url, elsewhere.wss_url);
    assert_eq!(Viewer::open(&url).await.err(), Some(401), "for another server");
    assert_eq!(Viewer::open(&elsewhere.wss_url).await.err(), Some(401), "and it is used up by that");

    let forged = elsewhere.wss_url.replace("token=", "token=x");
    assert_eq!(Viewer::open(&forged).await.err(), Some(401), "forged");

    // Nothing that opens anything is in the database.
    let kept = ask(&shop, server).await;
    let secret = kept.wss_url.split("token=").nth(1).unwrap();
    let rows: Vec<String> =
        sqlx::query_scalar("select t::text from console_tickets t").fetch_all(db).await.unwrap();
    assert!(!rows.is_empty());
    let hexed = [secret, &kept.password].map(hex::encode);
    assert!(rows.iter().all(|row| hexed.iter().all(|secret| !row.contains(secret))), "{rows:?}");

    // Of those who come at once with one ticket, one gets in.
    let tries = (0..8).map(|_| Viewer::open(&kept.wss_url));
    let opened = futures_util::future::join_all(tries).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(opened, 1);
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_ends_with_the_rights_that_opened_it() {
    // Nothing is asked again by itself in this test.
    let live = Settings { recheck_every: Duration::from_secs(3600), ..Settings::default() };
    let shop = Shop::open_with(Options { live, ..Options::default() }).await;
    let worker = shop.worker("");
    let (server, customer, db) = (running(&shop).await, &shop.customer, &shop.berth.world().db);
    let over = "the rights that opened it have ended";

    let form = json!({"name": "ci", "access": "read_write"});
    let token: TokenCreated = customer.post("/v1/tokens", form).await.expect(201);
    let program = customer.client().stranger().with_token(&token.secret);
    let (mut of_program, mut of_person) =
        (sat_at(&program, server).await, sat_at(customer.client(), server).await);
    let late = ask_as(&program, server).await;
    assert_eq!(customer.delete(&format!("/v1/tokens/{}", token.token.id)).await.status, 204);
    assert_eq!(of_program.farewell().await, over, "the token is gone");
    assert_eq!(Viewer::open(&late.wss_url).await.err(), Some(401), "and with it its tickets");

    let late = ask(&shop, server).await;
    let suspend = |reason| accounts::cli::account_suspend(db, customer.email(), reason, clock::now());
    suspend(Some("The invoice of May is not paid.")).await.unwrap();
    assert_eq!(of_person.farewell().await, over, "the account is suspended");
    assert_eq!(Viewer::open(&late.wss_url).await.err(), Some(403), "and its tickets open nothing");
    suspend(None).await.unwrap();

    let mut of_person = sat_at(customer.client(), server).await;
    let removed = "delete from memberships where user_id = $1 returning account_id";
    let account: i64 = sqlx::query_scalar(removed).bind(customer.user()).fetch_one(db).await.unwrap();
    assert_eq!(of_person.farewell().await, over, "they are no member any more");
    let again = sqlx::query("insert into memberships (account_id, user_id) values ($1, $2)");
    again.bind(account).bind(customer.user()).execute(db).await.unwrap();

    let mut of_person = sat_at(customer.client(), server).await;
    let late = ask(&shop, server).await;
    assert_eq!(customer.delete("/v1/session").await.status, 204);
    assert_eq!(of_person.farewell().await, over, "they signed out");
    assert_eq!(Viewer::open(&late.wss_url).await.err(), Some(401), "and with it its tickets");
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_ends_when_its_server_is_deleted_or_its_rights_run_out() {
    let live = Settings { recheck_every: Duration::from_millis(100), ..Settings::default() };
    let shop = Shop::open_with(Options { live, ..Options::default() }).await;
    let worker = shop.worker("");
    let (server, doomed) = (running(&shop).await, running(&shop).await);
    let mut viewer = sat_at(shop.customer.client(), doomed).await;
    let deleted = shop.delete(doomed).await;
    viewer.farewell().await;
    shop.succeeds(deleted.id).await;

    let mut viewer = sat_at(shop.customer.client(), server).await;
    let run_out = "update sessions set expires = now() where user_id = $1";
    sqlx::query(run_out).bind(shop.customer.user()).execute(&shop.berth.world().db).await.unwrap();
    assert_eq!(viewer.farewell().await, "the rights that opened it have ended");
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_misbehaves_at_a_console_is_shown_out() {
    let shop = Shop::open().await;
    let worker = shop.worker("");
    let server = running(&shop).await;

    let console = ask(&shop, server).await;
    let mut viewer = Viewer::open(&console.wss_url).await.unwrap();
    assert_eq!(viewer.show("x").await, 1);
    assert_eq!(viewer.farewell().await, "wrong password");

    let console = ask(&shop, server).await;
    let mut viewer = Viewer::open(&console.wss_url).await.unwrap();
    assert_eq!(viewer.show(&console.password).await, 0);
    viewer.screen().await;
    viewer.socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(viewer.farewell().await, "only binary messages");

    let mut open = Vec::new();
    for _ in 0..PER_SERVER_MAX {
        open.push(Viewer::open(&ask(&shop, server).await.wss_url).await.unwrap());
    }
    assert_eq!(Viewer::open(&ask(&shop, server).await.wss_url).await.err(), Some(429), "too many are open");
    open.pop();
    until("the place is free again", async || Viewer::open(&ask(&shop, server).await.wss_url).await.ok())
        .await;

    let off = shop.customer.get(&format!("/v1/servers/{server}/console?token=x")).await;
    assert_eq!(off.code(), "unauthorized");
    worker.stop(Duration::from_secs(10)).await;
}
