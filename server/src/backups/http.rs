//! `/v1/servers/{id}/actions/enable_backup` and `disable_backup`.

use axum::Json;
use axum::extract::State;
use berth_model::action::{ActionReply, ResourceKind};
use berth_model::{ProjectId, ServerId, Timestamp};
use http::StatusCode;
use sqlx::PgConnection;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{queries, rules};
use crate::accounts::Writer;
use crate::actions::{self, NewAction};
use crate::http::{ApiResult, Errors, Path};
use crate::servers::change;
use crate::{World, clock, servers};

/// The routes of backups.
pub fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new().routes(routes!(server_enable_backup)).routes(routes!(server_disable_backup))
}

/// Back a server up once a day; the newest seven backups are kept. The window is chosen, and shown in
/// `backup_window`. Fine when it is backed up already.
#[utoipa::path(post, path = "/servers/{id}/actions/enable_backup", tag = "servers", params(("id" = ServerId, Path)),
    responses((status = 201, body = ActionReply), Errors))]
async fn server_enable_backup(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ServerId>,
) -> ApiResult<(StatusCode, Json<ActionReply>)> {
    let now = clock::now();
    let mut tx = world.db.begin().await?;
    change::hold(&mut tx, access.project, id).await?;
    let first_hour = rules::first_hour(id);
    let due = rules::next_due(id, first_hour, now);
    queries::insert(&mut tx, (access.project, id), first_hour, due).await?;
    let reply = done(&mut tx, (access.project, id), "enable_backup", now).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(reply)))
}

/// Back a server up no longer, and delete all its backups. Those that were made snapshots stay.
#[utoipa::path(post, path = "/servers/{id}/actions/disable_backup", tag = "servers", params(("id" = ServerId, Path)),
    responses((status = 201, body = ActionReply), Errors))]
async fn server_disable_backup(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ServerId>,
) -> ApiResult<(StatusCode, Json<ActionReply>)> {
    let now = clock::now();
    let mut tx = world.db.begin().await?;
    change::hold(&mut tx, access.project, id).await?;
    queries::delete(&mut tx, id).await?;
    super::remove_beyond(&mut tx, id, 0, now).await?;
    let reply = done(&mut tx, (access.project, id), "disable_backup", now).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(reply)))
}

async fn done(
    conn: &mut PgConnection,
    (project, id): (ProjectId, ServerId),
    command: &'static str,
    now: Timestamp,
) -> ApiResult<ActionReply> {
    let resources = [(ResourceKind::Server, id.0)];
    let action = NewAction { project, command, resources: &resources, steps: &[], now };
    let action = actions::queries::done(conn, &action).await?;
    servers::queries::publish(conn, id, now).await?;
    Ok(ActionReply { action })
}
