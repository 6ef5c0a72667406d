//! A fleet for tests: a database of its own, simulated agents with real TLS, and control planes'
//! links that can be stopped or killed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use berth_agent::hypervisor::Hypervisor as _;
use berth_agent::hypervisor::simulator::{Simulator, SimulatorConfig};
use berth_agent::identity::{Identity, NewKey};
use berth_model::agent::{EnrolRequest, VmImage, VmSeed, VmSpec, VmState, WantedPower};
use berth_model::node::{Node, NodeState};
use berth_model::server::ServerStatus;
use berth_model::{ByteSize, NodeId, ServerId, VmId};
use berth_server::agents::Agents;
use berth_server::live::Signals;
use berth_server::load::Load;
use berth_server::nodes::ca::Authority;
use berth_server::nodes::{self, Grants, Links, Pace};
use berth_server::secret::SecretKey;
use berth_server::vital::Vital;
use berth_server::{clock, entropy};
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{Database, until};

/// Quick enough for tests, slow enough for a loaded machine.
pub const PACE: Pace = Pace {
    tend_every: Duration::from_millis(200),
    lease: Duration::from_secs(3),
    silence_max: Duration::from_secs(15),
    down_after: Duration::from_secs(1),
    grants: Grants { ttl_s: 30, fence_after_s: 30 },
};

/// A database with a location, and what control planes share.
pub struct Fleet {
    database: Database,
    pub key: SecretKey,
    pub authority: Arc<Authority>,
    pub agents: Arc<Agents>,
}

impl Fleet {
    pub async fn start() -> Self {
        let database = Database::create().await;
        let key = SecretKey::new([7; 32]);
        let authority = nodes::authority(database.pool(), &key, clock::now()).await.unwrap();
        let agents = Agents::new(database.pool().clone(), Arc::clone(&authority), clock::now()).unwrap();
        let fleet = Self { database, key, authority, agents: Arc::new(agents) };
        sqlx::raw_sql(
            "insert into locations (name, description, country, city, latitude, longitude, network_zone)
                 values ('rtm1', 'Rotterdam', 'NL', 'Rotterdam', 51.9, 4.5, 'eu');
             insert into server_types (name, description, cores, memory_mib, disk_gib, cpu_type)
                 values ('s1', 'small', 1, 512, 5, 'shared');
             insert into images (kind, status, name, description, sha256, file_bytes, disk_bytes, os_flavor, created)
                 values ('system', 'available', 'tiny', 'Tiny', repeat('a', 64), 1, 1, 'tiny', now());
             insert into accounts (name, created) values ('Acme', now());
             insert into projects (account_id, name, created) values (1, 'Default', now());",
        )
        .execute(fleet.db())
        .await
        .unwrap();
        fleet
    }

    pub fn db(&self) -> &PgPool {
        self.database.pool()
    }

    /// Adds a node and lets a simulated agent enrol as it.
    pub async fn node(&self, name: &str) -> SimulatedNode {
        let token = nodes::cli::add(self.db(), &self.key, name, "rtm1", clock::now()).await.unwrap();
        SimulatedNode::enrolled(name, token, self.db(), &self.authority).await
    }

    /// A node that has enrolled at an address where nobody answers.
    pub async fn dead_node(&self, name: &str) -> NodeId {
        nodes::cli::add(self.db(), &self.key, name, "rtm1", clock::now()).await.unwrap();
        let at = "update nodes set address = 'https://127.0.0.1:1' where name = $1 returning id";
        NodeId(sqlx::query_scalar(at).bind(name).fetch_one(self.db()).await.unwrap())
    }

