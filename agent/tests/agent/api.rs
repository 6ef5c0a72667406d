//! Requests, good and bad.

use std::time::{Duration, Instant};

use berth_agent::hypervisor::Hypervisor;
use berth_model::agent::{PowerVerb, Run, RunList, Vm, VmList, VmSpec, VmState, WantedPower};
use berth_model::{ByteSize, ErrorCode, VmId};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Agent, PATIENCE, answer, spec};

#[tokio::test]
async fn a_vm_lives_over_the_api() {
    let agent = Agent::start().await;
    let made = agent.put_vm(41, &spec()).await.unwrap();
    assert_eq!((made.id, made.state), (VmId(41), VmState::Running));
    assert_eq!(agent.put_vm(41, &spec()).await.unwrap(), made, "told twice is fine");
    assert_eq!(agent.get::<Vm>("/v1/vms/41").await, made);
    assert_eq!(agent.get::<VmList>("/v1/vms").await.vms, [made]);
    let off = agent.power(41, PowerVerb::Shutdown).await.unwrap();
    assert_eq!(off.state, VmState::Off);
    assert_eq!(agent.power(41, PowerVerb::Reset).await.unwrap_err().code, ErrorCode::Conflict);
    assert_eq!(agent.power(42, PowerVerb::Start).await.unwrap_err().code, ErrorCode::NotFound);
}

#[tokio::test]
async fn bad_input_is_refused_by_field() {
    let agent = Agent::start().await;
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 10] = [
        ("vcpus", |s| s["vcpus"] = json!(0)),
        ("vcpus", |s| s["vcpus"] = json!("two")),
        ("memory", |s| s["memory"] = json!(1)),
        ("color", |s| s["color"] = json!("red")),
        ("seed", |s| drop(s.as_object_mut().unwrap().remove("seed"))),
        ("seed.hostname", |s| s["seed"]["hostname"] = json!("-")),
        ("seed.ssh_keys[0]", |s| s["seed"]["ssh_keys"] = json!(["a\nb"])),
        ("seed.name_servers[0]", |s| s["seed"]["name_servers"] = json!(["nowhere"])),
        ("nics[0].mac", |s| s["nics"][0]["mac"] = json!("x")),
        ("power", |s| s["power"] = json!("maybe")),
    ];
    for (field, change) in cases {
        let mut body = json!(spec());
        change(&mut body);
        let response = agent.request(Method::PUT, "/v1/vms/1").json(&body).send().await.unwrap();
        let refused = answer::<Vm>(response).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidInput, "{field}");
        assert!(refused.for_field(field).is_some(), "{field}: {refused:?}");
    }
    let mut two = json!(spec());
    two["vcpus"] = json!(0);
    two["disk"] = json!(0);
    let response = agent.request(Method::PUT, "/v1/vms/1").json(&two).send().await.unwrap();
    assert_eq!(answer::<Vm>(response).await.unwrap_err().details.unwrap().fields.len(), 2, "all at once");

    let others = [
        (Method::PUT, "/v1/vms/0", json!(spec()).to_string(), "vm"),
        (Method::GET, "/v1/vms/one", String::new(), "vm"),
        (Method::DELETE, "/v1/vms/-3", String::new(), "vm"),
        (Method::POST, "/v1/vms/01/start", String::new(), "vm"),
        (Method::DELETE, "/v1/images/ABC", String::new(), "sha256"),
        (Method::PUT, "/v1/certificate", "{}".to_owned(), "certificate_pem"),
    ];
    for (method, path, body, field) in others {
        let response = agent.request(method, path).body(body).send().await.unwrap();
        let refused = answer::<Value>(response).await.unwrap_err();
        assert!(refused.for_field(field).is_some(), "{path}: {refused:?}");
    }
    assert!(agent.simulator.list().unwrap().is_empty(), "nothing was touched");
}

