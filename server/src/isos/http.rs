//! `/v1/isos`.

use axum::Json;
use axum::extract::State;
use berth_model::IsoId;
use berth_model::iso::{IsoList, IsoReply};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::queries;
use crate::World;
use crate::accounts::Reader;
use crate::http::{ApiResult, Errors, Page, Path, Problem, Query, part_of};

/// The routes of ISOs.
pub fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new().routes(routes!(iso_list)).routes(routes!(iso_get))
}

/// Which ISOs are asked for.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// With this name.
    name: Option<String>,
    /// For these processors: `x86`.
    #[serde(default)]
    architecture: Vec<String>,
    /// With `architecture`: also those that are for any.
    #[serde(default)]
    include_architecture_wildcard: bool,
    /// `id` or `name`, each with `:asc` or `:desc`.
    #[serde(default)]
    sort: Vec<String>,
}

/// ISOs that servers can boot from.
#[utoipa::path(get, path = "/isos", tag = "isos", params(Asked, Page),
    responses((status = 200, body = IsoList), Errors))]
async fn iso_list(
    State(world): State<World>,
    Reader(access): Reader,
    Query(asked): Query<Asked>,
    page: Page,
) -> ApiResult<Json<IsoList>> {
    let mut all = queries::all(&mut *world.db.acquire().await?, access.project).await?;
    let wanted = &asked.architecture;
    all.retain(|iso| match &iso.architecture {
        Some(architecture) => wanted.is_empty() || wanted.contains(architecture),
        None => wanted.is_empty() || asked.include_architecture_wildcard,
    });
    let (isos, meta) = part_of(all, (asked.name.as_deref(), &asked.sort), page, |iso| (iso.id.0, &iso.name))?;
    Ok(Json(IsoList { isos, meta }))
}

/// One ISO.
#[utoipa::path(get, path = "/isos/{id}", tag = "isos", params(("id" = IsoId, Path)),
    responses((status = 200, body = IsoReply), Errors))]
async fn iso_get(
    State(world): State<World>,
    Reader(access): Reader,
    Path(id): Path<IsoId>,
) -> ApiResult<Json<IsoReply>> {
    let all = queries::all(&mut *world.db.acquire().await?, access.project).await?;
    let iso = all.into_iter().find(|iso| iso.id == id);
    Ok(Json(IsoReply { iso: iso.ok_or_else(|| Problem::not_found("ISO"))? }))
}
