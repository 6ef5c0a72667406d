//! The live WebSocket, as a program reads it.

use anyhow::Context as _;
use berth_model::event::{LiveHello, LiveMessage};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// An open socket that has said its hello.
#[derive(Debug)]
pub struct Live(WebSocketStream<MaybeTlsStream<TcpStream>>);

/// Connects to `/v1/live` of a control plane with a token.
///
/// # Errors
/// When it is refused.
pub async fn connect(base: &str, token: &str, last_seq: Option<i64>) -> anyhow::Result<Live> {
    let url = format!("{}/v1/live", base.replacen("http", "ws", 1));
    let mut request = url.into_client_request()?;
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse()?);
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await?;
    socket.send(Message::text(serde_json::to_string(&LiveHello { last_seq })?)).await?;
    let mut live = Live(socket);
    let LiveMessage::Welcome { .. } = live.next().await? else { anyhow::bail!("no welcome") };
    Ok(live)
}

impl Live {
    /// The next message.
    ///
    /// # Errors
    /// When the socket has ended.
    pub async fn next(&mut self) -> anyhow::Result<LiveMessage> {
        loop {
            let message = self.0.next().await.context("the live socket ended")??;
            if let Message::Text(text) = message {
                return Ok(serde_json::from_str(&text)?);
            }
        }
    }
}
