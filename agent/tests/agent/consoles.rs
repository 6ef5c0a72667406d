//! Consoles as a browser's proxy sees them, on simulated VMs.

use std::time::Duration;

use berth_model::ErrorCode;
use berth_model::agent::{ConsoleKind, ConsoleLog, ConsoleTicket, PowerVerb, Screenshot};
use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::{Agent, PATIENCE, answer, spec};

/// Somebody who looks at a console.
struct Viewer(WebSocketStream<UnixStream>);

impl Viewer {
    /// With a ticket, at a path; the status if it is refused.
    async fn open(agent: &Agent, path: &str, ticket: &str) -> Result<Self, u16> {
        let stream = UnixStream::connect(agent.home.path().join("agent.sock")).await.unwrap();
        let mut request = format!("ws://agent{path}").into_client_request().unwrap();
        let protocols = format!("berth.console, berth.ticket.{ticket}");
        request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, response)) => {
                assert_eq!(response.headers()["sec-websocket-protocol"], "berth.console");
                Ok(Self(socket))
            }
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(e) => panic!("{e}"),
        }
    }

    async fn of(agent: &Agent, vm: i64, kind: ConsoleKind) -> Self {
        let ticket = ticket(agent, vm, kind).await;
        Self::open(agent, &ticket.path, &ticket.ticket).await.unwrap()
    }

    async fn types(&mut self, text: &str) {
        self.0.send(Message::binary(text.as_bytes().to_vec())).await.unwrap();
    }

    /// Reads until `text` was said.
    async fn until(&mut self, text: &str) {
        let mut said = String::new();
        while !said.contains(text) {
            match tokio::time::timeout(PATIENCE, self.0.next()).await.expect("something should come") {
                Some(Ok(Message::Binary(bytes))) => said.push_str(&String::from_utf8_lossy(&bytes)),
                Some(Ok(Message::Ping(_))) => {}
                other => panic!("{said}, and then {other:?}"),
            }
        }
    }

    async fn closed(&mut self) -> CloseCode {
        loop {
            match tokio::time::timeout(PATIENCE, self.0.next()).await.expect("it should close") {
                Some(Ok(Message::Close(frame))) => return frame.unwrap().code,
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

async fn ticket(agent: &Agent, vm: i64, kind: ConsoleKind) -> ConsoleTicket {
    let path = format!("/v1/vms/{vm}/console/ticket");
    let response = agent.request(Method::POST, &path).json(&json!({ "kind": kind })).send().await.unwrap();
    answer(response).await.unwrap()
}

#[tokio::test]
async fn a_console_opens_with_a_ticket_and_ends_with_its_vm() {
    let _proof = berth_agent::proof::driver(&["console.ticket"]);
    let agent = Agent::start_with(|config| config.limits.beat_every = Duration::from_millis(30)).await;
    agent.put_vm(7, &spec()).await.unwrap();
    let mut screen = Viewer::of(&agent, 7, ConsoleKind::Vnc).await;
    screen.until("RFB 003.008\n").await;
    let mut first = Viewer::of(&agent, 7, ConsoleKind::Serial).await;
    first.until("login: ").await;
    let mut second = Viewer::of(&agent, 7, ConsoleKind::Serial).await;
    second.types("root\r").await;
    first.until("root\r").await;
    second.until("root\r").await;

    agent.power(7, PowerVerb::PowerOff).await.unwrap();
    for viewer in [&mut screen, &mut first, &mut second] {
        assert_eq!(viewer.closed().await, CloseCode::Normal);
    }
    let off = ticket(&agent, 7, ConsoleKind::Vnc).await;
    assert_eq!(Viewer::open(&agent, &off.path, &off.ticket).await.err(), Some(409));

    agent.power(7, PowerVerb::Start).await.unwrap();
    let mut again = Viewer::of(&agent, 7, ConsoleKind::Serial).await;
    again.until("login: ").await;
    agent.stop.cancel();
    assert_eq!(again.closed().await, CloseCode::Away);
}

#[tokio::test]
async fn a_ticket_that_was_used_is_late_or_for_another_console_opens_nothing() {
    let _proof = berth_agent::proof::driver(&["console.ticket"]);
    let agent = Agent::start().await;
    agent.put_vm(7, &spec()).await.unwrap();
    agent.put_vm(8, &spec()).await.unwrap();
    let fine = ticket(&agent, 7, ConsoleKind::Serial).await;
    assert!(!fine.path.contains(&fine.ticket), "no secret in an address");
    assert!(!format!("{fine:?}").contains(&fine.ticket), "and none in a log");
    let _open = Viewer::open(&agent, &fine.path, &fine.ticket).await.unwrap();
    assert_eq!(Viewer::open(&agent, &fine.path, &fine.ticket).await.err(), Some(401), "used");
    for path in ["/v1/vms/8/console/serial", "/v1/vms/7/console/vnc"] {
        let other = ticket(&agent, 7, ConsoleKind::Serial).await;
        assert_eq!(Viewer::open(&agent, path, &other.ticket).await.err(), Some(401), "{path}");
        assert_eq!(
            Viewer::open(&agent, &other.path, &other.ticket).await.err(),
            Some(401),
            "and it is spent"
        );
    }
    assert_eq!(Viewer::open(&agent, &fine.path, "").await.err(), Some(401));
    assert_eq!(Viewer::open(&agent, "/v1/vms/7/console/tty", &fine.ticket).await.err(), Some(422));

    let short = json!({ "kind": "serial", "seconds": 1 });
    let short = agent.request(Method::POST, "/v1/vms/7/console/ticket").json(&short).send().await.unwrap();
    let short: ConsoleTicket = answer(short).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(Viewer::open(&agent, &short.path, &short.ticket).await.err(), Some(401), "late");

    for (path, body, code) in [
        ("/v1/vms/9/console/ticket", json!({ "kind": "vnc" }), ErrorCode::NotFound),
        ("/v1/vms/7/console/ticket", json!({ "kind": "vnc", "seconds": 121 }), ErrorCode::InvalidInput),
        ("/v1/vms/7/console/ticket", json!({ "kind": "spice" }), ErrorCode::InvalidInput),
        ("/v1/vms/7/console/log", json!({ "lines": 0 }), ErrorCode::InvalidInput),
        ("/v1/vms/7/send_keys", json!({ "keys": ["any"] }), ErrorCode::InvalidInput),
    ] {
        let response = agent.request(Method::POST, path).json(&body).send().await.unwrap();
        assert_eq!(answer::<Value>(response).await.unwrap_err().code, code, "{path} {body}");
    }
}

#[tokio::test]
async fn so_many_consoles_and_no_more_are_open() {
    let agent = Agent::start_with(|config| config.limits.consoles = 1).await;
    agent.put_vm(7, &spec()).await.unwrap();
    let open = Viewer::of(&agent, 7, ConsoleKind::Vnc).await;
    let more = ticket(&agent, 7, ConsoleKind::Vnc).await;
    assert_eq!(Viewer::open(&agent, &more.path, &more.ticket).await.err(), Some(503));
    drop(open);
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let next = ticket(&agent, 7, ConsoleKind::Vnc).await;
        if Viewer::open(&agent, &next.path, &next.ticket).await.is_ok() {
            break;
        }
        assert!(std::time::Instant::now() < until, "the seat is free again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_simulated_vm_has_a_screen_a_keyboard_and_a_log() {
    let agent = Agent::start().await;
    agent.put_vm(7, &spec()).await.unwrap();
    let screen: Screenshot = agent.get("/v1/vms/7/screenshot").await;
    assert_eq!((screen.width, screen.height), (720, 400));
    let keys = json!({ "keys": ["ctrl", "alt", "delete"] });
    let pressed = agent.request(Method::POST, "/v1/vms/7/send_keys").json(&keys).send().await.unwrap();
    assert_eq!(pressed.status(), 204);
    let log = agent.request(Method::POST, "/v1/vms/7/console/log").json(&json!({ "lines": 1 })).send();
    let log: ConsoleLog = answer(log.await.unwrap()).await.unwrap();
    assert!(log.lines.len() == 1 && log.lines[0].starts_with("Started at "), "{log:?}");
}
