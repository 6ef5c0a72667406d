//! How many requests one caller may send: a bucket that refills evenly, one for all control planes.
//!
//! Each control plane keeps its own copy of a caller's bucket and counts on it, so that a request
//! waits for nothing. What it let through it takes from the shared bucket, a row in the database, and
//! learns from it what the others let through:
//!
//! ```text
//!   request ─▶ copy: one less, one more unsettled ─▶ 20 unsettled? ─▶ the request settles first
//!                                                 └▶ every second: all with 5 or more are settled
//!   settle: row = min(full, row + refill) − unsettled;  copy = row
//! ```
//!
//! So a caller who goes from one control plane to another gets at most twice [`Sizes::quantum`] requests too many
//! from each, and pays them back: the row goes below zero. Somebody who asks a few times, or invents a
//! token for every request, never causes a write. Figures: `docs/decisions/0013-shared-rate-limits.md`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts as _, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use berth_model::ErrorCode;
use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};
use sqlx::{PgConnection, PgPool, query};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::address::ClientAddress;
use super::problem::Problem;
use crate::World;
use crate::accounts::SESSION_COOKIE;

/// Buckets in memory before full ones are thrown away.
const BUCKETS_MAX: usize = 10_000;
/// How often what was let through is settled.
const SETTLE_EVERY: Duration = Duration::from_secs(1);
/// After the database did not answer, every control plane counts for itself for so long.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);

/// Who is counted as one: a token, a session, or an address that shows neither.
type Caller = [u8; 32];

/// The callers of this control plane. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RateLimit {
    sizes: Sizes,
    db: PgPool,
    callers: Arc<Mutex<Callers>>,
    /// Held by who settles; when, after trouble, it is tried again.
    settling: Arc<tokio::sync::Mutex<Option<Instant>>>,
}

/// How large a bucket is, and how often it is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sizes {
    per_hour: u32,
    /// With so many unsettled a request settles before it is let through.
    quantum: u32,
    /// Fewer than these are left for later.
    least: u32,
}

impl Sizes {
    fn new(per_hour: u32) -> Self {
        let quantum = (per_hour / 180).clamp(1, 20);
        Self { per_hour, quantum, least: quantum.div_ceil(4) }
    }

    fn per_second(self) -> f64 {
        f64::from(self.per_hour) / 3600.0
    }
}

/// The copies of the buckets.
#[derive(Debug, Default)]
struct Callers(HashMap<Caller, Bucket>);

#[derive(Debug, Clone, Copy, PartialEq)]
struct Bucket {
    left: f64,
    at: Instant,
    /// Let through, and not yet taken from the shared bucket.
    unsettled: u32,
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
    fn take(&mut self, sizes: Sizes, now: Instant) -> Told {
        let most = f64::from(sizes.per_hour);
        let refilled = now.saturating_duration_since(self.at).as_secs_f64() * sizes.per_second();
        (self.left, self.at) = (self.left + refilled, now);
        if self.left >= most {
            // Long enough ago that the shared bucket would have got them back as well.
            (self.left, self.unsettled) = (most, 0);
        }
        let allowed = self.left >= 1.0;
        if allowed {
            self.left -= 1.0;
            self.unsettled += 1;
        }
        let until =
            |wanted: f64| Duration::from_secs_f64(((wanted - self.left) / sizes.per_second()).max(0.0));
        Told { allowed, left: self.left.max(0.0) as u32, next: until(1.0), full: until(most) }
    }
}

