//! Whole machines through the agent's API.

use berth_agent::proof;
use berth_model::agent::{KeptDiskList, RunList, Vm, VmState};
use http::StatusCode;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Agent, answer, spec};

async fn tell(agent: &Agent, verb: &str, body: &Value) -> Result<Value, berth_model::error::ApiError> {
    let request = agent.request(Method::POST, &format!("/v1/vms/7/{verb}")).json(body);
    answer(request.send().await.unwrap()).await
}

#[tokio::test]
async fn each_part_of_a_vm_is_changed_by_name_and_the_rest_stays() {
    let _proof = proof::pure(&[
        "vm.rename",
        "vm.autostart",
        "vm.boot_order",
        "vm.firmware",
        "vm.hardware",
        "vm.iso_attach",
        "vm.iso_eject",
    ]);
    let agent = Agent::start().await;
    agent.put_vm(7, &spec()).await.unwrap();
    let iso = "c".repeat(64);
    let steps = [
        ("rename", json!({"title": "a title"})),
        ("rename", json!({"hostname": "another"})),
        ("autostart", json!({"on": true})),
        ("boot_order", json!({"boot": ["network", "iso"]})),
        ("firmware", json!({"firmware": "uefi"})),
        ("hardware", json!({"cpu": "Nehalem", "watchdog": "pause"})),
        ("hardware", json!({"tpm": true, "rng": false, "machine": "pc"})),
        ("iso_attach", json!({"iso": iso, "boot": true})),
    ];
    for (verb, body) in &steps {
        // Told twice, it ends the same.
        let first = tell(&agent, verb, body).await.unwrap();
        assert_eq!(tell(&agent, verb, body).await.unwrap(), first, "{verb}");
    }
    let vm: Vm = agent.get("/v1/vms/7").await;
    assert_eq!(vm.state, VmState::Running, "whether it runs stays as it is");
    let expected =
        ["boot", "cpu", "firmware", "machine", "rng", "tpm", "watchdog"].map(|f| format!("hardware.{f}"));
    assert_eq!(vm.pending, [&expected[..], &["seed".to_owned()]].concat());
    let of = serde_json::to_value(vm.spec.unwrap()).unwrap();
    assert_eq!(
        (&of["title"], &of["seed"]["hostname"], &of["autostart"]),
        (&json!("a title"), &json!("another"), &json!(true))
    );
    let hardware = json!({"firmware": "uefi", "machine": "pc", "cpu": "Nehalem", "rng": false,
        "watchdog": "pause", "tpm": true, "boot": ["iso", "network"]});
    assert_eq!((&of["hardware"], &of["iso"]), (&hardware, &json!(iso)));
    for _ in 0..2 {
        let ejected: Vm =
            serde_json::from_value(tell(&agent, "iso_eject", &json!({})).await.unwrap()).unwrap();
        assert_eq!(ejected.spec.unwrap().iso, None);
    }
}

