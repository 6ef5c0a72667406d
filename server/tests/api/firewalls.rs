//! Firewalls: what they say reaches the node of every server that has them.

use std::time::Duration;

use berth_agent::hypervisor::Hypervisor as _;
use berth_model::action::{Action, ActionStatus};
use berth_model::agent;
use berth_model::firewall::{Firewall, FirewallActions, FirewallCreated, FirewallList, FirewallReply};
use berth_model::server::{AppliedStatus, Server, ServerReply};
use berth_model::{FirewallId, ServerId, VmId};
use berth_server::firewalls::rules::APPLIED_MAX;
use berth_server::serve::Options;
use berth_server::servers::jobs::follow::Step;
use serde_json::{Value, json};

use crate::shop::{Shop, mishaps};
use crate::support::{Berth, Person, Reply, until};

fn inbound(port: &str) -> Value {
    json!({"direction": "in", "protocol": "tcp", "port": port, "source_ips": ["0.0.0.0/0", "::/0"]})
}

fn server_target(server: ServerId) -> Value {
    json!({"type": "server", "server": {"id": server}})
}

fn selector_target(selector: &str) -> Value {
    json!({"type": "label_selector", "label_selector": {"selector": selector}})
}

async fn make(person: &Person, body: Value) -> FirewallCreated {
    person.post("/v1/firewalls", body).await.expect(201)
}

async fn does(person: &Person, firewall: FirewallId, verb: &str, body: Value) -> Reply {
    person.post(&format!("/v1/firewalls/{firewall}/actions/{verb}"), body).await
}

async fn shown(person: &Person, firewall: FirewallId) -> Firewall {
    person.get(&format!("/v1/firewalls/{firewall}")).await.expect::<FirewallReply>(200).firewall
}

/// The ports that a firewall on a network card lets in.
fn ports(firewall: &agent::Firewall) -> Vec<String> {
    firewall.inbound.iter().map(|rule| rule.ports.unwrap().to_string()).collect()
}

impl Shop {
    /// What the server's machine lets in; `None` when nothing is filtered.
    fn lets_in(&self, server: ServerId) -> Option<Vec<String>> {
        let spec = self.node.simulator.get(VmId::from(server)).unwrap().spec.unwrap();
        spec.nics[0].firewall.as_ref().map(ports)
    }

    async fn all_succeed(&self, actions: &[Action]) {
        for action in actions {
            self.succeeds(action.id).await;
        }
    }

    async fn label(&self, server: ServerId, labels: Value) -> Reply {
        self.customer.put(&format!("/v1/servers/{server}"), json!({"labels": labels})).await
    }

