//! The load of a server over a span: for the charts of the panel, and as metrics.

use axum::Json;
use axum::extract::State;
use berth_model::error::ApiError;
use berth_model::load::{LoadReply, LoadSpan};
use berth_model::metrics::MetricsReply;
use berth_model::{ErrorBody, ServerId};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{queries, series};
use crate::accounts::Reader;
use crate::http::{ApiResult, Errors, Path, Problem, Query};
use crate::{World, clock, servers};

/// The routes.
pub fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new().routes(routes!(server_load)).routes(routes!(server_metrics))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadQuery {
    #[serde(default = "live")]
    span: LoadSpan,
}

fn live() -> LoadSpan {
    LoadSpan::Live
}

/// The load of a server: the last ten minutes as sampled, or means over equal steps.
#[utoipa::path(
    get, path = "/servers/{id}/load", tag = "servers",
    params(
        ("id" = i64, Path, description = "The server's number"),
        ("span" = Option<LoadSpan>, Query, description = "How far back; `live` unless said otherwise"),
    ),
    responses(
        (status = 200, description = "Samples, oldest first", body = LoadReply),
        (status = 401, description = "`unauthorized`", body = ErrorBody),
        (status = 404, description = "`not_found`", body = ErrorBody),
        (status = 422, description = "`invalid_input`", body = ErrorBody),
    )
)]
async fn server_load(
    Reader(access): Reader,
    State(world): State<World>,
    Path(id): Path<ServerId>,
    Query(LoadQuery { span }): Query<LoadQuery>,
) -> ApiResult<Json<LoadReply>> {
    let to = clock::now();
    let mut conn = world.db.acquire().await?;
    if servers::queries::get(&mut conn, access.project, id).await?.is_none() {
        return Err(Problem::not_found("server"));
    }
    let samples = queries::samples(&mut conn, id, span, to).await?;
    let from = to.plus_seconds(-span.seconds());
    Ok(Json(LoadReply { server: id, from, to, step_s: span.step_s(), samples }))
}

/// Which figures are asked for.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// `cpu`, `disk`, `network`: repeated, or joined by commas.
    #[serde(default, rename = "type")]
    #[param(rename = "type", required = true)]
    kinds: Vec<String>,
    /// Start of the span, RFC 3339. What was before the last 30 days is forgotten.
    start: String,
    /// End of the span, RFC 3339.
    end: String,
    /// Seconds between points. Without it there are about 200 of them; a step is widened to 500 points at most, and
    /// to a minute where the start is more than an hour ago.
    #[param(minimum = 1)]
    step: Option<f64>,
}

/// Figures of a server over time: CPU, disk, network.
#[utoipa::path(get, path = "/servers/{id}/metrics", tag = "servers", params(("id" = ServerId, Path), Asked),
    responses((status = 200, body = MetricsReply), Errors))]
async fn server_metrics(
    Reader(access): Reader,
    State(world): State<World>,
    Path(id): Path<ServerId>,
    Query(asked): Query<Asked>,
) -> ApiResult<Json<MetricsReply>> {
    let mut conn = world.db.acquire().await?;
    if servers::queries::get(&mut conn, access.project, id).await?.is_none() {
        return Err(Problem::not_found("server"));
    }
    let asked = series::read(&asked.kinds, (&asked.start, &asked.end), asked.step, clock::now());
    let asked = asked.map_err(ApiError::fields)?;
    let samples = queries::means(&mut conn, id, &asked.steps).await?;
    Ok(Json(MetricsReply { metrics: series::of(&asked, &samples) }))
}
