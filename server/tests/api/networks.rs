//! Private networks: their cards reach the machines, and their members every node.

use std::net::Ipv4Addr;
use std::time::Duration;

use berth_agent::hypervisor::Hypervisor as _;
use berth_model::action::{Action, ActionList, ActionReply, ActionStatus};
use berth_model::agent::{Nic, PrivateNetwork};
use berth_model::network::{Network, NetworkList, NetworkReply};
use berth_model::{NetworkId, ServerId, VmId};
use berth_server::networks::jobs::leaving::{LeavingAliases, LeavingMember};
use berth_server::networks::jobs::{Step, remove};
use berth_server::servers::jobs::losing;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::fleet::SimulatedNode;
use crate::shop::{Shop, mishaps};
use crate::support::{Berth, Person, Reply, until};

fn subnet(ip_range: &str) -> Value {
    json!({"type": "cloud", "network_zone": "eu-west", "ip_range": ip_range})
}

async fn make(person: &Person, name: &str, subnets: &[&str]) -> Network {
    let subnets: Vec<Value> = subnets.iter().map(|range| subnet(range)).collect();
    let body = json!({"name": name, "ip_range": "10.0.0.0/16", "subnets": subnets});
    person.post("/v1/networks", body).await.expect::<NetworkReply>(201).network
}

async fn does(person: &Person, network: NetworkId, verb: &str, body: Value) -> Reply {
    person.post(&format!("/v1/networks/{network}/actions/{verb}"), body).await
}

async fn shown(person: &Person, network: NetworkId) -> Network {
    person.get(&format!("/v1/networks/{network}")).await.expect::<NetworkReply>(200).network
}

impl SimulatedNode {
    /// What the node was told of its only network.
    fn network(&self) -> Option<PrivateNetwork> {
        let networks = self.simulator.network().unwrap().networks;
        assert!(networks.len() < 2, "{networks:?}");
        networks.into_iter().next().map(|state| state.network)
    }

    /// The MAC addresses that the node finds elsewhere, and where.
    fn finds(&self) -> Vec<(std::net::IpAddr, Vec<String>)> {
        self.network().map_or_else(Vec::new, |network| {
            network.peers.into_iter().map(|peer| (peer.node, peer.macs)).collect()
        })
    }

    fn private_card(&self, server: ServerId) -> Option<Nic> {
        let spec = self.simulator.get(VmId::from(server)).unwrap().spec.unwrap();
        spec.nics.into_iter().find(|nic| nic.private.is_some())
    }
}

impl Shop {
    async fn asks_card(&self, server: ServerId, verb: &str, body: Value) -> Reply {
        self.customer.post(&format!("/v1/servers/{server}/actions/{verb}"), body).await
    }

    async fn card_changes(&self, server: ServerId, verb: &str, body: Value) {
        let action = self.asks_card(server, verb, body).await.expect::<ActionReply>(201).action;
        assert_eq!(action.command, verb);
        self.succeeds(action.id).await;
    }

    /// A server that runs.
    async fn running(&self, more: Value) -> ServerId {
        let made = self.order_with(more).await;
        self.succeeds(made.action.id).await;
        made.server.id
    }
}

