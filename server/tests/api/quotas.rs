//! Limits: what a project and its account have and may have, requests for more, and many at once.

use std::time::Duration;

use berth_model::ErrorCode;
use berth_model::people::TokenAccess;
use berth_model::quota::{
    Limit, LimitList, LimitRequestList, LimitRequestReply, LimitRequestStatus, QuotaKind,
};
use berth_server::quotas;
use berth_server::serve::Options;
use serde_json::{Value, json};

use crate::shop::Shop;
use crate::support::{Berth, Client, PUBLIC_KEYS, Person, Reply, until};

const NO_WORKERS: &str = "workers_interactive = 0\nworkers_background = 0";

async fn shop(limits: &str) -> (Berth, Person) {
    let berth = Berth::start_with(&format!("{NO_WORKERS}\n{limits}"), Options::default()).await;
    berth.catalog().await;
    let customer = berth.customer().await;
    (berth, customer)
}

fn order(name: &str) -> Value {
    json!({"name": name, "server_type": "s1", "image": "tiny", "location": "rtm1"})
}

async fn standing(client: &Client, kind: QuotaKind) -> Limit {
    let list: LimitList = client.get("/v1/limits").await.expect(200);
    *list.limits.iter().find(|limit| limit.kind == kind).unwrap()
}

#[tokio::test]
async fn what_a_project_has_is_counted_by_kind() {
    let (berth, ada) = shop("project_limits = { servers = 5, cores = 6 }").await;
    let client = ada.client();
    let first: Value = ada.post("/v1/servers", order("one")).await.expect(201);
    ada.post("/v1/servers", json!({"name": "two", "server_type": "s2", "image": "tiny"})).await.ok::<Value>();
    let servers = standing(client, QuotaKind::Servers).await;
    assert_eq!((servers.used, servers.limit, servers.account_used, servers.account_limit), (2, 5, 2, 20));
    let (cores, memory) =
        (standing(client, QuotaKind::Cores).await, standing(client, QuotaKind::MemoryMib).await);
    assert_eq!((cores.used, cores.limit, memory.used), (3, 6, 512 + 1024));
    let list: LimitList = ada.get("/v1/limits").await.expect(200);
    assert_eq!(list.limits.iter().map(|limit| limit.kind).collect::<Vec<_>>(), QuotaKind::ALL);

    // What changes of a server, and what goes, is counted too.
    let id = first["server"]["id"].as_i64().unwrap();
    let db = &berth.world().db;
    sqlx::query("update servers set cores = 4 where id = $1").bind(id).execute(db).await.unwrap();
    assert_eq!(standing(client, QuotaKind::Cores).await.used, 6);
    let reply = ada.post("/v1/servers", order("three")).await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (403, "resource_limit_exceeded"));
    assert!(reply.error().message.contains("This project may have at most 6 cores"), "{}", reply.text);
    assert_eq!(standing(client, QuotaKind::Servers).await.used, 2, "nothing of it is left");
    sqlx::query("update servers set locked_by = null").execute(db).await.unwrap();
    sqlx::query("delete from servers where id = $1").bind(id).execute(db).await.unwrap();
    assert_eq!(standing(client, QuotaKind::Cores).await.used, 2);
    ada.post("/v1/ssh_keys", json!({"name": "k", "public_key": PUBLIC_KEYS[0]})).await.ok::<Value>();
    assert_eq!(standing(client, QuotaKind::SshKeys).await.used, 1);
    assert_eq!(standing(berth.customer().await.client(), QuotaKind::SshKeys).await.used, 0);
}

