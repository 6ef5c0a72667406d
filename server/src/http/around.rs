//! What is done around every request: its id, its line in the log, metrics, a time limit, panics,
//! and the headers of every answer.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY,
    STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use tracing::Instrument as _;

use super::context::{self, RequestContext, RequestId, Who};
use super::problem::Problem;
use crate::World;

/// The header of the request's id, in the request and in the answer.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The outermost layer.
pub async fn around(State(world): State<World>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let given = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok()?.parse().ok());
    let context = RequestContext::new(given.unwrap_or_else(RequestId::new));
    let method = request.method().clone();
    // Only the pattern: a path may hold what a metric's label or a log should not.
    let path =
        request.extensions().get::<MatchedPath>().map_or_else(|| "-".to_owned(), |p| p.as_str().to_owned());
    let is_api = request.uri().path().starts_with("/v1/");

    let span = tracing::info_span!("request", id = %context.id);
    let answer = AssertUnwindSafe(answer(&world, request, next)).catch_unwind();
    let answer = async { answer.await.unwrap_or_else(|panic| panicked(&*panic)) };
    let mut response = context::within(context.clone(), answer.instrument(span)).await;

    add_headers(response.headers_mut(), &world, is_api);
    if let Ok(id) = HeaderValue::from_str(context.id.as_str()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    note(&context, method.as_str(), path, response.status().as_u16(), began);
    response
}

async fn answer(world: &World, request: Request, next: Next) -> Response {
    match tokio::time::timeout(world.config.request_timeout(), next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::too_slow().into_response(),
    }
}

/// A panic is a fault of ours; it ends one request and nothing else.
fn panicked(panic: &(dyn Any + Send)) -> Response {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text");
    Problem::internal(anyhow::anyhow!("a handler panicked: {text}")).into_response()
}

fn add_headers(headers: &mut http::HeaderMap, world: &World, is_api: bool) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    if world.config.origin().is_secure() {
        headers.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    if is_api {
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    }
    // The app's pages bring their own; nothing else is a page.
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
}

/// The request's line in the log, and its metrics.
fn note(context: &RequestContext, method: &str, path: String, status: u16, began: Instant) {
    let took = began.elapsed();
    let Who { user, token, project } = context.who.get().copied().unwrap_or_default();
    let (user, token, project) = (user.map(|id| id.0), token.map(|id| id.0), project.map(|id| id.0));
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    tracing::info!(request_id = %context.id, method, path, status, took_ms, user, token, project, "request");
    // Another word in the request line could be anything: a label must not grow without bound.
    let method = match method {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    };
    metrics::counter!("http_requests_total", "method" => method, "path" => path.clone(), "status" => status.to_string())
        .increment(1);
    metrics::histogram!("http_request_seconds", "method" => method, "path" => path)
        .record(took.as_secs_f64());
}
