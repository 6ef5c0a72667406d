//! What keeps a disk from being written to on two nodes: storage leases, and a node that fences itself.
//! Nodes of their own, with their own libvirt, in namespaces.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod libvirt_common;
mod netns;
#[path = "common/pki.rs"]
mod pki;
mod private_node;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use berth_agent::identity::{Identity, NewKey};
use berth_agent::{clock, proof};
use berth_model::agent::{
    FENCING_S, LeaseGrant, LeaseState, Nic, Node, NodeChecks, NodeLease, VmSpec, VmState, Volume,
    VolumeAttachment, WantedPower,
};
use berth_model::{NodeId, VmId, VolumeId};
use libvirt_common::{TINY, spec, tiny, wait_for};
use netns::Namespace;
use pki::Pki;
use private_node::{PrivateNode, Site, put_file};

const ONE: VmId = VmId(7);
const TWO: VmId = VmId(8);

fn guest(n: u8, volumes: &[i64]) -> VmSpec {
    let attachment = |volume: &i64| VolumeAttachment { volume: VolumeId(*volume), read_only: false };
    VmSpec {
        nics: vec![Nic { mac: format!("52:54:00:be:60:{n:02x}"), ..Nic::default() }],
        volumes: volumes.iter().map(attachment).collect(),
        ..spec(TINY)
    }
}

fn marked(n: u8) -> VmSpec {
    VmSpec { failover: true, ..guest(n, &[]) }
}

fn give_image(node: &PrivateNode) {
    put_file(&tiny("BERTH_TINY_IMAGE", "tiny.qcow2"), &node.home.join(format!("data/images/{TINY}.qcow2")));
}

fn leases_of(node: &PrivateNode) -> (bool, String) {
    let checks: NodeChecks = node.get(&["node", "check"]);
    let check = checks.checks.into_iter().find(|check| check.check == "storage leases").unwrap();
    (check.ok, check.sentence)
}

/// Ends the agent in a guest, as a customer may.
fn silence_agent(node: &PrivateNode, id: VmId) {
    let ask = |words: &str| {
        let domain = format!("t-{id}");
        node.run("virsh", &["-c", "qemu:///system", "qemu-agent-command", &domain, words, "--timeout", "5"])
    };
    let script = "(sleep 1; kill $(cat /run/qemu-ga.pid)) >/dev/null 2>&1 &";
    let exec = serde_json::json!({"execute": "guest-exec", "arguments": {
        "path": "/bin/sh", "arg": ["-c", script], "env": ["PATH=/bin:/sbin:/usr/bin:/usr/sbin"],
    }});
    wait_for("the guest's agent", || ask(&exec.to_string()).status.success().then_some(()));
    wait_for("its silence", || (!ask("{\"execute\":\"guest-ping\"}").status.success()).then_some(()));
}

#[test]
fn no_disk_is_written_to_on_two_nodes() {
    let _proof = proof::guest(&["vm.start", "volume.attach", "node.check"]);
    let site = Site::new();
    let shared = format!(
        "[[pools]]\nname = \"shared\"\nkind = \"directory\"\npath = \"{}\"\nshared = true\n",
        site.shared().display()
    );

    // Without leases nothing is done that could end badly.
    {
        let mut bare = PrivateNode::start(&site, "n3", false);
        bare.start_agent(&shared);
        give_image(&bare);
        let said = bare.try_put(ONE, &marked(1)).unwrap_err();
        assert!(
            said.contains("VM 7 cannot be marked for failover") && said.contains("lock_manager"),
            "{said}"
        );
        let _made: Volume = bare.get(&["volume", "create", "6", "--size", "67108864", "--pool", "shared"]);
        let said = bare.try_put(ONE, &guest(1, &[6])).unwrap_err();
        assert!(said.contains("volume 6, which lies in a shared pool"), "{said}");
        assert!(!leases_of(&bare).0);
        let node: Node = bare.get(&["node"]);
        assert!(!node.facts.storage_leases);
    }

    let [mut one, mut two] = ["n1", "n2"].map(|name| PrivateNode::start(&site, name, true));
    for node in [&mut one, &mut two] {
        node.start_agent(&shared);
        give_image(node);
        let _made: Volume =
            node.get(&["volume", "create", "5", "--size", "67108864", "--pool", "shared", "--format", "raw"]);
    }
    one.put(ONE, &guest(1, &[5]));
    wait_for("facts", || one.get::<Node>(&["node"]).facts.storage_leases.then_some(()));
    let (ok, sentence) = leases_of(&one);
    assert!(ok, "{sentence}");

    // The same VM on another node, with a disk file of its own there: QEMU's own locks know nothing of that.
    let said = two.try_put(ONE, &guest(1, &[])).unwrap_err();
    assert!(said.contains("VM 7 cannot write to its disk (") && said.contains("another node"), "{said}");
    assert_eq!(two.vm(ONE).state, VmState::Off);
    assert_eq!(two.qemu(ONE), None);

    // Another VM with the same volume: at its start, and plugged into it while it runs.
    let said = two.try_put(TWO, &guest(2, &[5])).unwrap_err();
    assert!(said.contains("VM 8 cannot write to volume 5 (") && said.contains("another node"), "{said}");
    two.put(TWO, &VmSpec { power: WantedPower::On, ..guest(2, &[]) });
    let said = two.try_put(TWO, &guest(2, &[5])).unwrap_err();
    assert!(said.contains("VM 8 cannot write to volume 5 (") && said.contains("another node"), "{said}");

    // What runs is not hurt by those who tried. It keeps its lease when it is rebooted by its power button.
    one.wait_for_boot(ONE, 1);
    silence_agent(&one, ONE);
    assert!(one.ask(&["vm", "reboot", "7"]).status.success());
    one.wait_for_boot(ONE, 2);
    assert_eq!(one.vm(ONE).state, VmState::Running);
    let (ok, sentence) = leases_of(&one);
    assert!(ok, "{sentence}");

    // Free once its QEMU is dead, however it died.
    one.signal("-9", one.qemu(ONE).unwrap());
    wait_for("the VM's end", || (one.vm(ONE).state == VmState::Crashed).then_some(()));
    two.put(ONE, &guest(1, &[]));
    assert!(one.ask(&["vm", "start", "7"]).status.code() != Some(0), "it is two's now");

    // Whoever holds no lease any more is found, and the lease is free.
    two.signal("-9", two.daemon("virtlockd"));
    let _gone = two.run("rm", &["-f", "/run/virtlockd.pid"]);
    two.start_daemon("virtlockd");
    let (ok, sentence) = leases_of(&two);
    assert!(!ok && sentence.contains("runs without a lease on its disk"), "{sentence}");
    one.put(ONE, &guest(1, &[]));
}

