//! `/v1/networks`.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use berth_model::action::{Action, ActionReply, ResourceKind};
use berth_model::error::ApiError;
use berth_model::network::{
    ChangeNetworkProtection, IpRange, NetworkCreate, NetworkList, NetworkReply, NetworkUpdate, Route,
    SubnetCreate,
};
use berth_model::quota::QuotaKind;
use berth_model::{ErrorCode, NetworkId, ProjectId, ServerId, Timestamp};
use http::StatusCode;
use sqlx::PgConnection;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::jobs::leaving::LeavingMember;
use super::jobs::remove::NetworkRemove;
use super::queries::{self, Held};
use super::{jobs, rules};
use crate::accounts::{Reader, Writer};
use crate::actions::{self, NewAction};
use crate::http::{ApiResult, Body, Errors, Filter, Page, Path, Problem};
use crate::jobs::Saga as _;
use crate::servers::jobs::{follow, losing};
use crate::{World, catalog, clock, quotas, servers};

/// The routes of networks.
pub fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new()
        .routes(routes!(network_list, network_create))
        .routes(routes!(network_get, network_update, network_delete))
        .routes(routes!(network_add_subnet))
        .routes(routes!(network_delete_subnet))
        .routes(routes!(network_add_route))
        .routes(routes!(network_delete_route))
        .routes(routes!(network_change_ip_range))
        .routes(routes!(network_change_protection))
}

/// Networks of the project.
#[utoipa::path(get, path = "/networks", tag = "networks", params(Filter, Page),
    responses((status = 200, body = NetworkList), Errors))]
async fn network_list(
    State(world): State<World>,
    Reader(access): Reader,
    filter: Filter,
    page: Page,
) -> ApiResult<Json<NetworkList>> {
    let mut conn = world.db.acquire().await?;
    let (networks, total) = queries::list(&mut conn, access.project, &filter, page).await?;
    Ok(Json(NetworkList { networks, meta: page.meta(total) }))
}

/// One network.
#[utoipa::path(get, path = "/networks/{id}", tag = "networks", params(("id" = NetworkId, Path)),
    responses((status = 200, body = NetworkReply), Errors))]
async fn network_get(
    State(world): State<World>,
    Reader(access): Reader,
    Path(id): Path<NetworkId>,
) -> ApiResult<Json<NetworkReply>> {
    shown(&mut *world.db.acquire().await?, access.project, id).await
}

async fn shown(conn: &mut PgConnection, project: ProjectId, id: NetworkId) -> ApiResult<Json<NetworkReply>> {
    let network = queries::get(conn, project, id).await?;
    Ok(Json(NetworkReply { network: network.ok_or_else(no_such)? }))
}

/// Make a private network.
#[utoipa::path(post, path = "/networks", tag = "networks", request_body = NetworkCreate,
    responses((status = 201, body = NetworkReply), Errors))]
async fn network_create(
    State(world): State<World>,
    Writer(access): Writer,
    Body(create): Body<NetworkCreate>,
) -> ApiResult<(StatusCode, Json<NetworkReply>)> {
    let project = access.project;
    let mut tx = world.db.begin().await?;
    let shape = rules::ordered(&create, &zones(&mut tx).await?).map_err(ApiError::fields)?;
    let marks = create.labels.unwrap_or_default();
    let new = (create.name.trim(), &marks, &shape);
    let id = queries::insert(&mut tx, project, new, clock::now()).await.map_err(name_is_taken)?;
    let network = shown(&mut tx, project, id).await?;
    quotas::check(&mut tx, &world.config, project, &[QuotaKind::Networks]).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, network))
}

/// Change a network's name or labels.
#[utoipa::path(put, path = "/networks/{id}", tag = "networks", params(("id" = NetworkId, Path)),
    request_body = NetworkUpdate, responses((status = 200, body = NetworkReply), Errors))]
async fn network_update(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<NetworkId>,
    Body(update): Body<NetworkUpdate>,
) -> ApiResult<Json<NetworkReply>> {
    let mut tx = world.db.begin().await?;
    hold(&mut tx, access.project, id).await?;
    let faults = rules::update_faults(&update);
    if !faults.is_empty() {
        return Err(ApiError::fields(faults).into());
    }
    let to = (update.name.as_deref().map(str::trim), update.labels.as_ref(), None);
    queries::update(&mut tx, id, to).await.map_err(name_is_taken)?;
    let network = shown(&mut tx, access.project, id).await?;
    tx.commit().await?;
    Ok(network)
}

/// Delete a network. Servers in it lose their cards there, also while they run; the action `delete_network`, among
/// those of all networks, ends when nothing of it is left.
#[utoipa::path(delete, path = "/networks/{id}", tag = "networks", params(("id" = NetworkId, Path)),
    responses((status = 204), Errors))]
