//! What the jobs of servers do: with a simulated node, cut off and failing anywhere.

use std::collections::BTreeSet;
use std::time::Duration;

use berth_agent::hypervisor::Hypervisor as _;
use berth_model::action::ActionStatus;
use berth_model::agent::{PowerVerb, VmEvent, VmState};
use berth_model::server::ServerStatus;
use berth_model::{ErrorCode, ServerId, VmId};
use berth_server::jobs::Settings;
use berth_server::servers::jobs::{create, delete};
use berth_server::{clock, servers};
use serde_json::json;

use crate::shop::{End, Shop, mishaps};
use crate::support::until;

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
