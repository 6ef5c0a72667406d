//! `GET /v1/servers` with 100,000 servers in the database at 200 requests a second, beside a bare
//! `SELECT` of the same rows.

use std::time::{Duration, Instant};

use sqlx::PgConnection;
use sqlx::postgres::PgPoolOptions;

use super::{Row, percentile};
use crate::{Installation, Options};

const SERVERS: i64 = 100_000;
const RATE_PER_S: u64 = 200;
const SECONDS: u64 = 20;

/// Fills the database, then asks for the first page at a steady rate.
///
/// # Errors
/// When a request fails.
pub async fn measure() -> anyhow::Result<Vec<Row>> {
    let installation = Installation::start(Options::default()).await?;
    let mut db = installation.database().await?;
    // A tenth of them belongs to the customer who asks, the rest to a hundred others.
    fill(&mut db, SERVERS, 10).await?;

    let pool = PgPoolOptions::new().max_connections(8).connect(installation.database_url()).await?;
    let select =
        "select * from servers where project_id = (select min(id) from projects) order by id limit 25";
    let bare = steadily(RATE_PER_S, SECONDS, |_| {
        let pool = pool.clone();
        async move { Ok(sqlx::query(select).fetch_all(&pool).await?.len()) }
    })
    .await?;
    let (http, token) = (crate::client::http(), installation.token.clone());
    let url = format!("{}/v1/servers", installation.base(0));
    let through_api = steadily(RATE_PER_S, SECONDS, |_| {
        let request = http.get(&url).bearer_auth(&token);
        async move { Ok(request.send().await?.error_for_status()?.bytes().await?.len()) }
    })
    .await?;
    let row = |percent: f64, aim: &str| Row {
        what: format!("GET /v1/servers of 100,000 at 200/s, p{percent:.0}"),
        value: percentile(&through_api, percent),
        unit: "ms",
        beside: "bare SELECT of the same rows".into(),
        peer: percentile(&bare, percent),
        aim: aim.into(),
    };
    Ok(vec![row(50.0, ""), row(99.0, "< 20")])
}

/// Makes servers, every `share`-th of them the first customer's.
///
/// # Errors
/// When the database refuses.
pub(super) async fn fill(db: &mut PgConnection, servers: i64, share: i64) -> anyhow::Result<()> {
    for (name, value) in [("bench.servers", servers), ("bench.share", share)] {
        sqlx::query("select set_config($1, $2, false)")
            .bind(name)
            .bind(value.to_string())
            .execute(&mut *db)
            .await?;
    }
    sqlx::raw_sql(include_str!("list_fill.sql")).execute(&mut *db).await?;
    let count: i64 = sqlx::query_scalar("select count(*) from servers").fetch_one(db).await?;
    anyhow::ensure!(count >= servers, "only {count} servers were made");
    Ok(())
}

/// Starts calls at a steady rate, whether or not earlier ones have ended, and gives how long each took from the
/// moment it was due, in milliseconds.
///
/// # Errors
/// When a call fails.
pub(super) async fn steadily<F, Fut>(per_s: u64, seconds: u64, call: F) -> anyhow::Result<Vec<f64>>
where
    F: Fn(u64) -> Fut,
    Fut: Future<Output = anyhow::Result<usize>> + Send + 'static,
{
    for number in 0..20 {
        call(number).await?;
    }
    let begun = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..per_s * seconds {
        let due = begun + Duration::from_micros(1_000_000 / per_s) * u32::try_from(number)?;
        tokio::time::sleep_until(due.into()).await;
        let call = call(number);
        calls.spawn(async move { call.await.map(|_| due.elapsed().as_secs_f64() * 1000.0) });
    }
    let mut took = Vec::new();
    while let Some(done) = calls.join_next().await {
        took.push(done??);
    }
    Ok(took)
}
