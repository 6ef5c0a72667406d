//! Servers through HTTP: orders, lists, rights. What their jobs do is in `server_jobs`.

use std::collections::BTreeSet;

use berth_model::action::{ActionReply, ActionStatus};
use berth_model::label::{Labels, Selector};
use berth_model::people::TokenAccess;
use berth_model::server::{Server, ServerCreated, ServerList, ServerReply, ServerStatus};
use berth_model::{ErrorCode, ProjectId, ServerId};
use berth_server::{clock, entropy, servers};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::support::{Berth, Person};

/// A key that ssh-keygen made.
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

fn order(name: &str) -> Value {
    json!({"name": name, "server_type": "s1", "image": "tiny", "location": "rtm1"})
}

/// An order with some fields changed; `null` takes one away.
fn order_with(changes: &Value) -> Value {
    let mut order = order(&format!("a{}", entropy::alphanumeric(10)));
    for (field, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(order.as_object_mut().unwrap().remove(field)),
            value => order[field] = value.clone(),
        }
    }
    order
}

/// A control plane with something to sell, and a customer.
async fn shop() -> (Berth, Person) {
    let berth = Berth::without_workers().await;
    berth.catalog().await;
    let customer = berth.customer().await;
    (berth, customer)
}

async fn ordered(customer: &Person, order: Value) -> ServerCreated {
    customer.post("/v1/servers", order).await.expect(201)
}

/// Writes a server as it is when no action holds it any more, without a machine behind it.
async fn settled(
    berth: &Berth,
    project: ProjectId,
    name: &str,
    status: ServerStatus,
    labels: &Labels,
) -> ServerId {
    let mut conn = berth.world().db.acquire().await.unwrap();
    let new = servers::queries::NewServer {
        project,
        name,
        server_type: berth_model::ServerTypeId(1),
        cores: 1,
        memory_mib: 512,
        disk_gib: 5,
        image: berth_model::ImageId(1),
        image_sha256: &"a".repeat(64),
        location: berth_model::LocationId(1),
        ssh_public_keys: &[],
        root_password_hash: None,
        user_data: None,
        labels,
        now: clock::now(),
    };
    let mac = servers::rules::mac(entropy::bytes());
    let id = servers::queries::insert(&mut conn, &new, &mac).await.unwrap().unwrap();
    let at = "update servers set status = $2 where id = $1";
    sqlx::query(at).bind(id).bind(status).execute(&mut *conn).await.unwrap();
    id
}

fn names(list: &ServerList) -> Vec<&str> {
    list.servers.iter().map(|server| server.name.as_str()).collect()
}

#[tokio::test]
async fn an_order_is_answered_with_the_server_its_action_and_a_password_told_once() {
    let (berth, customer) = shop().await;
    let made = ordered(&customer, order_with(&json!({"name": "web-1", "labels": {"env": "prod"}}))).await;
    let server = &made.server;
    assert_eq!(
        (server.name.as_str(), server.status, server.locked),
        ("web-1", ServerStatus::Initializing, true)
    );
    assert_eq!((server.server_type.name.as_str(), server.primary_disk_size), ("s1", 5));
    assert_eq!((server.location.name.as_str(), server.datacenter.name.as_str()), ("rtm1", "rtm1-dc1"));
    assert_eq!(server.image.as_ref().unwrap().name.as_deref(), Some("tiny"));
    assert_eq!(server.labels["env"], "prod");
    assert_eq!(server.included_traffic, 20_000_000_000_000);
    assert_eq!((made.action.command.as_str(), made.action.status), ("create_server", ActionStatus::Running));
    assert_eq!(made.action.resources[0].id, server.id.0);
    assert!(made.action.steps.len() > 2);

    let password = made.root_password.unwrap();
    assert_eq!(password.len(), 20);
    let row: (String, i64) = sqlx::query_as(
        "select root_password_hash, (select count(*) from jobs where action_id = locked_by) from servers where id = $1",
    )
    .bind(server.id)
    .fetch_one(&berth.world().db)
    .await
    .unwrap();
    assert!(row.0.starts_with("$6$") && !row.0.contains(&password), "{}", row.0);
    assert_eq!(row.1, 1);
    let told: String = sqlx::query_scalar("select coalesce(string_agg(change::text, ''), '') from outbox")
        .fetch_one(&berth.world().db)
        .await
        .unwrap();
    assert!(told.contains("web-1") && !told.contains(&password));

    let seen: ServerReply = customer.get(&format!("/v1/servers/{}", server.id)).await.expect(200);
    assert_eq!(&seen.server, server);
}

