//! `/v1/primary_ips`.

use axum::Json;
use axum::extract::State;
use berth_model::PrimaryIpId;
use berth_model::action::ActionReply;
use berth_model::address::{
    ChangeDnsPtr, ChangeIpProtection, PrimaryIpAssign, PrimaryIpCreate, PrimaryIpCreated, PrimaryIpList,
    PrimaryIpReply, PrimaryIpUpdate,
};
use berth_model::error::ApiError;
use berth_model::quota::QuotaKind;
use http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Asked, Told, told};
use crate::accounts::{Reader, Writer};
use crate::addresses::queries::{self, NewIp, Update};
use crate::addresses::{Kind, changes, rules};
use crate::http::{ApiResult, Body, Errors, Filter, Page, Path, Problem, Query};
use crate::servers::change;
use crate::{World, clock, quotas, servers};

pub(super) fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new()
        .routes(routes!(primary_ip_list, primary_ip_create))
        .routes(routes!(primary_ip_get, primary_ip_update, primary_ip_delete))
        .routes(routes!(primary_ip_assign))
        .routes(routes!(primary_ip_unassign))
        .routes(routes!(primary_ip_change_dns_ptr))
        .routes(routes!(primary_ip_change_protection))
}

/// Primary IPs of the project.
#[utoipa::path(get, path = "/primary_ips", tag = "primary_ips", params(Filter, Asked, Page),
    responses((status = 200, body = PrimaryIpList), Errors))]
async fn primary_ip_list(
    State(world): State<World>,
    Reader(access): Reader,
    filter: Filter,
    Query(asked): Query<Asked>,
    page: Page,
) -> ApiResult<Json<PrimaryIpList>> {
    let mut conn = world.db.acquire().await?;
    let (primary_ips, total) =
        queries::primary_list(&mut conn, access.project, (&filter, asked.ip.as_deref()), page).await?;
    Ok(Json(PrimaryIpList { primary_ips, meta: page.meta(total) }))
}

/// One primary IP.
#[utoipa::path(get, path = "/primary_ips/{id}", tag = "primary_ips", params(("id" = PrimaryIpId, Path)),
    responses((status = 200, body = PrimaryIpReply), Errors))]
async fn primary_ip_get(
    State(world): State<World>,
    Reader(access): Reader,
    Path(id): Path<PrimaryIpId>,
) -> ApiResult<Json<PrimaryIpReply>> {
    let primary_ip = queries::primary(&mut *world.db.acquire().await?, access.project, id).await?;
    Ok(Json(PrimaryIpReply { primary_ip: primary_ip.ok_or_else(|| Problem::not_found("primary IP"))? }))
}

/// Get an address, for a server that is off or for later.
#[utoipa::path(post, path = "/primary_ips", tag = "primary_ips", request_body = PrimaryIpCreate,
    responses((status = 201, body = PrimaryIpCreated), Errors))]
async fn primary_ip_create(
    State(world): State<World>,
    Writer(access): Writer,
    Body(create): Body<PrimaryIpCreate>,
) -> ApiResult<(StatusCode, Json<PrimaryIpCreated>)> {
    let faults = rules::primary_create_faults(&create);
    if !faults.is_empty() {
        return Err(ApiError::fields(faults).into());
    }
    let (now, project) = (clock::now(), access.project);
    let mut tx = world.db.begin().await?;
    let named = super::place(&mut tx, ("location", create.location.as_ref()), create.datacenter.as_ref());
    let (location, server) = match (named.await?, create.assignee_id) {
        (Some(location), _) => (location, None),
        (None, Some(id)) => {
            let held = servers::queries::hold(&mut tx, project, id).await?;
            let held = held.ok_or_else(|| super::no_server("assignee_id"))?;
            change::refuse_locked(&held)?;
            let wish = servers::queries::wish(&mut tx, id).await?;
            (wish.ok_or_else(|| super::no_server("assignee_id"))?.location, Some(held))
        }
        (None, None) => return Err(Problem::field("location", "Name a location.")),
    };
    let new = NewIp {
        kind: Kind::Primary,
        family: create.family,
        project,
        name: Some(create.name.trim()),
        description: "",
        labels: &create.labels.unwrap_or_default(),
        auto_delete: create.auto_delete.unwrap_or(false),
        server: None,
        now,
    };
    let id = super::make(&mut tx, &world.config, location, &new, now).await?;
    let made = queries::hold(&mut tx, project, Kind::Primary, id).await?;
    let action = match (&server, &made) {
        (Some(server), Some(ip)) => Some(changes::assign(&mut tx, project, server, ip).await?),
        _ => None,
    };
    let primary_ip = queries::primary(&mut tx, project, PrimaryIpId(id.0)).await?;
    let primary_ip = primary_ip.ok_or_else(|| Problem::not_found("primary IP"))?;
    quotas::check(&mut tx, &world.config, project, &[QuotaKind::PrimaryIps]).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(PrimaryIpCreated { primary_ip, action })))
}

