//! Requests over the unix socket.

use std::path::PathBuf;
use std::time::Duration;

use berth_model::ErrorBody;
use bytes::Bytes;
use http::request::Builder;
use http::{Method, Request, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
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

    /// Asks for a function. Whether it goes on, and then its run; or its answer. Both as
    /// they came, `null` for none.
    pub async fn function(
        &self,
        method: &str,
        path: &str,
        body: &Value,
        wait_s: Option<u32>,
    ) -> Result<(bool, Bytes), CliError> {
        let method: Method = method.parse().map_err(|e| CliError::failed("The request", &e))?;
        let body = serde_json::to_vec(body).map_err(|e| CliError::failed("The request", &e))?;
        let body = Full::from(body).map_err(|never| match never {}).boxed();
        let mut request = Request::builder().method(method).uri(path);
        if let Some(seconds) = wait_s {
            request = request.header("prefer", format!("wait={seconds}"));
        }
        let late = |_| CliError::Unreached(format!("The agent at {} did not answer.", self.socket.display()));
        let answered = tokio::time::timeout(PATIENCE, self.request(request, body)).await.map_err(late)?;
        let (status, answer) = answered?;
        let answer = if answer.is_empty() { Bytes::from_static(b"null") } else { answer };
        Ok((status == StatusCode::ACCEPTED, answer))
    }

    /// Uploads a file, however long that takes.
    pub async fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        length: u64,
        body: Body,
    ) -> Result<T, CliError> {
        let request = Request::builder().method(Method::PUT).uri(path).header(header::CONTENT_LENGTH, length);
        read(&self.request(request, body).await?.1)
    }

    async fn request(&self, request: Builder, body: Body) -> Result<(StatusCode, Bytes), CliError> {
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
        let request = request.header(header::HOST, "agent").body(body);
        let request = request.map_err(|e| CliError::failed("The request", &e))?;
        let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await;
        let answer = answer.map_err(|e| broken(&*e))?.to_bytes();
        connection.abort();
        if status.is_success() {
            return Ok((status, answer));
        }
        Err(match serde_json::from_slice::<ErrorBody>(&answer) {
            Ok(body) => CliError::Refused(body.error),
            Err(_) => CliError::Failed(format!("The agent answered {status}.")),
        })
    }
}

/// What the agent answered.
pub fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, CliError> {
    serde_json::from_slice(answer).map_err(|e| CliError::failed("The agent's answer makes no sense", &e))
}
