//! `/v1/certificates`.

use axum::Json;
use axum::extract::State;
use berth_model::action::ActionReply;
use berth_model::certificate::{
    Certificate, CertificateCreate, CertificateCreated, CertificateList, CertificateReply, CertificateType,
    CertificateUpdate,
};
use berth_model::error::ApiError;
use berth_model::quota::QuotaKind;
use berth_model::{CertificateId, ErrorCode, ProjectId};
use http::StatusCode;
use serde::Deserialize;
use sqlx::PgConnection;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{PURPOSE, queries, rules};
use crate::accounts::{Reader, Writer};
use crate::http::{ApiResult, Body, Errors, Filter, Page, Path, Problem, Query};
use crate::{World, clock, labels, quotas};

/// The routes of certificates.
pub fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new()
        .routes(routes!(certificate_list, certificate_create))
        .routes(routes!(certificate_get, certificate_update, certificate_delete))
        .routes(routes!(certificate_retry))
}

/// Which certificates are asked for besides.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// Of these types.
    #[serde(default, rename = "type")]
    kind: Vec<CertificateType>,
}

/// Certificates of the project.
#[utoipa::path(get, path = "/certificates", tag = "certificates", params(Filter, Asked, Page),
    responses((status = 200, body = CertificateList), Errors))]
async fn certificate_list(
    State(world): State<World>,
    Reader(access): Reader,
    filter: Filter,
    Query(asked): Query<Asked>,
    page: Page,
) -> ApiResult<Json<CertificateList>> {
    let mut conn = world.db.acquire().await?;
    let (certificates, total) =
        queries::list(&mut conn, access.project, (&filter, &asked.kind), page).await?;
    Ok(Json(CertificateList { certificates, meta: page.meta(total) }))
}

/// Upload a certificate with its key. The key is kept sealed, and told to nobody.
#[utoipa::path(post, path = "/certificates", tag = "certificates", request_body = CertificateCreate,
    responses((status = 201, body = CertificateCreated), Errors))]
async fn certificate_create(
    State(world): State<World>,
    Writer(access): Writer,
    Body(create): Body<CertificateCreate>,
) -> ApiResult<(StatusCode, Json<CertificateCreated>)> {
    if create.kind == Some(CertificateType::Managed) {
        let message = "Managed certificates are not supported yet. Upload one.";
        return Err(Problem::new(ErrorCode::UnsupportedError, message));
    }
    let uploaded = rules::check_create(&create).map_err(ApiError::fields)?;
    let sealed = world.secret_key.seal(PURPOSE, uploaded.private_key.as_bytes());
    let labels = create.labels.unwrap_or_default();
    let mut tx = world.db.begin().await?;
    let (of, words) = ((&uploaded, sealed.as_slice()), (create.name.trim(), &labels));
    let id =
        queries::insert(&mut tx, access.project, words, of, clock::now()).await.map_err(name_is_taken)?;
    quotas::check(&mut tx, &world.config, access.project, &[QuotaKind::Certificates]).await?;
    let certificate = shown(&mut tx, access.project, id).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(CertificateCreated { certificate, action: None })))
}

/// One certificate.
#[utoipa::path(get, path = "/certificates/{id}", tag = "certificates", params(("id" = CertificateId, Path)),
    responses((status = 200, body = CertificateReply), Errors))]
async fn certificate_get(
    State(world): State<World>,
    Reader(access): Reader,
    Path(id): Path<CertificateId>,
) -> ApiResult<Json<CertificateReply>> {
    let certificate = shown(&mut *world.db.acquire().await?, access.project, id).await?;
    Ok(Json(CertificateReply { certificate }))
}

/// Change a certificate's name or labels.
#[utoipa::path(put, path = "/certificates/{id}", tag = "certificates", params(("id" = CertificateId, Path)),
    request_body = CertificateUpdate, responses((status = 200, body = CertificateReply), Errors))]
async fn certificate_update(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<CertificateId>,
    Body(update): Body<CertificateUpdate>,
) -> ApiResult<Json<CertificateReply>> {
    let mut tx = world.db.begin().await?;
    shown(&mut tx, access.project, id).await?;
    labels::check_named(update.name.as_deref(), update.labels.as_ref())?;
    let to = (update.name.as_deref().map(str::trim), update.labels.as_ref());
    queries::update(&mut tx, access.project, id, to).await.map_err(name_is_taken)?;
    let certificate = shown(&mut tx, access.project, id).await?;
    tx.commit().await?;
    Ok(Json(CertificateReply { certificate }))
}

/// Delete a certificate with its key.
#[utoipa::path(delete, path = "/certificates/{id}", tag = "certificates", params(("id" = CertificateId, Path)),
    responses((status = 204), Errors))]
async fn certificate_delete(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<CertificateId>,
) -> ApiResult<StatusCode> {
    match queries::delete(&mut *world.db.acquire().await?, access.project, id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(not_found()),
    }
}

/// Ask for a managed certificate again. Uploaded ones are not asked for: `unsupported_error`.
#[utoipa::path(post, path = "/certificates/{id}/actions/retry", tag = "certificates",
    params(("id" = CertificateId, Path)), responses((status = 201, body = ActionReply), Errors))]
async fn certificate_retry(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<CertificateId>,
) -> ApiResult<(StatusCode, Json<ActionReply>)> {
    shown(&mut *world.db.acquire().await?, access.project, id).await?;
    let message = "This certificate was uploaded. Only managed ones are asked for again.";
    Err(Problem::new(ErrorCode::UnsupportedError, message))
}

async fn shown(conn: &mut PgConnection, project: ProjectId, id: CertificateId) -> ApiResult<Certificate> {
    queries::get(conn, project, id).await?.ok_or_else(not_found)
}

fn not_found() -> Problem {
    Problem::not_found("certificate")
}

fn name_is_taken(error: sqlx::Error) -> Problem {
    Problem::from(error).on_taken(
        "certificates_name_key",
        "name",
        "The project has a certificate with this name already.",
    )
}