#[tokio::test]
async fn a_server_with_an_ssh_key_has_no_password_and_keeps_a_copy_of_the_key() {
    let (berth, customer) = shop().await;
    customer.post("/v1/ssh_keys", json!({"name": "home", "public_key": KEY})).await.expect::<Value>(201);
    let made = ordered(&customer, order_with(&json!({"ssh_keys": ["home", "home"], "location": "1"}))).await;
    assert_eq!(made.root_password, None);
    let kept: Vec<String> = sqlx::query_scalar("select ssh_public_keys from servers where id = $1")
        .bind(made.server.id)
        .fetch_one(&berth.world().db)
        .await
        .unwrap();
    assert_eq!(kept, [KEY]);
}

#[tokio::test]
async fn names_numbers_a_datacenter_or_nothing_choose_the_location() {
    let (_berth, customer) = shop().await;
    for place in [
        json!({"location": "rtm1"}),
        json!({"location": 1}),
        json!({"location": "1", "server_type": 1, "image": "1"}),
        json!({"location": null, "datacenter": "rtm1-dc1"}),
        json!({"location": null, "datacenter": 1}),
        json!({"location": null}),
        json!({"public_net": {"enable_ipv6": false}}),
        json!({"start_after_create": false, "user_data": "#cloud-config\n", "ssh_keys": []}),
    ] {
        assert_eq!(ordered(&customer, order_with(&place)).await.server.location.name, "rtm1");
    }
}

