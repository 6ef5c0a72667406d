//! Whatever is thrown at a WebSocket of the agent: it goes on, or is closed with a reason; nothing breaks, nothing
//! grows, and the others live on.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;

use crate::cli::Served;
use crate::support::PATIENCE;

/// Sockets that are opened for each kind.
const ROUNDS: u32 = 60;
/// What the agent may grow by, however much is thrown at it, in KiB.
const GROWTH_MAX_KIB: u64 = 24 << 10;
/// Longer than any message may be, on any socket.
const TOO_LONG: u64 = (2 << 20) + 1;
const VM: &str = "7";

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The sockets of the agent.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Stream,
    Console(&'static str),
}

const KINDS: [Kind; 3] = [Kind::Stream, Kind::Console("vnc"), Kind::Console("serial")];

/// A process of the agent, with a simulated VM.
struct Target(Served);

impl Target {
    fn start() -> Self {
        let served = Served::start();
        let (_, spec) = served.with_image_and_spec();
        assert!(served.text(&["vm", "put", VM, &spec]).contains("running"));
        Self(served)
    }

    /// The most memory it ever had, in KiB (`VmHWM` of proc(5)).
    fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.0.home.path().join("agent.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn ticket(&self, kind: &str) -> Value {
        let (mut stream, body) = (self.connect(), format!("{{\"kind\":\"{kind}\"}}"));
        let length = body.len();
        write!(
            stream,
            "POST /v1/vms/{VM}/console/ticket HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    fn open(&self, kind: Kind) -> Socket {
        let (path, protocol) = match kind {
            Kind::Stream => ("/v1/stream".to_owned(), String::new()),
            Kind::Console(word) => {
                let ticket = self.ticket(word);
                let secret = ticket["ticket"].as_str().unwrap();
                let protocol = format!("sec-websocket-protocol: berth.console, berth.ticket.{secret}\r\n");
                (ticket["path"].as_str().unwrap().to_owned(), protocol)
            }
        };
        let mut stream = self.connect();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: agent\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n"
        )
        .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        Socket(stream)
    }
}

/// What became of a socket.
#[derive(Debug, PartialEq, Eq)]
enum Became {
    /// It answered.
    GoesOn,
    /// The code and the reason.
    Closed(u16, String),
    /// It said no more.
    Ended,
}

/// An open WebSocket.
struct Socket(UnixStream);

impl Socket {
    /// The agent may have closed it already.
    fn throw(&mut self, bytes: &[u8]) {
        let _closed = self.0.write_all(bytes);
    }

    /// Reads up to the answer to a ping, or the end.
    fn became(&mut self, ping: &[u8]) -> Became {
        loop {
            let Some((opcode, payload)) = self.frame() else { return Became::Ended };
            match opcode {
                PONG if payload == ping => return Became::GoesOn,
                CLOSE => {
                    let code = payload.first_chunk().map_or(0, |code| u16::from_be_bytes(*code));
                    let reason = String::from_utf8(payload.get(2..).unwrap_or_default().to_vec());
                    return Became::Closed(code, reason.unwrap());
                }
                _ => {}
            }
        }
    }

    /// The next frame of the agent; none at the end.
    fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let [first, second] = self.take::<2>()?;
        assert_eq!((first & 0x70, second & 0x80), (0, 0), "a frame that no server sends");
        let length = match second {
            126 => u16::from_be_bytes(self.take()?).into(),
            127 => u64::from_be_bytes(self.take()?),
            short => short.into(),
        };
        assert!(length < 1 << 22, "{length}");
        let mut payload = vec![0; length as usize];
        self.fill(&mut payload).then_some((first & 0x0f, payload))
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes).then_some(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        match self.0.read_exact(bytes) {
            Ok(()) => true,
            Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => false,
            Err(e) => panic!("the socket neither goes on nor ends: {e}"),
        }
    }
}

