//! What the jobs of servers do: with a simulated node, cut off and failing anywhere.

use std::collections::BTreeSet;
use std::time::Duration;

use berth_agent::hypervisor::Hypervisor as _;
use berth_model::action::{Action, ActionReply, ActionStatus};
use berth_model::agent::{PowerVerb, VmEvent, VmState};
use berth_model::server::{Server, ServerCreated, ServerReply, ServerStatus};
use berth_model::{ActionId, ErrorCode, ServerId, VmId};
use berth_server::jobs::{Registry, Settings, StepName, Worker};
use berth_server::live::Signals;
use berth_server::servers::jobs::{create, delete, register};
use berth_server::vital::Vital;
use berth_server::{clock, entropy, images, servers};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::fleet::SimulatedNode;
use crate::support::{Berth, Person, until};

/// A shop with one node, and workers that can be killed.
struct Shop {
    berth: Berth,
    node: SimulatedNode,
    customer: Person,
    signals: Signals,
    stop: CancellationToken,
}

/// How something under way ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Done,
    Undone,
}

impl Shop {
    async fn open() -> Self {
        let berth = Berth::without_workers().await;
        berth.catalog().await;
        let node = berth.node("node-1").await;
        let customer = berth.customer().await;
        let stop = CancellationToken::new();
        let signals = Signals::start(berth.world().db.clone(), &Vital::until(stop.clone()));
        Self { berth, node, customer, signals, stop }
    }

    fn worker(&self, faults: &str) -> Worker {
        self.worker_with(Settings { faults: faults.parse().unwrap(), ..Settings::default() })
    }

    fn worker_with(&self, settings: Settings) -> Worker {
        let (lease, poll) = (Duration::from_millis(600), Duration::from_millis(50));
        let settings = Settings { lease, poll, ..settings };
        Worker::start(self.berth.world().clone(), &register(Registry::new()), &settings, &self.signals)
    }

    async fn order(&self) -> ServerCreated {
        self.order_with(json!({})).await
    }

    async fn order_with(&self, more: serde_json::Value) -> ServerCreated {
        let name = format!("s{}", entropy::alphanumeric(12).to_lowercase());
        let mut order = json!({"name": name, "server_type": "s1", "image": "tiny"});
        order.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.customer.post("/v1/servers", order).await.expect(201)
    }

