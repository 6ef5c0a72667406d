//! `/v1/limits` and `/v1/limit_requests`, and what staff do with them.

use axum::Json;
use axum::extract::State;
use berth_model::error::ApiError;
use berth_model::quota::{
    LimitList, LimitRequestAnswer, LimitRequestCreate, LimitRequestList, LimitRequestReply,
    LimitRequestStatus, LimitSet,
};
use berth_model::{AccountId, LimitRequestId, ProjectId};
use http::StatusCode;
use serde::Deserialize;
use sqlx::PgConnection;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::queries::{self, Filter, Whose};
use super::rules;
use crate::accounts::{Reader, Staff, Writer};
use crate::http::{ApiResult, Body, Errors, Page, Path, Problem, Query};
use crate::{World, clock};

/// The routes.
pub fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new()
        .routes(routes!(limit_list))
        .routes(routes!(limit_request_list, limit_request_create))
        .routes(routes!(limit_request_get))
        .routes(routes!(staff_limit_request_list))
        .routes(routes!(staff_limit_request_grant))
        .routes(routes!(staff_limit_request_decline))
        .routes(routes!(staff_project_limits_get, staff_project_limits_set))
        .routes(routes!(staff_account_limits_set))
}

/// What the project has of each kind, and may have.
#[utoipa::path(get, path = "/limits", tag = "limits", responses((status = 200, body = LimitList), Errors))]
async fn limit_list(State(world): State<World>, Reader(access): Reader) -> ApiResult<Json<LimitList>> {
    let mut conn = world.db.acquire().await?;
    Ok(Json(LimitList { limits: queries::standing(&mut conn, &world.config, access.project).await? }))
}

/// Which requests are asked for.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// In this state.
    status: Option<LimitRequestStatus>,
}

/// The project's requests for higher limits, newest first.
#[utoipa::path(get, path = "/limit_requests", tag = "limits", params(Asked, Page),
    responses((status = 200, body = LimitRequestList), Errors))]
async fn limit_request_list(
    State(world): State<World>,
    Reader(access): Reader,
    Query(asked): Query<Asked>,
    page: Page,
) -> ApiResult<Json<LimitRequestList>> {
    let filter = Filter { project: Some(access.project), status: asked.status, id: None };
    let mut conn = world.db.acquire().await?;
    let (limit_requests, total) = queries::requests(&mut conn, filter, page).await?;
    Ok(Json(LimitRequestList { limit_requests, meta: page.meta(total) }))
}

/// One request for a higher limit.
#[utoipa::path(get, path = "/limit_requests/{id}", tag = "limits", params(("id" = LimitRequestId, Path)),
    responses((status = 200, body = LimitRequestReply), Errors))]
async fn limit_request_get(
    State(world): State<World>,
    Reader(access): Reader,
    Path(id): Path<LimitRequestId>,
) -> ApiResult<Json<LimitRequestReply>> {
    reply(&mut *world.db.acquire().await?, id, Some(access.project)).await
}

/// Ask for a higher limit. One request of a kind is open at a time.
#[utoipa::path(post, path = "/limit_requests", tag = "limits", request_body = LimitRequestCreate,
    responses((status = 201, body = LimitRequestReply), Errors))]
async fn limit_request_create(
    State(world): State<World>,
    Writer(access): Writer,
    Body(create): Body<LimitRequestCreate>,
) -> ApiResult<(StatusCode, Json<LimitRequestReply>)> {
    let mut tx = world.db.begin().await?;
    let standing = queries::standing(&mut tx, &world.config, access.project).await?;
    let faults = rules::request_faults(&create, &standing);
    if !faults.is_empty() {
        return Err(ApiError::fields(faults).into());
    }
    let id = queries::request(&mut tx, access.project, &create, clock::now()).await.map_err(is_open)?;
    let reply = reply(&mut tx, id, Some(access.project)).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, reply))
}

fn is_open(error: sqlx::Error) -> Problem {
    Problem::from(error).on_taken(
        "limit_requests_open_key",
        "kind",
        "A request of this kind is open already. Wait for its answer.",
    )
}

/// Requests of all projects, newest first. For staff.
#[utoipa::path(get, path = "/staff/limit_requests", tag = "staff", params(Asked, Page),
    responses((status = 200, body = LimitRequestList), Errors))]
async fn staff_limit_request_list(
    State(world): State<World>,
    _: Staff,
    Query(asked): Query<Asked>,
    page: Page,
) -> ApiResult<Json<LimitRequestList>> {
    let filter = Filter { status: asked.status, ..Filter::default() };
    let mut conn = world.db.acquire().await?;
    let (limit_requests, total) = queries::requests(&mut conn, filter, page).await?;
    Ok(Json(LimitRequestList { limit_requests, meta: page.meta(total) }))
}