impl Callers {
    fn take(&mut self, caller: Caller, sizes: Sizes, now: Instant) -> Told {
        let Self(buckets) = self;
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&caller) {
            let hour = Duration::from_secs(3600);
            buckets.retain(|_, bucket| now.saturating_duration_since(bucket.at) < hour);
            if buckets.len() >= BUCKETS_MAX {
                // So many at once are no callers but one attacker's inventions: start over.
                buckets.clear();
            }
        }
        let fresh = Bucket { left: f64::from(sizes.per_hour), at: now, unsettled: 0 };
        buckets.entry(caller).or_insert(fresh).take(sizes, now)
    }

    fn unsettled(&self, caller: &Caller) -> u32 {
        self.0.get(caller).map_or(0, |bucket| bucket.unsettled)
    }

    /// Takes the counts that are to be settled: those of at least `least`.
    fn collect(&mut self, least: u32) -> (Vec<Vec<u8>>, Vec<i32>) {
        let due = self.0.iter_mut().filter(|(_, bucket)| bucket.unsettled >= least);
        // In one order everywhere, so that no two control planes wait for each other.
        let mut due: Vec<_> =
            due.map(|(caller, bucket)| (*caller, std::mem::take(&mut bucket.unsettled))).collect();
        due.sort_unstable_by_key(|(caller, _)| *caller);
        due.into_iter().map(|(caller, count)| (caller.to_vec(), count.cast_signed())).unzip()
    }

    /// What the shared bucket holds now, as it was answered.
    fn learn(&mut self, caller: &[u8], remaining: f64) {
        let bucket = Caller::try_from(caller).ok().and_then(|caller| self.0.get_mut(&caller));
        if let Some(bucket) = bucket {
            // What was let through since is not in the answer yet.
            bucket.left = remaining - f64::from(bucket.unsettled);
        }
    }

    /// They could not be settled: later, then.
    fn give_back(&mut self, callers: &[Vec<u8>], counts: &[i32]) {
        for (caller, count) in callers.iter().zip(counts) {
            let bucket = Caller::try_from(caller.as_slice()).ok().and_then(|caller| self.0.get_mut(&caller));
            if let Some(bucket) = bucket {
                bucket.unsettled = bucket.unsettled.saturating_add(count.unsigned_abs());
            }
        }
    }
}

impl RateLimit {
    /// So many an hour for each caller; 0: no limit.
    pub fn new(per_hour: u32, db: PgPool) -> Self {
        Self { sizes: Sizes::new(per_hour), db, callers: Arc::default(), settling: Arc::default() }
    }

    fn callers(&self) -> MutexGuard<'_, Callers> {
        // A panic elsewhere leaves numbers behind that are still good.
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(&self, caller: Caller) -> Option<Told> {
        if self.sizes.per_hour == 0 {
            return None;
        }
        if self.callers().unsettled(&caller) >= self.sizes.quantum {
            self.settle(|callers| callers.unsettled(&caller) >= self.sizes.quantum).await;
        }
        let told = self.callers().take(caller, self.sizes, Instant::now());
        // The smallest limits are exact: nobody is let through before the others know of it.
        if self.sizes.quantum == 1 && told.allowed {
            self.settle(|callers| callers.unsettled(&caller) > 0).await;
        }
        Some(told)
    }

    /// Settles from time to time, and once more at the end.
    pub async fn settle_until(self, stop: CancellationToken) {
        let mut tick = interval(SETTLE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => {}
            }
            self.settle(|_| true).await;
        }
    }

    /// Settles with the shared buckets, one round at a time, if it is still `wanted` when it is our turn.
    async fn settle(&self, wanted: impl FnOnce(&Callers) -> bool) {
        let trouble = Arc::clone(&self.settling).lock_owned().await;
        if trouble.is_some_and(|until| Instant::now() < until) || !wanted(&self.callers()) {
            return;
        }
        let (callers, counts) = self.callers().collect(self.sizes.least);
        if callers.is_empty() {
            return;
        }
        // A request may be dropped while it waits. What was collected is settled all the same.
        let round = tokio::spawn(self.clone().settle_these(trouble, callers, counts));
        // An error is a panic, which was logged where it happened.
        drop(round.await);
    }

    async fn settle_these(
        self,
        mut trouble: OwnedMutexGuard<Option<Instant>>,
        callers: Vec<Vec<u8>>,
        counts: Vec<i32>,
    ) {
        *trouble = match take_shared(&self.db, self.sizes, &callers, &counts).await {
            Ok(rows) => {
                let mut copies = self.callers();
                rows.iter().for_each(|(caller, remaining)| copies.learn(caller, *remaining));
                None
            }
            Err(error) => {
                tracing::warn!(
                    "Rate limits are not shared for now; each control plane counts for itself: {error}"
                );
                self.callers().give_back(&callers, &counts);
                Some(Instant::now() + TROUBLE_PAUSE)
            }
        };
    }
}