/// A frame, masked with zeros; it may claim another length than it has.
fn frame(first: u8, is_masked: bool, payload: &[u8], claims: u64) -> Vec<u8> {
    let mask = if is_masked { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match claims {
        0..=125 => bytes.push(mask | claims as u8),
        126..=0xffff => {
            bytes.push(mask | 126);
            bytes.extend((claims as u16).to_be_bytes());
        }
        _ => {
            bytes.push(mask | 127);
            bytes.extend(claims.to_be_bytes());
        }
    }
    if is_masked {
        bytes.extend([0; 4]);
    }
    bytes.extend(payload);
    bytes
}

fn whole(opcode: u8, payload: &[u8]) -> Vec<u8> {
    frame(0x80 | opcode, true, payload, payload.len() as u64)
}

/// What is thrown: bytes, and whether they are frames to their end.
type Throw = (Vec<u8>, bool);

fn throws() -> impl Strategy<Value = Vec<Throw>> {
    let said = prop_oneof![
        Just("{\"type\":\"watch\",\"vms\":[7,8]}".to_owned()),
        Just("{\"type\":\"watch\",\"vms\":[]}".to_owned()),
        "\\{\"type\":\"(watch|wotch|)\",\"vms\":(\\[(-?[0-9]{1,20},){0,3}7\\]|7|null|\\{\\})\\}",
        "\\{\"type\":\"watch\",\"vms\":\\[[0-9,\\[\\]\"a]{0,40}\\}?",
        "[\\[\\{]{1,300}",
        "\\PC{0,60}",
    ];
    // Messages of RFB clients (RFC 6143, 7.5): encodings, a key, a pointer, cut text with a long length; and what
    // terminals send.
    let typed = prop_oneof![
        Just(b"RFB 003.008\n\x01\x01".to_vec()),
        Just(b"\x02\x00\xff\xff\x00\x00\x00\x00".to_vec()),
        Just(b"\x04\x01\x00\x00\x00\x00\xff\x0d\x05\x07\xff\xff\xff\xff".to_vec()),
        Just(b"\x06\x00\x00\x00\xff\xff\xff\xffpaste".to_vec()),
        Just(b"\x1b[999999;999999H\x1b]0;\x07\xff\xfb\x1f\x00\x04\x03root\r".to_vec()),
        vec(any::<u8>(), 0..400),
    ];
    let wild =
        (any::<u8>(), any::<bool>(), vec(any::<u8>(), 0..140), prop::option::weighted(0.3, any::<u64>()));
    let wild = wild.prop_map(|(first, is_masked, payload, claims)| {
        let length = payload.len() as u64;
        let claims = claims.unwrap_or(length);
        (frame(first, is_masked, &payload, claims), claims == length)
    });
    let fragments = (said.clone(), vec(any::<prop::sample::Index>(), 0..5), any::<bool>(), any::<bool>());
    let fragments = fragments.prop_map(|(text, cuts, is_text, ends)| {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.sort_unstable();
        let (mut bytes, mut from) = (Vec::new(), 0);
        for (n, to) in cuts.iter().copied().chain([text.len()]).enumerate() {
            let opcode = match (n, is_text) {
                (0, true) => TEXT,
                (0, false) => BINARY,
                _ => 0,
            };
            let is_last = n == cuts.len() && ends;
            let part = &text.as_bytes()[from..to];
            bytes.extend(frame(opcode | if is_last { 0x80 } else { 0 }, true, part, part.len() as u64));
            from = to;
        }
        (bytes, true)
    });
    let throw = prop_oneof![
        3 => said.prop_map(|text| (whole(TEXT, text.as_bytes()), true)),
        3 => typed.clone().prop_map(|bytes| (whole(BINARY, &bytes), true)),
        1 => typed.prop_map(|bytes| (whole(TEXT, &bytes), true)),
        2 => (8_u8..16, vec(any::<u8>(), 0..130)).prop_map(|(op, bytes)| (whole(op, &bytes), true)),
        2 => fragments,
        3 => wild,
        1 => vec(any::<u8>(), 1..60).prop_map(|bytes| (bytes, false)),
    ];
    vec(throw, 1..6)
}

/// Throws all of it at a new socket: it goes on, or is closed with a reason.
fn survives(target: &Target, kind: Kind, throws: &[Throw]) {
    const STILL_THERE: &[u8] = b"still there";
    let mut socket = target.open(kind);
    let has_close = |bytes: &[u8]| bytes[0] & 0x0f == CLOSE;
    for (bytes, _) in throws {
        socket.throw(bytes);
    }
    if throws.iter().all(|(_, is_whole)| *is_whole) {
        socket.throw(&whole(PING, STILL_THERE));
        match socket.became(STILL_THERE) {
            Became::GoesOn => {}
            // A close of ours is only echoed.
            _ if throws.iter().any(|(bytes, _)| has_close(bytes)) => {}
            Became::Closed(code, reason) => assert!(code >= 1000 && !reason.is_empty(), "{code} {reason}"),
            Became::Ended => panic!("{kind:?} ended without a word: {throws:?}"),
        }
    }
    let _closed = socket.0.shutdown(Shutdown::Write);
    while socket.frame().is_some() {}
}

#[test]
fn no_frame_breaks_a_socket_of_the_agent_or_its_neighbours() {
    let _proof = berth_agent::proof::driver(&["console.ticket"]);
    let mut target = Target::start();
    let mut neighbours = KINDS.map(|kind| target.open(kind));
    for kind in KINDS {
        survives(&target, kind, &[(whole(PING, b"hello"), true)]);
    }
    let before = target.peak_kib();
    for kind in KINDS {
        let config = Config { cases: ROUNDS, failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new(config);
        let ran = runner.run(&throws(), |throws| {
            survives(&target, kind, &throws);
            Ok(())
        });
        ran.unwrap_or_else(|e| panic!("{kind:?}: {e}\n{}", target.0.log()));
    }
    for neighbour in &mut neighbours {
        neighbour.throw(&whole(PING, b"neighbour"));
        assert_eq!(neighbour.became(b"neighbour"), Became::GoesOn);
    }
    let grown = target.peak_kib() - before;
    assert!(grown < GROWTH_MAX_KIB, "{grown} KiB");
    assert!(!target.0.log().contains("panicked"), "{}", target.0.log());
    assert!(target.0.child.try_wait().unwrap().is_none());
}

#[test]
fn what_is_too_long_is_refused_before_it_is_taken_in() {
    let _proof = berth_agent::proof::driver(&["console.ticket"]);
    let target = Target::start();
    let before = target.peak_kib();
    for kind in KINDS {
        for claims in [TOO_LONG, u64::MAX >> 1, u64::MAX] {
            let mut socket = target.open(kind);
            socket.throw(&frame(0x80 | BINARY, true, &[], claims));
            let became = socket.became(b"");
            assert!(matches!(&became, Became::Closed(1002, why) if !why.is_empty()), "{kind:?}: {became:?}");
        }
        // The same in parts, none of which is too long.
        let mut socket = target.open(kind);
        let part = vec![b'x'; 64 << 10];
        for n in 0..=TOO_LONG / part.len() as u64 {
            socket.throw(&frame(if n == 0 { BINARY } else { 0 }, true, &part, part.len() as u64));
        }
        let became = socket.became(b"");
        assert!(matches!(&became, Became::Closed(1002, _)), "{kind:?}: {became:?}");
    }
    let mut socket = target.open(Kind::Stream);
    let all = format!("{{\"type\":\"watch\",\"vms\":[{}7]}}", "7,".repeat(10_000));
    socket.throw(&whole(TEXT, all.as_bytes()));
    assert_eq!(socket.became(b""), Became::Closed(1008, "too many VMs to watch".to_owned()));
    let grown = target.peak_kib() - before;
    assert!(grown < GROWTH_MAX_KIB, "{grown} KiB");
}