async fn network_delete(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<NetworkId>,
) -> ApiResult<StatusCode> {
    let (now, project) = (clock::now(), access.project);
    let mut tx = world.db.begin().await?;
    let (network, servers) = hold_with_servers(&mut tx, project, id).await?;
    if network.protect_delete {
        let message = "The network is protected from deletion. Take the protection off first.";
        return Err(Problem::new(ErrorCode::Protected, message));
    }
    let beside = servers.iter().map(|server| (ResourceKind::Server, server.0));
    let resources: Vec<_> = [(ResourceKind::Network, id.0)].into_iter().chain(beside).collect();
    let steps = crate::jobs::titles::<NetworkRemove>();
    let action =
        NewAction { project, command: NetworkRemove::KIND, resources: &resources, steps: &steps, now };
    let action = actions::queries::start(&mut tx, &action).await?;
    queries::set_gone(&mut tx, id, action.id).await?;
    for server in &servers {
        losing::free_once_lost(&mut tx, *server, LeavingMember::new(id), now).await?;
    }
    servers::queries::publish_all(&mut tx, &servers, now).await?;
    jobs::remove::when_left(&mut tx, id, now).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A network and the servers in it, those that are leaving too, by number: all held.
async fn hold_with_servers(
    conn: &mut PgConnection,
    project: ProjectId,
    id: NetworkId,
) -> ApiResult<(Held, Vec<ServerId>)> {
    if !queries::exists(conn, project, id).await? {
        return Err(no_such());
    }
    // Servers' rows are locked before a network's.
    let servers = queries::servers_in(conn, id).await?;
    for server in &servers {
        servers::queries::hold_observed(conn, *server).await?;
    }
    let network = hold(conn, project, id).await?;
    if queries::servers_in(conn, id).await? != servers {
        let message = "A server has just been attached or detached. Try again.";
        return Err(Problem::new(ErrorCode::Conflict, message));
    }
    Ok((network, servers))
}

/// The answer to a change of a network.
type Told = (StatusCode, Json<ActionReply>);

/// Add a subnet.
#[utoipa::path(post, path = "/networks/{id}/actions/add_subnet", tag = "networks",
    params(("id" = NetworkId, Path)), request_body = SubnetCreate,
    responses((status = 201, body = ActionReply), Errors))]
async fn network_add_subnet(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<NetworkId>,
    Body(asked): Body<SubnetCreate>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let network = hold(&mut tx, access.project, id).await?;
    let zones = zones(&mut tx).await?;
    let (range, zone) = rules::subnet(&network.shape, &asked, &zones, "").map_err(wrong)?;
    queries::add_subnet(&mut tx, id, range, &zone).await?;
    let action = done(&mut tx, access.project, id, "add_subnet", clock::now()).await?;
    tx.commit().await?;
    Ok(told(action))
}

/// Delete a subnet of which no server has an address.
#[utoipa::path(post, path = "/networks/{id}/actions/delete_subnet", tag = "networks",
    params(("id" = NetworkId, Path)), request_body = IpRange,
    responses((status = 201, body = ActionReply), Errors))]
async fn network_delete_subnet(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<NetworkId>,
    Body(asked): Body<IpRange>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let network = hold(&mut tx, access.project, id).await?;
    let named = |(range, _): &&(_, _)| ToString::to_string(range) == asked.ip_range;
    let Some((range, _)) = network.shape.subnets.iter().find(named) else {
        return Err(Problem::field("ip_range", "The network has no such subnet."));
    };
    if queries::taken(&mut tx, id).await?.iter().any(|ip| range.contains(ip)) {
        let message = "Servers have addresses of this subnet. Detach them first.";
        return Err(Problem::new(ErrorCode::ResourceInUse, message));
    }
    queries::remove_subnet(&mut tx, id, *range).await?;
    let action = done(&mut tx, access.project, id, "delete_subnet", clock::now()).await?;
    tx.commit().await?;
    Ok(told(action))
}

/// Add a route by one of the network's servers. New systems are told of it at their first boot, and by DHCP
/// those that ask it. A route to everywhere is for servers that have no public address.
#[utoipa::path(post, path = "/networks/{id}/actions/add_route", tag = "networks",
    params(("id" = NetworkId, Path)), request_body = Route,
    responses((status = 201, body = ActionReply), Errors))]
async fn network_add_route(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<NetworkId>,
    Body(asked): Body<Route>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let now = clock::now();
    let (network, servers) = hold_with_servers(&mut tx, access.project, id).await?;
    let (to, via) = rules::route(&network.shape, &asked, "").map_err(wrong)?;
    queries::add_route(&mut tx, id, to, via).await?;
    tell(&mut tx, &servers, now).await?;
    let action = done(&mut tx, access.project, id, "add_route", now).await?;
    tx.commit().await?;
    Ok(told(action))
}

