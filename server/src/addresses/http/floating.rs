//! `/v1/floating_ips`.

use axum::Json;
use axum::extract::State;
use berth_model::action::{Action, ActionReply, ResourceKind};
use berth_model::address::{
    ChangeDnsPtr, ChangeIpProtection, FloatingIpAssign, FloatingIpCreate, FloatingIpCreated, FloatingIpList,
    FloatingIpReply, FloatingIpUpdate,
};
use berth_model::error::ApiError;
use berth_model::quota::QuotaKind;
use berth_model::server::ServerStatus;
use berth_model::{ErrorCode, FloatingIpId, ProjectId};
use http::StatusCode;
use sqlx::PgConnection;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Asked, Both, Told, told};
use crate::accounts::{Reader, Writer};
use crate::actions::{self, NewAction};
use crate::addresses::jobs::moving::Moving;
use crate::addresses::queries::{self, NewIp, Update};
use crate::addresses::{Kind, rules};
use crate::http::{ApiResult, Body, Errors, Filter, Page, Path, Problem, Query};
use crate::jobs;
use crate::servers::queries::Held;
use crate::{World, clock, nodes, quotas, servers};

pub(super) fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new()
        .routes(routes!(floating_ip_list, floating_ip_create))
        .routes(routes!(floating_ip_get, floating_ip_update, floating_ip_delete))
        .routes(routes!(floating_ip_assign))
        .routes(routes!(floating_ip_unassign))
        .routes(routes!(floating_ip_change_dns_ptr))
        .routes(routes!(floating_ip_change_protection))
}

/// Floating IPs of the project.
#[utoipa::path(get, path = "/floating_ips", tag = "floating_ips", params(Filter, Asked, Page),
    responses((status = 200, body = FloatingIpList), Errors))]
async fn floating_ip_list(
    State(world): State<World>,
    Reader(access): Reader,
    filter: Filter,
    Query(asked): Query<Asked>,
    page: Page,
) -> ApiResult<Json<FloatingIpList>> {
    let mut conn = world.db.acquire().await?;
    let (floating_ips, total) =
        queries::floating_list(&mut conn, access.project, (&filter, asked.ip.as_deref()), page).await?;
    Ok(Json(FloatingIpList { floating_ips, meta: page.meta(total) }))
}

/// One floating IP.
#[utoipa::path(get, path = "/floating_ips/{id}", tag = "floating_ips", params(("id" = FloatingIpId, Path)),
    responses((status = 200, body = FloatingIpReply), Errors))]
async fn floating_ip_get(
    State(world): State<World>,
    Reader(access): Reader,
    Path(id): Path<FloatingIpId>,
) -> ApiResult<Json<FloatingIpReply>> {
    let floating_ip = queries::floating(&mut *world.db.acquire().await?, access.project, id).await?;
    Ok(Json(FloatingIpReply { floating_ip: floating_ip.ok_or_else(|| Problem::not_found("floating IP"))? }))
}

/// Get an address that can be moved between the servers of a location.
#[utoipa::path(post, path = "/floating_ips", tag = "floating_ips", request_body = FloatingIpCreate,
    responses((status = 201, body = FloatingIpCreated), Errors))]
async fn floating_ip_create(
    State(world): State<World>,
    Writer(access): Writer,
    Body(create): Body<FloatingIpCreate>,
) -> ApiResult<(StatusCode, Json<FloatingIpCreated>)> {
    let faults = rules::floating_create_faults(&create);
    if !faults.is_empty() {
        return Err(ApiError::fields(faults).into());
    }
    let (now, project) = (clock::now(), access.project);
    let mut tx = world.db.begin().await?;
    let mut location = super::place(&mut tx, ("home_location", create.home_location.as_ref()), None).await?;
    let server = match create.server {
        Some(id) => {
            let held = servers::queries::hold(&mut tx, project, id).await?;
            let wish = servers::queries::wish(&mut tx, id).await?;
            location = location.or(wish.map(|wish| wish.location));
            Some(held.ok_or_else(|| super::no_server("server"))?)
        }
        None => None,
    };
    let location = location.ok_or_else(|| Problem::field("home_location", "Name a location."))?;
    let new = NewIp {
        kind: Kind::Floating,
        family: create.family,
        project,
        name: create.name.as_deref().map(str::trim),
        description: create.description.as_deref().unwrap_or_default(),
        labels: &create.labels.unwrap_or_default(),
        auto_delete: false,
        server: None,
        now,
    };
    let id = super::make(&mut tx, &world.config, location, &new, now).await?;
    let action = match server {
        Some(server) => {
            let ip = queries::hold(&mut tx, project, Kind::Floating, id).await?;
            let ip = ip.ok_or_else(|| Problem::not_found("floating IP"))?;
            let both = Both { ip, server: None, named: Some(server) };
            Some(move_to(&mut tx, project, &both).await?)
        }
        None => None,
    };
    let floating_ip = queries::floating(&mut tx, project, FloatingIpId(id.0)).await?;
    let floating_ip = floating_ip.ok_or_else(|| Problem::not_found("floating IP"))?;
    quotas::check(&mut tx, &world.config, project, &[QuotaKind::FloatingIps]).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(FloatingIpCreated { floating_ip, action })))
}

