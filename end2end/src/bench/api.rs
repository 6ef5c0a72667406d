//! The public API of 25,000 servers under 2,000 reads and 200 writes a second, beside bare statements at the same
//! rates.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::Method;
use serde_json::json;
use sqlx::postgres::{PgPool, PgPoolOptions};

use super::list::{fill, steadily};
use super::{Row, percentile};
use crate::{Installation, Options};

const SERVERS: i64 = 25_000;
const READS_PER_S: u64 = 2_000;
const WRITES_PER_S: u64 = 200;
const SECONDS: u64 = 20;
/// Of the reads: first pages of the list of all servers.
const PAGES_PER_S: u64 = 100;

/// Part of these rates, in percent, and for how long.
#[derive(Clone, Copy)]
struct Part {
    percent: u64,
    seconds: u64,
}

impl Part {
    /// Until every connection knows its statements; not shown.
    const WARM_UP: Self = Self { percent: 25, seconds: 5 };
    const HALF: Self = Self { percent: 50, seconds: SECONDS };
    const ALL: Self = Self { percent: 100, seconds: SECONDS };

    fn of(self, rate_per_s: u64) -> u64 {
        rate_per_s * self.percent / 100
    }
}

/// Fills the database, then reads and writes at steady rates, all at once: at half of them, so that it is seen how far
/// away the limit is, and at all.
///
/// # Errors
/// When the installation does not start; a request that fails is counted.
pub async fn measure() -> anyhow::Result<Vec<Row>> {
    let installation = Installation::start(Options::default()).await?;
    let mut db = installation.database().await?;
    fill(&mut db, SERVERS, 1).await?;
    let ids: Vec<i64> = sqlx::query_scalar("select id from servers order by id").fetch_all(&mut db).await?;
    let ids: Arc<[i64]> = ids.into();
    let caller = Caller::of(&installation);
    run(&caller, &ids, Part::WARM_UP).await?;
    let mut rows = Vec::new();
    let pool = PgPoolOptions::new().max_connections(8).connect(installation.database_url()).await?;
    for part in [Part::HALF, Part::ALL] {
        let bare = tokio::try_join!(bare_reads(&pool, &ids, part), bare_writes(&pool, &ids, part))?;
        let asked = caller.failed.load(Ordering::Relaxed);
        let (reads, writes, pages) = run(&caller, &ids, part).await?;
        let failed = caller.failed.load(Ordering::Relaxed) - asked;
        let rates = (part.of(READS_PER_S), part.of(WRITES_PER_S));
        let (selects, updates) =
            (format!("bare SELECT, {}/s", rates.0), format!("bare UPDATE, {}/s", rates.1));
        for (what, took, beside, peer, aim) in [
            (format!("API, {} reads/s, 25,000 servers", rates.0), &reads, &selects, &bare.0, ""),
            (format!("API, {} writes/s beside them", rates.1), &writes, &updates, &bare.1, ""),
            ("first page of 25,000 meanwhile".to_owned(), &pages, &selects, &bare.0, "< 20"),
        ] {
            for percent in [50.0, 99.0] {
                rows.push(Row {
                    what: format!("{what}, p{percent:.0}"),
                    value: percentile(took, percent),
                    unit: "ms",
                    beside: beside.clone(),
                    peer: percentile(peer, percent),
                    aim: if percent > 50.0 { aim.to_owned() } else { String::new() },
                });
            }
        }
        rows.push(Row {
            what: "of these requests failed".to_owned(),
            value: failed as f64,
            unit: "",
            beside: "requests".to_owned(),
            peer: (reads.len() + writes.len() + pages.len()) as f64,
            aim: "0".to_owned(),
        });
    }
    Ok(rows)
}

/// How long reads, writes and first pages took, all at once.
async fn run(
    caller: &Caller,
    ids: &Arc<[i64]>,
    part: Part,
) -> anyhow::Result<(Vec<f64>, Vec<f64>, Vec<f64>)> {
    tokio::try_join!(reads(caller, ids, part), writes(caller, ids, part), pages(caller, part))
}

/// Some server, spread over all.
fn some(ids: &[i64], number: u64) -> i64 {
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    ids[usize::try_from(spread).unwrap_or_default() % ids.len()]
}

async fn bare_reads(pool: &PgPool, ids: &Arc<[i64]>, part: Part) -> anyhow::Result<Vec<f64>> {
    steadily(part.of(READS_PER_S), part.seconds, |number| {
        let (pool, id) = (pool.clone(), some(ids, number));
        async move {
            Ok(sqlx::query("select * from servers where id = $1").bind(id).fetch_all(&pool).await?.len())
        }
    })
    .await
}

async fn bare_writes(pool: &PgPool, ids: &Arc<[i64]>, part: Part) -> anyhow::Result<Vec<f64>> {
    steadily(part.of(WRITES_PER_S), part.seconds, |number| {
        let (pool, id) = (pool.clone(), some(ids, number));
        let labels = json!({"turn": number.to_string()});
        async move {
            let update = sqlx::query("update servers set labels = $2 where id = $1").bind(id).bind(labels);
            update.execute(&pool).await?;
            Ok(1)
        }
    })
    .await
}

/// What programs that wait and look ask for: single servers, every fourth time a server's actions, and every hundredth
/// time a page of the servers with a label that 8,333 have.
async fn reads(caller: &Caller, ids: &Arc<[i64]>, part: Part) -> anyhow::Result<Vec<f64>> {
    steadily(part.of(READS_PER_S - PAGES_PER_S), part.seconds, |number| {
        let (caller, id) = (caller.clone(), some(ids, number));
        let path = match number % 100 {
            1 => "/servers?label_selector=env%3Dprod".to_owned(),
            part if part % 4 == 0 => format!("/servers/{id}/actions"),
            _ => format!("/servers/{id}"),
        };
        caller.ask(Method::GET, path, None)
    })
    .await
}

async fn pages(caller: &Caller, part: Part) -> anyhow::Result<Vec<f64>> {
    steadily(part.of(PAGES_PER_S), part.seconds, |_| {
        caller.clone().ask(Method::GET, "/servers".to_owned(), None)
    })
    .await
}

/// Labels of servers.
async fn writes(caller: &Caller, ids: &Arc<[i64]>, part: Part) -> anyhow::Result<Vec<f64>> {
    steadily(part.of(WRITES_PER_S), part.seconds, |number| {
        let (caller, id) = (caller.clone(), some(ids, number));
        let body = json!({"labels": {"env": "prod", "turn": number.to_string()}});
        caller.ask(Method::PUT, format!("/servers/{id}"), Some(body))
    })
    .await
}

/// The beginning of a request: a client, and what it needs for each.
#[derive(Clone)]
struct Caller {
    http: reqwest::Client,
    base: String,
    token: String,
    failed: Arc<AtomicU64>,
}

impl Caller {
    fn of(installation: &Installation) -> Self {
        Self {
            http: crate::client::http(),
            base: installation.base(0).to_owned(),
            token: installation.token.clone(),
            failed: Arc::default(),
        }
    }

    /// Asks, and reads the whole answer; counts one that is an error.
    async fn ask(
        self,
        method: Method,
        path: String,
        body: Option<serde_json::Value>,
    ) -> anyhow::Result<usize> {
        let mut request =
            self.http.request(method, format!("{}/v1{path}", self.base)).bearer_auth(&self.token);
        if let Some(body) = &body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let (status, bytes) = (answer.status(), answer.bytes().await?);
        if !status.is_success() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(bytes.len())
    }
}
