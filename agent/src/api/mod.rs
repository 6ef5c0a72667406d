//! The routes of [`berth_model::agent`], the same for both listeners.

pub(crate) mod extract;
mod log;

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Path, Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use berth_model::agent::function::TargetValue;
use berth_model::agent::{ConsoleKind, ImageFile, ImageFormat, StreamMessage};
use berth_model::{ErrorCode, VmId};
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue, header};
use tokio::sync::Semaphore;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;

pub use self::log::{Caller, Listener};

use self::extract::Sha256Path;
use crate::consoles::Consoles;
use crate::error::Refusal;
use crate::functions;
use crate::guest::Freezes;
use crate::hub::Hub;
use crate::hypervisor::HypervisorError;
use crate::images::Images;
use crate::lease::Lease;
use crate::limits::Limits;
use crate::maintenance::Switch;
use crate::metrics;
use crate::moving::Moves;
use crate::node::NodeWatch;
use crate::stream::Stream;
use crate::tls::Tls;
use crate::update::Updates;
use crate::work::Work;

/// Bytes of an image that are read at once to be sent.
const EXPORT_CHUNK_BYTES: usize = 256 * 1024;

/// What the routes work with.
#[derive(Clone)]
pub struct Api {
    /// What the node is.
    pub node: Arc<NodeWatch>,
    /// The way to what blocks.
    pub work: Arc<Work>,
    /// Image files.
    pub images: Arc<Images>,
    /// Key and certificate.
    pub tls: Arc<Tls>,
    /// Moves to this node and from it.
    pub moves: Arc<Moves>,
    /// Events and samples.
    pub hub: Arc<Hub>,
    /// Consoles.
    pub consoles: Arc<Consoles>,
    /// Is the node closed for new VMs?
    pub maintenance: Arc<Switch>,
    /// The agent's own update.
    pub updates: Arc<Updates>,
    /// The node's lease in the control plane.
    pub lease: Arc<Lease>,
    /// Guests that are frozen.
    pub freezes: Arc<Freezes>,
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
        .merge(functions::all().router())
        .route("/v1/images/{sha256}", put(image_import))
        .route("/v1/images/{sha256}/file", get(image_export))
        .route("/v1/stream", get(stream))
        .route("/v1/vms/{vm}/console/{kind}", get(console))
        .route("/metrics", get(metrics_page))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn_with_state(api.clone(), one_of_many))
        .layer(CatchPanicLayer::custom(|_| broken()))
        .layer(middleware::from_fn_with_state(listener, log::line))
        .with_state(api)
}

/// What an upload says of itself.
#[derive(serde::Deserialize)]
struct UploadForm {
    format: Option<ImageFormat>,
}

async fn image_import(
    State(api): State<Api>,
    Sha256Path(sha256): Sha256Path,
    Query(form): Query<UploadForm>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ImageFile>, Refusal> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    Ok(Json(api.images.import(&sha256, form.format, length, body.into_data_stream()).await?))
}

/// The file itself. It is held while it travels, so that it is not deleted meanwhile.
async fn image_export(
    State(api): State<Api>,
    Sha256Path(sha256): Sha256Path,
) -> Result<impl IntoResponse, Refusal> {
    let (held, file, length) = api.images.open_file(&sha256)?;
    let file = ReaderStream::with_capacity(tokio::fs::File::from_std(file), EXPORT_CHUNK_BYTES);
    let body = Body::from_stream(file.inspect(move |_| {
        let _held = &held;
    }));
    let kind = HeaderValue::from_static("application/octet-stream");
    Ok(([(header::CONTENT_LENGTH, HeaderValue::from(length)), (header::CONTENT_TYPE, kind)], body))
}

async fn stream(
    State(api): State<Api>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let upgrade = upgrade.map_err(|_| no_upgrade())?;
    let (vms, seat) = api.hub.open().await?;
    let hello = StreamMessage::Hello { vms, health: api.node.health() };
    let limits = Limits::clone(&api.limits);
    let upgrade = upgrade.max_message_size(limits.body_bytes).max_frame_size(limits.body_bytes);
    Ok(upgrade.on_upgrade(move |socket| {
        let stream = Stream::new(socket, seat, api.node, limits);
        api.streams.track_future(stream.run(hello, api.stop))
    }))
}

/// A console that somebody has a ticket for.
async fn console(
    State(api): State<Api>,
    Path((vm, kind)): Path<(String, String)>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let vm = VmId::read(&vm).ok_or_else(|| Refusal::field("vm", VmId::RULE))?;
    let kind = [ConsoleKind::Vnc, ConsoleKind::Serial].into_iter().find(|known| known.word() == kind);
    let kind = kind.ok_or_else(|| Refusal::field("kind", "A console is vnc or serial."))?;
    let upgrade = upgrade.map_err(|_| no_upgrade())?;
    let place = (api.streams.clone(), api.stop.clone());
    api.consoles.open((vm, kind), &headers, upgrade, place).await
}

fn no_upgrade() -> Refusal {
    Refusal::new(ErrorCode::InvalidInput, "This is a WebSocket; it begins with an upgrade.")
}

impl Api {
    /// Refuses a VM that would be new on a node that is closed for new ones. To be asked by every function
    /// that can bring one.
    pub fn admit(&self, id: VmId) -> Result<(), Refusal> {
        self.maintenance.admit_new().or_else(|closed| match self.work.hypervisor().get(id) {
            Ok(_) => Ok(()),
            Err(HypervisorError::NotFound(_)) => Err(closed),
            Err(e) => Err(e.into()),
        })
    }
}

/// For Prometheus. While the hypervisor does not answer, the node alone.
async fn metrics_page(State(api): State<Api>) -> impl IntoResponse {
    let samples = api.work.counters().await.unwrap_or_default();
    let page = metrics::page(&api.node.node(), &api.hub.states(), &samples);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], page)
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
