//! What a server is made of: `/v1/servers/{id}/actions/change_type` and its like.

use axum::Json;
use axum::extract::State;
use berth_model::ServerId;
use berth_model::action::{ActionReply, ResourceKind};
use berth_model::address::ChangeDnsPtr;
use berth_model::server::{ChangeProtection, ChangeTypeRequest};
use http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Told, hold};
use crate::accounts::Writer;
use crate::actions::{self, NewAction};
use crate::http::{ApiResult, Body, Errors, Path, Problem};
use crate::servers::changes::change_type;
use crate::servers::{change, queries};
use crate::{World, addresses, clock};

pub(super) fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new()
        .routes(routes!(server_change_type))
        .routes(routes!(server_change_protection))
        .routes(routes!(server_change_dns_ptr))
}

/// Give a server that is off another type. Its disk grows only when that is asked for, and never shrinks.
#[utoipa::path(post, path = "/servers/{id}/actions/change_type", tag = "servers", params(("id" = ServerId, Path)),
    request_body = ChangeTypeRequest, responses((status = 201, body = ActionReply), Errors))]
async fn server_change_type(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ServerId>,
    Body(asked): Body<ChangeTypeRequest>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let server = change::hold(&mut tx, access.project, id).await?;
    let change = change_type::write(&mut tx, &server, &asked).await?;
    let action = change::begin(&mut tx, access.project, &server, &[], change).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(ActionReply { action })))
}

/// Protect a server from deletion and rebuilding, or no longer. Both go together.
#[utoipa::path(post, path = "/servers/{id}/actions/change_protection", tag = "servers",
    params(("id" = ServerId, Path)), request_body = ChangeProtection,
    responses((status = 201, body = ActionReply), Errors))]
async fn server_change_protection(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ServerId>,
    Body(asked): Body<ChangeProtection>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let server = hold(&mut tx, access, id).await?;
    queries::protect(&mut tx, server.id, asked.delete, asked.rebuild).await?;
    let now = clock::now();
    let action = NewAction {
        project: access.project,
        command: "change_protection",
        resources: &[(ResourceKind::Server, id.0)],
        steps: &[],
        now,
    };
    let action = actions::queries::done(&mut tx, &action).await?;
    queries::publish(&mut tx, id, now).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(ActionReply { action })))
}

/// Name an address of a server: its reverse name.
#[utoipa::path(post, path = "/servers/{id}/actions/change_dns_ptr", tag = "servers",
    params(("id" = ServerId, Path)), request_body = ChangeDnsPtr,
    responses((status = 201, body = ActionReply), Errors))]
async fn server_change_dns_ptr(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ServerId>,
    Body(asked): Body<ChangeDnsPtr>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let server = hold(&mut tx, access, id).await?;
    let ip = addresses::queries::hold_primary_with(&mut tx, server.id, asked.ip).await?;
    let ip = ip.ok_or_else(|| Problem::field("ip", "The server has no such address."))?;
    addresses::http::rename(&mut tx, &ip, &asked).await?;
    let now = clock::now();
    let action = NewAction {
        project: access.project,
        command: "change_dns_ptr",
        resources: &[(ResourceKind::Server, id.0)],
        steps: &[],
        now,
    };
    let action = actions::queries::done(&mut tx, &action).await?;
    queries::publish(&mut tx, id, now).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(ActionReply { action })))
}