/// Takes the counts from the shared buckets; answers what these hold then. It may be less than nothing.
async fn take_shared(
    db: &PgPool,
    sizes: Sizes,
    callers: &[Vec<u8>],
    counts: &[i32],
) -> sqlx::Result<Vec<(Vec<u8>, f64)>> {
    let rows = query!(
        r#"insert into rate_buckets as shared (caller, remaining, at)
           select caller, $3::float8 - count, clock_timestamp() from unnest($1::bytea[], $2::int[]) as taken (caller, count)
           on conflict (caller) do update
           set remaining = least($3::float8, shared.remaining + $4::float8 * extract(epoch from excluded.at - shared.at)::float8)
                           - ($3::float8 - excluded.remaining),
               at = excluded.at
           returning caller, remaining"#,
        callers,
        counts,
        f64::from(sizes.per_hour),
        sizes.per_second(),
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.caller, row.remaining)).collect())
}

/// Deletes buckets that are full again, a bounded number at a time.
pub async fn prune(conn: &mut PgConnection) -> sqlx::Result<u64> {
    let done = query!(
        "delete from rate_buckets where ctid in
         (select ctid from rate_buckets where at < clock_timestamp() - interval '2 hours' limit 10000
          for update skip locked)"
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
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
    let told = rate.take(caller(&parts.headers, address)).await;
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
        set("ratelimit-limit", rate.sizes.per_hour.into());
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
        let (start, sizes) = (Instant::now(), Sizes::new(3600));
        let mut callers = Callers::default();
        for left in (0..3600).rev() {
            let told = callers.take([1; 32], sizes, start);
            assert!(told.allowed && told.left == left);
        }
        let told = callers.take([1; 32], sizes, start);
        assert_eq!((told.allowed, told.next), (false, Duration::from_secs(1)));
        assert!(callers.take([2; 32], sizes, start).allowed, "another caller has its own");
        let later = start + Duration::from_secs(1);
        assert!(callers.take([1; 32], sizes, later).allowed);
        assert!(!callers.take([1; 32], sizes, later).allowed);
    }

    #[test]
    fn what_others_let_through_counts_here_and_what_could_not_be_settled_is_kept() {
        let (now, sizes) = (Instant::now(), Sizes::new(3600));
        let mut callers = Callers::default();
        for _ in 0..7 {
            callers.take([1; 32], sizes, now);
        }
        callers.take([2; 32], sizes, now);
        let (due, counts) = callers.collect(sizes.least);
        assert_eq!((due.len(), counts.as_slice()), (1, &[7][..]), "a few requests are left for later");
        callers.take([1; 32], sizes, now);
        callers.learn(&[1; 32], 10.0);
        assert_eq!(callers.take([1; 32], sizes, now).left, 8, "one was let through meanwhile, and one now");
        callers.give_back(&due, &counts);
        assert_eq!(callers.unsettled(&[1; 32]), 9);
        callers.learn(&[1; 32], -20.0);
        let told = callers.take([1; 32], sizes, now);
        assert_eq!((told.allowed, told.left, told.next), (false, 0, Duration::from_secs(30)));
    }

    #[test]
    fn what_was_let_through_long_ago_is_not_settled() {
        let (now, sizes) = (Instant::now(), Sizes::new(3600));
        let mut callers = Callers::default();
        for _ in 0..9 {
            callers.take([1; 32], sizes, now);
        }
        callers.take([1; 32], sizes, now + Duration::from_secs(60));
        assert_eq!(callers.unsettled(&[1; 32]), 1);
    }

    #[test]
    fn inventing_callers_does_not_fill_the_memory() {
        let (mut callers, sizes, now) = (Callers::default(), Sizes::new(10), Instant::now());
        for n in 0..(BUCKETS_MAX as u32 + 10) {
            let mut caller = [0; 32];
            caller[..4].copy_from_slice(&n.to_be_bytes());
            callers.take(caller, sizes, now);
        }
        assert!(callers.0.len() <= BUCKETS_MAX);
    }
}
