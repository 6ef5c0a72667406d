//! `/v1/actions` and the actions of servers. An action can be read when its resource is gone.

use axum::Json;
use axum::extract::State;
use berth_model::action::{ActionList, ActionReply, ActionStatus, ResourceKind};
use berth_model::error::ApiError;
use berth_model::{ActionId, ProjectId, ServerId};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Filter, queries};
use crate::accounts::Reader;
use crate::http::{ApiResult, Errors, Page, Path, Problem, Query, Sort};
use crate::{World, servers};

/// Ids that one request may name.
const IDS_MAX: usize = 500;

/// The routes of this subject, below `/v1`.
pub fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new()
        .routes(routes!(action_list))
        .routes(routes!(action_get))
        .routes(routes!(server_action_list))
        .routes(routes!(server_action_get))
        .routes(routes!(action_list_of_server))
        .routes(routes!(action_get_of_server))
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

/// The actions of all the project's servers.
#[utoipa::path(get, path = "/servers/actions", tag = "actions", params(Asked, Page),
    responses((status = 200, body = ActionList), Errors))]
async fn server_action_list(
    State(world): State<World>,
    Reader(access): Reader,
    Query(asked): Query<Asked>,
    page: Page,
) -> ApiResult<Json<ActionList>> {
    let filter = asked.filter(Some((ResourceKind::Server, None)))?;
    page_of(&world, access.project, &filter, page).await
}

/// An action of a server.
#[utoipa::path(get, path = "/servers/actions/{id}", tag = "actions", params(("id" = ActionId, Path)),
    responses((status = 200, body = ActionReply), Errors))]
async fn server_action_get(
    State(world): State<World>,
    Reader(access): Reader,
    Path(id): Path<ActionId>,
) -> ApiResult<Json<ActionReply>> {
    one_of(&world, access.project, id, Some((ResourceKind::Server, None))).await
}

/// The actions of one server, also of one that is gone.
#[utoipa::path(get, path = "/servers/{id}/actions", tag = "actions", params(("id" = ServerId, Path), Asked, Page),
    responses((status = 200, body = ActionList), Errors))]
async fn action_list_of_server(
    State(world): State<World>,
    Reader(access): Reader,
    Path(id): Path<ServerId>,
    Query(asked): Query<Asked>,
    page: Page,
) -> ApiResult<Json<ActionList>> {
    let resource = (ResourceKind::Server, id.0);
    let filter = asked.filter(Some((resource.0, Some(resource.1))))?;
    let mut conn = world.db.acquire().await?;
    let known = queries::exists_for(&mut conn, access.project, resource).await?
        || !servers::queries::among(&mut conn, access.project, &[id]).await?.is_empty();
    drop(conn);
    if !known {
        return Err(Problem::not_found("server"));
    }
    page_of(&world, access.project, &filter, page).await
}

/// An action of one server.
#[utoipa::path(get, path = "/servers/{id}/actions/{action_id}", tag = "actions",
    params(("id" = ServerId, Path), ("action_id" = ActionId, Path)),
    responses((status = 200, body = ActionReply), Errors))]
async fn action_get_of_server(
    State(world): State<World>,
    Reader(access): Reader,
    Path((server, id)): Path<(ServerId, ActionId)>,
) -> ApiResult<Json<ActionReply>> {
    one_of(&world, access.project, id, Some((ResourceKind::Server, Some(server.0)))).await
}
