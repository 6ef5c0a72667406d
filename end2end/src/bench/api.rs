//! The public API of 25,000 servers under 2,000 reads and 200 writes a second, beside bare statements at the same
//! rates.

use std::sync::Arc;

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

/// Fills the database, then reads and writes at steady rates, all at once.
///
/// # Errors
/// When a request fails: there may be none that does.
pub async fn measure() -> anyhow::Result<Vec<Row>> {
    let installation = Installation::start(Options::default()).await?;
    let mut db = installation.database().await?;
    fill(&mut db, SERVERS, 1).await?;
    let ids: Vec<i64> = sqlx::query_scalar("select id from servers order by id").fetch_all(&mut db).await?;
    let ids: Arc<[i64]> = ids.into();
    let pool = PgPoolOptions::new().max_connections(8).connect(installation.database_url()).await?;
    let bare = tokio::try_join!(bare_reads(&pool, &ids), bare_writes(&pool, &ids))?;
    let (reads, writes, page) =
        tokio::try_join!(reads(&installation, &ids), writes(&installation, &ids), pages(&installation))?;
    let row = |what: &str, took: &[f64], percent: f64, beside: &str, peer: &[f64], aim: &str| Row {
        what: format!("{what}, p{percent:.0}"),
        value: percentile(took, percent),
        unit: "ms",
        beside: beside.to_owned(),
        peer: percentile(peer, percent),
        aim: aim.to_owned(),
    };
    let (selects, updates) = ("bare SELECT, 2,000/s", "bare UPDATE, 200/s");
    Ok(vec![
        row("API, 2,000 reads/s, 25,000 servers", &reads, 50.0, selects, &bare.0, ""),
        row("API, 2,000 reads/s, 25,000 servers", &reads, 99.0, selects, &bare.0, ""),
        row("API, 200 writes/s beside them", &writes, 50.0, updates, &bare.1, ""),
        row("API, 200 writes/s beside them", &writes, 99.0, updates, &bare.1, ""),
        row("first page of 25,000 servers meanwhile", &page, 50.0, selects, &bare.0, ""),
        row("first page of 25,000 servers meanwhile", &page, 99.0, selects, &bare.0, "< 20"),
    ])
}

/// Some server, spread over all.
fn some(ids: &[i64], number: u64) -> i64 {
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    ids[usize::try_from(spread).unwrap_or_default() % ids.len()]
}

async fn bare_reads(pool: &PgPool, ids: &Arc<[i64]>) -> anyhow::Result<Vec<f64>> {
    steadily(READS_PER_S, SECONDS, |number| {
        let (pool, id) = (pool.clone(), some(ids, number));
        async move {
            Ok(sqlx::query("select * from servers where id = $1").bind(id).fetch_all(&pool).await?.len())
        }
    })
    .await
}

async fn bare_writes(pool: &PgPool, ids: &Arc<[i64]>) -> anyhow::Result<Vec<f64>> {
    steadily(WRITES_PER_S, SECONDS, |number| {
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
async fn reads(installation: &Installation, ids: &Arc<[i64]>) -> anyhow::Result<Vec<f64>> {
    let caller = Caller::of(installation);
    steadily(READS_PER_S - PAGES_PER_S, SECONDS, |number| {
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

async fn pages(installation: &Installation) -> anyhow::Result<Vec<f64>> {
    let caller = Caller::of(installation);
    steadily(PAGES_PER_S, SECONDS, |_| caller.clone().ask(Method::GET, "/servers".to_owned(), None)).await
}

/// Labels of servers.
async fn writes(installation: &Installation, ids: &Arc<[i64]>) -> anyhow::Result<Vec<f64>> {
    let caller = Caller::of(installation);
    steadily(WRITES_PER_S, SECONDS, |number| {
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
}

impl Caller {
    fn of(installation: &Installation) -> Self {
        Self {
            http: crate::client::http(),
            base: installation.base(0).to_owned(),
            token: installation.token.clone(),
        }
    }

    /// Asks, and reads the whole answer.
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
        anyhow::ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&bytes));
        Ok(bytes.len())
    }
}
