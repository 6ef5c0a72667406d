//! WebSockets to agents.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http::HeaderValue;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

use super::{AgentAddress, CONNECT_TIMEOUT, Credentials, agent_name};

/// How long TLS and the WebSocket's handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// An open WebSocket to an agent, over mutual TLS.
pub type AgentSocket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Opens a WebSocket of the agent at `address`, which must prove to be that node's. `protocols`: those that are
/// offered, parted by commas.
pub(crate) async fn dial(
    credentials: &Credentials,
    address: &AgentAddress,
    path: &str,
    protocols: Option<&str>,
    message_max_bytes: usize,
) -> anyhow::Result<AgentSocket> {
    let connect = async { TcpStream::connect(&address.resolve().await?[..]).await };
    let tcp = timeout(CONNECT_TIMEOUT, connect).await.context("no connection in time")??;
    tcp.set_nodelay(true)?;
    let url = format!("wss://{}:{}{path}", agent_name(address.node), address.port);
    let mut request = url.into_client_request()?;
    if let Some(protocols) = protocols {
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(protocols)?);
    }
    let connector = Connector::Rustls(Arc::new(credentials.config().clone()));
    let limits = WebSocketConfig::default()
        .max_message_size(Some(message_max_bytes))
        .max_frame_size(Some(message_max_bytes));
    let opened = client_async_tls_with_config(request, tcp, Some(limits), Some(connector));
    let (socket, _) = timeout(HANDSHAKE_TIMEOUT, opened).await.context("no handshake in time")??;
    Ok(socket)
}
