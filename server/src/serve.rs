//! The control plane as a whole: started from settings, stopped cleanly.
//!
//! ```text
//!   database up ─▶ migrated ─▶ world ─▶ listener, hub, links, load, workers ─▶ running
//!
//!   stop: no new connections ─┬▶ requests end, sockets say good-bye ─┬▶ pool closed ─▶ PostgreSQL
//!                             ├▶ workers hand their leases back      │   stopped, if it is ours
//!                             └▶ links and load give back and write ─┘
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::accounts::passwords::Passwords;
use crate::agents::Agents;
use crate::config::Config;
use crate::consoles::Consoles;
use crate::http::app::{self, App};
use crate::http::idempotency::{self, Unattended};
use crate::http::rate::{self, RateLimit};
use crate::http::{BODY_MAX_BYTES, around, etag, health};
use crate::jobs::faults::Faults;
use crate::jobs::{self, Queue, Registry, Worker};
use crate::live::{self, Channel, Hub, Signals};
use crate::load::Load;
use crate::nodes::{self, Links, Pace};
use crate::postgres::PrivatePostgres;
use crate::secret::SecretKey;
use crate::vital::Vital;
use crate::{
    World, accounts, backups, clock, db, entropy, images, openapi, reference, servers, telemetry, webhooks,
};

/// How long requests under way, and steps of jobs, may go on once the end has begun.
const DRAIN: Duration = Duration::from_secs(5);
/// How long what runs in the background may take to write what is left.
const WIND_DOWN: Duration = Duration::from_secs(2);
/// How long closing the connections to the database may take.
const CLOSE: Duration = Duration::from_secs(1);
/// How often what is no longer needed is deleted.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// What is not a setting, because only tests ask for it.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where tests cut into jobs.
    pub faults: Faults,
    /// How long live events are kept.
    pub live: live::Settings,
    /// How quickly what becomes of nodes is noticed.
    pub pace: Pace,
}

impl Options {
    /// As the environment asks: `BERTH_FAULTS`.
    ///
    /// # Errors
    /// A rule that cannot be read.
    pub fn from_environment() -> anyhow::Result<Self> {
        let faults = match std::env::var("BERTH_FAULTS") {
            Ok(text) => text.parse().map_err(|error| anyhow::anyhow!("BERTH_FAULTS is wrong: {error}"))?,
            Err(_) => Faults::default(),
        };
        Ok(Self { faults, ..Self::default() })
    }
}

/// A control plane that runs.
pub struct Running {
    address: SocketAddr,
    world: World,
    vital: Vital,
    /// Everything ends when this is dropped; without order, unless [`Running::shutdown`] was called.
    _guard: DropGuard,
    serving: TaskTracker,
    background: TaskTracker,
    unattended: Unattended,
    worker: Worker,
    postgres: Option<PrivatePostgres>,
}

/// Starts the control plane: when this returns, it answers.
///
/// # Errors
/// A sentence: the address is taken, the database cannot be reached or is too new, ….
pub async fn start(config: Config, options: Options) -> anyhow::Result<Running> {
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("The data folder {} cannot be made", config.data_dir.display()))?;
    let secret_key = SecretKey::load_or_create(&config.secret_key_path())?;
    // Before the database: a taken port should not first start a cluster.
    let listener = listen(config.listen).await?;
    let metrics_listener = match config.metrics_listen {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let address = listener.local_addr()?;
    // Port 0 was a wish; now it is known.
    let config = Arc::new(Config { listen: address, ..config });

    let (postgres, connect_options) = match &config.database_url {
        Some(url) => (None, db::options(url)?),
        None => {
            let postgres = PrivatePostgres::start(&config).await?;
            let connect_options = postgres.options();
            (Some(postgres), connect_options)
        }
    };
    db::migrate(&connect_options).await?;
    let db = db::connect(connect_options, config.database_connections).await?;

    let stop = CancellationToken::new();
    let vital = Vital::until(stop.clone());
    let started = build(config, options, db, secret_key, &vital).await;
    let Parts { world, worker, background } = match started {
        Ok(parts) => parts,
        Err(error) => {
            stop.cancel();
            if let Some(postgres) = postgres {
                postgres.stop().await;
            }
            return Err(error);
        }
    };

    let unattended = Unattended::default();
    let metrics = telemetry::metrics()?;
    let serving = TaskTracker::new();
    if let Some(listener) = metrics_listener {
        let routes = Router::new()
            .route("/metrics", get(health::metrics))
            .with_state((world.clone(), metrics.clone()));
        serving.spawn(vital.watch("serving metrics", serve(listener, routes, stop.clone())));
    }
    let rate = RateLimit::new(world.config.rate_limit_per_hour, world.db.clone());
    background.spawn(vital.watch("rate limits", rate.clone().settle_until(stop.clone())));
    let routes = routes(&world, metrics, unattended.clone(), rate)?;
    serving.spawn(vital.watch("serving", serve(listener, routes, stop.clone())));
    tracing::info!(%address, public_url = %world.config.origin(), "Berth is up");
    let guard = stop.drop_guard();
    Ok(Running { address, world, vital, _guard: guard, serving, background, unattended, worker, postgres })
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "{address} is taken by another program. Stop it, or set “listen” to another address."
        ),
        _ => anyhow::anyhow!("Cannot listen on {address}: {error}."),
    })
}

async fn serve(listener: TcpListener, routes: Router, stop: CancellationToken) {
    let service = routes.into_make_service_with_connect_info::<SocketAddr>();
    let served = axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!("no longer serving: {error}");
    }
}

