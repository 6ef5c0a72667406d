//! One line in the log for each request, with an id that the caller may bring along.

use std::fmt;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use berth_model::agent::function::{Function as _, node};
use http::{HeaderName, HeaderValue};
use tracing::Instrument;

use crate::entropy;
use crate::error::Refusal;

/// Taken over from the caller, and answered.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id taken over.
const REQUEST_ID_MAX: usize = 128;

/// Which listener a request came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// The control plane.
    Https,
    /// The command line on the node.
    Socket,
}

/// Who asks, for the log of functions: the listener, and the request's id.
#[derive(Debug, Clone)]
pub struct Caller {
    listener: Listener,
    id: String,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = match self.listener {
            Listener::Https => "control plane",
            Listener::Socket => "command line",
        };
        write!(f, "{who}, {}", self.id)
    }
}

/// The middleware.
pub async fn line(State(listener): State<Listener>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = request.headers().get(REQUEST_ID).filter(|id| is_fine(id)).cloned();
    let id = id.unwrap_or_else(|| {
        HeaderValue::try_from(entropy::request_id()).expect("a request id is made of hex digits")
    });
    let word = id.to_str().unwrap_or_default().to_owned();
    let span = tracing::info_span!(
        "request", id = word, by = ?listener, method = %request.method(), path = request.uri().path(),
    );
    // Asked every few seconds: it would drown the rest.
    let is_usual = request.uri().path() == node::Lease::PATH;
    request.extensions_mut().insert(Caller { listener, id: word.clone() });
    let mut response = next.run(request).instrument(span.clone()).await;
    let _inside = span.enter();
    let status = response.status().as_u16();
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    match response.extensions().get::<Refusal>() {
        Some(Refusal(e)) if status >= 500 => {
            tracing::warn!(status, took_ms, code = ?e.code, error = %e, "answered");
        }
        Some(Refusal(e)) => tracing::info!(status, took_ms, code = ?e.code, error = %e, "answered"),
        None if is_usual => tracing::debug!(status, took_ms, "answered"),
        None => tracing::info!(status, took_ms, "answered"),
    }
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// Is it safe to write this into a log?
fn is_fine(id: &HeaderValue) -> bool {
    let id = id.as_bytes();
    (1..=REQUEST_ID_MAX).contains(&id.len())
        && id.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:/".contains(b))
}