/// Change a floating IP's name, description or labels.
#[utoipa::path(put, path = "/floating_ips/{id}", tag = "floating_ips", params(("id" = FloatingIpId, Path)),
    request_body = FloatingIpUpdate, responses((status = 200, body = FloatingIpReply), Errors))]
async fn floating_ip_update(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<FloatingIpId>,
    Body(update): Body<FloatingIpUpdate>,
) -> ApiResult<Json<FloatingIpReply>> {
    let mut tx = world.db.begin().await?;
    let ip = queries::hold(&mut tx, access.project, Kind::Floating, id.into()).await?;
    let ip = ip.ok_or_else(|| Problem::not_found("floating IP"))?;
    let faults = rules::floating_update_faults(&update);
    if !faults.is_empty() {
        return Err(ApiError::fields(faults).into());
    }
    let to = Update {
        name: update.name.as_deref().map(str::trim),
        description: update.description.as_deref(),
        labels: update.labels.as_ref(),
        ..Update::default()
    };
    queries::update(&mut tx, ip.id, to).await.map_err(|error| super::name_is_taken(error, Kind::Floating))?;
    let floating_ip = queries::floating(&mut tx, access.project, id).await?;
    tx.commit().await?;
    Ok(Json(FloatingIpReply { floating_ip: floating_ip.ok_or_else(|| Problem::not_found("floating IP"))? }))
}

/// Give a floating IP back. A server that has it loses it.
#[utoipa::path(delete, path = "/floating_ips/{id}", tag = "floating_ips", params(("id" = FloatingIpId, Path)),
    responses((status = 204), Errors))]
async fn floating_ip_delete(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<FloatingIpId>,
) -> ApiResult<StatusCode> {
    let mut tx = world.db.begin().await?;
    let both = super::hold(&mut tx, access.project, (Kind::Floating, id.into()), None).await?;
    super::delete(&mut tx, &both).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Move a floating IP to a server of its location. Both servers may run.
#[utoipa::path(post, path = "/floating_ips/{id}/actions/assign", tag = "floating_ips",
    params(("id" = FloatingIpId, Path)), request_body = FloatingIpAssign,
    responses((status = 201, body = ActionReply), Errors))]
async fn floating_ip_assign(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<FloatingIpId>,
    Body(asked): Body<FloatingIpAssign>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let named = Some(("server", asked.server));
    let both = super::hold(&mut tx, access.project, (Kind::Floating, id.into()), named).await?;
    let action = move_to(&mut tx, access.project, &both).await?;
    tx.commit().await?;
    Ok(told(action))
}

/// Take a floating IP from the server that has it. The server may run.
#[utoipa::path(post, path = "/floating_ips/{id}/actions/unassign", tag = "floating_ips",
    params(("id" = FloatingIpId, Path)), responses((status = 201, body = ActionReply), Errors))]
async fn floating_ip_unassign(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<FloatingIpId>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let both = super::hold(&mut tx, access.project, (Kind::Floating, id.into()), None).await?;
    let action = move_to(&mut tx, access.project, &both).await?;
    tx.commit().await?;
    Ok(told(action))
}

