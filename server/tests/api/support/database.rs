//! A database for each test.

use std::str::FromStr as _;

use berth_server::{db, entropy};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection as _, Executor as _, PgPool};
use tokio::sync::OnceCell;

/// Connections of one test's pool: many tests run at once.
const CONNECTIONS: u32 = 10;

/// A database of its own, with the schema; removed when dropped, also when the test fails.
pub struct Database {
    name: String,
    url: String,
    pool: PgPool,
}

fn server_url() -> String {
    std::env::var("BERTH_TEST_DATABASE_URL").expect(
        "Set BERTH_TEST_DATABASE_URL to a PostgreSQL in which databases may be made; \
         `berth postgres --data-dir DIR --throwaway` starts one and prints its address.",
    )
}

async fn server() -> PgConnection {
    PgConnection::connect(&server_url()).await.expect("BERTH_TEST_DATABASE_URL answers")
}

impl Database {
    /// A copy of the template, which is migrated once.
    pub async fn create() -> Self {
        static TEMPLATE: OnceCell<String> = OnceCell::const_new();
        let template = TEMPLATE.get_or_init(template).await;
        let name = format!("berth_test_{}", entropy::alphanumeric(16).to_lowercase());
        let statement = format!("create database {name} template {template}");
        server().await.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
        let url = url_of(&name);
        let options = PgConnectOptions::from_str(&url).unwrap();
        let pool = db::connect(options, CONNECTIONS).await.unwrap();
        Self { name, url, pool }
    }

    /// For other processes.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn pool(&self) -> &PgPool {
        &self.pool
    }
}

/// The server's address with another database.
fn url_of(name: &str) -> String {
    let server = server_url();
    let (address, query) = server.split_once('?').map_or((server.as_str(), ""), |(a, q)| (a, q));
    let (scheme, rest) = address.split_once("://").expect("a URL");
    let host = rest.split('/').next().unwrap_or_default();
    format!("{scheme}://{host}/{name}?{query}")
}

/// The database that all others are copies of: named after the migrations, so that runs share it
/// and a changed migration makes another.
async fn template() -> String {
    use sha2::{Digest as _, Sha256};
    let mut hash = Sha256::new();
    for migration in db::MIGRATIONS.iter() {
        hash.update(&migration.checksum);
    }
    let name = format!("berth_template_{}", &hex::encode(hash.finalize())[..16]);

    let mut server = server().await;
    // Two runs at once: one makes it, the other waits.
    server.execute(sqlx::AssertSqlSafe("select pg_advisory_lock(7700)")).await.unwrap();
    let exists = sqlx::query("select 1 from pg_database where datname = $1").bind(&name);
    if server.fetch_optional(exists).await.unwrap().is_none() {
        let half = format!("{name}_half");
        let drop_half = format!("drop database if exists {half} with (force)");
        server.execute(sqlx::AssertSqlSafe(drop_half)).await.unwrap();
        server.execute(sqlx::AssertSqlSafe(format!("create database {half}"))).await.unwrap();
        db::migrate(&PgConnectOptions::from_str(&url_of(&half)).unwrap()).await.unwrap();
        let rename = format!("alter database {half} rename to {name}");
        server.execute(sqlx::AssertSqlSafe(rename)).await.unwrap();
    }
    server.close().await.unwrap();
    name
}

impl Drop for Database {
    fn drop(&mut self) {
        // The test's own runtime is ending, and dropping waits for nobody.
        let name = self.name.clone();
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let statement = format!("drop database if exists {name} with (force)");
                server().await.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
            });
        });
        if dropping.join().is_err() {
            eprintln!("the database {} could not be removed", self.name);
        }
    }
}