#[tokio::test]
async fn nonsense_is_refused_with_its_field_and_a_vm_that_is_not_there_is_not_found() {
    let _proof =
        proof::pure(&["vm.rescue_on", "vm.boot_order", "vm.iso_attach", "vm.delete", "vm.autostart"]);
    let agent = Agent::start().await;
    agent.put_vm(7, &spec()).await.unwrap();
    let before: Vm = agent.get("/v1/vms/7").await;
    let cases = [
        ("shutdown", json!({"wait_s": 0}), "wait_s"),
        ("rebuild", json!({"image": "x"}), "image"),
        ("rescue_on", json!({"image": "../x"}), "image"),
        ("rename", json!({"hostname": "two words"}), "hostname"),
        ("autostart", json!({}), "on"),
        ("boot_order", json!({"boot": []}), "boot"),
        ("boot_order", json!({"boot": ["disk", "disk"]}), "boot"),
        ("firmware", json!({"firmware": "coreboot"}), "firmware"),
        ("hardware", json!({"machine": "virt"}), "machine"),
        ("hardware", json!({"colour": "red"}), "colour"),
        ("iso_attach", json!({"iso": "x"}), "iso"),
    ];
    for (verb, body, field) in cases {
        let refused = tell(&agent, verb, &body).await.unwrap_err();
        assert!(refused.for_field(field).is_some(), "{verb}: {refused:?}");
    }
    assert_eq!(agent.get::<Vm>("/v1/vms/7").await, before, "nothing was touched");
    let request =
        agent.request(Method::DELETE, "/v1/vms/7").json(&json!({"disks": "keep", "keep_as": "../x"}));
    assert!(answer::<Value>(request.send().await.unwrap()).await.unwrap_err().for_field("keep_as").is_some());
    for verb in ["pause", "resume", "save", "rescue_off", "iso_eject"] {
        let path = format!("/v1/vms/8/{verb}");
        let response = agent.request(Method::POST, &path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{verb}");
    }
}

#[tokio::test]
async fn a_rescue_s_password_is_told_once_and_stands_nowhere() {
    let _proof =
        proof::pure(&["vm.rescue_on", "vm.rescue_off", "vm.rebuild", "vm.save", "vm.pause", "vm.resume"]);
    let agent = Agent::start().await;
    agent.put_vm(7, &spec()).await.unwrap();
    let image = "d".repeat(64);
    let rescue = json!({"image": image});
    let first = tell(&agent, "rescue_on", &rescue).await.unwrap();
    let second = tell(&agent, "rescue_on", &rescue).await.unwrap();
    let [one, other] = [&first, &second].map(|rescued| rescued["root_password"].as_str().unwrap().to_owned());
    assert!(one != other && one.len() == 18);
    let vm: Vm = agent.get("/v1/vms/7").await;
    assert_eq!(vm.spec.as_ref().unwrap().rescue.as_ref().unwrap().image, image);
    let runs: RunList = agent.get("/v1/runs").await;
    let log = std::fs::read_to_string(agent.home.path().join("runs.jsonl")).unwrap_or_default();
    let shown =
        format!("{}{}{log}", serde_json::to_string(&vm).unwrap(), serde_json::to_string(&runs).unwrap());
    assert!(!shown.contains(&one) && !shown.contains(&other));
    let back: Vm = serde_json::from_value(tell(&agent, "rescue_off", &json!({})).await.unwrap()).unwrap();
    assert_eq!((back.state, back.spec.unwrap().rescue), (VmState::Running, None));

    for (verb, state) in [("pause", VmState::Paused), ("resume", VmState::Running), ("save", VmState::Off)] {
        let vm: Vm = serde_json::from_value(tell(&agent, verb, &json!({})).await.unwrap()).unwrap();
        assert_eq!((vm.state, vm.saved), (state, state == VmState::Off), "{verb}");
    }
    let rebuilt = tell(&agent, "rebuild", &json!({"image": image})).await.unwrap();
    let rebuilt: Vm = serde_json::from_value(rebuilt).unwrap();
    assert_eq!((rebuilt.state, rebuilt.saved), (VmState::Running, false));
    assert_eq!(rebuilt.spec.unwrap().image.sha256, image);
}

#[tokio::test]
async fn a_kept_disk_is_listed_until_it_is_deleted() {
    let _proof = proof::pure(&["vm.delete", "kept.list", "kept.delete"]);
    let agent = Agent::start().await;
    agent.put_vm(7, &spec()).await.unwrap();
    let keep = agent.request(Method::DELETE, "/v1/vms/7").json(&json!({"disks": "keep"}));
    assert_eq!(keep.send().await.unwrap().status(), StatusCode::NO_CONTENT);
    let kept: KeptDiskList = agent.get("/v1/kept").await;
    assert_eq!((kept.disks.len(), kept.disks[0].name.as_str(), kept.disks[0].size), (1, "vm-7", spec().disk));
    for _ in 0..2 {
        let gone = agent.request(Method::DELETE, "/v1/kept/vm-7").send().await.unwrap();
        assert_eq!(gone.status(), StatusCode::NO_CONTENT);
    }
    assert!(agent.get::<KeptDiskList>("/v1/kept").await.disks.is_empty());
}
