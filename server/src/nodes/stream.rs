//! Opening and reading one agent's stream.

use std::time::Duration;

use anyhow::{Context as _, bail};
use berth_model::agent::{StreamCommand, StreamMessage};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::agents::{AgentAddress, AgentSocket, Credentials, dial};

/// How long the agent may take to read what it is told.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest message: a Hello or samples of some ten thousand VMs.
const MESSAGE_MAX_BYTES: usize = 16 * 1024 * 1024;
/// Most messages that are taken in together.
const BATCH_MAX: usize = 256;

/// One open stream.
pub(super) struct Stream {
    socket: AgentSocket,
    silence_max: Duration,
}

impl Stream {
    /// Opens the stream of the agent at `address`, which must prove to be that node's.
    pub(super) async fn open(
        credentials: &Credentials,
        address: &AgentAddress,
        silence_max: Duration,
    ) -> anyhow::Result<Self> {
        let socket = dial(credentials, address, "/v1/stream", None, MESSAGE_MAX_BYTES).await?;
        Ok(Self { socket, silence_max })
    }

    /// Waits for a message, and takes those with it that are there already. Fails when the agent is
    /// silent for too long, closes, or says something that is not of the protocol. Nothing is lost
    /// when it is cancelled.
    pub(super) async fn next_batch(&mut self) -> anyhow::Result<Vec<StreamMessage>> {
        let mut batch = Vec::new();
        while batch.is_empty() {
            let message =
                timeout(self.silence_max, self.socket.next()).await.context("the agent is silent")?;
            batch.extend(read(message.context("the agent closed its stream")??)?);
        }
        while batch.len() < BATCH_MAX {
            // An end of the stream is met again by the next call.
            let Some(Some(Ok(message))) = self.socket.next().now_or_never() else { break };
            batch.extend(read(message)?);
        }
        Ok(batch)
    }

    /// Says something to the agent.
    pub(super) async fn send(&mut self, command: &StreamCommand) -> anyhow::Result<()> {
        let text = serde_json::to_string(command)?;
        let sent = self.socket.send(Message::text(text));
        timeout(WRITE_TIMEOUT, sent).await.context("the agent does not read")?.map_err(Into::into)
    }

    /// Takes leave.
    pub(super) async fn close(mut self) {
        // It ends either way.
        let _ = timeout(Duration::from_secs(1), self.socket.close(None)).await;
    }
}

fn read(message: Message) -> anyhow::Result<Option<StreamMessage>> {
    match message {
        Message::Text(text) => serde_json::from_str(&text).map(Some).context("not a message of the protocol"),
        // Pings are answered by the library; its own pongs and half frames never get here.
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(None),
        Message::Binary(_) => bail!("a binary message"),
        Message::Close(frame) => match frame {
            Some(frame) => bail!("the agent closed its stream: {frame}"),
            None => bail!("the agent closed its stream"),
        },
    }
}
