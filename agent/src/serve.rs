//! The agent as a whole: what runs, and how it stops.
//!
//! ```text
//! serve ──► unix socket ───────────────┐
//!       ──► HTTPS, once enrolled ──────┤ stop ──► no new requests, streams closed,
//!       ──► hub, node, tls, lease ──────┘          open requests get `drain` to end
//! ```

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum_server::Handle;
use axum_server::accept::NoDelayAcceptor;
use axum_server::tls_rustls::RustlsAcceptor;
use hyper_util::rt::TokioTimer;
use rustix::fs::{FlockOperation, flock};
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{self, Api, Listener};
use crate::config::Config;
use crate::consoles::Consoles;
use crate::guest::Freezes;
use crate::hub::Hub;
use crate::hypervisor::Hypervisor;
use crate::images::Images;
use crate::lease::Lease;
use crate::maintenance::Switch;
use crate::moving::Moves;
use crate::node::NodeWatch;
use crate::runs::Runs;
use crate::tls::Tls;
use crate::update::{Trial, Updates};
use crate::work::Work;

/// How long a TLS handshake may take.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(5);

/// How long a connection may stand without a request. Longer than HTTP clients keep idle
/// connections, so that the client closes first and none is cut while a request is under way.
const IDLE_PATIENCE: Duration = Duration::from_secs(120);

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 256;

/// Why the agent does not start; a sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A file or a folder.
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
    /// Another agent has the data folder.
    #[error("Another berth-agent works in {0}; stop it first, or choose another data_dir.")]
    Taken(PathBuf),
    /// The address of the HTTPS listener.
    #[error("listen: cannot use {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
}

/// An agent that runs. It goes on when this is dropped; cancel the token to stop it.
#[derive(Debug)]
pub struct Running {
    /// Where HTTPS is, or will be once the agent is enrolled.
    pub https: SocketAddr,
    /// The unix socket.
    pub socket: PathBuf,
    trial: Arc<OnceLock<Trial>>,
    task: JoinHandle<()>,
}

impl Running {
    /// Waits until the agent has stopped. It may have stopped so that another version is tried.
    pub async fn stopped(self) -> Option<Trial> {
        if let Err(broken) = self.task.await {
            tracing::error!(error = %broken, "the agent broke off");
        }
        self.trial.get().cloned()
    }
}

/// Starts the agent; returns once its addresses are taken. It stops when `stop` is cancelled.
pub async fn serve(
    config: Config,
    hypervisor: Arc<dyn Hypervisor>,
    stop: CancellationToken,
) -> Result<Running, ServeError> {
    let lock = take_data_dir(&config.data_dir)?;
    let images_dir = config.images_dir();
    let images = Images::open(images_dir.clone(), &config.limits, config.images)
        .map_err(|e| ServeError::File(images_dir, e))?;
    let config = Arc::new(config);
    let tls = Arc::new(Tls::open(config.tls_dir(), &config.name));
    let runs = Runs::open(&config.data_dir).map_err(|e| ServeError::File(config.data_dir.clone(), e))?;
    let lease = Arc::new(Lease::open(&config.data_dir));
    hypervisor.guard(Arc::clone(&lease));
    let freezes = Arc::new(Freezes::new(config.data_dir.join("frozen"), Arc::clone(&hypervisor)));
    let work = Arc::new(Work::new(hypervisor, Arc::new(runs), &config.limits));
    let maintenance =
        Switch::open(&config.data_dir).map_err(|e| ServeError::File(config.data_dir.clone(), e))?;
    let maintenance = Arc::new(maintenance);
    let trial = Arc::new(OnceLock::new());
    let moves = Moves::new(Arc::clone(&tls), config.moves(), Arc::clone(work.hypervisor()));
    let api = Api {
        moves: Arc::new(moves),
        node: Arc::new(NodeWatch::new(
            Arc::clone(&config),
            Arc::clone(&work),
            Arc::clone(&tls),
            Arc::clone(&maintenance),
            Arc::clone(&lease),
        )),
        consoles: Arc::new(Consoles::new(Arc::clone(&work), &config.limits)),
        maintenance,
        updates: Arc::new(Updates::new(&config.data_dir, Arc::clone(&trial), stop.clone())),
        hub: Arc::new(Hub::new(Arc::clone(&work), config.limits.clone())),
        images: Arc::new(images),
        lease,
        freezes,
        requests: Arc::new(Semaphore::new(config.limits.requests)),
        limits: Arc::new(config.limits.clone()),
        streams: TaskTracker::new(),
        stop: stop.clone(),
        tls,
        work,
    };
    let socket = config.socket();
    let unix = listen_unix(&socket).map_err(|e| ServeError::File(socket.clone(), e))?;
    let (tcp, https) = reserve(config.listen).map_err(|e| ServeError::Listen(config.listen, e))?;
    tracing::info!(socket = %socket.display(), %https, "the agent runs");

    let remove = socket.clone();
    let task = tokio::spawn(async move {
        run(api, unix, tcp).await;
        let _ = fs::remove_file(remove);
        drop(lock);
        tracing::info!("the agent has stopped");
    });
    Ok(Running { https, socket, trial, task })
}

