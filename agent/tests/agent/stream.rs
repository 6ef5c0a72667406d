//! The stream of events and samples.

use std::time::Duration;

use berth_agent::config::Config;
use berth_agent::hypervisor::Hypervisor;
use berth_model::VmId;
use berth_model::agent::{CounterSample, PowerVerb, StreamMessage, VmEvent, VmState, WantedPower};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::{Agent, CONTROL_PLANE, PATIENCE, spec};

/// A reader of the stream.
struct Reader<S>(WebSocketStream<S>);

impl Reader<UnixStream> {
    async fn open(agent: &Agent) -> Self {
        Self::try_open(agent).await.unwrap()
    }

    async fn try_open(agent: &Agent) -> Result<Self, tokio_tungstenite::tungstenite::Error> {
        let stream = UnixStream::connect(agent.home.path().join("agent.sock")).await.unwrap();
        Ok(Self(tokio_tungstenite::client_async("ws://agent/v1/stream", stream).await?.0))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Reader<S> {
    /// The next message; `None` once it is closed.
    async fn next(&mut self) -> Option<Result<StreamMessage, CloseCode>> {
        loop {
            match tokio::time::timeout(PATIENCE, self.0.next()).await.expect("something should come") {
                Some(Ok(Message::Text(text))) => return Some(Ok(serde_json::from_str(&text).unwrap())),
                Some(Ok(Message::Close(frame))) => return Some(Err(frame.unwrap().code)),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }

    async fn until<T>(&mut self, pick: impl Fn(StreamMessage) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(self.next().await.expect("the stream is open").expect("and stays so")) {
                return found;
            }
        }
    }

    async fn until_event(&mut self, vm: i64, state: Option<VmState>) {
        let wanted = |event: VmEvent| (event.vm == VmId(vm) && event.state == state).then_some(());
        self.until(|message| if let StreamMessage::Vm(event) = message { wanted(event) } else { None }).await;
    }

    async fn samples(&mut self) -> Vec<CounterSample> {
        self.until(
            |message| if let StreamMessage::Samples { samples } = message { Some(samples) } else { None },
        )
        .await
    }

    async fn say(&mut self, text: impl Into<String>) {
        self.0.send(Message::text(text.into())).await.unwrap();
    }

    /// The code it is closed with; `None` if it was just cut.
    async fn closed(&mut self) -> Option<CloseCode> {
        loop {
            match self.next().await {
                Some(Ok(_)) => {}
                Some(Err(code)) => return Some(code),
                None => return None,
            }
        }
    }
}

fn fast(config: &mut Config) {
    config.limits.beat_every = Duration::from_millis(50);
    config.limits.watched_every = Duration::from_millis(20);
    config.limits.all_every = 1_000_000;
}

#[tokio::test]
async fn a_stream_begins_with_all_vms_and_goes_on_with_what_happens() {
    let agent = Agent::start_with(fast).await;
    agent.put_vm(1, &spec()).await.unwrap();
    let mut reader = Reader::open(&agent).await;
    let Some(Ok(StreamMessage::Hello { vms, health })) = reader.next().await else {
        panic!("Hello is first")
    };
    assert_eq!(vms.iter().map(|e| (e.vm.0, e.state)).collect::<Vec<_>>(), [(1, Some(VmState::Running))]);
    assert!(health.healthy);

    agent.power(1, PowerVerb::PowerOff).await.unwrap();
    reader.until_event(1, Some(VmState::Off)).await;
    agent.simulator.power(VmId(1), PowerVerb::Start).unwrap();
    reader.until_event(1, Some(VmState::Running)).await;
    agent.simulator.crash(VmId(1)).unwrap();
    reader.until_event(1, Some(VmState::Crashed)).await;
    agent.simulator.delete(VmId(1)).unwrap();
    reader.until_event(1, None).await;
    reader.until(|message| matches!(message, StreamMessage::Beat { .. }).then_some(())).await;
}

#[tokio::test]
async fn the_control_plane_streams_over_tls() {
    let agent = Agent::start().await;
    let stream = TcpStream::connect(agent.https).await.unwrap();
    let tls = crate::support::tls_client(&agent.pki, &agent.pki.client(CONTROL_PLANE));
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let stream = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await.unwrap();
    let (socket, _) = tokio_tungstenite::client_async("ws://agent/v1/stream", stream).await.unwrap();
    let hello = Reader(socket).next().await;
    assert!(matches!(hello, Some(Ok(StreamMessage::Hello { .. }))), "{hello:?}");
}

#[tokio::test]
async fn only_watched_vms_are_sampled_often() {
    let agent = Agent::start_with(fast).await;
    for id in 1..=3 {
        agent.put_vm(id, &spec()).await.unwrap();
    }
    let mut one = Reader::open(&agent).await;
    let mut two = Reader::open(&agent).await;
    one.say(json!({"type": "watch", "vms": [2, 77]}).to_string()).await;
    two.say(json!({"type": "watch", "vms": [1, 3]}).to_string()).await;
    let first = one.samples().await;
    let later = one.samples().await;
    assert_eq!(first.iter().map(|s| s.vm.0).collect::<Vec<_>>(), [2]);
    assert!(later[0].at > first[0].at && later[0].cpu_ns >= first[0].cpu_ns);
    let other = two.samples().await;
    assert_eq!(other.iter().map(|s| s.vm.0).collect::<Vec<_>>(), [1, 3], "each stream has its own");
    two.say(json!({"type": "watch", "vms": [1]}).to_string()).await;
    two.until(|message| match message {
        StreamMessage::Samples { samples } => (samples.len() == 1 && samples[0].vm == VmId(1)).then_some(()),
        _ => None,
    })
    .await;
}

#[tokio::test]
async fn all_running_vms_are_sampled_now_and_then_in_parts() {
    let agent = Agent::start_with(|config| {
        fast(config);
        config.limits.all_every = 3;
        config.limits.samples_per_message = 2;
    })
    .await;
    for id in 1..=3 {
        agent.simulator.put(VmId(id), &spec()).unwrap();
    }
    let mut off = spec();
    off.power = WantedPower::Off;
    agent.simulator.put(VmId(4), &off).unwrap();
    let mut reader = Reader::open(&agent).await;
    let mut seen = vec![reader.samples().await.len(), reader.samples().await.len()];
    seen.sort_unstable();
    assert_eq!(seen, [1, 2], "three that run, two in a message");
}

#[tokio::test]
async fn events_that_were_missed_are_made_up_for() {
    let agent = Agent::start().await;
    let mut reader = Reader::open(&agent).await;
    reader.next().await;
    // This thread is the only one, so nobody hears these until there are too many.
    for id in 1..=3 {
        agent.simulator.put(VmId(id), &spec()).unwrap();
    }
    for _ in 0..5000 {
        agent.simulator.power(VmId(3), PowerVerb::PowerOff).unwrap();
        agent.simulator.power(VmId(3), PowerVerb::Start).unwrap();
    }
    for id in 1..=3 {
        reader.until_event(id, Some(VmState::Running)).await;
    }
}

#[tokio::test]
async fn a_reader_that_falls_behind_is_closed_and_gives_up_its_place() {
    let agent = Agent::start_with(|config| {
        config.limits.streams = 1;
        config.limits.stream_backlog = 16;
        config.limits.send_patience = Duration::from_millis(200);
        config.limits.beat_every = PATIENCE;
    })
    .await;
    agent.put_vm(1, &spec()).await.unwrap();
    let mut slow = Reader::open(&agent).await;
    assert!(Reader::try_open(&agent).await.is_err(), "one place, one reader");
    let mut again = None;
    while again.is_none() {
        for _ in 0..50 {
            agent.simulator.power(VmId(1), PowerVerb::PowerOff).unwrap();
            agent.simulator.power(VmId(1), PowerVerb::Start).unwrap();
        }
        again = Reader::try_open(&agent).await.ok();
    }
    let code = slow.closed().await;
    assert!(matches!(code, None | Some(CloseCode::Policy)), "{code:?}");
    let hello = again.unwrap().next().await;
    assert!(matches!(hello, Some(Ok(StreamMessage::Hello { .. }))), "it begins anew: {hello:?}");
}

#[tokio::test]
async fn nonsense_closes_the_stream() {
    let agent = Agent::start_with(|config| config.limits.watched_vms = 2).await;
    for nonsense in ["hello", "{\"type\": \"explode\"}", "{\"type\": \"watch\", \"vms\": [1, 2, 3]}"] {
        let mut reader = Reader::open(&agent).await;
        reader.say(nonsense).await;
        assert_eq!(reader.closed().await, Some(CloseCode::Policy), "{nonsense}");
    }
}

#[tokio::test]
async fn streams_are_closed_when_the_agent_stops() {
    let mut agent = Agent::start().await;
    let mut reader = Reader::open(&agent).await;
    reader.next().await;
    agent.stop.cancel();
    assert_eq!(reader.closed().await, Some(CloseCode::Away));
    tokio::time::timeout(PATIENCE, agent.running.take().unwrap().stopped()).await.unwrap();
}

#[tokio::test]
async fn a_stream_is_refused_while_the_hypervisor_hangs() {
    let agent = Agent::start_with(|config| config.limits.read_patience = Duration::from_millis(50)).await;
    agent.gate.shut();
    let refused = Reader::try_open(&agent).await.err().unwrap();
    assert!(refused.to_string().contains("503"), "{refused}");
    agent.gate.open();
    Reader::open(&agent).await;
}
