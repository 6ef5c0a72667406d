//! Many orders, changes and deletions at once: all take their locks in one order, so that none waits in a ring.

use berth_model::address::{FloatingIp, FloatingIpCreated};
use berth_model::network::NetworkReply;
use berth_model::placement_group::PlacementGroupCreated;
use berth_model::volume::VolumeCreated;
use berth_model::{NetworkId, ServerId, VolumeId};
use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use serde_json::{Value, json};

use crate::shop::Shop;
use crate::support::{Reply, until};

/// How often all of it is done at once.
const ROUNDS: usize = 4;
/// How many servers, volumes and floating IPs it is done to.
const THINGS: usize = 4;

impl Shop {
    async fn numbered_network(&self, n: usize) -> NetworkId {
        let subnet = json!({"type": "cloud", "network_zone": "eu-west"});
        let body =
            json!({"name": format!("net-{n}"), "ip_range": format!("10.{n}.0.0/16"), "subnets": [subnet]});
        self.customer.post("/v1/networks", body).await.expect::<NetworkReply>(201).network.id
    }

    async fn data(&self, name: String) -> VolumeId {
        let body = json!({"name": name, "size": 10, "location": "rtm1"});
        self.customer.post("/v1/volumes", body).await.expect::<VolumeCreated>(201).volume.id
    }

    async fn vip(&self) -> FloatingIp {
        let body = json!({"type": "ipv4", "home_location": "rtm1"});
        self.customer.post("/v1/floating_ips", body).await.expect::<FloatingIpCreated>(201).floating_ip
    }

