//! An agent in this process on a free port, its peers, and a hypervisor that can hang.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use berth_agent::backups::disk::{Making, Restoring, Taking, Wish};
use berth_agent::config::Config;
use berth_agent::hypervisor::simulator::{Simulator, SimulatorConfig};
use berth_agent::hypervisor::{Hypervisor, HypervisorError, HypervisorFacts, Machines};
use berth_agent::lease::Lease;
use berth_agent::moving::Way;
use berth_agent::orphans::Found;
use berth_agent::runs::Cx;
use berth_agent::screenshot::Picture;
use berth_agent::storage::Storage;
use berth_agent::{Running, serve};
use berth_model::agent::{
    ConsoleKind, CounterSample, KeptDisk, LeaseList, MoveArrived, MovePrepare, MoveRoom, MoveSend, MoveSent,
    Name, NetworkState, Nic, Node, NodeCheck, PowerVerb, PrivateNetwork, Rescue, Snapshot, TrafficList, Vm,
    VmDelete, VmEvent, VmImage, VmRebuild, VmSeed, VmSpec, Volume, WantedPower,
};
use berth_model::error::ApiError;
use berth_model::{ByteSize, ErrorBody, PrivateNetworkId, Timestamp, VmId, VolumeId};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::pki::Pki;

/// The name that a control plane bears.
pub const CONTROL_PLANE: &str = "control-plane.berth.internal";

/// How long anything may take that should happen at once.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// An agent that stops and leaves nothing when it is dropped.
pub struct Agent {
    pub home: TempDir,
    pub pki: Arc<Pki>,
    pub https: SocketAddr,
    pub simulator: Arc<Simulator>,
    pub gate: Arc<Gate>,
    pub stop: CancellationToken,
    pub running: Option<Running>,
    client: Client,
}

impl Agent {
    /// An enrolled agent with a simulator behind a gate.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// The same with other settings.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_under(Arc::new(Pki::new()), change).await
    }

    /// The same under a CA that others have, too.
    pub async fn start_under(pki: Arc<Pki>, change: impl FnOnce(&mut Config)) -> Self {
        let home = tempfile::tempdir().unwrap();
        pki.enrol(home.path());
        let mut config = Config::at(home.path());
        config.limits.ping_every = Duration::from_millis(50);
        config.limits.identity_every = Duration::from_millis(50);
        change(&mut config);
        let simulator = Arc::new(Simulator::new(SimulatorConfig::default()).unwrap());
        let gate = Arc::new(Gate::default());
        let gated = Arc::new(Gated { simulator: Arc::clone(&simulator), gate: Arc::clone(&gate) });
        let stop = CancellationToken::new();
        let running = serve(config, gated, stop.clone()).await.unwrap();
        let https = running.https;
        let client = peer(&pki, Some((&pki, CONTROL_PLANE)));
        let agent = Self { home, pki, https, simulator, gate, stop, running: Some(running), client };
        agent.wait_for("the agent is healthy", |node| node.health.healthy).await;
        agent
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.https)
    }

    /// A request of the control plane.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        answer(self.request(Method::GET, path).send().await.unwrap()).await.unwrap()
    }

    pub async fn put_vm(&self, id: i64, spec: &VmSpec) -> Result<Vm, ApiError> {
        let request = self.request(Method::PUT, &format!("/v1/vms/{id}")).json(spec);
        answer(request.send().await.unwrap()).await
    }

    pub async fn power(&self, id: i64, verb: PowerVerb) -> Result<Vm, ApiError> {
        let verb = serde_json::to_value(verb).unwrap();
        let path = format!("/v1/vms/{id}/{}", verb.as_str().unwrap());
        answer(self.request(Method::POST, &path).send().await.unwrap()).await
    }

    /// Asks for the node until it is as it should be.
    pub async fn wait_for(&self, what: &str, fine: impl Fn(&Node) -> bool) -> Node {
        let until = Instant::now() + PATIENCE;
        loop {
            let got = self.request(Method::GET, "/v1/node").send().await;
            let node = match got {
                Ok(response) => Some(response.json::<Node>().await.unwrap()),
                // The listener opens a moment after the start.
                Err(_) => None,
            };
            match node {
                Some(node) if fine(&node) => return node,
                other => assert!(Instant::now() < until, "{what}, but it is {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.gate.open();
        self.stop.cancel();
    }
}

/// Somebody who trusts the agent's CA, and shows a certificate of `shows` if any.
pub fn peer(agent: &Pki, shows: Option<(&Pki, &str)>) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ca = reqwest::Certificate::from_pem(agent.ca_pem().as_bytes()).unwrap();
    let mut client = Client::builder().no_proxy().tls_certs_only([ca]).timeout(PATIENCE);
    if let Some((pki, name)) = shows {
        let pair = pki.client(name);
        let pem = format!("{}{}", pair.certificate_pem, pair.key_pem);
        client = client.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap());
    }
    client.build().unwrap()
}

