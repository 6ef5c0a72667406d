//! The power of servers: `/v1/servers/{id}/actions/poweron` and its like.

use axum::Json;
use axum::extract::State;
use berth_model::ServerId;
use berth_model::action::ActionReply;
use http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Told, begin};
use crate::accounts::Writer;
use crate::http::{ApiResult, Errors, Path};
use crate::servers::jobs::power::{self, Power, Verb};
use crate::servers::{change, rules};
use crate::{World, nodes};

pub(super) fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new()
        .routes(routes!(server_poweron))
        .routes(routes!(server_poweroff))
        .routes(routes!(server_shutdown))
        .routes(routes!(server_reboot))
        .routes(routes!(server_reset))
}

/// Start a server.
#[utoipa::path(post, path = "/servers/{id}/actions/poweron", tag = "servers", params(("id" = ServerId, Path)),
    responses((status = 201, body = ActionReply), Errors))]
async fn server_poweron(world: State<World>, access: Writer, id: Path<ServerId>) -> ApiResult<Told> {
    tell::<power::Start>(world, access, id).await
}

/// Switch a server off at once, as if its plug were pulled.
#[utoipa::path(post, path = "/servers/{id}/actions/poweroff", tag = "servers", params(("id" = ServerId, Path)),
    responses((status = 201, body = ActionReply), Errors))]
async fn server_poweroff(world: State<World>, access: Writer, id: Path<ServerId>) -> ApiResult<Told> {
    tell::<power::PowerOff>(world, access, id).await
}

/// Ask the system to shut down.
#[utoipa::path(post, path = "/servers/{id}/actions/shutdown", tag = "servers", params(("id" = ServerId, Path)),
    responses((status = 201, body = ActionReply), Errors))]
async fn server_shutdown(world: State<World>, access: Writer, id: Path<ServerId>) -> ApiResult<Told> {
    tell::<power::Shutdown>(world, access, id).await
}

/// Ask the system to reboot.
#[utoipa::path(post, path = "/servers/{id}/actions/reboot", tag = "servers", params(("id" = ServerId, Path)),
    responses((status = 201, body = ActionReply), Errors))]
async fn server_reboot(world: State<World>, access: Writer, id: Path<ServerId>) -> ApiResult<Told> {
    tell::<power::Reboot>(world, access, id).await
}

/// Press a server's reset button.
#[utoipa::path(post, path = "/servers/{id}/actions/reset", tag = "servers", params(("id" = ServerId, Path)),
    responses((status = 201, body = ActionReply), Errors))]
async fn server_reset(world: State<World>, access: Writer, id: Path<ServerId>) -> ApiResult<Told> {
    tell::<power::Reset>(world, access, id).await
}

async fn tell<V: Verb>(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ServerId>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let server = change::hold(&mut tx, access.project, id).await?;
    let node = change::placed(&server)?;
    let node_answers = nodes::queries::contact(&mut tx, node).await?.is_some_and(|contact| !contact.down);
    let status = rules::told(server.status, V::POWER, node_answers)?;
    let saga = Power::<V>::new(id, node);
    let reply = begin(&mut tx, access, (id, status), &[], &saga).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(reply)))
}
