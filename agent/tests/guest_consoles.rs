//! Consoles of a real guest, over the agent's WebSockets; and what is left over on a real libvirt.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod libvirt_common;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use berth_agent::config::{Accelerator, Config};
use berth_agent::hypervisor::libvirt::GuestNetwork;
use berth_agent::hypervisor::{Hypervisor, HypervisorError};
use berth_agent::proof;
use berth_agent::serve;
use berth_model::VmId;
use berth_model::agent::{
    ConsoleKind, ConsoleLog, ConsoleTicket, Orphan, PowerVerb, Screenshot, VmSpec, WantedPower,
};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use libvirt_common::{EMPTY_IMAGE, Node, PATIENCE, QEMU, TINY, spec, wait_for};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;

const ID: VmId = VmId(7);
/// Of “secret”.
const PASSWORD_HASH: &str =
    "$6$saltsalt$TVLlQcbpFVof5W3Yz4DTP6gRstiNuHwwTt6GLc1E5n0U0aDehy0S5knV8wiOQSpT0Y77vwPZN.Pq.H91p5hVO1";

/// An agent in this process before a node's libvirt.
struct Agent {
    home: TempDir,
    stop: CancellationToken,
}

impl Agent {
    async fn before(node: &Node) -> Self {
        let home = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let hypervisor: Arc<dyn Hypervisor> = Arc::new(node.reopened());
        serve(Config::at(home.path()), hypervisor, stop.clone()).await.unwrap();
        Self { home, stop }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.home.path().join("agent.sock")).await.unwrap()
    }

    async fn ask<T: DeserializeOwned>(&self, method: &str, path: &str, body: Value) -> T {
        let io = hyper_util::rt::TokioIo::new(self.connect().await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = http::Request::builder().method(method).uri(path).header("host", "agent");
        let request = request.body(Full::new(Bytes::from(body.to_string()))).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        connection.abort();
        assert!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(if body.is_empty() { b"null" } else { &body }).unwrap()
    }

    async fn look(&self, kind: ConsoleKind) -> Viewer {
        let path = format!("/v1/vms/{ID}/console/ticket");
        let ticket: ConsoleTicket = self.ask("POST", &path, json!({ "kind": kind })).await;
        let mut request = format!("ws://agent{}", ticket.path).into_client_request().unwrap();
        let protocols = format!("berth.console, berth.ticket.{}", ticket.ticket);
        request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
        let (socket, _) = tokio_tungstenite::client_async(request, self.connect().await).await.unwrap();
        Viewer { socket, heard: Vec::new() }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Viewer {
    socket: WebSocketStream<UnixStream>,
    heard: Vec<u8>,
}

impl Viewer {
    async fn say(&mut self, bytes: &[u8]) {
        self.socket.send(Message::binary(bytes.to_vec())).await.unwrap();
    }

    /// Hears more; `false` when it is closed as it should be.
    async fn hear(&mut self) -> bool {
        match tokio::time::timeout(PATIENCE, self.socket.next()).await {
            Ok(Some(Ok(Message::Binary(bytes)))) => self.heard.extend_from_slice(&bytes),
            Ok(Some(Ok(Message::Close(frame)))) => {
                assert_eq!(frame.unwrap().code, CloseCode::Normal);
                return false;
            }
            Ok(Some(Ok(_))) => {}
            other => panic!("{:?}, and then {other:?}", String::from_utf8_lossy(&self.heard)),
        }
        true
    }

    /// Hears until a text was said, and forgets what came up to there.
    async fn until(&mut self, text: &str) {
        loop {
            let said = String::from_utf8_lossy(&self.heard).into_owned();
            if let Some(at) = said.find(text) {
                self.heard = said.as_bytes()[at + text.len()..].to_vec();
                return;
            }
            assert!(self.hear().await, "closed, after {said}");
        }
    }

    async fn take<const N: usize>(&mut self) -> [u8; N] {
        while self.heard.len() < N {
            assert!(self.hear().await, "closed");
        }
        let taken = self.heard[..N].try_into().unwrap();
        self.heard.drain(..N);
        taken
    }

    /// Goes through RFB's handshake (RFC 6143, section 7), alone or shared, and gives the size of the screen.
    async fn rfb(&mut self, shared: bool) -> (u16, u16) {
        assert_eq!(&self.take::<12>().await, b"RFB 003.008\n");
        self.say(b"RFB 003.008\n").await;
        let [count] = self.take().await;
        assert_eq!((count, self.take().await), (1, [1]), "no password beside the ticket");
        self.say(&[1]).await;
        assert_eq!(self.take().await, [0; 4], "let in");
        self.say(&[u8::from(shared)]).await;
        let [w1, w2, h1, h2] = self.take().await;
        (u16::from_be_bytes([w1, w2]), u16::from_be_bytes([h1, h2]))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_is_used_over_its_serial_port_its_screen_and_its_keyboard() {
    let _proof = proof::guest(&["console.ticket", "console.log", "vm.screenshot", "vm.send_keys"]);
    let node = Node::tiny(GuestNetwork::User);
    let mut wanted = spec(TINY);
    wanted.seed.root_password_hash = Some(PASSWORD_HASH.to_owned());
    node.libvirt.put(ID, &wanted).unwrap();
    let agent = Agent::before(&node).await;

    // Two look at the serial port: one logs in, the other sees it.
    let mut first = agent.look(ConsoleKind::Serial).await;
    let mut second = agent.look(ConsoleKind::Serial).await;
    first.until("quay-7 login: ").await;
    first.say(b"root\r").await;
    first.until("Password: ").await;
    first.say(b"secret\r").await;
    first.until("# ").await;
    first.say(b"echo the answer is $((6 * 7))\r").await;
    first.until("the answer is 42").await;
    second.until("the answer is 42").await;
    second.say(b"echo and $((2 * 4)) for the second\r").await;
    first.until("and 8 for the second").await;

    // What was said is in the log.
    let log: ConsoleLog =
        agent.ask("POST", &format!("/v1/vms/{ID}/console/log"), json!({ "lines": 50 })).await;
    assert!(log.lines.iter().any(|line| line.starts_with("the answer is 42")), "{log:?}");

    // Two look at the screen, although one wants it alone.
    let mut screen = agent.look(ConsoleKind::Vnc).await;
    let size = screen.rfb(true).await;
    assert!(size.0 >= 640 && size.1 >= 400, "{size:?}");
    let mut other = agent.look(ConsoleKind::Vnc).await;
    assert_eq!(other.rfb(false).await, size);
    let picture: Screenshot = agent.ask("GET", &format!("/v1/vms/{ID}/screenshot"), json!({})).await;
    assert_eq!((picture.width, picture.height), (u32::from(size.0), u32::from(size.1)));
    let png = BASE64_STANDARD.decode(&picture.png).unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    assert!(pixels.chunks(3).any(|pixel| pixel != &pixels[..3]), "something stands on it");

    // Ctrl, alt and delete: the guest comes up again, and the consoles stay.
    let keys = json!({ "keys": ["ctrl", "alt", "delete"] });
    agent.ask::<Value>("POST", &format!("/v1/vms/{ID}/send_keys"), keys).await;
    first.until(libvirt_common::READY).await;
    first.until("quay-7 login: ").await;

    // They end with the VM.
    node.libvirt.power(ID, PowerVerb::PowerOff).unwrap();
    for viewer in [&mut first, &mut second, &mut screen, &mut other] {
        while viewer.hear().await {}
    }
    let off = node.libvirt.console(ID, ConsoleKind::Vnc);
    assert!(matches!(off, Err(HypervisorError::Conflict(_))), "{off:?}");
}

#[test]
fn what_a_guest_says_is_kept_in_a_ring() {
    let _proof = proof::guest(&["console.log"]);
    let node = Node::tiny(GuestNetwork::User);
    node.libvirt.put(ID, &VmSpec { power: WantedPower::Off, ..spec(TINY) }).unwrap();
    let file = |name: &str| node.folder(ID).join(name);
    // As after a long life: one file is nearly full, and there are as many older ones as there may be.
    let nearly_full = (2 << 20) - 100;
    std::fs::write(file("console.log"), vec![b'a'; nearly_full]).unwrap();
    for (name, said) in [("console.log.0", "b"), ("console.log.1", "c"), ("console.log.2", "d")] {
        std::fs::write(file(name), said).unwrap();
    }
    node.libvirt.power(ID, PowerVerb::Start).unwrap();
    let log = || String::from_utf8_lossy(&node.libvirt.console_log(ID, 4 << 20).unwrap()).into_owned();
    wait_for("the guest to come up", || log().contains(libvirt_common::READY).then_some(()));
    let size = |name: &str| std::fs::metadata(file(name)).unwrap().len();
    let (older, newer) = (size("console.log.0"), size("console.log"));
    assert!(older <= 2 << 20 && older >= nearly_full as u64 && newer < 100_000, "{older} and {newer}");
    assert_eq!((size("console.log.1"), size("console.log.2")), (1, 1));
    assert!(!file("console.log.3").exists() && log().starts_with("cba"), "the oldest went");
    node.libvirt.delete(ID).unwrap();
    node.assert_nothing_left(ID);
}

#[test]
fn leftovers_of_vms_are_named_and_what_runs_is_kept() {
    let _proof = proof::guest(&["node.orphans"]);
    let node = Node::new(QEMU, GuestNetwork::User, Accelerator::Qemu);
    node.libvirt.put(ID, &spec(EMPTY_IMAGE)).unwrap();
    node.libvirt.put(VmId(8), &VmSpec { power: WantedPower::Off, ..spec(EMPTY_IMAGE) }).unwrap();
    let of_none = format!("/var/log/libvirt/qemu/{}99.log", node.config.prefix);
    let long_ago = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    std::fs::File::create(&of_none).unwrap().set_modified(long_ago).unwrap();
    let names = |orphans: &[Orphan]| orphans.iter().map(|o| o.name.clone()).collect::<Vec<_>>();
    let find = |remove| berth_agent::orphans::list(node.libvirt.orphans().unwrap(), remove, Some).orphans;
    assert_eq!(names(&find(false)), std::slice::from_ref(&of_none), "whole VMs are none");

    for id in [ID, VmId(8)] {
        std::fs::remove_dir_all(node.folder(id)).unwrap();
    }
    let (runs, off) = (format!("{}{ID}", node.config.prefix), format!("{}8", node.config.prefix));
    assert_eq!(names(&find(false)), [runs.clone(), off.clone(), of_none.clone()]);
    assert!(node.domains().contains(&off), "named, and nothing more");
    let settled = find(true);
    assert_eq!(settled.iter().map(|o| o.removed).collect::<Vec<_>>(), [false, true, true]);
    assert_eq!(settled[0].kept.as_deref(), Some("It runs; power it off first."));
    assert!(node.domains().contains(&runs) && !node.domains().contains(&off));
    assert!(!std::path::Path::new(&of_none).exists());
    node.libvirt.power(ID, PowerVerb::PowerOff).unwrap();
    assert!(find(true)[0].removed);
    assert!(find(true).is_empty());
}
