//! Primary IPs, floating IPs and the pools behind them: an address is never handed out twice, and never lost.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use berth_agent::hypervisor::Hypervisor as _;
use berth_model::action::{Action, ActionReply, ActionStatus};
use berth_model::address::{
    FloatingIp, FloatingIpCreated, FloatingIpList, FloatingIpReply, IpFamily, PrimaryIp, PrimaryIpCreated,
    PrimaryIpList, PrimaryIpReply,
};
use berth_model::agent::Nic;
use berth_model::server::{Server, ServerCreated, ServerStatus};
use berth_model::{FloatingIpId, PrimaryIpId, ServerId, VmId};
use berth_server::addresses::changes::{AssignPrimaryIp, UnassignPrimaryIp};
use berth_server::addresses::cli;
use berth_server::addresses::jobs::moving;
use berth_server::addresses::jobs::releasing::LeavingIp;
use berth_server::addresses::pool::Written;
use berth_server::catalog;
use berth_server::serve::Options;
use berth_server::servers::change::Change;
use berth_server::servers::jobs::change::Step as ChangeStep;
use berth_server::servers::jobs::losing;
use futures_util::future::join_all;
use ipnet::IpNet;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::fleet::SimulatedNode;
use crate::shop::{End, Shop, mishaps};
use crate::support::{Berth, Person, Reply, until};

const OFF: &str = r#"{"start_after_create": false}"#;

/// Hands out 16 IPv6 networks.
async fn with_ipv6(berth: &Berth) {
    let ranges = ["2001:db8:77:10::-2001:db8:77:1f::".to_owned()];
    let written = Written { cidr: "2001:db8:77::/48", gateway: None, ranges: &ranges, reserved: &[] };
    assert_eq!(cli::put(&berth.world().db, "rtm1", &written).await.unwrap(), 16);
}

async fn ordered(customer: &Person, kind: &str, more: Value) -> Reply {
    let mut order = json!({"type": "ipv4"});
    order.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    customer.post(&format!("/v1/{kind}s"), order).await
}

async fn primary(customer: &Person, name: &str, family: &str) -> PrimaryIp {
    let order = json!({"name": name, "type": family, "location": "rtm1"});
    ordered(customer, "primary_ip", order).await.expect::<PrimaryIpCreated>(201).primary_ip
}

async fn floating(customer: &Person, family: &str) -> FloatingIp {
    let order = json!({"type": family, "home_location": "rtm1"});
    ordered(customer, "floating_ip", order).await.expect::<FloatingIpCreated>(201).floating_ip
}

async fn held(db: &PgPool) -> (i64, i64) {
    let sql =
        "select (select count(*) from addresses where free_since is null), (select count(*) from public_ips)";
    sqlx::query_as(sql).fetch_one(db).await.unwrap()
}

/// So many free IPv4 addresses are left.
async fn keep_free(db: &PgPool, count: i64) {
    let sql = "delete from addresses where free_since is not null and id not in (
                   select id from addresses where free_since is not null and family(ip) = 4 order by id limit $1)";
    sqlx::query(sql).bind(count).execute(db).await.unwrap();
}

impl Shop {
    async fn made(&self, more: &str) -> Server {
        let made = self.order_with(serde_json::from_str(more).unwrap()).await;
        self.succeeds(made.action.id).await;
        self.server(made.server.id).await.unwrap()
    }

    async fn acts(&self, path: &str, body: Value) -> Action {
        let action = self.customer.post(path, body).await.expect::<ActionReply>(201).action;
        self.succeeds(action.id).await;
        action
    }

    fn card(&self, server: ServerId) -> Option<Nic> {
        card_on(&self.node, server)
    }

    async fn floating(&self, id: FloatingIpId) -> FloatingIp {
        self.customer.get(&format!("/v1/floating_ips/{id}")).await.expect::<FloatingIpReply>(200).floating_ip
    }

    /// Nothing holds the primary IP.
    async fn is_released(&self, id: PrimaryIpId) {
        until("nothing holds the primary IP", async || {
            let held = "select count(*) from public_ips where id = $1 and locked_by is not null";
            (self.count(held, ServerId(id.0)).await == 0).then_some(())
        })
        .await;
    }

    /// The machine of the server is as its rows say.
    async fn is_told(&self, server: ServerId, what: &str) {
        until(&format!("{what}: the machine is as the rows say"), async || {
            let told = "select count(*) from servers where id = $1 and revision = revision_told";
            (self.count(told, server).await == 1).then_some(())
        })
        .await;
    }
}

fn card_on(node: &SimulatedNode, server: ServerId) -> Option<Nic> {
    node.simulator.get(VmId::from(server)).unwrap().spec.unwrap().nics.into_iter().next()
}

fn has(card: &Option<Nic>, ip: &str) -> bool {
    let net: IpNet = if ip.contains('/') { ip.parse().unwrap() } else { format!("{ip}/32").parse().unwrap() };
    card.as_ref().is_some_and(|card| card.networks.contains(&net))
}