/// Starts the action that moves a floating IP from the server that has it, if one has, to the one that is named, if one
/// is. All are held.
async fn move_to(conn: &mut PgConnection, project: ProjectId, both: &Both) -> ApiResult<Action> {
    let Both { ip, server: from, named: to } = both;
    let (now, command) =
        (clock::now(), if to.is_some() { "assign_floating_ip" } else { "unassign_floating_ip" });
    let [before, after] = [from, to].map(|server| server.as_ref().map(|server| server.id));
    if before == after {
        return super::done(conn, project, (Kind::Floating, ip.id), command, now).await;
    }
    if let Some(from) = from {
        refuse_silent(conn, from, "the server that has this floating IP").await?;
    }
    if let Some(to) = to {
        refuse_unfit(conn, to).await?;
        super::refuse_elsewhere(conn, to.id, ip).await?;
    }
    queries::set_server(conn, ip.id, after, before).await?;
    let mut resources = vec![(ResourceKind::FloatingIp, ip.id.0)];
    resources.extend(after.or(before).map(|server| (ResourceKind::Server, server.0)));
    let steps = if to.is_some() { jobs::titles::<Moving<true>>() } else { jobs::titles::<Moving<false>>() };
    let action = NewAction { project, command, resources: &resources, steps: &steps, now };
    let action = actions::queries::start(conn, &action).await?;
    queries::lock(conn, ip.id, Some(action.id)).await?;
    let job = Some(action.id);
    match after {
        Some(_) => jobs::enqueue(conn, &Moving::<true>::new(ip.id, before, after), job, now).await?,
        None => jobs::enqueue(conn, &Moving::<false>::new(ip.id, before, after), job, now).await?,
    };
    if let Some(from) = before {
        servers::queries::touch(conn, from).await?;
    }
    let both: Vec<_> = before.into_iter().chain(after).collect();
    servers::queries::publish_all(conn, &both, now).await?;
    Ok(action)
}

/// Refuses a server whose node is known not to answer: nobody could say what it has.
async fn refuse_silent(conn: &mut PgConnection, server: &Held, whose: &str) -> ApiResult<()> {
    let Some(node) = server.node else { return Ok(()) };
    if nodes::queries::contact(conn, node).await?.is_some_and(|contact| contact.down) {
        let message = format!("The node of {whose} does not answer now. Try again when it does.");
        return Err(Problem::new(ErrorCode::Conflict, message));
    }
    Ok(())
}

/// Refuses a server that cannot get a floating IP now.
async fn refuse_unfit(conn: &mut PgConnection, to: &Held) -> ApiResult<()> {
    if matches!(to.status, ServerStatus::Initializing | ServerStatus::Deleting) {
        let message = format!("The server is {} now.", to.status.word());
        return Err(Problem::new(ErrorCode::Conflict, message));
    }
    refuse_silent(conn, to, "the server").await?;
    if queries::floating_count(conn, to.id).await? >= rules::FLOATING_IPS_OF_SERVER_MAX {
        let most = rules::FLOATING_IPS_OF_SERVER_MAX;
        let message = format!("A server has at most {most} floating IPs.");
        return Err(Problem::new(ErrorCode::ResourceLimitExceeded, message));
    }
    Ok(())
}

/// Name an address: its reverse name.
#[utoipa::path(post, path = "/floating_ips/{id}/actions/change_dns_ptr", tag = "floating_ips",
    params(("id" = FloatingIpId, Path)), request_body = ChangeDnsPtr,
    responses((status = 201, body = ActionReply), Errors))]
async fn floating_ip_change_dns_ptr(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<FloatingIpId>,
    Body(asked): Body<ChangeDnsPtr>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let action = super::change_dns_ptr(&mut tx, access.project, (Kind::Floating, id.into()), &asked).await?;
    tx.commit().await?;
    Ok(told(action))
}

/// Protect a floating IP from deletion, or no longer.
#[utoipa::path(post, path = "/floating_ips/{id}/actions/change_protection", tag = "floating_ips",
    params(("id" = FloatingIpId, Path)), request_body = ChangeIpProtection,
    responses((status = 201, body = ActionReply), Errors))]
async fn floating_ip_change_protection(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<FloatingIpId>,
    Body(asked): Body<ChangeIpProtection>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let of = (Kind::Floating, id.into());
    let action = super::change_protection(&mut tx, access.project, of, asked.delete).await?;
    tx.commit().await?;
    Ok(told(action))
}
