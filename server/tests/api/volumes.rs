//! Volumes through HTTP, and on the nodes.

use std::time::Duration;

use berth_agent::hypervisor::Hypervisor as _;
use berth_model::action::{Action, ActionReply, ActionStatus};
use berth_model::agent::FileSystem;
use berth_model::quota::{LimitList, QuotaKind};
use berth_model::server::ServerCreated;
use berth_model::volume::{Volume, VolumeCreated, VolumeList, VolumeReply, VolumeStatus};
use berth_model::{ByteSize, ServerId, VmId, VolumeId};
use berth_server::servers::change::Change;
use berth_server::servers::jobs::change::Step as ChangeStep;
use berth_server::servers::jobs::{create, losing};
use berth_server::volumes::changes::{AttachVolume, DetachVolume};
use berth_server::volumes::jobs::settle::UnsettledVolume;
use berth_server::volumes::jobs::{copy, remove, resize};
use serde_json::{Value, json};

use crate::fleet::SimulatedNode;
use crate::shop::{Shop, mishaps};
use crate::support::{Berth, Reply, until};

impl Shop {
    /// A volume of 10 GB with ext4 that no server has.
    async fn volume(&self, name: &str) -> Volume {
        let order = json!({"name": name, "size": 10, "location": "rtm1", "format": "ext4"});
        self.customer.post("/v1/volumes", order).await.expect::<VolumeCreated>(201).volume
    }

    async fn volume_now(&self, id: VolumeId) -> Option<Volume> {
        let reply = self.customer.get(&format!("/v1/volumes/{id}")).await;
        (reply.status != 404).then(|| reply.expect::<VolumeReply>(200).volume)
    }

    async fn ask_volume(&self, id: VolumeId, verb: &str, body: Value) -> Reply {
        self.customer.post(&format!("/v1/volumes/{id}/actions/{verb}"), body).await
    }

    async fn begin_volume(&self, id: VolumeId, verb: &str, body: Value) -> Action {
        self.ask_volume(id, verb, body).await.expect::<ActionReply>(201).action
    }

    async fn do_volume(&self, id: VolumeId, verb: &str, body: Value) {
        let action = self.begin_volume(id, verb, body).await;
        self.succeeds(action.id).await;
    }

    /// A server that is off and has no action.
    async fn server_off(&self) -> ServerId {
        let made = self.order_with(json!({"start_after_create": false})).await;
        self.succeeds(made.action.id).await;
        made.server.id
    }

    /// The volumes of the machine behind a server, as its node says.
    fn machine_has(&self, server: ServerId) -> Vec<VolumeId> {
        let spec = self.node.simulator.get(VmId::from(server)).unwrap().spec.unwrap();
        spec.volumes.iter().map(|attachment| attachment.volume).collect()
    }

    async fn no_copies(&self, id: VolumeId) {
        until("no node has an old copy", async || {
            let copies = "select count(*) from volumes where id = $1 and other_node_id is not null";
            (self.count(copies, ServerId(id.0)).await == 0).then_some(())
        })
        .await;
    }

    /// Waits until nothing holds the volume.
    async fn is_free(&self, id: VolumeId, what: &str) {
        until(&format!("{what}: nothing holds the volume"), async || {
            let held = "select count(*) from volumes where id = $1 and locked_by is not null";
            (self.count(held, ServerId(id.0)).await == 0).then_some(())
        })
        .await;
    }
}