    /// A server on a node, with this status, that no action holds.
    pub async fn server(&self, node: NodeId, status: ServerStatus) -> ServerId {
        let name = entropy::alphanumeric(12).to_lowercase();
        let mac = format!("525400{}", hex::encode(entropy::bytes::<3>()));
        let id = sqlx::query_scalar(
            "insert into servers (project_id, name, status, server_type_id, image_id, location_id, node_id, mac,
                 cores, memory_mib, disk_gib, image_sha256, created)
             values (1, $1, $2, 1, 1, 1, $3, $4::macaddr, 1, 512, 5, repeat('a', 64), now()) returning id",
        );
        let id = id.bind(name).bind(status.word()).bind(node.0).bind(mac);
        ServerId(id.fetch_one(self.db()).await.unwrap())
    }

    pub async fn status(&self, server: ServerId) -> ServerStatus {
        let status: String = sqlx::query_scalar("select status from servers where id = $1")
            .bind(server.0)
            .fetch_one(self.db())
            .await
            .unwrap();
        status.parse().unwrap()
    }

    pub async fn status_becomes(&self, server: ServerId, wanted: ServerStatus) {
        let what = format!("server {server} is {}", wanted.word());
        until(&what, || async { (self.status(server).await == wanted).then_some(()) }).await;
    }

    pub async fn state_becomes(&self, node: NodeId, wanted: NodeState) -> Node {
        let what = format!("node {node} is {wanted:?}");
        until(&what, || async {
            let (nodes, _) =
                nodes::queries::list(&mut self.db().acquire().await.unwrap(), 50, 0).await.unwrap();
            nodes.into_iter().find(|n| n.id == node && n.state == wanted)
        })
        .await
    }

    /// How many nodes each control plane keeps.
    pub async fn kept_by(&self, owner: Uuid) -> i64 {
        sqlx::query_scalar("select count(*) from nodes where lease_owner = $1 and lease_until > now()")
            .bind(owner)
            .fetch_one(self.db())
            .await
            .unwrap()
    }

    /// A control plane that keeps its part of the nodes.
    pub fn plane(&self) -> Plane {
        self.plane_at(PACE)
    }

    /// The same at another pace.
    pub fn plane_at(&self, pace: Pace) -> Plane {
        let (owner, stop) = (entropy::uuid(), CancellationToken::new());
        let signals = Signals::start(self.db().clone(), &Vital::until(stop.clone()));
        let load = Load::new(self.db().clone(), owner);
        let agents =
            Arc::new(Agents::new(self.db().clone(), Arc::clone(&self.authority), clock::now()).unwrap());
        let links = Links::new(self.db().clone(), agents, load.clone(), owner, pace);
        let mut tasks = JoinSet::new();
        tasks.spawn(load.clone().run(signals.clone(), stop.clone()));
        tasks.spawn(links.run(signals, stop.clone()));
        Plane { owner, load, stop, tasks }
    }
}

/// One control plane's streams and load.
pub struct Plane {
    pub owner: Uuid,
    pub load: Load,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Plane {
    /// Ends in order.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }

    /// Ends as by `kill -9`: nothing is given back.
    pub async fn kill(mut self) {
        self.tasks.shutdown().await;
    }
}

/// An agent with a simulator, and the machine it runs on.
pub struct SimulatedNode {
    pub id: NodeId,
    pub simulator: Arc<Simulator>,
    config: berth_agent::config::Config,
    running: Option<(berth_agent::Running, CancellationToken)>,
    _folder: tempfile::TempDir,
}

impl SimulatedNode {
    /// An agent that has enrolled with this token, and listens.
    pub async fn enrolled(name: &str, token: String, db: &PgPool, authority: &Authority) -> Self {
        Self::new(name).enrol(name, token, db, authority).await
    }

    /// Lets the agent enrol with this token; it listens from now on.
    pub async fn enrol(mut self, name: &str, token: String, db: &PgPool, authority: &Authority) -> Self {
        let node = &mut self;
        node.start().await;
        let key = NewKey::draw(name).unwrap();
        let address = format!("https://{}", node.listens());
        let request = EnrolRequest { token, address: address.clone(), csr_pem: key.csr_pem };
        let reply = nodes::enrol::enrol(db, authority, &request, clock::now()).await.unwrap();
        node.id = reply.node;
        let identity = Identity {
            node: reply.node,
            address,
            ca_pem: reply.ca_pem,
            certificate_pem: reply.certificate_pem,
            key_pem: key.key_pem,
        };
        identity.store(&node.config.tls_dir()).unwrap();
        let listens = node.listens();
        until("the agent found its identity", || async {
            tokio::net::TcpStream::connect(listens).await.ok()
        })
        .await;
        self
    }