/// The answer, or the error in it.
pub async fn answer<T: DeserializeOwned>(response: Response) -> Result<T, ApiError> {
    let status = response.status();
    let body = response.bytes().await.unwrap();
    if status.is_success() {
        // 204 has no body.
        let body = if body.is_empty() { &b"null"[..] } else { &body[..] };
        return Ok(serde_json::from_slice(body).unwrap());
    }
    let error = serde_json::from_slice::<ErrorBody>(&body).unwrap().error;
    assert_eq!(status.as_u16(), error.code.status());
    Err(error)
}

/// A spec that the agent takes.
pub fn spec() -> VmSpec {
    VmSpec {
        vcpus: 2,
        memory: ByteSize::gib(1),
        disk: ByteSize::gib(10),
        image: VmImage { sha256: "a".repeat(64) },
        nics: vec![Nic { mac: "52:54:00:00:00:01".into(), ..Nic::default() }],
        seed: VmSeed {
            hostname: "a-guest".into(),
            ssh_keys: vec![],
            root_password_hash: None,
            user_data: None,
            mounts: Vec::new(),
            name_servers: vec![],
        },
        power: WantedPower::On,
        ..VmSpec::default()
    }
}

/// What calls of the hypervisor wait for.
#[derive(Default)]
pub struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    shut: bool,
    /// Shut for this alone.
    only: Option<&'static str>,
    waiting: Vec<&'static str>,
}

impl Gate {
    /// From now on, calls hang.
    pub fn shut(&self) {
        self.state.lock().unwrap().shut = true;
    }

    /// From now on, calls of this function hang.
    pub fn shut_for(&self, function: &'static str) {
        let mut state = self.state.lock().unwrap();
        (state.shut, state.only) = (true, Some(function));
    }

    /// Lets all calls go on.
    pub fn open(&self) {
        let mut state = self.state.lock().unwrap();
        (state.shut, state.only) = (false, None);
        drop(state);
        self.changed.notify_all();
    }

