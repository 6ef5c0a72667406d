//! `/v1/servers`.

mod changes;
mod power;

use axum::Json;
use axum::extract::State;
use berth_model::action::{ActionReply, ResourceKind};
use berth_model::error::ApiError;
use berth_model::server::{ServerCreate, ServerCreated, ServerList, ServerReply, ServerStatus, ServerUpdate};
use berth_model::{ErrorCode, ServerId};
use http::StatusCode;
use serde::Deserialize;
use sqlx::PgConnection;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::jobs::delete::ServerDelete;
use super::queries::{self, Held};
use super::{change, order, rules};
use crate::accounts::{ProjectAccess, Reader, Writer};
use crate::http::{ApiResult, Body, Errors, Filter, Page, Path, Problem, Query};
use crate::jobs::Saga;
use crate::{World, clock, entropy, firewalls};

/// Length of a root password: 119 bits.
const ROOT_PASSWORD_CHARS: usize = 20;

/// The routes of servers.
pub fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new()
        .routes(routes!(server_list, server_create))
        .routes(routes!(server_get, server_update, server_delete))
        .merge(changes::router())
        .merge(power::router())
}

/// Which servers are asked for besides.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// In these states.
    #[serde(default)]
    status: Vec<ServerStatus>,
}

/// Servers of the project.
#[utoipa::path(get, path = "/servers", tag = "servers", params(Filter, Asked, Page),
    responses((status = 200, body = ServerList), Errors))]
async fn server_list(
    State(world): State<World>,
    Reader(access): Reader,
    filter: Filter,
    Query(asked): Query<Asked>,
    page: Page,
) -> ApiResult<Json<ServerList>> {
    let mut conn = world.db.acquire().await?;
    let (servers, total) = queries::list(&mut conn, access.project, (&filter, &asked.status), page).await?;
    Ok(Json(ServerList { servers, meta: page.meta(total) }))
}

/// One server.
#[utoipa::path(get, path = "/servers/{id}", tag = "servers", params(("id" = ServerId, Path)),
    responses((status = 200, body = ServerReply), Errors))]
async fn server_get(
    State(world): State<World>,
    Reader(access): Reader,
    Path(id): Path<ServerId>,
) -> ApiResult<Json<ServerReply>> {
    let server = queries::get(&mut *world.db.acquire().await?, access.project, id).await?;
    Ok(Json(ServerReply { server: server.ok_or_else(|| Problem::not_found("server"))? }))
}

/// Order a server. Without an SSH key a root password is made, and told in this answer only.
#[utoipa::path(post, path = "/servers", tag = "servers", request_body = ServerCreate,
    responses((status = 201, body = ServerCreated), Errors))]
async fn server_create(
    State(world): State<World>,
    Writer(access): Writer,
    Body(create): Body<ServerCreate>,
) -> ApiResult<(StatusCode, Json<ServerCreated>)> {
    let now = clock::now();
    let times = (now, world.config.addresses_cooled_by(now));
    let order = order::resolve(&mut *world.db.acquire().await?, access.project, &create, times).await?;
    let has_key = !order.ssh_public_keys.is_empty();
    let password = if has_key { None } else { Some(new_root_password().await?) };
    let (root_password, hash) = password.unzip();

    let mut tx = world.db.begin().await?;
    let ordered = (&create, &order);
    let written = order::write(&mut tx, access.project, ordered, hash.as_deref(), &world.config, now);
    let (id, action) = written.await?;
    let server = queries::get(&mut tx, access.project, id).await?;
    let server = server
        .ok_or_else(|| Problem::internal(anyhow::anyhow!("server {id} vanished while it was ordered")))?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(ServerCreated { server, action, next_actions: Vec::new(), root_password })))
}

/// A new password and its hash. Hashing takes milliseconds, which other requests should not wait for.
async fn new_root_password() -> ApiResult<(String, String)> {
    let new = || {
        let password = entropy::alphanumeric(ROOT_PASSWORD_CHARS);
        let hash = rules::root_password_hash(&password, entropy::bytes());
        (password, hash)
    };
    tokio::task::spawn_blocking(new).await.map_err(Problem::internal)
}

/// Change a server's name or labels. The name inside the system stays.
#[utoipa::path(put, path = "/servers/{id}", tag = "servers", params(("id" = ServerId, Path)),
    request_body = ServerUpdate, responses((status = 200, body = ServerReply), Errors))]
async fn server_update(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ServerId>,
    Body(update): Body<ServerUpdate>,
) -> ApiResult<Json<ServerReply>> {
    let mut tx = world.db.begin().await?;
    if update.labels.is_some() {
        firewalls::queries::take_turns(&mut tx, access.project, false).await?;
    }
    let server = hold(&mut tx, access, id).await?;
    let faults = rules::update_faults(&update);
    if !faults.is_empty() {
        return Err(ApiError::fields(faults).into());
    }
    let (now, before) = (clock::now(), firewalls::queries::of_server(&mut tx, id).await?);
    let written = queries::update(&mut tx, server.id, update.name.as_deref(), update.labels.as_ref()).await;
    written.map_err(order::name_is_taken)?;
    firewalls::follow_labels(&mut tx, id, &before, now).await?;
    let server = queries::published(&mut tx, id, now).await?;
    tx.commit().await?;
    Ok(Json(ServerReply { server: server.ok_or_else(|| Problem::not_found("server"))? }))
}

/// Delete a server with its disk.
#[utoipa::path(delete, path = "/servers/{id}", tag = "servers", params(("id" = ServerId, Path)),
    responses((status = 200, body = ActionReply), Errors))]
async fn server_delete(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ServerId>,
) -> ApiResult<Json<ActionReply>> {
    let mut tx = world.db.begin().await?;
    let server = hold(&mut tx, access, id).await?;
    if server.protect_delete {
        let message = "The server is protected from deletion. Take the protection off first.";
        return Err(Problem::new(ErrorCode::Protected, message));
    }
    change::refuse_locked(&server)?;
    let saga = ServerDelete::new(id, server.node);
    let reply = begin(&mut tx, access, (id, ServerStatus::Deleting), &[], &saga).await?;
    tx.commit().await?;
    Ok(Json(reply))
}

async fn hold(conn: &mut PgConnection, access: ProjectAccess, id: ServerId) -> ApiResult<Held> {
    queries::hold(conn, access.project, id).await?.ok_or_else(|| Problem::not_found("server"))
}

/// The answer to an action that was begun.
type Told = (StatusCode, Json<ActionReply>);

/// Starts an action on the server, and on what is `beside` it: it holds the server from now on, and its job is
/// enqueued.
async fn begin<S: Saga>(
    conn: &mut PgConnection,
    access: ProjectAccess,
    (id, status): (ServerId, ServerStatus),
    beside: &[(ResourceKind, i64)],
    saga: &S,
) -> ApiResult<ActionReply> {
    let action = super::start(conn, access.project, (id, status), beside, saga, clock::now()).await?;
    Ok(ActionReply { action })
}
