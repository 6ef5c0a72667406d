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

/// The four routes of the actions of one kind of resource. `$exists` says whether the project has one of this
/// number: its owner's.
macro_rules! actions_of {
    ($module:ident, $kind:ident, $id:ty, $exists:path,
     $all:tt $all_id:tt, $all_one:tt $all_one_id:tt, $of_one:tt $of_one_id:tt, $one:tt $one_id:tt) => {
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
            #[utoipa::path(get, path = $all, operation_id = $all_id, tag = "actions", params(Asked, Page),
                responses((status = 200, body = ActionList), Errors))]
            async fn list(
                State(world): State<World>,
                Reader(access): Reader,
                Query(asked): Query<Asked>,
                page: Page,
            ) -> ApiResult<Json<ActionList>> {
                page_of(&world, access.project, &asked.filter(Some((KIND, None)))?, page).await
            }

            /// An action of any resource of this kind.
            #[utoipa::path(get, path = $all_one, operation_id = $all_one_id, tag = "actions",
                params(("id" = ActionId, Path)), responses((status = 200, body = ActionReply), Errors))]
            async fn get(
                State(world): State<World>,
                Reader(access): Reader,
                Path(id): Path<ActionId>,
            ) -> ApiResult<Json<ActionReply>> {
                one_of(&world, access.project, id, Some((KIND, None))).await
            }

            /// The actions of one resource, also of one that is gone.
            #[utoipa::path(get, path = $of_one, operation_id = $of_one_id, tag = "actions",
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
            #[utoipa::path(get, path = $one, operation_id = $one_id, tag = "actions",
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

actions_of!(of_servers, Server, ServerId, crate::servers::queries::exists,
    "/servers/actions" "server_action_list", "/servers/actions/{id}" "server_action_get",
    "/servers/{id}/actions" "action_list_of_server",
    "/servers/{id}/actions/{action_id}" "action_get_of_server");
actions_of!(of_images, Image, ImageId, crate::images::queries::exists,
    "/images/actions" "image_action_list", "/images/actions/{id}" "image_action_get",
    "/images/{id}/actions" "action_list_of_image",
    "/images/{id}/actions/{action_id}" "action_get_of_image");
actions_of!(of_primary_ips, PrimaryIp, PrimaryIpId, crate::addresses::queries::primary_exists,
    "/primary_ips/actions" "primary_ip_action_list", "/primary_ips/actions/{id}" "primary_ip_action_get",
    "/primary_ips/{id}/actions" "action_list_of_primary_ip",
    "/primary_ips/{id}/actions/{action_id}" "action_get_of_primary_ip");
actions_of!(of_floating_ips, FloatingIp, FloatingIpId, crate::addresses::queries::floating_exists,
    "/floating_ips/actions" "floating_ip_action_list", "/floating_ips/actions/{id}" "floating_ip_action_get",
    "/floating_ips/{id}/actions" "action_list_of_floating_ip",
    "/floating_ips/{id}/actions/{action_id}" "action_get_of_floating_ip");
actions_of!(of_volumes, Volume, VolumeId, crate::volumes::queries::exists,
    "/volumes/actions" "volume_action_list", "/volumes/actions/{id}" "volume_action_get",
    "/volumes/{id}/actions" "action_list_of_volume",
    "/volumes/{id}/actions/{action_id}" "action_get_of_volume");
actions_of!(of_firewalls, Firewall, FirewallId, crate::firewalls::queries::exists,
    "/firewalls/actions" "firewall_action_list", "/firewalls/actions/{id}" "firewall_action_get",
    "/firewalls/{id}/actions" "action_list_of_firewall",
    "/firewalls/{id}/actions/{action_id}" "action_get_of_firewall");
actions_of!(of_networks, Network, NetworkId, crate::networks::queries::exists,
    "/networks/actions" "network_action_list", "/networks/actions/{id}" "network_action_get",
    "/networks/{id}/actions" "action_list_of_network",
    "/networks/{id}/actions/{action_id}" "action_get_of_network");
actions_of!(of_certificates, Certificate, CertificateId, crate::certificates::queries::exists,
    "/certificates/actions" "certificate_action_list", "/certificates/actions/{id}" "certificate_action_get",
    "/certificates/{id}/actions" "action_list_of_certificate",
    "/certificates/{id}/actions/{action_id}" "action_get_of_certificate");
