//! `/v1/webhooks` and their deliveries.

use axum::Json;
use axum::extract::State;
use berth_model::error::ApiError;
use berth_model::quota::QuotaKind;
use berth_model::webhook::{
    DeliveryStatus, Webhook, WebhookCreate, WebhookCreated, WebhookDelivery, WebhookDeliveryList,
    WebhookDeliveryReply, WebhookList, WebhookReply, WebhookUpdate,
};
use berth_model::{ErrorCode, ProjectId, WebhookDeliveryId, WebhookId};
use http::StatusCode;
use serde::Deserialize;
use sqlx::PgConnection;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{queries, rules};
use crate::accounts::{Reader, Writer};
use crate::http::{ApiResult, Body, Errors, Page, Path, Problem, Query};
use crate::{World, clock, entropy, quotas};

/// What secrets are sealed for.
pub(super) const PURPOSE: &str = "webhook secret";
/// Characters of a secret: 238 bits.
const SECRET_CHARS: usize = 40;

/// The routes.
pub fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new()
        .routes(routes!(webhook_list, webhook_create))
        .routes(routes!(webhook_get, webhook_update, webhook_delete))
        .routes(routes!(webhook_delivery_list))
        .routes(routes!(webhook_delivery_get))
        .routes(routes!(webhook_delivery_replay))
}

/// Which webhooks are asked for.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// With this name.
    name: Option<String>,
}

/// Webhooks of the project, by number.
#[utoipa::path(get, path = "/webhooks", tag = "webhooks", params(Asked, Page),
    responses((status = 200, body = WebhookList), Errors))]
async fn webhook_list(
    State(world): State<World>,
    Reader(access): Reader,
    Query(asked): Query<Asked>,
    page: Page,
) -> ApiResult<Json<WebhookList>> {
    let mut conn = world.db.acquire().await?;
    let (webhooks, total) = queries::list(&mut conn, access.project, asked.name.as_deref(), page).await?;
    Ok(Json(WebhookList { webhooks, meta: page.meta(total) }))
}

/// Have events sent to an address, from now on. The secret they are signed with is told in this answer only.
///
/// Each is a POST of `{"id", "kind", "created", "project", "data"}` with the headers `Berth-Event` (the number
/// of the event, the same for each try), `Berth-Delivery`, `Berth-Timestamp` (seconds since 1970) and
/// `Berth-Signature`: `v1=` and the HMAC-SHA-256, in hex, of the timestamp, a dot and the body. Answer 2xx
/// within ten seconds. Others are tried again for 24 hours.
#[utoipa::path(post, path = "/webhooks", tag = "webhooks", request_body = WebhookCreate,
    responses((status = 201, body = WebhookCreated), Errors))]
async fn webhook_create(
    State(world): State<World>,
    Writer(access): Writer,
    Body(create): Body<WebhookCreate>,
) -> ApiResult<(StatusCode, Json<WebhookCreated>)> {
    let WebhookCreate { name, url, kinds } = &create;
    let faults = rules::faults(Some(name), Some(url), Some(kinds), &world.config.webhook_networks);
    if !faults.is_empty() {
        return Err(ApiError::fields(faults).into());
    }
    let secret = entropy::alphanumeric(SECRET_CHARS);
    let sealed = world.secret_key.seal(PURPOSE, secret.as_bytes());
    let mut tx = world.db.begin().await?;
    let new = (name.trim(), url.as_str(), kinds.as_slice());
    let id = queries::insert(&mut tx, access.project, new, &sealed, clock::now()).await.map_err(taken)?;
    quotas::check(&mut tx, &world.config, access.project, &[QuotaKind::Webhooks]).await?;
    let webhook = found(&mut tx, access.project, id).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(WebhookCreated { webhook, secret })))
}

fn taken(error: sqlx::Error) -> Problem {
    Problem::from(error).on_taken(
        "webhooks_name_key",
        "name",
        "The project has a webhook with this name already.",
    )
}

async fn found(conn: &mut PgConnection, project: ProjectId, id: WebhookId) -> ApiResult<Webhook> {
    queries::get(conn, project, id).await?.ok_or_else(|| Problem::not_found("webhook"))
}

/// One webhook.
#[utoipa::path(get, path = "/webhooks/{id}", tag = "webhooks", params(("id" = WebhookId, Path)),
    responses((status = 200, body = WebhookReply), Errors))]
async fn webhook_get(
    State(world): State<World>,
    Reader(access): Reader,
    Path(id): Path<WebhookId>,
) -> ApiResult<Json<WebhookReply>> {
    let webhook = found(&mut *world.db.acquire().await?, access.project, id).await?;
    Ok(Json(WebhookReply { webhook }))
}

