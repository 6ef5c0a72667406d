//! The node's lease in the control plane, on the simulator: grants, the end, restarts, and clocks that jump.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use berth_agent::hypervisor::Hypervisor as _;
use berth_model::ErrorCode;
use berth_model::agent::{
    LeaseGrant, LeaseState, Node, NodeLease, NodeMoment, PowerVerb, RunList, VmSpec, VmState,
};
use reqwest::Method;
use tempfile::TempDir;

use crate::cli::command_of;
use crate::support::{Agent, PATIENCE, answer, spec};

fn marked() -> VmSpec {
    VmSpec { failover: true, ..spec() }
}

fn grant(term: u64, from: NodeMoment, ttl_s: u32) -> LeaseGrant {
    LeaseGrant { term, from, ttl_s, fence_after_s: 0 }
}

#[tokio::test]
async fn marked_vms_run_while_the_lease_is_held() {
    let _proof = berth_agent::proof::driver(&["node.lease", "node.lease_status", "node.lease_end"]);
    let agent = Agent::start_with(|config| config.limits.lease_every = Duration::from_millis(20)).await;
    agent.put_vm(1, &marked()).await.unwrap();
    agent.put_vm(2, &spec()).await.unwrap();
    let status = async |agent: &Agent| agent.get::<NodeLease>("/v1/node/lease").await;
    let put = async |agent: &Agent, grant: &LeaseGrant| {
        let response = agent.request(Method::PUT, "/v1/node/lease").json(grant).send().await.unwrap();
        answer::<NodeLease>(response).await
    };
    let until = async |agent: &Agent, what: &str, reached: &dyn Fn(&Agent) -> bool| {
        let until = Instant::now() + PATIENCE;
        while !reached(agent) {
            assert!(Instant::now() < until, "waited in vain for {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let runs = |agent: &Agent, id: i64| agent.simulator.get(berth_model::VmId(id)).unwrap().state.is_on();

    let none = status(&agent).await;
    assert_eq!((none.state, none.term, none.marked.len()), (LeaseState::None, None, 1));
    let wrong = put(&agent, &grant(0, none.now.clone(), 0)).await.unwrap_err();
    assert_eq!(wrong.code, ErrorCode::InvalidInput);
    let held = put(&agent, &grant(4, none.now.clone(), 3600)).await.unwrap();
    assert_eq!((held.state, held.term), (LeaseState::Held, Some(4)));
    assert_eq!(
        put(&agent, &grant(4, none.now.clone(), 3600)).await.unwrap().state,
        LeaseState::Held,
        "told twice"
    );
    let old = put(&agent, &grant(3, held.now.clone(), 60)).await.unwrap_err();
    assert_eq!(old.code, ErrorCode::Conflict);

    // It lives for a second: then the marked VM goes off, and no other. Under load the second may be over
    // before the grant is there.
    let late = async || put(&agent, &grant(5, status(&agent).await.now, 1)).await.is_err();
    while late().await {}
    until(&agent, "the VM's end", &|agent| !runs(agent, 1)).await;
    assert!(runs(&agent, 2));
    assert_eq!(status(&agent).await.state, LeaseState::Fenced);
    let faults = agent.get::<Node>("/v1/node").await.health.faults;
    assert!(faults.iter().any(|fault| fault.contains("no lease in the control plane")), "{faults:?}");
    let refused = agent.power(1, PowerVerb::Start).await.unwrap_err();
    assert!(refused.message.contains("has ended"), "{}", refused.message);
    assert!(agent.put_vm(1, &marked()).await.is_err(), "nor by a spec");
    assert!(
        agent.put_vm(2, &VmSpec { failover: true, ..spec() }).await.is_err(),
        "nor is another marked that runs"
    );
    let until_logged = Instant::now() + PATIENCE;
    while !agent.get::<RunList>("/v1/runs").await.runs.iter().any(|run| run.function == "node.fence") {
        assert!(Instant::now() < until_logged, "it is not in the log");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    // A new grant lets it start, when told.
    let now = status(&agent).await.now;
    put(&agent, &grant(5, now, 3600)).await.unwrap();
    assert!(!runs(&agent, 1), "nothing starts by itself");
    agent.power(1, PowerVerb::Start).await.unwrap();
    let response = agent.request(Method::DELETE, "/v1/node/lease").send().await.unwrap();
    assert_eq!(answer::<NodeLease>(response).await.unwrap().state, LeaseState::None);
    assert!(runs(&agent, 1));
}

/// Debian's package libfaketime.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// An agent whose wall clock a file sets; nothing else of its time is false.
struct Jumping {
    home: TempDir,
    child: Child,
}

impl Jumping {
    fn start() -> Self {
        assert!(Path::new(FAKETIME).exists(), "install the package libfaketime");
        let home = tempfile::tempdir().unwrap();
        let config = format!(
            "data_dir = \"{}\"\nlisten = \"127.0.0.1:0\"\nhypervisor = \"simulator\"\n",
            home.path().display()
        );
        std::fs::write(home.path().join("agent.toml"), config).unwrap();
        let clock = home.path().join("clock");
        std::fs::write(&clock, "+0").unwrap();
        let child = command_of(Path::new(env!("CARGO_BIN_EXE_berth-agent")), home.path())
            .arg("serve")
            .env("LD_PRELOAD", FAKETIME)
            .env("FAKETIME_TIMESTAMP_FILE", &clock)
            .envs([
                ("FAKETIME_NO_CACHE", "1"),
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
                ("DONT_FAKE_MONOTONIC", "1"),
            ])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let agent = Self { home, child };
        agent.until("the agent's start", || agent.home.path().join("agent.sock").exists());
        agent
    }

    fn until(&self, what: &str, reached: impl Fn() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !reached() {
            assert!(Instant::now() < until, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sets its wall clock so far from the true one.
    fn jump(&self, to: &str) {
        let new = self.home.path().join("clock.new");
        std::fs::write(&new, to).unwrap();
        std::fs::rename(new, self.home.path().join("clock")).unwrap();
    }

    fn file(&self, name: &str, content: &impl serde::Serialize) -> PathBuf {
        let file = self.home.path().join(name);
        std::fs::write(&file, serde_json::to_vec(content).unwrap()).unwrap();
        file
    }

    fn ask<T: serde::de::DeserializeOwned>(&self, words: &[&str]) -> T {
        let mut command = command_of(Path::new(env!("CARGO_BIN_EXE_berth-agent")), self.home.path());
        let output = command.arg("--json").args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn lease(&self) -> NodeLease {
        self.ask(&["node", "lease-status"])
    }

    /// Is the agent's clock so many days from the true one?
    fn wall_clock_is_off_by(&self, days: i64) -> bool {
        let closed: Node = self.ask(&["node", "maintenance", "--on"]);
        let _open: Node = self.ask(&["node", "maintenance", "--on", "false"]);
        let off_ms = closed.maintenance.unwrap().since.unix_ms() - berth_agent::clock::now().unix_ms();
        (off_ms - days * 86_400_000).abs() < 3_600_000
    }
}

impl Drop for Jumping {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_clock_that_jumps_neither_fences_nor_keeps_alive() {
    let _proof = berth_agent::proof::driver(&["node.lease"]);
    let agent = Jumping::start();
    let mut image = vec![0; 4096];
    image[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    image[24..32].copy_from_slice(&(1_u64 << 30).to_be_bytes());
    let sha256 = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&image));
    std::fs::write(agent.home.path().join("image.qcow2"), &image).unwrap();
    let _image: serde_json::Value =
        agent.ask(&["image", "import", agent.home.path().join("image.qcow2").to_str().unwrap()]);
    let mut wanted = marked();
    wanted.image.sha256 = sha256;
    let file = agent.file("spec.json", &wanted);
    let _vm: berth_model::agent::Vm = agent.ask(&["vm", "put", "1", file.to_str().unwrap()]);
    let state = || agent.ask::<berth_model::agent::Vm>(&["vm", "get", "1"]).state;
    let take = |ttl_s| {
        let file = agent.file("grant.json", &grant(1, agent.lease().now, ttl_s));
        agent.ask::<NodeLease>(&["node", "lease", file.to_str().unwrap()])
    };

    // A year ahead: nothing ends.
    let before = take(600);
    agent.jump("+365d");
    agent.until("the jump", || agent.wall_clock_is_off_by(365));
    let after = agent.lease();
    assert_eq!(after.state, LeaseState::Held);
    assert_eq!(before.now.ms + before.left_ms, after.now.ms + after.left_ms, "it ends when it would have");
    assert_eq!(state(), VmState::Running);

    // A year back: it ends all the same.
    let short = take(10);
    assert_eq!(short.state, LeaseState::Held);
    agent.jump("-365d");
    agent.until("the jump", || agent.wall_clock_is_off_by(-365));
    agent.until("the VM's end", || state() == VmState::Off);
    let ended = agent.lease();
    assert!(ended.now.ms >= short.now.ms + short.left_ms, "not before its time");
    assert_eq!(ended.state, LeaseState::Fenced);
}
