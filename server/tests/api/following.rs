//! Nodes learn what the rows say: once, in the end, and whatever they heard late.

use std::time::Duration;

use berth_agent::hypervisor::Hypervisor as _;
use berth_model::action::{Action, ActionReply, ActionStatus};
use berth_model::agent::VmSpec;
use berth_model::firewall::{FirewallActions, FirewallCreated};
use berth_model::network::NetworkReply;
use berth_model::{FirewallId, NetworkId, ServerId, VmId};
use berth_server::jobs::Settings;
use berth_server::{clock, networks};
use serde_json::json;

use crate::shop::Shop;
use crate::support::until;

impl Shop {
    fn spec(&self, server: ServerId) -> VmSpec {
        self.node.simulator.get(VmId::from(server)).unwrap().spec.unwrap()
    }

    async fn firewall(&self) -> FirewallId {
        let made = self.customer.post("/v1/firewalls", json!({"name": "web", "rules": []})).await;
        made.expect::<FirewallCreated>(201).firewall.id
    }

    /// Applies a firewall to a server, or removes it.
    async fn filter(&self, firewall: FirewallId, server: ServerId, on: bool) -> Action {
        let (verb, field) =
            if on { ("apply_to_resources", "apply_to") } else { ("remove_from_resources", "remove_from") };
        let target = json!([{"type": "server", "server": {"id": server}}]);
        let path = format!("/v1/firewalls/{firewall}/actions/{verb}");
        self.customer
            .post(&path, json!({field: target}))
            .await
            .expect::<FirewallActions>(201)
            .actions
            .remove(0)
    }

    async fn network(&self) -> NetworkId {
        let subnet = json!({"type": "cloud", "network_zone": "eu-west", "ip_range": "10.0.0.0/24"});
        let network = json!({"name": "inner", "ip_range": "10.0.0.0/16", "subnets": [subnet]});
        self.customer.post("/v1/networks", network).await.expect::<NetworkReply>(201).network.id
    }

    async fn changes(&self, server: ServerId, verb: &str, body: serde_json::Value) {
        let reply = self.customer.post(&format!("/v1/servers/{server}/actions/{verb}"), body).await;
        self.succeeds(reply.expect::<ActionReply>(201).action.id).await;
    }

