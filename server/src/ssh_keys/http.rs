//! `/v1/ssh_keys`.

use axum::Json;
use axum::extract::State;
use berth_model::SshKeyId;
use berth_model::error::ApiError;
use berth_model::quota::QuotaKind;
use berth_model::ssh_key::{SshKeyCreate, SshKeyList, SshKeyReply, SshKeyUpdate};
use http::StatusCode;
use serde::Deserialize;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{queries, rules};
use crate::accounts::{Reader, Writer};
use crate::http::{ApiResult, Body, Errors, Filter, Page, Path, Problem, Query};
use crate::{World, clock, quotas};

/// The routes of SSH keys.
pub fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new().routes(routes!(ssh_key_list, ssh_key_create)).routes(routes!(
        ssh_key_get,
        ssh_key_update,
        ssh_key_delete
    ))
}

/// Which keys are asked for besides.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// With this fingerprint.
    fingerprint: Option<String>,
}

/// Public keys of the project.
#[utoipa::path(get, path = "/ssh_keys", tag = "ssh_keys", params(Filter, Asked, Page),
    responses((status = 200, body = SshKeyList), Errors))]
async fn ssh_key_list(
    State(world): State<World>,
    Reader(access): Reader,
    filter: Filter,
    Query(asked): Query<Asked>,
    page: Page,
) -> ApiResult<Json<SshKeyList>> {
    let mut conn = world.db.acquire().await?;
    let (ssh_keys, total) =
        queries::list(&mut conn, access.project, (&filter, asked.fingerprint.as_deref()), page).await?;
    Ok(Json(SshKeyList { ssh_keys, meta: page.meta(total) }))
}

/// Add a public key.
#[utoipa::path(post, path = "/ssh_keys", tag = "ssh_keys", request_body = SshKeyCreate,
    responses((status = 201, body = SshKeyReply), Errors))]
async fn ssh_key_create(
    State(world): State<World>,
    Writer(access): Writer,
    Body(create): Body<SshKeyCreate>,
) -> ApiResult<(StatusCode, Json<SshKeyReply>)> {
    let key = rules::check_create(&create).map_err(ApiError::fields)?;
    let mut tx = world.db.begin().await?;
    let new = (create.name.trim(), &key, &create.labels);
    let ssh_key = queries::insert(&mut tx, access.project, new, clock::now()).await.map_err(taken)?;
    quotas::check(&mut tx, &world.config, access.project, &[QuotaKind::SshKeys]).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(SshKeyReply { ssh_key })))
}

/// One public key.
#[utoipa::path(get, path = "/ssh_keys/{id}", tag = "ssh_keys", params(("id" = SshKeyId, Path)),
    responses((status = 200, body = SshKeyReply), Errors))]
async fn ssh_key_get(
    State(world): State<World>,
    Reader(access): Reader,
    Path(id): Path<SshKeyId>,
) -> ApiResult<Json<SshKeyReply>> {
    let ssh_key = queries::get(&mut *world.db.acquire().await?, access.project, id).await?;
    Ok(Json(SshKeyReply { ssh_key: ssh_key.ok_or_else(|| Problem::not_found("SSH key"))? }))
}

/// Change a key's name or labels.
#[utoipa::path(put, path = "/ssh_keys/{id}", tag = "ssh_keys", params(("id" = SshKeyId, Path)),
    request_body = SshKeyUpdate, responses((status = 200, body = SshKeyReply), Errors))]
async fn ssh_key_update(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<SshKeyId>,
    Body(update): Body<SshKeyUpdate>,
) -> ApiResult<Json<SshKeyReply>> {
    let mut conn = world.db.acquire().await?;
    if queries::get(&mut conn, access.project, id).await?.is_none() {
        return Err(Problem::not_found("SSH key"));
    }
    let faults = rules::update_faults(&update);
    if !faults.is_empty() {
        return Err(ApiError::fields(faults).into());
    }
    let (name, labels) = (update.name.as_deref().map(str::trim), update.labels.as_ref());
    let ssh_key = queries::update(&mut conn, access.project, id, name, labels).await.map_err(taken)?;
    Ok(Json(SshKeyReply { ssh_key: ssh_key.ok_or_else(|| Problem::not_found("SSH key"))? }))
}

/// Delete a key. Servers that have it keep it.
#[utoipa::path(delete, path = "/ssh_keys/{id}", tag = "ssh_keys", params(("id" = SshKeyId, Path)),
    responses((status = 204), Errors))]
async fn ssh_key_delete(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<SshKeyId>,
) -> ApiResult<StatusCode> {
    match queries::delete(&mut *world.db.acquire().await?, access.project, id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found("SSH key")),
    }
}

fn taken(error: sqlx::Error) -> Problem {
    Problem::from(error)
        .on_taken("ssh_keys_name_key", "name", "The project has a key with this name already.")
        .on_taken(
            "ssh_keys_fingerprint_key",
            "public_key",
            "The project has this key already, under another name.",
        )
}
