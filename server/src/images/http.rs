//! `/v1/images`.

use axum::Json;
use axum::extract::State;
use berth_model::ImageId;
use berth_model::image::{ImageKind, ImageList, ImageReply, ImageStatus};
use serde::Deserialize;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::queries::{self, ARCHITECTURE};
use crate::accounts::Reader;
use crate::http::{ApiResult, Errors, Page, Path, Problem, Query, Sort};
use crate::{World, labels};

/// The routes of images.
pub fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new().routes(routes!(image_list)).routes(routes!(image_get))
}

/// Which images are asked for.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// Of these kinds.
    #[serde(default, rename = "type")]
    #[param(rename = "type")]
    kinds: Vec<ImageKind>,
    /// In these states.
    #[serde(default, rename = "status")]
    #[param(rename = "status")]
    statuses: Vec<ImageStatus>,
    /// With these names.
    #[serde(default, rename = "name")]
    #[param(rename = "name")]
    names: Vec<String>,
    /// For these processors: `x86`.
    #[serde(default)]
    architecture: Vec<String>,
    /// Belonging to these servers. Backups are not offered yet, so none does.
    #[serde(default)]
    bound_to: Vec<String>,
    /// Also those that should no longer be chosen.
    #[serde(default)]
    include_deprecated: bool,
    /// With labels that fit.
    label_selector: Option<String>,
    /// `id`, `name` or `created`, each with `:asc` or `:desc`.
    #[serde(default)]
    sort: Vec<String>,
}

/// Images that servers can be made from.
#[utoipa::path(get, path = "/images", tag = "images", params(Asked, Page),
    responses((status = 200, body = ImageList), Errors))]
async fn image_list(
    State(world): State<World>,
    Reader(access): Reader,
    Query(asked): Query<Asked>,
    page: Page,
) -> ApiResult<Json<ImageList>> {
    let filter = queries::Filter {
        kinds: asked.kinds,
        statuses: asked.statuses,
        names: asked.names,
        selector: labels::selector(asked.label_selector.as_deref())?,
        include_deprecated: asked.include_deprecated,
        sort: Sort::read(&asked.sort, &["id", "name", "created"])?,
    };
    let other_processor =
        !asked.architecture.is_empty() && !asked.architecture.iter().any(|a| a == ARCHITECTURE);
    if other_processor || !asked.bound_to.is_empty() {
        return Ok(Json(ImageList { images: Vec::new(), meta: page.meta(0) }));
    }
    let mut conn = world.db.acquire().await?;
    let (images, total) = queries::list(&mut conn, access.project, &filter, page).await?;
    Ok(Json(ImageList { images, meta: page.meta(total) }))
}

/// One image.
#[utoipa::path(get, path = "/images/{id}", tag = "images", params(("id" = ImageId, Path)),
    responses((status = 200, body = ImageReply), Errors))]
async fn image_get(
    State(world): State<World>,
    Reader(access): Reader,
    Path(id): Path<ImageId>,
) -> ApiResult<Json<ImageReply>> {
    let mut conn = world.db.acquire().await?;
    let image = queries::get(&mut conn, access.project, id).await?;
    let image = image.ok_or_else(|| Problem::not_found("image"))?;
    Ok(Json(ImageReply { image }))
}
