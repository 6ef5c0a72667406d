//! `/v1/locations`, `/v1/datacenters`, `/v1/server_types`, `/v1/pricing`, `/v1/load_balancer_types`.

use axum::Json;
use axum::extract::State;
use berth_model::location::{Datacenter, Location, LocationList, LocationReply};
use berth_model::page::Meta;
use berth_model::pricing::PricingReply;
use berth_model::server::NoSuchThing;
use berth_model::server_type::{ServerTypeList, ServerTypeReply};
use berth_model::{DatacenterId, LocationId, ServerTypeId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{pricing, queries};
use crate::World;
use crate::accounts::Reader;
use crate::http::{ApiResult, Errors, Page, Path, Problem, Query, part_of};

/// The routes of the catalog.
pub fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new()
        .routes(routes!(location_list))
        .routes(routes!(location_get))
        .routes(routes!(datacenter_list))
        .routes(routes!(datacenter_get))
        .routes(routes!(server_type_list))
        .routes(routes!(server_type_get))
        .routes(routes!(pricing_get))
        .routes(routes!(load_balancer_type_list))
}

/// Which entries are asked for.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// With this name.
    name: Option<String>,
    /// `id` or `name`, each with `:asc` or `:desc`.
    #[serde(default)]
    sort: Vec<String>,
}

/// The part of a list that is asked for. The catalog is small and read whole.
fn part<T>(
    all: Vec<T>,
    asked: &Asked,
    page: Page,
    key: impl Fn(&T) -> (i64, &str),
) -> ApiResult<(Vec<T>, Meta)> {
    Ok(part_of(all, (asked.name.as_deref(), &asked.sort), page, key)?)
}

async fn locations(world: &World) -> ApiResult<Vec<Location>> {
    Ok(queries::locations(&mut *world.db.acquire().await?).await?)
}

/// Locations in which servers can stand.
#[utoipa::path(get, path = "/locations", tag = "catalog", params(Asked, Page),
    responses((status = 200, body = LocationList), Errors))]
async fn location_list(
    State(world): State<World>,
    Reader(_): Reader,
    Query(asked): Query<Asked>,
    page: Page,
) -> ApiResult<Json<LocationList>> {
    let (locations, meta) = part(locations(&world).await?, &asked, page, |l| (l.id.0, &l.name))?;
    Ok(Json(LocationList { locations, meta }))
}

/// One location.
#[utoipa::path(get, path = "/locations/{id}", tag = "catalog", params(("id" = LocationId, Path)),
    responses((status = 200, body = LocationReply), Errors))]
async fn location_get(
    State(world): State<World>,
    Reader(_): Reader,
    Path(id): Path<LocationId>,
) -> ApiResult<Json<LocationReply>> {
    let location = locations(&world).await?.into_iter().find(|location| location.id == id);
    Ok(Json(LocationReply { location: location.ok_or_else(|| Problem::not_found("location"))? }))
}

/// `GET /v1/datacenters`.
#[derive(Debug, Serialize, ToSchema)]
struct DatacenterList {
    /// This page's datacenters.
    datacenters: Vec<Datacenter>,
    /// The one to take when it does not matter; `null` when there is none.
    recommendation: Option<DatacenterId>,
    /// The page.
    meta: Meta,
}

/// `GET /v1/datacenters/{id}`.
#[derive(Debug, Serialize, ToSchema)]
struct DatacenterReply {
    /// The datacenter.
    datacenter: Datacenter,
}

/// Datacenters, for older clients: each location has one.
#[utoipa::path(get, path = "/datacenters", tag = "catalog", params(Asked, Page),
    responses((status = 200, body = DatacenterList), Errors))]
async fn datacenter_list(
    State(world): State<World>,
    Reader(_): Reader,
    Query(asked): Query<Asked>,
    page: Page,
) -> ApiResult<Json<DatacenterList>> {
    let all: Vec<_> = locations(&world).await?.iter().map(Datacenter::of).collect();
    let recommendation = all.first().map(|datacenter| datacenter.id);
    let (datacenters, meta) = part(all, &asked, page, |d| (d.id.0, &d.name))?;
    Ok(Json(DatacenterList { datacenters, recommendation, meta }))
}

/// One datacenter.
#[utoipa::path(get, path = "/datacenters/{id}", tag = "catalog", params(("id" = DatacenterId, Path)),
    responses((status = 200, body = DatacenterReply), Errors))]
async fn datacenter_get(
    State(world): State<World>,
    Reader(_): Reader,
    Path(id): Path<DatacenterId>,
) -> ApiResult<Json<DatacenterReply>> {
    let location = locations(&world).await?.into_iter().find(|location| location.id.0 == id.0);
    let location = location.ok_or_else(|| Problem::not_found("datacenter"))?;
    Ok(Json(DatacenterReply { datacenter: Datacenter::of(&location) }))
}

/// Shapes of servers, with prices for each location where they are offered.
#[utoipa::path(get, path = "/server_types", tag = "catalog", params(Asked, Page),
    responses((status = 200, body = ServerTypeList), Errors))]
async fn server_type_list(
    State(world): State<World>,
    Reader(_): Reader,
    Query(asked): Query<Asked>,
    page: Page,
) -> ApiResult<Json<ServerTypeList>> {
    let all = queries::server_types(&mut *world.db.acquire().await?, None).await?;
    let (server_types, meta) = part(all, &asked, page, |t| (t.id.0, &t.name))?;
    Ok(Json(ServerTypeList { server_types, meta }))
}

/// One server type.
#[utoipa::path(get, path = "/server_types/{id}", tag = "catalog", params(("id" = ServerTypeId, Path)),
    responses((status = 200, body = ServerTypeReply), Errors))]
async fn server_type_get(
    State(world): State<World>,
    Reader(_): Reader,
    Path(id): Path<ServerTypeId>,
) -> ApiResult<Json<ServerTypeReply>> {
    let server_type = queries::server_types(&mut *world.db.acquire().await?, Some(&[id])).await?.pop();
    Ok(Json(ServerTypeReply { server_type: server_type.ok_or_else(|| Problem::not_found("server type"))? }))
}

/// What everything costs. Prices are per location; no tax is charged.
#[utoipa::path(get, path = "/pricing", tag = "catalog", responses((status = 200, body = PricingReply), Errors))]
async fn pricing_get(State(world): State<World>, Reader(_): Reader) -> ApiResult<Json<PricingReply>> {
    let mut conn = world.db.acquire().await?;
    let catalogued = queries::catalogued(&mut conn).await?;
    let locations = queries::locations(&mut conn).await?;
    let server_types = queries::server_types(&mut conn, None).await?;
    let pricing = pricing::pricing(&world.config.prices, catalogued, &locations, server_types);
    Ok(Json(PricingReply { pricing }))
}

/// `GET /v1/load_balancer_types`.
#[derive(Debug, Serialize, ToSchema)]
struct LoadBalancerTypeList {
    /// None.
    #[schema(value_type = Vec<Object>)]
    load_balancer_types: Vec<NoSuchThing>,
    /// The page.
    meta: Meta,
}

/// Types of load balancers: none, as long as load balancers are not offered.
#[utoipa::path(get, path = "/load_balancer_types", tag = "catalog", params(Page),
    responses((status = 200, body = LoadBalancerTypeList), Errors))]
async fn load_balancer_type_list(Reader(_): Reader, page: Page) -> Json<LoadBalancerTypeList> {
    Json(LoadBalancerTypeList { load_balancer_types: Vec::new(), meta: page.meta(0) })
}
