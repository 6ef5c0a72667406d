//! A stage for jobs and live push: a database of its own, members of two kinds, and control planes
//! with the routes of a few subjects, started with the settings that a test needs.

use std::net::SocketAddr;
use std::str::FromStr as _;
use std::sync::Arc;

use axum::Router;
use berth_model::{ProjectId, ServerId};
use berth_server::accounts::passwords::Passwords;
use berth_server::agents::Agents;
use berth_server::config::Config;
use berth_server::consoles::Consoles;
use berth_server::live::{self, Hub, Signals};
use berth_server::load::Load;
use berth_server::secret::SecretKey;
use berth_server::vital::Vital;
use berth_server::{World, actions, clock, db, entropy, nodes};
use sha2::{Digest as _, Sha256};
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::support::Database;

/// A database that control planes share.
pub struct Stage {
    database: Database,
}

/// A project, and a token that may change it.
#[derive(Clone)]
pub struct Member {
    pub project: ProjectId,
    pub token: String,
}

/// A control plane without workers and links.
pub struct Plane {
    pub world: World,
    pub signals: Signals,
    pub address: SocketAddr,
    stop: CancellationToken,
}

impl Stage {
    pub async fn new() -> Self {
        let database = Database::create().await;
        sqlx::raw_sql(
            "insert into locations (name, description, country, city, latitude, longitude, network_zone)
                 values ('rtm1', 'Rotterdam', 'NL', 'Rotterdam', 51.9, 4.5, 'eu');
             insert into server_types (name, description, cores, memory_mib, disk_gib, cpu_type)
                 values ('s1', 'small', 1, 512, 5, 'shared');
             insert into images (kind, status, name, description, sha256, file_bytes, disk_bytes, os_flavor, created)
                 values ('system', 'available', 'tiny', 'Tiny', repeat('a', 64), 1, 1, 'tiny', now());",
        )
        .execute(database.pool())
        .await
        .unwrap();
        Self { database }
    }

    pub fn db(&self) -> &PgPool {
        self.database.pool()
    }

    /// A new account with one project and one token.
    pub async fn member(&self) -> Member {
        let token = entropy::alphanumeric(64);
        let project = sqlx::query_scalar(
            "with account as (insert into accounts (name, created) values ('Acme', now()) returning id),
                  project as (insert into projects (account_id, name, created)
                              select id, 'default', now() from account returning id),
                  token as (insert into tokens (project_id, name, access, secret_hash, created)
                            select id, 'test', 'read_write', $1, now() from project)
             select id from project",
        );
        let project = project.bind(&Sha256::digest(&token)[..]).fetch_one(self.db()).await.unwrap();
        Member { project, token }
    }

    /// A server's row, as if it had been made long ago.
    pub async fn server(&self, project: ProjectId) -> ServerId {
        let name = entropy::alphanumeric(12).to_lowercase();
        let [a, b, c] = entropy::bytes();
        let mac = format!("52:54:00:{a:02x}:{b:02x}:{c:02x}");
        sqlx::query_scalar(
            "insert into servers (project_id, name, status, server_type_id, image_id, location_id, mac,
                 cores, memory_mib, disk_gib, image_sha256, created)
             select $1, $2, 'off', t.id, i.id, l.id, $3::macaddr, 1, 512, 5, i.sha256, now()
             from server_types t, images i, locations l returning id",
        )
        .bind(project)
        .bind(name)
        .bind(mac)
        .fetch_one(self.db())
        .await
        .unwrap()
    }

    pub async fn plane(&self) -> Plane {
        self.plane_with(live::Settings::default()).await
    }

    pub async fn plane_with(&self, settings: live::Settings) -> Plane {
        // Connections of its own: what writers hold must not hold it up.
        let options = PgConnectOptions::from_str(self.database.url()).unwrap();
        let db = db::connect(options, 10).await.unwrap();
        let stop = CancellationToken::new();
        let secret_key = SecretKey::new([7; 32]);
        let authority = nodes::authority(&db, &secret_key, clock::now()).await.unwrap();
        let vital = Vital::until(stop.clone());
        let signals = Signals::start(db.clone(), &vital);
        let world = World {
            agents: Arc::new(Agents::new(db.clone(), authority, clock::now()).unwrap()),
            config: Arc::new(Config::from_text("", []).unwrap()),
            secret_key,
            passwords: Passwords::new().unwrap(),
            live: Hub::start(db.clone(), &signals, settings, &vital).await.unwrap(),
            load: Load::new(db.clone(), entropy::uuid()),
            consoles: Consoles::default(),
            db,
        };
        let (v1, _) = actions::router().merge(live::router()).split_for_parts();
        let routes = Router::new().nest("/v1", v1).with_state(world.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(async move { axum::serve(listener, routes).with_graceful_shutdown(stopped).await });
        Plane { world, signals, address, stop }
    }
}

impl Plane {
    /// Ends it in order.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