#[tokio::test]
async fn every_wrong_field_of_an_order_is_named() {
    let (berth, customer) = shop().await;
    let other = berth.other_customer().await;
    let foreign: Value =
        other.post("/v1/ssh_keys", json!({"name": "theirs", "public_key": KEY})).await.expect(201);
    customer.post("/v1/ssh_keys", json!({"name": "mine", "public_key": KEY})).await.expect::<Value>(201);
    sqlx::raw_sql(
        "insert into locations (name, description, country, city, latitude, longitude, network_zone)
             values ('fra1', 'Frankfurt', 'DE', 'Frankfurt', 50, 8, 'eu');
         insert into server_types (name, description, cores, memory_mib, disk_gib, cpu_type, deprecated)
             values ('old', 'old', 1, 512, 5, 'shared', true), ('unsold', 'unsold', 1, 512, 5, 'shared', false);
         insert into server_type_prices select id, 1, 'EUR', 1, 1, 1, 1 from server_types where name = 'old';
         insert into images (kind, status, name, description, sha256, file_bytes, disk_bytes, os_flavor, created,
                             deprecated, deleted)
             values ('system', 'available', 'huge', 'Huge', repeat('b', 64), 1, 6000000000, 'x', now(), null, null),
                    ('system', 'unavailable', 'lost', 'Lost', repeat('b', 64), 1, 1, 'x', now(), null, null),
                    ('system', 'available', 'aged', 'Aged', repeat('b', 64), 1, 1, 'x', now(), now(), null),
                    ('system', 'available', 'gone', 'Gone', repeat('b', 64), 1, 1, 'x', now(), null, now());",
    )
    .execute(&berth.world().db)
    .await
    .unwrap();
    sqlx::query(
        "insert into images (kind, status, project_id, description, sha256, file_bytes, disk_bytes, os_flavor, created)
         values ('snapshot', 'available', $1, 'Theirs', repeat('b', 64), 1, 1, 'x', now())",
    )
    .bind(other.project())
    .execute(&berth.world().db)
    .await
    .unwrap();

    let long = "a".repeat(64);
    for (changes, field) in [
        (json!({"name": null}), "name"),
        (json!({"name": ""}), "name"),
        (json!({"name": 5}), "name"),
        (json!({"name": long}), "name"),
        (json!({"name": "with space"}), "name"),
        (json!({"name": "nul\u{0}"}), "name"),
        (json!({"server_type": null}), "server_type"),
        (json!({"server_type": ""}), "server_type"),
        (json!({"server_type": "none"}), "server_type"),
        (json!({"server_type": 99}), "server_type"),
        (json!({"server_type": -1}), "server_type"),
        (json!({"server_type": true}), "server_type"),
        (json!({"server_type": long}), "server_type"),
        (json!({"server_type": "old"}), "server_type"),
        (json!({"server_type": "unsold"}), "server_type"),
        (json!({"image": null}), "image"),
        (json!({"image": "none"}), "image"),
        (json!({"image": {}}), "image"),
        (json!({"image": "huge"}), "image"),
        (json!({"image": "lost"}), "image"),
        (json!({"image": "aged"}), "image"),
        (json!({"image": "gone"}), "image"),
        (json!({"image": 6}), "image"),
        (json!({"location": "none"}), "location"),
        (json!({"location": 99}), "location"),
        (json!({"location": []}), "location"),
        (json!({"location": "fra1"}), "location"),
        (json!({"location": null, "datacenter": "fra1-dc1"}), "datacenter"),
        (json!({"location": null, "datacenter": "rtm1-dc2"}), "datacenter"),
        (json!({"datacenter": "rtm1-dc1"}), "datacenter"),
        (json!({"ssh_keys": "mine"}), "ssh_keys"),
        (json!({"ssh_keys": ["mine", "none"]}), "ssh_keys[1]"),
        (json!({"ssh_keys": ["mine", "theirs"]}), "ssh_keys[1]"),
        (json!({"ssh_keys": ["mine", foreign["ssh_key"]["id"]]}), "ssh_keys[1]"),
        (json!({"ssh_keys": ["mine", null]}), "ssh_keys[1]"),
        (json!({"ssh_keys": vec!["mine"; 51]}), "ssh_keys"),
        (json!({"user_data": 1}), "user_data"),
        (json!({"user_data": "x".repeat(32 * 1024 + 1)}), "user_data"),
        (json!({"user_data": "a\u{0}b"}), "user_data"),
        (json!({"labels": []}), "labels"),
        (json!({"labels": {"env": 1}}), "labels.env"),
        (json!({"labels": {"env": "no spaces"}}), "labels.env"),
        (json!({"labels": {"-env": "x"}}), "labels.-env"),
        (json!({"labels": (0..65).map(|n| (n.to_string(), "x".into())).collect::<Labels>()}), "labels"),
        (json!({"start_after_create": "yes"}), "start_after_create"),
        (json!({"public_net": true}), "public_net"),
        (json!({"public_net": {"enable_ipv4": false}}), "public_net.enable_ipv4"),
        (json!({"public_net": {"enable_ipv4": false, "enable_ipv6": false}}), "public_net.enable_ipv4"),
        (json!({"public_net": {"enable_ipv4": false, "ipv4": 7}}), "public_net.ipv4"),
        (json!({"public_net": {"ipv4": 7}}), "public_net.ipv4"),
        (json!({"volumes": [1]}), "volumes[0]"),
        (json!({"nmae": "x"}), "nmae"),
    ] {
        let reply = customer.post("/v1/servers", order_with(&changes)).await;
        assert!(reply.status == 422 && reply.error().for_field(field).is_some(), "{changes}: {}", reply.text);
    }

    let all = json!({"name": "-", "image": "none", "server_type": "none", "ssh_keys": ["none"]});
    let error = customer.post("/v1/servers", order_with(&all)).await.error();
    for field in ["name", "image", "server_type", "ssh_keys[0]"] {
        assert!(error.for_field(field).is_some(), "{field}: {error:?}");
    }
    let list: ServerList = customer.get("/v1/servers").await.expect(200);
    assert_eq!(list.meta.pagination.total_entries, 0, "nothing was made");
}