    /// Returns once `count` calls of a function hang.
    pub async fn until_waiting(&self, function: &str, count: usize) {
        let until = Instant::now() + PATIENCE;
        while self.state.lock().unwrap().waiting.iter().filter(|waiting| **waiting == function).count()
            < count
        {
            assert!(Instant::now() < until, "{count} calls of {function} should hang");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn pass(&self, function: &'static str) {
        let mut state = self.state.lock().unwrap();
        state.waiting.push(function);
        let hangs = |state: &mut GateState| state.shut && state.only.is_none_or(|only| only == function);
        let mut state = self.changed.wait_while(state, hangs).unwrap();
        let place = state.waiting.iter().position(|waiting| *waiting == function).unwrap();
        state.waiting.swap_remove(place);
    }
}

/// A simulator whose every call passes a gate.
struct Gated {
    simulator: Arc<Simulator>,
    gate: Arc<Gate>,
}

impl Hypervisor for Gated {
    fn ping(&self) -> Result<(), HypervisorError> {
        self.gate.pass("ping");
        self.simulator.ping()
    }
    fn facts(&self) -> Result<HypervisorFacts, HypervisorError> {
        self.gate.pass("facts");
        self.simulator.facts()
    }
    fn list(&self) -> Result<Vec<Vm>, HypervisorError> {
        self.gate.pass("list");
        self.simulator.list()
    }
    fn get(&self, id: VmId) -> Result<Vm, HypervisorError> {
        self.gate.pass("get");
        self.simulator.get(id)
    }
    fn put(&self, id: VmId, spec: &VmSpec) -> Result<Vm, HypervisorError> {
        self.gate.pass("put");
        self.simulator.put(id, spec)
    }
    fn delete(&self, id: VmId) -> Result<(), HypervisorError> {
        self.gate.pass("delete");
        self.simulator.delete(id)
    }
    fn power(&self, id: VmId, verb: PowerVerb) -> Result<Vm, HypervisorError> {
        self.gate.pass("power");
        self.simulator.power(id, verb)
    }
    fn backup_begin(&self, id: VmId, wish: &Wish<'_>) -> Result<Box<dyn Taking>, HypervisorError> {
        self.gate.pass("backup_begin");
        self.simulator.backup_begin(id, wish)
    }
    fn restore_begin(&self, id: VmId, restoring: &Restoring) -> Result<Box<dyn Making>, HypervisorError> {
        self.gate.pass("restore_begin");
        self.simulator.restore_begin(id, restoring)
    }

    fn move_prepare(
        &self,
        id: VmId,
        asked: &MovePrepare,
        until: Timestamp,
    ) -> Result<MoveRoom, HypervisorError> {
        self.gate.pass("move_prepare");
        self.simulator.move_prepare(id, asked, until)
    }
    fn move_rooms(&self) -> Result<Vec<(VmId, Timestamp)>, HypervisorError> {
        self.simulator.move_rooms()
    }
    fn move_send(&self, id: VmId, order: &MoveSend, way: &Way, cx: &Cx) -> Result<MoveSent, HypervisorError> {
        self.gate.pass("move_send");
        self.simulator.move_send(id, order, way, cx)
    }
    fn move_receive(&self, id: VmId, from: UnixStream) -> Result<(), HypervisorError> {
        self.gate.pass("move_receive");
        self.simulator.move_receive(id, from)
    }
    fn move_has_arrived(&self, id: VmId) -> Result<bool, HypervisorError> {
        self.simulator.move_has_arrived(id)
    }
    fn move_finish(&self, id: VmId) -> Result<MoveArrived, HypervisorError> {
        self.gate.pass("move_finish");
        self.simulator.move_finish(id)
    }
    fn move_abort(&self, id: VmId) -> Result<(), HypervisorError> {
        self.gate.pass("move_abort");
        self.simulator.move_abort(id)
    }
    fn console(&self, id: VmId, kind: ConsoleKind) -> Result<UnixStream, HypervisorError> {
        self.gate.pass("console");
        self.simulator.console(id, kind)
    }
    fn console_log(&self, id: VmId, max_bytes: usize) -> Result<Vec<u8>, HypervisorError> {
        self.gate.pass("console_log");
        self.simulator.console_log(id, max_bytes)
    }
    fn screenshot(&self, id: VmId) -> Result<Picture, HypervisorError> {
        self.gate.pass("screenshot");
        self.simulator.screenshot(id)
    }
    fn send_keys(&self, id: VmId, codes: &[u32], hold: Duration) -> Result<(), HypervisorError> {
        self.gate.pass("send_keys");
        self.simulator.send_keys(id, codes, hold)
    }
    fn orphans(&self) -> Result<Vec<Found<'_>>, HypervisorError> {
        self.simulator.orphans()
    }
    fn checks(&self) -> Vec<NodeCheck> {
        self.simulator.checks()
    }
    fn ask_guest(
        &self,
        id: VmId,
        words: &serde_json::Value,
        patience: Duration,
    ) -> Result<serde_json::Value, HypervisorError> {
        self.gate.pass("ask_guest");
        self.simulator.ask_guest(id, words, patience)
    }
    fn counters(&self) -> Result<Vec<CounterSample>, HypervisorError> {
        self.gate.pass("counters");
        self.simulator.counters()
    }
    fn storage(&self) -> &Storage {
        self.simulator.storage()
    }
    fn volume_resize(&self, id: VolumeId, size: ByteSize) -> Result<Volume, HypervisorError> {
        self.gate.pass("volume_resize");
        self.simulator.volume_resize(id, size)
    }
    fn snapshots(&self, id: VmId) -> Result<Vec<Snapshot>, HypervisorError> {
        self.gate.pass("snapshots");
        self.simulator.snapshots(id)
    }
    fn snapshot_create(&self, id: VmId, name: &Name) -> Result<Snapshot, HypervisorError> {
        self.gate.pass("snapshot_create");
        self.simulator.snapshot_create(id, name)
    }
    fn snapshot_revert(&self, id: VmId, name: &Name) -> Result<Vm, HypervisorError> {
        self.gate.pass("snapshot_revert");
        self.simulator.snapshot_revert(id, name)
    }
    fn snapshot_delete(&self, id: VmId, name: &Name) -> Result<(), HypervisorError> {
        self.gate.pass("snapshot_delete");
        self.simulator.snapshot_delete(id, name)
    }
    fn disk_export(&self, cx: &Cx, id: VmId, to: &Path) -> Result<(), HypervisorError> {
        self.gate.pass("disk_export");
        self.simulator.disk_export(cx, id, to)
    }
    fn events(&self) -> broadcast::Receiver<VmEvent> {
        self.simulator.events()
    }
    fn tend(&self) -> Result<(), HypervisorError> {
        self.simulator.tend()
    }
    fn guard(&self, lease: Arc<Lease>) {
        self.simulator.guard(lease);
    }
    fn marked(&self) -> Vec<VmId> {
        self.simulator.marked()
    }
    fn fence(&self, ids: &[VmId]) -> Vec<(VmId, Result<(), HypervisorError>)> {
        self.simulator.fence(ids)
    }
    fn network(&self) -> Result<NetworkState, HypervisorError> {
        self.simulator.network()
    }
    fn traffic(&self) -> Result<TrafficList, HypervisorError> {
        self.simulator.traffic()
    }
    fn leases(&self, id: VmId) -> Result<LeaseList, HypervisorError> {
        self.simulator.leases(id)
    }
    fn put_network(&self, id: PrivateNetworkId, network: &PrivateNetwork) -> Result<(), HypervisorError> {
        self.simulator.put_network(id, network)
    }
    fn delete_network(&self, id: PrivateNetworkId) -> Result<(), HypervisorError> {
        self.simulator.delete_network(id)
    }
}

impl Machines for Gated {
    fn shutdown(&self, id: VmId, wait: Duration, cx: &Cx) -> Result<Vm, HypervisorError> {
        self.gate.pass("shutdown");
        self.simulator.shutdown(id, wait, cx)
    }
    fn save(&self, id: VmId, cx: &Cx) -> Result<Vm, HypervisorError> {
        self.gate.pass("save");
        self.simulator.save(id, cx)
    }
    fn rebuild(&self, id: VmId, rebuild: &VmRebuild, cx: &Cx) -> Result<Vm, HypervisorError> {
        self.gate.pass("rebuild");
        self.simulator.rebuild(id, rebuild, cx)
    }
    fn rescue_on(&self, id: VmId, rescue: &Rescue) -> Result<Vm, HypervisorError> {
        self.gate.pass("rescue_on");
        self.simulator.rescue_on(id, rescue)
    }
    fn rescue_off(&self, id: VmId) -> Result<Vm, HypervisorError> {
        self.gate.pass("rescue_off");
        self.simulator.rescue_off(id)
    }
    fn remove(&self, id: VmId, how: &VmDelete, cx: &Cx) -> Result<(), HypervisorError> {
        self.gate.pass("delete");
        self.simulator.remove(id, how, cx)
    }
    fn kept(&self) -> Result<Vec<KeptDisk>, HypervisorError> {
        self.gate.pass("kept");
        self.simulator.kept()
    }
    fn delete_kept(&self, name: &Name) -> Result<(), HypervisorError> {
        self.gate.pass("delete_kept");
        self.simulator.delete_kept(name)
    }
}

/// TLS as a caller with this certificate speaks it.
pub fn tls_client(agent: &Pki, pair: &crate::pki::Pair) -> Arc<rustls::ClientConfig> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(agent.ca_pem().as_bytes()).unwrap()).unwrap();
    let certificate = CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .unwrap();
    Arc::new(config)
}
