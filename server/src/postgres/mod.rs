//! A PostgreSQL of our own, for an installation that names no other.
//!
//! Words. A *cluster* is what PostgreSQL calls a folder of data with one server process, its
//! *postmaster*. Ours lies in `postgres/` of the data folder:
//!
//! ```text
//!   postgres/lock    held (flock) by the process that runs the cluster; free once it is dead
//!   postgres/data    the cluster
//!   postgres/run     the unix socket; elsewhere when the path would be too long for one
//!   postgres/log     what the postmaster said
//! ```
//!
//! It listens on that socket only, which its owner and root alone may use. As root it runs as the
//! user `postgres`, because PostgreSQL refuses to run as root. `setpriv` (util-linux) changes the
//! user and asks the kernel to interrupt the postmaster when we die, so that nothing of it stays
//! behind; both would need unsafe code here.
//!
//! ```text
//!   stopped ─▶ starting ─▶ running ─▶ stopping ─▶ stopped
//!                 ▲           │
//!                 └─ ended by itself (kill -9): started again, recovers from its log
//! ```
//!
//! Whoever gets the lock and still finds a postmaster found one whose berth was killed: it is
//! stopped first. Whoever does not get the lock may use the cluster as a guest.

mod cluster;
mod supervisor;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};

use crate::config::Config;
use cluster::Cluster;
use supervisor::Supervisor;

/// The database, and the user that owns it, in a private cluster.
const NAME: &str = "berth";
/// Longest wait for a postmaster that runs: after a crash it replays its log first.
const RECOVERY_MAX: Duration = Duration::from_secs(600);
/// Longest wait while the postmaster keeps ending.
const START_MAX: Duration = Duration::from_secs(30);
const READY_POLL: Duration = Duration::from_millis(25);

/// A private cluster that runs. Dropped, it is told to stop, but not waited for.
pub struct PrivatePostgres {
    cluster: Cluster,
    supervisor: Supervisor,
    is_throwaway: bool,
}

impl PrivatePostgres {
    /// Starts the cluster in the data folder; makes it first when there is none.
    ///
    /// # Errors
    /// A sentence: no PostgreSQL is installed, another berth uses the cluster, ….
    pub async fn start(config: &Config) -> anyhow::Result<Self> {
        Self::start_in(&config.data_dir, config.postgres_bin_dir.as_deref(), false).await
    }

    /// Starts a cluster for tests: made anew, not written to disk carefully, removed at its end.
    ///
    /// # Errors
    /// As [`PrivatePostgres::start`]; and the folder holds a cluster that is to be kept.
    pub async fn start_throwaway(data_dir: &Path, bin_dir: Option<&Path>) -> anyhow::Result<Self> {
        Self::start_in(data_dir, bin_dir, true).await
    }

    async fn start_in(data_dir: &Path, bin_dir: Option<&Path>, is_throwaway: bool) -> anyhow::Result<Self> {
        let (folder, bin) = (data_dir.to_owned(), bin_dir.map(Path::to_owned));
        // Locks, copies and waits for processes: not for the async runtime.
        let prepared = tokio::task::spawn_blocking(move || {
            let cluster = Cluster::take(&folder, bin.as_deref(), is_throwaway)?;
            cluster.stop_leftover()?;
            cluster.make_if_missing()?;
            anyhow::Ok(cluster)
        });
        let cluster = prepared.await??;
        let supervisor = Supervisor::start(cluster.command())?;
        let running = Self { cluster, supervisor, is_throwaway };
        match running.ready().await {
            Ok(()) => Ok(running),
            Err(error) => {
                running.stop().await;
                Err(error)
            }
        }
    }

    /// Where it is.
    pub fn options(&self) -> PgConnectOptions {
        options(self.cluster.socket_dir())
    }

    /// Where it is, for other programs.
    pub fn url(&self) -> String {
        let socket_dir = self.cluster.socket_dir().display().to_string();
        // What would end or change a query string.
        let escaped: String = socket_dir
            .bytes()
            .map(|b| match b {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => {
                    char::from(b).to_string()
                }
                _ => format!("%{b:02X}"),
            })
            .collect();
        format!("postgres:///{NAME}?host={escaped}&user={NAME}")
    }

    async fn ready(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut conn = loop {
            let error = match PgConnection::connect_with(&self.options().database("postgres")).await {
                Ok(conn) => break conn,
                Err(error) => error,
            };
            // A postmaster that lives says "starting up"; one that ended is started again.
            let limit = if self.supervisor.is_alive() { RECOVERY_MAX } else { START_MAX };
            if began.elapsed() > limit {
                bail!(
                    "The private PostgreSQL does not start: {error}. It said:\n{}",
                    self.cluster.last_words()
                );
            }
            tokio::time::sleep(READY_POLL).await;
        };
        let exists = sqlx::query("select 1 from pg_database where datname = $1").bind(NAME);
        if conn.fetch_optional(exists).await?.is_none() {
            conn.execute("create database berth").await.context("the database cannot be made")?;
        }
        let _ = conn.close().await;
        Ok(())
    }

    /// Stops it: sessions are cut off, everything committed is on disk.
    pub async fn stop(self) {
        let Self { cluster, supervisor, is_throwaway } = self;
        supervisor.stop().await;
        // Files may be many: not for the async runtime. The lock goes with the cluster.
        let left = tokio::task::spawn_blocking(
            move || if is_throwaway { cluster.remove() } else { cluster.leave() },
        );
        if let Ok(Err(error)) = left.await {
            tracing::warn!("not everything of the private PostgreSQL could be removed: {error}");
        }
    }
}

fn options(socket_dir: &Path) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(socket_dir)
        .username(NAME)
        .database(NAME)
        .application_name(NAME)
        .log_statements(tracing::log::LevelFilter::Trace)
}

/// The database of an installation, for a command beside `berth serve`.
pub struct Guest {
    options: PgConnectOptions,
    started: Option<PrivatePostgres>,
}

impl Guest {
    /// The database that the settings name; or the private cluster, which is started for as long
    /// as the command takes unless it runs already.
    ///
    /// # Errors
    /// As [`PrivatePostgres::start`].
    pub async fn enter(config: &Config) -> anyhow::Result<Self> {
        if let Some(url) = &config.database_url {
            return Ok(Self { options: crate::db::options(url)?, started: None });
        }
        let options = options(&cluster::socket_dir(&config.data_dir));
        let began = Instant::now();
        // Whoever holds it may just be starting or stopping it.
        while cluster::is_taken(&config.data_dir)? {
            match PgConnection::connect_with(&options).await {
                Ok(conn) => {
                    let _ = conn.close().await;
                    return Ok(Self { options, started: None });
                }
                Err(error) if began.elapsed() > START_MAX => {
                    return Err(error).context("The private PostgreSQL is in use, but does not answer.");
                }
                Err(_) => tokio::time::sleep(READY_POLL).await,
            }
        }
        let started = PrivatePostgres::start(config).await?;
        Ok(Self { options: started.options(), started: Some(started) })
    }

    /// Where the database is.
    pub fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// Stops the cluster, if it was started for this command.
    pub async fn leave(self) {
        if let Some(postgres) = self.started {
            postgres.stop().await;
        }
    }
}