#[tokio::test]
async fn what_belongs_to_another_account_does_not_exist() {
    let (berth, customer) = shop().await;
    let other = berth.other_customer().await;
    let made = ordered(&customer, order("mine")).await;
    let path = format!("/v1/servers/{}", made.server.id);
    for reply in [
        other.get(&path).await,
        other.put(&path, json!({"name": "x"})).await,
        other.delete(&path).await,
        other.post(&format!("{path}/actions/poweron"), json!({})).await,
        other.post(&format!("{path}/actions/poweroff"), json!({})).await,
        other.post(&format!("{path}/actions/shutdown"), json!({})).await,
        other.post(&format!("{path}/actions/reboot"), json!({})).await,
        other.post(&format!("{path}/actions/reset"), json!({})).await,
        customer.get("/v1/servers/999").await,
        customer.get("/v1/servers/x").await,
    ] {
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (404, "not_found"), "{}", reply.text);
    }
    let list: ServerList = other.get("/v1/servers").await.expect(200);
    assert!(list.servers.is_empty());
    assert_eq!(
        other.get("/v1/servers?name=mine").await.expect::<ServerList>(200).meta.pagination.total_entries,
        0
    );
    // The name is free in every other project.
    ordered(&other, order("mine")).await;
}

#[tokio::test]
async fn a_token_that_may_only_read_changes_nothing() {
    let (_berth, customer) = shop().await;
    let made = ordered(&customer, order("mine")).await;
    let reader = customer.token(TokenAccess::Read).await;
    let path = format!("/v1/servers/{}", made.server.id);
    reader.get(&path).await.expect::<ServerReply>(200);
    for reply in [
        reader.post("/v1/servers", order("b")).await,
        reader.put(&path, json!({"name": "x"})).await,
        reader.delete(&path).await,
        reader.post(&format!("{path}/actions/poweron"), json!({})).await,
    ] {
        assert_eq!(reply.code(), "token_readonly", "{}", reply.text);
    }
    let writer = customer.token(TokenAccess::ReadWrite).await;
    writer.put(&path, json!({"labels": {"a": "b"}})).await.expect::<ServerReply>(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_orders_with_one_name_one_is_made() {
    let (berth, customer) = shop().await;
    let orders = (0..12).map(|_| customer.post("/v1/servers", order("only-one")));
    let replies = futures_util::future::join_all(orders).await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 201).count(), 1);
    for reply in replies.iter().filter(|reply| reply.status != 201) {
        assert_eq!(
            (reply.status.as_u16(), reply.code().as_str()),
            (409, "uniqueness_error"),
            "{}",
            reply.text
        );
        assert!(reply.error().for_field("name").is_some());
    }
    for table in ["servers", "actions", "jobs"] {
        let rows: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select count(*) from {table}")))
            .fetch_one(&berth.world().db)
            .await
            .unwrap();
        assert_eq!(rows, 1, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_holds_when_many_order_at_once() {
    let berth = Berth::start_with(
        "workers_interactive = 0\nworkers_background = 0\nproject_limits = { servers = 3 }",
        berth_server::serve::Options::default(),
    )
    .await;
    berth.catalog().await;
    let customer = berth.customer().await;
    let names: Vec<String> = (0..8).map(|n| format!("web-{n}")).collect();
    let replies =
        futures_util::future::join_all(names.iter().map(|n| customer.post("/v1/servers", order(n)))).await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 201).count(), 3);
    for reply in replies.iter().filter(|reply| reply.status != 201) {
        assert_eq!(reply.code(), "resource_limit_exceeded", "{}", reply.text);
    }
    ordered(&berth.other_customer().await, order("theirs")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_press_at_once_one_holds_the_server() {
    let (berth, customer) = shop().await;
    let id = ordered(&customer, order("pressed")).await.server.id;
    let db = &berth.world().db;
    sqlx::query("insert into nodes (location_id, name, address, state, created) values (1, 'n1', 'https://127.0.0.1:9', 'up', now())")
        .execute(db)
        .await
        .unwrap();
    for _ in 0..5 {
        // As if it had been made, and nothing were under way.
        let made =
            "update servers set status = 'running', locked_by = null, node_id = (select id from nodes)";
        sqlx::query(made).execute(db).await.unwrap();
        let before: i64 = sqlx::query_scalar("select count(*) from jobs").fetch_one(db).await.unwrap();
        let verbs = ["poweroff", "reboot", "reset", "shutdown"].repeat(3);
        let paths: Vec<String> =
            verbs.iter().map(|verb| format!("/v1/servers/{id}/actions/{verb}")).collect();
        let presses = paths.iter().map(|path| customer.post(path, json!({})));
        let replies = futures_util::future::join_all(presses).await;
        assert_eq!(replies.iter().filter(|reply| reply.status == 201).count(), 1);
        for reply in replies.iter().filter(|reply| reply.status != 201) {
            assert_eq!((reply.status.as_u16(), reply.code().as_str()), (423, "locked"), "{}", reply.text);
        }
        let after: i64 = sqlx::query_scalar("select count(*) from jobs").fetch_one(db).await.unwrap();
        assert_eq!(after, before + 1, "one job");
    }
}

#[tokio::test]
async fn a_location_without_addresses_takes_no_orders() {
    let (berth, customer) = shop().await;
    sqlx::query("delete from addresses").execute(&berth.world().db).await.unwrap();
    let reply = customer.post("/v1/servers", order("a")).await;
    assert_eq!(
        (reply.status.as_u16(), reply.code().as_str()),
        (422, "resource_unavailable"),
        "{}",
        reply.text
    );
}

#[tokio::test]
async fn a_server_that_an_action_holds_is_locked_and_a_protected_one_is_not_deleted() {
    let (berth, customer) = shop().await;
    let made = ordered(&customer, order("busy")).await;
    let path = format!("/v1/servers/{}", made.server.id);
    for reply in [
        customer.delete(&path).await,
        customer.post(&format!("{path}/actions/poweron"), json!({})).await,
        customer.post(&format!("{path}/actions/reset"), json!({})).await,
    ] {
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (423, "locked"), "{}", reply.text);
        assert!(reply.error().message.contains("is being created"), "{}", reply.text);
    }
    let calm = settled(&berth, customer.project(), "calm", ServerStatus::Off, &Labels::new()).await;
    let protect = "update servers set protect_delete = true where id = $1";
    sqlx::query(protect).bind(calm).execute(&berth.world().db).await.unwrap();
    let reply = customer.delete(&format!("/v1/servers/{calm}")).await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (423, "protected"), "{}", reply.text);
}

#[tokio::test]
async fn verbs_that_make_no_sense_now_are_refused() {
    let (berth, customer) = shop().await;
    let add = "insert into nodes (location_id, name, state, created) values (1, 'away', 'down', now()) returning id";
    let node: i64 = sqlx::query_scalar(add).fetch_one(&berth.world().db).await.unwrap();
    for (status, verb) in [
        (ServerStatus::Off, "shutdown"),
        (ServerStatus::Off, "reboot"),
        (ServerStatus::Off, "reset"),
        (ServerStatus::Unknown, "poweron"),
        (ServerStatus::Unknown, "poweroff"),
    ] {
        let name = format!("{}-{verb}", status.word());
        let id = settled(&berth, customer.project(), &name, status, &Labels::new()).await;
        sqlx::query("update servers set node_id = $1").bind(node).execute(&berth.world().db).await.unwrap();
        let reply = customer.post(&format!("/v1/servers/{id}/actions/{verb}"), json!({})).await;
        let refused = match status {
            ServerStatus::Unknown => (409, "conflict"),
            _ => (422, "unsupported_error"),
        };
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), refused, "{name}: {}", reply.text);
    }
}

