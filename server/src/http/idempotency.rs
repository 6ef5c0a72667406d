//! `Idempotency-Key`: a POST that is sent again is answered again, not done again.
//!
//! A client that lost the answer cannot know whether its POST was done. With a key of its own
//! choice it may send the same request again for 24 hours and gets the same answer.
//!
//! ```text
//!   (no row) ──POST──▶ under way ──answered below 500──▶ answered ──24 h──▶ (no row)
//!                          │  └────answered 5xx, 429────▶ (no row): it may be tried again
//!                          └──the process died, too slow──▶ cut off ──24 h──▶ (no row)
//! ```
//!
//! The row is written before the handler runs, in a transaction of its own. A second request with
//! the key finds it: *answered*, it gets the same answer; *under way*, `conflict`: ask again; with
//! another body, `conflict`. When the caller hangs up the handler runs on, so that the answer is
//! there for the next try. *Cut off* is a row under way that is older than any request may take:
//! the process died in the middle, or the handler was given up, and nobody knows whether the work was
//! done. Doing it again could
//! do it twice, which is what the key promises against; so the caller is told to look, and to use a
//! new key.
//!
//! A key belongs to a project, so only requests of a project have one: sign-up, sign-in and the
//! like ignore it. Answers are sealed: one may hold a root password or a token.

use std::sync::Arc;

