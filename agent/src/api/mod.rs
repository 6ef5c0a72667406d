//! The routes of [`berth_model::agent`], the same for both listeners.

mod extract;
mod log;

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use berth_model::ErrorCode;
use berth_model::agent::{
    Certificate, CertificateRequest, ImageFile, ImageFileList, Node, PowerRequest, StreamMessage, Vm, VmList,
    VmSpec,
};
use http::{HeaderMap, StatusCode, header};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;

pub use self::log::Listener;

use self::extract::{JsonBody, Sha256Path, VmPath};
use crate::error::Refusal;
use crate::hub::Hub;
use crate::images::Images;
use crate::limits::Limits;
use crate::node::NodeWatch;
use crate::stream::Stream;
use crate::tls::Tls;
use crate::vms::Vms;

/// What the routes work with.
#[derive(Clone)]
pub struct Api {
    /// What the node is.
    pub node: Arc<NodeWatch>,
    /// VMs.
    pub vms: Arc<Vms>,
    /// Image files.
    pub images: Arc<Images>,
    /// Key and certificate.
    pub tls: Arc<Tls>,
    /// Events and samples.
    pub hub: Arc<Hub>,
    /// Limits.
    pub limits: Arc<Limits>,
    /// Requests at once.
    pub requests: Arc<Semaphore>,
    /// Open streams.
    pub streams: TaskTracker,
    /// Cancelled when the agent stops.
    pub stop: CancellationToken,
}

/// The router for one listener.
pub fn router(api: Api, listener: Listener) -> Router {
    Router::new()
        .route("/v1/node", get(node_get))
        .route("/v1/vms", get(vm_list))
        .route("/v1/vms/{id}", get(vm_get).put(vm_put).delete(vm_delete))
        .route("/v1/vms/{id}/power", post(vm_power))
        .route("/v1/images", get(image_list))
        .route("/v1/images/{sha256}", put(image_import).delete(image_delete))
        .route("/v1/certificate/request", post(certificate_request))
        .route("/v1/certificate", put(certificate_put))
        .route("/v1/stream", get(stream))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn_with_state(api.clone(), one_of_many))
        .layer(CatchPanicLayer::custom(|_| broken()))
        .layer(middleware::from_fn_with_state(listener, log::line))
        .with_state(api)
}

async fn node_get(State(api): State<Api>) -> Json<Node> {
    Json(api.node.node())
}

async fn vm_list(State(api): State<Api>) -> Result<Json<VmList>, Refusal> {
    Ok(Json(VmList { vms: api.vms.list().await? }))
}

async fn vm_get(State(api): State<Api>, VmPath(id): VmPath) -> Result<Json<Vm>, Refusal> {
    Ok(Json(api.vms.get(id).await?))
}

async fn vm_put(
    State(api): State<Api>,
    VmPath(id): VmPath,
    JsonBody(spec): JsonBody<VmSpec>,
) -> Result<Json<Vm>, Refusal> {
    Ok(Json(api.vms.put(id, spec).await?))
}

async fn vm_delete(State(api): State<Api>, VmPath(id): VmPath) -> Result<StatusCode, Refusal> {
    api.vms.delete(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn vm_power(
    State(api): State<Api>,
    VmPath(id): VmPath,
    JsonBody(request): JsonBody<PowerRequest>,
) -> Result<Json<Vm>, Refusal> {
    Ok(Json(api.vms.power(id, request.verb).await?))
}

async fn image_list(State(api): State<Api>) -> Result<Json<ImageFileList>, Refusal> {
    let vms = api.vms.list().await?;
    Ok(Json(ImageFileList { images: api.images.list(&vms).await? }))
}

async fn image_import(
    State(api): State<Api>,
    Sha256Path(sha256): Sha256Path,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ImageFile>, Refusal> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    Ok(Json(api.images.import(&sha256, length, body.into_data_stream()).await?))
}

async fn image_delete(State(api): State<Api>, Sha256Path(sha256): Sha256Path) -> Result<StatusCode, Refusal> {
    api.images.delete(&sha256, api.vms.list()).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn certificate_request(State(api): State<Api>) -> Result<Json<CertificateRequest>, Refusal> {
    Ok(Json(api.tls.request()?))
}

async fn certificate_put(
    State(api): State<Api>,
    JsonBody(certificate): JsonBody<Certificate>,
) -> Result<StatusCode, Refusal> {
    api.tls.accept(certificate)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn stream(
    State(api): State<Api>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let upgrade = upgrade.map_err(|_| {
        Refusal::new(ErrorCode::InvalidInput, "This is a WebSocket; it begins with an upgrade.")
    })?;
    let (vms, seat) = api.hub.open().await?;
    let hello = StreamMessage::Hello { vms, health: api.node.health() };
    let limits = Limits::clone(&api.limits);
    let upgrade = upgrade.max_message_size(limits.body_bytes).max_frame_size(limits.body_bytes);
    Ok(upgrade.on_upgrade(move |socket| {
        let stream = Stream::new(socket, seat, api.node, limits);
        api.streams.track_future(stream.run(hello, api.stop))
    }))
}

async fn no_route(request: Request) -> Refusal {
    Refusal::new(ErrorCode::NotFound, format!("There is nothing at {}.", request.uri().path()))
}

async fn no_method(request: Request) -> Refusal {
    let (method, path) = (request.method(), request.uri().path());
    Refusal::new(ErrorCode::NotFound, format!("{path} has no {method}."))
}

fn broken() -> Response {
    Refusal::new(ErrorCode::ServerError, "The agent failed on this request; its log says more.")
        .into_response()
}

/// Lets in as many requests as the agent can bear.
async fn one_of_many(State(api): State<Api>, request: Request, next: Next) -> Response {
    match api.requests.try_acquire() {
        Ok(_permit) => next.run(request).await,
        Err(_) => Refusal::unavailable("The agent has too much to do; try again soon.").into_response(),
    }
}
