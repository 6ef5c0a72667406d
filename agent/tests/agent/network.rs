//! Network cards, firewalls, private networks and traffic, over HTTP.

use berth_agent::proof;
use berth_model::ErrorCode;
use berth_model::agent::{NetworkState, TrafficList, Vm};
use berth_model::error::ApiError;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Agent, answer, spec};

const MAC: &str = "52:54:00:00:00:02";

async fn ask(agent: &Agent, method: Method, path: &str, body: Option<Value>) -> Result<Value, ApiError> {
    let request = agent.request(method, path);
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    answer(request.send().await.unwrap()).await
}

fn field(refused: Result<Value, ApiError>) -> String {
    let error = refused.expect_err("it makes no sense");
    assert_eq!(error.code, ErrorCode::InvalidInput, "{error:?}");
    serde_json::to_value(error).unwrap()["details"]["fields"][0]["name"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn cards_come_change_and_go_and_told_twice_it_ends_the_same() {
    let _proof = proof::driver(&["nic.attach", "nic.detach", "firewall.set", "firewall.remove"]);
    let agent = Agent::start().await;
    agent.put_vm(7, &spec()).await.unwrap();
    let card = json!({
        "mac": MAC,
        "addresses": [{"ip": "203.0.113.7", "prefix": 32, "gateway": "169.254.1.1"}],
        "networks": ["2001:db8:7::/64"],
    });
    let first = ask(&agent, Method::POST, "/v1/vms/7/nics", Some(card.clone())).await.unwrap();
    let second = ask(&agent, Method::POST, "/v1/vms/7/nics", Some(card.clone())).await.unwrap();
    assert_eq!(first, second);
    let vm: Vm = serde_json::from_value(first).unwrap();
    let nics = vm.spec.unwrap().nics;
    assert_eq!(serde_json::to_value(&nics[1]).unwrap(), card);
    assert_eq!(nics.len(), 2);

    let rules = json!({"inbound": [{"protocol": "tcp", "ports": "80-443", "peers": ["10.0.0.0/8"]}]});
    let path = format!("/v1/vms/7/nics/{MAC}/firewall");
    for _ in 0..2 {
        let vm = ask(&agent, Method::PUT, &path, Some(rules.clone())).await.unwrap();
        assert_eq!(vm["spec"]["nics"][1]["firewall"], rules);
    }
    for _ in 0..2 {
        let vm = ask(&agent, Method::DELETE, &path, None).await.unwrap();
        assert_eq!(vm["spec"]["nics"][1].get("firewall"), None);
    }
    let nobody = "/v1/vms/7/nics/52:54:00:00:00:99/firewall".to_owned();
    let refused = ask(&agent, Method::PUT, &nobody, Some(rules)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::NotFound);

    for _ in 0..2 {
        let vm = ask(&agent, Method::DELETE, &format!("/v1/vms/7/nics/{MAC}"), None).await.unwrap();
        assert_eq!(vm["spec"]["nics"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_about_the_network_is_refused_with_its_field() {
    let _proof = proof::pure(&["nic.attach", "firewall.set", "network.put"]);
    let agent = Agent::start().await;
    agent.put_vm(7, &spec()).await.unwrap();
    let card = |more: Value| {
        let mut card = json!({"mac": MAC, "addresses": []});
        card.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Some(card)
    };
    for (more, named) in [
        (json!({"mac": "52:54:00:AA:00:01"}), "mac"),
        (json!({"networks": ["::/0"]}), "networks[0]"),
        (json!({"networks": ["2001:db8::1/64"]}), "networks[0]"),
        (json!({"addresses": [{"ip": "0.0.0.0", "prefix": 0, "gateway": null}]}), "addresses[0].ip"),
        (json!({"limits": {"in_bits_per_second": 1}}), "limits"),
        (json!({"private": 0}), "private"),
        (json!({"private": 5, "firewall": {"inbound": []}}), "firewall"),
        (json!({"firewall": {"inbound": [{"protocol": "icmp", "ports": "1"}]}}), "firewall.inbound[0].ports"),
    ] {
        let refused = ask(&agent, Method::POST, "/v1/vms/7/nics", card(more.clone())).await;
        assert_eq!(field(refused), named, "{more}");
    }
    let path = "/v1/vms/7/nics/52:54:00:00:00:01/firewall";
    let rules = json!({"inbound": [], "outbound": [{"protocol": "gre", "ports": "5"}]});
    assert_eq!(field(ask(&agent, Method::PUT, path, Some(rules)).await), "outbound[0].ports");
    for (network, named) in [
        (json!({"local": "0.0.0.0", "peers": []}), "local"),
        (json!({"local": "10.0.0.1", "peers": [{"node": "::1", "macs": []}]}), "peers[0].node"),
        (json!({"local": "10.0.0.1", "peers": [{"node": "10.0.0.1", "macs": []}]}), "peers[0].node"),
        (
            json!({"local": "10.0.0.1", "peers": [{"node": "10.0.0.2", "macs": ["x; rm"]}]}),
            "peers[0].macs[0]",
        ),
    ] {
        let refused = ask(&agent, Method::PUT, "/v1/networks/5", Some(network.clone())).await;
        assert_eq!(field(refused), named, "{network}");
    }
    for path in ["/v1/networks/0", "/v1/networks/16777216", "/v1/networks/x"] {
        let body = json!({"local": "10.0.0.1", "peers": []});
        assert!(ask(&agent, Method::PUT, path, Some(body)).await.is_err(), "{path}");
    }
    let vm = ask(&agent, Method::GET, "/v1/vms/7", None).await.unwrap();
    assert_eq!(vm["spec"]["nics"].as_array().unwrap().len(), 1, "nothing was touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_network_is_there_before_its_cards_and_goes_after_them() {
    let _proof = proof::driver(&["network.put", "network.delete", "network.get", "traffic.get"]);
    let agent = Agent::start().await;
    let mut with_address = spec();
    let address = json!({"ip": "203.0.113.7", "prefix": 32, "gateway": null});
    with_address.nics[0].addresses = vec![serde_json::from_value(address).unwrap()];
    agent.put_vm(7, &with_address).await.unwrap();
    let card = json!({"mac": MAC, "addresses": [], "private": 5});
    let refused = ask(&agent, Method::POST, "/v1/vms/7/nics", Some(card.clone())).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::ResourceUnavailable);

    let network =
        json!({"local": "10.0.0.1", "peers": [{"node": "10.0.0.2", "macs": ["52:54:00:00:00:03"]}]});
    for _ in 0..2 {
        ask(&agent, Method::PUT, "/v1/networks/5", Some(network.clone())).await.unwrap();
    }
    ask(&agent, Method::POST, "/v1/vms/7/nics", Some(card)).await.unwrap();
    let state: NetworkState = agent.get("/v1/network").await;
    assert_eq!(serde_json::to_value(&state.networks[0].network).unwrap(), network);
    assert_eq!(state.nics.len(), 2);
    let refused = ask(&agent, Method::DELETE, "/v1/networks/5", None).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Conflict);

    let list: TrafficList = agent.get("/v1/traffic").await;
    let [traffic] = list.traffic.as_slice() else { panic!("{list:?}") };
    assert_eq!(traffic.network.to_string(), "203.0.113.7/32");

    ask(&agent, Method::DELETE, &format!("/v1/vms/7/nics/{MAC}"), None).await.unwrap();
    for _ in 0..2 {
        ask(&agent, Method::DELETE, "/v1/networks/5", None).await.unwrap();
    }
    let state: NetworkState = agent.get("/v1/network").await;
    assert_eq!(state.networks, []);
}
