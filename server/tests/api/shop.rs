//! A shop with one simulated node, and workers that can be killed: what tests of jobs share.

use std::time::Duration;

use berth_agent::hypervisor::Hypervisor as _;
use berth_model::action::{Action, ActionReply, ActionStatus};
use berth_model::agent::VmState;
use berth_model::server::{Server, ServerCreated, ServerReply, ServerStatus};
use berth_model::{ActionId, ServerId, VmId};
use berth_server::jobs::{Registry, Settings, StepName, Worker};
use berth_server::live::Signals;
use berth_server::serve::Options;
use berth_server::servers::jobs::register;
use berth_server::vital::Vital;
use berth_server::{clock, entropy, images};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::fleet::SimulatedNode;
use crate::support::{Berth, Person, Reply, until};

/// A shop with one node, and workers that can be killed.
pub struct Shop {
    pub berth: Berth,
    pub node: SimulatedNode,
    pub customer: Person,
    signals: Signals,
    stop: CancellationToken,
}

/// How something under way ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Done,
    Undone,
}

impl Shop {
    pub async fn open() -> Self {
        Self::open_with(Options::default()).await
    }

    pub async fn open_with(options: Options) -> Self {
        Self::open_set("", options).await
    }

    /// One with these settings beside.
    pub async fn open_set(settings: &str, options: Options) -> Self {
        let settings = format!("workers_interactive = 0\nworkers_background = 0\n{settings}");
        let berth = Berth::start_with(&settings, options).await;
        berth.catalog().await;
        let node = berth.node("node-1").await;
        let customer = berth.customer().await;
        let stop = CancellationToken::new();
        let signals = Signals::start(berth.world().db.clone(), &Vital::until(stop.clone()));
        Self { berth, node, customer, signals, stop }
    }

    pub fn worker(&self, faults: &str) -> Worker {
        self.worker_with(Settings { faults: faults.parse().unwrap(), ..Settings::default() })
    }

    pub fn worker_with(&self, settings: Settings) -> Worker {
        let (lease, poll) = (Duration::from_millis(600), Duration::from_millis(50));
        let settings = Settings { lease, poll, ..settings };
        Worker::start(
            self.berth.world().clone(),
            &berth_server::images::jobs::register(register(Registry::new())),
            &settings,
            &self.signals,
        )
    }

    pub async fn order(&self) -> ServerCreated {
        self.order_with(json!({})).await
    }

    pub async fn order_with(&self, more: serde_json::Value) -> ServerCreated {
        self.order_tried(more).await.expect(201)
    }

    pub async fn order_refused(&self, more: serde_json::Value) -> Reply {
        let reply = self.order_tried(more).await;
        assert!(reply.status.is_client_error(), "{}", reply.text);
        reply
    }

    async fn order_tried(&self, more: serde_json::Value) -> Reply {
        let name = format!("s{}", entropy::alphanumeric(12).to_lowercase());
        let mut order = json!({"name": name, "server_type": "s1", "image": "tiny"});
        order.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.customer.post("/v1/servers", order).await
    }

