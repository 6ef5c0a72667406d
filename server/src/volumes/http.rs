//! `/v1/volumes`.

use axum::Json;
use axum::extract::State;
use berth_model::action::{Action, ActionReply, ResourceKind};
use berth_model::error::ApiError;
use berth_model::quota::QuotaKind;
use berth_model::volume::{
    ChangeVolumeProtection, Volume, VolumeAttach, VolumeCreate, VolumeCreated, VolumeList, VolumeReply,
    VolumeResize, VolumeStatus, VolumeUpdate,
};
use berth_model::{ErrorCode, LocationId, ProjectId, ServerId, VolumeId};
use http::StatusCode;
use serde::Deserialize;
use sqlx::PgConnection;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::jobs::remove::VolumeRemove;
use super::jobs::resize::VolumeGrow;
use super::queries::{self, HeldVolume, NewVolume};
use super::{changes, rules};
use crate::accounts::{Reader, Writer};
use crate::actions::{self, NewAction};
use crate::http::{ApiResult, Body, Errors, Filter, Page, Path, Problem, Query};
use crate::jobs::Saga as _;
use crate::servers::change;
use crate::servers::queries::Held;
use crate::{World, catalog, clock, jobs, labels, quotas, servers};

/// The routes of volumes.
pub fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new()
        .routes(routes!(volume_list, volume_create))
        .routes(routes!(volume_get, volume_update, volume_delete))
        .routes(routes!(volume_attach))
        .routes(routes!(volume_detach))
        .routes(routes!(volume_resize))
        .routes(routes!(volume_change_protection))
}

/// Which volumes are asked for besides.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// In these states.
    #[serde(default)]
    status: Vec<VolumeStatus>,
}

/// Volumes of the project.
#[utoipa::path(get, path = "/volumes", tag = "volumes", params(Filter, Asked, Page),
    responses((status = 200, body = VolumeList), Errors))]
async fn volume_list(
    State(world): State<World>,
    Reader(access): Reader,
    filter: Filter,
    Query(asked): Query<Asked>,
    page: Page,
) -> ApiResult<Json<VolumeList>> {
    let mut conn = world.db.acquire().await?;
    let (volumes, total) = queries::list(&mut conn, access.project, (&filter, &asked.status), page).await?;
    Ok(Json(VolumeList { volumes, meta: page.meta(total) }))
}

/// One volume.
#[utoipa::path(get, path = "/volumes/{id}", tag = "volumes", params(("id" = VolumeId, Path)),
    responses((status = 200, body = VolumeReply), Errors))]
async fn volume_get(
    State(world): State<World>,
    Reader(access): Reader,
    Path(id): Path<VolumeId>,
) -> ApiResult<Json<VolumeReply>> {
    let volume = shown(&mut *world.db.acquire().await?, access.project, id).await?;
    Ok(Json(VolumeReply { volume }))
}

/// Order a volume, for a server or for later. It is made, with its file system, when its first server gets it.
#[utoipa::path(post, path = "/volumes", tag = "volumes", request_body = VolumeCreate,
    responses((status = 201, body = VolumeCreated), Errors))]
async fn volume_create(
    State(world): State<World>,
    Writer(access): Writer,
    Body(create): Body<VolumeCreate>,
) -> ApiResult<(StatusCode, Json<VolumeCreated>)> {
    let faults = rules::create_faults(&create);
    if !faults.is_empty() {
        return Err(ApiError::fields(faults).into());
    }
    let project = access.project;
    let mut tx = world.db.begin().await?;
    let (server, location) = place(&mut tx, project, &create).await?;
    let new = NewVolume {
        project,
        name: create.name.trim(),
        size_gib: gib(create.size),
        file_system: create.format,
        location,
        labels: &create.labels.clone().unwrap_or_default(),
        now: clock::now(),
    };
    let id = queries::insert(&mut tx, &new).await.map_err(name_is_taken)?;
    let action = done(&mut tx, project, id, "create_volume").await?;
    let mut next_actions = Vec::new();
    if let Some(server) = &server {
        let volume = queries::hold(&mut tx, project, id).await?.ok_or_else(not_found)?;
        let automount = create.automount.unwrap_or(false);
        next_actions.push(changes::attach(&mut tx, project, (server, &volume), automount).await?);
    }
    let volume = shown(&mut tx, project, id).await?;
    quotas::check(&mut tx, &world.config, project, &[QuotaKind::Volumes, QuotaKind::VolumeGib]).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(VolumeCreated { volume, action, next_actions })))
}

