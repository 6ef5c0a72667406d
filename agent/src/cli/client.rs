//! Requests over the unix socket.

use std::path::PathBuf;
use std::time::Duration;

use berth_model::ErrorBody;
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::CliError;

/// How long an answer may take; longer than any of the agent's own deadlines.
const PATIENCE: Duration = Duration::from_secs(180);
/// Longest answer.
const ANSWER_MAX_BYTES: usize = 256 * 1024 * 1024;

/// What is sent.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// The agent on the other end of a unix socket.
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// An agent's client; it connects with each request.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Asks for something.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        read(&self.short(Method::GET, path, empty()).await?)
    }

    /// Deletes something.
    pub async fn delete(&self, path: &str) -> Result<(), CliError> {
        self.short(Method::DELETE, path, empty()).await.map(drop)
    }

    /// Sends JSON.
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        let body = serde_json::to_vec(body).map_err(|e| CliError::failed("The request", &e))?;
        read(&self.short(method, path, Full::from(body).map_err(|never| match never {}).boxed()).await?)
    }

    /// Uploads a file, however long that takes.
    pub async fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        length: u64,
        body: Body,
    ) -> Result<T, CliError> {
        read(&self.request(Method::PUT, path, Some(length), body).await?)
    }

    async fn short(&self, method: Method, path: &str, body: Body) -> Result<Bytes, CliError> {
        let request = self.request(method, path, None, body);
        let late = |_| CliError::Unreached(format!("The agent at {} did not answer.", self.socket.display()));
        tokio::time::timeout(PATIENCE, request).await.map_err(late)?
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        length: Option<u64>,
        body: Body,
    ) -> Result<Bytes, CliError> {
        let socket = self.socket.display();
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| {
            CliError::Unreached(format!(
                "No agent was reached at {socket}: {e}. Does `berth-agent serve` run?"
            ))
        })?;
        let broken =
            |e: &dyn std::error::Error| CliError::Unreached(format!("The agent at {socket} broke off: {e}"));
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "agent");
        if let Some(length) = length {
            request = request.header(header::CONTENT_LENGTH, length);
        }
        let request = request.body(body).map_err(|e| CliError::failed("The request", &e))?;
        let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await;
        let answer = answer.map_err(|e| broken(&*e))?.to_bytes();
        connection.abort();
        if status.is_success() {
            return Ok(answer);
        }
        Err(match serde_json::from_slice::<ErrorBody>(&answer) {
            Ok(body) => CliError::Refused(body.error),
            Err(_) => CliError::Failed(format!("The agent answered {status}.")),
        })
    }
}

/// Nothing to send.
fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, CliError> {
    serde_json::from_slice(answer).map_err(|e| CliError::failed("The agent's answer makes no sense", &e))
}