async fn run(api: Api, unix: std::os::unix::net::UnixListener, tcp: TcpSocket) {
    let drain = api.limits.drain;
    let watchers = TaskTracker::new();
    watchers.spawn(Arc::clone(&api.node).run(api.stop.clone()));
    watchers.spawn(Arc::clone(&api.hub).run(api.stop.clone()));
    watchers.spawn_blocking(watch_lease(&api));
    watchers.spawn(tend(api.clone()));
    watchers.spawn(mend(api.clone()));
    watchers.spawn(Arc::clone(&api.freezes).run(api.stop.clone()));
    let expiry = Arc::clone(&api.moves).expire(Arc::clone(&api.work));
    watchers.spawn(api.stop.clone().run_until_cancelled_owned(expiry));
    let (tls, every, stop) = (Arc::clone(&api.tls), api.limits.identity_every, api.stop.clone());
    watchers.spawn(async move { stop.run_until_cancelled(tls.watch(every)).await });
    watchers.close();
    let stopping = async {
        api.stop.cancelled().await;
        tracing::info!("the agent stops");
    };
    tokio::join!(stopping, serve_unix(&api, unix), serve_https(&api, tcp));
    api.streams.close();
    let _ = tokio::time::timeout(drain, api.streams.wait()).await;
    watchers.wait().await;
}

async fn serve_unix(api: &Api, listener: std::os::unix::net::UnixListener) {
    let handle = Handle::new();
    let served = async {
        let mut server = axum_server::from_unix(listener)?.handle(handle.clone());
        server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(IDLE_PATIENCE);
        server.serve(api::router(api.clone(), Listener::Socket).into_make_service()).await
    };
    let stop = async {
        api.stop.cancelled().await;
        handle.graceful_shutdown(Some(api.limits.drain));
    };
    if let (Err(e), ()) = tokio::join!(served, stop) {
        tracing::error!(error = %e, "the unix socket failed");
    }
}

/// Lets the hypervisor tend to the node, from the start on. One that hangs is waited for.
async fn tend(api: Api) {
    let tending = async {
        loop {
            let hypervisor = Arc::clone(api.work.hypervisor());
            match tokio::task::spawn_blocking(move || hypervisor.tend()).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => tracing::warn!(error = %e, "the node could not be tended to"),
                Err(broken) => tracing::error!(error = %broken, "tending to the node broke off"),
            }
            tokio::time::sleep(api.limits.tend_every).await;
        }
    };
    api.stop.run_until_cancelled(tending).await;
}

/// Keeps the promise of the node's lease, on a thread of its own that nothing else holds up.
fn watch_lease(api: &Api) -> impl FnOnce() + Send + 'static {
    let api = api.clone();
    move || {
        let every = api.limits.lease_every;
        api.lease.watch(api.work.hypervisor().as_ref(), api.work.runs(), every, &api.stop);
    }
}

/// Lets the hypervisor mend what was cut off, from the start on. One that hangs is waited for.
async fn mend(api: Api) {
    let mending = async {
        loop {
            let hypervisor = Arc::clone(api.work.hypervisor());
            match tokio::task::spawn_blocking(move || hypervisor.mend()).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => tracing::warn!(error = %e, "what was cut off could not be mended"),
                Err(broken) => tracing::error!(error = %broken, "mending broke off"),
            }
            tokio::time::sleep(api.limits.mend_every).await;
        }
    };
    api.stop.run_until_cancelled(mending).await;
}

async fn serve_https(api: &Api, socket: TcpSocket) {
    let Some(config) = api.stop.run_until_cancelled(api.tls.enrolled()).await else { return };
    let handle = Handle::new();
    let served = async {
        let listener = socket.listen(BACKLOG)?.into_std()?;
        let acceptor =
            RustlsAcceptor::new(config).handshake_timeout(HANDSHAKE_PATIENCE).acceptor(NoDelayAcceptor);
        let mut server = axum_server::from_tcp(listener)?.acceptor(acceptor).handle(handle.clone());
        server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(IDLE_PATIENCE);
        server.serve(api::router(api.clone(), Listener::Https).into_make_service()).await
    };
    let stop = async {
        api.stop.cancelled().await;
        handle.graceful_shutdown(Some(api.limits.drain));
    };
    if let (Err(e), ()) = tokio::join!(served, stop) {
        tracing::error!(error = %e, "the HTTPS listener failed");
    }
}

/// Makes the data folder, and takes it for this process alone: the lock ends with the process.
fn take_data_dir(folder: &Path) -> Result<fs::File, ServeError> {
    let failed = |e: std::io::Error| ServeError::File(folder.to_owned(), e);
    // QEMU, as another user, passes through to its images; it need not see what there is.
    fs::DirBuilder::new().recursive(true).mode(0o711).create(folder).map_err(failed)?;
    let lock = fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join("agent.lock"))
        .map_err(failed)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ServeError::Taken(folder.to_owned())),
        Err(e) => Err(failed(e.into())),
    }
}

/// Listens on a unix socket for this user only. It gets its name when its mode is set, so that there
/// is no moment in which others could connect; the name may be left over from a process that was killed.
fn listen_unix(path: &Path) -> std::io::Result<std::os::unix::net::UnixListener> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(&new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    fs::rename(&new, path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Takes an address without listening on it yet.
fn reserve(address: SocketAddr) -> std::io::Result<(TcpSocket, SocketAddr)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A fixed port is taken again right after a restart; a free one must not be handed out twice.
    socket.set_reuseaddr(address.port() != 0)?;
    socket.bind(address)?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}