/// The server that is named, held, and the location: its own, or the one that is named.
async fn place(
    conn: &mut PgConnection,
    project: ProjectId,
    create: &VolumeCreate,
) -> ApiResult<(Option<Held>, LocationId)> {
    if let Some(id) = create.server {
        let held = servers::queries::hold(conn, project, id).await?.ok_or_else(no_server)?;
        change::refuse_locked(&held)?;
        let wish = servers::queries::wish(conn, id).await?.ok_or_else(no_server)?;
        return Ok((Some(held), wish.location));
    }
    let named = create.location.clone().unwrap_or_default();
    let locations = catalog::queries::locations(conn).await?;
    let found = locations.iter().find(|l| named.id() == Some(l.id.0) || named.text() == l.name);
    match found {
        Some(location) => Ok((None, location.id)),
        None => Err(Problem::field("location", "There is no such location.")),
    }
}

/// Change a volume's name or labels.
#[utoipa::path(put, path = "/volumes/{id}", tag = "volumes", params(("id" = VolumeId, Path)),
    request_body = VolumeUpdate, responses((status = 200, body = VolumeReply), Errors))]
async fn volume_update(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<VolumeId>,
    Body(update): Body<VolumeUpdate>,
) -> ApiResult<Json<VolumeReply>> {
    let mut tx = world.db.begin().await?;
    queries::hold(&mut tx, access.project, id).await?.ok_or_else(not_found)?;
    labels::check_named(update.name.as_deref(), update.labels.as_ref())?;
    let to = (update.name.as_deref().map(str::trim), update.labels.as_ref());
    queries::update(&mut tx, id, to, None).await.map_err(name_is_taken)?;
    let volume = shown(&mut tx, access.project, id).await?;
    tx.commit().await?;
    Ok(Json(VolumeReply { volume }))
}

/// Delete a volume that no server has, with all that is on it.
#[utoipa::path(delete, path = "/volumes/{id}", tag = "volumes", params(("id" = VolumeId, Path)),
    responses((status = 204), Errors))]
async fn volume_delete(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<VolumeId>,
) -> ApiResult<StatusCode> {
    let mut tx = world.db.begin().await?;
    let volume = queries::hold(&mut tx, access.project, id).await?.ok_or_else(not_found)?;
    if volume.protect_delete {
        let message = "The volume is protected from deletion. Take the protection off first.";
        return Err(Problem::new(ErrorCode::Protected, message));
    }
    refuse_locked(&volume)?;
    if volume.server.is_some() {
        return Err(Problem::new(ErrorCode::ResourceInUse, "A server has this volume. Detach it first."));
    }
    match volume.node {
        Some(node) => {
            queries::set_gone(&mut tx, id).await?;
            jobs::enqueue(&mut tx, &VolumeRemove::new(id, node), None, clock::now()).await?;
        }
        None => queries::delete(&mut tx, id).await?,
    }
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The answer to an action that was begun.
type Told = (StatusCode, Json<ActionReply>);

fn told(action: Action) -> Told {
    (StatusCode::CREATED, Json(ActionReply { action }))
}

/// Give a volume to a server, at once also when it runs.
#[utoipa::path(post, path = "/volumes/{id}/actions/attach", tag = "volumes", params(("id" = VolumeId, Path)),
    request_body = VolumeAttach, responses((status = 201, body = ActionReply), Errors))]
async fn volume_attach(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<VolumeId>,
    Body(asked): Body<VolumeAttach>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let server = servers::queries::hold(&mut tx, access.project, asked.server).await?;
    let volume = queries::hold(&mut tx, access.project, id).await?.ok_or_else(not_found)?;
    let server = server.ok_or_else(no_server)?;
    refuse_locked(&volume)?;
    change::refuse_locked(&server)?;
    let automount = asked.automount.unwrap_or(false);
    let action = changes::attach(&mut tx, access.project, (&server, &volume), automount).await?;
    tx.commit().await?;
    Ok(told(action))
}

/// Take a volume from the server that has it, at once also when it runs. Unmount it there first: a running system
/// that does not let go of it keeps it.
#[utoipa::path(post, path = "/volumes/{id}/actions/detach", tag = "volumes", params(("id" = VolumeId, Path)),
    responses((status = 201, body = ActionReply), Errors))]