#[tokio::test]
async fn a_network_is_made_found_changed_and_deleted() {
    let berth = Berth::without_workers().await;
    berth.catalog().await;
    let customer = berth.customer().await;
    let body = json!({
        "name": " inner ", "ip_range": "10.0.0.0/16", "labels": {"env": "prod"},
        "subnets": [{"type": "cloud", "network_zone": "eu-west"}],
        "routes": [{"destination": "10.100.1.0/24", "gateway": "10.0.0.2"}],
    });
    let made = customer.post("/v1/networks", body).await.expect::<NetworkReply>(201).network;
    assert_eq!((made.name.as_str(), made.ip_range.as_str(), made.routes.len()), ("inner", "10.0.0.0/16", 1));
    assert_eq!(made.subnets[0].ip_range, "10.0.0.0/24", "a /24 is chosen");
    assert_eq!(made.subnets[0].gateway, Ipv4Addr::new(10, 0, 0, 1));
    let id = made.id;
    for (query, count) in [
        ("", 1),
        ("?name=inner", 1),
        ("?name=inne", 0),
        ("?label_selector=env%3Dprod", 1),
        ("?label_selector=!env", 0),
    ] {
        let list: NetworkList = customer.get(&format!("/v1/networks{query}")).await.expect(200);
        assert_eq!(
            (list.networks.len(), list.meta.pagination.total_entries),
            (count, count as u64),
            "{query}"
        );
    }
    for (verb, body) in [
        ("add_subnet", subnet("10.0.7.0/24")),
        ("add_route", json!({"destination": "0.0.0.0/0", "gateway": "10.0.7.1"})),
        ("delete_route", json!({"destination": "10.100.1.0/24", "gateway": "10.0.0.2"})),
        ("delete_subnet", json!({"ip_range": "10.0.0.0/24"})),
        ("change_ip_range", json!({"ip_range": "10.0.0.0/8"})),
        ("change_protection", json!({"delete": true})),
    ] {
        let action = does(&customer, id, verb, body).await.expect::<ActionReply>(201).action;
        assert_eq!((action.command.as_str(), action.status), (verb, ActionStatus::Success));
    }
    let now = shown(&customer, id).await;
    assert_eq!((now.ip_range.as_str(), now.subnets.len(), now.routes.len()), ("10.0.0.0/8", 1, 1));
    assert_eq!(now.subnets[0].ip_range, "10.0.7.0/24");
    let path = format!("/v1/networks/{id}");
    assert_eq!(customer.delete(&path).await.code(), "protected");
    does(&customer, id, "change_protection", json!({"delete": false})).await.expect::<ActionReply>(201);

    let taken = customer.post("/v1/networks", json!({"name": "inner", "ip_range": "10.0.0.0/16"})).await;
    assert_eq!((taken.status.as_u16(), taken.code().as_str()), (409, "uniqueness_error"));
    let renamed = customer.put(&path, json!({"name": "outer"})).await.expect::<NetworkReply>(200).network;
    assert_eq!((renamed.name.as_str(), renamed.labels.len()), ("outer", 1));
    assert_eq!(customer.delete(&path).await.status, 204);
    assert_eq!(customer.delete(&path).await.code(), "not_found");
    // The name is free at once.
    make(&customer, "outer", &[]).await;
}