/// Give a project the limit that it asked for; its account at least as much. For staff.
#[utoipa::path(post, path = "/staff/limit_requests/{id}/grant", tag = "staff",
    params(("id" = LimitRequestId, Path)), request_body = LimitRequestAnswer,
    responses((status = 200, body = LimitRequestReply), Errors))]
async fn staff_limit_request_grant(
    State(world): State<World>,
    _: Staff,
    Path(id): Path<LimitRequestId>,
    Body(form): Body<LimitRequestAnswer>,
) -> ApiResult<Json<LimitRequestReply>> {
    answer(&world, id, LimitRequestStatus::Granted, form).await
}

/// Decline a request. For staff.
#[utoipa::path(post, path = "/staff/limit_requests/{id}/decline", tag = "staff",
    params(("id" = LimitRequestId, Path)), request_body = LimitRequestAnswer,
    responses((status = 200, body = LimitRequestReply), Errors))]
async fn staff_limit_request_decline(
    State(world): State<World>,
    _: Staff,
    Path(id): Path<LimitRequestId>,
    Body(form): Body<LimitRequestAnswer>,
) -> ApiResult<Json<LimitRequestReply>> {
    answer(&world, id, LimitRequestStatus::Declined, form).await
}

async fn answer(
    world: &World,
    id: LimitRequestId,
    status: LimitRequestStatus,
    form: LimitRequestAnswer,
) -> ApiResult<Json<LimitRequestReply>> {
    if let Some(fault) = rules::text_fault("note", form.note.as_deref()) {
        return Err(ApiError::fields(vec![fault]).into());
    }
    let note = form.note.as_deref().map(str::trim).filter(|note| !note.is_empty());
    let mut tx = world.db.begin().await?;
    super::answer(&mut tx, &world.config, id, status, note).await?;
    let reply = reply(&mut tx, id, None).await?;
    tx.commit().await?;
    Ok(reply)
}

async fn reply(
    conn: &mut PgConnection,
    id: LimitRequestId,
    project: Option<ProjectId>,
) -> ApiResult<Json<LimitRequestReply>> {
    let found = queries::request_get(conn, id, project).await?;
    let limit_request = found.ok_or_else(|| Problem::not_found("limit request"))?;
    Ok(Json(LimitRequestReply { limit_request }))
}

/// What a project has of each kind, and may have. For staff.
#[utoipa::path(get, path = "/staff/projects/{id}/limits", tag = "staff", params(("id" = ProjectId, Path)),
    responses((status = 200, body = LimitList), Errors))]
async fn staff_project_limits_get(
    State(world): State<World>,
    _: Staff,
    Path(id): Path<ProjectId>,
) -> ApiResult<Json<LimitList>> {
    let mut conn = world.db.acquire().await?;
    if !queries::project_exists(&mut conn, id).await? {
        return Err(Problem::not_found("project"));
    }
    Ok(Json(LimitList { limits: queries::standing(&mut conn, &world.config, id).await? }))
}

/// Set a limit of one project. What it has already stays. For staff.
#[utoipa::path(put, path = "/staff/projects/{id}/limits", tag = "staff", params(("id" = ProjectId, Path)),
    request_body = LimitSet, responses((status = 204), Errors))]
async fn staff_project_limits_set(
    State(world): State<World>,
    _: Staff,
    Path(id): Path<ProjectId>,
    Body(form): Body<LimitSet>,
) -> ApiResult<StatusCode> {
    set(&world, Whose::Project(id), form, "project").await
}

/// Set a limit of all projects of an account together. What they have already stays. For staff.
#[utoipa::path(put, path = "/staff/accounts/{id}/limits", tag = "staff", params(("id" = AccountId, Path)),
    request_body = LimitSet, responses((status = 204), Errors))]
async fn staff_account_limits_set(
    State(world): State<World>,
    _: Staff,
    Path(id): Path<AccountId>,
    Body(form): Body<LimitSet>,
) -> ApiResult<StatusCode> {
    set(&world, Whose::Account(id), form, "account").await
}

async fn set(world: &World, whose: Whose, form: LimitSet, what: &str) -> ApiResult<StatusCode> {
    if form.limit.is_some_and(|limit| !(0..=i64::from(u32::MAX)).contains(&limit)) {
        return Err(Problem::field("limit", format!("A limit is 0 to {}, or null.", u32::MAX)));
    }
    let mut tx = world.db.begin().await?;
    if !queries::set(&mut tx, whose, form.kind, form.limit).await? {
        return Err(Problem::not_found(what));
    }
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
