//! The load of a server over a span, for its charts.

use axum::Json;
use axum::extract::State;
use berth_model::load::{LoadReply, LoadSpan};
use berth_model::{ErrorBody, ServerId};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::queries;
use crate::accounts::Reader;
use crate::http::{ApiResult, Path, Problem, Query};
use crate::{World, clock, servers};

/// The routes.
pub fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new().routes(routes!(server_load))
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