#[tokio::test]
async fn name_and_labels_can_be_changed() {
    let (berth, customer) = shop().await;
    let project = customer.project();
    let id = settled(&berth, project, "before", ServerStatus::Off, &[("a".into(), "b".into())].into()).await;
    settled(&berth, project, "taken", ServerStatus::Off, &Labels::new()).await;
    let path = format!("/v1/servers/{id}");
    let changed: ServerReply = customer.put(&path, json!({"name": "after"})).await.expect(200);
    assert_eq!((changed.server.name.as_str(), changed.server.labels.len()), ("after", 1));
    let changed: ServerReply = customer.put(&path, json!({"labels": {}})).await.expect(200);
    assert_eq!((changed.server.name.as_str(), changed.server.labels.len()), ("after", 0));
    customer.put(&path, json!({})).await.expect::<ServerReply>(200);
    let reply = customer.put(&path, json!({"name": "taken"})).await;
    assert_eq!(reply.code(), "uniqueness_error");
    assert!(reply.error().for_field("name").is_some());
    customer.put(&path, json!({"name": ""})).await.refuses("name");
    customer.put(&path, json!({"labels": {"a": "-"}})).await.refuses("labels.a");
    customer.put(&path, json!({"status": "running"})).await.refuses("status");
}

#[tokio::test]
async fn pages_hold_every_server_once_in_every_order() {
    let (berth, customer) = shop().await;
    for name in ["d", "b", "a", "c", "e", "g", "f"] {
        settled(&berth, customer.project(), name, ServerStatus::Off, &Labels::new()).await;
    }
    // Of one age, so that only the number tells them apart.
    sqlx::query("update servers set created = 'epoch'").execute(&berth.world().db).await.unwrap();
    for (sort, first, last) in [
        ("", "d", "f"),
        ("&sort=id", "d", "f"),
        ("&sort=id:desc", "f", "d"),
        ("&sort=name", "a", "g"),
        ("&sort=name:desc", "g", "a"),
        ("&sort=created:asc", "d", "f"),
        ("&sort=created:desc", "f", "d"),
        ("&sort=created:desc&sort=name", "a", "g"),
        ("&sort=created&sort=id:desc&sort=name", "f", "d"),
    ] {
        let mut seen = Vec::new();
        for page in 1..=4 {
            let list: ServerList =
                customer.get(&format!("/v1/servers?per_page=2&page={page}{sort}")).await.expect(200);
            let pagination = list.meta.pagination;
            assert_eq!((pagination.total_entries, pagination.last_page, pagination.page), (7, 4, page));
            seen.extend(list.servers.into_iter().map(|server| server.name));
        }
        assert_eq!((seen[0].as_str(), seen[6].as_str()), (first, last), "{sort}: {seen:?}");
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 7, "{sort}: {seen:?}");
    }
    customer.get("/v1/servers?sort=color").await.refuses("sort");
    customer.get("/v1/servers?per_page=51").await.refuses("per_page");
}

