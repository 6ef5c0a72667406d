//! `/v1/placement_groups`.

use axum::Json;
use axum::extract::State;
use berth_model::error::ApiError;
use berth_model::placement_group::{
    PlacementGroup, PlacementGroupCreate, PlacementGroupCreated, PlacementGroupList, PlacementGroupReply,
    PlacementGroupType, PlacementGroupUpdate,
};
use berth_model::quota::QuotaKind;
use berth_model::{ErrorCode, PlacementGroupId, ProjectId};
use http::StatusCode;
use serde::Deserialize;
use sqlx::PgConnection;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::queries;
use crate::accounts::{Reader, Writer};
use crate::http::{ApiResult, Body, Errors, Filter, Page, Path, Problem, Query};
use crate::{World, clock, labels, quotas};

/// The routes of placement groups.
pub fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new().routes(routes!(placement_group_list, placement_group_create)).routes(routes!(
        placement_group_get,
        placement_group_update,
        placement_group_delete
    ))
}

/// Which groups are asked for besides.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// Of these types: all are `spread`.
    #[serde(default, rename = "type")]
    #[expect(dead_code, reason = "there is one type, so that every group fits")]
    kind: Vec<PlacementGroupType>,
}

/// Placement groups of the project.
#[utoipa::path(get, path = "/placement_groups", tag = "placement_groups", params(Filter, Asked, Page),
    responses((status = 200, body = PlacementGroupList), Errors))]
async fn placement_group_list(
    State(world): State<World>,
    Reader(access): Reader,
    filter: Filter,
    Query(_): Query<Asked>,
    page: Page,
) -> ApiResult<Json<PlacementGroupList>> {
    let mut conn = world.db.acquire().await?;
    let (placement_groups, total) = queries::list(&mut conn, access.project, &filter, page).await?;
    Ok(Json(PlacementGroupList { placement_groups, meta: page.meta(total) }))
}

/// Make a group, whose servers stand on different nodes.
#[utoipa::path(post, path = "/placement_groups", tag = "placement_groups", request_body = PlacementGroupCreate,
    responses((status = 201, body = PlacementGroupCreated), Errors))]
async fn placement_group_create(
    State(world): State<World>,
    Writer(access): Writer,
    Body(create): Body<PlacementGroupCreate>,
) -> ApiResult<(StatusCode, Json<PlacementGroupCreated>)> {
    labels::check_named(Some(&create.name), create.labels.as_ref())?;
    let labels = create.labels.unwrap_or_default();
    let mut tx = world.db.begin().await?;
    let new = (create.name.trim(), &labels);
    let id = queries::insert(&mut tx, access.project, new, clock::now()).await.map_err(name_is_taken)?;
    quotas::check(&mut tx, &world.config, access.project, &[QuotaKind::PlacementGroups]).await?;
    let placement_group = shown(&mut tx, access.project, id).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(PlacementGroupCreated { placement_group, action: None })))
}

/// One placement group.
#[utoipa::path(get, path = "/placement_groups/{id}", tag = "placement_groups",
    params(("id" = PlacementGroupId, Path)), responses((status = 200, body = PlacementGroupReply), Errors))]
async fn placement_group_get(
    State(world): State<World>,
    Reader(access): Reader,
    Path(id): Path<PlacementGroupId>,
) -> ApiResult<Json<PlacementGroupReply>> {
    let placement_group = shown(&mut *world.db.acquire().await?, access.project, id).await?;
    Ok(Json(PlacementGroupReply { placement_group }))
}

/// Change a group's name or labels.
#[utoipa::path(put, path = "/placement_groups/{id}", tag = "placement_groups",
    params(("id" = PlacementGroupId, Path)), request_body = PlacementGroupUpdate,
    responses((status = 200, body = PlacementGroupReply), Errors))]
async fn placement_group_update(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<PlacementGroupId>,
    Body(update): Body<PlacementGroupUpdate>,
) -> ApiResult<Json<PlacementGroupReply>> {
    let mut tx = world.db.begin().await?;
    shown(&mut tx, access.project, id).await?;
    labels::check_named(update.name.as_deref(), update.labels.as_ref())?;
    let to = (update.name.as_deref().map(str::trim), update.labels.as_ref());
    queries::update(&mut tx, access.project, id, to).await.map_err(name_is_taken)?;
    let placement_group = shown(&mut tx, access.project, id).await?;
    tx.commit().await?;
    Ok(Json(PlacementGroupReply { placement_group }))
}

/// Delete a group without servers.
#[utoipa::path(delete, path = "/placement_groups/{id}", tag = "placement_groups",
    params(("id" = PlacementGroupId, Path)), responses((status = 204), Errors))]
async fn placement_group_delete(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<PlacementGroupId>,
) -> ApiResult<StatusCode> {
    let gone = queries::delete(&mut *world.db.acquire().await?, access.project, id).await;
    let gone = gone.map_err(|error| {
        Problem::from(error).on_constraint("servers_placement_group_fk", || {
            let message = "Servers are in this placement group. Remove them from it first.";
            ApiError::new(ErrorCode::ResourceInUse, message)
        })
    })?;
    if gone { Ok(StatusCode::NO_CONTENT) } else { Err(not_found()) }
}

async fn shown(
    conn: &mut PgConnection,
    project: ProjectId,
    id: PlacementGroupId,
) -> ApiResult<PlacementGroup> {
    queries::get(conn, project, id).await?.ok_or_else(not_found)
}

fn not_found() -> Problem {
    Problem::not_found("placement group")
}

fn name_is_taken(error: sqlx::Error) -> Problem {
    Problem::from(error).on_taken(
        "placement_groups_name_key",
        "name",
        "The project has a placement group with this name already.",
    )
}