struct Parts {
    world: World,
    worker: Worker,
    background: TaskTracker,
}

/// The world, and everything that works in it beside the requests.
async fn build(
    config: Arc<Config>,
    options: Options,
    db: PgPool,
    secret_key: SecretKey,
    vital: &Vital,
) -> anyhow::Result<Parts> {
    let now = clock::now();
    let owner = entropy::uuid();
    let authority = nodes::authority(&db, &secret_key, now).await?;
    let agents = Arc::new(Agents::new(db.clone(), authority, now)?);
    let signals = Signals::start(db.clone(), vital);
    let live = Hub::start(db.clone(), &signals, options.live, vital).await?;
    let load = Load::new(db.clone(), owner);
    let passwords = Passwords::new()?;
    let world =
        World { db, agents, config, secret_key, passwords, live, load, consoles: Consoles::default() };

    let (background, stop) = (TaskTracker::new(), vital.stop());
    background.spawn(vital.watch("load", world.load.clone().run(signals.clone(), stop.clone())));
    let pace = Pace { grants: world.config.grants(), ..options.pace };
    let links = Links::new(world.db.clone(), world.agents.clone(), world.load.clone(), owner, pace);
    background.spawn(vital.watch("streams of nodes", links.run(signals.clone(), stop.clone())));
    let published = signals.on(Channel::Published);
    let fan_out = webhooks::fan_out(world.db.clone(), published, stop.clone());
    background.spawn(vital.watch("events for webhooks", fan_out));
    if world.config.workers_background > 0 {
        let sending = webhooks::send(world.clone(), stop.clone());
        background.spawn(vital.watch("sending to webhooks", sending));
    }
    background.spawn(vital.watch("pruning", prune(world.db.clone(), stop.clone())));

    let settings = jobs::Settings {
        lease: world.config.job_lease(),
        interactive: world.config.workers_interactive.into(),
        background: world.config.workers_background.into(),
        faults: options.faults,
        ..jobs::Settings::default()
    };
    let worker = Worker::start(world.clone(), &registry(), &settings, &signals);
    let places = worker.places(Queue::Backup, &settings);
    background.spawn(vital.watch("beginning backups", backups::keep(world.db.clone(), places, stop.clone())));
    Ok(Parts { world, worker, background })
}

/// Every kind of job.
fn registry() -> Registry {
    images::jobs::register(servers::jobs::register(Registry::new()))
}

/// All that is served on the public listener.
fn routes(
    world: &World,
    metrics: PrometheusHandle,
    unattended: Unattended,
    rate: RateLimit,
) -> anyhow::Result<Router> {
    let app = App::new(world.config.app_dir.clone(), world.config.origin());
    if !app.exists() {
        tracing::warn!("{}", app::describe(&world.config.app_dir));
    }
    let (api, _) = openapi::router().split_for_parts();
    Ok(Router::new()
        .merge(api)
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .method_not_allowed_fallback(app::no_such_method)
        .with_state(world.clone())
        .merge(
            Router::new().route("/metrics", get(health::local_metrics)).with_state((world.clone(), metrics)),
        )
        .merge(reference::router(&world.config.origin())?)
        .fallback_service(axum::handler::Handler::with_state(app::app, app))
        .layer(from_fn(etag::tagged))
        .layer(from_fn_with_state((world.clone(), unattended), idempotency::once))
        .layer(from_fn_with_state((world.clone(), rate), rate::limit))
        .layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
        .layer(from_fn_with_state(world.clone(), around)))
}

/// Deletes what is no longer needed, until `stop`.
async fn prune(db: PgPool, stop: CancellationToken) {
    let mut tick = interval(PRUNE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        let round = async {
            let (mut conn, now) = (db.acquire().await?, clock::now());
            accounts::queries::prune(&mut conn, now).await?;
            rate::prune(&mut conn).await?;
            webhooks::queries::prune(&mut conn, now).await?;
            idempotency::prune(&mut conn, now).await
        };
        if let Err(error) = round.await {
            tracing::warn!("what is over could not be deleted; it is tried again soon: {error}");
        }
    }
}

impl Running {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its handlers work with.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Waits until something ends without which only half of this would work, and names it. The
    /// rest is then best stopped, and started anew from outside.
    pub async fn lost(&mut self) -> &'static str {
        tokio::select! {
            what = self.vital.lost() => what,
            () = self.worker.lost() => "working on jobs",
        }
    }

    /// Stops within ten seconds: no new connections, requests end, sockets close, leases go back,
    /// and the private PostgreSQL last.
    pub async fn shutdown(self) {
        tracing::info!("stopping");
        self.vital.stop().cancel();
        self.serving.close();
        self.background.close();
        let requests = async {
            if timeout(DRAIN, self.serving.wait()).await.is_err() {
                tracing::warn!("requests that are still under way are cut off");
            }
            let _ = timeout(WIND_DOWN, self.unattended.ended()).await;
        };
        let background = async {
            if timeout(DRAIN, self.background.wait()).await.is_err() {
                tracing::warn!("what runs in the background did not end in time");
            }
        };
        tokio::join!(requests, background, self.worker.stop(DRAIN));
        if timeout(CLOSE, self.world.db.close()).await.is_err() {
            tracing::warn!("connections to the database are cut off");
        }
        if let Some(postgres) = self.postgres {
            postgres.stop().await;
        }
        tracing::info!("stopped");
    }
}
