//! Consoles as WebSockets: who may open one, and the way from there to the VM.
//!
//! ```text
//! console.ticket ──► ticket, seconds to live, for one VM and kind, used once
//! upgrade + ticket ──► vnc:    a connection of its own ──► QEMU
//!                  ──► serial: one line for all who look ─► QEMU
//! ```
//!
//! A console is closed when its VM stops (1000), when the agent stops (1001), and when whoever looks does not
//! keep up with it (1008) or sends what is no message (1002).

mod line;
mod tickets;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use berth_model::VmId;
use berth_model::agent::{CONSOLE_PROTOCOL, CONSOLE_TICKET_PROTOCOL, ConsoleKind, ConsoleTicket};
use berth_model::{ErrorCode, Timestamp};
use bytes::Bytes;
use http::{HeaderMap, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::line::{Line, Lines};
use self::tickets::Tickets;
use crate::error::Refusal;
use crate::limits::Limits;
use crate::work::Work;

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 16 * 1024;
/// Longest message of whoever looks: what is pasted at once.
const MESSAGE_MAX_BYTES: usize = 256 * 1024;

/// All consoles.
pub struct Consoles {
    work: Arc<Work>,
    limits: Limits,
    tickets: Tickets,
    lines: Lines,
    seats: Arc<Semaphore>,
}

/// How it ends.
enum End {
    Gone,
    Close(u16, &'static str),
}

const VM_STOPPED: End = End::Close(close_code::NORMAL, "the console ended with its VM");
const FELL_BEHIND: End = End::Close(close_code::POLICY, "fell behind");
const NO_MESSAGE: End = End::Close(close_code::PROTOCOL, "cut off, too long, or no WebSocket message");
const AGENT_STOPS: End = End::Close(close_code::AWAY, "the agent stops");

/// The VM's end of a console.
enum Source {
    Vnc(UnixStream),
    Serial(Arc<Line>, tokio::sync::broadcast::Receiver<Bytes>),
}

impl Consoles {
    /// None is open yet.
    pub fn new(work: Arc<Work>, limits: &Limits) -> Self {
        let seats = Arc::new(Semaphore::new(limits.consoles));
        Self { work, limits: limits.clone(), tickets: Tickets::default(), lines: Lines::default(), seats }
    }

    /// Makes a ticket. `now` is what is said of its end; it ends after so many seconds, whatever the clock says.
    pub fn ticket(&self, vm: VmId, kind: ConsoleKind, seconds: u32, now: Timestamp) -> ConsoleTicket {
        let steady = Instant::now().into_std();
        let ticket = self.tickets.issue(vm, kind, steady + Duration::from_secs(seconds.into()), steady);
        let expires = now.plus_seconds(i64::from(seconds));
        ConsoleTicket { ticket, path: format!("/v1/vms/{vm}/console/{}", kind.word()), expires }
    }

    /// Opens a console for the ticket in `headers`.
    pub async fn open(
        self: &Arc<Self>,
        (vm, kind): (VmId, ConsoleKind),
        headers: &HeaderMap,
        upgrade: WebSocketUpgrade,
        (open, stop): (TaskTracker, CancellationToken),
    ) -> Result<Response, Refusal> {
        let now = Instant::now().into_std();
        let shown =
            ticket_of(headers).is_some_and(|ticket| self.tickets.take(ticket, now) == Some((vm, kind)));
        if !shown {
            let message = "A console needs a ticket for this VM and kind that was not used yet.";
            return Err(Refusal::new(ErrorCode::Unauthorized, message));
        }
        let Ok(seat) = Arc::clone(&self.seats).try_acquire_owned() else {
            return Err(Refusal::unavailable("Too many consoles are open on this node."));
        };
        let source = match kind {
            ConsoleKind::Vnc => Source::Vnc(connect(&self.work, vm, kind).await?),
            ConsoleKind::Serial => {
                let (line, said) = self.lines.join(vm, connect(&self.work, vm, kind)).await?;
                Source::Serial(line, said)
            }
        };
        let limits = self.limits.clone();
        let upgrade = upgrade
            .protocols([CONSOLE_PROTOCOL])
            .max_message_size(MESSAGE_MAX_BYTES)
            .max_frame_size(MESSAGE_MAX_BYTES);
        Ok(upgrade.on_upgrade(move |socket| open.track_future(serve(socket, source, limits, stop, seat))))
    }
}

/// The ticket among the subprotocols that are offered.
fn ticket_of(headers: &HeaderMap) -> Option<&str> {
    let offered =
        headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    offered
        .flat_map(|value| value.split(','))
        .find_map(|one| one.trim().strip_prefix(CONSOLE_TICKET_PROTOCOL))
}

async fn connect(work: &Work, vm: VmId, kind: ConsoleKind) -> Result<UnixStream, Refusal> {
    let hypervisor = Arc::clone(work.hypervisor());
    let stream = work.read("console", move || Ok(hypervisor.console(vm, kind)?)).await?;
    let own = |e: std::io::Error| Refusal::own("The console could not be opened", &e);
    stream.set_nonblocking(true).map_err(own)?;
    UnixStream::from_std(stream).map_err(own)
}

async fn serve(
    mut socket: WebSocket,
    source: Source,
    limits: Limits,
    stop: CancellationToken,
    _seat: OwnedSemaphorePermit,
) {
    let end = match source {
        Source::Vnc(stream) => vnc(&mut socket, stream, &limits, &stop).await,
        Source::Serial(line, said) => serial(&mut socket, &line, said, &limits, &stop).await,
    };
    if let End::Close(code, reason) = end {
        let frame = CloseFrame { code, reason: reason.into() };
        let close = async {
            socket.send(Message::Close(Some(frame))).await?;
            // Until the other side has read it: what it still sends must not cut it off.
            while socket.recv().await.transpose()?.is_some() {}
            Ok::<_, axum::Error>(())
        };
        let _gone_already = timeout(limits.send_patience, close).await;
    }
}

async fn vnc(
    socket: &mut WebSocket,
    mut stream: UnixStream,
    limits: &Limits,
    stop: &CancellationToken,
) -> End {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut beat = beat(limits);
    loop {
        let step = tokio::select! {
            () = stop.cancelled() => Err(AGENT_STOPS),
            _ = beat.tick() => send(socket, Message::Ping(Bytes::new()), limits).await,
            read = stream.read(&mut buffer) => match read {
                Ok(0) | Err(_) => Err(VM_STOPPED),
                Ok(n) => send(socket, Message::Binary(Bytes::copy_from_slice(&buffer[..n])), limits).await,
            },
            message = socket.recv() => match typed(message) {
                Ok(bytes) => match timeout(limits.send_patience, stream.write_all(&bytes)).await {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(_)) | Err(_) => Err(VM_STOPPED),
                },
                Err(end) => Err(end),
            },
        };
        if let Err(end) = step {
            return end;
        }
    }
}

async fn serial(
    socket: &mut WebSocket,
    line: &Line,
    mut said: tokio::sync::broadcast::Receiver<Bytes>,
    limits: &Limits,
    stop: &CancellationToken,
) -> End {
    let mut beat = beat(limits);
    loop {
        let step = tokio::select! {
            () = stop.cancelled() => Err(AGENT_STOPS),
            _ = beat.tick() => send(socket, Message::Ping(Bytes::new()), limits).await,
            told = said.recv() => match told {
                Ok(bytes) => send(socket, Message::Binary(bytes), limits).await,
                Err(RecvError::Lagged(_)) => Err(FELL_BEHIND),
                Err(RecvError::Closed) => Err(VM_STOPPED),
            },
            message = socket.recv() => match typed(message) {
                Ok(bytes) => match timeout(limits.send_patience, line.say(bytes)).await {
                    Ok(true) => Ok(()),
                    Ok(false) | Err(_) => Err(VM_STOPPED),
                },
                Err(end) => Err(end),
            },
        };
        if let Err(end) = step {
            return end;
        }
    }
}

fn beat(limits: &Limits) -> tokio::time::Interval {
    let mut beat = interval_at(Instant::now() + limits.beat_every, limits.beat_every);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat
}

async fn send(socket: &mut WebSocket, message: Message, limits: &Limits) -> Result<(), End> {
    match timeout(limits.send_patience, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Gone),
        Err(_) => Err(FELL_BEHIND),
    }
}

/// What a message types: nothing, for one that only keeps the connection up.
fn typed(message: Option<Result<Message, axum::Error>>) -> Result<Bytes, End> {
    match message {
        Some(Ok(Message::Binary(bytes))) => Ok(bytes),
        Some(Ok(Message::Text(text))) => Ok(text.into()),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(Bytes::new()),
        Some(Ok(Message::Close(_))) | None => Err(End::Gone),
        Some(Err(_)) => Err(NO_MESSAGE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_found_among_the_subprotocols() {
        let _proof = crate::proof::pure(&["console.ticket"]);
        let headers = |text: &'static str| {
            HeaderMap::from_iter([(header::SEC_WEBSOCKET_PROTOCOL, text.parse().unwrap())])
        };
        assert_eq!(ticket_of(&headers("berth.console, berth.ticket.ab12")), Some("ab12"));
        assert_eq!(ticket_of(&headers("berth.ticket.ab12,binary")), Some("ab12"));
        assert_eq!(ticket_of(&headers("berth.console")), None);
        assert_eq!(ticket_of(&HeaderMap::new()), None);
    }
}
