//! Placement groups through HTTP, and where their servers stand.

use std::collections::BTreeSet;

use berth_model::action::{ActionReply, ActionStatus};
use berth_model::placement_group::{
    PlacementGroup, PlacementGroupCreated, PlacementGroupList, PlacementGroupReply,
};
use berth_model::{ErrorCode, PlacementGroupId, ServerId};
use serde_json::{Value, json};

use crate::shop::Shop;
use crate::support::{Berth, Reply};

impl Shop {
    async fn group(&self, name: &str) -> PlacementGroup {
        let order = json!({"name": name, "type": "spread"});
        let made = self.customer.post("/v1/placement_groups", order).await;
        made.expect::<PlacementGroupCreated>(201).placement_group
    }

    async fn group_now(&self, id: PlacementGroupId) -> PlacementGroup {
        let reply = self.customer.get(&format!("/v1/placement_groups/{id}")).await;
        reply.expect::<PlacementGroupReply>(200).placement_group
    }

    async fn regroup(&self, server: ServerId, verb: &str, body: Value) -> Reply {
        self.customer.post(&format!("/v1/servers/{server}/actions/{verb}_placement_group"), body).await
    }

    async fn stands_on(&self, server: ServerId) -> i64 {
        self.count("select node_id from servers where id = $1", server).await
    }
}

#[tokio::test]
async fn groups_are_made_found_changed_and_deleted() {
    let berth = Berth::without_workers().await;
    let customer = berth.customer().await;
    let order = json!({"name": " web ", "type": "spread", "labels": {"a": "b"}});
    let made: PlacementGroupCreated = customer.post("/v1/placement_groups", order.clone()).await.expect(201);
    let group = made.placement_group;
    assert_eq!((made.action, group.name.as_str(), group.servers.len()), (None, "web", 0));
    let path = format!("/v1/placement_groups/{}", group.id);
    for (query, found) in [
        ("", 1),
        ("?name=web", 1),
        ("?type=spread", 1),
        ("?label_selector=a%3Db", 1),
        ("?sort=created:desc", 1),
        ("?name=we", 0),
        ("?label_selector=!a", 0),
    ] {
        let list: PlacementGroupList =
            customer.get(&format!("/v1/placement_groups{query}")).await.expect(200);
        assert_eq!(list.placement_groups.len(), found, "{query}");
    }
    let taken = customer.post("/v1/placement_groups", order).await;
    assert_eq!((taken.status.as_u16(), taken.code().as_str()), (409, "uniqueness_error"));
    for (body, field) in [
        (json!({"name": "", "type": "spread"}), "name"),
        (json!({"name": "a".repeat(65), "type": "spread"}), "name"),
        (json!({"name": "a", "type": "pack"}), "type"),
        (json!({"name": "a"}), "type"),
        (json!({"name": "a", "type": "spread", "labels": {"a": "b c"}}), "labels.a"),
    ] {
        customer.post("/v1/placement_groups", body).await.refuses(field);
    }
    let changed: PlacementGroupReply = customer.put(&path, json!({"name": "shop"})).await.expect(200);
    assert_eq!((changed.placement_group.name.as_str(), changed.placement_group.labels.len()), ("shop", 1));
    assert_eq!(customer.delete(&path).await.status, 204);
    assert_eq!(customer.delete(&path).await.code(), "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_a_group_stand_on_different_nodes_however_many_are_ordered_at_once() {
    let shop = Shop::open().await;
    let _nodes = (shop.berth.node("node-2").await, shop.berth.node("node-3").await);
    let (_one, _other) = (shop.worker(""), shop.worker(""));
    let group = shop.group("web").await;
    let orders = (0..6).map(|_| shop.order_with(json!({"placement_group": group.id})));
    let made = futures_util::future::join_all(orders).await;
    assert_eq!(made[0].server.placement_group.as_ref().unwrap().id, group.id);
    let mut nodes = Vec::new();
    for made in &made {
        let action = shop.ends(made.action.id).await;
        match action.status {
            ActionStatus::Success => nodes.push(shop.stands_on(made.server.id).await),
            _ => assert_eq!(action.error.unwrap().code, ErrorCode::PlacementError),
        }
    }
    assert_eq!((nodes.len(), nodes.iter().collect::<BTreeSet<_>>().len()), (3, 3), "{nodes:?}");
    assert_eq!(shop.group_now(group.id).await.servers.len(), 3);
    shop.order_refused(json!({"placement_group": 99})).await.refuses("placement_group");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_joins_a_group_while_it_is_off_where_none_of_the_group_stands() {
    let shop = Shop::open().await;
    let _worker = shop.worker("");
    let group = shop.group("web").await;
    let body = || json!({"placement_group": group.id});
    let running = shop.order().await;
    shop.succeeds(running.action.id).await;
    assert_eq!(shop.regroup(running.server.id, "add_to", body()).await.code(), "server_not_stopped");
    let mut off = Vec::new();
    for _ in 0..2 {
        let made = shop.order_with(json!({"start_after_create": false})).await;
        shop.succeeds(made.action.id).await;
        off.push(made.server.id);
    }
    let both = futures_util::future::join_all(off.iter().map(|id| shop.regroup(*id, "add_to", body()))).await;
    assert_eq!(both.iter().filter(|reply| reply.status == 201).count(), 1, "they stand on one node");
    let refused = both.iter().find(|reply| reply.status != 201).unwrap();
    assert_eq!(refused.code(), "placement_error", "{}", refused.text);
    let member = shop.group_now(group.id).await.servers[0];
    assert_eq!(shop.server(member).await.unwrap().placement_group.unwrap().servers, [member]);
    assert_eq!(shop.regroup(member, "add_to", body()).await.code(), "server_already_attached");
    shop.regroup(off[0], "add_to", json!({"placement_group": 99})).await.refuses("placement_group");
    let path = format!("/v1/placement_groups/{}", group.id);
    assert_eq!(shop.customer.delete(&path).await.code(), "resource_in_use");
    let left = shop.regroup(member, "remove_from", json!({})).await.expect::<ActionReply>(201).action;
    assert_eq!((left.command.as_str(), left.status), ("remove_from_placement_group", ActionStatus::Success));
    assert_eq!(shop.regroup(member, "remove_from", json!({})).await.code(), "unsupported_error");
    assert_eq!(shop.customer.delete(&path).await.status, 204);
}
