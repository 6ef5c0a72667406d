//! The database: connections and migrations.

use std::str::FromStr as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, PgPool};

use crate::secret::Secret;

/// The schema's migrations, in the binary.
pub static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Longest wait for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// What every connection of the pool is told. A statement, a wait for a lock or an idle transaction
/// that takes longer is a fault; it must not hold others up.
///
/// Every statement is prepared once for each connection, and planned once: our statements are small and many, and
/// planning each anew for its values took as long as carrying it out (`cargo xtask bench api`). What is put together
/// from filters is a statement of its own for each set of them.
const SESSION: &str = "set statement_timeout = '15s'; set lock_timeout = '10s'; \
                       set idle_in_transaction_session_timeout = '30s'; set timezone = 'UTC'; \
                       set plan_cache_mode = force_generic_plan";

/// Where the database is.
///
/// # Errors
/// The text is no PostgreSQL URL.
pub fn options(url: &Secret<String>) -> anyhow::Result<PgConnectOptions> {
    let url = url.expose();
    // The cause could repeat the password.
    let wrong = || anyhow::anyhow!("The database's address must be like postgres://user@host/database.");
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(wrong());
    }
    let options = PgConnectOptions::from_str(url).map_err(|_| wrong())?;
    let slow = Duration::from_secs(1);
    Ok(options
        .application_name("berth")
        .log_statements(tracing::log::LevelFilter::Trace)
        .log_slow_statements(tracing::log::LevelFilter::Warn, slow))
}

/// Connects; at least one connection must work.
///
/// # Errors
/// The database does not answer, or refuses.
pub async fn connect(options: PgConnectOptions, connections: u32) -> anyhow::Result<PgPool> {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(|conn, _| {
            Box::pin(async move {
                sqlx::raw_sql(SESSION).execute(conn).await?;
                Ok(())
            })
        })
        .connect_with(options)
        .await
        .context("The database cannot be reached.")
}

/// Brings the schema up to date. Those who start at once take turns by an advisory lock, which
/// [`Migrator::run`] takes; the connection is one of its own, because waiting for that lock
/// and rewriting a large table may take longer than the pool allows a statement.
///
/// # Errors
/// The database is newer than this binary, or a migration fails.
pub async fn migrate(options: &PgConnectOptions) -> anyhow::Result<()> {
    let mut conn = PgConnection::connect_with(options).await.context("The database cannot be reached.")?;
    let done = MIGRATIONS.run(&mut conn).await;
    // The lock goes with the connection in any case.
    let _ = conn.close().await;
    match done {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(version)) => bail!(
            "The database was already used by a newer Berth: this one does not know its migration {version}. \
             Start the newer version, or restore a backup of the database from before."
        ),
        Err(MigrateError::VersionMismatch(version)) => bail!(
            "Migration {version} in the database differs from the one in this binary: the database was made by \
             a build that was never released. Use the build that made it, or a new database."
        ),
        Err(error) => Err(error).context("The database could not be brought up to date."),
    }
}

/// Is every migration of this binary applied? A newer schema is fine: during an update the old
/// and the new version run side by side.
pub async fn is_migrated(db: &PgPool) -> sqlx::Result<bool> {
    let newest = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default();
    let applied: Option<i64> =
        sqlx::query_scalar("select max(version) from _sqlx_migrations where success").fetch_one(db).await?;
    Ok(applied >= Some(newest))
}
