//! Sizes, limits, samples and guests through the API, with the simulator's guest agent.

use std::time::Duration;

use berth_model::ErrorCode;
use berth_model::VmId;
use berth_model::agent::{
    Frozen, GuestInfo, HoldsFrom, HostnameSet, SampleList, Thawed, TimeSynced, Trimmed, Vm, VmSpec,
    WantedPower,
};
use berth_model::error::ApiError;
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::support::{Agent, PATIENCE, answer, spec};

async fn ask<T: DeserializeOwned>(
    agent: &Agent,
    method: Method,
    path: &str,
    body: Value,
) -> Result<T, ApiError> {
    answer(agent.request(method, path).json(&body).send().await.unwrap()).await
}

async fn post<T: DeserializeOwned>(agent: &Agent, path: &str, body: Value) -> Result<T, ApiError> {
    ask(agent, Method::POST, path, body).await
}

#[tokio::test]
async fn a_vm_is_resized_and_limited_and_the_answer_says_what_waits() {
    let _proof = berth_agent::proof::driver(&["vm.resize", "vm.limits"]);
    let agent = Agent::start().await;
    agent.put_vm(1, &VmSpec { vcpus_max: Some(4), ..spec() }).await.unwrap();
    let vm: Vm = post(&agent, "/v1/vms/1/resize", json!({"vcpus": 3})).await.unwrap();
    let now = vm.spec.unwrap();
    assert_eq!((now.vcpus, now.memory, vm.pending), (3, spec().memory, vec![]));
    let vm: Vm = post(&agent, "/v1/vms/1/resize", json!({"vcpus": 8, "memory": 2_u64 << 30})).await.unwrap();
    assert_eq!(vm.pending, ["vcpus", "memory", "vcpus_max"]);
    assert_eq!(agent.get::<Vm>("/v1/vms/1").await, vm);
    let limits = json!({"cpu_percent": 50, "disk_read_iops": 100});
    let vm: Vm = ask(&agent, Method::PUT, "/v1/vms/1/limits", limits).await.unwrap();
    assert_eq!(vm.spec.unwrap().limits.cpu_percent, Some(50));
    let vm: Vm = ask(&agent, Method::PUT, "/v1/vms/1/limits", json!({})).await.unwrap();
    assert!(vm.spec.unwrap().limits.is_none());

    for (path, body, field) in [
        ("resize", json!({"disk": 1}), "disk"),
        ("resize", json!({"disk": 1 << 20}), "disk"),
        ("resize", json!({"vcpus": 129}), "vcpus"),
        ("resize", json!({"vcpus": 4, "vcpus_max": 2}), "vcpus_max"),
        ("resize", json!({"color": 1}), "color"),
    ] {
        let refused = post::<Vm>(&agent, &format!("/v1/vms/1/{path}"), body).await.unwrap_err();
        assert!(refused.for_field(field).is_some(), "{field}: {refused:?}");
    }
    let refused = ask::<Vm>(&agent, Method::PUT, "/v1/vms/1/limits", json!({"cpu_percent": 0})).await;
    assert!(refused.unwrap_err().for_field("cpu_percent").is_some());
    let nobody = post::<Vm>(&agent, "/v1/vms/2/resize", json!({"vcpus": 1})).await.unwrap_err();
    assert_eq!(nobody.code, ErrorCode::NotFound);

    // A VM that is off stays off.
    agent.put_vm(3, &VmSpec { power: WantedPower::Off, ..spec() }).await.unwrap();
    let vm: Vm = post(&agent, "/v1/vms/3/resize", json!({"vcpus": 8})).await.unwrap();
    assert_eq!((vm.started, vm.pending), (None, vec![]));
}