/// Change a webhook. Disabled, what waits is given up; enabled again, it starts with the next event.
#[utoipa::path(put, path = "/webhooks/{id}", tag = "webhooks", params(("id" = WebhookId, Path)),
    request_body = WebhookUpdate, responses((status = 200, body = WebhookReply), Errors))]
async fn webhook_update(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<WebhookId>,
    Body(update): Body<WebhookUpdate>,
) -> ApiResult<Json<WebhookReply>> {
    let WebhookUpdate { name, url, kinds, enabled } = &update;
    let asked = (name.as_deref(), url.as_deref(), kinds.as_deref());
    let mut tx = world.db.begin().await?;
    found(&mut tx, access.project, id).await?;
    let faults = rules::faults(asked.0, asked.1, asked.2, &world.config.webhook_networks);
    if !faults.is_empty() {
        return Err(ApiError::fields(faults).into());
    }
    let asked = (asked.0.map(str::trim), asked.1, asked.2);
    queries::update(&mut tx, access.project, id, asked, *enabled).await.map_err(taken)?;
    let webhook = found(&mut tx, access.project, id).await?;
    tx.commit().await?;
    Ok(Json(WebhookReply { webhook }))
}

/// Delete a webhook with its deliveries.
#[utoipa::path(delete, path = "/webhooks/{id}", tag = "webhooks", params(("id" = WebhookId, Path)),
    responses((status = 204), Errors))]
async fn webhook_delete(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<WebhookId>,
) -> ApiResult<StatusCode> {
    match queries::delete(&mut *world.db.acquire().await?, access.project, id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found("webhook")),
    }
}

/// Which deliveries are asked for.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct AskedDeliveries {
    /// In this state.
    status: Option<DeliveryStatus>,
}

/// A webhook's deliveries of the last week, newest first.
#[utoipa::path(get, path = "/webhooks/{id}/deliveries", tag = "webhooks",
    params(("id" = WebhookId, Path), AskedDeliveries, Page),
    responses((status = 200, body = WebhookDeliveryList), Errors))]
async fn webhook_delivery_list(
    State(world): State<World>,
    Reader(access): Reader,
    Path(id): Path<WebhookId>,
    Query(asked): Query<AskedDeliveries>,
    page: Page,
) -> ApiResult<Json<WebhookDeliveryList>> {
    let mut conn = world.db.acquire().await?;
    found(&mut conn, access.project, id).await?;
    let (deliveries, total) = queries::deliveries(&mut conn, id, None, asked.status, page).await?;
    Ok(Json(WebhookDeliveryList { deliveries, meta: page.meta(total) }))
}

/// One delivery.
#[utoipa::path(get, path = "/webhooks/{id}/deliveries/{delivery_id}", tag = "webhooks",
    params(("id" = WebhookId, Path), ("delivery_id" = WebhookDeliveryId, Path)),
    responses((status = 200, body = WebhookDeliveryReply), Errors))]
async fn webhook_delivery_get(
    State(world): State<World>,
    Reader(access): Reader,
    Path((id, delivery)): Path<(WebhookId, WebhookDeliveryId)>,
) -> ApiResult<Json<WebhookDeliveryReply>> {
    let delivery = found_delivery(&mut *world.db.acquire().await?, access.project, (id, delivery)).await?;
    Ok(Json(WebhookDeliveryReply { delivery }))
}

async fn found_delivery(
    conn: &mut PgConnection,
    project: ProjectId,
    (webhook, id): (WebhookId, WebhookDeliveryId),
) -> ApiResult<WebhookDelivery> {
    found(conn, project, webhook).await?;
    let (mut deliveries, _) = queries::deliveries(conn, webhook, Some(id), None, Page::LARGEST).await?;
    deliveries.pop().ok_or_else(|| Problem::not_found("delivery"))
}

/// Send a delivery again, with the same event number and body. One that waits for its next try already stays.
#[utoipa::path(post, path = "/webhooks/{id}/deliveries/{delivery_id}/replay", tag = "webhooks",
    params(("id" = WebhookId, Path), ("delivery_id" = WebhookDeliveryId, Path)),
    responses((status = 201, body = WebhookDeliveryReply), Errors))]
async fn webhook_delivery_replay(
    State(world): State<World>,
    Writer(access): Writer,
    Path((id, delivery)): Path<(WebhookId, WebhookDeliveryId)>,
) -> ApiResult<(StatusCode, Json<WebhookDeliveryReply>)> {
    let mut tx = world.db.begin().await?;
    found_delivery(&mut tx, access.project, (id, delivery)).await?;
    if !found(&mut tx, access.project, id).await?.enabled {
        return Err(Problem::new(ErrorCode::UnsupportedError, "The webhook is disabled. Enable it first."));
    }
    queries::replay(&mut tx, id, delivery, clock::now()).await?;
    let delivery = found_delivery(&mut tx, access.project, (id, delivery)).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(WebhookDeliveryReply { delivery })))
}