/// The size of a volume on a node; none where it is not.
fn on_node(node: &SimulatedNode, id: VolumeId) -> Option<ByteSize> {
    node.simulator.storage().volume(id).ok().map(|volume| volume.size)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_lives_from_its_order_to_its_end() {
    let shop = Shop::open().await;
    let _worker = shop.worker("");
    let (one, other) = (shop.server_off().await, shop.server_off().await);
    let order = json!({"name": " data ", "size": 10, "server": one, "format": "xfs", "automount": true,
                       "labels": {"a": "b"}});
    let made: VolumeCreated = shop.customer.post("/v1/volumes", order).await.expect(201);
    assert_eq!((made.action.command.as_str(), made.action.status), ("create_volume", ActionStatus::Success));
    assert_eq!((made.volume.status, made.volume.server), (VolumeStatus::Creating, Some(one)));
    shop.succeeds(made.next_actions[0].id).await;
    let id = made.volume.id;
    let volume = shop.volume_now(id).await.unwrap();
    assert_eq!((volume.name.as_str(), volume.size, volume.format), ("data", 10, Some(FileSystem::Xfs)));
    assert_eq!((volume.status, volume.location.name.as_str()), (VolumeStatus::Available, "rtm1"));
    assert_eq!(volume.linux_device, format!("/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_volume-{id}"));
    assert_eq!(shop.server(one).await.unwrap().volumes, [id]);
    assert_eq!((shop.machine_has(one), on_node(&shop.node, id)), (vec![id], Some(ByteSize::gib(10))));
    let seed = shop.node.simulator.get(VmId::from(one)).unwrap().spec.unwrap().seed;
    assert_eq!(seed.mounts, [id], "its next system mounts it");

    shop.do_volume(id, "resize", json!({"size": 20})).await;
    assert_eq!(on_node(&shop.node, id), Some(ByteSize::gib(20)));
    for (verb, body, sentence) in [
        ("attach", json!({"server": other}), "has this volume already"),
        ("resize", json!({"size": 20}), "never shrinks"),
    ] {
        let refused = shop.ask_volume(id, verb, body).await;
        assert!(refused.text.contains(sentence), "{}", refused.text);
    }
    assert_eq!(shop.customer.delete(&format!("/v1/volumes/{id}")).await.code(), "resource_in_use");

    shop.do_volume(id, "detach", json!({})).await;
    assert_eq!((shop.machine_has(one), shop.server(one).await.unwrap().volumes), (vec![], vec![]));
    assert_eq!(shop.ask_volume(id, "detach", json!({})).await.code(), "unsupported_error");
    let on = shop.tell(other, "poweron").await;
    shop.succeeds(on.id).await;
    shop.do_volume(id, "attach", json!({"server": other})).await;
    assert_eq!(shop.machine_has(other), [id], "also while it runs");
    shop.do_volume(id, "resize", json!({"size": 30})).await;

    // A server that goes leaves it behind.
    let gone = shop.delete(other).await;
    shop.succeeds(gone.id).await;
    assert_eq!(shop.volume_now(id).await.unwrap().server, None);
    assert_eq!(on_node(&shop.node, id), Some(ByteSize::gib(30)));

    shop.do_volume(id, "change_protection", json!({"delete": true})).await;
    assert_eq!(shop.customer.delete(&format!("/v1/volumes/{id}")).await.code(), "protected");
    shop.do_volume(id, "change_protection", json!({"delete": false})).await;
    assert_eq!(shop.customer.delete(&format!("/v1/volumes/{id}")).await.status, 204);
    assert_eq!(shop.volume_now(id).await, None);
    until("its node has lost it", async || on_node(&shop.node, id).is_none().then_some(())).await;
    let limits: LimitList = shop.customer.get("/v1/limits").await.expect(200);
    let used = |kind| limits.limits.iter().find(|limit| limit.kind == kind).unwrap().used;
    assert_eq!((used(QuotaKind::Volumes), used(QuotaKind::VolumeGib)), (0, 0));
}

#[tokio::test]
async fn volumes_are_listed_found_and_changed() {
    let berth = Berth::without_workers().await;
    berth.catalog().await;
    let customer = berth.customer().await;
    let order = json!({"name": "data", "size": 10, "location": "rtm1", "labels": {"a": "b"}});
    let made: VolumeCreated = customer.post("/v1/volumes", order.clone()).await.expect(201);
    assert_eq!((made.volume.status, made.next_actions.len()), (VolumeStatus::Available, 0));
    let path = format!("/v1/volumes/{}", made.volume.id);
    for (query, found) in [
        ("", 1),
        ("?name=data", 1),
        ("?status=available", 1),
        ("?label_selector=a%3Db", 1),
        ("?sort=created:desc", 1),
        ("?name=dat", 0),
        ("?status=creating", 0),
        ("?label_selector=!a", 0),
        ("?page=2", 0),
    ] {
        let list: VolumeList = customer.get(&format!("/v1/volumes{query}")).await.expect(200);
        assert_eq!(list.volumes.len(), found, "{query}");
    }
    let taken = customer.post("/v1/volumes", order).await;
    assert_eq!((taken.status.as_u16(), taken.code().as_str()), (409, "uniqueness_error"));
    assert!(taken.error().for_field("name").is_some());
    let changed: VolumeReply = customer.put(&path, json!({"name": "more", "labels": {}})).await.expect(200);
    assert_eq!((changed.volume.name.as_str(), changed.volume.labels.len()), ("more", 0));
    // What lies on no node grows and goes at once.
    let grown = json!({"size": 50});
    let grown: ActionReply = customer.post(&format!("{path}/actions/resize"), grown).await.expect(201);
    assert_eq!(grown.action.status, ActionStatus::Success);
    assert_eq!(customer.get(&path).await.expect::<VolumeReply>(200).volume.size, 50);
    assert_eq!(customer.delete(&path).await.status, 204);
    assert_eq!(customer.delete(&path).await.code(), "not_found");
}

#[tokio::test]
async fn wrong_orders_of_volumes_are_refused_by_field() {
    let berth = Berth::without_workers().await;
    berth.catalog().await;
    let customer = berth.customer().await;
    let order = |more: Value| {
        let mut order = json!({"name": "data", "size": 10, "location": "rtm1"});
        order.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        order
    };
    for (body, field) in [
        (order(json!({"name": ""})), "name"),
        (order(json!({"name": "a".repeat(65)})), "name"),
        (order(json!({"size": 9})), "size"),
        (order(json!({"size": 10_241})), "size"),
        (order(json!({"size": -1})), "size"),
        (order(json!({"location": "nowhere"})), "location"),
        (order(json!({"server": 1})), "location"),
        (json!({"name": "data", "size": 10}), "location"),
        (json!({"name": "data", "size": 10, "server": 1}), "server"),
        (order(json!({"format": "btrfs"})), "format"),
        (order(json!({"labels": {"a": "b c"}})), "labels.a"),
        (order(json!({"pool": "default"})), "pool"),
    ] {
        customer.post("/v1/volumes", body).await.refuses(field);
    }
    let made: VolumeCreated = customer.post("/v1/volumes", order(json!({}))).await.expect(201);
    let path = format!("/v1/volumes/{}", made.volume.id);
    customer.put(&path, json!({"name": " "})).await.refuses("name");
    customer.post(&format!("{path}/actions/resize"), json!({"size": 10})).await.refuses("size");
    customer.post(&format!("{path}/actions/attach"), json!({"server": 99})).await.refuses("server");
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_a_volume_is_cut_off_on_its_way_the_machine_is_as_the_rows_say() {
    let shop = Shop::open().await;
    let attaches = mishaps::<ChangeStep<AttachVolume>>(AttachVolume::COMMAND);
    let detaches = mishaps::<ChangeStep<DetachVolume>>(DetachVolume::COMMAND);
    let first = shop.worker("");
    let server = shop.server_off().await;
    first.stop(Duration::from_secs(10)).await;
    for (n, (place, what)) in attaches.iter().chain(&detaches).enumerate() {
        let name = format!("{place}={}", what.unwrap_or("die"));
        let is_attach = place.starts_with("attach");
        let id = shop.volume(&format!("volume-{n}")).await.id;
        let body = || json!({"server": server});
        if !is_attach {
            let worker = shop.worker("");
            shop.do_volume(id, "attach", body()).await;
            worker.stop(Duration::from_secs(10)).await;
        }
        let faults: Vec<String> = what.map(|what| format!("{place}={what}")).into_iter().collect();
        let begin = async || shop.begin_volume(id, if is_attach { "attach" } else { "detach" }, body()).await;
        let (action, worker) =
            shop.with_mishap(&faults, what.is_none().then_some(place.as_str()), begin).await;
        let undone = *what == Some("error");
        let ended = shop.ends(action.id).await;
        assert_eq!(ended.status == ActionStatus::Error, undone, "{name}: {ended:?}");
        shop.is_free(id, &name).await;
        until(&format!("{name}: the machine is as the rows say"), async || {
            let told = "select count(*) from servers where id = $1 and revision = revision_told";
            (shop.count(told, server).await == 1).then_some(())
        })
        .await;
        let has_it = is_attach != undone;
        let seen = shop.server(server).await.unwrap();
        assert_eq!((seen.volumes.contains(&id), seen.locked), (has_it, false), "{name}");
        assert_eq!(shop.machine_has(server).contains(&id), has_it, "{name}");
        let stays = has_it || !is_attach;
        assert_eq!(on_node(&shop.node, id).is_some(), stays, "{name}: none is left that was not there");
        let volume = shop.volume_now(id).await.unwrap();
        assert_eq!((volume.server.is_some(), volume.status), (has_it, VolumeStatus::Available), "{name}");
        if has_it {
            shop.do_volume(id, "detach", json!({})).await;
        }
        worker.stop(Duration::from_secs(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_a_volume_is_cut_off_on_its_way_to_another_node_there_is_one_of_it_in_the_end() {
    let shop = Shop::open().await;
    let first = shop.worker("");
    let here = shop.server_off().await;
    let second = shop.berth.node("node-2").await;
    let there = shop.server_off().await;
    first.stop(Duration::from_secs(10)).await;
    let attaches = mishaps::<ChangeStep<AttachVolume>>(AttachVolume::COMMAND);
    let removals = mishaps::<copy::Step>("remove_volume_copy");
    for (n, (place, what)) in attaches.iter().chain(&removals).enumerate() {
        let name = format!("{place}={}", what.unwrap_or("die"));
        let id = shop.volume(&format!("volume-{n}")).await.id;
        let worker = shop.worker("");
        shop.do_volume(id, "attach", json!({"server": here})).await;
        shop.do_volume(id, "detach", json!({})).await;
        worker.stop(Duration::from_secs(10)).await;
        let faults: Vec<String> = what.map(|what| format!("{place}={what}")).into_iter().collect();
        let begin = async || shop.begin_volume(id, "attach", json!({"server": there})).await;
        let (action, worker) =
            shop.with_mishap(&faults, what.is_none().then_some(place.as_str()), begin).await;
        let undone = *what == Some("error") && place.starts_with("attach");
        let ended = shop.ends(action.id).await;
        assert_eq!(ended.status == ActionStatus::Error, undone, "{name}: {ended:?}");
        shop.is_free(id, &name).await;
        shop.no_copies(id).await;
        let lies = (on_node(&shop.node, id).is_some(), on_node(&second, id).is_some());
        assert_ne!(lies.0, lies.1, "{name}: one of it, and one only");
        assert!(lies.1 || undone, "{name}: it lies where its server is");
        let has = async |server| shop.server(server).await.unwrap().volumes.contains(&id);
        assert_eq!((has(here).await, has(there).await), (false, !undone), "{name}");
        // Wherever it lies, both servers can have it.
        for server in [there, here, there] {
            if has(there).await || has(here).await {
                shop.do_volume(id, "detach", json!({})).await;
            }
            shop.no_copies(id).await;
            shop.do_volume(id, "attach", json!({"server": server})).await;
        }
        shop.do_volume(id, "detach", json!({})).await;
        worker.stop(Duration::from_secs(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_a_volume_is_cut_off_as_it_grows_or_goes_it_ends_the_same() {
    let shop = Shop::open().await;
    let first = shop.worker("");
    let server = shop.server_off().await;
    first.stop(Duration::from_secs(10)).await;
    let made = async |name: String| {
        let worker = shop.worker("");
        let id = shop.volume(&name).await.id;
        shop.do_volume(id, "attach", json!({"server": server})).await;
        shop.do_volume(id, "detach", json!({})).await;
        worker.stop(Duration::from_secs(10)).await;
        id
    };
    for (n, (place, what)) in mishaps::<resize::Step>("resize_volume").into_iter().enumerate() {
        let name = format!("{place}={}", what.unwrap_or("die"));
        let id = made(format!("grows-{n}")).await;
        let faults: Vec<String> = what.map(|what| format!("{place}={what}")).into_iter().collect();
        let begin = async || shop.begin_volume(id, "resize", json!({"size": 11})).await;
        let (action, worker) =
            shop.with_mishap(&faults, what.is_none().then_some(place.as_str()), begin).await;
        let ended = shop.ends(action.id).await;
        assert_eq!(ended.status == ActionStatus::Error, what == Some("error"), "{name}: {ended:?}");
        shop.is_free(id, &name).await;
        let size = u64::from(shop.volume_now(id).await.unwrap().size);
        assert_eq!(on_node(&shop.node, id), Some(ByteSize::gib(size)), "{name}: it never shrinks");
        assert_eq!(size, 11, "{name}");
        worker.stop(Duration::from_secs(10)).await;
    }
    for (n, (place, what)) in mishaps::<remove::Step>("remove_volume").into_iter().enumerate() {
        let name = format!("{place}={}", what.unwrap_or("die"));
        let id = made(format!("goes-{n}")).await;
        let faults: Vec<String> = what.map(|what| format!("{place}={what}")).into_iter().collect();
        let begin = async || {
            assert_eq!(shop.customer.delete(&format!("/v1/volumes/{id}")).await.status, 204);
        };
        let ((), worker) = shop.with_mishap(&faults, what.is_none().then_some(place.as_str()), begin).await;
        until(&format!("{name}: nothing of it is left"), async || {
            let rows = shop.count("select count(*) from volumes where id = $1", ServerId(id.0)).await;
            (rows == 0 && on_node(&shop.node, id).is_none()).then_some(())
        })
        .await;
        worker.stop(Duration::from_secs(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_taking_a_volume_back_is_cut_off_it_can_be_attached_in_the_end() {
    let shop = Shop::open().await;
    let first = shop.worker("");
    let server = shop.server_off().await;
    first.stop(Duration::from_secs(10)).await;
    for (n, (place, what)) in
        mishaps::<losing::Step<UnsettledVolume>>("settle_volume").into_iter().enumerate()
    {
        let name = format!("{place}={}", what.unwrap_or("die"));
        let id = shop.volume(&format!("volume-{n}")).await.id;
        let mut faults: Vec<String> = what.map(|what| format!("{place}={what}")).into_iter().collect();
        faults.push("attach_volume.tell.after_run=error".to_owned());
        let begin = async || shop.begin_volume(id, "attach", json!({"server": server})).await;
        let (action, worker) =
            shop.with_mishap(&faults, what.is_none().then_some(place.as_str()), begin).await;
        assert_eq!(shop.ends(action.id).await.status, ActionStatus::Error, "{name}");
        shop.is_free(id, &name).await;
        assert_eq!((shop.machine_has(server), on_node(&shop.node, id)), (vec![], None), "{name}");
        worker.stop(Duration::from_secs(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_comes_with_volumes_or_leaves_them_as_they_were() {
    let shop = Shop::open().await;
    for (n, (place, what)) in mishaps::<create::Step>("create_server").into_iter().enumerate() {
        // Those that die are tried with all servers; here it matters what is given up.
        if what != Some("error") {
            continue;
        }
        let id = shop.volume(&format!("volume-{n}")).await.id;
        let worker = shop.worker(&format!("{place}=error"));
        let made = shop.order_with(json!({"volumes": [id], "automount": true})).await;
        assert_eq!(made.server.volumes, [id]);
        assert_eq!(shop.ends(made.action.id).await.status, ActionStatus::Error, "{place}");
        shop.is_free(id, &place).await;
        let volume = shop.volume_now(id).await.unwrap();
        assert_eq!((volume.server, on_node(&shop.node, id)), (None, None), "{place}");
        worker.stop(Duration::from_secs(10)).await;
    }
    let _worker = shop.worker("");
    let ids = [shop.volume("one").await.id, shop.volume("two").await.id];
    let made = shop.order_with(json!({"volumes": ids, "automount": true})).await;
    let busy = shop.ask_volume(ids[0], "resize", json!({"size": 20})).await;
    assert!(busy.code() == "locked" || busy.status == 201, "{}", busy.text);
    shop.succeeds(made.action.id).await;
    assert_eq!(shop.machine_has(made.server.id), ids);
    let seed = shop.node.simulator.get(VmId::from(made.server.id)).unwrap().spec.unwrap().seed;
    assert_eq!(seed.mounts, ids);
    for (volumes, field) in [
        (json!([ids[0]]), "volumes[0]"),
        (json!([99]), "volumes[0]"),
        (json!((1..=17).collect::<Vec<_>>()), "volumes"),
    ] {
        shop.order_refused(json!({"volumes": volumes})).await.refuses(field);
    }
    let twice = shop.volume("three").await.id;
    shop.order_refused(json!({"volumes": [twice, twice]})).await.refuses("volumes[1]");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_comes_to_the_node_of_its_server_and_a_server_is_made_where_its_volume_lies() {
    let shop = Shop::open().await;
    let _worker = shop.worker("");
    let here = shop.server_off().await;
    let id = shop.volume("data").await.id;
    shop.do_volume(id, "attach", json!({"server": here})).await;
    shop.do_volume(id, "detach", json!({})).await;
    let second = shop.berth.node("node-2").await;
    let there = shop.server_off().await;
    assert!(second.simulator.get(VmId::from(there)).is_ok(), "the emptier node is chosen");
    let places = || (on_node(&shop.node, id), on_node(&second, id));
    let ten = Some(ByteSize::gib(10));
    assert_eq!(places(), (ten, None));

    shop.do_volume(id, "attach", json!({"server": there})).await;
    let has = second.simulator.get(VmId::from(there)).unwrap().spec.unwrap().volumes;
    assert_eq!(has.iter().map(|has| has.volume).collect::<Vec<_>>(), [id]);
    until("the old copy is gone", async || (places() == (None, ten)).then_some(())).await;
    shop.do_volume(id, "resize", json!({"size": 11})).await;
    assert_eq!(places(), (None, Some(ByteSize::gib(11))));
    shop.do_volume(id, "detach", json!({})).await;

    // Back again, as soon as nothing old can be taken for it.
    shop.no_copies(id).await;
    shop.do_volume(id, "attach", json!({"server": here})).await;
    assert_eq!(shop.machine_has(here), [id]);
    shop.no_copies(id).await;
    assert_eq!(places(), (Some(ByteSize::gib(11)), None));
    shop.do_volume(id, "detach", json!({})).await;
    let made: ServerCreated = shop.order_with(json!({"volumes": [id]})).await;
    shop.succeeds(made.action.id).await;
    assert_eq!(shop.machine_has(made.server.id), [id]);

    let far = shop.volume("far").await.id;
    shop.do_volume(far, "attach", json!({"server": there})).await;
    assert_eq!(on_node(&second, far), Some(ByteSize::gib(10)));
    shop.do_volume(far, "detach", json!({})).await;
    let gone = shop.delete(made.server.id).await;
    shop.succeeds(gone.id).await;
    shop.order_refused(json!({"volumes": [id, far]})).await.refuses("volumes[1]");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_want_a_volume_one_gets_it_and_a_server_has_sixteen_at_most() {
    let shop = Shop::open().await;
    let _worker = shop.worker("");
    let mut servers = Vec::new();
    for _ in 0..4 {
        servers.push(shop.server_off().await);
    }
    let id = shop.volume("data").await.id;
    let attempts = servers.iter().cycle().take(20);
    let attempts = attempts.map(|server| shop.ask_volume(id, "attach", json!({"server": server})));
    let replies = futures_util::future::join_all(attempts).await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 201).count(), 1);
    assert!(replies.iter().all(|reply| {
        ["", "volume_already_attached", "locked"]
            .contains(&if reply.status == 201 { String::new() } else { reply.code() }.as_str())
    }));
    shop.is_free(id, "the race is over").await;
    let has: usize = servers.iter().map(|server| shop.machine_has(*server).len()).sum();
    assert_eq!(has, 1);
    let owner = shop.volume_now(id).await.unwrap().server.unwrap();
    for n in 0..15 {
        let more = shop.volume(&format!("more-{n}")).await.id;
        shop.do_volume(more, "attach", json!({"server": owner})).await;
    }
    let last = shop.volume("last").await.id;
    let refused = shop.ask_volume(last, "attach", json!({"server": owner})).await;
    assert_eq!(refused.code(), "resource_limit_exceeded", "{}", refused.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_promises_no_more_to_volumes_than_it_has() {
    let shop = Shop::open().await;
    let _worker = shop.worker("");
    let server = shop.server_off().await;
    let storage = "select (facts->>'storage')::bigint from nodes where id = $1";
    let gib = shop.count(storage, ServerId(shop.node.id.0)).await >> 30;
    let id = shop.volume("data").await.id;
    shop.do_volume(id, "attach", json!({"server": server})).await;
    let all = u32::try_from(gib).unwrap().min(10_240);
    let refused = shop.ask_volume(id, "resize", json!({"size": all})).await;
    assert_eq!(refused.code(), "resource_unavailable", "of {gib} GiB: {}", refused.text);
    let order = json!({"name": "giant", "size": all, "server": server});
    let refused = shop.customer.post("/v1/volumes", order).await;
    assert_eq!(refused.code(), "resource_unavailable", "{}", refused.text);
    let list: VolumeList = shop.customer.get("/v1/volumes").await.expect(200);
    assert_eq!((list.volumes.len(), list.volumes[0].size), (1, 10), "nothing of them is left");
}
