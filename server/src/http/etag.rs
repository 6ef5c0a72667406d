//! `ETag` and `If-None-Match`: who asks for what it has already is told so, in 304 and no body.
//!
//! The tag is made from the whole answer, after the handler has checked the rights and read the rows, so
//! it saves the way to the client, not the work here. Who asks and the project stand in it: a tag from
//! one project never fits the answer of another, not even an equal one. Only GET answers have one: what
//! is told once, a password or a token, stands in answers to POST.

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt as _;
use sha2::{Digest as _, Sha256};

use super::Problem;
use super::context::{self, Who};
use crate::accounts::PROJECT_HEADER;

/// Longest answer that gets a tag, in bytes: a page of the longest list is shorter.
const BODY_MAX: u64 = 4 * 1024 * 1024;
/// Bytes of the hash that stand in the tag.
const TAG_BYTES: usize = 18;

/// The layer.
pub async fn tagged(request: Request, next: Next) -> Response {
    if request.method() != Method::GET || !request.uri().path().starts_with("/v1/") {
        return next.run(request).await;
    }
    let known = request.headers().get_all(IF_NONE_MATCH).iter().cloned().collect::<Vec<_>>();
    let project = request.headers().get(PROJECT_HEADER).cloned();
    let response = next.run(request).await;
    let is_short = response.body().size_hint().upper().is_some_and(|bytes| bytes <= BODY_MAX);
    if response.status() != StatusCode::OK || !is_json(response.headers()) || !is_short {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // A body that is there already cannot fail.
    let Ok(body) = body.collect().await else {
        return Problem::internal(anyhow::anyhow!("an answer broke off")).into_response();
    };
    let body = body.to_bytes();
    let tag = tag(&body, project.as_ref());
    let headers = &mut parts.headers;
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    headers.insert(VARY, HeaderValue::from_static("authorization, cookie, berth-project"));
    let has_it = known.iter().any(|value| names(value, &tag));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    if has_it {
        parts.status = StatusCode::NOT_MODIFIED;
        headers.remove(CONTENT_TYPE);
        headers.remove(CONTENT_LENGTH);
        return Response::from_parts(parts, Body::empty());
    }
    Response::from_parts(parts, body.into())
}

fn is_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/json"))
}

/// The tag of an answer to who asks now. Weak: an answer may be compressed on its way.
fn tag(body: &[u8], named: Option<&HeaderValue>) -> String {
    let Who { user, token, project } =
        context::current().and_then(|context| context.who.get().copied()).unwrap_or_default();
    let who = [user.map(|id| id.0), token.map(|id| id.0), project.map(|id| id.0)];
    let mut hash = Sha256::new();
    for id in who {
        hash.update(id.unwrap_or_default().to_be_bytes());
    }
    hash.update(named.map_or(&b""[..], HeaderValue::as_bytes));
    let hash = hash.chain_update([0]).chain_update(body).finalize();
    format!("W/\"{}\"", BASE64_URL_SAFE_NO_PAD.encode(&hash[..TAG_BYTES]))
}

/// Does `If-None-Match` name the tag? Compared weakly, as the header demands.
fn names(value: &HeaderValue, tag: &str) -> bool {
    let bare = |text: &str| text.trim().trim_start_matches("W/").to_owned();
    let Ok(text) = value.to_str() else { return false };
    text.trim() == "*" || text.split(',').any(|one| bare(one) == bare(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_found_among_others() {
        let tag = tag(b"[]", None);
        let strong = tag.trim_start_matches("W/");
        for good in ["*".to_owned(), tag.clone(), strong.to_owned(), format!("\"a\", W/\"b\" ,{tag}")] {
            assert!(names(&HeaderValue::from_str(&good).expect("a header"), &tag), "{good}");
        }
        for bad in ["", "\"a\"", "W/", &strong[1..]] {
            assert!(!names(&HeaderValue::from_str(bad).expect("a header"), &tag), "{bad}");
        }
    }
}