/// Delete a route.
#[utoipa::path(post, path = "/networks/{id}/actions/delete_route", tag = "networks",
    params(("id" = NetworkId, Path)), request_body = Route,
    responses((status = 201, body = ActionReply), Errors))]
async fn network_delete_route(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<NetworkId>,
    Body(asked): Body<Route>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    let now = clock::now();
    let (network, servers) = hold_with_servers(&mut tx, access.project, id).await?;
    let named = |(to, via): &&(ipnet::Ipv4Net, std::net::Ipv4Addr)| {
        to.to_string() == asked.destination && via.to_string() == asked.gateway
    };
    let Some((to, _)) = network.shape.routes.iter().find(named) else {
        return Err(Problem::field("destination", "The network has no such route."));
    };
    queries::remove_route(&mut tx, id, *to).await?;
    tell(&mut tx, &servers, now).await?;
    let action = done(&mut tx, access.project, id, "delete_route", now).await?;
    tx.commit().await?;
    Ok(told(action))
}

/// Make a network larger. The nodes of its servers are told; systems that run keep the range they know.
#[utoipa::path(post, path = "/networks/{id}/actions/change_ip_range", tag = "networks",
    params(("id" = NetworkId, Path)), request_body = IpRange,
    responses((status = 201, body = ActionReply), Errors))]
async fn network_change_ip_range(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<NetworkId>,
    Body(asked): Body<IpRange>,
) -> ApiResult<Told> {
    let (now, project) = (clock::now(), access.project);
    let mut tx = world.db.begin().await?;
    let (network, servers) = hold_with_servers(&mut tx, project, id).await?;
    let range = rules::wider(&network.shape, &asked.ip_range);
    let range = range.map_err(|message| Problem::field("ip_range", message))?;
    let others = queries::other_ranges(&mut tx, id).await?;
    if let Some((server, other)) = others.iter().find(|(_, other)| rules::overlap(other, &range)) {
        let message = format!("Server {server} is in another network with the range {other}.");
        return Err(Problem::new(ErrorCode::NetworksOverlap, message));
    }
    queries::set_range(&mut tx, id, range).await?;
    tell(&mut tx, &servers, now).await?;
    let action = done(&mut tx, project, id, "change_ip_range", now).await?;
    tx.commit().await?;
    Ok(told(action))
}

/// Protect a network from deletion, or no longer.
#[utoipa::path(post, path = "/networks/{id}/actions/change_protection", tag = "networks",
    params(("id" = NetworkId, Path)), request_body = ChangeNetworkProtection,
    responses((status = 201, body = ActionReply), Errors))]
async fn network_change_protection(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<NetworkId>,
    Body(asked): Body<ChangeNetworkProtection>,
) -> ApiResult<Told> {
    let mut tx = world.db.begin().await?;
    hold(&mut tx, access.project, id).await?;
    queries::update(&mut tx, id, (None, None, asked.delete)).await?;
    let action = done(&mut tx, access.project, id, "change_protection", clock::now()).await?;
    tx.commit().await?;
    Ok(told(action))
}

/// What has changed for the cards of these servers is told to their machines.
async fn tell(conn: &mut PgConnection, servers: &[ServerId], now: Timestamp) -> sqlx::Result<()> {
    for server in servers {
        follow::told_anew(conn, *server, now).await?;
    }
    Ok(())
}

fn told(action: Action) -> Told {
    (StatusCode::CREATED, Json(ActionReply { action }))
}

fn no_such() -> Problem {
    Problem::not_found("network")
}

fn wrong(fault: berth_model::FieldError) -> Problem {
    ApiError::fields(vec![fault]).into()
}

async fn hold(conn: &mut PgConnection, project: ProjectId, id: NetworkId) -> ApiResult<Held> {
    queries::hold(conn, project, id).await?.ok_or_else(no_such)
}

/// The network zones that there are.
async fn zones(conn: &mut PgConnection) -> sqlx::Result<BTreeSet<String>> {
    let locations = catalog::queries::locations(conn).await?;
    Ok(locations.into_iter().map(|location| location.network_zone).collect())
}

fn name_is_taken(error: sqlx::Error) -> Problem {
    Problem::from(error).on_taken(
        "networks_name_key",
        "name",
        "The project has a network with this name already.",
    )
}

async fn done(
    conn: &mut PgConnection,
    project: ProjectId,
    id: NetworkId,
    command: &str,
    now: Timestamp,
) -> ApiResult<Action> {
    let resources = &[(ResourceKind::Network, id.0)];
    Ok(actions::queries::done(conn, &NewAction { project, command, resources, steps: &[], now }).await?)
}