    fn acts_on(&self, kind: &'static str, id: i64, verb: &'static str, body: Value) -> BoxFuture<'_, Reply> {
        async move { self.customer.post(&format!("/v1/{kind}/{id}/actions/{verb}"), body).await }.boxed()
    }

    /// How often the database has cut a ring of those who wait for each other.
    async fn deadlocks(&self) -> i64 {
        let sql = "select deadlocks from pg_stat_database where datname = current_database()";
        sqlx::query_scalar(sql).fetch_one(&self.berth.world().db).await.unwrap()
    }

    /// Waits until a request waits for what another transaction holds.
    async fn somebody_waits(&self) {
        until("somebody waits for a lock", async || {
            let sql = "select count(*) from pg_stat_activity
                       where datname = current_database() and wait_event_type = 'Lock'";
            let waiting: i64 = sqlx::query_scalar(sql).fetch_one(&self.berth.world().db).await.unwrap();
            (waiting > 0).then_some(())
        })
        .await;
    }

    async fn is_quiet(&self) {
        until("all jobs are done", async || {
            let sql = "select count(*) from jobs where finished is null";
            let left: i64 = sqlx::query_scalar(sql).fetch_one(&self.berth.world().db).await.unwrap();
            (left == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_changes_and_deletions_at_once_never_wait_in_a_ring() {
    let shop = Shop::open().await;
    let _workers = [shop.worker(""), shop.worker("")];
    let networks = [shop.numbered_network(1).await, shop.numbered_network(2).await];
    let mut vips = Vec::new();
    for _ in 0..THINGS {
        vips.push(shop.vip().await.id);
    }
    let mut servers: Vec<ServerId> = Vec::new();
    for round in 0..ROUNDS {
        let mut volumes = Vec::new();
        for n in 0..THINGS {
            volumes.push(shop.data(format!("data-{round}-{n}")).await);
        }
        let order = |n: usize| {
            let more = json!({"networks": networks, "volumes": [volumes[n]], "start_after_create": false});
            let mut body = json!({"name": format!("s{round}-{n}"), "server_type": "s1", "image": "tiny"});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            async { shop.customer.post("/v1/servers", body).await }.boxed()
        };
        let mut all: Vec<BoxFuture<'_, Reply>> = (0..THINGS).map(order).collect();
        for n in 0..THINGS {
            let new = json!({"name": format!("more-{round}-{n}"), "size": 10, "location": "rtm1"});
            all.push(async { shop.customer.post("/v1/volumes", new).await }.boxed());
        }
        for (n, server) in servers.iter().enumerate() {
            let network = networks[n % 2];
            let to = json!({"server": server});
            all.push(shop.acts_on("servers", server.0, "detach_from_network", json!({"network": network})));
            all.push(shop.acts_on("floating_ips", vips[n % THINGS].0, "assign", to.clone()));
            all.push(shop.acts_on("volumes", volumes[n % THINGS].0, "attach", to));
            let bigger = json!({"server_type": "s2", "upgrade_disk": false});
            all.push(shop.acts_on("servers", server.0, "change_type", bigger));
            let path = format!("/v1/servers/{server}");
            let customer = &shop.customer;
            all.push(async move { customer.delete(&path).await }.boxed());
        }
        all.push(shop.acts_on(
            "networks",
            networks[0].0,
            "change_ip_range",
            json!({"ip_range": "10.1.0.0/16"}),
        ));
        let replies = join_all(all).await;
        for reply in &replies {
            assert!(!reply.status.is_server_error(), "{}: {}", reply.status, reply.text);
        }
        servers = replies[..THINGS]
            .iter()
            .filter(|reply| reply.status == 201)
            .map(|reply| ServerId(reply.json()["server"]["id"].as_i64().unwrap()))
            .collect();
        shop.is_quiet().await;
    }
    let torn = "select count(*) from jobs where operator_error like '%deadlock%'";
    let torn: i64 = sqlx::query_scalar(torn).fetch_one(&shop.berth.world().db).await.unwrap();
    assert_eq!((torn, shop.deadlocks().await), (0, 0));
    let counted = "select count(*) from usage u where kind = 'servers' and used <> (
                       select count(*) from servers s where s.project_id = u.project_id)";
    let wrong: i64 = sqlx::query_scalar(counted).fetch_one(&shop.berth.world().db).await.unwrap();
    assert_eq!(wrong, 0, "all is counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_waits_holds_nothing_that_all_of_its_account_need() {
    let shop = Shop::open().await;
    let network = shop.numbered_network(1).await;
    let other = shop.order().await.server.id;
    let db = &shop.berth.world().db;
    let mut tx = db.begin().await.unwrap();
    sqlx::query("select from networks where id = $1 for update")
        .bind(network)
        .execute(&mut *tx)
        .await
        .unwrap();
    let counts = async {
        shop.somebody_waits().await;
        let grow = "update servers set cores = cores + 1 where id = $1";
        sqlx::query(grow).bind(other).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    };
    let (made, ()) = tokio::join!(shop.order_with(json!({"networks": [network]})), counts);
    assert_eq!(made.server.private_net.len(), 1);
    let cores = "select used from usage where kind = 'cores' and project_id = (select project_id from servers where id = $1)";
    assert_eq!(shop.count(cores, other).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_looks_for_room_does_not_wait_for_those_who_write_of_a_node() {
    let shop = Shop::open().await;
    let worker = shop.worker("");
    let made = shop.order().await;
    shop.succeeds(made.action.id).await;
    worker.stop(std::time::Duration::from_secs(10)).await;
    let volume = shop.data("data".to_owned()).await;
    let mut tx = shop.berth.world().db.begin().await.unwrap();
    sqlx::query("select from nodes for no key update").execute(&mut *tx).await.unwrap();
    let attached = shop.acts_on("volumes", volume.0, "attach", json!({"server": made.server.id})).await;
    assert_eq!(attached.status, 201, "{}", attached.text);
    tx.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_order_names_and_is_deleted_meanwhile_is_named() {
    let shop = Shop::open().await;
    let group = json!({"name": "web", "type": "spread"});
    let group: PlacementGroupCreated = shop.customer.post("/v1/placement_groups", group).await.expect(201);
    let network = shop.numbered_network(1).await;
    let more = json!({"placement_group": group.placement_group.id, "networks": [network]});
    for (deletion, what) in [
        ("update images set deleted = now() where name = 'tiny'", "image"),
        ("update networks set gone = true", "network"),
        ("delete from placement_groups", "placement group"),
    ] {
        let mut tx = shop.berth.world().db.begin().await.unwrap();
        sqlx::query(deletion).execute(&mut *tx).await.unwrap();
        let ends = async {
            shop.somebody_waits().await;
            tx.commit().await.unwrap();
        };
        let (refused, ()) = tokio::join!(shop.order_refused(more.clone()), ends);
        assert_eq!(refused.code(), "conflict", "{}", refused.text);
        assert!(refused.text.contains(&format!("The {what} has just been deleted")), "{}", refused.text);
        let back = "update images set deleted = null where name = 'tiny'";
        sqlx::query(back).execute(&shop.berth.world().db).await.unwrap();
        sqlx::query("update networks set gone = false").execute(&shop.berth.world().db).await.unwrap();
    }
}