/// The control plane's side of a node's lease: it renews it over mutual TLS as long as it lives and is reached.
struct Plane {
    space: Arc<Namespace>,
    client: Arc<dyn Fn() -> reqwest::Client + Send + Sync>,
    goes_on: Arc<AtomicBool>,
    renewing: Option<JoinHandle<()>>,
}

const TTL_S: u32 = 5;
const FENCE_AFTER_S: u32 = 3;
const AGENT: &str = "https://10.9.0.2:7701";

impl Plane {
    /// Enrols the node's agent by hand, and joins the node by a cable.
    fn join(node: &PrivateNode) -> Self {
        let pki = Pki::new();
        let key = NewKey::draw("a-node").unwrap();
        let identity = Identity {
            node: NodeId(7),
            address: AGENT.to_owned(),
            ca_pem: pki.ca_pem(),
            certificate_pem: pki.sign(&key.csr_pem),
            key_pem: key.key_pem,
        };
        identity.store(&node.home.join("data/tls")).unwrap();
        let space = Arc::new(Namespace::new());
        space.ip(&format!("link add eth0 type veth peer name eth0 netns {}", node.space.name()));
        for (space, address) in [(space.as_ref(), "10.9.0.1/24"), (&node.space, "10.9.0.2/24")] {
            space.ip(&format!("addr add {address} dev eth0"));
            space.ip("link set eth0 up");
        }
        let client = move || {
            let _ = rustls::crypto::ring::default_provider().install_default();
            let pair = pki.client("control-plane.berth.internal");
            let own = format!("{}{}", pair.certificate_pem, pair.key_pem);
            reqwest::Client::builder()
                .no_proxy()
                .tls_certs_only([reqwest::Certificate::from_pem(pki.ca_pem().as_bytes()).unwrap()])
                .identity(reqwest::Identity::from_pem(own.as_bytes()).unwrap())
                // The certificate is for the agent's name.
                .resolve("node-7.berth.internal", "10.9.0.2:7701".parse().unwrap())
                .timeout(Duration::from_secs(2))
                .build()
                .unwrap()
        };
        Self { space, client: Arc::new(client), goes_on: Arc::default(), renewing: None }
    }

    /// Renews from now on, in a new term.
    fn renew(&mut self, term: u64) {
        self.goes_on.store(true, Ordering::Relaxed);
        let (space, client, goes_on) =
            (Arc::clone(&self.space), Arc::clone(&self.client), Arc::clone(&self.goes_on));
        self.renewing = Some(std::thread::spawn(move || space.within(|| renew(&*client, term, &goes_on))));
    }

    fn stop(&mut self) {
        self.goes_on.store(false, Ordering::Relaxed);
        if let Some(renewing) = self.renewing.take() {
            renewing.join().unwrap();
        }
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.goes_on.store(false, Ordering::Relaxed);
    }
}

