//! What a server is made of: `/v1/servers/{id}/actions/change_type` and its like.

use axum::Json;
use axum::extract::State;
use berth_model::action::{Action, ActionReply, ResourceKind};
use berth_model::address::ChangeDnsPtr;
use berth_model::error::ApiError;
use berth_model::image::{ImageKind, ImageStatus};
use berth_model::network::{AttachToNetwork, ChangeAliasIps, DetachFromNetwork};
use berth_model::placement_group::AddToPlacementGroup;
use berth_model::quota::QuotaKind;
use berth_model::server::{
    AttachIso, ChangeProtection, ChangeTypeRequest, CreateImage, ImageCreated, PasswordReply, RebuildRequest,
    RescueRequest, ServerStatus,
};
use berth_model::{ErrorCode, PlacementGroupId, ServerId};
use http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Told, begin, hold, new_root_password};
use crate::accounts::{ProjectAccess, Writer};
use crate::actions::{self, NewAction};
use crate::http::{ApiResult, Body, Errors, Path, Problem};
use crate::servers::changes::{change_type, iso, rebuild, rescue};
use crate::servers::imaging::{self, NewImage};
use crate::servers::jobs::password::PasswordReset;
use crate::servers::{change, order, queries};
use crate::{World, addresses, backups, clock, images, networks, placement_groups, quotas};

pub(super) fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new()
        .routes(routes!(server_change_type))
        .routes(routes!(server_change_protection))
        .routes(routes!(server_change_dns_ptr))
        .routes(routes!(server_create_image))
        .routes(routes!(server_rebuild))
        .routes(routes!(server_reset_password))
        .routes(routes!(server_enable_rescue))
        .routes(routes!(server_disable_rescue))
        .routes(routes!(server_attach_iso))
        .routes(routes!(server_detach_iso))
        .routes(routes!(server_attach_to_network))
        .routes(routes!(server_detach_from_network))
        .routes(routes!(server_change_alias_ips))
        .routes(routes!(server_add_to_placement_group))
        .routes(routes!(server_remove_from_placement_group))
}

fn told(action: Action) -> Told {
    (StatusCode::CREATED, Json(ActionReply { action }))
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
    let action = change_type::begin(&mut tx, &world.config, (access.project, &server), &asked).await?;
    tx.commit().await?;
    Ok(told(action))
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
    Ok(told(action))
}

/// Make a snapshot or a backup of a server's disk. A running system is caught as after a power cut, unless its guest agent
/// answers; power it off first to be sure.
#[utoipa::path(post, path = "/servers/{id}/actions/create_image", tag = "servers", params(("id" = ServerId, Path)),
    request_body = CreateImage, responses((status = 201, body = ImageCreated), Errors))]
async fn server_create_image(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ServerId>,
    Body(asked): Body<CreateImage>,
) -> ApiResult<(StatusCode, Json<ImageCreated>)> {
    let mut tx = world.db.begin().await?;
    let server = change::hold(&mut tx, access.project, id).await?;
    let faults = images::rules::create_faults(&asked);
    if !faults.is_empty() {
        return Err(ApiError::fields(faults).into());
    }
    let kind = asked.kind.unwrap_or(ImageKind::Snapshot);
    if kind == ImageKind::Backup && !backups::is_enabled(&mut tx, id).await? {
        let message = "The server is not backed up. Turn backups on first, or make a snapshot.";
        return Err(Problem::new(ErrorCode::UnsupportedError, message));
    }
    let description = asked.description.as_deref();
    let new = NewImage { kind, description, labels: &asked.labels, now: clock::now() };
    let (image, action) = imaging::begin(&mut tx, access.project, &server, &new).await?;
    let image = images::queries::get(&mut tx, access.project, image).await?;
    quotas::check(&mut tx, &world.config, access.project, &[QuotaKind::Snapshots]).await?;
    tx.commit().await?;
    let image = image.filter(|image| image.status == ImageStatus::Creating);
    let image =
        image.ok_or_else(|| Problem::internal(anyhow::anyhow!("the image of server {id} vanished")))?;
    Ok((StatusCode::CREATED, Json(ImageCreated { image, action })))
}

/// Make a server's disk anew from an image; all that is on it is lost. Without an SSH key a new root password is
/// made, and told in this answer only.
#[utoipa::path(post, path = "/servers/{id}/actions/rebuild", tag = "servers", params(("id" = ServerId, Path)),
    request_body = RebuildRequest, responses((status = 201, body = PasswordReply), Errors))]