#[tokio::test]
async fn a_guest_is_told_and_asked() {
    let _proof = berth_agent::proof::driver(&[
        "guest.info",
        "guest.set_password",
        "guest.set_ssh_keys",
        "guest.set_hostname",
        "guest.freeze",
        "guest.thaw",
        "guest.trim",
        "guest.sync_time",
    ]);
    let agent = Agent::start().await;
    agent.put_vm(1, &spec()).await.unwrap();
    let id = VmId(1);
    let info: GuestInfo = agent.get("/v1/vms/1/guest").await;
    assert_eq!((info.hostname.as_deref(), info.time_zone.as_deref()), (Some("a-guest"), Some("UTC")));

    let hash = "$6$salt$hash";
    post::<()>(&agent, "/v1/vms/1/guest/password", json!({"password_hash": hash})).await.unwrap();
    agent.simulator.guest(id, |guest| assert_eq!(guest.passwords["root"], hash));
    let refused = post::<()>(&agent, "/v1/vms/1/guest/password", json!({"password_hash": "plain"})).await;
    let refused = refused.unwrap_err();
    assert!(refused.for_field("password_hash").is_some());
    assert!(!refused.message.contains("plain"));

    let keys = json!({"user": "mara", "ssh_keys": ["ssh-ed25519 AAAA a"]});
    post::<()>(&agent, "/v1/vms/1/guest/ssh_keys", keys).await.unwrap();
    agent.simulator.guest(id, |guest| assert_eq!(guest.ssh_keys["mara"], ["ssh-ed25519 AAAA a"]));

    let set: HostnameSet =
        post(&agent, "/v1/vms/1/guest/hostname", json!({"hostname": "pier-9"})).await.unwrap();
    assert_eq!(set.holds_from, HoldsFrom::Now);
    assert_eq!(agent.get::<GuestInfo>("/v1/vms/1/guest").await.hostname.as_deref(), Some("pier-9"));
    assert_eq!(agent.get::<Vm>("/v1/vms/1").await.spec.unwrap().seed.hostname, "pier-9");

    agent.simulator.guest(id, |guest| guest.ahead_ns = -3_600_000_000_000);
    let synced: TimeSynced = post(&agent, "/v1/vms/1/guest/sync_time", json!({})).await.unwrap();
    assert!(synced.ahead_before_ms <= -3_599_000 && synced.ahead_ms.abs() <= 2000, "{synced:?}");

    let trimmed: Trimmed = post(&agent, "/v1/vms/1/guest/trim", json!({})).await.unwrap();
    assert_eq!(trimmed.file_systems[0].mounted_at, "/");

    post::<Frozen>(&agent, "/v1/vms/1/guest/freeze", json!({"limit_s": 600})).await.unwrap();
    agent.simulator.guest(id, |guest| assert!(guest.frozen));
    let thawed: Thawed = post(&agent, "/v1/vms/1/guest/thaw", json!({})).await.unwrap();
    assert_eq!(thawed.file_systems, 1);
    assert_eq!(std::fs::read_dir(agent.home.path().join("frozen")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_guest_that_stood_still_gets_the_time_and_another_keeps_its_own() {
    let agent = Agent::start().await;
    let (id, hour_ns) = (VmId(1), 3_600_000_000_000_i64);
    agent.put_vm(1, &spec()).await.unwrap();
    let behind = || agent.simulator.guest(id, |guest| guest.ahead_ns < -hour_ns / 2);
    for (stop, go_on) in [("pause", "resume"), ("save", "start")] {
        post::<Vm>(&agent, &format!("/v1/vms/1/{stop}"), json!({})).await.unwrap();
        agent.simulator.guest(id, |guest| guest.ahead_ns = -hour_ns);
        post::<Vm>(&agent, &format!("/v1/vms/1/{go_on}"), json!({})).await.unwrap();
        let until = std::time::Instant::now() + PATIENCE;
        while behind() {
            assert!(std::time::Instant::now() < until, "its clock was not set after {go_on}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
    agent.simulator.guest(id, |guest| guest.ahead_ns = -hour_ns);
    for verb in ["resume", "start"] {
        post::<Vm>(&agent, &format!("/v1/vms/1/{verb}"), json!({})).await.unwrap();
    }
    assert!(behind(), "it ran all the time");
}

#[tokio::test]
async fn a_freeze_ends_by_itself() {
    let _proof = berth_agent::proof::driver(&["guest.freeze"]);
    let agent = Agent::start().await;
    agent.put_vm(1, &spec()).await.unwrap();
    let frozen: Frozen = post(&agent, "/v1/vms/1/guest/freeze", json!({"limit_s": 1})).await.unwrap();
    let until = std::time::Instant::now() + PATIENCE;
    while agent.simulator.guest(VmId(1), |guest| guest.frozen) {
        assert!(std::time::Instant::now() < until, "it stays frozen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(berth_agent::clock::now() >= frozen.until);
}

#[tokio::test]
async fn a_guest_agent_that_is_silent_is_named_and_nothing_has_changed() {
    let agent = Agent::start().await;
    agent.put_vm(1, &spec()).await.unwrap();
    agent.simulator.guest(VmId(1), |guest| guest.silent = true);
    let cases = [("hostname", json!({"hostname": "b"})), ("freeze", json!({})), ("sync_time", json!({}))];
    for (path, body) in cases {
        let refused = post::<Value>(&agent, &format!("/v1/vms/1/guest/{path}"), body).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::Unavailable, "{path}");
        assert!(refused.message.contains("guest agent"), "{refused:?}");
    }
    assert_eq!(agent.get::<Vm>("/v1/vms/1").await.spec.unwrap().seed.hostname, "a-guest");
    assert!(!agent.home.path().join("frozen").join("1").exists());
    agent.put_vm(2, &VmSpec { power: WantedPower::Off, ..spec() }).await.unwrap();
    let off = post::<Value>(&agent, "/v1/vms/2/guest/trim", json!({})).await.unwrap_err();
    assert_eq!(off.code, ErrorCode::Conflict);
}

#[tokio::test]
async fn samples_are_of_all_or_of_those_that_are_named() {
    let _proof = berth_agent::proof::driver(&["samples.get"]);
    let agent = Agent::start().await;
    for id in 1..=3 {
        agent.put_vm(id, &spec()).await.unwrap();
    }
    let vms = |list: SampleList| list.samples.iter().map(|sample| sample.vm.0).collect::<Vec<_>>();
    assert_eq!(vms(post(&agent, "/v1/samples", json!({})).await.unwrap()), [1, 2, 3]);
    assert_eq!(vms(post(&agent, "/v1/samples", json!({"vms": [3, 9]})).await.unwrap()), [3]);
    let list: SampleList = post(&agent, "/v1/samples", json!({"vms": [1]})).await.unwrap();
    assert_eq!((list.samples[0].disks.len(), list.samples[0].nics.len()), (1, 1));

    let page = agent.request(Method::GET, "/metrics").send().await.unwrap();
    assert!(page.headers()["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    let page = page.text().await.unwrap();
    for line in ["berth_vm_cpu_seconds_total{vm=\"3\"} ", "berth_node_vms{state=\"running\"} 3"] {
        assert!(page.contains(line), "{line} is missing:\n{page}");
    }
}