async fn volume_detach(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<VolumeId>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let of = queries::server_of(&mut tx, access.project, id).await?.ok_or_else(not_found)?;
    let server = match of {
        Some(server) => servers::queries::hold(&mut tx, access.project, server).await?,
        None => None,
    };
    let volume = queries::hold(&mut tx, access.project, id).await?.ok_or_else(not_found)?;
    refuse_locked(&volume)?;
    if volume.server != of {
        let message = "The volume has just been moved. Look where it is, and try again.";
        return Err(Problem::new(ErrorCode::Conflict, message));
    }
    let none = || Problem::new(ErrorCode::UnsupportedError, "No server has this volume.");
    let server: Held = server.ok_or_else(none)?;
    change::refuse_locked(&server)?;
    let action = changes::detach(&mut tx, access.project, (&server, &volume)).await?;
    tx.commit().await?;
    Ok(told(action))
}

/// Grow a volume, at once also in a running server. The file system on it is grown there.
#[utoipa::path(post, path = "/volumes/{id}/actions/resize", tag = "volumes", params(("id" = VolumeId, Path)),
    request_body = VolumeResize, responses((status = 201, body = ActionReply), Errors))]
async fn volume_resize(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<VolumeId>,
    Body(asked): Body<VolumeResize>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let volume = queries::hold(&mut tx, access.project, id).await?.ok_or_else(not_found)?;
    refuse_locked(&volume)?;
    if let Some(fault) = rules::resize_fault(volume.size_gib.unsigned_abs(), asked.size) {
        return Err(ApiError::fields(vec![fault]).into());
    }
    let to = gib(asked.size);
    if let Some(node) = volume.node {
        changes::refuse_full(&mut tx, volume.location, node, to - volume.size_gib).await?;
    }
    queries::set_size(&mut tx, id, to).await?;
    let action = match volume.node {
        None => done(&mut tx, access.project, id, VolumeGrow::KIND).await?,
        Some(node) => {
            let saga = VolumeGrow::new(id, node, (volume.size_gib, to));
            let now = clock::now();
            let action = NewAction {
                project: access.project,
                command: VolumeGrow::KIND,
                resources: &of(id, volume.server),
                steps: &jobs::titles::<VolumeGrow>(),
                now,
            };
            let action = actions::queries::start(&mut tx, &action).await?;
            queries::lock(&mut tx, id, Some(action.id)).await?;
            jobs::enqueue(&mut tx, &saga, Some(action.id), now).await?;
            action
        }
    };
    quotas::check(&mut tx, &world.config, access.project, &[QuotaKind::VolumeGib]).await?;
    tx.commit().await?;
    Ok(told(action))
}

/// Protect a volume from deletion, or no longer.
#[utoipa::path(post, path = "/volumes/{id}/actions/change_protection", tag = "volumes",
    params(("id" = VolumeId, Path)), request_body = ChangeVolumeProtection,
    responses((status = 201, body = ActionReply), Errors))]
async fn volume_change_protection(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<VolumeId>,
    Body(asked): Body<ChangeVolumeProtection>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    queries::hold(&mut tx, access.project, id).await?.ok_or_else(not_found)?;
    queries::update(&mut tx, id, (None, None), asked.delete).await?;
    let action = done(&mut tx, access.project, id, "change_protection").await?;
    tx.commit().await?;
    Ok(told(action))
}

/// The size as it is kept. It was looked at before.
fn gib(size: u32) -> i32 {
    i32::try_from(size).unwrap_or(i32::MAX)
}

fn of(volume: VolumeId, server: Option<ServerId>) -> Vec<(ResourceKind, i64)> {
    let server = server.map(|server| (ResourceKind::Server, server.0));
    [(ResourceKind::Volume, volume.0)].into_iter().chain(server).collect()
}

async fn done(
    conn: &mut PgConnection,
    project: ProjectId,
    volume: VolumeId,
    command: &str,
) -> ApiResult<Action> {
    let (resources, now) = (&of(volume, None), clock::now());
    Ok(actions::queries::done(conn, &NewAction { project, command, resources, steps: &[], now }).await?)
}

async fn shown(conn: &mut PgConnection, project: ProjectId, id: VolumeId) -> ApiResult<Volume> {
    queries::get(conn, project, id).await?.ok_or_else(not_found)
}

fn not_found() -> Problem {
    Problem::not_found("volume")
}

fn no_server() -> Problem {
    Problem::field("server", "There is no such server.")
}

fn refuse_locked(volume: &HeldVolume) -> Result<(), ApiError> {
    if volume.locked {
        let message = "The volume is busy. Try again when that has ended.";
        return Err(ApiError::new(ErrorCode::Locked, message));
    }
    Ok(())
}

fn name_is_taken(error: sqlx::Error) -> Problem {
    Problem::from(error).on_taken(
        "volumes_name_key",
        "name",
        "The project has a volume with this name already.",
    )
}