async fn server_rebuild(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ServerId>,
    Body(asked): Body<RebuildRequest>,
) -> ApiResult<(StatusCode, Json<PasswordReply>)> {
    let machine = queries::machine(&mut *world.db.acquire().await?, id).await?;
    let has_key = machine.is_some_and(|machine| !machine.ssh_public_keys.is_empty());
    let password = if has_key { None } else { Some(new_root_password().await?) };
    let (root_password, hash) = password.unzip();
    let mut tx = world.db.begin().await?;
    let server = change::hold(&mut tx, access.project, id).await?;
    let whose = (access.project, &server);
    let change = rebuild::write(&mut tx, whose, &asked, hash.as_deref(), clock::now()).await?;
    let status = ServerStatus::Rebuilding;
    let action = change::begin_as(&mut tx, access.project, (&server, status), &[], change).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(PasswordReply { action, root_password })))
}

/// Give root another password, through the guest agent of a running system. It is told in this answer only.
#[utoipa::path(post, path = "/servers/{id}/actions/reset_password", tag = "servers", params(("id" = ServerId, Path)),
    responses((status = 201, body = PasswordReply), Errors))]
async fn server_reset_password(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ServerId>,
) -> ApiResult<(StatusCode, Json<PasswordReply>)> {
    let (password, hash) = new_root_password().await?;
    let mut tx = world.db.begin().await?;
    let server = change::hold(&mut tx, access.project, id).await?;
    if server.status != ServerStatus::Running {
        let message = "Only a running system can take a new password. Start the server.";
        return Err(Problem::new(ErrorCode::UnsupportedError, message));
    }
    let saga = PasswordReset::new(id, change::placed(&server)?, hash);
    let action = begin(&mut tx, access, (id, server.status), &[], &saga).await?.action;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(PasswordReply { action, root_password: Some(password) })))
}

/// Boot a rescue system at the next start, with the server's disk beside it. Its root password is told in this
/// answer only.
#[utoipa::path(post, path = "/servers/{id}/actions/enable_rescue", tag = "servers", params(("id" = ServerId, Path)),
    request_body = RescueRequest, responses((status = 201, body = PasswordReply), Errors))]
async fn server_enable_rescue(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ServerId>,
    Body(asked): Body<RescueRequest>,
) -> ApiResult<(StatusCode, Json<PasswordReply>)> {
    let (password, hash) = new_root_password().await?;
    let mut tx = world.db.begin().await?;
    let server = change::hold(&mut tx, access.project, id).await?;
    let mut faults = Vec::new();
    if asked.kind.as_ref().is_some_and(|kind| kind != "linux64") {
        faults.push(crate::servers::rules::fault("type", "There is one rescue system: “linux64”."));
    }
    let keys = order::ssh_public_keys(&mut tx, access.project, &asked.ssh_keys, &mut faults).await?;
    if !faults.is_empty() {
        return Err(ApiError::fields(faults).into());
    }
    let change = rescue::enable(&mut tx, &server, hash, keys).await?;
    let action = change::begin(&mut tx, access.project, &server, &[], change).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(PasswordReply { action, root_password: Some(password) })))
}

/// Boot the server's own system at the next start.
#[utoipa::path(post, path = "/servers/{id}/actions/disable_rescue", tag = "servers", params(("id" = ServerId, Path)),
    responses((status = 201, body = ActionReply), Errors))]
async fn server_disable_rescue(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ServerId>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let server = change::hold(&mut tx, access.project, id).await?;
    let change = rescue::disable(&mut tx, &server).await?;
    let action = change::begin(&mut tx, access.project, &server, &[], change).await?;
    tx.commit().await?;
    Ok(told(action))
}

/// Put an ISO into a server's CD drive, in place of one that is there. It is the first to boot from.
#[utoipa::path(post, path = "/servers/{id}/actions/attach_iso", tag = "servers", params(("id" = ServerId, Path)),
    request_body = AttachIso, responses((status = 201, body = ActionReply), Errors))]
async fn server_attach_iso(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ServerId>,
    Body(asked): Body<AttachIso>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let server = change::hold(&mut tx, access.project, id).await?;
    let change = iso::attach(&mut tx, (access.project, &server), &asked).await?;
    let action = change::begin(&mut tx, access.project, &server, &[], change).await?;
    tx.commit().await?;
    Ok(told(action))
}

/// Empty a server's CD drive.
#[utoipa::path(post, path = "/servers/{id}/actions/detach_iso", tag = "servers", params(("id" = ServerId, Path)),
    responses((status = 201, body = ActionReply), Errors))]
async fn server_detach_iso(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ServerId>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let server = change::hold(&mut tx, access.project, id).await?;
    let change = iso::detach(&mut tx, &server).await?;
    let action = change::begin(&mut tx, access.project, &server, &[], change).await?;
    tx.commit().await?;
    Ok(told(action))
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

/// Give a server a card in a private network. A running system sees it at once.
#[utoipa::path(post, path = "/servers/{id}/actions/attach_to_network", tag = "servers",
    params(("id" = ServerId, Path)), request_body = AttachToNetwork,
    responses((status = 201, body = ActionReply), Errors))]