    /// Offers another file under this name; says its checksum.
    async fn add_image(&self, name: &str) -> String {
        let (world, mut content) = (self.berth.world(), [0; 96]);
        content[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        content[24..32].copy_from_slice(&1_048_576_u64.to_be_bytes());
        content[80..].copy_from_slice(&entropy::bytes::<16>());
        let sha256 = hex::encode(Sha256::digest(content));
        std::fs::write(images::file_path(&world.config.data_dir, &sha256), content).unwrap();
        let image = images::queries::SystemImage {
            name,
            description: name,
            sha256: &sha256,
            file_bytes: content.len() as i64,
            disk_bytes: 1_048_576,
            os_flavor: "tiny",
            os_version: None,
        };
        let mut conn = world.db.acquire().await.unwrap();
        images::queries::put_system(&mut conn, &image, clock::now()).await.unwrap();
        sha256
    }

    async fn tell(&self, server: ServerId, verb: &str) -> Action {
        let path = format!("/v1/servers/{server}/actions/{verb}");
        self.customer.post(&path, json!({})).await.expect::<ActionReply>(201).action
    }

    async fn delete(&self, server: ServerId) -> Action {
        self.customer.delete(&format!("/v1/servers/{server}")).await.expect::<ActionReply>(200).action
    }

    async fn action(&self, id: ActionId) -> Action {
        self.customer.get(&format!("/v1/actions/{id}")).await.expect::<ActionReply>(200).action
    }

    async fn ends(&self, id: ActionId) -> Action {
        until("the action has ended", async || {
            let action = self.action(id).await;
            (action.status != ActionStatus::Running).then_some(action)
        })
        .await
    }

    async fn succeeds(&self, id: ActionId) {
        let action = self.ends(id).await;
        assert_eq!((action.status, action.progress), (ActionStatus::Success, 100), "{action:?}");
    }

    async fn server(&self, id: ServerId) -> Option<Server> {
        let reply = self.customer.get(&format!("/v1/servers/{id}")).await;
        (reply.status != 404).then(|| reply.expect::<ServerReply>(200).server)
    }

    fn vm_state(&self, server: ServerId) -> Option<VmState> {
        self.node.simulator.get(VmId::from(server)).ok().map(|vm| vm.state)
    }

    async fn count(&self, sql: &'static str, server: ServerId) -> i64 {
        sqlx::query_scalar(sql).bind(server).fetch_one(&self.berth.world().db).await.unwrap()
    }

    /// Nothing of the server is left: no machine, row or address.
    async fn is_gone(&self, server: ServerId, what: &str) {
        assert_eq!(self.server(server).await, None, "{what}");
        assert_eq!(self.vm_state(server), None, "{what}");
        assert_eq!(self.count("select count(*) from servers where id = $1", server).await, 0, "{what}");
        assert_eq!(
            self.count("select count(*) from addresses where server_id = $1", server).await,
            0,
            "{what}"
        );
        let gone = "select count(*) from outbox where change->>'kind' = 'server_gone' and change->'id' = to_jsonb($1)";
        assert_eq!(self.count(gone, server).await, 1, "{what}");
    }

    /// The server is there, runs, and nothing holds it.
    async fn is_there_and_right(&self, server: ServerId, what: &str) {
        let shown = self.server(server).await.unwrap_or_else(|| panic!("{what}: it is gone"));
        assert_eq!((shown.status, shown.locked), (ServerStatus::Running, false), "{what}");
        let vm = self.node.simulator.get(VmId::from(server)).unwrap();
        let spec = vm.spec.unwrap();
        assert_eq!((vm.state, &spec.seed.hostname), (VmState::Running, &shown.name), "{what}");
        let ip = shown.public_net.ipv4.unwrap().ip;
        assert_eq!(spec.nics[0].addresses[0].ip, ip, "{what}");
        assert_eq!(
            self.count("select count(*) from addresses where server_id = $1", server).await,
            1,
            "{what}"
        );
    }

    /// Either the server is there and right and its action says so, or nothing is left of it and
    /// its action says why.
    async fn create_is_clean(&self, made: &ServerCreated, wanted: End, what: &str) {
        let action = self.ends(made.action.id).await;
        match wanted {
            End::Done => {
                assert_eq!(action.status, ActionStatus::Success, "{what}: {action:?}");
                self.is_there_and_right(made.server.id, what).await;
            }
            End::Undone => {
                assert_eq!(action.status, ActionStatus::Error, "{what}");
                assert!(action.error.is_some_and(|error| !error.message.is_empty()), "{what}");
                self.is_gone(made.server.id, what).await;
            }
        }
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Everything that may happen at a step. `None`: the worker dies there.
fn mishaps<S: StepName>(kind: &str) -> Vec<(String, Option<&'static str>)> {
    let mut mishaps = Vec::new();
    for step in S::ALL {
        for point in ["before", "after_run", "after_record"] {
            mishaps.push((format!("{kind}.{}.{point}", step.word()), None));
        }
        for what in ["twice", "retry", "error"] {
            mishaps.push((format!("{kind}.{}.after_run", step.word()), Some(what)));
        }
    }
    mishaps
}

impl Shop {
    /// Lets the faults happen to what `begin` begins. A worker that is to die does so at its
    /// marker, and another goes on.
    async fn with_mishap<T>(
        &self,
        faults: &[String],
        dies_at: Option<&str>,
        begin: impl AsyncFnOnce() -> T,
    ) -> (T, Worker) {
        let marker = self.berth.folder().join(format!("marker-{}", entropy::alphanumeric(8)));
        let mut rules = faults.to_vec();
        rules.extend(dies_at.map(|place| format!("{place}=pause:{}", marker.display())));
        let worker = self.worker(&rules.join(","));
        let begun = begin().await;
        if dies_at.is_none() {
            return (begun, worker);
        }
        until("the worker is at the place", async || marker.exists().then_some(())).await;
        drop(worker);
        (begun, self.worker(""))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_an_order_is_cut_off_repeated_or_fails_the_server_is_right_or_gone() {
    let shop = Shop::open().await;
    for (place, what) in mishaps::<create::Step>("create_server") {
        let name = format!("{place}={}", what.unwrap_or("die"));
        let faults: Vec<String> = what.map(|what| format!("{place}={what}")).into_iter().collect();
        let dies_at = what.is_none().then_some(place.as_str());
        let (made, worker) = shop.with_mishap(&faults, dies_at, async || shop.order().await).await;
        let wanted = if what == Some("error") { End::Undone } else { End::Done };
        shop.create_is_clean(&made, wanted, &name).await;
        worker.stop(Duration::from_secs(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_the_undoing_of_an_order_is_cut_off_nothing_is_left() {
    let shop = Shop::open().await;
    let failure = "create_server.boot.after_run=error".to_owned();
    for (place, what) in mishaps::<create::Step>("create_server.undo") {
        let name = format!("{place}={}", what.unwrap_or("die"));
        let mut faults = vec![failure.clone()];
        faults.extend(what.map(|what| format!("{place}={what}")));
        let dies_at = what.is_none().then_some(place.as_str());
        let (made, worker) = shop.with_mishap(&faults, dies_at, async || shop.order().await).await;
        shop.create_is_clean(&made, End::Undone, &name).await;
        worker.stop(Duration::from_secs(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_a_deletion_is_cut_off_repeated_or_fails_the_server_is_gone() {
    let shop = Shop::open().await;
    for (place, what) in mishaps::<delete::Step>("delete_server") {
        let name = format!("{place}={}", what.unwrap_or("die"));
        let faults: Vec<String> = what.map(|what| format!("{place}={what}")).into_iter().collect();
        let dies_at = what.is_none().then_some(place.as_str());
        let begin = async || {
            let made = shop.order().await;
            shop.succeeds(made.action.id).await;
            (made.server.id, shop.delete(made.server.id).await)
        };
        let ((server, action), worker) = shop.with_mishap(&faults, dies_at, begin).await;
        let ended = shop.ends(action.id).await;
        assert_eq!(ended.status, ActionStatus::Success, "{name}: {ended:?}");
        shop.is_gone(server, &name).await;
        worker.stop(Duration::from_secs(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_made_stopped_started_and_deleted() {
    let shop = Shop::open().await;
    let _worker = shop.worker("");
    let made = shop.order_with(json!({"user_data": "#cloud-config\n"})).await;
    let id = made.server.id;
    shop.succeeds(made.action.id).await;
    shop.is_there_and_right(id, "made").await;
    let spec = shop.node.simulator.get(VmId::from(id)).unwrap().spec.unwrap();
    assert_eq!(spec.seed.user_data.as_deref(), Some("#cloud-config\n"));
    assert!(spec.seed.root_password_hash.unwrap().starts_with("$6$"));
    assert!(spec.nics[0].mac.starts_with("52:54:00:"));

    for (verb, command, state, status) in [
        ("poweroff", "stop_server", VmState::Off, ServerStatus::Off),
        ("poweroff", "stop_server", VmState::Off, ServerStatus::Off),
        ("poweron", "start_server", VmState::Running, ServerStatus::Running),
        ("poweron", "start_server", VmState::Running, ServerStatus::Running),
        ("reboot", "reboot_server", VmState::Running, ServerStatus::Running),
        ("reset", "reset_server", VmState::Running, ServerStatus::Running),
        ("shutdown", "shutdown_server", VmState::Off, ServerStatus::Off),
    ] {
        let action = shop.tell(id, verb).await;
        assert_eq!(action.command, command);
        shop.succeeds(action.id).await;
        let server = shop.server(id).await.unwrap();
        assert_eq!((server.status, server.locked, shop.vm_state(id)), (status, false, Some(state)), "{verb}");
    }
    let action = shop.delete(id).await;
    shop.succeeds(action.id).await;
    shop.is_gone(id, "deleted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_a_power_action_is_given_up_the_server_does_what_its_machine_does() {
    let shop = Shop::open().await;
    let made = {
        let worker = shop.worker("");
        let made = shop.order().await;
        shop.succeeds(made.action.id).await;
        worker.stop(Duration::from_secs(10)).await;
        made
    };
    let id = made.server.id;
    for (place, verb, wanted) in [
        ("shutdown_server.tell.before", "shutdown", ServerStatus::Running),
        ("stop_server.tell.after_run", "poweroff", ServerStatus::Off),
        ("start_server.settle.after_run", "poweron", ServerStatus::Running),
        ("reset_server.settle.before", "reset", ServerStatus::Running),
    ] {
        let worker = shop.worker(&format!("{place}=error"));
        let action = shop.tell(id, verb).await;
        assert_eq!(shop.ends(action.id).await.status, ActionStatus::Error, "{place}");
        let server = shop.server(id).await.unwrap();
        assert_eq!((server.status, server.locked), (wanted, false), "{place}");
        worker.stop(Duration::from_secs(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn news_that_come_after_the_last_look_of_an_action_are_not_lost() {
    let shop = Shop::open().await;
    let marker = shop.berth.folder().join("marker");
    let places = ["create_server.boot", "start_server.settle", "stop_server.settle"];
    let pauses = places.map(|place| format!("{place}.after_run=pause:{}", marker.display()));
    let _worker = shop.worker(&pauses.join(","));
    let made = shop.order().await;
    let id = made.server.id;
    let news = async |wanted: &str| {
        until(&format!("the news is {wanted}"), async || {
            let seen = sqlx::query_scalar::<_, Option<String>>("select seen from servers where id = $1");
            let seen = seen.bind(id).fetch_one(&shop.berth.world().db).await.unwrap();
            (seen.as_deref() == Some(wanted)).then_some(())
        })
        .await;
    };
    for (verb, looked, seen, status) in [
        (None, "running", "crashed", ServerStatus::Off),
        (Some("poweron"), "running", "crashed", ServerStatus::Off),
        (Some("poweroff"), "crashed", "running", ServerStatus::Running),
    ] {
        let action = match verb {
            Some(verb) => shop.tell(id, verb).await.id,
            None => made.action.id,
        };
        until("the action has had its last look", async || marker.exists().then_some(())).await;
        news(looked).await;
        let (simulator, vm) = (&shop.node.simulator, VmId::from(id));
        match seen {
            "crashed" => simulator.crash(vm),
            _ => simulator.power(vm, PowerVerb::Start),
        }
        .unwrap();
        news(seen).await;
        std::fs::remove_file(&marker).unwrap();
        shop.succeeds(action).await;
        let server = shop.server(id).await.unwrap();
        assert_eq!((server.status, server.locked), (status, false), "{verb:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_goes_on_with_the_image_file_it_began_with() {
    let shop = Shop::open().await;
    let before = shop.order().await;
    let replaced = shop.add_image("tiny").await;
    let after = shop.order().await;
    let _worker = shop.worker("");
    let mut files = Vec::new();
    for made in [before, after] {
        shop.succeeds(made.action.id).await;
        files.push(shop.node.simulator.get(VmId::from(made.server.id)).unwrap().spec.unwrap().image.sha256);
    }
    assert_ne!(files[0], replaced);
    assert_eq!(files[1], replaced);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_image_must_wait_leaves_its_worker_to_others() {
    let shop = Shop::open().await;
    let _worker = shop.worker_with(Settings { interactive: 1, ..Settings::default() });
    let there = shop.order().await;
    shop.succeeds(there.action.id).await;

    let agents = &shop.berth.world().agents;
    for it_is_this_one in [true, false] {
        let sha256 = shop.add_image("other").await;
        let sent = if it_is_this_one { sha256.as_str() } else { "another" };
        let upload = agents.begin_upload(shop.node.id, sent, 1).unwrap();
        let made = shop.order_with(json!({"image": "other"})).await;
        until("the order has come to its image", async || {
            let waits = "select count(*) from jobs where kind = 'create_server' and step = 'image'
                             and attempts = 0 and run_at > now() and data->'server' = to_jsonb($1)
                             and lease_owner is null";
            (shop.count(waits, made.server.id).await > 0).then_some(())
        })
        .await;
        let action = shop.tell(there.server.id, "reboot").await;
        shop.succeeds(action.id).await;
        assert_eq!(shop.action(made.action.id).await.status, ActionStatus::Running);
        drop(upload);
        shop.succeeds(made.action.id).await;
        assert!(agents.begin_upload(shop.node.id, &sha256, 1).is_some(), "its own is over");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_file_is_lost_gives_the_order_up() {
    let shop = Shop::open().await;
    std::fs::remove_dir_all(shop.berth.world().config.data_dir.join("images")).unwrap();
    let _worker = shop.worker("");
    let made = shop.order().await;
    shop.create_is_clean(&made, End::Undone, "lost file").await;
    assert_eq!(shop.action(made.action.id).await.error.unwrap().code, ErrorCode::ResourceUnavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_to_start_stays_off() {
    let shop = Shop::open().await;
    let _worker = shop.worker("");
    let made = shop.order_with(json!({"start_after_create": false})).await;
    shop.succeeds(made.action.id).await;
    let server = shop.server(made.server.id).await.unwrap();
    assert_eq!((server.status, shop.vm_state(server.id)), (ServerStatus::Off, Some(VmState::Off)));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_orders_for_the_last_address_one_is_given_up_and_leaves_nothing() {
    let shop = Shop::open().await;
    let keep_one = "delete from addresses where id <> (select min(id) from addresses)";
    sqlx::query(keep_one).execute(&shop.berth.world().db).await.unwrap();
    let (a, b) = tokio::join!(shop.order(), shop.order());
    let _worker = shop.worker("");
    let ends = [shop.ends(a.action.id).await, shop.ends(b.action.id).await];
    let (won, lost) = if ends[0].status == ActionStatus::Success { (&a, &b) } else { (&b, &a) };
    shop.create_is_clean(won, End::Done, "won").await;
    shop.create_is_clean(lost, End::Undone, "lost").await;
    let error = shop.action(lost.action.id).await.error.unwrap();
    assert_eq!(error.code, ErrorCode::ResourceUnavailable);
    assert!(error.message.contains("addresses"), "{}", error.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_never_given_twice_and_come_back() {
    let shop = Shop::open().await;
    let _worker = shop.worker("");
    let made = futures_util::future::join_all((0..12).map(|_| shop.order())).await;
    let mut ips = BTreeSet::new();
    for order in &made {
        shop.succeeds(order.action.id).await;
        ips.insert(shop.server(order.server.id).await.unwrap().public_net.ipv4.unwrap().ip);
    }
    assert_eq!(ips.len(), made.len());
    let first = made[0].server.id;
    let action = shop.delete(first).await;
    shop.succeeds(action.id).await;
    // The longest free is given out first, so one that has just come back is not the next.
    let next = shop.order().await;
    shop.succeeds(next.action.id).await;
    let ip = shop.server(next.server.id).await.unwrap().public_net.ipv4.unwrap().ip;
    assert!(!ips.contains(&ip));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_without_a_place_is_given_up_and_says_so() {
    let shop = Shop::open().await;
    sqlx::query("update nodes set accepts_servers = false").execute(&shop.berth.world().db).await.unwrap();
    let _worker = shop.worker("");
    let made = shop.order().await;
    shop.create_is_clean(&made, End::Undone, "no place").await;
    assert_eq!(shop.action(made.action.id).await.error.unwrap().code, ErrorCode::PlacementError);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_waits_for_a_node_that_is_away() {
    let mut shop = Shop::open().await;
    let _worker = shop.worker("");
    let made = shop.order().await;
    shop.succeeds(made.action.id).await;
    shop.node.stop().await;
    let action = shop.delete(made.server.id).await;
    until("the agent was asked in vain", async || {
        let failed = "select count(*) from jobs where kind = 'delete_server' and attempts > 1 and $1 > 0";
        (shop.count(failed, made.server.id).await > 0).then_some(())
    })
    .await;
    let server = shop.server(made.server.id).await.unwrap();
    assert_eq!((server.status, server.locked), (ServerStatus::Deleting, true));
    assert!(server.public_net.ipv4.is_some(), "its machine may still answer there");
    shop.node.start().await;
    shop.succeeds(action.id).await;
    shop.is_gone(made.server.id, "the node is back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_sees_becomes_the_status_unless_it_is_old_or_from_elsewhere() {
    let shop = Shop::open().await;
    let _worker = shop.worker("");
    let made = shop.order().await;
    let id = made.server.id;
    shop.succeeds(made.action.id).await;
    shop.node.simulator.crash(VmId::from(id)).unwrap();
    until("the crash is seen", async || (shop.server(id).await?.status == ServerStatus::Off).then_some(()))
        .await;

    let now = clock::now();
    let observe = async |node, state, at| {
        let mut tx = shop.berth.world().db.begin().await.unwrap();
        let event = VmEvent { vm: id.into(), state, at };
        servers::observe(&mut tx, node, &event, now).await.unwrap();
        tx.commit().await.unwrap();
        shop.server(id).await.unwrap().status
    };
    let node = shop.node.id;
    assert_eq!(observe(node, Some(VmState::Running), now.plus_seconds(-60)).await, ServerStatus::Off);
    let elsewhere = berth_model::NodeId(node.0 + 1);
    assert_eq!(observe(elsewhere, Some(VmState::Running), now.plus_seconds(60)).await, ServerStatus::Off);
    assert_eq!(observe(node, Some(VmState::Running), now.plus_seconds(60)).await, ServerStatus::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_comes_back_after_its_server_is_gone_is_removed() {
    let shop = Shop::open().await;
    let _worker = shop.worker("");
    let made = shop.order().await;
    let id = made.server.id;
    shop.succeeds(made.action.id).await;
    let spec = shop.node.simulator.get(VmId::from(id)).unwrap().spec.unwrap();
    let action = shop.delete(id).await;
    shop.succeeds(action.id).await;
    shop.is_gone(id, "deleted").await;

    // As if a request from before the deletion had arrived only now.
    shop.node.simulator.put(VmId::from(id), &spec).unwrap();
    until("the leftover is removed", async || shop.vm_state(id).is_none().then_some(())).await;

    // Of this one nothing is known: it may be a customer's, so it stays.
    let unknown = ServerId(id.0 + 1000);
    shop.node.simulator.put(VmId::from(unknown), &spec).unwrap();
    let after = shop.order().await;
    shop.succeeds(after.action.id).await;
    let leftovers = "select count(*) from jobs where kind = 'remove_leftover' and data->'vm' = to_jsonb($1)";
    assert_eq!(shop.count(leftovers, unknown).await, 0);
    assert_eq!(shop.vm_state(unknown), Some(VmState::Running));
}
