//! What tests share: a control plane on a database of its own, people, and clients.

#![allow(dead_code, reason = "what one file does not use another may")]

mod client;
mod database;

use std::sync::Arc;
use std::time::Duration;

use berth_model::people::{Role, TokenAccess, User};
use berth_model::{ProjectId, UserId};
use berth_server::accounts::queries;
use berth_server::config::Config;
use berth_server::serve::{self, Options, Running};
use berth_server::{World, catalog, clock, entropy, images, nodes};
use http::Method;
use sha2::{Digest as _, Sha256};

pub use client::{Client, Reply};
pub use database::Database;

use crate::fleet::{PACE, SimulatedNode};

/// How long a condition may take to come true on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The password of everybody.
pub const PASSWORD: &str = "correct horse battery";

/// Public keys whose private halves nobody has.
pub const PUBLIC_KEYS: [&str; 2] = [
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDjaYwDWO17pliFb/q9wExPxaKNoZlZcvbYIs9nRjqCb ada@example.org",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGZfmex6BV6ZFot8JnVT6xf8JLVnqVOv0KZU5Kr1+anN ada@example.org",
];

/// The hash of [`PASSWORD`], cheap to check: one pass over 8 KiB.
static PASSWORD_HASH: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
    use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, Version, password_hash::phc::PasswordHash};
    let cheap = Params::new(Params::MIN_M_COST, 1, 1, None).unwrap();
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, cheap);
    let hash: PasswordHash = argon2.hash_password_with_salt(PASSWORD.as_bytes(), &[7; 16]).unwrap();
    hash.to_string()
});

/// Waits until `check` gives something.
pub async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("it never came true that {what}"))
}

