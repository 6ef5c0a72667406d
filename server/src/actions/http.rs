//! `/v1/actions`, and the actions of each kind of resource. An action can be read when its resource is gone.

use axum::Json;
use axum::extract::State;
use berth_model::action::{ActionList, ActionReply, ActionStatus, ResourceKind};
use berth_model::error::ApiError;
use berth_model::{
    ActionId, CertificateId, FirewallId, FloatingIpId, ImageId, NetworkId, PrimaryIpId, ProjectId, ServerId,
    VolumeId,
};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Filter, queries};
use crate::World;
use crate::accounts::Reader;
use crate::http::{ApiResult, Errors, Page, Path, Problem, Query, Sort};

/// Ids that one request may name.
const IDS_MAX: usize = 500;

/// The routes of this subject, below `/v1`.
pub fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new()
        .routes(routes!(action_list))
        .routes(routes!(action_get))
        .merge(of_servers::router())
        .merge(of_images::router())
        .merge(of_primary_ips::router())
        .merge(of_floating_ips::router())
        .merge(of_volumes::router())
        .merge(of_certificates::router())
        .merge(of_firewalls::router())
        .merge(of_networks::router())
}

/// Which actions are asked for.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// Exactly these. May be repeated, up to 500 times.
    #[serde(default)]
    id: Vec<ActionId>,
    /// In one of these states. May be repeated.
    #[serde(default)]
    status: Vec<ActionStatus>,
    /// `id`, `command`, `status`, `started` or `finished`, each with `:asc` or `:desc`. May be repeated.
    #[serde(default)]
    sort: Vec<String>,
}

impl Asked {
    fn filter(self, resource: Option<(ResourceKind, Option<i64>)>) -> Result<Filter, ApiError> {
        if self.id.len() > IDS_MAX {
            return Err(ApiError::field("id", format!("Name at most {IDS_MAX} actions at once.")));
        }
        let sort = Sort::read(&self.sort, &["id", "command", "status", "started", "finished"])?;
        let ids = (!self.id.is_empty()).then_some(self.id);
        Ok(Filter { ids, statuses: self.status, resource, sort })
    }
}

async fn page_of(
    world: &World,
    project: ProjectId,
    filter: &Filter,
    page: Page,
) -> ApiResult<Json<ActionList>> {
    let mut conn = world.db.acquire().await?;
    let (actions, total) = queries::list(&mut conn, project, filter, page).await?;
    Ok(Json(ActionList { actions, meta: page.meta(total) }))
}

async fn one_of(
    world: &World,
    project: ProjectId,
    id: ActionId,
    resource: Option<(ResourceKind, Option<i64>)>,
) -> ApiResult<Json<ActionReply>> {
    let mut conn = world.db.acquire().await?;
    let filter = Filter { ids: Some(vec![id]), resource, ..Filter::default() };
    let action = queries::find(&mut conn, project, &filter).await?;
    Ok(Json(ActionReply { action: action.ok_or_else(|| Problem::not_found("action"))? }))
}

/// The project's actions.
#[utoipa::path(get, path = "/actions", tag = "actions", params(Asked, Page),
    responses((status = 200, body = ActionList), Errors))]
async fn action_list(
    State(world): State<World>,
    Reader(access): Reader,
    Query(asked): Query<Asked>,
    page: Page,
) -> ApiResult<Json<ActionList>> {
    page_of(&world, access.project, &asked.filter(None)?, page).await
}

/// An action.
#[utoipa::path(get, path = "/actions/{id}", tag = "actions", params(("id" = ActionId, Path)),
    responses((status = 200, body = ActionReply), Errors))]
async fn action_get(
    State(world): State<World>,
    Reader(access): Reader,
    Path(id): Path<ActionId>,
) -> ApiResult<Json<ActionReply>> {
    one_of(&world, access.project, id, None).await
}