#[tokio::test]
async fn lists_are_filtered_by_name_status_and_labels() {
    let (berth, customer) = shop().await;
    let labels = |text: &str| -> Labels {
        text.split(',').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    };
    for (name, status, marks) in [
        ("web-1", ServerStatus::Running, "env=prod,role=web"),
        ("web-2", ServerStatus::Off, "env=dev,role=web"),
        ("db-1", ServerStatus::Running, "env=prod,role=db"),
        ("bare", ServerStatus::Unknown, ""),
    ] {
        settled(&berth, customer.project(), name, status, &labels(marks)).await;
    }
    for (query, wanted) in [
        ("name=web-1", vec!["web-1"]),
        ("name=web", vec![]),
        ("status=running", vec!["web-1", "db-1"]),
        ("status=off&status=unknown", vec!["web-2", "bare"]),
        ("status=deleting", vec![]),
        ("label_selector=env%3Dprod", vec!["web-1", "db-1"]),
        ("label_selector=env%3Dprod,role%3Dweb", vec!["web-1"]),
        ("label_selector=!env", vec!["bare"]),
        ("label_selector=role", vec!["web-1", "web-2", "db-1"]),
        ("label_selector=role%20in%20(db,cache)", vec!["db-1"]),
        ("label_selector=role!%3Dweb", vec!["db-1", "bare"]),
        ("label_selector=", vec!["web-1", "web-2", "db-1", "bare"]),
        ("label_selector=role&status=running&name=db-1", vec!["db-1"]),
    ] {
        let list: ServerList = customer.get(&format!("/v1/servers?{query}")).await.expect(200);
        assert_eq!(names(&list), wanted, "{query}");
        assert_eq!(list.meta.pagination.total_entries, wanted.len() as u64, "{query}");
    }
    customer.get("/v1/servers?status=sleeping").await.refuses("status[0]");
    customer.get("/v1/servers?label_selector=%3Dx").await.refuses("label_selector");
    assert_eq!(customer.get("/v1/servers?name=a%00").await.status, 422);
}

