//! `/v1/servers/{id}/actions/request_console`, and the WebSocket of a console.

use axum::Json;
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::response::Response;
use berth_model::action::ResourceKind;
use berth_model::agent::ConsoleKind;
use berth_model::server::{ConsoleRequested, ServerStatus};
use berth_model::{ErrorCode, NodeId, ServerId, Timestamp};
use http::StatusCode;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::queries::{self, Ticket};
use super::relay::{self, MESSAGE_MAX_BYTES};
use super::rfb::PASSWORD_CHARS;
use crate::accounts::{ProjectAccess, Writer};
use crate::actions::{self, NewAction};
use crate::http::{ApiResult, Errors, Path, Problem, Query};
use crate::live::Doubts;
use crate::{World, accounts, clock, entropy, servers};

/// How long a ticket may be used.
const TICKET_S: i64 = 60;
/// Characters of a ticket: 380 bits.
const TICKET_CHARS: usize = 64;
/// Passwords of consoles are sealed for this.
const PURPOSE: &str = "console password";
/// The subprotocol of viewers in browsers.
const PROTOCOL: &str = "binary";

/// The routes of consoles.
pub fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new().routes(routes!(server_request_console)).routes(routes!(server_console))
}

/// SHA-256 of a ticket: what the database knows of it. It has more chance in it than could be guessed.
fn hash(ticket: &str) -> [u8; 32] {
    Sha256::digest(ticket.as_bytes()).into()
}

/// Open a server's screen and keyboard. The address in the answer works once, for a minute, with a viewer that speaks
/// RFB over WebSockets, such as noVNC; it asks for the password.
#[utoipa::path(post, path = "/servers/{id}/actions/request_console", tag = "servers", params(("id" = ServerId, Path)),
    responses((status = 201, body = ConsoleRequested), Errors))]
async fn server_request_console(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<ServerId>,
) -> ApiResult<(StatusCode, Json<ConsoleRequested>)> {
    let mut tx = world.db.begin().await?;
    let server = servers::queries::hold(&mut tx, access.project, id).await?;
    let server = server.ok_or_else(|| Problem::not_found("server"))?;
    if !matches!(server.status, ServerStatus::Running | ServerStatus::Starting | ServerStatus::Stopping) {
        return Err(Problem::new(
            ErrorCode::UnsupportedError,
            "Only a running server has a console. Start it first.",
        ));
    }
    let now = clock::now();
    let (secret, password) = (entropy::alphanumeric(TICKET_CHARS), entropy::alphanumeric(PASSWORD_CHARS));
    let password_sealed = world.secret_key.seal(PURPOSE, password.as_bytes());
    let expires = now.plus_seconds(TICKET_S);
    let ticket = Ticket { server: id, project: access.project, key: access.key, password_sealed, expires };
    queries::insert(&mut tx, &hash(&secret), &ticket, now).await?;
    let action = NewAction {
        project: access.project,
        command: "request_console",
        resources: &[(ResourceKind::Server, id.0)],
        steps: &[],
        now,
    };
    let action = actions::queries::done(&mut tx, &action).await?;
    tx.commit().await?;
    let origin = world.config.origin().to_string().replacen("http", "ws", 1);
    let wss_url = format!("{origin}/v1/servers/{id}/console?token={secret}");
    Ok((StatusCode::CREATED, Json(ConsoleRequested { wss_url, password, action })))
}

/// What stands in the address of a console.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Shown {
    /// The ticket.
    token: String,
}

/// A console, as a WebSocket that speaks RFB: for who has a ticket, once.
#[utoipa::path(get, path = "/servers/{id}/console", tag = "servers", params(("id" = ServerId, Path), Shown),
    responses((status = 101, description = "A WebSocket with the subprotocol `binary`."), Errors))]
async fn server_console(
    State(world): State<World>,
    Path(id): Path<ServerId>,
    Query(Shown { token }): Query<Shown>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let doubts = world.live.doubts();
    let Admitted { password, node, access } = admitted(&world, id, &token, clock::now()).await?;
    let upgrade = upgrade.map_err(|_| Problem::new(ErrorCode::InvalidInput, "Open this as a WebSocket."))?;
    let seat = world.consoles.take(id).ok_or_else(|| {
        Problem::new(ErrorCode::RateLimitExceeded, "Too many consoles are open already. Close one.")
    })?;
    let agent = world.agents.node(node).console(id.into(), ConsoleKind::Vnc).await;
    let agent = agent.map_err(|error| match error.code() {
        Some(ErrorCode::NotFound | ErrorCode::Conflict) => {
            Problem::new(ErrorCode::UnsupportedError, "Only a running server has a console. Start it first.")
        }
        _ => Problem::unavailable(error),
    })?;
    let (stop, challenge) = (world.live.stop().clone(), entropy::bytes());
    let upgrade =
        upgrade.protocols([PROTOCOL]).max_message_size(MESSAGE_MAX_BYTES).max_frame_size(MESSAGE_MAX_BYTES);
    Ok(upgrade.on_upgrade(move |socket| async move {
        let ended = rights_end(&world, id, access, doubts);
        relay::serve(socket, agent, (password, challenge), ended, stop).await;
        drop(seat);
    }))
}

/// A console that a ticket opens.
struct Admitted {
    password: String,
    /// Where its server stands.
    node: NodeId,
    /// With which rights.
    access: ProjectAccess,
}

/// The console that a ticket opens. The ticket is used up, whatever comes of it.
async fn admitted(world: &World, id: ServerId, token: &str, now: Timestamp) -> ApiResult<Admitted> {
    let mut conn = world.db.acquire().await?;
    let ticket = queries::take(&mut conn, &hash(token)).await?;
    let ticket = ticket.filter(|ticket| ticket.server == id && now < ticket.expires).ok_or_else(|| {
        let message = "This console was opened already, or its time is up. Ask for another.";
        Problem::new(ErrorCode::Unauthorized, message)
    })?;
    let access = accounts::queries::writer(&mut conn, ticket.project, ticket.key, now).await?;
    let access = access.ok_or_else(|| {
        let message = "Who asked for this console may not write in its project any more.";
        Problem::new(ErrorCode::Forbidden, message)
    })?;
    let machine = servers::queries::machine(&mut conn, id).await?;
    let node = machine.and_then(|machine| machine.node).ok_or_else(|| Problem::not_found("server"))?;
    let password = world.secret_key.open(PURPOSE, &ticket.password_sealed).map_err(Problem::internal)?;
    let password = String::from_utf8(password).map_err(Problem::internal)?;
    Ok(Admitted { password, node, access })
}

/// Waits until the rights that opened a console are gone, or its server is. An answer that could not be had ends
/// nothing.
async fn rights_end(world: &World, server: ServerId, access: ProjectAccess, mut doubts: Doubts) {
    let lasts = async || -> sqlx::Result<bool> {
        let mut conn = world.db.acquire().await?;
        let writer = accounts::queries::writer(&mut conn, access.project, access.key, clock::now()).await?;
        Ok(writer.is_some() && servers::queries::exists(&mut conn, access.project, server).await?)
    };
    loop {
        doubts.next(&access).await;
        if lasts().await.is_ok_and(|lasts| !lasts) {
            return;
        }
    }
}
