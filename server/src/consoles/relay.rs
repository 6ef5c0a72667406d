//! The way between a browser and a node, once both have shaken hands.

use std::future::Future;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use berth_model::event::CLOSE_ENDED;
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite;
use tokio_util::sync::CancellationToken;

use super::rfb;
use crate::agents::AgentSocket;

/// Longest message of either side.
pub const MESSAGE_MAX_BYTES: usize = 256 * 1024;
/// A console that says nothing for so long, in either direction, is closed.
pub const SILENCE_MAX: Duration = Duration::from_secs(15 * 60);
/// How long shaking hands may take: somebody may have to type the password.
const HANDSHAKE_MAX: Duration = Duration::from_secs(60);
/// How long a message may take to be read.
const WRITE_MAX: Duration = Duration::from_secs(20);
/// How often a sign of life is sent, so that no proxy takes the connection for dead.
const PING_EVERY: Duration = Duration::from_secs(20);

/// Why a console is over.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The browser is gone, or said good-bye.
    Gone,
    /// The node closed it, as it does when the server stops.
    Stopped,
    /// The other side read too slowly, or said nothing for too long.
    TooSlow,
    /// The browser said what it may not.
    Misused(&'static str),
    /// The rights that opened it have ended.
    NotAllowed,
    /// This control plane stops.
    Stopping,
    /// Something failed on our side.
    Failed(String),
}

impl End {
    fn frame(&self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            Self::Gone => return None,
            Self::Stopped => (close_code::NORMAL, "the console ended with its server"),
            Self::TooSlow => (close_code::POLICY, "too slow, or silent for too long"),
            Self::Misused(reason) => (close_code::POLICY, *reason),
            Self::NotAllowed => (CLOSE_ENDED, "the rights that opened it have ended"),
            Self::Stopping => (close_code::AWAY, "the control plane stops"),
            Self::Failed(_) => (close_code::ERROR, "the console failed"),
        };
        Some(CloseFrame { code, reason: reason.into() })
    }
}

/// One side of a console while hands are shaken: bytes, whatever messages they come in.
pub trait Side {
    /// So many bytes.
    fn take(&mut self, count: usize) -> impl Future<Output = Result<Bytes, End>> + Send;
    /// Sends bytes.
    fn send(&mut self, bytes: &[u8]) -> impl Future<Output = Result<(), End>> + Send;
}

/// The browser's side.
struct Browser {
    socket: WebSocket,
    held: BytesMut,
}

impl Browser {
    async fn next(&mut self) -> Result<Bytes, End> {
        loop {
            match self.socket.recv().await {
                Some(Ok(Message::Binary(bytes))) => return Ok(bytes),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Text(_))) => return Err(End::Misused("only binary messages")),
                Some(Ok(Message::Close(_))) | None => return Err(End::Gone),
                Some(Err(_)) => return Err(End::Misused("cut off, too long, or no WebSocket message")),
            }
        }
    }

    async fn write(&mut self, message: Message) -> Result<(), End> {
        let sent = timeout(WRITE_MAX, self.socket.send(message)).await;
        sent.map_err(|_| End::TooSlow)?.map_err(|_| End::Gone)
    }
}

impl Side for Browser {
    async fn take(&mut self, count: usize) -> Result<Bytes, End> {
        while self.held.len() < count {
            let more = self.next().await?;
            self.held.extend_from_slice(&more);
        }
        Ok(self.held.split_to(count).freeze())
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), End> {
        self.write(Message::Binary(Bytes::copy_from_slice(bytes))).await
    }
}

/// The node's side.
struct Node {
    socket: AgentSocket,
    held: BytesMut,
}

impl Node {
    async fn next(&mut self) -> Result<Bytes, End> {
        loop {
            match self.socket.next().await {
                Some(Ok(tungstenite::Message::Binary(bytes))) => return Ok(bytes),
                Some(Ok(tungstenite::Message::Close(_))) | None => return Err(End::Stopped),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(End::Failed(error.to_string())),
            }
        }
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), End> {
        let sent = timeout(WRITE_MAX, self.socket.send(tungstenite::Message::Binary(bytes))).await;
        sent.map_err(|_| End::TooSlow)?.map_err(|error| End::Failed(error.to_string()))
    }
}

impl Side for Node {
    async fn take(&mut self, count: usize) -> Result<Bytes, End> {
        while self.held.len() < count {
            let more = self.next().await?;
            self.held.extend_from_slice(&more);
        }
        Ok(self.held.split_to(count).freeze())
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), End> {
        self.write(Bytes::copy_from_slice(bytes)).await
    }
}

/// Serves a console to its end, which comes at the latest when `rights_end` or `stop` does.
pub async fn serve(
    browser: WebSocket,
    node: AgentSocket,
    (password, challenge): (String, [u8; 16]),
    rights_end: impl Future<Output = ()>,
    stop: CancellationToken,
) {
    let mut browser = Browser { socket: browser, held: BytesMut::new() };
    let mut node = Node { socket: node, held: BytesMut::new() };
    let talk = async {
        let hands = async {
            rfb::admit(&mut browser, &password, challenge).await?;
            rfb::enter(&mut node).await
        };
        timeout(HANDSHAKE_MAX, hands).await.map_err(|_| End::TooSlow)??;
        pass_on(&mut browser, &mut node).await
    };
    let end = tokio::select! {
        end = talk => end.err(),
        () = rights_end => Some(End::NotAllowed),
        () = stop.cancelled() => Some(End::Stopping),
    };
    let end = end.unwrap_or(End::Gone);
    if let End::Failed(error) = &end {
        tracing::warn!(error, "a console failed");
    }
    let farewell = async {
        let told = match end.frame() {
            Some(frame) => browser.socket.send(Message::Close(Some(frame))).await,
            None => Ok(()),
        };
        // Both are over either way.
        drop((told, node.socket.close(None).await));
    };
    drop(timeout(WRITE_MAX, farewell).await);
}

/// Passes bytes on in both directions; only an end ends it.
async fn pass_on(browser: &mut Browser, node: &mut Node) -> Result<(), End> {
    // What came in one message with the end of the handshake.
    let (typed, shown) = (browser.held.split().freeze(), node.held.split().freeze());
    if typed.has_remaining() {
        node.write(typed).await?;
    }
    if shown.has_remaining() {
        browser.write(Message::Binary(shown)).await?;
    }
    let mut ping = tokio::time::interval(PING_EVERY);
    let silence = tokio::time::sleep(SILENCE_MAX);
    tokio::pin!(silence);
    loop {
        tokio::select! {
            typed = browser.next() => node.write(typed?).await?,
            shown = node.next() => browser.write(Message::Binary(shown?)).await?,
            _ = ping.tick() => {
                browser.write(Message::Ping(Bytes::new())).await?;
                continue;
            }
            () = &mut silence => return Err(End::TooSlow),
        }
        silence.as_mut().reset(tokio::time::Instant::now() + SILENCE_MAX);
    }
}
