//! `/v1/images`.

use axum::Json;
use axum::extract::State;
use berth_model::action::{ActionReply, ResourceKind};
use berth_model::error::ApiError;
use berth_model::image::{ImageKind, ImageList, ImageProtectionChange, ImageReply, ImageStatus, ImageUpdate};
use berth_model::quota::QuotaKind;
use berth_model::{ErrorCode, ImageId};
use http::StatusCode;
use serde::Deserialize;
use sqlx::PgConnection;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::queries::{self, ARCHITECTURE, Held};
use super::{jobs, rules};
use crate::accounts::{ProjectAccess, Reader, Writer};
use crate::actions::{self, NewAction};
use crate::http::{ApiResult, Body, Errors, Page, Path, Problem, Query, Sort};
use crate::{World, clock, labels, quotas};

/// The routes of images.
pub fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new()
        .routes(routes!(image_list))
        .routes(routes!(image_get, image_update, image_delete))
        .routes(routes!(image_change_protection))
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
    /// Belonging to these servers, by number.
    #[serde(default)]
    bound_to: Vec<i64>,
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
        bound_to: asked.bound_to,
        selector: labels::selector(asked.label_selector.as_deref())?,
        include_deprecated: asked.include_deprecated,
        sort: Sort::read(&asked.sort, &["id", "name", "created"])?,
    };
    let other_processor =
        !asked.architecture.is_empty() && !asked.architecture.iter().any(|a| a == ARCHITECTURE);
    if other_processor {
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

/// Change an image's description or labels, or make a backup a snapshot, which stays when its server goes.
#[utoipa::path(put, path = "/images/{id}", tag = "images", params(("id" = ImageId, Path)),
    request_body = ImageUpdate, responses((status = 200, body = ImageReply), Errors))]
async fn image_update(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ImageId>,
    Body(update): Body<ImageUpdate>,
) -> ApiResult<Json<ImageReply>> {
    let mut tx = world.db.begin().await?;
    let image = hold_own(&mut tx, access, id).await?;
    let faults = rules::update_faults(&update, image.kind);
    if !faults.is_empty() {
        return Err(ApiError::fields(faults).into());
    }
    let description = update.description.as_deref().map(str::trim);
    queries::update(&mut tx, id, description, update.kind, update.labels.as_ref()).await?;
    let becomes_snapshot = image.kind != ImageKind::Snapshot && update.kind == Some(ImageKind::Snapshot);
    let image = queries::get(&mut tx, access.project, id).await?;
    if becomes_snapshot {
        quotas::check(&mut tx, &world.config, access.project, &[QuotaKind::Snapshots]).await?;
    }
    tx.commit().await?;
    Ok(Json(ImageReply { image: image.ok_or_else(|| Problem::not_found("image"))? }))
}

/// Delete a snapshot. Servers that were made from it run on.
#[utoipa::path(delete, path = "/images/{id}", tag = "images", params(("id" = ImageId, Path)),
    responses((status = 204), Errors))]
async fn image_delete(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ImageId>,
) -> ApiResult<StatusCode> {
    let mut tx = world.db.begin().await?;
    let image = hold_own(&mut tx, access, id).await?;
    if image.protect_delete {
        let message = "The image is protected from deletion. Take the protection off first.";
        return Err(Problem::new(ErrorCode::Protected, message));
    }
    let Some(sha256) = image.sha256 else {
        return Err(Problem::new(
            ErrorCode::Conflict,
            "The image is being made. Delete it when that has ended.",
        ));
    };
    let now = clock::now();
    queries::delete(&mut tx, id, now).await?;
    jobs::remove::when_unused(&mut tx, &sha256, now).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Protect a snapshot from deletion, or no longer.
#[utoipa::path(post, path = "/images/{id}/actions/change_protection", tag = "images",
    params(("id" = ImageId, Path)), request_body = ImageProtectionChange,
    responses((status = 201, body = ActionReply), Errors))]
async fn image_change_protection(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ImageId>,
    Body(asked): Body<ImageProtectionChange>,
) -> ApiResult<(StatusCode, Json<ActionReply>)> {
    let mut tx = world.db.begin().await?;
    let image = hold_own(&mut tx, access, id).await?;
    if image.kind == ImageKind::Backup {
        let message = "A backup goes with its server. Make it a snapshot, then protect it.";
        return Err(Problem::new(ErrorCode::UnsupportedError, message));
    }
    queries::protect(&mut tx, id, asked.delete.unwrap_or(image.protect_delete)).await?;
    let action = NewAction {
        project: access.project,
        command: "change_protection",
        resources: &[(ResourceKind::Image, id.0)],
        steps: &[],
        now: clock::now(),
    };
    let action = actions::queries::done(&mut tx, &action).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(ActionReply { action })))
}

/// An image of the project's own. The hoster's are there for everybody, and are nobody's to change.
async fn hold_own(conn: &mut PgConnection, access: ProjectAccess, id: ImageId) -> ApiResult<Held> {
    match queries::hold(conn, access.project, id).await? {
        None => Err(Problem::not_found("image")),
        Some(image) if image.is_system => {
            let message = "This image is offered by the operator; only your own snapshots can be changed.";
            Err(Problem::new(ErrorCode::Forbidden, message))
        }
        Some(image) => Ok(image),
    }
}
