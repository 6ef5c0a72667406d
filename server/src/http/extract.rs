//! Extractors that answer in the API's form when a request is wrong.

use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::IntoResponse as _;
use berth_model::ErrorCode;
use berth_model::error::ApiError;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::problem::Problem;
use super::{BODY_MAX_BYTES, fault};

/// A JSON body.
///
/// Not JSON: `json_error`. A field that is missing, unknown or of the wrong type: `invalid_input`
/// that names it. Longer than [`BODY_MAX_BYTES`]: `invalid_input`.
#[derive(Debug, Clone, Copy)]
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(
                ErrorCode::JsonError,
                "Send the body as JSON, with the header “Content-Type: application/json”.",
            ));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(too_long_or_cut_off)?;
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|error| Problem::new(ErrorCode::JsonError, format!("The body is not JSON: {error}.")))?;
        // serde would take a list for an object with fields in that order.
        if !value.is_object() {
            return Err(Problem::field("body", "Send a JSON object: {…}."));
        }
        Ok(Self(fault::read(value)?))
    }
}

/// A form of another site can send a body without asking first, but not with this type.
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

pub(super) fn too_long_or_cut_off(rejection: BytesRejection) -> Problem {
    if rejection.into_response().status() == StatusCode::PAYLOAD_TOO_LARGE {
        Problem::field("body", format!("The body has at most {} KiB.", BODY_MAX_BYTES / 1024))
    } else {
        Problem::new(ErrorCode::JsonError, "The body was cut off.")
    }
}

/// The query string. A key that is repeated fills a list: `id=1&id=2`.
#[derive(Debug, Clone, Copy)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        query(parts.uri.query()).map(Self).map_err(Problem::from)
    }
}

pub(super) fn query<T: DeserializeOwned>(text: Option<&str>) -> Result<T, ApiError> {
    let text = text.unwrap_or_default();
    if let Some(part) = text.split('&').find(|part| part.contains("%00")) {
        let name = part.split('=').next().unwrap_or_default();
        return Err(ApiError::field(name, "The character NUL is not allowed."));
    }
    serde_path_to_error::deserialize(serde_html_form::Deserializer::from_bytes(text.as_bytes()))
        .map_err(|error| fault::of_field(&error.path().to_string(), &error.inner().to_string()))
}

/// What stands in the path. A number that is none is the number of nothing: `not_found`.
#[derive(Debug, Clone, Copy)]
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(_) => Err(Problem::new(ErrorCode::NotFound, "There is nothing here.")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Filter {
        #[serde(default)]
        id: Vec<i64>,
        name: Option<String>,
    }

    #[test]
    fn a_repeated_key_fills_a_list() {
        let filter: Filter = query(Some("id=1&id=2&name=a%20b")).expect("a good query");
        assert_eq!((filter.id, filter.name.as_deref()), (vec![1, 2], Some("a b")));
        let filter: Filter = query(None).expect("a good query");
        assert!(filter.id.is_empty() && filter.name.is_none());
    }

    #[test]
    fn a_wrong_query_names_the_key() {
        let error = query::<Filter>(Some("id=1&id=x")).expect_err("x is no number");
        assert!(error.details.expect("fields").fields[0].name.starts_with("id"));
        let error = query::<Filter>(Some("name=a%00")).expect_err("NUL");
        assert!(error.for_field("name").is_some());
    }
}