    /// Offers another file under this name; says its checksum.
    pub async fn add_image(&self, name: &str) -> String {
        let (world, mut content) = (self.berth.world(), [0; 96]);
        content[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        content[24..32].copy_from_slice(&1_048_576_u64.to_be_bytes());
        content[80..].copy_from_slice(&entropy::bytes::<16>());
        let sha256 = hex::encode(Sha256::digest(content));
        std::fs::write(images::file_path(&world.config.data_dir, &sha256), content).unwrap();
        let image = images::queries::SystemImage {
            name,
            description: name,
            sha256: &sha256,
            file_bytes: content.len() as i64,
            disk_bytes: 1_048_576,
            os_flavor: "tiny",
            os_version: None,
        };
        let mut conn = world.db.acquire().await.unwrap();
        images::queries::put_system(&mut conn, &image, clock::now()).await.unwrap();
        sha256
    }

    pub async fn tell(&self, server: ServerId, verb: &str) -> Action {
        let path = format!("/v1/servers/{server}/actions/{verb}");
        self.customer.post(&path, json!({})).await.expect::<ActionReply>(201).action
    }

    pub async fn delete(&self, server: ServerId) -> Action {
        self.customer.delete(&format!("/v1/servers/{server}")).await.expect::<ActionReply>(200).action
    }

    pub async fn action(&self, id: ActionId) -> Action {
        self.customer.get(&format!("/v1/actions/{id}")).await.expect::<ActionReply>(200).action
    }

    pub async fn ends(&self, id: ActionId) -> Action {
        until("the action has ended", async || {
            let action = self.action(id).await;
            (action.status != ActionStatus::Running).then_some(action)
        })
        .await
    }

    pub async fn succeeds(&self, id: ActionId) {
        let action = self.ends(id).await;
        assert_eq!((action.status, action.progress), (ActionStatus::Success, 100), "{action:?}");
    }

    pub async fn server(&self, id: ServerId) -> Option<Server> {
        let reply = self.customer.get(&format!("/v1/servers/{id}")).await;
        (reply.status != 404).then(|| reply.expect::<ServerReply>(200).server)
    }

    pub fn vm_state(&self, server: ServerId) -> Option<VmState> {
        self.node.simulator.get(VmId::from(server)).ok().map(|vm| vm.state)
    }

    pub async fn count(&self, sql: &'static str, server: ServerId) -> i64 {
        sqlx::query_scalar(sql).bind(server).fetch_one(&self.berth.world().db).await.unwrap()
    }

    /// Nothing of the server is left: no machine, row or address.
    pub async fn is_gone(&self, server: ServerId, what: &str) {
        assert_eq!(self.server(server).await, None, "{what}");
        assert_eq!(self.vm_state(server), None, "{what}");
        assert_eq!(self.count("select count(*) from servers where id = $1", server).await, 0, "{what}");
        assert_eq!(
            self.count("select count(*) from public_ips where server_id = $1", server).await,
            0,
            "{what}"
        );
        let gone = "select count(*) from outbox where change->>'kind' = 'server_gone' and change->'id' = to_jsonb($1)";
        assert_eq!(self.count(gone, server).await, 1, "{what}");
    }

    /// The server is there, runs, and nothing holds it.
    pub async fn is_there_and_right(&self, server: ServerId, what: &str) {
        // News of a machine that stopped in between may come after its action has ended, and then news that it runs.
        let shown = until(&format!("{what}: the server runs"), async || {
            let shown = self.server(server).await.unwrap_or_else(|| panic!("{what}: it is gone"));
            (shown.status == ServerStatus::Running).then_some(shown)
        })
        .await;
        assert!(!shown.locked, "{what}");
        let vm = self.node.simulator.get(VmId::from(server)).unwrap();
        let spec = vm.spec.unwrap();
        assert_eq!((vm.state, &spec.seed.hostname), (VmState::Running, &shown.name), "{what}");
        let ip = shown.public_net.ipv4.unwrap().ip;
        assert_eq!(spec.nics[0].addresses[0].ip, ip, "{what}");
        assert_eq!(
            self.count("select count(*) from public_ips where server_id = $1", server).await,
            1,
            "{what}"
        );
    }

    /// Either the server is there and right and its action says so, or nothing is left of it and
    /// its action says why.
    pub async fn create_is_clean(&self, made: &ServerCreated, wanted: End, what: &str) {
        let action = self.ends(made.action.id).await;
        match wanted {
            End::Done => {
                assert_eq!(action.status, ActionStatus::Success, "{what}: {action:?}");
                self.is_there_and_right(made.server.id, what).await;
            }
            End::Undone => {
                assert_eq!(action.status, ActionStatus::Error, "{what}");
                assert!(action.error.is_some_and(|error| !error.message.is_empty()), "{what}");
                self.is_gone(made.server.id, what).await;
            }
        }
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Everything that may happen at a step. `None`: the worker dies there.
pub fn mishaps<S: StepName>(kind: &str) -> Vec<(String, Option<&'static str>)> {
    let mut mishaps = Vec::new();
    for step in S::ALL {
        for point in ["before", "after_run", "after_record"] {
            mishaps.push((format!("{kind}.{}.{point}", step.word()), None));
        }
        for what in ["twice", "retry", "error"] {
            mishaps.push((format!("{kind}.{}.after_run", step.word()), Some(what)));
        }
    }
    mishaps
}

impl Shop {
    /// Lets the faults happen to what `begin` begins. A worker that is to die does so at its
    /// marker, and another goes on.
    pub async fn with_mishap<T>(
        &self,
        faults: &[String],
        dies_at: Option<&str>,
        begin: impl AsyncFnOnce() -> T,
    ) -> (T, Worker) {
        let marker = self.berth.folder().join(format!("marker-{}", entropy::alphanumeric(8)));
        let mut rules = faults.to_vec();
        rules.extend(dies_at.map(|place| format!("{place}=pause:{}", marker.display())));
        let worker = self.worker(&rules.join(","));
        let begun = begin().await;
        if dies_at.is_none() {
            return (begun, worker);
        }
        until("the worker is at the place", async || marker.exists().then_some(())).await;
        drop(worker);
        (begun, self.worker(""))
    }
}