#[tokio::test]
async fn what_is_wrong_is_refused_by_field() {
    let berth = Berth::without_workers().await;
    berth.catalog().await;
    let customer = berth.customer().await;
    let with = |more: Value| {
        let mut body = json!({"name": "a", "ip_range": "10.0.0.0/16"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let vswitch = json!({"type": "vswitch", "network_zone": "eu-west", "vswitch_id": 1});
    let mars = json!({"type": "cloud", "network_zone": "mars"});
    for (body, field) in [
        (json!({"ip_range": "10.0.0.0/16"}), "name"),
        (json!({"name": "a"}), "ip_range"),
        (with(json!({"name": ""})), "name"),
        (with(json!({"ip_range": "8.0.0.0/16"})), "ip_range"),
        (with(json!({"ip_range": "10.0.0.0/25"})), "ip_range"),
        (with(json!({"labels": {"a": "b c"}})), "labels.a"),
        (with(json!({"expose_routes_to_vswitch": true})), "expose_routes_to_vswitch"),
        (with(json!({"subnets": [vswitch]})), "subnets[0].type"),
        (with(json!({"subnets": [mars]})), "subnets[0].network_zone"),
        (with(json!({"subnets": [subnet("10.0.0.0/24"), subnet("10.0.0.128/25")]})), "subnets[1].ip_range"),
        (
            with(json!({"routes": [{"destination": "10.9.0.0/24", "gateway": "10.0.0.1"}]})),
            "routes[0].gateway",
        ),
    ] {
        customer.post("/v1/networks", body).await.refuses(field);
    }
    let id = make(&customer, "a", &["10.0.0.0/24"]).await.id;
    for (verb, body, field) in [
        ("add_subnet", subnet("10.0.0.0/25"), "ip_range"),
        ("delete_subnet", json!({"ip_range": "10.0.9.0/24"}), "ip_range"),
        ("add_route", json!({"destination": "10.0.0.0/24", "gateway": "10.0.0.9"}), "destination"),
        ("delete_route", json!({"destination": "10.0.0.0/24", "gateway": "10.0.0.9"}), "destination"),
        ("change_ip_range", json!({"ip_range": "10.0.0.0/24"}), "ip_range"),
    ] {
        does(&customer, id, verb, body).await.refuses(field);
    }
    let order = json!({"name": "s", "server_type": "s1", "image": "tiny", "networks": [id, 4711]});
    customer.post("/v1/servers", order).await.refuses("networks[1]");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_on_two_nodes_are_found_from_each() {
    let shop = Shop::open().await;
    let second = shop.berth.node("node-2").await;
    let (worker, nodes) = (shop.worker(""), [&shop.node, &second]);
    let network = make(&shop.customer, "inner", &["10.0.1.0/24"]).await.id;
    let mut at = Vec::new();
    for _ in 0..2 {
        let server = shop.running(json!({"networks": [network]})).await;
        let node = nodes.iter().position(|node| node.simulator.get(VmId::from(server)).is_ok()).unwrap();
        at.push((server, nodes[node]));
    }
    let [(a, here), (b, there)] = [at[0], at[1]];
    assert_ne!(here.id, there.id, "servers spread");
    let mac = |server, node: &SimulatedNode| node.private_card(server).unwrap().mac;
    let ip = |node: &SimulatedNode| node.listens().ip();
    until("each finds the other", async || {
        let both = here.finds() == [(ip(there), vec![mac(b, there)])]
            && there.finds() == [(ip(here), vec![mac(a, here)])];
        both.then_some(())
    })
    .await;
    let card = there.private_card(b).unwrap();
    assert_eq!((card.addresses[0].ip.to_string().as_str(), card.addresses[0].prefix), ("10.0.1.2", 16));
    let net = &shop.server(b).await.unwrap().private_net[0];
    assert_eq!(
        (net.network, net.ip.to_string(), &net.mac_address),
        (network, "10.0.1.2".to_owned(), &card.mac)
    );
    assert_eq!(shown(&shop.customer, network).await.servers, [a, b]);

    // A larger range is told to the machines.
    let larger = json!({"ip_range": "10.0.0.0/8"});
    does(&shop.customer, network, "change_ip_range", larger).await.expect::<ActionReply>(201);
    until("the card knows the range", async || {
        (there.private_card(b).unwrap().addresses[0].prefix == 8).then_some(())
    })
    .await;

    let path = format!("/v1/networks/{network}");
    let subnet = does(&shop.customer, network, "delete_subnet", json!({"ip_range": "10.0.1.0/24"})).await;
    assert_eq!(subnet.code(), "resource_in_use");
    shop.card_changes(b, "detach_from_network", json!({"network": network})).await;
    assert_eq!(there.private_card(b), None);
    until("nobody is found elsewhere", async || here.finds().is_empty().then_some(())).await;
    let gone = shop.delete(a).await;
    shop.succeeds(gone.id).await;
    assert_eq!(shop.customer.delete(&path).await.status, 204);
    until("nothing of the network is left", async || {
        let kept: i64 = sqlx::query_scalar("select count(*) from networks")
            .fetch_one(&shop.berth.world().db)
            .await
            .unwrap();
        (here.network().is_none() && there.network().is_none() && kept == 0).then_some(())
    })
    .await;
    worker.stop(Duration::from_secs(10)).await;
}

impl Shop {
    /// The action that deletes the network that was deleted last.
    async fn deletion(&self) -> Action {
        let list: ActionList = self.customer.get("/v1/networks/actions?sort=id:desc").await.expect(200);
        list.actions.into_iter().find(|action| action.command == "delete_network").unwrap()
    }

    async fn networks_kept(&self) -> i64 {
        let db = &self.berth.world().db;
        sqlx::query_scalar("select count(*) from networks").fetch_one(db).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_with_servers_is_deleted_and_they_lose_their_cards_first() {
    let shop = Shop::open().await;
    let (first, marker) = (shop.worker(""), shop.berth.folder().join("marker"));
    let network = make(&shop.customer, "inner", &["10.0.1.0/24"]).await.id;
    let mut servers = Vec::new();
    for _ in 0..2 {
        servers.push(shop.running(json!({"networks": [network]})).await);
    }
    first.stop(Duration::from_secs(10)).await;
    let worker = shop.worker(&format!("leave_network.lose.before=pause:{}", marker.display()));
    let path = format!("/v1/networks/{network}");
    assert_eq!(shop.customer.delete(&path).await.status, 204);
    until("one card is about to be taken out", async || marker.exists().then_some(())).await;
    assert_eq!(shop.customer.get(&path).await.status, 404);
    let action = shop.deletion().await;
    assert_eq!((action.status, action.resources.len()), (ActionStatus::Running, 3), "{action:?}");
    assert!(shop.server(servers[0]).await.unwrap().private_net.is_empty());
    assert!(shop.node.network().is_some(), "a card is still in it");
    let again = shop.asks_card(servers[0], "attach_to_network", json!({"network": network})).await;
    again.refuses("network");
    // The name is free at once, and so are the addresses.
    make(&shop.customer, "inner", &["10.0.1.0/24"]).await;
    std::fs::remove_file(&marker).unwrap();
    shop.succeeds(action.id).await;
    assert!(servers.iter().all(|server| shop.node.private_card(*server).is_none()));
    assert_eq!((shop.node.network(), shop.networks_kept().await), (None, 1));
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_the_end_of_a_network_is_cut_off_nothing_of_it_is_left() {
    let shop = Shop::open().await;
    let first = shop.worker("");
    let server = shop.running(json!({})).await;
    first.stop(Duration::from_secs(10)).await;
    let cards = mishaps::<losing::Step<LeavingMember>>("leave_network");
    for (place, what) in mishaps::<remove::Step>("delete_network").iter().chain(&cards) {
        let name = format!("{place}={}", what.unwrap_or("die"));
        let worker = shop.worker("");
        let network = make(&shop.customer, "inner", &["10.0.1.0/24"]).await.id;
        shop.card_changes(server, "attach_to_network", json!({"network": network})).await;
        worker.stop(Duration::from_secs(10)).await;
        let faults: Vec<String> = what.map(|what| format!("{place}={what}")).into_iter().collect();
        let begin = async || {
            assert_eq!(shop.customer.delete(&format!("/v1/networks/{network}")).await.status, 204, "{name}");
        };
        let ((), worker) = shop.with_mishap(&faults, what.is_none().then_some(place.as_str()), begin).await;
        let action = shop.deletion().await;
        shop.succeeds(action.id).await;
        let left = (shop.node.private_card(server), shop.node.network(), shop.networks_kept().await);
        assert_eq!(left, (None, None, 0), "{name}");
        worker.stop(Duration::from_secs(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_does_not_grow_into_another_of_its_servers() {
    let shop = Shop::open().await;
    let worker = shop.worker("");
    let near = make(&shop.customer, "near", &["10.0.1.0/24"]).await.id;
    let far = json!({"name": "far", "ip_range": "10.1.0.0/16", "subnets": [subnet("10.1.1.0/24")]});
    let far = shop.customer.post("/v1/networks", far).await.expect::<NetworkReply>(201).network.id;
    let both = shop.running(json!({"networks": [near, far]})).await;
    let wide = || json!({"ip_range": "10.0.0.0/8"});
    for network in [near, far] {
        let refused = does(&shop.customer, network, "change_ip_range", wide()).await;
        assert_eq!(refused.code(), "networks_overlap", "{}", refused.text);
        assert!(refused.text.contains(&format!("Server {both} is in another network")), "{}", refused.text);
    }
    shop.card_changes(both, "detach_from_network", json!({"network": far})).await;
    does(&shop.customer, near, "change_ip_range", wide()).await.expect::<ActionReply>(201);
    let back = shop.asks_card(both, "attach_to_network", json!({"network": far})).await;
    assert_eq!(back.code(), "networks_overlap", "{}", back.text);
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_is_told_to_all_but_the_server_that_it_leads_to_which_may_send_from_behind_it() {
    let shop = Shop::open().await;
    let worker = shop.worker("");
    let network = make(&shop.customer, "inner", &["10.0.1.0/24"]).await.id;
    let router = shop.running(json!({"networks": [network]})).await;
    let member = shop.running(json!({"networks": [network]})).await;
    let inside = json!({"enable_ipv4": false, "enable_ipv6": false});
    let hidden = shop.running(json!({"networks": [network], "public_net": inside})).await;
    let via = shop.server(router).await.unwrap().private_net[0].ip;
    let route = |to: &str| json!({"destination": to, "gateway": via});
    for to in ["10.100.1.0/24", "0.0.0.0/0"] {
        does(&shop.customer, network, "add_route", route(to)).await.expect::<ActionReply>(201);
    }
    let told = |server| {
        let card = shop.node.private_card(server).unwrap();
        let routes: Vec<String> =
            card.routes.iter().map(|route| format!("{} {}", route.to, route.via)).collect();
        let networks: Vec<String> = card.networks.iter().map(ToString::to_string).collect();
        (routes, networks)
    };
    let (everywhere, behind) = (format!("0.0.0.0/0 {via}"), format!("10.100.1.0/24 {via}"));
    until("all are told", async || {
        let halves = ["0.0.0.0/1", "128.0.0.0/1", "10.100.1.0/24"].map(str::to_owned).to_vec();
        let done = told(router) == (vec![], halves)
            && told(member) == (vec![behind.clone()], vec![])
            && told(hidden) == (vec![everywhere.clone(), behind.clone()], vec![]);
        done.then_some(())
    })
    .await;
    let gone = does(&shop.customer, network, "delete_route", route("10.100.1.0/24")).await;
    gone.expect::<ActionReply>(201);
    until("all have lost it", async || {
        let done = told(member) == (vec![], vec![]) && told(hidden).0 == [everywhere.clone()];
        done.then_some(())
    })
    .await;
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_attached_with_the_addresses_it_asks_for() {
    let shop = Shop::open().await;
    let worker = shop.worker("");
    let network = make(&shop.customer, "inner", &["10.0.0.0/24", "10.0.1.0/24"]).await.id;
    let (server, other) = (shop.running(json!({})).await, shop.running(json!({"networks": [network]})).await);
    assert_eq!(
        shop.server(other).await.unwrap().private_net[0].ip,
        Ipv4Addr::new(10, 0, 0, 2),
        ".1 is the gateway"
    );
    let with = |more: Value| {
        let mut body = json!({"network": network});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (body, code) in [
        (json!({"network": 4711}), "invalid_input"),
        (with(json!({"ip": "10.0.0.1"})), "invalid_input"),
        (with(json!({"ip": "10.0.0.255"})), "invalid_input"),
        (with(json!({"ip": "10.0.9.9"})), "invalid_input"),
        (with(json!({"ip": "10.0.0.2"})), "ip_not_available"),
        (with(json!({"ip": "10.0.0.3", "alias_ips": ["10.0.0.3"]})), "ip_not_available"),
        (with(json!({"ip_range": "10.0.2.0/24"})), "no_subnet_available"),
    ] {
        let reply = shop.asks_card(server, "attach_to_network", body.clone()).await;
        assert_eq!(reply.code(), code, "{body}: {}", reply.text);
    }
    for verb in ["detach_from_network", "change_alias_ips"] {
        let body =
            if verb == "detach_from_network" { with(json!({})) } else { with(json!({"alias_ips": []})) };
        assert_eq!(shop.asks_card(server, verb, body).await.code(), "server_not_attached_to_network");
    }
    let asked = with(json!({"ip": "10.0.1.7", "alias_ips": ["10.0.1.8", "10.0.1.9"]}));
    shop.card_changes(server, "attach_to_network", asked).await;
    let again = shop.asks_card(server, "attach_to_network", with(json!({}))).await;
    assert_eq!((again.status.as_u16(), again.code().as_str()), (409, "server_already_attached"));
    let card = shop.node.private_card(server).unwrap();
    let aliases = |card: &Nic| card.networks.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!((card.addresses[0].ip.to_string().as_str(), card.firewall.as_ref()), ("10.0.1.7", None));
    assert_eq!(aliases(&card), ["10.0.1.8/32", "10.0.1.9/32"]);

    shop.card_changes(server, "change_alias_ips", with(json!({"alias_ips": ["10.0.1.9", "10.0.1.10"]})))
        .await;
    assert_eq!(aliases(&shop.node.private_card(server).unwrap()), ["10.0.1.9/32", "10.0.1.10/32"]);
    // What one gave back another may have.
    shop.card_changes(other, "change_alias_ips", with(json!({"alias_ips": ["10.0.1.8"]}))).await;
    let same = shop.asks_card(server, "change_alias_ips", with(json!({"alias_ips": ["10.0.1.8"]}))).await;
    assert_eq!(same.code(), "ip_not_available");
    let many: Vec<String> = (20..26).map(|n| format!("10.0.1.{n}")).collect();
    shop.asks_card(server, "change_alias_ips", with(json!({"alias_ips": many}))).await.refuses("alias_ips");

    // A second network with the same addresses would not be told apart.
    let twin = make(&shop.customer, "twin", &["10.0.0.0/24"]).await.id;
    let reply = shop.asks_card(server, "attach_to_network", json!({"network": twin})).await;
    assert_eq!(reply.code(), "networks_overlap", "{}", reply.text);
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn of_ten_orders_at_once_six_get_the_last_six_addresses() {
    let shop = Shop::open().await;
    let network = make(&shop.customer, "inner", &["10.0.1.0/29"]).await.id;
    let order = |n: usize| {
        let body =
            json!({"name": format!("s{n}"), "server_type": "s1", "image": "tiny", "networks": [network]});
        shop.customer.post("/v1/servers", body)
    };
    let bodies: Vec<_> = (0..10).map(order).collect();
    let replies = join_all(bodies).await;
    let (won, lost): (Vec<&Reply>, Vec<&Reply>) = replies.iter().partition(|reply| reply.status == 201);
    assert_eq!((won.len(), lost.len()), (6, 4));
    assert!(lost.iter().all(|reply| reply.code() == "ip_not_available"));
    let mut ips: Vec<String> = won
        .iter()
        .map(|reply| reply.json()["server"]["private_net"][0]["ip"].as_str().unwrap().to_owned())
        .collect();
    ips.sort();
    ips.dedup();
    assert_eq!(ips.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_telling_the_nodes_is_cut_off_repeated_or_fails_all_hear_of_a_member() {
    let shop = Shop::open().await;
    let second = shop.berth.node("node-2").await;
    let first = shop.worker("");
    let network = make(&shop.customer, "inner", &["10.0.1.0/24"]).await.id;
    let (a, b) = (shop.running(json!({"networks": [network]})).await, shop.running(json!({})).await);
    first.stop(Duration::from_secs(10)).await;
    let here = if shop.node.simulator.get(VmId::from(a)).is_ok() { &shop.node } else { &second };
    assert!(here.simulator.get(VmId::from(b)).is_err(), "servers spread");
    for (place, what) in mishaps::<Step>("follow_network") {
        let faults: Vec<String> = what.map(|what| format!("{place}={what}")).into_iter().collect();
        let dies_at = what.is_none().then_some(place.as_str());
        let begin = async || {
            let body = json!({"network": network});
            shop.asks_card(b, "attach_to_network", body).await.expect::<ActionReply>(201).action
        };
        let (action, worker) = shop.with_mishap(&faults, dies_at, begin).await;
        shop.succeeds(action.id).await;
        until(&format!("{place}: the new member is found"), async || (here.finds().len() == 1).then_some(()))
            .await;
        shop.card_changes(b, "detach_from_network", json!({"network": network})).await;
        until(&format!("{place}: it is found no more"), async || here.finds().is_empty().then_some(())).await;
        worker.stop(Duration::from_secs(10)).await;
    }
}

impl Shop {
    /// So many of the network's addresses are kept for a server.
    async fn keeps_addresses(&self, server: ServerId, count: i64, what: &str) {
        until(&format!("{what}: {count} addresses are kept"), async || {
            let kept = "select count(*) from network_addresses where server_id = $1";
            (self.count(kept, server).await == count).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_taking_back_what_a_server_did_not_get_is_cut_off_it_is_free_in_the_end() {
    let shop = Shop::open().await;
    let first = shop.worker("");
    let network = make(&shop.customer, "inner", &["10.0.1.0/24"]).await.id;
    let (stranger, member) =
        (shop.running(json!({})).await, shop.running(json!({"networks": [network]})).await);
    first.stop(Duration::from_secs(10)).await;
    let cards = mishaps::<losing::Step<LeavingMember>>("leave_network");
    let aliases = mishaps::<losing::Step<LeavingAliases>>("leave_alias_ips");
    for (place, what) in cards.iter().chain(&aliases) {
        let name = format!("{place}={}", what.unwrap_or("die"));
        let (server, verb, kept) = match place.starts_with("leave_network") {
            true => (stranger, "attach_to_network", 0),
            false => (member, "change_alias_ips", 1),
        };
        let mut faults: Vec<String> = what.map(|what| format!("{place}={what}")).into_iter().collect();
        faults.push(format!("{verb}.tell.after_run=error"));
        let body = json!({"network": network, "alias_ips": ["10.0.1.9"]});
        let begin = async || shop.asks_card(server, verb, body).await.expect::<ActionReply>(201).action;
        let (action, worker) =
            shop.with_mishap(&faults, what.is_none().then_some(place.as_str()), begin).await;
        assert_eq!(shop.ends(action.id).await.status, ActionStatus::Error, "{name}");
        shop.keeps_addresses(server, kept, &name).await;
        let card = shop.node.private_card(server);
        assert_eq!(card.is_some(), server == member, "{name}: {card:?}");
        assert!(card.is_none_or(|card| card.networks.is_empty()), "{name}");
        worker.stop(Duration::from_secs(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_did_not_get_nobody_gets_before_its_node_has_lost_it() {
    let shop = Shop::open().await;
    let first = shop.worker("");
    let network = make(&shop.customer, "inner", &["10.0.1.0/24"]).await.id;
    let (a, b) = (shop.running(json!({})).await, shop.running(json!({})).await);
    let member = shop.running(json!({"networks": [network]})).await;
    first.stop(Duration::from_secs(10)).await;
    for (server, verb, job, left) in
        [(a, "attach_to_network", "leave_network", 0), (member, "change_alias_ips", "leave_alias_ips", 1)]
    {
        let marker = shop.berth.folder().join(job);
        let pause = format!("{verb}.tell.after_run=error,{job}.lose.before=pause:{}", marker.display());
        let worker = shop.worker(&pause);
        let asked = json!({"network": network, "alias_ips": ["10.0.1.9"]});
        let given_up = shop.asks_card(server, verb, asked.clone()).await.expect::<ActionReply>(201).action;
        assert_eq!(shop.ends(given_up.id).await.status, ActionStatus::Error, "{verb}");
        until("it is about to be lost", async || marker.exists().then_some(())).await;
        assert_eq!(shop.asks_card(b, "attach_to_network", asked.clone()).await.code(), "ip_not_available");
        let again = shop.asks_card(server, verb, asked).await;
        let code = if server == a { "conflict" } else { "ip_not_available" };
        assert_eq!(again.code(), code, "{verb}: {}", again.text);
        std::fs::remove_file(&marker).unwrap();
        shop.keeps_addresses(server, left, verb).await;
        worker.stop(Duration::from_secs(10)).await;
    }
    let worker = shop.worker("");
    shop.card_changes(b, "attach_to_network", json!({"network": network, "alias_ips": ["10.0.1.9"]})).await;
    worker.stop(Duration::from_secs(10)).await;
}
