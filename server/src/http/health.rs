//! `/healthz`, `/readyz` and `/metrics`: for who watches over this process.

use std::net::SocketAddr;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use sqlx::query_scalar;

use super::app::nothing_here;
use crate::{World, db};

/// The process is alive: it answers.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// What `/readyz` says.
#[derive(Debug, Serialize)]
struct Readiness {
    /// Send requests here?
    ready: bool,
    /// The database answers.
    database: bool,
    /// Its schema is at least as new as this binary.
    migrations: bool,
    /// How many nodes are in each state. A node that is away does not make this process unready:
    /// another one could not reach it either.
    nodes: Vec<NodeCount>,
}

#[derive(Debug, Serialize)]
struct NodeCount {
    state: String,
    count: i64,
}

/// May requests be sent here? 503 when not; the body says why.
pub async fn readyz(State(world): State<World>) -> Response {
    let database = query_scalar!("select 1 as \"one!\"").fetch_one(&world.db).await;
    let migrations = database.is_ok() && db::is_migrated(&world.db).await.unwrap_or(false);
    let nodes = if migrations { nodes(&world).await.unwrap_or_default() } else { Vec::new() };
    if let Err(error) = &database {
        tracing::warn!("not ready: the database does not answer: {error}");
    }
    let ready = database.is_ok() && migrations;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, database: database.is_ok(), migrations, nodes })).into_response()
}

async fn nodes(world: &World) -> sqlx::Result<Vec<NodeCount>> {
    sqlx::query_as!(
        NodeCount,
        r#"select state, count(*) as "count!" from nodes group by state order by state"#
    )
    .fetch_all(&world.db)
    .await
}

/// The metrics, on the public listener: for this machine only, and not where a proxy stands before
/// it. One does where people come by HTTPS, which we do not speak; others say so in a header.
pub async fn local_metrics(
    State((world, handle)): State<(World, PrometheusHandle)>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    let is_passed_on = ["x-forwarded-for", "forwarded", "via"].iter().any(|name| headers.contains_key(*name));
    if peer.ip().to_canonical().is_loopback()
        && !is_passed_on
        && !world.config.origin().is_secure()
        && world.config.metrics_listen.is_none()
    {
        render(&world, &handle)
    } else {
        nothing_here()
    }
}

/// The metrics, on a listener of their own.
pub async fn metrics(State((world, handle)): State<(World, PrometheusHandle)>) -> Response {
    render(&world, &handle)
}

fn render(world: &World, handle: &PrometheusHandle) -> Response {
    metrics::gauge!("database_connections").set(f64::from(world.db.size()));
    metrics::gauge!("database_connections_idle").set(world.db.num_idle() as f64);
    handle.run_upkeep();
    ([("content-type", "text/plain; version=0.0.4")], handle.render()).into_response()
}