#[tokio::test]
async fn what_is_no_json_or_too_long_is_refused() {
    let agent = Agent::start_with(|config| config.limits.body_bytes = 4096).await;
    let put = |body: String| agent.request(Method::PUT, "/v1/vms/1").body(body).send();
    for body in ["", "{", "[1,2"] {
        let refused = answer::<Vm>(put(body.to_owned()).await.unwrap()).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::JsonError, "{body}");
    }
    let refused = answer::<Vm>(put(" ".repeat(5000)).await.unwrap()).await.unwrap_err();
    assert!(refused.message.contains("4096"), "{refused:?}");
}

#[tokio::test]
async fn a_request_keeps_its_id() {
    let agent = Agent::start().await;
    let with = async |id: &str| {
        let response =
            agent.request(Method::GET, "/v1/vms/9").header("x-request-id", id).send().await.unwrap();
        response.headers()["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(with("job-17/step-2").await, "job-17/step-2", "also on an error");
    for bad in ["two words", "", &"x".repeat(129)] {
        let own = with(bad).await;
        assert!(own != bad && own.len() == 32, "{bad} became {own}");
    }
}

#[tokio::test]
async fn a_second_function_on_a_vm_is_refused_and_told_of_the_first() {
    let agent = Agent::start_with(|config| config.limits.vm_patience = Duration::from_millis(50)).await;
    agent.put_vm(1, &spec()).await.unwrap();
    agent.put_vm(2, &spec()).await.unwrap();
    agent.gate.shut();
    let second = async {
        agent.gate.until_waiting("power", 1).await;
        let refused = [
            agent.put_vm(1, &spec()).await.unwrap_err(),
            agent.power(1, PowerVerb::Start).await.unwrap_err(),
            answer::<()>(agent.request(Method::DELETE, "/v1/vms/1").send().await.unwrap()).await.unwrap_err(),
        ];
        agent.gate.open();
        refused
    };
    let (first, second) = tokio::join!(agent.power(1, PowerVerb::Reset), second);
    first.unwrap();
    for refused in second {
        assert_eq!(refused.code, ErrorCode::Conflict);
        assert!(refused.message.contains("VM 1 is busy with “vm.reset”"), "{refused:?}");
    }
    assert_eq!(agent.power(2, PowerVerb::Reset).await.unwrap().state, VmState::Running);
    agent.put_vm(1, &spec()).await.expect("it is free again");
}

#[tokio::test]
async fn a_second_function_on_a_vm_waits_for_the_first() {
    let agent = Agent::start_with(|config| config.limits.vm_patience = PATIENCE).await;
    agent.gate.shut_for("put");
    let (spec_one, spec_two) = (spec(), VmSpec { vcpus: 4, ..spec() });
    let one = agent.put_vm(1, &spec_one);
    let two = agent.put_vm(1, &spec_two);
    let third = async {
        agent.gate.until_waiting("put", 1).await;
        agent.gate.open();
    };
    let (one, two, ()) = tokio::join!(one, two, third);
    assert_eq!((one.unwrap().spec, two.unwrap().spec), (Some(spec_one), Some(spec_two)));
}

#[tokio::test]
async fn while_a_disk_is_copied_its_vm_changes_but_not_the_disk() {
    let _proof = berth_agent::proof::driver(&["image.from_disk"]);
    let agent = Agent::start_with(|config| config.limits.vm_patience = Duration::from_millis(50)).await;
    agent.put_vm(1, &spec()).await.unwrap();
    let copy = || agent.request(Method::POST, "/v1/vms/1/image").header("prefer", "wait=0").send();
    agent.gate.shut_for("disk_export");
    let copying: Run = copy().await.unwrap().json().await.unwrap();
    agent.gate.until_waiting("disk_export", 1).await;

    let mut other = VmSpec { power: WantedPower::Keep, ..spec() };
    other.nics[0].networks = vec!["2001:db8::/64".parse().unwrap()];
    assert_eq!(agent.put_vm(1, &other).await.unwrap().spec.unwrap().nics, other.nics, "addresses change");
    let firewall = agent.request(Method::PUT, "/v1/vms/1/nics/52:54:00:00:00:01/firewall");
    answer::<Vm>(firewall.json(&json!({"inbound": [], "outbound": []})).send().await.unwrap()).await.unwrap();
    assert_eq!(agent.get::<Vm>("/v1/vms/1").await.state, VmState::Running);

    let larger = VmSpec { disk: ByteSize::gib(20), ..other.clone() };
    let off = VmSpec { power: WantedPower::Off, ..other.clone() };
    let delete = || agent.request(Method::DELETE, "/v1/vms/1").send();
    for refused in [
        agent.put_vm(1, &larger).await.unwrap_err(),
        agent.put_vm(1, &off).await.unwrap_err(),
        agent.power(1, PowerVerb::Reset).await.unwrap_err(),
        answer::<()>(delete().await.unwrap()).await.unwrap_err(),
    ] {
        assert_eq!(refused.code, ErrorCode::Conflict, "{refused:?}");
    }
    let again: Run = copy().await.unwrap().json().await.unwrap();
    assert_eq!(again.id, copying.id, "asked again it is the same copy");
    agent.gate.open();
    let until = Instant::now() + PATIENCE;
    while answer::<()>(delete().await.unwrap()).await.is_err() {
        assert!(Instant::now() < until, "the disk is free again");
    }
}

#[tokio::test]
async fn the_same_function_asked_for_twice_at_once_is_done_once() {
    let _proof = berth_agent::proof::driver(&["run.list"]);
    let agent = Agent::start().await;
    agent.gate.shut_for("put");
    let (spec_one, spec_two) = (spec(), spec());
    let (one, two) = (agent.put_vm(1, &spec_one), agent.put_vm(1, &spec_two));
    let third = async {
        agent.gate.until_waiting("put", 1).await;
        let run = &agent.get::<RunList>("/v1/runs").await.runs[0];
        assert_eq!((run.function.as_str(), run.on.as_str(), run.ended), ("vm.put", "VM 1", None));
        agent.gate.open();
    };
    let (one, two, ()) = tokio::join!(one, two, third);
    assert_eq!(one.unwrap(), two.unwrap());
    let runs = agent.get::<RunList>("/v1/runs").await.runs;
    assert_eq!(runs.len(), 1, "{runs:?}");
    assert!(
        runs[0].ended.is_some() && runs[0].error.is_none() && runs[0].asked_by.starts_with("control plane, ")
    );
}

#[tokio::test]
async fn a_caller_that_does_not_wait_gets_the_run_and_then_the_answer() {
    let _proof = berth_agent::proof::driver(&["run.get", "run.cancel"]);
    let agent = Agent::start().await;
    agent.gate.shut();
    let put = || agent.request(Method::PUT, "/v1/vms/1").header("prefer", "wait=0").json(&spec()).send();
    let response = put().await.unwrap();
    assert_eq!(response.status(), 202);
    let run: Run = response.json().await.unwrap();
    assert_eq!(
        answer::<Run>(put().await.unwrap()).await.unwrap().id,
        run.id,
        "asked again it is the same run"
    );
    agent.gate.open();
    let until = Instant::now() + PATIENCE;
    let ended = loop {
        let now: Run = agent.get(&format!("/v1/runs/{}", run.id)).await;
        if now.ended.is_some() {
            break now;
        }
        assert!(Instant::now() < until, "the function goes on to its end");
    };
    assert_eq!(ended.error, None);
    assert_eq!(agent.get::<Vm>("/v1/vms/1").await.state, VmState::Running);
    let cancelled = agent.request(Method::POST, &format!("/v1/runs/{}/cancel", run.id)).send().await.unwrap();
    assert_eq!(answer::<Run>(cancelled).await.unwrap(), ended, "what has ended stays as it is");
    for (method, path) in [(Method::GET, "/v1/runs/99"), (Method::POST, "/v1/runs/99/cancel")] {
        let unknown = agent.request(method, path).send().await.unwrap();
        assert_eq!(answer::<Run>(unknown).await.unwrap_err().code, ErrorCode::NotFound, "{path}");
    }
}

#[tokio::test]
async fn a_hypervisor_that_hangs_costs_answers_and_not_the_agent() {
    let agent = Agent::start_with(|config| {
        config.limits.reads = 2;
        config.limits.read_patience = Duration::from_millis(100);
        config.limits.change_patience = Duration::from_millis(100);
        config.limits.ping_patience = Duration::from_millis(100);
        config.limits.vm_patience = Duration::from_millis(100);
    })
    .await;
    agent.put_vm(1, &spec()).await.unwrap();
    agent.gate.shut();
    let node = agent.wait_for("the node is unhealthy", |node| !node.health.healthy).await;
    assert!(node.health.faults[0].contains("does not answer"), "{:?}", node.health.faults);
    for _ in 0..6 {
        let response = agent.request(Method::GET, "/v1/vms").send().await.unwrap();
        assert_eq!(answer::<VmList>(response).await.unwrap_err().code, ErrorCode::Unavailable);
    }
    assert_eq!(agent.put_vm(1, &spec()).await.unwrap_err().code, ErrorCode::Unavailable);
    let busy = agent.power(1, PowerVerb::Reset).await.unwrap_err();
    assert_eq!(busy.code, ErrorCode::Conflict, "the lost function still has the VM: {busy:?}");
    let node = agent.wait_for("calls are overdue", |node| node.health.faults.len() > 1).await;
    assert!(
        node.health.faults.iter().any(|fault| fault.starts_with("3 functions")),
        "{:?}",
        node.health.faults
    );

    agent.gate.open();
    agent.wait_for("the node is healthy again", |node| node.health.healthy).await;
    assert_eq!(agent.get::<VmList>("/v1/vms").await.vms.len(), 1);
    agent.power(1, PowerVerb::Reset).await.expect("the VM is free again");
}

#[tokio::test]
async fn too_many_requests_are_refused_at_once() {
    let agent = Agent::start_with(|config| config.limits.requests = 2).await;
    agent.gate.shut();
    let third = async {
        agent.gate.until_waiting("power", 2).await;
        let response = agent.request(Method::GET, "/v1/node").send().await.unwrap();
        agent.gate.open();
        answer::<Value>(response).await.unwrap_err()
    };
    let (one, two) = (agent.power(1, PowerVerb::Reset), agent.power(2, PowerVerb::Reset));
    let (_, _, refused) = tokio::join!(one, two, third);
    assert_eq!(refused.code, ErrorCode::Unavailable);
}

#[tokio::test]
async fn a_client_that_leaves_does_not_cut_a_function_off() {
    let agent = Agent::start().await;
    agent.gate.shut_for("put");
    let leave = async {
        let (id, spec) = (5, spec());
        tokio::select! {
            _ = agent.put_vm(id, &spec) => panic!("the gate is shut"),
            () = agent.gate.until_waiting("put", 1) => {}
        }
    };
    leave.await;
    agent.gate.open();
    let until = Instant::now() + PATIENCE;
    while agent.simulator.get(VmId(5)).is_err() {
        assert!(Instant::now() < until, "the function goes on to its end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_agent_stops_although_the_hypervisor_hangs() {
    let mut agent = Agent::start_with(|config| config.limits.drain = Duration::from_millis(100)).await;
    agent.gate.shut_for("put");
    let running = agent.running.take().unwrap();
    let stop = async {
        agent.gate.until_waiting("put", 1).await;
        agent.stop.cancel();
        tokio::time::timeout(PATIENCE, running.stopped()).await.unwrap();
    };
    let spec = spec();
    let cut = agent.request(Method::PUT, "/v1/vms/1").json(&spec).send();
    let (cut, ()) = tokio::join!(cut, stop);
    assert!(cut.is_err());
    assert!(!agent.home.path().join("agent.sock").exists());
}