    async fn comes_to_let_in(&self, server: ServerId, wanted: Option<&[&str]>, what: &str) {
        until(what, async || {
            let is = self.lets_in(server);
            let is = is.as_ref().map(|ports| ports.iter().map(String::as_str).collect::<Vec<_>>());
            (is.as_deref() == wanted).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_firewall_is_made_found_changed_and_deleted() {
    let berth = Berth::without_workers().await;
    let customer = berth.customer().await;
    let body = json!({"name": " web ", "labels": {"env": "prod"}, "rules": [inbound("80")]});
    let made = make(&customer, body).await;
    assert!(made.actions.is_empty());
    let firewall = made.firewall;
    assert_eq!((firewall.name.as_str(), firewall.rules.len(), firewall.applied_to.len()), ("web", 1, 0));
    for (query, count) in [
        ("", 1),
        ("?name=web", 1),
        ("?name=we", 0),
        ("?label_selector=env%3Dprod", 1),
        ("?label_selector=!env", 0),
        ("?sort=created:desc&sort=name", 1),
    ] {
        let list: FirewallList = customer.get(&format!("/v1/firewalls{query}")).await.expect(200);
        assert_eq!(
            (list.firewalls.len(), list.meta.pagination.total_entries),
            (count, count as u64),
            "{query}"
        );
    }
    let path = format!("/v1/firewalls/{}", firewall.id);
    let renamed = json!({"name": "front", "labels": {}});
    let changed = customer.put(&path, renamed).await.expect::<FirewallReply>(200).firewall;
    assert_eq!((changed.name.as_str(), changed.labels.len(), changed.rules.len()), ("front", 0, 1));

    let second = make(&customer, json!({"name": "web"})).await.firewall;
    for reply in [
        customer.post("/v1/firewalls", json!({"name": "web"})).await,
        customer.put(&path, json!({"name": "web"})).await,
    ] {
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (409, "uniqueness_error"));
        assert!(reply.error().for_field("name").is_some());
    }
    let other = berth.other_customer().await;
    make(&other, json!({"name": "web"})).await;
    for reply in [
        other.get(&path).await,
        other.delete(&path).await,
        does(&other, second.id, "set_rules", json!({"rules": []})).await,
    ] {
        assert_eq!(reply.code(), "not_found");
    }
    assert_eq!(customer.delete(&path).await.status, 204);
    assert_eq!(customer.delete(&path).await.code(), "not_found");
    assert_eq!(customer.get(&format!("{path}/actions")).await.code(), "not_found");
}

#[tokio::test]
async fn what_is_wrong_is_refused_by_field() {
    let berth = Berth::without_workers().await;
    let customer = berth.customer().await;
    let with = |rule: Value| json!({"name": "a", "rules": [rule]});
    let icmp = |port| json!({"direction": "in", "protocol": "icmp", "port": port, "source_ips": ["::/0"]});
    for (body, field) in [
        (json!({}), "name"),
        (json!({"name": "x".repeat(65)}), "name"),
        (json!({"name": "a", "labels": {"a": "b c"}}), "labels.a"),
        (with(json!({"direction": "in", "protocol": "tcp", "source_ips": ["::/0"]})), "rules[0].port"),
        (with(icmp("80")), "rules[0].port"),
        (with(inbound("80-79")), "rules[0].port"),
        (with(json!({"direction": "in", "protocol": "esp"})), "rules[0].source_ips"),
        (
            with(json!({"direction": "out", "protocol": "esp", "destination_ips": ["x"]})),
            "rules[0].destination_ips[0]",
        ),
        (with(json!({"direction": "up", "protocol": "esp"})), "rules[0].direction"),
        (with(json!({"direction": "in", "protocol": "sctp"})), "rules[0].protocol"),
        (json!({"name": "a", "rules": vec![inbound("80"); 51]}), "rules"),
        (json!({"name": "a", "apply_to": [server_target(ServerId(4711))]}), "apply_to[0].server.id"),
        (
            json!({"name": "a", "apply_to": [selector_target("a in b")]}),
            "apply_to[0].label_selector.selector",
        ),
        (json!({"name": "a", "apply_to": [{"type": "server"}]}), "apply_to[0].server"),
    ] {
        customer.post("/v1/firewalls", body).await.refuses(field);
    }
    let firewall = make(&customer, json!({"name": "a"})).await.firewall.id;
    does(&customer, firewall, "apply_to_resources", json!({"apply_to": []})).await.refuses("apply_to");
    does(&customer, firewall, "remove_from_resources", json!({"remove_from": []}))
        .await
        .refuses("remove_from");
    does(&customer, firewall, "set_rules", json!({})).await.refuses("rules");
    let server =
        json!({"name": "s", "server_type": "s1", "image": "tiny", "firewalls": [{"firewall": 4711}]});
    berth.catalog().await;
    customer.post("/v1/servers", server).await.refuses("firewalls[0].firewall");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_firewalls_let_through_reaches_the_node() {
    let shop = Shop::open().await;
    let customer = &shop.customer;
    let worker = shop.worker("");
    let web =
        make(customer, json!({"name": "web", "rules": [inbound("80"), inbound("443")]})).await.firewall.id;
    let made = shop.order_with(json!({"firewalls": [{"firewall": web}]})).await;
    let server = made.server.id;
    let pending = &made.server.public_net.firewalls;
    assert_eq!((pending[0].id, pending[0].status, pending.len()), (web, AppliedStatus::Pending, 1));
    shop.succeeds(made.action.id).await;
    assert_eq!(shop.lets_in(server).unwrap(), ["80", "443"]);
    assert_eq!(shop.server(server).await.unwrap().public_net.firewalls[0].status, AppliedStatus::Applied);
    assert_eq!(shown(customer, web).await.applied_to[0].server.unwrap().id, server);

    // A second one lets through more; rules for what goes out close that way.
    let ssh = make(
        customer,
        json!({"name": "ssh", "rules": [inbound("22"), inbound("80")], "apply_to": [server_target(server)]}),
    )
    .await;
    assert_eq!(ssh.actions[0].command, "apply_firewall");
    shop.all_succeed(&ssh.actions).await;
    assert_eq!(shop.lets_in(server).unwrap(), ["80", "443", "22"]);
    let out = json!({"direction": "out", "protocol": "udp", "port": "53", "destination_ips": ["10.0.0.0/8"]});
    let rules = json!({"rules": [inbound("22"), out]});
    let set = does(customer, ssh.firewall.id, "set_rules", rules).await.expect::<FirewallActions>(201);
    assert_eq!(set.actions[0].command, "set_firewall_rules");
    shop.all_succeed(&set.actions).await;
    let spec = shop.node.simulator.get(VmId::from(server)).unwrap().spec.unwrap();
    let outbound = spec.nics[0].firewall.clone().unwrap().outbound.unwrap();
    assert_eq!((outbound.len(), outbound[0].peers[0].to_string().as_str()), (1, "10.0.0.0/8"));

    let again = does(customer, web, "apply_to_resources", json!({"apply_to": [server_target(server)]})).await;
    assert_eq!((again.status.as_u16(), again.code().as_str()), (409, "firewall_already_applied"));
    assert_eq!(customer.delete(&format!("/v1/firewalls/{web}")).await.code(), "resource_in_use");
    let remove = json!({"remove_from": [server_target(server)]});
    let removed =
        does(customer, web, "remove_from_resources", remove.clone()).await.expect::<FirewallActions>(201);
    assert_eq!(removed.actions[0].command, "remove_firewall");
    shop.all_succeed(&removed.actions).await;
    assert_eq!(shop.lets_in(server).unwrap(), ["22"]);
    assert_eq!(does(customer, web, "remove_from_resources", remove).await.code(), "firewall_already_removed");
    assert_eq!(customer.delete(&format!("/v1/firewalls/{web}")).await.status, 204);

    // With its server gone, a firewall is in use no more.
    let gone = shop.delete(server).await;
    shop.succeeds(gone.id).await;
    assert_eq!(customer.delete(&format!("/v1/firewalls/{}", ssh.firewall.id)).await.status, 204);
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firewall_follows_the_labels_of_servers() {
    let shop = Shop::open().await;
    let customer = &shop.customer;
    let worker = shop.worker("");
    let made = shop.order_with(json!({"labels": {"env": "prod"}})).await;
    shop.succeeds(made.action.id).await;
    let server = made.server.id;
    let prod = make(
        customer,
        json!({"name": "prod", "rules": [inbound("22")], "apply_to": [selector_target("env=prod")]}),
    )
    .await;
    shop.all_succeed(&prod.actions).await;
    assert_eq!((prod.actions.len(), shop.lets_in(server).unwrap()), (1, vec!["22".to_owned()]));
    let fit = |firewall: Firewall| firewall.applied_to[0].applied_to_resources.as_ref().unwrap().len();
    assert_eq!(fit(shown(customer, prod.firewall.id).await), 1);

    let shown_with = async |labels: Value| {
        let server: Server = shop.label(server, labels).await.expect::<ServerReply>(200).server;
        server.public_net.firewalls.len()
    };
    assert_eq!(shown_with(json!({"env": "dev"})).await, 0);
    shop.comes_to_let_in(server, None, "it has no firewall any more").await;
    assert_eq!(fit(shown(customer, prod.firewall.id).await), 0);
    assert_eq!(shown_with(json!({"env": "prod", "a": "b"})).await, 1);
    shop.comes_to_let_in(server, Some(&["22"]), "it is filtered again").await;

    // A server that is made with the label is filtered from its beginning.
    let second = shop.order_with(json!({"labels": {"env": "prod"}})).await;
    shop.succeeds(second.action.id).await;
    assert_eq!(shop.lets_in(second.server.id).unwrap(), ["22"]);
    let rules = json!({"rules": [inbound("23")]});
    let set = does(customer, prod.firewall.id, "set_rules", rules).await.expect::<FirewallActions>(201);
    assert_eq!(set.actions.len(), 3);
    shop.all_succeed(&set.actions).await;
    for server in [server, second.server.id] {
        assert_eq!(shop.lets_in(server).unwrap(), ["23"]);
    }
    let remove = json!({"remove_from": [selector_target("env=prod")]});
    let removed = does(customer, prod.firewall.id, "remove_from_resources", remove).await;
    shop.all_succeed(&removed.expect::<FirewallActions>(201).actions).await;
    assert_eq!((shop.lets_in(server), shop.lets_in(second.server.id)), (None, None));
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_has_at_most_five_firewalls() {
    let shop = Shop::open().await;
    let customer = &shop.customer;
    let server = shop.order().await.server.id;
    let mut made = Vec::new();
    for n in 0..6 {
        made.push(make(customer, json!({"name": format!("f{n}")})).await.firewall.id);
    }
    let all: Vec<_> = made.iter().map(|id| json!({"firewall": id})).collect();
    shop.order_refused(json!({"firewalls": all})).await.refuses("firewalls");
    let target = json!({"apply_to": [server_target(server)]});
    let tries = made.iter().map(|id| does(customer, *id, "apply_to_resources", target.clone()));
    let replies = futures_util::future::join_all(tries).await;
    let refused: Vec<_> = replies.iter().filter(|reply| reply.status != 201).collect();
    assert_eq!(
        (refused.len(), refused[0].code().as_str()),
        (1, "resource_limit_exceeded"),
        "{}",
        refused[0].text
    );

    // The sixth would come with a label.
    let selected = json!({"name": "sixth", "apply_to": [selector_target("env")]});
    make(customer, selected).await;
    assert_eq!(shop.label(server, json!({"env": "prod"})).await.code(), "resource_limit_exceeded");
    assert!(shop.server(server).await.unwrap().labels.is_empty());
}

#[tokio::test]
async fn a_firewall_is_applied_to_so_many_and_no_more() {
    let settings = "workers_interactive = 0\nworkers_background = 0\n
        project_limits = { servers = 1000, cores = 1000, memory_mib = 1000000 }";
    let berth = Berth::start_with(settings, Options::default()).await;
    let customer = berth.customer().await;
    let selectors = |range: std::ops::Range<usize>| -> Vec<Value> {
        range.map(|n| selector_target(&format!("n=a{n}"))).collect()
    };
    let body = json!({"name": "web", "apply_to": selectors(0..51)});
    customer.post("/v1/firewalls", body).await.refuses("apply_to");
    let firewall = make(&customer, json!({"name": "web", "apply_to": selectors(0..40)})).await.firewall.id;
    let apply = async |targets: Vec<Value>| {
        does(&customer, firewall, "apply_to_resources", json!({"apply_to": targets})).await
    };
    apply(selectors(40..51)).await.refuses("apply_to");
    assert_eq!(shown(&customer, firewall).await.applied_to.len(), 40, "what is refused changes nothing");
    assert_eq!(apply(selectors(40..50)).await.status, 201);
    apply(selectors(50..51)).await.refuses("apply_to");
    apply(selectors(0..101)).await.refuses("apply_to");

    let filled = "insert into firewall_servers (firewall_id, server_id) select $1, id from servers where project_id = $2";
    let server = "insert into servers (project_id, name, status, server_type_id, image_id, location_id, mac, cores,
                      memory_mib, disk_gib, ssh_public_keys, labels, created, image_sha256)
                  select $1, 's' || n, 'off', t.id, i.id, l.id, ('020000' || lpad(to_hex(n), 6, '0'))::macaddr, 1, 1, 1,
                         '{}', '{}', now(), i.sha256
                  from generate_series(1, $2) n, (select * from server_types order by id limit 1) t,
                       (select * from images order by id limit 1) i, locations l";
    berth.catalog().await;
    let db = &berth.world().db;
    let count = i32::try_from(APPLIED_MAX - 50).unwrap();
    sqlx::query(server).bind(customer.project()).bind(count).execute(db).await.unwrap();
    sqlx::query(filled).bind(firewall).bind(customer.project()).execute(db).await.unwrap();
    let order = json!({"name": "one-more", "server_type": "s1", "image": "tiny", "location": "rtm1",
                       "firewalls": [{"firewall": firewall}]});
    customer.post("/v1/servers", order).await.refuses("firewalls");
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_and_applications_that_change_at_once_leave_no_server_unfiltered() {
    let shop = Shop::open().await;
    let customer = &shop.customer;
    let worker = shop.worker("");
    let mut servers = Vec::new();
    for _ in 0..4 {
        let made = shop.order().await;
        shop.succeeds(made.action.id).await;
        servers.push(made.server.id);
    }
    for round in 0..5 {
        let selector = format!("round={round}");
        let body =
            json!({"name": selector, "rules": [inbound("22")], "apply_to": [selector_target(&selector)]});
        let labels = servers.iter().map(|id| shop.label(*id, json!({"round": round.to_string()})));
        let (made, ..) = tokio::join!(make(customer, body), futures_util::future::join_all(labels));
        for server in &servers {
            shop.comes_to_let_in(*server, Some(&["22"]), "the server is filtered").await;
        }
        let id = made.firewall.id;
        let remove = json!({"remove_from": [selector_target(&selector)]});
        let labels = servers.iter().map(|id| shop.label(*id, json!({})));
        let (removed, ..) = tokio::join!(
            does(customer, id, "remove_from_resources", remove),
            futures_util::future::join_all(labels)
        );
        removed.expect::<FirewallActions>(201);
        for server in &servers {
            shop.comes_to_let_in(*server, None, "the server is open").await;
        }
    }
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_telling_a_node_is_cut_off_repeated_or_fails_it_hears_of_the_rules() {
    let shop = Shop::open().await;
    let first = shop.worker("");
    let made = shop.order().await;
    shop.succeeds(made.action.id).await;
    first.stop(Duration::from_secs(10)).await;
    let server = made.server.id;
    let body = json!({"name": "f", "rules": [], "apply_to": [server_target(server)]});
    let firewall = make(&shop.customer, body).await.firewall.id;
    for (port, (place, what)) in mishaps::<Step>("follow_server").iter().enumerate() {
        let faults: Vec<String> = what.map(|what| format!("{place}={what}")).into_iter().collect();
        let dies_at = what.is_none().then_some(place.as_str());
        let port = (1000 + port).to_string();
        let begin = async || {
            let rules = json!({"rules": [inbound(&port)]});
            does(&shop.customer, firewall, "set_rules", rules).await.expect::<FirewallActions>(201).actions
        };
        let (actions, worker) = shop.with_mishap(&faults, dies_at, begin).await;
        for action in actions {
            assert_eq!(shop.ends(action.id).await.status, ActionStatus::Success, "{place}");
        }
        assert_eq!(shop.lets_in(server).unwrap(), [port], "{place}");
        worker.stop(Duration::from_secs(10)).await;
    }
}
