//! Enrolment of agents, and the nodes as staff see them.

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::{Extension, Json};
use berth_model::agent::{EnrolReply, EnrolRequest};
use berth_model::node::{NodeList, NodeReply, NodeUpdate};
use berth_model::{ErrorBody, ErrorCode, NodeId};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::rules::Failures;
use super::{enrol, queries};
use crate::accounts::{Owner, Staff};
use crate::http::{ApiResult, Body, ClientAddress, Household, Page, Path, Problem};
use crate::{World, clock};

/// Failed enrolments, per household.
type EnrolFailures = Arc<Mutex<Failures<Household>>>;

/// The routes.
pub fn router() -> OpenApiRouter<World> {
    let enrolment =
        OpenApiRouter::new().routes(routes!(agent_enrol)).layer(Extension(EnrolFailures::default()));
    OpenApiRouter::new().routes(routes!(node_list)).routes(routes!(node_update)).merge(enrolment)
}

/// An agent asks to join, with the one-time token that `berth node add` printed.
#[utoipa::path(
    post, path = "/agents/enrol", tag = "nodes", security(()),
    request_body = EnrolRequest,
    responses(
        (status = 200, description = "The agent's certificate and our CA", body = EnrolReply),
        (status = 400, description = "`json_error`", body = ErrorBody),
        (status = 401, description = "`unauthorized`: the token is not valid", body = ErrorBody),
        (status = 422, description = "`invalid_input`", body = ErrorBody),
        (status = 429, description = "`rate_limit_exceeded`: too many tries from this address", body = ErrorBody),
    )
)]
async fn agent_enrol(
    State(world): State<World>,
    Extension(failures): Extension<EnrolFailures>,
    address: ClientAddress,
    Body(request): Body<EnrolRequest>,
) -> ApiResult<Json<EnrolReply>> {
    let (now, household) = (clock::now(), address.household());
    if let Some(wait) = failures.lock().unwrap_or_else(PoisonError::into_inner).wait(&household, now) {
        return Err(too_many().retry_after(wait));
    }
    let reply = enrol::enrol(&world.db, world.agents.authority(), &request, now).await;
    if reply.as_ref().is_err_and(|problem| problem.error().code == ErrorCode::Unauthorized) {
        failures.lock().unwrap_or_else(PoisonError::into_inner).note(household, now);
    }
    reply.map(Json)
}

fn too_many() -> Problem {
    Problem::new(ErrorCode::RateLimitExceeded, "Too many tries from this address. Wait a few minutes.")
}

/// All nodes, by number.
#[utoipa::path(
    get, path = "/nodes", tag = "nodes",
    params(
        ("page" = Option<u32>, Query, description = "From 1"),
        ("per_page" = Option<u32>, Query, description = "1 to 50; 25 unless said otherwise"),
    ),
    responses(
        (status = 200, description = "The nodes", body = NodeList),
        (status = 401, description = "`unauthorized`", body = ErrorBody),
        (status = 403, description = "`forbidden`: for staff only", body = ErrorBody),
        (status = 422, description = "`invalid_input`", body = ErrorBody),
    )
)]
async fn node_list(_: Staff, State(world): State<World>, page: Page) -> ApiResult<Json<NodeList>> {
    let mut conn = world.db.acquire().await?;
    let (nodes, total) = queries::list(&mut conn, page.limit(), page.offset()).await?;
    Ok(Json(NodeList { nodes, meta: page.meta(total) }))
}

/// Lets a node take new servers, or not.
#[utoipa::path(
    put, path = "/nodes/{id}", tag = "nodes",
    params(("id" = i64, Path, description = "The node's number")),
    request_body = NodeUpdate,
    responses(
        (status = 200, description = "The node", body = NodeReply),
        (status = 400, description = "`json_error`", body = ErrorBody),
        (status = 401, description = "`unauthorized`", body = ErrorBody),
        (status = 403, description = "`forbidden`: for the owner only", body = ErrorBody),
        (status = 404, description = "`not_found`", body = ErrorBody),
        (status = 422, description = "`invalid_input`", body = ErrorBody),
    )
)]
async fn node_update(
    _: Owner,
    State(world): State<World>,
    Path(id): Path<NodeId>,
    Body(update): Body<NodeUpdate>,
) -> ApiResult<Json<NodeReply>> {
    let mut tx = world.db.begin().await?;
    let node = queries::update(&mut tx, id, &update).await?;
    tx.commit().await?;
    node.map(|node| Json(NodeReply { node })).ok_or_else(|| Problem::not_found("node"))
}
