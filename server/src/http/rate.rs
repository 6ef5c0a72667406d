//! How many requests one caller may send: a bucket of tokens that refills evenly.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts as _, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use berth_model::ErrorCode;
use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};

use super::address::ClientAddress;
use super::problem::Problem;
use crate::World;
use crate::accounts::SESSION_COOKIE;

/// Buckets in memory before full ones are thrown away.
const BUCKETS_MAX: usize = 10_000;

/// Who is counted as one: a token, a session, or an address that shows neither.
type Caller = [u8; 32];

/// The callers of this process. Each control plane counts for itself: the limit is a guard against
/// a program gone wild, not a price list.
#[derive(Debug, Clone)]
pub struct RateLimit {
    per_hour: u32,
    buckets: Arc<Mutex<HashMap<Caller, Bucket>>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Bucket {
    left: f64,
    at: Instant,
}

/// What a caller is told, in the headers `RateLimit-…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    allowed: bool,
    left: u32,
    /// Until one more request is allowed.
    next: Duration,
    /// Until the bucket is full again.
    full: Duration,
}

impl Bucket {
    /// Takes one request out of it, `now`, if there is one.
    fn take(&mut self, per_hour: u32, now: Instant) -> Told {
        let most = f64::from(per_hour);
        let per_second = most / 3600.0;
        let refilled = now.saturating_duration_since(self.at).as_secs_f64() * per_second;
        (self.left, self.at) = ((self.left + refilled).min(most), now);
        let allowed = self.left >= 1.0;
        if allowed {
            self.left -= 1.0;
        }
        let until = |wanted: f64| Duration::from_secs_f64(((wanted - self.left) / per_second).max(0.0));
        Told { allowed, left: self.left as u32, next: until(1.0), full: until(most) }
    }
}

impl RateLimit {
    /// So many an hour for each caller; 0: no limit.
    pub fn new(per_hour: u32) -> Self {
        Self { per_hour, buckets: Arc::default() }
    }

    fn take(&self, caller: Caller, now: Instant) -> Option<Told> {
        if self.per_hour == 0 {
            return None;
        }
        // A panic elsewhere leaves numbers behind that are still good.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&caller) {
            let hour = Duration::from_secs(3600);
            buckets.retain(|_, bucket| now.saturating_duration_since(bucket.at) < hour);
            if buckets.len() >= BUCKETS_MAX {
                // So many at once are no callers but one attacker's inventions: start over.
                buckets.clear();
            }
        }
        let fresh = Bucket { left: f64::from(self.per_hour), at: now };
        Some(buckets.entry(caller).or_insert(fresh).take(self.per_hour, now))
    }
}

/// Lets a request through if its caller has one left, and says how many are left after it.
pub async fn limit(
    State((world, rate)): State<(World, RateLimit)>,
    request: Request,
    next: Next,
) -> Response {
    // Whoever watches over this process asks often, and must be answered.
    if !request.uri().path().starts_with("/v1/") {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let address = match ClientAddress::from_request_parts(&mut parts, &world).await {
        Ok(address) => address,
        Err(problem) => return problem.into_response(),
    };
    let told = rate.take(caller(&parts.headers, address), Instant::now());
    let mut response = match told {
        Some(Told { allowed: false, next, .. }) => {
            Problem::new(ErrorCode::RateLimitExceeded, "Too many requests. Slow down.")
                .retry_after(next)
                .into_response()
        }
        _ => next.run(Request::from_parts(parts, body)).await,
    };
    if let Some(told) = told {
        let headers = response.headers_mut();
        let mut set =
            |name, value: u64| headers.insert(HeaderName::from_static(name), HeaderValue::from(value));
        set("ratelimit-limit", rate.per_hour.into());
        set("ratelimit-remaining", told.left.into());
        set("ratelimit-reset", told.full.as_secs() + u64::from(told.full.subsec_nanos() > 0));
    }
    response
}

fn caller(headers: &HeaderMap, address: ClientAddress) -> Caller {
    // Only what counts is hashed: another spelling of the same token is the same caller.
    let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.split_whitespace().last());
    let cookies = headers.get(COOKIE).and_then(|value| value.to_str().ok());
    let session = cookies
        .and_then(|all| all.split(';').find(|one| one.trim().starts_with(SESSION_COOKIE)))
        .map(str::trim);
    match token.or(session) {
        Some(text) => Sha256::digest(text).into(),
        None => Sha256::digest(address.household().to_string()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_gets_its_requests_back_evenly() {
        let (start, mut clock) = (Instant::now(), Duration::ZERO);
        let limit = RateLimit::new(3600);
        for left in (0..3600).rev() {
            let told = limit.take([1; 32], start).expect("a limit");
            assert!(told.allowed && told.left == left);
        }
        let told = limit.take([1; 32], start).expect("a limit");
        assert_eq!((told.allowed, told.next), (false, Duration::from_secs(1)));
        assert!(limit.take([2; 32], start).expect("a limit").allowed, "another caller has its own");
        clock += Duration::from_secs(1);
        assert!(limit.take([1; 32], start + clock).expect("a limit").allowed);
        assert!(!limit.take([1; 32], start + clock).expect("a limit").allowed);
    }

    #[test]
    fn without_a_limit_nobody_is_counted() {
        assert_eq!(RateLimit::new(0).take([1; 32], Instant::now()), None);
    }

    #[test]
    fn inventing_callers_does_not_fill_the_memory() {
        let (limit, now) = (RateLimit::new(10), Instant::now());
        for n in 0..(BUCKETS_MAX as u32 + 10) {
            let mut caller = [0; 32];
            caller[..4].copy_from_slice(&n.to_be_bytes());
            limit.take(caller, now);
        }
        assert!(limit.buckets.lock().expect("not poisoned").len() <= BUCKETS_MAX);
    }
}