/// Change a primary IP's name, labels, or whether it goes with its server.
#[utoipa::path(put, path = "/primary_ips/{id}", tag = "primary_ips", params(("id" = PrimaryIpId, Path)),
    request_body = PrimaryIpUpdate, responses((status = 200, body = PrimaryIpReply), Errors))]
async fn primary_ip_update(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<PrimaryIpId>,
    Body(update): Body<PrimaryIpUpdate>,
) -> ApiResult<Json<PrimaryIpReply>> {
    let mut tx = world.db.begin().await?;
    let ip = queries::hold(&mut tx, access.project, Kind::Primary, id.into()).await?;
    let ip = ip.ok_or_else(|| Problem::not_found("primary IP"))?;
    let faults = rules::primary_update_faults(&update);
    if !faults.is_empty() {
        return Err(ApiError::fields(faults).into());
    }
    let to = Update {
        name: update.name.as_deref().map(str::trim),
        auto_delete: update.auto_delete,
        labels: update.labels.as_ref(),
        ..Update::default()
    };
    queries::update(&mut tx, ip.id, to).await.map_err(|error| super::name_is_taken(error, Kind::Primary))?;
    let primary_ip = queries::primary(&mut tx, access.project, id).await?;
    tx.commit().await?;
    Ok(Json(PrimaryIpReply { primary_ip: primary_ip.ok_or_else(|| Problem::not_found("primary IP"))? }))
}

/// Give a primary IP back. A server that has it must be off, and loses it.
#[utoipa::path(delete, path = "/primary_ips/{id}", tag = "primary_ips", params(("id" = PrimaryIpId, Path)),
    responses((status = 204), Errors))]
async fn primary_ip_delete(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<PrimaryIpId>,
) -> ApiResult<StatusCode> {
    let mut tx = world.db.begin().await?;
    let both = super::hold(&mut tx, access.project, (Kind::Primary, id.into()), None).await?;
    if let Some(server) = &both.server {
        change::refuse_locked(server)?;
        change::refuse_unless_off(server)?;
    }
    super::delete(&mut tx, &both).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Give a primary IP to a server that is off.
#[utoipa::path(post, path = "/primary_ips/{id}/actions/assign", tag = "primary_ips",
    params(("id" = PrimaryIpId, Path)), request_body = PrimaryIpAssign,
    responses((status = 201, body = ActionReply), Errors))]
async fn primary_ip_assign(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<PrimaryIpId>,
    Body(asked): Body<PrimaryIpAssign>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let named = Some(("assignee_id", asked.assignee_id));
    let both = super::hold(&mut tx, access.project, (Kind::Primary, id.into()), named).await?;
    let server = both.named.ok_or_else(|| super::no_server("assignee_id"))?;
    change::refuse_locked(&server)?;
    let action = changes::assign(&mut tx, access.project, &server, &both.ip).await?;
    tx.commit().await?;
    Ok(told(action))
}

/// Take a primary IP from the server that has it, which must be off.
#[utoipa::path(post, path = "/primary_ips/{id}/actions/unassign", tag = "primary_ips",
    params(("id" = PrimaryIpId, Path)), responses((status = 201, body = ActionReply), Errors))]
async fn primary_ip_unassign(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<PrimaryIpId>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let of = (Kind::Primary, id.into());
    let both = super::hold(&mut tx, access.project, of, None).await?;
    let action = match &both.server {
        Some(server) => {
            change::refuse_locked(server)?;
            changes::unassign(&mut tx, access.project, server, &both.ip).await?
        }
        None => super::done(&mut tx, access.project, of, "unassign_primary_ip", clock::now()).await?,
    };
    tx.commit().await?;
    Ok(told(action))
}

/// Name an address: its reverse name.
#[utoipa::path(post, path = "/primary_ips/{id}/actions/change_dns_ptr", tag = "primary_ips",
    params(("id" = PrimaryIpId, Path)), request_body = ChangeDnsPtr,
    responses((status = 201, body = ActionReply), Errors))]
async fn primary_ip_change_dns_ptr(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<PrimaryIpId>,
    Body(asked): Body<ChangeDnsPtr>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let action = super::change_dns_ptr(&mut tx, access.project, (Kind::Primary, id.into()), &asked).await?;
    tx.commit().await?;
    Ok(told(action))
}

/// Protect a primary IP from deletion, or no longer.
#[utoipa::path(post, path = "/primary_ips/{id}/actions/change_protection", tag = "primary_ips",
    params(("id" = PrimaryIpId, Path)), request_body = ChangeIpProtection,
    responses((status = 201, body = ActionReply), Errors))]
async fn primary_ip_change_protection(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<PrimaryIpId>,
    Body(asked): Body<ChangeIpProtection>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let of = (Kind::Primary, id.into());
    let action = super::change_protection(&mut tx, access.project, of, asked.delete).await?;
    tx.commit().await?;
    Ok(told(action))
}
