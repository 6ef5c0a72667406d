//! The error of handlers.

use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use berth_model::error::ApiError;
use berth_model::{ErrorBody, ErrorCode};
use http::StatusCode;
use http::header::{HeaderValue, RETRY_AFTER};

use super::context;

/// What a handler answers, or what went wrong.
pub type ApiResult<T> = Result<T, Problem>;

/// What went wrong: a sentence for the customer, and for the operator the cause, if the fault is ours.
///
/// The cause is logged once, when the answer is made, together with the request's id; the customer
/// gets that id instead of the cause.
#[derive(Debug)]
pub struct Problem {
    error: ApiError,
    cause: Option<anyhow::Error>,
    retry_after: Option<Duration>,
}

impl Problem {
    /// A problem of this kind, with a sentence for the customer.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        ApiError::new(code, message).into()
    }

    /// 404 `There is no such server.`: it does not exist, or not for who asks.
    pub fn not_found(what: &str) -> Self {
        Self::new(ErrorCode::NotFound, format!("There is no such {what}."))
    }

    /// 422 that names one field.
    pub fn field(name: impl Into<String>, message: impl Into<String>) -> Self {
        ApiError::field(name, message).into()
    }

    /// 500: something failed on our side. The cause goes to the log, not to the customer.
    pub fn internal(cause: impl Into<anyhow::Error>) -> Self {
        let message = match context::request_id() {
            Some(id) => format!("Something failed on our side. It is noted under {id}."),
            None => "Something failed on our side. It is noted.".to_owned(),
        };
        let error = ApiError::new(ErrorCode::ServerError, message);
        Self { error, cause: Some(cause.into()), retry_after: None }
    }

    /// 503: it will work again by itself. The cause goes to the log.
    pub fn unavailable(cause: impl Into<anyhow::Error>) -> Self {
        let error =
            ApiError::new(ErrorCode::Unavailable, "That did not work just now. Try again in a moment.");
        Self { error, cause: Some(cause.into()), retry_after: Some(Duration::from_secs(5)) }
    }

    /// 503: given up because it took longer than a request may take.
    pub fn too_slow() -> Self {
        Self::new(ErrorCode::Unavailable, "This took too long and was given up. Try again.")
    }

    /// Says when to ask again, as the header `Retry-After`.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// If the database refused because of the constraint `name`, this error instead.
    #[must_use]
    pub fn on_constraint(self, name: &str, error: impl FnOnce() -> ApiError) -> Self {
        let cause = self.cause.as_ref().and_then(|cause| cause.downcast_ref::<sqlx::Error>());
        if cause.and_then(constraint) == Some(name) { error().into() } else { self }
    }

    /// If the database refused because of the constraint `name`, `uniqueness_error` with this sentence, for this field.
    #[must_use]
    pub fn on_taken(self, name: &str, field: &str, message: &str) -> Self {
        self.on_constraint(name, || ApiError {
            code: ErrorCode::UniquenessError,
            message: message.to_owned(),
            ..ApiError::field(field, message)
        })
    }

    /// What the customer is told.
    pub fn error(&self) -> &ApiError {
        &self.error
    }
}

/// The name of the constraint that the database refused a change for.
pub fn constraint(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error()?.constraint()
}

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        Self { error, cause: None, retry_after: None }
    }
}

impl From<sqlx::Error> for Problem {
    fn from(cause: sqlx::Error) -> Self {
        if database_is_away(&cause) { Self::unavailable(cause) } else { Self::internal(cause) }
    }
}

/// The database cannot be reached, is starting or stopping, or gave up a statement that took too
/// long: the same request may work in a moment.
fn database_is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::PoolTimedOut | sqlx::Error::Io(_) => true,
        // 57…: operator intervention; 08…: connection; 53…: insufficient resources;
        // 40…: a transaction that lost against another; 55P03: a lock that was not free in time.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["57", "08", "53", "40"].iter().any(|class| code.starts_with(class)) || code == "55P03"
        }),
        _ => false,
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        if let Some(cause) = &self.cause {
            tracing::error!(request_id = context::request_id(), "{cause:#}");
        }
        let status =
            StatusCode::from_u16(self.error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(ErrorBody { error: self.error })).into_response();
        if let Some(wait) = self.retry_after {
            // Rounded up: who comes back at the second named is let in.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_not_told_to_the_customer() {
        let problem = Problem::internal(anyhow::anyhow!("disk on fire"));
        assert!(!problem.error().message.contains("fire"));
        assert_eq!(problem.into_response().status(), 500);
    }

    #[test]
    fn who_waits_as_long_as_told_is_let_in() {
        let problem =
            Problem::new(ErrorCode::RateLimitExceeded, "Wait.").retry_after(Duration::from_millis(1200));
        let response = problem.into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
    }
}