use axum::extract::{FromRequest as _, FromRequestParts as _, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use berth_model::{ErrorCode, ProjectId, Timestamp};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt as _;
use sha2::{Digest as _, Sha256};
use sqlx::{PgConnection, query};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::context;
use super::extract::too_long_or_cut_off;
use super::problem::{ApiResult, Problem};
use crate::accounts::Writer;
use crate::{World, clock};

/// The header.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Set on an answer that was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Longest key.
const KEY_MAX_CHARS: usize = 255;
/// Answers are kept for so long.
const KEPT_SECONDS: i64 = 24 * 60 * 60;
/// What answers are sealed for.
const PURPOSE: &str = "idempotent answer";

/// Requests with a key that run on although their caller hung up.
#[derive(Debug, Clone, Default)]
pub struct Unattended(TaskTracker);

impl Unattended {
    /// Waits until the last one has ended. No new ones may begin.
    pub async fn ended(&self) {
        self.0.close();
        self.0.wait().await;
    }
}

/// The layer: does nothing for a request without a key.
pub async fn once(
    State((world, unattended)): State<(World, Unattended)>,
    request: Request,
    next: Next,
) -> Response {
    if request.method() != Method::POST || !request.headers().contains_key(IDEMPOTENCY_KEY) {
        return next.run(request).await;
    }
    // What needs no project has no key: the handler answers as if there were none.
    if is_personal(request.uri().path()) {
        return next.run(request).await;
    }
    // A task of its own, from the row on: a caller that hangs up must not leave it half done.
    let work = async move {
        match Claim::of(&world, request).await {
            Ok((request, Found::First(claim))) => claim.run(&world, request, next).await,
            Ok((_, Found::Answered(response))) => response,
            Err(problem) => problem.into_response(),
        }
    };
    match unattended.0.spawn(carried(work)).await {
        Ok(response) => response,
        Err(error) => Problem::internal(error).into_response(),
    }
}

/// Routes of people, staff and agents, not of projects.
fn is_personal(path: &str) -> bool {
    ["/v1/users", "/v1/session", "/v1/session/password", "/v1/agents/enrol"].contains(&path)
        || path.starts_with("/v1/staff/")
}

enum Found {
    First(Claim),
    Answered(Response),
}

/// The row of a request under way.
struct Claim {
    project: ProjectId,
    key: String,
}

impl Claim {
    async fn of(world: &World, request: Request) -> ApiResult<(Request, Found)> {
        let (mut parts, body) = request.into_parts();
        let key = key(&parts.headers)?;
        let Writer(access) = Writer::from_request_parts(&mut parts, world).await?;
        // The body is read whole, by the limit of the route, because its hash is needed first.
        let request = Request::from_parts(parts.clone(), body);
        let bytes = tokio::time::timeout(world.config.request_timeout(), Bytes::from_request(request, &()));
        let bytes = bytes.await.map_err(|_| Problem::too_slow())?.map_err(too_long_or_cut_off)?;
        let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
        let hash = Sha256::new()
            .chain_update(parts.method.as_str())
            .chain_update([0])
            .chain_update(target)
            .chain_update([0])
            // What only people may ask for must not be answered to a program, nor the other way round.
            .chain_update([u8::from(access.token().is_some())])
            .chain_update(&bytes)
            .finalize();

        let claim = Self { project: access.project, key };
        let found = claim.find_or_insert(world, &hash.into(), clock::now()).await?;
        let found = found.map_or(Found::First(claim), Found::Answered);
        Ok((Request::from_parts(parts, bytes.into()), found))
    }

    /// The answer that was given before; or nothing, and the row is ours.
    async fn find_or_insert(
        &self,
        world: &World,
        hash: &[u8; 32],
        now: Timestamp,
    ) -> ApiResult<Option<Response>> {
        let inserted = query!(
            "insert into idempotency_keys (project_id, key, request_hash, created) values ($1, $2, $3, $4)
             on conflict (project_id, key) do update
                 set request_hash = $3, status = null, response = null, created = $4
                 where idempotency_keys.created <= $5",
            self.project as ProjectId,
            self.key,
            &hash[..],
            now as Timestamp,
            now.plus_seconds(-KEPT_SECONDS) as Timestamp
        )
        .execute(&world.db)
        .await?;
        if inserted.rows_affected() == 1 {
            return Ok(None);
        }
        let conflict = |message: &str| Err(Problem::new(ErrorCode::Conflict, message));
        let row = query!(
            r#"select request_hash, status, response, created as "created: Timestamp"
               from idempotency_keys where project_id = $1 and key = $2"#,
            self.project as ProjectId,
            self.key
        )
        .fetch_optional(&world.db)
        .await?;
        // Gone in between: the first request failed, so this one may be tried again.
        let Some(row) = row else {
            return conflict("The first request with this Idempotency-Key has just failed. Send it again.");
        };
        if row.request_hash != hash {
            return conflict(
                "This Idempotency-Key was used for another request. Use a new key for a new request.",
            );
        }
        let (Some(status), Some(sealed)) = (row.status, row.response) else {
            // Twice the longest a request may take: nobody can still be at it.
            let longest = world.config.request_timeout_seconds.cast_signed() * 2;
            return conflict(if row.created.plus_seconds(longest) > now {
                "The first request with this Idempotency-Key is still under way. Ask again in a moment."
            } else {
                "The first request with this Idempotency-Key was cut off. See whether it took effect; \
                 if not, send it with a new key."
            });
        };
        let body = world.secret_key.open(PURPOSE, &sealed).map_err(Problem::internal)?;
        let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
        let mut response = (status.unwrap_or(StatusCode::OK), body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
        Ok(Some(response))
    }

    /// Runs the handler to its end and keeps its answer.
    async fn run(self, world: &World, request: Request, next: Next) -> Response {
        let limit = world.config.request_timeout();
        let answer = tokio::time::timeout(limit, async move { next.run(request).await });
        // Its own task, so that a panic leaves no row behind that says "under way".
        let response = match tokio::spawn(carried(answer)).await {
            Ok(Ok(response)) => response,
            // It may have been committing: the row stays, as after a death.
            Ok(Err(_)) => return Problem::too_slow().into_response(),
            Err(error) => Problem::internal(error).into_response(),
        };
        let (parts, body) = response.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return Problem::internal(error).into_response(),
        };
        if let Err(error) = self.keep(world, &parts, &body).await {
            // What was done is done, and the answer may hold the only copy of a password. The row
            // says "cut off" in the end.
            tracing::error!("The answer to a request with an Idempotency-Key cannot be kept: {error}");
        }
        Response::from_parts(parts, body.into())
    }

    async fn keep(&self, world: &World, parts: &http::response::Parts, body: &[u8]) -> sqlx::Result<()> {
        let may_work_later = parts.status.is_server_error() || parts.status == StatusCode::TOO_MANY_REQUESTS;
        if may_work_later {
            query!(
                "delete from idempotency_keys where project_id = $1 and key = $2",
                self.project as ProjectId,
                self.key
            )
            .execute(&world.db)
            .await?;
        } else {
            query!(
                "update idempotency_keys set status = $3, response = $4 where project_id = $1 and key = $2",
                self.project as ProjectId,
                self.key,
                parts.status.as_u16().cast_signed(),
                world.secret_key.seal(PURPOSE, body)
            )
            .execute(&world.db)
            .await?;
        }
        Ok(())
    }
}

fn key(headers: &HeaderMap) -> ApiResult<String> {
    let text = headers.get(IDEMPOTENCY_KEY).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if (1..=KEY_MAX_CHARS).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        let message = "An Idempotency-Key has 1 to 255 visible ASCII characters.";
        Err(Problem::field("Idempotency-Key", message))
    }
}

/// `work` in the same request: its id, and its place in the log.
fn carried<F: Future<Output: Send> + Send>(work: F) -> impl Future<Output = F::Output> + Send {
    let (context, span) = (context::current(), tracing::Span::current());
    async move {
        match context {
            Some(context) => context::within(Arc::clone(&context), work).await,
            None => work.await,
        }
    }
    .instrument(span)
}

/// Deletes answers that are kept no longer, a bounded number at a time.
pub async fn prune(conn: &mut PgConnection, now: Timestamp) -> sqlx::Result<u64> {
    let done = query!(
        "delete from idempotency_keys where ctid in (select ctid from idempotency_keys where created <= $1 limit 10000)",
        now.plus_seconds(-KEPT_SECONDS) as Timestamp
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_short_and_visible() {
        let of = |value: &str| {
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("a header");
            key(&HeaderMap::from_iter([(IDEMPOTENCY_KEY, value)])).is_ok()
        };
        assert!(of("a") && of(&"a".repeat(255)) && of("7a6e0b6c-order"));
        assert!(!of("") && !of(&"a".repeat(256)) && !of("ä"));
    }
}