fn renew(client: &dyn Fn() -> reqwest::Client, term: u64, goes_on: &AtomicBool) {
    let url = "https://node-7.berth.internal:7701/v1/node/lease";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = client();
        let mut seen: Option<NodeLease> = None;
        while goes_on.load(Ordering::Relaxed) {
            let request = match seen.take() {
                None => client.get(url),
                Some(NodeLease { now: from, .. }) => client.put(url).json(&LeaseGrant {
                    term,
                    from,
                    ttl_s: TTL_S,
                    fence_after_s: FENCE_AFTER_S,
                }),
            };
            if let Ok(response) = request.send().await {
                seen = response.json().await.ok();
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
}

fn lease(node: &PrivateNode) -> NodeLease {
    node.get(&["node", "lease-status"])
}

fn wait_until_held(node: &PrivateNode, term: u64) {
    let held = |lease: NodeLease| lease.state == LeaseState::Held && lease.term == Some(term);
    wait_for("the lease", || held(lease(node)).then_some(()));
}

/// Waits until the QEMU of a VM is gone, and says how long that took.
fn wait_for_end(node: &PrivateNode, id: VmId, since: Instant) -> Duration {
    wait_for("the VM's QEMU to be gone", || node.qemu(id).is_none().then_some(()));
    since.elapsed()
}

#[test]
fn a_node_that_is_cut_off_stops_what_may_run_elsewhere() {
    let _proof = proof::guest(&["node.lease", "node.lease_status", "node.lease_end"]);
    let site = Site::new();
    let mut node = PrivateNode::start(&site, "n1", true);
    let mut plane = Plane::join(&node);
    node.start_agent("listen = \"10.9.0.2:7701\"\n");
    give_image(&node);

    // As long as there never was a lease, a marked VM is like any other.
    node.put(ONE, &marked(1));
    let stays = node.put(TWO, &guest(2, &[]));
    assert_eq!((lease(&node).state, lease(&node).marked), (LeaseState::None, vec![ONE]));
    plane.renew(1);
    wait_until_held(&node, 1);
    node.wait_for_boot(ONE, 1);
    node.wait_for_boot(TWO, 1);

    // Its cable is pulled.
    let (cut, left) = (Instant::now(), lease(&node));
    node.space.ip("link set eth0 down");
    let took = wait_for_end(&node, ONE, cut);
    // Measured from outside; the last renewal may have come between the look and the cut.
    let most = Duration::from_secs((TTL_S + FENCE_AFTER_S + FENCING_S).into());
    let least = Duration::from_millis(left.left_ms);
    assert!((least..most).contains(&took), "{took:?}");
    // libvirt notices a moment after the process is gone, and the agent tells of it once both have.
    wait_for("libvirt's word", || (node.vm(ONE).state == VmState::Off).then_some(()));
    let told = || node.agent_log().contains("a VM marked for failover was powered off").then_some(());
    wait_for("the agent's word", told);
    assert_eq!(node.vm(TWO).started, stays.started, "the other runs on");
    assert_eq!(lease(&node).state, LeaseState::Fenced);
    let health = node.get::<Node>(&["node"]).health;
    assert!(
        health.faults.iter().any(|fault| fault.contains("no lease") && fault.contains("(7)")),
        "{health:?}"
    );
    assert!(node.refused(&["vm", "start", "7"]).contains("lease in the control plane has ended"));

    // The cable is back: nothing starts by itself, and what is told to start does.
    node.space.ip("link set eth0 up");
    wait_until_held(&node, 1);
    assert_eq!(node.vm(ONE).state, VmState::Off);
    assert!(node.refused(&["vm", "autostart", "7", "--on"]).contains("does not start with its node"));
    assert!(node.ask(&["vm", "start", "7"]).status.success());
    node.wait_for_boot(ONE, 2);

    // The agent is dead while the time runs out, and libvirt hangs when it comes back.
    plane.stop();
    let last = lease(&node);
    let over_ms = last.now.ms + last.fenced_in_ms;
    node.kill_agent();
    let libvirtd = node.daemon("libvirtd");
    node.signal("-STOP", libvirtd);
    wait_for("the time to be over", || (clock::since_boot().ms > over_ms).then_some(()));
    assert!(node.qemu(ONE).is_some(), "nobody was there to end it");
    let back = Instant::now();
    node.start_agent_again();
    let took = wait_for_end(&node, ONE, back);
    assert!(took < Duration::from_secs(60), "at once, but for the agent's own start: {took:?}");
    assert!(node.qemu(TWO).is_some());
    node.signal("-CONT", libvirtd);
    wait_for("libvirt's word", || node.ask(&["vm", "get", "8"]).status.success().then_some(()));
    wait_for("the VM's end", || (!node.vm(ONE).state.is_on()).then_some(()));
    assert_eq!(node.vm(TWO).started, stays.started);

    // A control plane that gave up failover lets the node go.
    assert!(node.refused(&["vm", "start", "7"]).contains("has ended"));
    assert_eq!(node.get::<NodeLease>(&["node", "lease-end"]).state, LeaseState::None);
    assert!(node.ask(&["vm", "start", "7"]).status.success());
    assert_eq!(node.vm(ONE).state, VmState::Running);
    assert!(Path::new(&node.home.join("data/vms/7/failover")).exists());
    node.put(ONE, &guest(1, &[]));
    assert_eq!(lease(&node).marked, []);
}