async fn server_attach_to_network(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ServerId>,
    Body(asked): Body<AttachToNetwork>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let server = change::hold(&mut tx, access.project, id).await?;
    let whose = (&server, change::placed(&server)?);
    let change = networks::changes::attach(&mut tx, access.project, whose, &asked, clock::now()).await?;
    let beside = [(ResourceKind::Network, asked.network.0)];
    let action = change::begin(&mut tx, access.project, &server, &beside, change).await?;
    tx.commit().await?;
    Ok(told(action))
}

/// Take a server's card in a private network out. A running system loses it at once.
#[utoipa::path(post, path = "/servers/{id}/actions/detach_from_network", tag = "servers",
    params(("id" = ServerId, Path)), request_body = DetachFromNetwork,
    responses((status = 201, body = ActionReply), Errors))]
async fn server_detach_from_network(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ServerId>,
    Body(asked): Body<DetachFromNetwork>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let server = change::hold(&mut tx, access.project, id).await?;
    let change = networks::changes::detach(&mut tx, access.project, &server, &asked).await?;
    let beside = [(ResourceKind::Network, asked.network.0)];
    let action = change::begin(&mut tx, access.project, &server, &beside, change).await?;
    tx.commit().await?;
    Ok(told(action))
}

/// Give a server other alias addresses in a private network, in place of all it has there.
#[utoipa::path(post, path = "/servers/{id}/actions/change_alias_ips", tag = "servers",
    params(("id" = ServerId, Path)), request_body = ChangeAliasIps,
    responses((status = 201, body = ActionReply), Errors))]
async fn server_change_alias_ips(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ServerId>,
    Body(asked): Body<ChangeAliasIps>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let server = change::hold(&mut tx, access.project, id).await?;
    let change = networks::changes::change_aliases(&mut tx, access.project, &server, &asked).await?;
    let beside = [(ResourceKind::Network, asked.network.0)];
    let action = change::begin(&mut tx, access.project, &server, &beside, change).await?;
    tx.commit().await?;
    Ok(told(action))
}

/// Put a server that is off into a placement group. Its node must have no other server of the group: a server is not
/// moved for that.
#[utoipa::path(post, path = "/servers/{id}/actions/add_to_placement_group", tag = "servers",
    params(("id" = ServerId, Path)), request_body = AddToPlacementGroup,
    responses((status = 201, body = ActionReply), Errors))]
async fn server_add_to_placement_group(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ServerId>,
    Body(asked): Body<AddToPlacementGroup>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let server = change::hold(&mut tx, access.project, id).await?;
    let group = asked.placement_group;
    let missing = || Problem::field("placement_group", "There is no such placement group in this project.");
    placement_groups::queries::get(&mut tx, access.project, group).await?.ok_or_else(missing)?;
    change::refuse_unless_off(&server)?;
    if placement_groups::queries::of_server(&mut tx, id).await?.is_some() {
        let message = "The server is in a placement group already. Remove it from that first.";
        return Err(Problem::new(ErrorCode::ServerAlreadyAttached, message));
    }
    placement_groups::queries::join(&mut tx, id, Some(group)).await.map_err(|error| {
        let taken = || {
            let message = "The server's node has another server of this placement group.";
            ApiError::new(ErrorCode::PlacementError, message)
        };
        Problem::from(error)
            .on_constraint("servers_spread_key", taken)
            .on_constraint("servers_placement_group_fk", || {
                ApiError::new(ErrorCode::NotFound, "The placement group is gone.")
            })
    })?;
    let action = moved(&mut tx, access, id, (group, "add_to_placement_group")).await?;
    tx.commit().await?;
    Ok(told(action))
}

/// Take a server out of its placement group. It stays where it is.
#[utoipa::path(post, path = "/servers/{id}/actions/remove_from_placement_group", tag = "servers",
    params(("id" = ServerId, Path)), responses((status = 201, body = ActionReply), Errors))]
async fn server_remove_from_placement_group(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ServerId>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    change::hold(&mut tx, access.project, id).await?;
    let Some(group) = placement_groups::queries::of_server(&mut tx, id).await? else {
        return Err(Problem::new(ErrorCode::UnsupportedError, "The server is in no placement group."));
    };
    placement_groups::queries::join(&mut tx, id, None).await?;
    let action = moved(&mut tx, access, id, (group, "remove_from_placement_group")).await?;
    tx.commit().await?;
    Ok(told(action))
}

/// Says that a server came into a placement group or left it, as an action that is done at once.
async fn moved(
    conn: &mut sqlx::PgConnection,
    access: ProjectAccess,
    id: ServerId,
    (group, command): (PlacementGroupId, &str),
) -> ApiResult<Action> {
    let now = clock::now();
    let resources = &[(ResourceKind::Server, id.0), (ResourceKind::PlacementGroup, group.0)];
    let action = NewAction { project: access.project, command, resources, steps: &[], now };
    let action = actions::queries::done(conn, &action).await?;
    queries::publish(conn, id, now).await?;
    Ok(action)
}