#[tokio::test]
async fn every_kind_is_counted_by_its_table() {
    let (berth, _) = shop("").await;
    for kind in QuotaKind::ALL {
        let table = match kind {
            QuotaKind::Cores | QuotaKind::MemoryMib => "servers",
            QuotaKind::VolumeGib => "volumes",
            QuotaKind::Snapshots => "images",
            QuotaKind::PrimaryIps | QuotaKind::FloatingIps => "public_ips",
            of_its_own => of_its_own.word(),
        };
        let counted: bool = sqlx::query_scalar(
            "select to_regclass($1) is null or exists (
                 select from pg_trigger where tgrelid = to_regclass($1) and tgname = 'usage_counted_in'
                 and encode(tgargs, 'escape') ~ ('(^|\\\\000)' || $2 || '\\\\000'))",
        )
        .bind(table)
        .bind(kind.word())
        .fetch_one(&berth.world().db)
        .await
        .unwrap();
        assert!(counted, "a migration must count {table} as {}: see count_usage_of", kind.word());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_at_once_take_what_is_left_and_no_more() {
    let (berth, ada) = shop("project_limits = { servers = 3 }").await;
    let other = berth
        .another_with(&format!("{NO_WORKERS}\nproject_limits = {{ servers = 3 }}"), Options::default())
        .await;
    let here = ada.token(TokenAccess::ReadWrite).await;
    let there = here.clone().at(other.url());
    for name in ["one", "two"] {
        here.post("/v1/servers", order(name)).await.ok::<Value>();
    }
    let names: Vec<_> = (0..200).map(|n| format!("many-{n}")).collect();
    let all = names.iter().enumerate().map(async |(n, name)| {
        let client = if n % 2 == 0 { &here } else { &there };
        until("it is not put off", async || {
            // So many at once are put off when no connection to the database is free in time.
            let reply = client.post("/v1/servers", order(name)).await;
            (reply.status != 503).then_some(reply)
        })
        .await
    });
    let replies: Vec<Reply> = futures_util::future::join_all(all).await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 201).count(), 1);
    for reply in replies.iter().filter(|reply| reply.status != 201) {
        assert_eq!(reply.code(), "resource_limit_exceeded", "{}", reply.text);
    }
    assert_eq!(standing(&here, QuotaKind::Servers).await.used, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accounts_projects_share_its_limit_when_many_order_at_once() {
    let (_berth, ada) = shop("account_limits = { servers = 5 }").await;
    let mut programs = Vec::new();
    for _ in 0..4 {
        programs.push(ada.sibling(TokenAccess::ReadWrite).await);
    }
    let all = (0..80).map(async |n| programs[n % 4].post("/v1/servers", order(&format!("s{n}"))).await);
    let replies: Vec<Reply> = futures_util::future::join_all(all).await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 201).count(), 5);
    let refused = replies.iter().find(|reply| reply.status != 201).unwrap();
    assert!(refused.error().message.contains("This account may have at most 5 servers"), "{}", refused.text);
    let servers = standing(ada.client(), QuotaKind::Servers).await;
    assert_eq!((servers.used, servers.account_used), (0, 5));
}

#[tokio::test]
async fn a_larger_type_counts_against_the_limit_and_a_smaller_one_never() {
    let (berth, ada) = shop("project_limits = { cores = 1 }").await;
    let made: Value = ada.post("/v1/servers", order("one")).await.expect(201);
    let id = made["server"]["id"].as_i64().unwrap();
    let db = &berth.world().db;
    let node = berth.node("node-1").await;
    sqlx::query("update servers set status = 'off', locked_by = null, node_id = $1")
        .bind(node.id.0)
        .execute(db)
        .await
        .unwrap();
    let path = format!("/v1/servers/{id}/actions/change_type");
    let reply = ada.post(&path, json!({"server_type": "s2", "upgrade_disk": false})).await;
    assert_eq!(reply.code(), "resource_limit_exceeded", "{}", reply.text);
    assert_eq!(standing(ada.client(), QuotaKind::Cores).await.used, 1);
    sqlx::query(
        "update servers set cores = 2, server_type_id = (select id from server_types where name = 's2')",
    )
    .execute(db)
    .await
    .unwrap();
    let smaller = ada.post(&path, json!({"server_type": "s1", "upgrade_disk": false})).await;
    assert_eq!(smaller.status, 201, "{}", smaller.text);
    assert_eq!(standing(ada.client(), QuotaKind::Cores).await.used, 1);
}