#[tokio::test(flavor = "multi_thread")]
async fn of_200_clients_at_once_100_get_the_last_100_addresses() {
    let without_limits = "workers_interactive = 0\nworkers_background = 0\n\
                          project_limits = { primary_ips = 200, floating_ips = 200 }\n\
                          account_limits = { primary_ips = 200, floating_ips = 200 }";
    let berth = Berth::start_with(without_limits, Options::default()).await;
    berth.catalog().await;
    let (customer, db) = (berth.customer().await, &berth.world().db);
    keep_free(db, 100).await;
    let take = |n: usize| {
        let customer = &customer;
        async move {
            if n.is_multiple_of(2) {
                let order = json!({"name": format!("ip-{n}"), "location": "rtm1"});
                ordered(customer, "primary_ip", order).await
            } else {
                ordered(customer, "floating_ip", json!({"home_location": "rtm1"})).await
            }
        }
    };
    let replies = join_all((0..200).map(take)).await;
    let (won, lost): (Vec<&Reply>, Vec<&Reply>) = replies.iter().partition(|reply| reply.status == 201);
    assert_eq!((won.len(), lost.len()), (100, 100));
    let codes: BTreeSet<_> = lost.iter().map(|reply| reply.code().to_owned()).collect();
    assert_eq!(codes, BTreeSet::from(["resource_unavailable".to_owned()]));
    let ip = |reply: &&Reply| {
        let body = reply.json();
        let of = body.get("primary_ip").or(body.get("floating_ip")).unwrap();
        of["ip"].as_str().unwrap().to_owned()
    };
    assert_eq!(won.iter().map(ip).collect::<BTreeSet<_>>().len(), 100);
    assert_eq!(held(db).await, (100, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_requests_for_one_name_one_gets_it_and_the_other_takes_no_address() {
    let berth = Berth::without_workers().await;
    berth.catalog().await;
    let customer = berth.customer().await;
    let order = || ordered(&customer, "primary_ip", json!({"name": "same", "location": "rtm1"}));
    let replies = join_all((0..8).map(|_| order())).await;
    let won = replies.iter().filter(|reply| reply.status == 201).count();
    assert_eq!(won, 1);
    for lost in replies.iter().filter(|reply| reply.status != 201) {
        assert_eq!(lost.code(), "uniqueness_error");
        assert!(lost.error().for_field("name").is_some());
    }
    assert_eq!(held(&berth.world().db).await, (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_floating_ip_assigned_to_50_servers_at_once_is_one_servers() {
    let shop = Shop::open().await;
    // One alone has no room for so many.
    let second = shop.berth.node("node-2").await;
    let _worker = shop.worker("");
    let orders = join_all((0..50).map(|_| shop.order())).await;
    for order in &orders {
        shop.succeeds(order.action.id).await;
    }
    let ip = floating(&shop.customer, "ipv4").await;
    let path = format!("/v1/floating_ips/{}/actions/assign", ip.id);
    for round in 0..2 {
        let assign = |order: &ServerCreated| shop.customer.post(&path, json!({"server": order.server.id}));
        let replies = join_all(orders.iter().map(assign)).await;
        let mut won = 0;
        for reply in &replies {
            match reply.status.as_u16() {
                201 => {
                    won += 1;
                    shop.succeeds(reply.expect::<ActionReply>(201).action.id).await;
                }
                _ => assert!(["locked", "conflict"].contains(&reply.code().as_str()), "{}", reply.text),
            }
        }
        assert!(won > 0, "round {round}");
        let owner = shop.floating(ip.id).await.server.unwrap();
        for order in &orders {
            shop.is_told(order.server.id, "after the race").await;
            let shown = shop.server(order.server.id).await.unwrap().public_net.floating_ips;
            let wanted = order.server.id == owner;
            let nodes = [&shop.node, &second];
            let node =
                nodes.iter().find(|node| node.simulator.get(VmId::from(order.server.id)).is_ok()).unwrap();
            assert_eq!((has(&card_on(node, order.server.id), &ip.ip), shown == [ip.id]), (wanted, wanted));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_floating_ip_has_left_the_first_node_before_the_second_gets_it() {
    let shop = Shop::open().await;
    with_ipv6(&shop.berth).await;
    let (marker, place) = (shop.berth.folder().join("marker"), "assign_floating_ip.give.before");
    let first = shop.worker("");
    let a = shop.made("{}").await;
    let second = shop.berth.node("node-2").await;
    let b = shop.made("{}").await;
    assert!(second.simulator.get(VmId::from(b.id)).is_ok(), "it stands on the emptier node");
    for family in ["ipv4", "ipv6"] {
        let ip = floating(&shop.customer, family).await;
        let path = format!("/v1/floating_ips/{}/actions/assign", ip.id);
        shop.acts(&path, json!({"server": a.id})).await;
        assert!(has(&shop.card(a.id), &ip.ip));
        assert_eq!(shop.server(a.id).await.unwrap().public_net.floating_ips.last(), Some(&ip.id));
    }
    first.stop(Duration::from_secs(10)).await;
    let list = shop.customer.get("/v1/floating_ips?sort=id").await.expect::<FloatingIpList>(200);
    for ip in list.floating_ips {
        let worker = shop.worker(&format!("{place}=pause:{}", marker.display()));
        let path = format!("/v1/floating_ips/{}/actions/assign", ip.id);
        let action =
            shop.customer.post(&path, json!({"server": b.id})).await.expect::<ActionReply>(201).action;
        until("the first node was told", async || marker.exists().then_some(())).await;
        assert!(!has(&shop.card(a.id), &ip.ip) && !has(&card_on(&second, b.id), &ip.ip));
        let again = shop.customer.post(&path, json!({"server": a.id})).await;
        assert_eq!((again.status.as_u16(), again.code().as_str()), (423, "locked"));
        let server = shop.server(b.id).await.unwrap();
        assert!(!server.locked && server.status == ServerStatus::Running, "nobody waits for it");
        std::fs::remove_file(&marker).unwrap();
        shop.succeeds(action.id).await;
        assert!(!has(&shop.card(a.id), &ip.ip) && has(&card_on(&second, b.id), &ip.ip));
        let actions: Value =
            shop.customer.get(&format!("/v1/floating_ips/{}/actions", ip.id)).await.expect(200);
        assert_eq!(actions["meta"]["pagination"]["total_entries"], 2);
        worker.stop(Duration::from_secs(10)).await;
    }
    let _worker = shop.worker("");
    assert!(shop.server(a.id).await.unwrap().public_net.floating_ips.is_empty());
    let ip = &shop.server(b.id).await.unwrap().public_net.floating_ips[0];
    let unassign = shop.acts(&format!("/v1/floating_ips/{ip}/actions/unassign"), json!({})).await;
    assert_eq!(unassign.command, "unassign_floating_ip");
    assert_eq!(shop.floating(*ip).await.server, None);
    assert!(!has(&card_on(&second, b.id), &shop.floating(*ip).await.ip));
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_a_move_is_cut_off_repeated_or_fails_one_server_has_the_address() {
    let shop = Shop::open().await;
    let first = shop.worker("");
    let (a, b) = (shop.made("{}").await, shop.made("{}").await);
    first.stop(Duration::from_secs(10)).await;
    let assigns = mishaps::<moving::Step<true>>("assign_floating_ip");
    let unassigns = mishaps::<moving::Step<false>>("unassign_floating_ip");
    for (place, what) in assigns.iter().chain(&unassigns) {
        let name = format!("{place}={}", what.unwrap_or("die"));
        let worker = shop.worker("");
        let ip = floating(&shop.customer, "ipv4").await;
        let path = |verb: &str| format!("/v1/floating_ips/{}/actions/{verb}", ip.id);
        shop.acts(&path("assign"), json!({"server": a.id})).await;
        worker.stop(Duration::from_secs(10)).await;

        let faults: Vec<String> = what.map(|what| format!("{place}={what}")).into_iter().collect();
        let dies_at = what.is_none().then_some(place.as_str());
        let verb = if place.starts_with("assign") { "assign" } else { "unassign" };
        let body = if verb == "assign" { json!({"server": b.id}) } else { json!({}) };
        let begin = async || shop.customer.post(&path(verb), body).await.expect::<ActionReply>(201).action;
        let (action, worker) = shop.with_mishap(&faults, dies_at, begin).await;
        let undone = *what == Some("error");
        let ended = shop.ends(action.id).await;
        let status = if undone { ActionStatus::Error } else { ActionStatus::Success };
        assert_eq!(ended.status, status, "{name}: {ended:?}");
        let owner = match (undone, verb) {
            (true, _) => Some(a.id),
            (false, "assign") => Some(b.id),
            _ => None,
        };
        for server in [a.id, b.id] {
            shop.is_told(server, &name).await;
            assert_eq!(has(&shop.card(server), &ip.ip), owner == Some(server), "{name}");
        }
        assert_eq!(shop.floating(ip.id).await.server, owner, "{name}");
        let deleted = shop.customer.delete(&format!("/v1/floating_ips/{}", ip.id)).await;
        assert_eq!(deleted.status, 204, "{name}: nothing holds it: {}", deleted.text);
        until("it has left", async || (held(&shop.berth.world().db).await == (2, 2)).then_some(())).await;
        worker.stop(Duration::from_secs(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_the_end_of_an_address_is_cut_off_it_leaves_its_server_and_is_free() {
    let shop = Shop::open().await;
    let first = shop.worker("");
    let server = shop.made("{}").await;
    first.stop(Duration::from_secs(10)).await;
    for (place, what) in mishaps::<losing::Step<LeavingIp>>("release_public_ip") {
        let name = format!("{place}={}", what.unwrap_or("die"));
        let worker = shop.worker("");
        let ip = floating(&shop.customer, "ipv4").await;
        let path = format!("/v1/floating_ips/{}", ip.id);
        shop.acts(&format!("{path}/actions/assign"), json!({"server": server.id})).await;
        worker.stop(Duration::from_secs(10)).await;
        let faults: Vec<String> = what.map(|what| format!("{place}={what}")).into_iter().collect();
        let begin = async || {
            assert_eq!(shop.customer.delete(&path).await.status, 204, "{name}");
            assert_eq!(shop.customer.get(&path).await.status, 404, "{name}");
            // Paused there, the worker has told the node nothing yet.
            if place.ends_with(".before") {
                assert_eq!(held(&shop.berth.world().db).await, (2, 2), "{name}: nobody else may get it yet");
            }
        };
        let ((), worker) = shop.with_mishap(&faults, what.is_none().then_some(place.as_str()), begin).await;
        until("its address is free", async || (held(&shop.berth.world().db).await == (1, 1)).then_some(()))
            .await;
        assert!(!has(&shop.card(server.id), &ip.ip), "{name}");
        worker.stop(Duration::from_secs(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_the_change_of_a_primary_ip_is_cut_off_the_machine_is_as_the_rows_say() {
    let shop = Shop::open().await;
    with_ipv6(&shop.berth).await;
    let assigns = mishaps::<ChangeStep<AssignPrimaryIp>>(AssignPrimaryIp::COMMAND);
    let unassigns = mishaps::<ChangeStep<UnassignPrimaryIp>>(UnassignPrimaryIp::COMMAND);
    let first = shop.worker("");
    let only_v4 = r#"{"start_after_create": false, "public_net": {"enable_ipv6": false}}"#;
    let server = shop.made(only_v4).await;
    let ip = primary(&shop.customer, "mine", "ipv6").await;
    first.stop(Duration::from_secs(10)).await;
    let path = |verb: &str| format!("/v1/primary_ips/{}/actions/{verb}", ip.id);
    let body = || json!({"assignee_id": server.id, "assignee_type": "server"});
    for (place, what) in assigns.iter().chain(&unassigns) {
        let name = format!("{place}={}", what.unwrap_or("die"));
        let is_assign = place.starts_with("assign");
        let worker = shop.worker("");
        let shown = async || {
            let reply = shop.customer.get(&format!("/v1/primary_ips/{}", ip.id)).await;
            reply.expect::<PrimaryIpReply>(200).primary_ip.assignee_id.is_some()
        };
        if shown().await == is_assign {
            shop.acts(&path(if is_assign { "unassign" } else { "assign" }), body()).await;
        }
        worker.stop(Duration::from_secs(10)).await;
        let faults: Vec<String> = what.map(|what| format!("{place}={what}")).into_iter().collect();
        let begin = async || {
            let verb = if is_assign { "assign" } else { "unassign" };
            shop.customer.post(&path(verb), body()).await.expect::<ActionReply>(201).action
        };
        let (action, worker) =
            shop.with_mishap(&faults, what.is_none().then_some(place.as_str()), begin).await;
        let undone = *what == Some("error");
        let ended = shop.ends(action.id).await;
        assert_eq!(ended.status == ActionStatus::Error, undone, "{name}: {ended:?}");
        let has_it = is_assign != undone;
        shop.is_told(server.id, &name).await;
        shop.is_released(ip.id).await;
        let seen = shop.server(server.id).await.unwrap();
        assert_eq!((has(&shop.card(server.id), &ip.ip), shown().await), (has_it, has_it), "{name}");
        assert_eq!((seen.public_net.ipv6.is_some(), seen.locked), (has_it, false), "{name}");
        worker.stop(Duration::from_secs(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_ip_that_a_server_did_not_get_is_held_until_its_node_has_lost_it() {
    let shop = Shop::open().await;
    with_ipv6(&shop.berth).await;
    let first = shop.worker("");
    let server = shop.made(r#"{"start_after_create": false, "public_net": {"enable_ipv6": false}}"#).await;
    let ip = primary(&shop.customer, "mine", "ipv6").await;
    first.stop(Duration::from_secs(10)).await;
    let marker = shop.berth.folder().join("marker");
    let worker = shop.worker(&format!(
        "assign_primary_ip.tell.after_run=error,release_public_ip.lose.before=pause:{}",
        marker.display()
    ));
    let path = format!("/v1/primary_ips/{}/actions/assign", ip.id);
    let body = json!({"assignee_id": server.id, "assignee_type": "server"});
    let given_up = shop.customer.post(&path, body.clone()).await.expect::<ActionReply>(201).action;
    assert_eq!(shop.ends(given_up.id).await.status, ActionStatus::Error);
    until("it is about to leave", async || marker.exists().then_some(())).await;
    assert!(shop.server(server.id).await.unwrap().public_net.ipv6.is_none());
    assert_eq!(shop.customer.post(&path, body).await.code(), "locked");
    assert_eq!(shop.customer.delete(&format!("/v1/primary_ips/{}", ip.id)).await.code(), "locked");
    shop.order_refused(json!({"public_net": {"ipv6": ip.id}})).await.refuses("public_net.ipv6");
    std::fs::remove_file(&marker).unwrap();
    shop.is_released(ip.id).await;
    assert!(!has(&shop.card(server.id), &ip.ip));
    let made = shop.made(&json!({"public_net": {"ipv6": ip.id}}).to_string()).await;
    assert!(has(&shop.card(made.id), &ip.ip));
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_floating_ip_stays_where_its_node_is_down() {
    let mut shop = Shop::open().await;
    let _worker = shop.worker("");
    let a = shop.made("{}").await;
    let _second = shop.berth.node("node-2").await;
    let b = shop.made("{}").await;
    let ip = floating(&shop.customer, "ipv4").await;
    let path = |verb: &str| format!("/v1/floating_ips/{}/actions/{verb}", ip.id);
    shop.acts(&path("assign"), json!({"server": a.id})).await;
    shop.node.stop().await;
    until("the node is down", async || {
        let down = "select count(*) from nodes join servers s on s.node_id = nodes.id where s.id = $1 and state = 'down'";
        (shop.count(down, a.id).await == 1).then_some(())
    })
    .await;
    for (verb, body) in [("assign", json!({"server": b.id})), ("unassign", json!({}))] {
        let refused = shop.customer.post(&path(verb), body).await;
        assert_eq!(refused.code(), "conflict", "{}", refused.text);
        assert!(refused.text.contains("does not answer"), "{}", refused.text);
    }
    assert_eq!(shop.floating(ip.id).await.server, Some(a.id));
    shop.node.start().await;
    until("the node is back", async || {
        let up = "select count(*) from nodes join servers s on s.node_id = nodes.id where s.id = $1 and state = 'up'";
        (shop.count(up, a.id).await == 1).then_some(())
    })
    .await;
    shop.acts(&path("assign"), json!({"server": b.id})).await;
    assert_eq!(shop.floating(ip.id).await.server, Some(b.id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_has_an_ipv6_network_of_its_own_and_may_have_nothing_else() {
    let shop = Shop::open().await;
    let _worker = shop.worker("");
    let refused =
        json!({"name": "x", "server_type": "s1", "image": "tiny", "public_net": {"enable_ipv4": false}});
    let refused = shop.customer.post("/v1/servers", refused).await;
    assert!(refused.error().for_field("public_net.enable_ipv4").is_some(), "no IPv6 here: {}", refused.text);
    with_ipv6(&shop.berth).await;
    let both = shop.made("{}").await;
    let net: IpNet = both.public_net.ipv6.as_ref().unwrap().ip.parse().unwrap();
    assert_eq!(net, "2001:db8:77:10::/64".parse().unwrap());
    let card = shop.card(both.id).unwrap();
    assert_eq!(card.addresses[0].ip, IpAddr::V4(both.public_net.ipv4.unwrap().ip));
    let own = &card.addresses[1];
    assert_eq!((own.ip.to_string().as_str(), own.prefix), ("2001:db8:77:10::1", 64));
    assert_eq!(own.gateway.unwrap().to_string(), "fe80::1");
    assert_eq!(card.networks, [net]);

    let six = shop.made(r#"{"public_net": {"enable_ipv4": false, "enable_ipv6": true}}"#).await;
    assert!(six.public_net.ipv4.is_none() && six.public_net.ipv6.is_some());
    let card = shop.card(six.id).unwrap();
    assert_eq!(card.addresses.len(), 1);
    assert!(card.addresses[0].ip.is_ipv6());
    let four = shop.made(r#"{"public_net": {"enable_ipv6": false}}"#).await;
    assert!(four.public_net.ipv4.is_some() && four.public_net.ipv6.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_ip_outlives_its_servers_unless_it_goes_with_them() {
    let shop = Shop::open().await;
    with_ipv6(&shop.berth).await;
    let _worker = shop.worker("");
    let (four, six) =
        (primary(&shop.customer, "four", "ipv4").await, primary(&shop.customer, "six", "ipv6").await);
    assert_eq!((four.assignee_id, four.auto_delete, four.family), (None, false, IpFamily::Ipv4));
    assert!(six.ip.ends_with("::/64"), "{}", six.ip);
    let named = format!(r#"{{"public_net": {{"ipv4": {}, "ipv6": {}}}}}"#, four.id, six.id);
    let server = shop.made(&named).await;
    assert_eq!(
        server.public_net.ipv4.as_ref().map(|ip| (ip.id, ip.ip.to_string())),
        Some((four.id, four.ip.clone()))
    );
    assert_eq!(
        server.public_net.ipv6.as_ref().map(|ip| (ip.id, ip.ip.clone())),
        Some((six.id, six.ip.clone()))
    );
    assert_eq!(held(&shop.berth.world().db).await, (2, 2), "no others were made");

    let order =
        json!({"name": "another", "server_type": "s1", "image": "tiny", "public_net": {"ipv4": four.id}});
    let in_use = shop.customer.post("/v1/servers", order).await;
    assert!(in_use.error().for_field("public_net.ipv4").is_some(), "{}", in_use.text);

    let path = format!("/v1/primary_ips/{}", six.id);
    let goes =
        shop.customer.put(&path, json!({"auto_delete": true, "name": "goes", "labels": {"a": "b"}})).await;
    let goes = goes.expect::<PrimaryIpReply>(200).primary_ip;
    assert_eq!((goes.auto_delete, goes.name.as_str(), goes.assignee_id), (true, "goes", Some(server.id)));
    let action = shop.delete(server.id).await;
    shop.succeeds(action.id).await;
    assert_eq!(shop.customer.get(&path).await.status, 404);
    let list = shop.customer.get("/v1/primary_ips").await.expect::<PrimaryIpList>(200);
    assert_eq!(
        list.primary_ips.iter().map(|ip| (ip.id, ip.assignee_id)).collect::<Vec<_>>(),
        [(four.id, None)]
    );
    assert_eq!(held(&shop.berth.world().db).await, (1, 1));
    assert_eq!(shop.customer.delete(&format!("/v1/primary_ips/{}", four.id)).await.status, 204);
    assert_eq!(held(&shop.berth.world().db).await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_given_up_leaves_the_primary_ips_that_it_named() {
    let shop = Shop::open().await;
    with_ipv6(&shop.berth).await;
    let four = primary(&shop.customer, "four", "ipv4").await;
    let path = format!("/v1/primary_ips/{}", four.id);
    shop.customer.put(&path, json!({"auto_delete": true})).await.expect::<PrimaryIpReply>(200);
    for place in ["create_server.place.after_run", "create_server.machine.after_run"] {
        let worker = shop.worker(&format!("{place}=error"));
        let made = shop.order_with(json!({"public_net": {"ipv4": four.id}})).await;
        shop.create_is_clean(&made, End::Undone, place).await;
        let left = shop.customer.get(&path).await.expect::<PrimaryIpReply>(200).primary_ip;
        assert_eq!((left.assignee_id, left.ip.as_str()), (None, four.ip.as_str()), "{place}");
        assert_eq!(held(&shop.berth.world().db).await, (1, 1), "{place}");
        worker.stop(Duration::from_secs(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_ip_changes_hands_only_while_servers_are_off() {
    let shop = Shop::open().await;
    let _worker = shop.worker("");
    let server = shop.made("{}").await;
    let own = server.public_net.ipv4.as_ref().unwrap().id;
    let other = primary(&shop.customer, "other", "ipv4").await;
    let does = |id: berth_model::PrimaryIpId, verb: &str| format!("/v1/primary_ips/{id}/actions/{verb}");
    let body = json!({"assignee_id": server.id, "assignee_type": "server"});
    let code = async |path: &str, body: &Value| shop.customer.post(path, body.clone()).await.code();
    assert_eq!(code(&does(own, "unassign"), &json!({})).await, "server_not_stopped", "it runs");
    assert_eq!(
        shop.customer.delete(&format!("/v1/primary_ips/{own}")).await.code(),
        "server_not_stopped",
        "it runs"
    );
    let off = shop.tell(server.id, "poweroff").await;
    shop.succeeds(off.id).await;
    assert_eq!(code(&does(other.id, "assign"), &body).await, "server_has_ipv4", "it has another");
    let nowhere = json!({"assignee_id": 999_999, "assignee_type": "server"});
    assert!(shop.customer.post(&does(other.id, "assign"), nowhere).await.text.contains("assignee_id"));
    let gone = shop.acts(&does(own, "unassign"), json!({})).await;
    assert_eq!(gone.command, "unassign_primary_ip");
    assert_eq!(shop.card(server.id), None, "without an address it has no card");
    assert!(shop.server(server.id).await.unwrap().public_net.ipv4.is_none());
    shop.acts(&does(other.id, "assign"), body.clone()).await;
    assert_eq!(shop.card(server.id).unwrap().addresses[0].ip.to_string(), other.ip);
    assert_eq!(
        code(&does(other.id, "assign"), &body).await,
        "primary_ip_already_assigned",
        "a server has it"
    );

    // One that is given back while a server has it leaves the server first.
    let path = format!("/v1/primary_ips/{}", other.id);
    shop.customer
        .post(&does(other.id, "change_protection"), json!({"delete": true}))
        .await
        .expect::<ActionReply>(201);
    assert_eq!(shop.customer.delete(&path).await.code(), "protected");
    shop.customer
        .post(&does(other.id, "change_protection"), json!({"delete": false}))
        .await
        .expect::<ActionReply>(201);
    assert_eq!(shop.customer.delete(&path).await.status, 204);
    until("it is free", async || (held(&shop.berth.world().db).await == (1, 1)).then_some(())).await;
    assert_eq!(shop.card(server.id), None);
    let with_server = json!({"name": "new", "assignee_id": server.id, "assignee_type": "server"});
    let made = ordered(&shop.customer, "primary_ip", with_server).await.expect::<PrimaryIpCreated>(201);
    shop.succeeds(made.action.unwrap().id).await;
    assert_eq!(shop.card(server.id).unwrap().addresses[0].ip.to_string(), made.primary_ip.ip);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_servers_at_once_one_gets_a_primary_ip() {
    let shop = Shop::open().await;
    let _worker = shop.worker("");
    let ip = primary(&shop.customer, "mine", "ipv4").await;
    let order = |n: usize| {
        let order = json!({"name": format!("s{n}"), "server_type": "s1", "image": "tiny", "public_net": {"ipv4": ip.id}});
        shop.customer.post("/v1/servers", order)
    };
    let replies = join_all((0..20).map(order)).await;
    let won: Vec<_> = replies.iter().filter(|reply| reply.status == 201).collect();
    assert_eq!(won.len(), 1);
    let made = won[0].expect::<ServerCreated>(201);
    shop.succeeds(made.action.id).await;
    assert_eq!(shop.card(made.server.id).unwrap().addresses[0].ip.to_string(), ip.ip);
    assert_eq!(held(&shop.berth.world().db).await, (1, 1));
}

#[tokio::test]
async fn an_address_that_was_given_back_cools_down_and_the_longest_free_comes_first() {
    let berth = Berth::without_workers().await;
    berth.catalog().await;
    let (customer, db) = (berth.customer().await, &berth.world().db);
    keep_free(db, 2).await;
    let (a, b) = (floating(&customer, "ipv4").await, floating(&customer, "ipv4").await);
    for ip in [&b, &a] {
        assert_eq!(customer.delete(&format!("/v1/floating_ips/{}", ip.id)).await.status, 204);
    }
    let early = ordered(&customer, "floating_ip", json!({"home_location": "rtm1"})).await;
    assert_eq!(early.code(), "resource_unavailable");
    let order = json!({"name": "x", "server_type": "s1", "image": "tiny", "location": "rtm1"});
    assert_eq!(customer.post("/v1/servers", order).await.code(), "resource_unavailable");
    sqlx::query("update addresses set free_since = free_since - interval '5 minutes'")
        .execute(db)
        .await
        .unwrap();
    let (first, second) = (floating(&customer, "ipv4").await, floating(&customer, "ipv4").await);
    assert_eq!([&first.ip, &second.ip], [&b.ip, &a.ip]);
    assert!(first.id > b.id, "another holder has another number");
}

#[tokio::test(flavor = "multi_thread")]
async fn reverse_names_are_the_holders_and_go_with_it() {
    let shop = Shop::open().await;
    with_ipv6(&shop.berth).await;
    let _worker = shop.worker("");
    let server = shop.made(OFF).await;
    let (four, six) = (server.public_net.ipv4.unwrap(), server.public_net.ipv6.unwrap());
    assert_eq!((four.dns_ptr, six.dns_ptr.len()), (None, 0));
    let path = format!("/v1/servers/{}/actions/change_dns_ptr", server.id);
    for (ip, name) in
        [(four.ip.to_string(), "Mail.Example.org."), ("2001:db8:77:10::9".to_owned(), "nine.example.org")]
    {
        let action = shop.acts(&path, json!({"ip": ip, "dns_ptr": name})).await;
        assert_eq!(action.command, "change_dns_ptr");
    }
    let net = shop.server(server.id).await.unwrap().public_net;
    assert_eq!(net.ipv4.unwrap().dns_ptr.as_deref(), Some("mail.example.org"));
    let names = net.ipv6.unwrap().dns_ptr;
    assert_eq!(
        (names[0].ip.to_string().as_str(), names[0].dns_ptr.as_str()),
        ("2001:db8:77:10::9", "nine.example.org")
    );
    for (body, field) in [
        (json!({"ip": "10.77.0.1", "dns_ptr": "a.example"}), "ip"),
        (json!({"ip": "2001:db8:77:11::1", "dns_ptr": null}), "ip"),
        (json!({"ip": "x", "dns_ptr": null}), "ip"),
        (json!({"ip": four.ip, "dns_ptr": "no host name"}), "dns_ptr"),
        (json!({"ip": four.ip, "dns_ptr": 7}), "dns_ptr"),
    ] {
        shop.customer.post(&path, body).await.refuses(field);
    }

    // It stays as the address moves to another server, and is gone with the primary IP.
    let of_ip = format!("/v1/primary_ips/{}", four.id);
    shop.acts(&format!("{of_ip}/actions/unassign"), json!({})).await;
    let kept = shop.customer.get(&of_ip).await.expect::<PrimaryIpReply>(200).primary_ip;
    assert_eq!((kept.dns_ptr.len(), kept.dns_ptr[0].dns_ptr.as_str()), (1, "mail.example.org"));
    shop.acts(&format!("{of_ip}/actions/change_dns_ptr"), json!({"ip": four.ip, "dns_ptr": null})).await;
    assert!(shop.customer.get(&of_ip).await.expect::<PrimaryIpReply>(200).primary_ip.dns_ptr.is_empty());
    let names = async || {
        let count = sqlx::query_scalar::<_, i64>("select count(*) from reverse_names");
        count.fetch_one(&shop.berth.world().db).await.unwrap()
    };
    let floating = floating(&shop.customer, "ipv4").await;
    let change = format!("/v1/floating_ips/{}/actions/change_dns_ptr", floating.id);
    shop.acts(&change, json!({"ip": floating.ip, "dns_ptr": "vip.example.org"})).await;
    assert_eq!(shop.floating(floating.id).await.dns_ptr[0].dns_ptr, "vip.example.org");
    assert_eq!(names().await, 2);
    assert_eq!(shop.customer.delete(&format!("/v1/floating_ips/{}", floating.id)).await.status, 204);
    assert_eq!(names().await, 1);
    let action = shop.delete(server.id).await;
    shop.succeeds(action.id).await;
    assert_eq!(names().await, 0);
}

#[tokio::test]
async fn lists_are_filtered_and_sorted_and_wrong_fields_named() {
    let berth = Berth::without_workers().await;
    berth.catalog().await;
    with_ipv6(&berth).await;
    let (customer, other) = (berth.customer().await, berth.other_customer().await);
    let labelled = json!({"name": "b", "type": "ipv6", "location": 1, "labels": {"env": "prod"}});
    let b = ordered(&customer, "primary_ip", labelled).await.expect::<PrimaryIpCreated>(201).primary_ip;
    let older =
        json!({"name": "a", "datacenter": "rtm1-dc1", "assignee_type": "server", "auto_delete": true});
    let a = ordered(&customer, "primary_ip", older).await.expect::<PrimaryIpCreated>(201).primary_ip;
    assert!(a.auto_delete);
    ordered(&other, "primary_ip", json!({"name": "a", "location": "rtm1"})).await.expect::<Value>(201);
    let listed = async |query: &str| {
        let reply = customer.get(&format!("/v1/primary_ips?{query}")).await;
        reply.expect::<PrimaryIpList>(200).primary_ips.into_iter().map(|ip| ip.name).collect::<Vec<_>>()
    };
    for (query, wanted) in [
        ("", &["b", "a"][..]),
        ("sort=name", &["a", "b"]),
        ("sort=created:desc", &["a", "b"]),
        ("name=a", &["a"]),
        ("label_selector=env=prod", &["b"]),
        ("name=c", &[]),
    ] {
        assert_eq!(listed(query).await, wanted, "{query}");
    }
    assert_eq!(listed(&format!("ip={}", a.ip)).await, ["a"]);
    assert_eq!(listed(&format!("ip={}", b.ip.replace('/', "%2F"))).await, ["b"]);
    customer.get("/v1/primary_ips?sort=ip").await.refuses("sort");

    let long = "x".repeat(65);
    for (kind, body, field) in [
        ("primary_ip", json!({"location": "rtm1"}), "name"),
        ("primary_ip", json!({"name": " ", "location": "rtm1"}), "name"),
        ("primary_ip", json!({"name": long, "location": "rtm1"}), "name"),
        ("primary_ip", json!({"name": "x", "type": "ipv5", "location": "rtm1"}), "type"),
        ("primary_ip", json!({"name": "x"}), "location"),
        ("primary_ip", json!({"name": "x", "location": "none"}), "location"),
        ("primary_ip", json!({"name": "x", "datacenter": "none"}), "datacenter"),
        ("primary_ip", json!({"name": "x", "assignee_id": 99}), "assignee_id"),
        ("primary_ip", json!({"name": "x", "location": "rtm1", "labels": {"-": ""}}), "labels.-"),
        ("primary_ip", json!({"name": "x", "location": "rtm1", "nmae": 1}), "nmae"),
        ("floating_ip", json!({}), "home_location"),
        ("floating_ip", json!({"home_location": "none"}), "home_location"),
        ("floating_ip", json!({"server": 99}), "server"),
        ("floating_ip", json!({"home_location": "rtm1", "name": long}), "name"),
        ("floating_ip", json!({"home_location": "rtm1", "description": "x".repeat(201)}), "description"),
    ] {
        let reply = ordered(&customer, kind, body.clone()).await;
        assert!(reply.status == 422 && reply.error().for_field(field).is_some(), "{body}: {}", reply.text);
    }
    let taken = customer.put(&format!("/v1/primary_ips/{}", b.id), json!({"name": "a"})).await;
    assert_eq!(taken.code(), "uniqueness_error");
    let made =
        ordered(&customer, "floating_ip", json!({"home_location": "rtm1", "description": "web"})).await;
    let made = made.expect::<FloatingIpCreated>(201).floating_ip;
    assert_eq!(
        (made.name.as_str(), made.description.as_str()),
        (format!("floating-ip-{}", made.id).as_str(), "web")
    );
    let changed = json!({"name": "vip", "description": "", "labels": {"a": ""}});
    let changed = customer.put(&format!("/v1/floating_ips/{}", made.id), changed).await;
    assert_eq!(changed.expect::<FloatingIpReply>(200).floating_ip.name, "vip");
    let protect = format!("/v1/floating_ips/{}/actions/change_protection", made.id);
    customer.post(&protect, json!({"delete": true})).await.expect::<ActionReply>(201);
    assert_eq!(customer.delete(&format!("/v1/floating_ips/{}", made.id)).await.code(), "protected");
}

#[tokio::test]
async fn what_a_pool_leaves_out_is_kept_by_its_holder_and_handed_to_nobody_else() {
    let berth = Berth::without_workers().await;
    berth.catalog().await;
    let (customer, db) = (berth.customer().await, &berth.world().db);
    let put = async |ranges: &[&str], reserved: &[&str]| {
        let [ranges, reserved] =
            [ranges, reserved].map(|texts| texts.iter().map(|&t| t.to_owned()).collect::<Vec<_>>());
        let gateway = Some("10.77.0.1".parse().unwrap());
        let written = Written { cidr: "10.77.0.0/24", gateway, ranges: &ranges, reserved: &reserved };
        cli::put(db, "rtm1", &written).await
    };
    let first = floating(&customer, "ipv4").await;
    assert_eq!(first.ip, "10.77.0.10");
    let new = put(&["10.77.0.5-10.77.0.12", "10.77.0.251"], &["10.77.0.6-10.77.0.9", "10.77.0.10"]).await;
    assert_eq!(new.unwrap(), 2);
    let table = cli::list(db).await.unwrap();
    let line = table.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(line, ["rtm1", "10.77.0.0/24", "10.77.0.1", "1", "4", "238"], "{table}");
    let mut ips = BTreeSet::new();
    for _ in 0..4 {
        ips.insert(floating(&customer, "ipv4").await.ip);
    }
    assert_eq!(ips.into_iter().collect::<Vec<_>>(), ["10.77.0.11", "10.77.0.12", "10.77.0.251", "10.77.0.5"]);
    assert_eq!(customer.delete(&format!("/v1/floating_ips/{}", first.id)).await.status, 204);
    sqlx::query("update addresses set free_since = 'epoch' where free_since is not null")
        .execute(db)
        .await
        .unwrap();
    let none = ordered(&customer, "floating_ip", json!({"home_location": "rtm1"})).await;
    assert_eq!(none.code(), "resource_unavailable");
    assert_eq!(cli::withdraw(db, "10.77.0.0/24").await.unwrap(), 4);

    let wrong = put(&["10.77.1.5"], &[]).await.unwrap_err();
    assert!(format!("{wrong:#}").starts_with("ranges"), "{wrong:#}");
    let file = berth.folder().join("two.toml");
    let text = r#"
        currency = "EUR"
        [[location]]
        name = "rtm1"
        description = "Rotterdam"
        country = "NL"
        city = "Rotterdam"
        latitude = 51.92
        longitude = 4.48
        network_zone = "eu-west"
        [[location.addresses]]
        cidr = "10.77.0.0/24"
        gateway = "10.77.0.1"
        ranges = ["10.77.0.10-10.77.0.29"]
        reserved = ["10.77.0.20/31"]
        [[location.addresses]]
        cidr = "10.77.0.0/24"
        gateway = "10.77.0.1"
        first = "10.77.0.40"
        last = "10.77.0.41"
        [[location.addresses]]
        cidr = "2001:db8:78::/60"
    "#;
    std::fs::write(&file, text).unwrap();
    assert_eq!(catalog::cli::apply(db, &file).await.unwrap().addresses_new, 16);
    let offered = "select count(*) from addresses where offered and family(ip) = 4";
    assert_eq!(sqlx::query_scalar::<_, i64>(offered).fetch_one(db).await.unwrap(), 20);
    assert_eq!(catalog::cli::apply(db, &file).await.unwrap().addresses_new, 0);
}