    /// A machine with an agent that was neither started nor enrolled.
    pub fn new(name: &str) -> Self {
        Self::slow(name, Duration::ZERO)
    }

    /// The same, whose changes take this long.
    pub fn slow(name: &str, delay: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = berth_agent::config::Config::at(folder.path());
        config.name = name.to_owned();
        // An address of its own, with a fixed port: that is free again as soon as the agent has stopped.
        let [a, b, c] = entropy::bytes::<3>();
        config.listen = SocketAddr::from(([127, a, b, c.clamp(1, 254)], 7701));
        config.limits.watched_every = Duration::from_millis(300);
        config.limits.beat_every = Duration::from_millis(500);
        config.limits.identity_every = Duration::from_millis(100);
        config.limits.drain = Duration::from_millis(500);
        let simulator =
            Arc::new(Simulator::new(SimulatorConfig { delay, ..SimulatorConfig::default() }).unwrap());
        Self { id: NodeId(0), simulator, config, running: None, _folder: folder }
    }

    pub fn config(&self) -> &berth_agent::config::Config {
        &self.config
    }

    pub fn listens(&self) -> SocketAddr {
        self.config.listen
    }

    /// Starts the agent; a second time on the address it had.
    pub async fn start(&mut self) {
        let stop = CancellationToken::new();
        let simulator = Arc::clone(&self.simulator);
        let running = berth_agent::serve(self.config.clone(), simulator, stop.clone()).await.unwrap();
        self.config.listen = running.https;
        self.running = Some((running, stop));
    }

    /// Stops the agent; its VMs go on.
    pub async fn stop(&mut self) {
        if let Some((running, stop)) = self.running.take() {
            stop.cancel();
            running.stopped().await;
        }
    }

    /// Makes and starts a VM behind the control plane's back.
    pub fn boot(&self, server: ServerId) {
        let vm = self.simulator.put(VmId::from(server), &spec(WantedPower::On)).unwrap();
        assert_eq!(vm.state, VmState::Running);
    }
}

impl Drop for SimulatedNode {
    fn drop(&mut self) {
        if let Some((_, stop)) = self.running.take() {
            stop.cancel();
        }
    }
}

/// A small VM.
pub fn spec(power: WantedPower) -> VmSpec {
    VmSpec {
        vcpus: 1,
        memory: ByteSize::mib(512),
        disk: ByteSize::gib(5),
        image: VmImage { sha256: "a".repeat(64) },
        disk_mode: Default::default(),
        volumes: Vec::new(),
        nics: Vec::new(),
        seed: VmSeed {
            hostname: "a".to_owned(),
            ssh_keys: Vec::new(),
            root_password_hash: None,
            user_data: None,
            mounts: Vec::new(),
            name_servers: Vec::new(),
        },
        power,
        ..VmSpec::default()
    }
}

/// A way to an agent that can be blocked: connections stay open, and nothing goes through.
pub struct Way {
    pub address: SocketAddr,
    open: tokio::sync::watch::Sender<bool>,
}

impl Way {
    pub async fn to(agent: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, is_open) = tokio::sync::watch::channel(true);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = tokio::net::TcpStream::connect(agent).await else { continue };
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                tokio::spawn(pass(near_in, far_out, is_open.clone()));
                tokio::spawn(pass(far_in, near_out, is_open.clone()));
            }
        });
        Self { address, open }
    }

    pub fn block(&self, block: bool) {
        self.open.send_replace(!block);
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut is_open: tokio::sync::watch::Receiver<bool>,
) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut bytes = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        if is_open.wait_for(|open| *open).await.is_err() || to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}