#[tokio::test]
async fn a_request_for_more_is_answered_by_staff() {
    let (berth, ada) = shop("project_limits = { servers = 1 }\naccount_limits = { servers = 2 }").await;
    let staff = berth.staff().await;
    let ask = |limit: i64| json!({"kind": "servers", "limit": limit, "reason": " A cluster. "});
    for (field, body) in [
        ("limit", ask(1)),
        ("limit", ask(-1)),
        ("reason", json!({"kind": "servers", "limit": 5, "reason": ""})),
        ("reason", json!({"kind": "servers", "limit": 5, "reason": "x".repeat(1001)})),
        ("kind", json!({"kind": "snails", "limit": 5, "reason": "x"})),
        ("note", json!({"kind": "servers", "limit": 5, "reason": "x", "note": "x"})),
    ] {
        ada.post("/v1/limit_requests", body).await.refuses(field);
    }
    let asked: LimitRequestReply = ada.post("/v1/limit_requests", ask(5)).await.expect(201);
    let request = asked.limit_request;
    assert_eq!(
        (request.status, request.reason.as_str(), request.limit),
        (LimitRequestStatus::Open, "A cluster.", 5)
    );
    let twice = ada.post("/v1/limit_requests", ask(6)).await;
    assert_eq!(
        (twice.code().as_str(), twice.error().for_field("kind").is_some()),
        ("uniqueness_error", true)
    );

    let open: LimitRequestList = staff.get("/v1/staff/limit_requests?status=open").await.expect(200);
    assert_eq!(
        (open.limit_requests.as_slice(), open.meta.pagination.total_entries),
        (&[request.clone()][..], 1)
    );
    let path = format!("/v1/staff/limit_requests/{}", request.id);
    staff.post(&format!("{path}/grant"), json!({"note": "x".repeat(1001)})).await.refuses("note");
    let granted: LimitRequestReply =
        staff.post(&format!("{path}/grant"), json!({"note": "Enjoy."})).await.expect(200);
    assert_eq!(
        (granted.limit_request.status, granted.limit_request.note.as_deref()),
        (LimitRequestStatus::Granted, Some("Enjoy."))
    );
    assert_eq!(staff.post(&format!("{path}/decline"), json!({})).await.code(), "conflict");
    let seen: LimitRequestReply = ada.get(&format!("/v1/limit_requests/{}", request.id)).await.expect(200);
    assert_eq!(seen, granted);
    let now = standing(ada.client(), QuotaKind::Servers).await;
    assert_eq!((now.limit, now.account_limit), (5, 5), "the account gets at least as much");

    let asked: LimitRequestReply = ada.post("/v1/limit_requests", ask(50)).await.expect(201);
    let (db, config) = (&berth.world().db, &berth.world().config);
    assert!(quotas::cli::requests(db).await.unwrap().contains("asks for 50 servers: A cluster."));
    let id = asked.limit_request.id;
    quotas::cli::answer(db, config, id, LimitRequestStatus::Declined, Some("Too many.")).await.unwrap();
    let again = quotas::cli::answer(db, config, id, LimitRequestStatus::Granted, None).await;
    assert!(again.unwrap_err().to_string().contains("answered already"));
    assert_eq!(standing(ada.client(), QuotaKind::Servers).await.limit, 5);
    assert_eq!(quotas::cli::requests(db).await.unwrap(), "");
}