/// The file of the catalog's image: to a simulator only the head matters, and the checksum. A qcow2 of 1 MiB.
pub fn small_qcow2() -> [u8; 80] {
    let mut content = [0; 80];
    content[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    content[24..32].copy_from_slice(&1_048_576_u64.to_be_bytes());
    content
}

/// A control plane. Dropped, it ends as if it were killed, and its database is removed with the
/// last control plane on it.
pub struct Berth {
    running: Option<Running>,
    world: World,
    base: String,
    database: Arc<Database>,
    folder: Arc<tempfile::TempDir>,
}

impl Berth {
    /// The whole control plane, workers and all, on a new database.
    pub async fn start() -> Self {
        Self::start_with("", Options::default()).await
    }

    /// One that serves, but leaves jobs alone.
    pub async fn without_workers() -> Self {
        Self::start_with("workers_interactive = 0\nworkers_background = 0", Options::default()).await
    }

    /// One with other settings (TOML, over those of tests) and options.
    pub async fn start_with(settings: &str, options: Options) -> Self {
        let database = Arc::new(Database::create().await);
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Self::on(database, folder, settings, options).await
    }

    /// A second control plane on the same database, with the same data folder.
    pub async fn another(&self) -> Self {
        self.another_with("", Options::default()).await
    }

    /// A second control plane with other settings and options.
    pub async fn another_with(&self, settings: &str, options: Options) -> Self {
        Self::on(Arc::clone(&self.database), Arc::clone(&self.folder), settings, options).await
    }

    async fn on(
        database: Arc<Database>,
        folder: Arc<tempfile::TempDir>,
        settings: &str,
        options: Options,
    ) -> Self {
        let defaults = [
            ("listen", "127.0.0.1:0".to_owned()),
            ("data_dir", folder.path().join("data").display().to_string()),
            ("app_dir", folder.path().join("app").display().to_string()),
            ("database_url", database.url().to_owned()),
            ("database_connections", "10".to_owned()),
            ("rate_limit_per_hour", "0".to_owned()),
        ];
        let is_set =
            |key: &str| settings.lines().any(|line| line.split('=').next().unwrap_or_default().trim() == key);
        // As environment, so that the test's own settings can be the file; hence only what it leaves out.
        let defaults = defaults.into_iter().filter(|(key, _)| !is_set(key));
        let environment = defaults.map(|(key, value)| (format!("BERTH_{}", key.to_uppercase()), value));
        let config = Config::from_text(settings, environment).unwrap();
        let options = Options { pace: PACE, ..options };
        let running = serve::start(config, options).await.unwrap();
        let base = format!("http://{}", running.address());
        let world = running.world().clone();
        Self { running: Some(running), world, base, database, folder }
    }

    /// What its handlers and jobs work with.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Its folder for data and app.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Where it is: `http://127.0.0.1:…`.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// Its database, for other processes.
    pub fn database_url(&self) -> &str {
        self.database.url()
    }

    /// Stops it in order.
    pub async fn stop(mut self) {
        if let Some(running) = self.running.take() {
            running.shutdown().await;
        }
    }

    /// Somebody who shows nothing.
    pub fn stranger(&self) -> Client {
        Client::new(&self.base)
    }

    /// A new customer with an account and a project, signed in. Each call makes another one.
    pub async fn customer(&self) -> Person {
        self.person(Role::Customer).await
    }

    /// A customer who has nothing to do with any before: for what must not be seen.
    pub async fn other_customer(&self) -> Person {
        self.customer().await
    }

    /// A new member of the staff, signed in.
    pub async fn staff(&self) -> Person {
        self.person(Role::Staff).await
    }

    /// A new owner of the installation, signed in.
    pub async fn owner(&self) -> Person {
        self.person(Role::Owner).await
    }

    async fn person(&self, role: Role) -> Person {
        let now = clock::now();
        let name = entropy::alphanumeric(10).to_lowercase();
        let email = format!("{name}@example.org");
        let mut tx = self.world.db.begin().await.unwrap();
        let user = queries::user_create(&mut tx, &email, &name, role, &PASSWORD_HASH, now).await.unwrap();
        let project = match role {
            Role::Customer => {
                Some(queries::account_create(&mut tx, &name, "default", user.id, now).await.unwrap().id)
            }
            Role::Owner | Role::Staff => None,
        };
        let secret = entropy::alphanumeric(43);
        let hash = Sha256::digest(&secret).into();
        queries::session_create(&mut tx, &hash, user.id, Duration::from_secs(3600), now).await.unwrap();
        tx.commit().await.unwrap();
        let client = Client::new(&self.base).with_session(&secret);
        Person { client, user, project, world: self.world.clone() }
    }

    /// A location `rtm1` with addresses, the server type `s1` and the image `tiny`.
    pub async fn catalog(&self) {
        let text = r#"
            currency = "EUR"
            [[location]]
            name = "rtm1"
            description = "Rotterdam"
            country = "NL"
            city = "Rotterdam"
            latitude = 51.92
            longitude = 4.48
            network_zone = "eu-west"
            [[location.addresses]]
            cidr = "10.77.0.0/24"
            gateway = "10.77.0.1"
            first = "10.77.0.10"
            last = "10.77.0.250"
            [[server_type]]
            name = "s1"
            description = "1 vCPU, 512 MB, 5 GB"
            cores = 1
            memory_mib = 512
            disk_gib = 5
            cpu_type = "shared"
            [[server_type.price]]
            location = "rtm1"
            hourly = "0.0060"
            monthly = "3.79"
            traffic_per_tb = "1.00"
            included_traffic_gb = 20000
            [[server_type]]
            name = "s2"
            description = "2 vCPU, 1 GB, 10 GB"
            cores = 2
            memory_mib = 1024
            disk_gib = 10
            cpu_type = "shared"
            [[server_type.price]]
            location = "rtm1"
            hourly = "0.0120"
            monthly = "7.58"
            traffic_per_tb = "1.00"
            included_traffic_gb = 20000
            [[server_type]]
            name = "giant"
            description = "128 vCPU, 4 TB, 64 TB"
            cores = 128
            memory_mib = 4194304
            disk_gib = 65536
            cpu_type = "shared"
            [[server_type.price]]
            location = "rtm1"
            hourly = "10.00"
            monthly = "6000.00"
            traffic_per_tb = "1.00"
            included_traffic_gb = 20000
        "#;
        let file = self.folder().join("catalog.toml");
        std::fs::write(&file, text).unwrap();
        catalog::cli::apply(&self.world.db, &file).await.unwrap();
        let content = small_qcow2();
        let sha256 = hex::encode(Sha256::digest(content));
        let path = images::file_path(&self.world.config.data_dir, &sha256);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        sqlx::query(
            "insert into images (kind, status, name, description, sha256, file_bytes, disk_bytes, os_flavor, created)
             values ('system', 'available', 'tiny', 'Tiny', $1, $2, 1048576, 'tiny', now())",
        )
        .bind(sha256)
        .bind(content.len() as i64)
        .execute(&self.world.db)
        .await
        .unwrap();
    }

    /// A node in `rtm1` with a simulator, enrolled and up. Needs [`Berth::catalog`] first.
    pub async fn node(&self, name: &str) -> SimulatedNode {
        let World { db, secret_key, agents, .. } = &self.world;
        let token = nodes::cli::add(db, secret_key, name, "rtm1", clock::now()).await.unwrap();
        let node = SimulatedNode::enrolled(name, token, db, agents.authority()).await;
        until("the node is up", async || {
            let up = sqlx::query_scalar::<_, bool>("select state = 'up' from nodes where id = $1");
            up.bind(node.id.0).fetch_one(db).await.unwrap().then_some(())
        })
        .await;
        node
    }

    /// Everything a server needs: the whole control plane, the catalog and one node.
    pub async fn start_with_node() -> (Self, SimulatedNode) {
        let berth = Self::start().await;
        berth.catalog().await;
        let node = berth.node("node-1").await;
        (berth, node)
    }
}

/// Somebody who is signed in; and the clients of their tokens.
pub struct Person {
    client: Client,
    user: User,
    project: Option<ProjectId>,
    world: World,
}

impl Person {
    /// Their number.
    pub fn user(&self) -> UserId {
        self.user.id
    }

    /// Their address.
    pub fn email(&self) -> &str {
        &self.user.email
    }

    /// Their project.
    pub fn project(&self) -> ProjectId {
        self.project.expect("only customers have a project")
    }

    /// A program with a new token of their project.
    pub async fn token(&self, access: TokenAccess) -> Client {
        self.token_of(self.project(), access).await
    }

    /// Another project of their account.
    pub async fn another_project(&self) -> ProjectId {
        let project = sqlx::query_scalar(
            "insert into projects (account_id, name, created)
             select account_id, $2, now() from projects where id = $1 returning id",
        );
        let name = entropy::alphanumeric(10).to_lowercase();
        ProjectId(project.bind(self.project()).bind(name).fetch_one(&self.world.db).await.unwrap())
    }

    /// A program with a token of another project of their account.
    pub async fn sibling(&self, access: TokenAccess) -> Client {
        self.token_of(self.another_project().await, access).await
    }

    /// A program with a new token of this project.
    pub async fn token_of(&self, project: ProjectId, access: TokenAccess) -> Client {
        let secret = entropy::alphanumeric(64);
        let mut conn = self.world.db.acquire().await.unwrap();
        let hash = Sha256::digest(&secret).into();
        queries::token_create(&mut conn, project, "a test", access, None, &hash, clock::now()).await.unwrap();
        self.client.stranger().with_token(&secret)
    }

    /// Their browser.
    pub fn client(&self) -> &Client {
        &self.client
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.client.get(path).await
    }

    pub async fn post(&self, path: &str, body: serde_json::Value) -> Reply {
        self.client.post(path, body).await
    }

    pub async fn put(&self, path: &str, body: serde_json::Value) -> Reply {
        self.client.put(path, body).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.client.delete(path).await
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, path)
    }
}
