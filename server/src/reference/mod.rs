//! The public API for people: one page made of the OpenAPI document, and the document itself.
//!
//! Bodies of the examples stand in `examples.json`, by the name of the body's schema; a test sends each
//! of them.

use axum::Router;
use axum::http::header;
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use serde_json::Value;

use crate::http::Origin;

mod page;

/// Where the document is.
pub const DOCUMENT: &str = "/openapi.json";
/// Where the page is.
pub const PAGE: &str = "/reference";

const STYLE: &str =
    concat!(include_str!("../../../style/tokens.css"), include_str!("../../../style/reference.css"));
/// The page has no script, and shows nothing of others.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The bodies of the examples, by the name of the body's schema.
///
/// # Panics
/// Never: what is checked in is JSON, as a test shows.
pub fn examples() -> Value {
    serde_json::from_str(include_str!("examples.json")).unwrap_or_default()
}

/// The page, its style and the document; made once. `origin` is where Berth is reached.
///
/// # Errors
/// The document cannot be written as JSON.
pub fn router(origin: &Origin) -> serde_json::Result<Router> {
    let text = crate::openapi::text()?;
    let page = page::render(&serde_json::from_str(&text)?, &examples(), &origin.to_string()).into_string();
    let css = [(header::CONTENT_TYPE, "text/css; charset=utf-8")];
    let json = [(header::CONTENT_TYPE, "application/json")];
    let policy = [(header::CONTENT_SECURITY_POLICY, POLICY)];
    Ok(Router::new()
        .route(PAGE, get(async move || (policy, Html(page)).into_response()))
        .route("/reference.css", get(async move || (css, STYLE)))
        .route(DOCUMENT, get(async move || (json, text))))
}