#[tokio::test]
async fn granting_a_request_lowers_no_limit() {
    let (berth, ada) = shop("project_limits = { servers = 1 }\naccount_limits = { servers = 2 }").await;
    let staff = berth.staff().await;
    let asked = json!({"kind": "servers", "limit": 5, "reason": "A cluster."});
    let asked: LimitRequestReply = ada.post("/v1/limit_requests", asked).await.expect(201);
    let more = json!({"kind": "servers", "limit": 9});
    let of_project = format!("/v1/staff/projects/{}/limits", ada.project());
    assert_eq!(staff.put(&of_project, more).await.status, 204);
    let path = format!("/v1/staff/limit_requests/{}/grant", asked.limit_request.id);
    staff.post(&path, json!({})).await.expect::<LimitRequestReply>(200);
    let now = standing(ada.client(), QuotaKind::Servers).await;
    assert_eq!((now.limit, now.account_limit), (9, 5), "it had more by then; its account had not");
}

#[tokio::test]
async fn staff_set_limits_of_projects_and_accounts_and_take_them_back() {
    let (berth, ada) = shop("project_limits = { servers = 1 }").await;
    let (staff, db, config) = (berth.staff().await, &berth.world().db, &berth.world().config);
    let of_project = format!("/v1/staff/projects/{}/limits", ada.project());
    let set = |limit: Value| json!({"kind": "servers", "limit": limit});
    assert_eq!(staff.put(&of_project, set(json!(7))).await.status, 204);
    let list: LimitList = staff.get(&of_project).await.expect(200);
    assert_eq!(list.limits[0].limit, 7);
    assert_eq!(standing(ada.client(), QuotaKind::Servers).await.limit, 7);
    assert_eq!(staff.put(&of_project, set(json!(null))).await.status, 204);
    assert_eq!(standing(ada.client(), QuotaKind::Servers).await.limit, 1);
    for wrong in [json!(-1), json!(5_000_000_000_i64), json!("many")] {
        staff.put(&of_project, set(wrong)).await.refuses("limit");
    }
    for nobody in ["/v1/staff/projects/0/limits", "/v1/staff/accounts/0/limits"] {
        assert_eq!(staff.put(nobody, set(json!(7))).await.code(), "not_found");
    }
    assert_eq!(staff.get("/v1/staff/projects/0/limits").await.code(), "not_found");

    quotas::cli::set(db, ada.email(), false, QuotaKind::Servers, Some(9)).await.unwrap();
    quotas::cli::set(db, ada.email(), true, QuotaKind::Servers, Some(0)).await.unwrap();
    let shown = quotas::cli::show(db, config, ada.email()).await.unwrap();
    assert!(shown.contains("servers: 0 of 9; account 0 of 0\n"), "{shown}");
    assert_eq!(ada.post("/v1/servers", order("one")).await.code(), "resource_limit_exceeded");
    assert!(quotas::cli::show(db, config, "nobody@example.org").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_primary_ips_of_servers_count_as_those_that_are_ordered_alone() {
    let shop = Shop::open_set("project_limits = { primary_ips = 2 }", Options::default()).await;
    let none = json!({"public_net": {"enable_ipv6": false}});
    let refused = async |more: &Value, what: &str| {
        let reply = shop.order_refused(more.clone()).await;
        assert_eq!(reply.code(), "resource_limit_exceeded", "{what}: {}", reply.text);
        assert!(reply.text.contains("at most 2 primary IPs"), "{}", reply.text);
    };
    // Ordered together before any has its address, only so many get one as the limit lets.
    let orders = [shop.order_with(none.clone()).await, shop.order_with(none.clone()).await];
    let third = shop.order_with(none.clone()).await;
    let worker = shop.worker("");
    let mut lost = Vec::new();
    for order in orders.iter().chain([&third]) {
        lost.extend(shop.ends(order.action.id).await.error);
    }
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert_eq!(lost[0].code, ErrorCode::ResourceLimitExceeded);
    assert_eq!(standing(shop.customer.client(), QuotaKind::PrimaryIps).await.used, 2);
    refused(&none, "two are there").await;
    let alone = json!({"name": "mine", "type": "ipv4", "location": "rtm1"});
    assert_eq!(shop.customer.post("/v1/primary_ips", alone).await.code(), "resource_limit_exceeded");
    worker.stop(Duration::from_secs(10)).await;
}
