//! `GET /v1/stream`: one WebSocket of a control plane.
//!
//! ```text
//! Hello ──► Vm, Samples, Beat … ──► closed: by the reader, 1001 the agent stops,
//!   ▲          ◄── Watch                     1008 the reader fell behind or spoke nonsense,
//!                                            1002 it was no WebSocket's message
//! ```

use std::sync::Arc;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use berth_model::agent::{StreamCommand, StreamMessage};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;

use crate::hub::{Picked, Seat};
use crate::limits::Limits;
use crate::node::NodeWatch;

/// Why a stream ended from this side.
enum End {
    /// The reader closed it, or is gone.
    Gone,
    /// This side closes it, for that reason.
    Close(u16, &'static str),
}

const FELL_BEHIND: End = End::Close(close_code::POLICY, "fell behind");
const NO_MESSAGE: End = End::Close(close_code::PROTOCOL, "cut off, too long, or no WebSocket message");

/// One open stream.
pub struct Stream {
    socket: WebSocket,
    seat: Seat,
    node: Arc<NodeWatch>,
    limits: Limits,
}

impl Stream {
    /// Joins a socket with its place at the hub.
    pub fn new(socket: WebSocket, seat: Seat, node: Arc<NodeWatch>, limits: Limits) -> Self {
        Self { socket, seat, node, limits }
    }

    /// Speaks until the reader or the agent ends it.
    pub async fn run(mut self, hello: StreamMessage, stop: CancellationToken) {
        let End::Close(code, reason) = self.speak(hello, stop).await else { return };
        tracing::info!(reason, "stream closed");
        let frame = CloseFrame { code, reason: reason.into() };
        // A reader that does not even take this is simply dropped.
        let _ = timeout(self.limits.send_patience, self.socket.send(Message::Close(Some(frame)))).await;
    }

    async fn speak(&mut self, hello: StreamMessage, stop: CancellationToken) -> End {
        if let Err(end) = self.send(&hello).await {
            return end;
        }
        let mut beat = interval_at(Instant::now() + self.limits.beat_every, self.limits.beat_every);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let step = tokio::select! {
                () = stop.cancelled() => Err(End::Close(close_code::AWAY, "the agent stops")),
                _ = beat.tick() => self.send(&StreamMessage::Beat { health: self.node.health() }).await,
                told = self.seat.told.recv() => match told {
                    Ok(told) => {
                        let picked = self.seat.pick(&told);
                        self.tell(picked).await
                    }
                    Err(RecvError::Lagged(_)) => Err(FELL_BEHIND),
                    Err(RecvError::Closed) => Err(End::Close(close_code::AWAY, "the agent stops")),
                },
                message = self.socket.recv() => match message {
                    Some(Ok(message)) => self.obey(&message),
                    Some(Err(_)) => Err(NO_MESSAGE),
                    None => Err(End::Gone),
                },
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    async fn tell(&mut self, picked: Picked) -> Result<(), End> {
        match picked {
            Picked::Vm(event) => self.send(&StreamMessage::Vm(event)).await,
            Picked::Samples(samples) => {
                for part in samples.chunks(self.limits.samples_per_message) {
                    self.send(&StreamMessage::Samples { samples: part.to_vec() }).await?;
                }
                Ok(())
            }
        }
    }

    async fn send(&mut self, message: &StreamMessage) -> Result<(), End> {
        let text = serde_json::to_string(message).expect("stream messages are plain data");
        match timeout(self.limits.send_patience, self.socket.send(Message::text(text))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(FELL_BEHIND),
        }
    }

    fn obey(&self, message: &Message) -> Result<(), End> {
        match message {
            Message::Text(text) => match serde_json::from_str(text) {
                Ok(StreamCommand::Watch { vms }) if vms.len() <= self.limits.watched_vms => {
                    self.seat.watch(vms);
                    Ok(())
                }
                Ok(StreamCommand::Watch { .. }) => {
                    Err(End::Close(close_code::POLICY, "too many VMs to watch"))
                }
                Err(_) => Err(End::Close(close_code::POLICY, "not a command")),
            },
            Message::Binary(_) => Err(End::Close(close_code::POLICY, "not a command")),
            Message::Close(_) => Err(End::Gone),
            // Answered by the library.
            Message::Ping(_) | Message::Pong(_) => Ok(()),
        }
    }
}
