//! What the right one has.

use berth_model::action::ResourceKind;
use berth_server::actions::{self, NewAction};
use berth_server::clock;
use serde_json::{Value, json};

use crate::certificates::certificate_pair;
use crate::support::{Berth, PUBLIC_KEYS, Person};

/// What the right one has, made before.
#[derive(Default)]
pub struct Things {
    pub server: i64,
    pub action: i64,
    pub ssh_key: i64,
    pub token: i64,
    pub image: i64,
    pub snapshot: i64,
    pub iso: i64,
    pub image_action: i64,
    pub location: i64,
    pub server_type: i64,
    pub node: i64,
    pub account: i64,
    pub project: i64,
    pub limit_request: i64,
    pub webhook: i64,
    pub delivery: i64,
    pub primary_ip: i64,
    pub primary_ip_action: i64,
    pub floating_ip: i64,
    pub floating_ip_action: i64,
    pub volume: i64,
    pub volume_action: i64,
    pub placement_group: i64,
    pub certificate: i64,
    pub certificate_action: i64,
    pub firewall: i64,
    pub firewall_action: i64,
    pub network: i64,
    pub network_action: i64,
}

/// Makes one of everything for `person`.
pub async fn things(berth: &Berth, person: &Person) -> Things {
    berth.catalog().await;
    let order = json!({"name": "mine", "server_type": "s1", "image": "tiny", "location": "rtm1"});
    let created: Value = person.post("/v1/servers", order).await.expect(201);
    let key = json!({"name": "mine", "public_key": PUBLIC_KEYS[0]});
    let key: Value = person.post("/v1/ssh_keys", key).await.expect(201);
    let token = json!({"name": "mine", "access": "read"});
    let token: Value = person.post("/v1/tokens", token).await.expect(201);
    let session = person.get("/v1/session").await.json();
    let asked = json!({"kind": "servers", "limit": 1000, "reason": "A cluster."});
    let limit_request: Value = person.post("/v1/limit_requests", asked).await.expect(201);
    let hook = json!({"name": "mine", "url": "https://example.org/hook"});
    let webhook: Value = person.post("/v1/webhooks", hook).await.expect(201);
    let webhook = webhook["webhook"]["id"].as_i64().unwrap();
    let delivery = sqlx::query_scalar(
        "insert into webhook_deliveries (webhook_id, event, kind, body, status, next_attempt, give_up, created, finished)
         values ($1, 1, 'server.changed', '{}', 'delivered', now(), now(), now(), now()) returning id",
    );
    let id_in = |table: &'static str| {
        sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(format!("select min(id) from {table}")))
    };
    let db = &berth.world().db;
    let node = sqlx::query_scalar(
        "insert into nodes (location_id, name, created) select id, 'n', now() from locations returning id",
    );
    let snapshot = sqlx::query_scalar(
        "insert into images (kind, status, project_id, description, sha256, file_bytes, disk_bytes, os_flavor, created)
         select 'snapshot', 'available', $1, 'mine', sha256, 1, 1, 'tiny', now() from images limit 1 returning id",
    );
    let iso = sqlx::query_scalar(
        "insert into isos (name, description, sha256, file_bytes, created)
         values ('tools', 'Tools', repeat('c', 64), 1, now()) returning id",
    );
    let snapshot: i64 = snapshot.bind(person.project()).fetch_one(db).await.unwrap();
    let action = NewAction {
        project: person.project(),
        command: "change_protection",
        resources: &[(ResourceKind::Image, snapshot)],
        steps: &[],
        now: clock::now(),
    };
    let image_action = actions::queries::done(&mut db.acquire().await.unwrap(), &action).await.unwrap();
    let (primary_ip, primary_ip_action) =
        acted(person, "primary_ip", json!({"name": "mine", "type": "ipv4", "location": "rtm1"})).await;
    let (floating_ip, floating_ip_action) =
        acted(person, "floating_ip", json!({"type": "ipv4", "home_location": "rtm1"})).await;
    let (volume, volume_action) =
        acted(person, "volume", json!({"name": "mine", "size": 10, "location": "rtm1"})).await;
    let firewall: Value = person.post("/v1/firewalls", json!({"name": "mine"})).await.expect(201);
    let firewall = firewall["firewall"]["id"].as_i64().unwrap();
    let path = format!("/v1/firewalls/{firewall}/actions/set_rules");
    let firewall_action: Value = person.post(&path, json!({"rules": []})).await.expect(201);
    let network = json!({"name": "mine", "ip_range": "10.0.0.0/16"});
    let network: Value = person.post("/v1/networks", network).await.expect(201);
    let network = network["network"]["id"].as_i64().unwrap();
    let path = format!("/v1/networks/{network}/actions/change_protection");
    let network_action: Value = person.post(&path, json!({"delete": false})).await.expect(201);
    let group = json!({"name": "mine", "type": "spread"});
    let group: Value = person.post("/v1/placement_groups", group).await.expect(201);
    let (pem, private_key) = certificate_pair();
    let certificate = json!({"name": "mine", "certificate": pem, "private_key": private_key});
    let certificate: Value = person.post("/v1/certificates", certificate).await.expect(201);
    let certificate = certificate["certificate"]["id"].as_i64().unwrap();
    let action = NewAction { resources: &[(ResourceKind::Certificate, certificate)], ..action };
    let certificate_action = actions::queries::done(&mut db.acquire().await.unwrap(), &action).await.unwrap();
    Things {
        server: created["server"]["id"].as_i64().unwrap(),
        action: created["action"]["id"].as_i64().unwrap(),
        ssh_key: key["ssh_key"]["id"].as_i64().unwrap(),
        token: token["token"]["id"].as_i64().unwrap(),
        image: id_in("images").fetch_one(db).await.unwrap(),
        snapshot,
        iso: iso.fetch_one(db).await.unwrap(),
        image_action: image_action.id.0,
        location: id_in("locations").fetch_one(db).await.unwrap(),
        server_type: id_in("server_types").fetch_one(db).await.unwrap(),
        node: node.fetch_one(db).await.unwrap(),
        account: session["projects"][0]["account"]["id"].as_i64().unwrap(),
        project: person.project().0,
        webhook,
        delivery: delivery.bind(webhook).fetch_one(db).await.unwrap(),
        limit_request: limit_request["limit_request"]["id"].as_i64().unwrap(),
        primary_ip,
        primary_ip_action,
        floating_ip,
        floating_ip_action,
        volume,
        volume_action,
        placement_group: group["placement_group"]["id"].as_i64().unwrap(),
        certificate,
        certificate_action: certificate_action.id.0,
        firewall,
        firewall_action: firewall_action["actions"][0]["id"].as_i64().unwrap(),
        network,
        network_action: network_action["action"]["id"].as_i64().unwrap(),
    }
}

/// A new thing that can be protected, and an action of it.
async fn acted(person: &Person, kind: &str, order: Value) -> (i64, i64) {
    let made: Value = person.post(&format!("/v1/{kind}s"), order).await.expect(201);
    let id = made[kind]["id"].as_i64().unwrap();
    let path = format!("/v1/{kind}s/{id}/actions/change_protection");
    let action: Value = person.post(&path, json!({"delete": false})).await.expect(201);
    (id, action["action"]["id"].as_i64().unwrap())
}