    async fn counted(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.berth.world().db).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_hears_too_late_is_told_again() {
    let shop = Shop::open().await;
    let (firewall, network) = (shop.firewall().await, shop.network().await);
    let first = shop.worker("");
    let made = shop.order_with(json!({"start_after_create": false})).await;
    shop.succeeds(made.action.id).await;
    first.stop(Duration::from_secs(10)).await;
    let id = made.server.id;
    let marker = shop.berth.folder().join("told");
    let is_paused = async || until("it was told", async || marker.exists().then_some(())).await;

    // Who follows told of the firewall; then a card is added, and then the node hears of the firewall alone.
    let worker = shop.worker(&format!("follow_server.tell.after_run=pause:{}", marker.display()));
    let applied = shop.filter(firewall, id, true).await;
    is_paused().await;
    let early = shop.spec(id);
    shop.changes(id, "attach_to_network", json!({"network": network})).await;
    assert_eq!((early.nics.len(), shop.spec(id).nics.len()), (1, 2));
    shop.node.simulator.put(VmId::from(id), &early).unwrap();
    std::fs::remove_file(&marker).unwrap();
    shop.succeeds(applied.id).await;
    until("it has its card", async || (shop.spec(id).nics.len() == 2).then_some(())).await;
    worker.stop(Duration::from_secs(10)).await;

    // A start told of the card; the firewall is removed, and then the node hears the start.
    let worker = shop.worker(&format!("start_server.tell.after_run=pause:{}", marker.display()));
    let started = shop.tell(id, "poweron").await;
    is_paused().await;
    let early = shop.spec(id);
    let removed = shop.filter(firewall, id, false).await;
    shop.succeeds(removed.id).await;
    assert!(early.nics[0].firewall.is_some() && shop.spec(id).nics[0].firewall.is_none());
    shop.node.simulator.put(VmId::from(id), &early).unwrap();
    std::fs::remove_file(&marker).unwrap();
    shop.succeeds(started.id).await;
    until("nothing is filtered", async || shop.spec(id).nics[0].firewall.is_none().then_some(())).await;
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_node_is_away_one_job_waits_for_all_changes_and_people_go_on() {
    let mut shop = Shop::open().await;
    let firewall = shop.firewall().await;
    let first = shop.worker("");
    let away = shop.order().await;
    shop.succeeds(away.action.id).await;
    first.stop(Duration::from_secs(10)).await;
    let second = shop.berth.node("node-2").await;
    shop.node.stop().await;

    let mut actions = Vec::new();
    for n in 0..6 {
        actions.push(shop.filter(firewall, away.server.id, n % 2 == 0).await);
    }
    let open =
        "select count(*) from jobs where kind = 'follow_server' and queue = 'follow' and finished is null";
    assert_eq!(shop.counted(open).await, 1);

    let worker = shop.worker_with(Settings { interactive: 1, background: 1, ..Settings::default() });
    let tried = "select count(*) from jobs where kind = 'follow_server' and attempts > 0";
    until("the node was tried", async || (shop.counted(tried).await == 1).then_some(())).await;
    until("the node is known to be away", async || {
        let down = "select count(*) from nodes where state = 'down'";
        (shop.counted(down).await == 1).then_some(())
    })
    .await;
    let other = shop.order().await;
    shop.succeeds(other.action.id).await;
    assert!(second.simulator.get(VmId::from(other.server.id)).is_ok());
    assert_eq!(shop.action(actions[0].id).await.status, ActionStatus::Running);

    shop.node.start().await;
    for action in actions {
        shop.succeeds(action.id).await;
    }
    assert!(shop.spec(away.server.id).nics[0].firewall.is_none());
    assert_eq!(shop.counted(open).await, 0);
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_network_one_job_waits_for_all_changes() {
    let mut shop = Shop::open().await;
    let first = shop.worker("");
    let network = shop.network().await;
    let made = shop.order_with(json!({"networks": [network]})).await;
    shop.succeeds(made.action.id).await;
    let open = "select count(*) from jobs where kind = 'follow_network' and finished is null";
    until("all was told", async || (shop.counted(open).await == 0).then_some(())).await;
    first.stop(Duration::from_secs(10)).await;
    shop.node.stop().await;
    let mut conn = shop.berth.world().db.acquire().await.unwrap();
    for _ in 0..3 {
        networks::jobs::told_anew(&mut conn, network, clock::now()).await.unwrap();
    }
    // What one told of an older revision may be heard last.
    let revision = networks::queries::plan(&mut conn, network).await.unwrap().unwrap().revision;
    for (told, is_all) in [(revision, true), (revision - 1, false)] {
        let set = networks::queries::set_told(&mut conn, network, told).await.unwrap();
        assert_eq!(set, Some(is_all));
    }
    let told = "select count(*) from networks where revision_told = revision";
    assert_eq!(shop.counted(told).await, 0);
    drop(conn);
    assert_eq!(shop.counted(open).await, 1);
    shop.node.start().await;
    let worker = shop.worker("");
    until("all was told", async || (shop.counted(told).await == 1).then_some(())).await;
    assert_eq!(shop.counted(open).await, 0);
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_is_given_up_while_the_node_is_silent_waits_until_it_says_what_the_disk_is() {
    let mut shop = Shop::open().await;
    shop.add_image("other").await;
    for (faults, image) in [("before=error", "tiny"), ("after_run=error", "other")] {
        let marker = shop.berth.folder().join("given-up");
        let first = shop.worker("");
        let made = shop.order().await;
        shop.succeeds(made.action.id).await;
        first.stop(Duration::from_secs(10)).await;
        let id = made.server.id;
        let worker = shop.worker(&format!(
            "rebuild_server.tell.{faults},rebuild_server.undo.tell.before=pause:{}",
            marker.display()
        ));
        let path = format!("/v1/servers/{id}/actions/rebuild");
        let rebuild =
            shop.customer.post(&path, json!({"image": "other"})).await.expect::<ActionReply>(201).action;
        until("it is given up", async || marker.exists().then_some(())).await;
        shop.node.stop().await;
        std::fs::remove_file(&marker).unwrap();
        let asked =
            "select count(*) from jobs where kind = 'rebuild_server' and state = 'undoing' and attempts > 0";
        until("the node was asked in vain", async || (shop.counted(asked).await == 1).then_some(())).await;
        assert!(shop.server(id).await.unwrap().locked);

        shop.node.start().await;
        assert_eq!(shop.ends(rebuild.id).await.status, ActionStatus::Error);
        let server = shop.server(id).await.unwrap();
        let shown = server.image.unwrap().name.unwrap();
        assert_eq!((server.locked, shown.as_str()), (false, image), "{faults}");
        let gone = shop.delete(id).await;
        shop.succeeds(gone.id).await;
        worker.stop(Duration::from_secs(10)).await;
    }
}