/// The four routes of the actions of one kind of resource, called `$one`. `$exists` says whether the
/// project has one of this number: its owner's.
macro_rules! actions_of {
    ($module:ident, $kind:ident, $id:ty, $exists:path, $one:literal) => {
        mod $module {
            use super::*;

            const KIND: ResourceKind = ResourceKind::$kind;

            pub(super) fn router() -> OpenApiRouter<World> {
                OpenApiRouter::new()
                    .routes(routes!(list))
                    .routes(routes!(get))
                    .routes(routes!(list_of_one))
                    .routes(routes!(get_of_one))
            }

            /// The actions of all the project's resources of this kind.
            #[utoipa::path(get, path = concat!("/", $one, "s/actions"), operation_id = concat!($one, "_action_list"),
                tag = "actions", params(Asked, Page), responses((status = 200, body = ActionList), Errors))]
            async fn list(
                State(world): State<World>,
                Reader(access): Reader,
                Query(asked): Query<Asked>,
                page: Page,
            ) -> ApiResult<Json<ActionList>> {
                page_of(&world, access.project, &asked.filter(Some((KIND, None)))?, page).await
            }

            /// An action of any resource of this kind.
            #[utoipa::path(get, path = concat!("/", $one, "s/actions/{id}"), operation_id = concat!($one, "_action_get"),
                tag = "actions", params(("id" = ActionId, Path)), responses((status = 200, body = ActionReply), Errors))]
            async fn get(
                State(world): State<World>,
                Reader(access): Reader,
                Path(id): Path<ActionId>,
            ) -> ApiResult<Json<ActionReply>> {
                one_of(&world, access.project, id, Some((KIND, None))).await
            }

            /// The actions of one resource, also of one that is gone.
            #[utoipa::path(get, path = concat!("/", $one, "s/{id}/actions"),
                operation_id = concat!("action_list_of_", $one), tag = "actions",
                params(("id" = $id, Path), Asked, Page),
                responses((status = 200, body = ActionList), Errors))]
            async fn list_of_one(
                State(world): State<World>,
                Reader(access): Reader,
                Path(id): Path<$id>,
                Query(asked): Query<Asked>,
                page: Page,
            ) -> ApiResult<Json<ActionList>> {
                let filter = asked.filter(Some((KIND, Some(id.0))))?;
                let mut conn = world.db.acquire().await?;
                let known = queries::exists_for(&mut conn, access.project, (KIND, id.0)).await?
                    || $exists(&mut conn, access.project, id).await?;
                drop(conn);
                if !known {
                    return Err(Problem::not_found(KIND.noun()));
                }
                page_of(&world, access.project, &filter, page).await
            }

            /// An action of one resource.
            #[utoipa::path(get, path = concat!("/", $one, "s/{id}/actions/{action_id}"),
                operation_id = concat!("action_get_of_", $one), tag = "actions",
                params(("id" = $id, Path), ("action_id" = ActionId, Path)),
                responses((status = 200, body = ActionReply), Errors))]
            async fn get_of_one(
                State(world): State<World>,
                Reader(access): Reader,
                Path((of, id)): Path<($id, ActionId)>,
            ) -> ApiResult<Json<ActionReply>> {
                one_of(&world, access.project, id, Some((KIND, Some(of.0)))).await
            }
        }
    };
}

actions_of!(of_servers, Server, ServerId, crate::servers::queries::exists, "server");
actions_of!(of_images, Image, ImageId, crate::images::queries::exists, "image");
actions_of!(of_primary_ips, PrimaryIp, PrimaryIpId, crate::addresses::queries::primary_exists, "primary_ip");
actions_of!(
    of_floating_ips,
    FloatingIp,
    FloatingIpId,
    crate::addresses::queries::floating_exists,
    "floating_ip"
);
actions_of!(of_volumes, Volume, VolumeId, crate::volumes::queries::exists, "volume");
actions_of!(of_firewalls, Firewall, FirewallId, crate::firewalls::queries::exists, "firewall");
actions_of!(of_networks, Network, NetworkId, crate::networks::queries::exists, "network");
actions_of!(of_certificates, Certificate, CertificateId, crate::certificates::queries::exists, "certificate");
