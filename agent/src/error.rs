//! Errors on the wire: the one place where the agent's failures become the protocol's codes.

use axum::Json;
use axum::response::{IntoResponse, Response};
use berth_model::error::ApiError;
use berth_model::{ErrorBody, ErrorCode};
use http::StatusCode;

use crate::hypervisor::HypervisorError;

/// An error on its way out. The log line of the request picks it up from the response's extensions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub ApiError);

impl Refusal {
    /// A refusal without details.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(ApiError::new(code, message))
    }

    /// `invalid_input` that names one field.
    pub fn field(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self(ApiError::field(name, message))
    }

    /// `invalid_input` that names all that is wrong.
    pub fn fields(faults: Vec<berth_model::FieldError>) -> Self {
        Self(ApiError::fields(faults))
    }

    /// `conflict`.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Conflict, message)
    }

    /// `unavailable`.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unavailable, message)
    }

    /// `server_error`: what must not happen, or the node's own disk failing.
    pub fn own(what: &str, error: &dyn std::error::Error) -> Self {
        Self::new(ErrorCode::ServerError, format!("{what}: {error}"))
    }
}

impl From<HypervisorError> for Refusal {
    fn from(error: HypervisorError) -> Self {
        match error {
            HypervisorError::Invalid(field) => Self(ApiError::fields(vec![field])),
            HypervisorError::NotFound(id) => {
                Self::new(ErrorCode::NotFound, format!("There is no VM {id} on this node."))
            }
            HypervisorError::Unknown(message) => Self::new(ErrorCode::NotFound, message),
            HypervisorError::Conflict(message) => Self::new(ErrorCode::Conflict, message),
            HypervisorError::Lacking(message) => Self::new(ErrorCode::ResourceUnavailable, message),
            HypervisorError::Unavailable(message) => Self::new(ErrorCode::Unavailable, message),
            HypervisorError::Failed(message) => Self::new(ErrorCode::ServiceError, message),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).expect("codes have valid statuses");
        let mut response = (status, Json(ErrorBody { error: self.0.clone() })).into_response();
        response.extensions_mut().insert(self);
        response
    }
}
