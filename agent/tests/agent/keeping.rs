//! Keeping a node: checks, capacity, maintenance, orphans.

use std::time::{Duration, UNIX_EPOCH};

use berth_model::agent::{Capacity, Node, NodeChecks, OrphanList, VmSpec};
use berth_model::{ByteSize, ErrorCode};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Agent, answer, spec};

#[tokio::test]
async fn a_closed_node_takes_no_new_vm_and_keeps_those_it_has() {
    let _proof = berth_agent::proof::driver(&["node.maintenance"]);
    let agent = Agent::start().await;
    agent.put_vm(1, &spec()).await.unwrap();
    let switch = async |body: Value| {
        let response = agent.request(Method::PUT, "/v1/node/maintenance").json(&body).send().await.unwrap();
        answer::<Node>(response).await
    };
    let on = json!({ "on": true, "reason": "The fan is loud." });
    let closed = switch(on.clone()).await.unwrap();
    assert_eq!(closed.maintenance.as_ref().unwrap().reason.as_deref(), Some("The fan is loud."));
    assert_eq!(switch(on).await.unwrap().maintenance, closed.maintenance, "told twice it is the same");
    assert_eq!(agent.get::<Node>("/v1/node").await.maintenance, closed.maintenance);
    let refused = agent.put_vm(2, &spec()).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::ResourceUnavailable);
    assert!(refused.message.ends_with(": The fan is loud."), "{}", refused.message);
    let larger = VmSpec { vcpus: 4, ..spec() };
    assert_eq!(agent.put_vm(1, &larger).await.unwrap().spec, Some(larger), "one that is there is changed");
    assert!(agent.home.path().join("maintenance.json").exists());
    assert_eq!(switch(json!({ "on": true, "reason": "" })).await.unwrap_err().code, ErrorCode::InvalidInput);
    assert_eq!(switch(json!({ "on": false })).await.unwrap().maintenance, None);
    agent.put_vm(2, &spec()).await.unwrap();
}

#[tokio::test]
async fn a_node_tells_what_it_promised_and_how_it_is() {
    let _proof = berth_agent::proof::driver(&["node.capacity", "node.check"]);
    let agent = Agent::start().await;
    for id in [1, 2] {
        agent.put_vm(id, &spec()).await.unwrap();
    }
    let capacity: Capacity = agent.get("/v1/node/capacity").await;
    let node: Node = agent.get("/v1/node").await;
    assert_eq!((capacity.cores.total, capacity.cores.promised), (u64::from(node.facts.cores), 4));
    assert_eq!(
        (capacity.memory.total, capacity.memory.promised),
        (node.facts.memory, ByteSize(2 * spec().memory.0))
    );
    assert_eq!(capacity.storage.promised, ByteSize(2 * spec().disk.0));
    assert_eq!((capacity.vms, capacity.half_made), (2, 0));

    let checks = agent.get::<NodeChecks>("/v1/node/check").await.checks;
    for name in [
        "hypervisor",
        "free space",
        "certificate",
        "data folder",
        "clock",
        "kernel",
        "disk wear",
        "accelerator",
    ] {
        let check = checks.iter().find(|check| check.check == name).unwrap_or_else(|| panic!("{name}"));
        assert!(check.sentence.ends_with('.'), "{check:?}");
        assert!(check.ok || !check.needed, "{check:?}");
    }
}

#[tokio::test]
async fn an_unfinished_upload_of_long_ago_is_an_orphan_and_goes_when_told() {
    let _proof = berth_agent::proof::driver(&["node.orphans"]);
    let agent = Agent::start().await;
    let images = agent.home.path().join("images");
    let (old, new) = (images.join(".old.part"), images.join(".new.part"));
    std::fs::write(&new, "x").unwrap();
    let long_ago = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    std::fs::File::create(&old).unwrap().set_modified(long_ago).unwrap();
    let find = async |body: Value| {
        let response = agent.request(Method::POST, "/v1/node/orphans").json(&body).send().await.unwrap();
        answer::<OrphanList>(response).await.unwrap().orphans
    };
    for _ in 0..2 {
        let named = find(json!({})).await;
        assert_eq!(named.len(), 1, "{named:?}");
        assert!(
            named[0].kind == "unfinished image" && named[0].name.ends_with(".old.part") && !named[0].removed
        );
        assert!(old.exists());
    }
    assert!(find(json!({ "remove": true })).await[0].removed && !old.exists() && new.exists());
    assert!(find(json!({})).await.is_empty());
}