#[tokio::test]
async fn label_selectors_pick_in_the_database_what_they_pick_in_the_model() {
    let (berth, customer) = shop().await;
    let word = "[ab]{1,2}";
    let value = "([ab]{1,2})?";
    let labels = proptest::collection::btree_map(word, value, 0..4);
    let condition =
        (0..6usize, word, proptest::collection::vec(value, 1..3)).prop_map(|(form, key, values)| {
            let list = values.join(",");
            match form {
                0 => key,
                1 => format!("!{key}"),
                2 => format!("{key}={}", values[0]),
                3 => format!("{key}!={}", values[0]),
                4 => format!("{key} in ({list})"),
                _ => format!("{key} notin ({list})"),
            }
        });
    let selector = proptest::collection::vec(condition, 0..4).prop_map(|conditions| conditions.join(","));

    let mut runner = TestRunner::deterministic();
    let mut all: Vec<(ServerId, Labels)> = Vec::new();
    for n in 0..60 {
        let labels = labels.new_tree(&mut runner).unwrap().current();
        let id = settled(&berth, customer.project(), &format!("s{n}"), ServerStatus::Off, &labels).await;
        all.push((id, labels));
    }
    for _ in 0..80 {
        let text = selector.new_tree(&mut runner).unwrap().current();
        let oracle = Selector::parse(&text).unwrap();
        let wanted: Vec<ServerId> =
            all.iter().filter(|(_, labels)| oracle.matches(labels)).map(|(id, _)| *id).collect();
        let encoded: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let path = format!("/v1/servers?label_selector={encoded}&per_page=50");
        let list: ServerList = customer.get(&path).await.expect(200);
        assert_eq!(list.meta.pagination.total_entries, wanted.len() as u64, "{text}");
        let picked: Vec<ServerId> = list.servers.iter().map(|server: &Server| server.id).collect();
        assert_eq!(picked, wanted.into_iter().take(50).collect::<Vec<_>>(), "{text}");
    }
}

#[tokio::test]
async fn deleting_is_begun_at_once_and_seen() {
    let (berth, customer) = shop().await;
    let id = settled(&berth, customer.project(), "a", ServerStatus::Off, &Labels::new()).await;
    let reply: ActionReply = customer.delete(&format!("/v1/servers/{id}")).await.expect(200);
    assert_eq!(
        (reply.action.command.as_str(), reply.action.status),
        ("delete_server", ActionStatus::Running)
    );
    let seen: ServerReply = customer.get(&format!("/v1/servers/{id}")).await.expect(200);
    assert_eq!((seen.server.status, seen.server.locked), (ServerStatus::Deleting, true));
    let again = customer.delete(&format!("/v1/servers/{id}")).await;
    assert_eq!(again.error().code, ErrorCode::Locked);
    assert!(again.error().message.contains("being deleted"));
}
