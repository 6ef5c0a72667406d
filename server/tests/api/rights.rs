//! Who may do what: every operation of the API is tried as a stranger, as somebody else and as the
//! right one. An operation that is not in the table fails the test.
//!
//! To add an operation, add a line to [`table`]: its name in the OpenAPI document, who may use it,
//! the path for things of the right one, and a body that would be accepted.

use std::collections::BTreeSet;

use berth_model::action::ResourceKind;
use berth_model::people::TokenAccess;
use berth_server::actions::{self, NewAction};
use berth_server::{accounts, clock, openapi};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::certificates::certificate_pair;
use crate::support::{Berth, Client, PASSWORD, PUBLIC_KEYS, Person, Reply};

/// Who may use an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    /// Anybody; it checks by itself what it is shown.
    Everybody,
    /// Who may enter the project: by session or by token. A token for reading only reads.
    Project,
    /// Who may enter the project by session; no token will do.
    ProjectBySession,
    /// Anybody with a session.
    SignedIn,
    /// Staff and the owner, with a session.
    Staff,
    /// The owner, with a session.
    Owner,
}

/// One operation, tried on the things of the right one.
struct Case {
    operation: &'static str,
    of: For,
    path: String,
    body: Option<Value>,
    about: About,
}

/// Whose things an operation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// All of the project, or a new one: another project sees none of them.
    Project,
    /// One of the project, named in the path: for others it is not there.
    One,
    /// What is the same for everybody, such as the catalogue.
    Shared,
}

fn case(operation: &'static str, of: For, path: impl Into<String>, body: Option<Value>) -> Case {
    Case { operation, of, path: path.into(), body, about: About::Project }
}

/// A case about what is the same for every project.
fn shared(operation: &'static str, path: impl Into<String>) -> Case {
    Case { about: About::Shared, ..case(operation, For::Project, path, None) }
}

/// A case whose path names a thing of the project.
fn owned(operation: &'static str, of: For, path: impl Into<String>, body: Option<Value>) -> Case {
    Case { about: About::One, ..case(operation, of, path, body) }
}

/// What the right one has, made before.
struct Things {
    server: i64,
    action: i64,
    ssh_key: i64,
    token: i64,
    image: i64,
    snapshot: i64,
    iso: i64,
    image_action: i64,
    location: i64,
    server_type: i64,
    node: i64,
    account: i64,
    project: i64,
    limit_request: i64,
    webhook: i64,
    delivery: i64,
    primary_ip: i64,
    primary_ip_action: i64,
    floating_ip: i64,
    floating_ip_action: i64,
    volume: i64,
    volume_action: i64,
    placement_group: i64,
    certificate: i64,
    certificate_action: i64,
    firewall: i64,
    firewall_action: i64,
    network: i64,
    network_action: i64,
}

/// Every operation. Those that end something (sessions, tokens, servers) come last.
fn table(has: &Things) -> Vec<Case> {
    use For::{Everybody, Owner, Project, ProjectBySession, SignedIn, Staff};
    let Things {
        server,
        action,
        ssh_key,
        token,
        image,
        snapshot,
        iso,
        image_action,
        location,
        server_type,
        node,
        ..
    } = has;
    let Things { account, project, limit_request, webhook, delivery, .. } = has;
    let Things { primary_ip, primary_ip_action, floating_ip, floating_ip_action, .. } = has;
    let Things { firewall, firewall_action, network, network_action, .. } = has;
    let network_does = |verb: &str| format!("/v1/networks/{network}/actions/{verb}");
    let subnet = json!({"type": "cloud", "network_zone": "eu-west", "ip_range": "10.0.7.0/24"});
    let route = json!({"destination": "10.9.0.0/24", "gateway": "10.0.0.9"});
    let Things { placement_group, certificate, certificate_action, .. } = has;
    let (pair_pem, key_pem) = certificate_pair();
    let Things { volume, volume_action, .. } = has;
    let volume_does = |verb: &str| format!("/v1/volumes/{volume}/actions/{verb}");
    let firewall_does = |verb: &str| format!("/v1/firewalls/{firewall}/actions/{verb}");
    let targets = json!([{"type": "server", "server": {"id": server}}]);
    let primary_ip_does = |verb: &str| format!("/v1/primary_ips/{primary_ip}/actions/{verb}");
    let floating_ip_does = |verb: &str| format!("/v1/floating_ips/{floating_ip}/actions/{verb}");
    let dns_ptr = json!({"ip": "10.77.0.10", "dns_ptr": "mail.example.org"});
    let power = |verb: &str| format!("/v1/servers/{server}/actions/{verb}");
    let order = json!({"name": "another", "server_type": "s1", "image": "tiny", "location": "rtm1"});
    let more = json!({"kind": "cores", "limit": 1000, "reason": "A cluster."});
    let limit = json!({"kind": "cores", "limit": 50});
    let hook = json!({"name": "another", "url": "https://example.org/hook"});
    let asked = |verb: &str| format!("/v1/staff/limit_requests/{limit_request}/{verb}");
    let resize = json!({"server_type": "s2", "upgrade_disk": false});
    let key = json!({"name": "another", "public_key": PUBLIC_KEYS[1]});
    let passwords = json!({"current_password": PASSWORD, "new_password": "another good one"});
    vec![
        case("user_create", Everybody, "/v1/users", Some(json!({}))),
        case("session_create", Everybody, "/v1/session", Some(json!({}))),
        case("agent_enrol", Everybody, "/v1/agents/enrol", Some(json!({}))),
        case("session_get", SignedIn, "/v1/session", None),
        case("token_list", ProjectBySession, "/v1/tokens", None),
        case("token_create", ProjectBySession, "/v1/tokens", Some(json!({"name": "ci", "access": "read"}))),
        shared("location_list", "/v1/locations"),
        shared("location_get", format!("/v1/locations/{location}")),
        shared("datacenter_list", "/v1/datacenters"),
        shared("datacenter_get", format!("/v1/datacenters/{location}")),
        shared("server_type_list", "/v1/server_types"),
        shared("server_type_get", format!("/v1/server_types/{server_type}")),
        shared("pricing_get", "/v1/pricing"),
        shared("load_balancer_type_list", "/v1/load_balancer_types"),
        case("image_list", Project, "/v1/images?type=snapshot", None),
        shared("image_get", format!("/v1/images/{image}")),
        case("ssh_key_list", Project, "/v1/ssh_keys", None),
        owned("ssh_key_get", Project, format!("/v1/ssh_keys/{ssh_key}"), None),
        case("ssh_key_create", Project, "/v1/ssh_keys", Some(key)),
        owned("ssh_key_update", Project, format!("/v1/ssh_keys/{ssh_key}"), Some(json!({"name": "renamed"}))),
        case("server_list", Project, "/v1/servers", None),
        owned("server_get", Project, format!("/v1/servers/{server}"), None),
        case("server_create", Project, "/v1/servers", Some(order)),
        owned("server_update", Project, format!("/v1/servers/{server}"), Some(json!({"name": "renamed"}))),
        owned("server_poweron", Project, power("poweron"), None),
        owned("server_poweroff", Project, power("poweroff"), None),
        owned("server_shutdown", Project, power("shutdown"), None),
        owned("server_reboot", Project, power("reboot"), None),
        owned("server_reset", Project, power("reset"), None),
        owned("server_change_type", Project, power("change_type"), Some(resize)),
        owned(
            "server_change_protection",
            Project,
            power("change_protection"),
            Some(json!({"delete": false})),
        ),
        owned("server_create_image", Project, power("create_image"), Some(json!({}))),
        owned("server_rebuild", Project, power("rebuild"), Some(json!({"image": "tiny"}))),
        owned("server_reset_password", Project, power("reset_password"), None),
        owned("server_enable_rescue", Project, power("enable_rescue"), Some(json!({}))),
        owned("server_disable_rescue", Project, power("disable_rescue"), None),
        owned("server_attach_iso", Project, power("attach_iso"), Some(json!({"iso": "tools"}))),
        owned("server_detach_iso", Project, power("detach_iso"), None),
        owned("server_change_dns_ptr", Project, power("change_dns_ptr"), Some(dns_ptr.clone())),
        owned("server_enable_backup", Project, power("enable_backup"), None),
        owned("server_disable_backup", Project, power("disable_backup"), None),
        owned("server_request_console", Project, power("request_console"), None),
        case("server_console", Everybody, format!("/v1/servers/{server}/console?token=x"), None),
        owned("server_load", Project, format!("/v1/servers/{server}/load"), None),
        owned(
            "server_metrics",
            Project,
            format!(
                "/v1/servers/{server}/metrics?type=cpu&start=2026-11-20T02:00:00Z&end=2026-11-20T03:00:00Z"
            ),
            None,
        ),
        case("action_list", Project, "/v1/actions", None),
        owned("action_get", Project, format!("/v1/actions/{action}"), None),
        case("server_action_list", Project, "/v1/servers/actions", None),
        owned("server_action_get", Project, format!("/v1/servers/actions/{action}"), None),
        owned("action_list_of_server", Project, format!("/v1/servers/{server}/actions"), None),
        owned("action_get_of_server", Project, format!("/v1/servers/{server}/actions/{action}"), None),
        owned("image_update", Project, format!("/v1/images/{snapshot}"), Some(json!({}))),
        owned(
            "image_change_protection",
            Project,
            format!("/v1/images/{snapshot}/actions/change_protection"),
            Some(json!({"delete": false})),
        ),
        shared("iso_list", "/v1/isos"),
        shared("iso_get", format!("/v1/isos/{iso}")),
        case("image_action_list", Project, "/v1/images/actions", None),
        owned("image_action_get", Project, format!("/v1/images/actions/{image_action}"), None),
        owned("action_list_of_image", Project, format!("/v1/images/{snapshot}/actions"), None),
        owned("action_get_of_image", Project, format!("/v1/images/{snapshot}/actions/{image_action}"), None),
        case("primary_ip_list", Project, "/v1/primary_ips", None),
        case(
            "primary_ip_create",
            Project,
            "/v1/primary_ips",
            Some(json!({"name": "another", "type": "ipv4", "location": "rtm1"})),
        ),
        owned("primary_ip_get", Project, format!("/v1/primary_ips/{primary_ip}"), None),
        owned(
            "primary_ip_update",
            Project,
            format!("/v1/primary_ips/{primary_ip}"),
            Some(json!({"name": "renamed"})),
        ),
        owned(
            "primary_ip_assign",
            Project,
            primary_ip_does("assign"),
            Some(json!({"assignee_id": server, "assignee_type": "server"})),
        ),
        owned("primary_ip_unassign", Project, primary_ip_does("unassign"), None),
        owned("primary_ip_change_dns_ptr", Project, primary_ip_does("change_dns_ptr"), Some(dns_ptr.clone())),
        owned(
            "primary_ip_change_protection",
            Project,
            primary_ip_does("change_protection"),
            Some(json!({"delete": false})),
        ),
        case("primary_ip_action_list", Project, "/v1/primary_ips/actions", None),
        owned("primary_ip_action_get", Project, format!("/v1/primary_ips/actions/{primary_ip_action}"), None),
        owned("action_list_of_primary_ip", Project, format!("/v1/primary_ips/{primary_ip}/actions"), None),
        owned(
            "action_get_of_primary_ip",
            Project,
            format!("/v1/primary_ips/{primary_ip}/actions/{primary_ip_action}"),
            None,
        ),
        case("floating_ip_list", Project, "/v1/floating_ips", None),
        case(
            "floating_ip_create",
            Project,
            "/v1/floating_ips",
            Some(json!({"type": "ipv4", "home_location": "rtm1"})),
        ),
        owned("floating_ip_get", Project, format!("/v1/floating_ips/{floating_ip}"), None),
        owned(
            "floating_ip_update",
            Project,
            format!("/v1/floating_ips/{floating_ip}"),
            Some(json!({"name": "renamed"})),
        ),
        owned("floating_ip_assign", Project, floating_ip_does("assign"), Some(json!({"server": server}))),
        owned("floating_ip_unassign", Project, floating_ip_does("unassign"), None),
        owned(
            "floating_ip_change_dns_ptr",
            Project,
            floating_ip_does("change_dns_ptr"),
            Some(dns_ptr.clone()),
        ),
        owned(
            "floating_ip_change_protection",
            Project,
            floating_ip_does("change_protection"),
            Some(json!({"delete": false})),
        ),
        case("floating_ip_action_list", Project, "/v1/floating_ips/actions", None),
        owned(
            "floating_ip_action_get",
            Project,
            format!("/v1/floating_ips/actions/{floating_ip_action}"),
            None,
        ),
        owned("action_list_of_floating_ip", Project, format!("/v1/floating_ips/{floating_ip}/actions"), None),
        owned(
            "action_get_of_floating_ip",
            Project,
            format!("/v1/floating_ips/{floating_ip}/actions/{floating_ip_action}"),
            None,
        ),
        case("placement_group_list", Project, "/v1/placement_groups", None),
        case(
            "placement_group_create",
            Project,
            "/v1/placement_groups",
            Some(json!({"name": "another", "type": "spread"})),
        ),
        owned("placement_group_get", Project, format!("/v1/placement_groups/{placement_group}"), None),
        owned(
            "placement_group_update",
            Project,
            format!("/v1/placement_groups/{placement_group}"),
            Some(json!({"name": "renamed"})),
        ),
        owned(
            "server_add_to_placement_group",
            Project,
            power("add_to_placement_group"),
            Some(json!({"placement_group": placement_group})),
        ),
        owned("server_remove_from_placement_group", Project, power("remove_from_placement_group"), None),
        case("certificate_list", Project, "/v1/certificates", None),
        case(
            "certificate_create",
            Project,
            "/v1/certificates",
            Some(json!({"name": "another", "certificate": pair_pem, "private_key": key_pem})),
        ),
        owned("certificate_get", Project, format!("/v1/certificates/{certificate}"), None),
        owned(
            "certificate_update",
            Project,
            format!("/v1/certificates/{certificate}"),
            Some(json!({"name": "renamed"})),
        ),
        owned("certificate_retry", Project, format!("/v1/certificates/{certificate}/actions/retry"), None),
        case("certificate_action_list", Project, "/v1/certificates/actions", None),
        owned(
            "certificate_action_get",
            Project,
            format!("/v1/certificates/actions/{certificate_action}"),
            None,
        ),
        owned("action_list_of_certificate", Project, format!("/v1/certificates/{certificate}/actions"), None),
        owned(
            "action_get_of_certificate",
            Project,
            format!("/v1/certificates/{certificate}/actions/{certificate_action}"),
            None,
        ),
        case("volume_list", Project, "/v1/volumes", None),
        case(
            "volume_create",
            Project,
            "/v1/volumes",
            Some(json!({"name": "another", "size": 10, "location": "rtm1"})),
        ),
        owned("volume_get", Project, format!("/v1/volumes/{volume}"), None),
        owned("volume_update", Project, format!("/v1/volumes/{volume}"), Some(json!({"name": "renamed"}))),
        owned("volume_attach", Project, volume_does("attach"), Some(json!({"server": server}))),
        owned("volume_detach", Project, volume_does("detach"), None),
        owned("volume_resize", Project, volume_does("resize"), Some(json!({"size": 20}))),
        owned(
            "volume_change_protection",
            Project,
            volume_does("change_protection"),
            Some(json!({"delete": false})),
        ),
        case("volume_action_list", Project, "/v1/volumes/actions", None),
        owned("volume_action_get", Project, format!("/v1/volumes/actions/{volume_action}"), None),
        owned("action_list_of_volume", Project, format!("/v1/volumes/{volume}/actions"), None),
        owned("action_get_of_volume", Project, format!("/v1/volumes/{volume}/actions/{volume_action}"), None),
        case("firewall_list", Project, "/v1/firewalls", None),
        case("firewall_create", Project, "/v1/firewalls", Some(json!({"name": "another"}))),
        owned("firewall_get", Project, format!("/v1/firewalls/{firewall}"), None),
        owned(
            "firewall_update",
            Project,
            format!("/v1/firewalls/{firewall}"),
            Some(json!({"name": "renamed"})),
        ),
        owned("firewall_set_rules", Project, firewall_does("set_rules"), Some(json!({"rules": []}))),
        owned(
            "firewall_apply_to_resources",
            Project,
            firewall_does("apply_to_resources"),
            Some(json!({"apply_to": targets})),
        ),
        owned(
            "firewall_remove_from_resources",
            Project,
            firewall_does("remove_from_resources"),
            Some(json!({"remove_from": targets})),
        ),
        case("firewall_action_list", Project, "/v1/firewalls/actions", None),
        owned("firewall_action_get", Project, format!("/v1/firewalls/actions/{firewall_action}"), None),
        owned("action_list_of_firewall", Project, format!("/v1/firewalls/{firewall}/actions"), None),
        owned(
            "action_get_of_firewall",
            Project,
            format!("/v1/firewalls/{firewall}/actions/{firewall_action}"),
            None,
        ),
        owned(
            "server_attach_to_network",
            Project,
            power("attach_to_network"),
            Some(json!({"network": network})),
        ),
        owned(
            "server_detach_from_network",
            Project,
            power("detach_from_network"),
            Some(json!({"network": network})),
        ),
        owned(
            "server_change_alias_ips",
            Project,
            power("change_alias_ips"),
            Some(json!({"network": network, "alias_ips": []})),
        ),
        case("network_list", Project, "/v1/networks", None),
        case(
            "network_create",
            Project,
            "/v1/networks",
            Some(json!({"name": "another", "ip_range": "10.0.0.0/16"})),
        ),
        owned("network_get", Project, format!("/v1/networks/{network}"), None),
        owned("network_update", Project, format!("/v1/networks/{network}"), Some(json!({"name": "renamed"}))),
        owned("network_add_subnet", Project, network_does("add_subnet"), Some(subnet)),
        owned(
            "network_delete_subnet",
            Project,
            network_does("delete_subnet"),
            Some(json!({"ip_range": "10.0.7.0/24"})),
        ),
        owned("network_add_route", Project, network_does("add_route"), Some(route.clone())),
        owned("network_delete_route", Project, network_does("delete_route"), Some(route)),
        owned(
            "network_change_ip_range",
            Project,
            network_does("change_ip_range"),
            Some(json!({"ip_range": "10.0.0.0/8"})),
        ),
        owned(
            "network_change_protection",
            Project,
            network_does("change_protection"),
            Some(json!({"delete": false})),
        ),
        case("network_action_list", Project, "/v1/networks/actions", None),
        owned("network_action_get", Project, format!("/v1/networks/actions/{network_action}"), None),
        owned("action_list_of_network", Project, format!("/v1/networks/{network}/actions"), None),
        owned(
            "action_get_of_network",
            Project,
            format!("/v1/networks/{network}/actions/{network_action}"),
            None,
        ),
        case("live", Project, "/v1/live", None),
        case("limit_list", Project, "/v1/limits", None),
        case("limit_request_list", Project, "/v1/limit_requests", None),
        owned("limit_request_get", Project, format!("/v1/limit_requests/{limit_request}"), None),
        case("limit_request_create", Project, "/v1/limit_requests", Some(more)),
        case("webhook_list", Project, "/v1/webhooks", None),
        case("webhook_create", Project, "/v1/webhooks", Some(hook)),
        owned("webhook_get", Project, format!("/v1/webhooks/{webhook}"), None),
        owned("webhook_update", Project, format!("/v1/webhooks/{webhook}"), Some(json!({"name": "renamed"}))),
        owned("webhook_delivery_list", Project, format!("/v1/webhooks/{webhook}/deliveries"), None),
        owned("webhook_delivery_get", Project, format!("/v1/webhooks/{webhook}/deliveries/{delivery}"), None),
        owned(
            "webhook_delivery_replay",
            Project,
            format!("/v1/webhooks/{webhook}/deliveries/{delivery}/replay"),
            None,
        ),
        case("account_list", Staff, "/v1/staff/accounts", None),
        case(
            "account_suspend",
            Staff,
            format!("/v1/staff/accounts/{account}/suspend"),
            Some(json!({"reason": "x"})),
        ),
        case("account_resume", Staff, format!("/v1/staff/accounts/{account}/resume"), None),
        case("staff_limit_request_list", Staff, "/v1/staff/limit_requests", None),
        case("staff_limit_request_grant", Staff, asked("grant"), Some(json!({}))),
        case("staff_limit_request_decline", Staff, asked("decline"), Some(json!({}))),
        case("staff_project_limits_get", Staff, format!("/v1/staff/projects/{project}/limits"), None),
        case(
            "staff_project_limits_set",
            Staff,
            format!("/v1/staff/projects/{project}/limits"),
            Some(limit.clone()),
        ),
        case("staff_account_limits_set", Staff, format!("/v1/staff/accounts/{account}/limits"), Some(limit)),
        case("node_list", Staff, "/v1/nodes", None),
        case("node_update", Owner, format!("/v1/nodes/{node}"), Some(json!({"accepts_servers": true}))),
        owned("image_delete", Project, format!("/v1/images/{snapshot}"), None),
        owned("webhook_delete", Project, format!("/v1/webhooks/{webhook}"), None),
        owned("primary_ip_delete", Project, format!("/v1/primary_ips/{primary_ip}"), None),
        owned("floating_ip_delete", Project, format!("/v1/floating_ips/{floating_ip}"), None),
        owned("network_delete", Project, format!("/v1/networks/{network}"), None),
        owned("placement_group_delete", Project, format!("/v1/placement_groups/{placement_group}"), None),
        owned("certificate_delete", Project, format!("/v1/certificates/{certificate}"), None),
        owned("volume_delete", Project, format!("/v1/volumes/{volume}"), None),
        owned("firewall_delete", Project, format!("/v1/firewalls/{firewall}"), None),
        owned("server_delete", Project, format!("/v1/servers/{server}"), None),
        owned("ssh_key_delete", Project, format!("/v1/ssh_keys/{ssh_key}"), None),
        owned("token_delete", ProjectBySession, format!("/v1/tokens/{token}"), None),
        case("session_password_change", SignedIn, "/v1/session/password", Some(passwords)),
        case("session_delete", SignedIn, "/v1/session", None),
    ]
}

/// Makes one of everything for `person`.
async fn things(berth: &Berth, person: &Person) -> Things {
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

/// The operations of the document: name, path template, method.
fn operations() -> Vec<(String, String, Method)> {
    let document = serde_json::to_value(openapi::document()).unwrap();
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let method = method.to_uppercase().parse().unwrap();
            operations.push((operation["operationId"].as_str().unwrap().to_owned(), path.clone(), method));
        }
    }
    operations
}

/// Does the path fit the template: `/v1/servers/7` and `/v1/servers/{id}`?
fn fits(path: &str, template: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let (path, template): (Vec<_>, Vec<_>) = (path.split('/').collect(), template.split('/').collect());
    path.len() == template.len()
        && path.iter().zip(template).all(|(is, wanted)| wanted.starts_with('{') || *is == wanted)
}

/// The numbers of the things in a list: `{"servers": [{"id": 7}]}`.
fn ids(list: &Value) -> BTreeSet<i64> {
    let lists = list.as_object().into_iter().flat_map(|object| object.values()).filter_map(Value::as_array);
    lists.flatten().filter_map(|thing| thing["id"].as_i64()).collect()
}

#[test]
fn every_operation_has_a_case() {
    let has = Things {
        server: 1,
        action: 1,
        ssh_key: 1,
        token: 1,
        image: 1,
        snapshot: 1,
        iso: 1,
        image_action: 1,
        location: 1,
        server_type: 1,
        node: 1,
        account: 1,
        project: 1,
        limit_request: 1,
        webhook: 1,
        delivery: 1,
        primary_ip: 1,
        primary_ip_action: 1,
        floating_ip: 1,
        floating_ip_action: 1,
        volume: 1,
        volume_action: 1,
        placement_group: 1,
        certificate: 1,
        certificate_action: 1,
        firewall: 1,
        firewall_action: 1,
        network: 1,
        network_action: 1,
    };
    let table = table(&has);
    let names: BTreeSet<_> = table.iter().map(|case| case.operation.to_owned()).collect();
    let operations = operations();
    let offered: BTreeSet<_> = operations.iter().map(|(name, ..)| name.clone()).collect();
    let missing: Vec<_> = offered.difference(&names).collect();
    assert!(missing.is_empty(), "add these operations to the table in tests/api/rights.rs: {missing:?}");
    let gone: Vec<_> = names.difference(&offered).collect();
    assert!(gone.is_empty(), "these are in the table in tests/api/rights.rs, but not in the API: {gone:?}");
    assert_eq!(names.len(), table.len(), "an operation stands twice in the table");
    for case in &table {
        let (_, template, _) = operations.iter().find(|(name, ..)| name == case.operation).unwrap();
        assert!(fits(&case.path, template), "{}: {} is not {template}", case.operation, case.path);
        let names_one = template.contains('{');
        let of_project = matches!(case.of, For::Project | For::ProjectBySession);
        assert!(
            !of_project || names_one == (case.about == About::One) || case.about == About::Shared,
            "{}: a path that names one thing is `owned`, or `shared` if it is the same for everybody; others are `case`",
            case.operation
        );
    }
}

/// Who tries.
struct People {
    stranger: Client,
    right: Person,
    reads: Client,
    writes: Client,
    other: Person,
    other_writes: Client,
    /// A token of another project in the account of the right one.
    sibling: Client,
    staff: Person,
    owner: Person,
}

impl People {
    async fn new(berth: &Berth) -> Self {
        let (right, other) = (berth.customer().await, berth.other_customer().await);
        Self {
            stranger: berth.stranger(),
            reads: right.token(TokenAccess::Read).await,
            writes: right.token(TokenAccess::ReadWrite).await,
            other_writes: other.token(TokenAccess::ReadWrite).await,
            sibling: right.sibling(TokenAccess::ReadWrite).await,
            right,
            other,
            staff: berth.staff().await,
            owner: berth.owner().await,
        }
    }
}

impl Case {
    async fn tried_by(&self, client: &Client, method: &Method) -> Reply {
        client.send(method.clone(), &self.path, self.body.clone()).await
    }

    /// Asserts that `client` is answered with this status and code.
    async fn refuses(&self, client: &Client, method: &Method, who: &str, status: u16, code: &str) {
        let reply = self.tried_by(client, method).await;
        let said = (reply.status.as_u16(), reply.code());
        assert_eq!(said, (status, code.to_owned()), "{} tried by {who}: {}", self.operation, reply.text);
    }

    /// Asserts that `client` may; whether it works out is for other tests.
    async fn admits(&self, client: &Client, method: &Method, who: &str) {
        let reply = self.tried_by(client, method).await;
        let is_refused =
            [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND].contains(&reply.status);
        let is_broken = reply.status.is_server_error();
        assert!(
            !is_refused && !is_broken,
            "{} tried by {who}: {} {}",
            self.operation,
            reply.status,
            reply.text
        );
    }

    async fn wrong_ones(&self, method: &Method, people: &People) {
        let is_write = !matches!(*method, Method::GET);
        if self.of == For::Everybody {
            let reply = self.tried_by(&people.stranger, method).await;
            assert!(reply.status.is_client_error(), "{} tried with nothing: {}", self.operation, reply.text);
            return;
        }
        self.refuses(&people.stranger, method, "a stranger", 401, "unauthorized").await;
        let forged = people.stranger.clone().with_token(&"x".repeat(64));
        self.refuses(&forged, method, "a forged token", 401, "unauthorized").await;
        let forged = people.stranger.clone().with_session("0123456789abcdef");
        self.refuses(&forged, method, "a forged session", 401, "unauthorized").await;
        if is_write {
            let elsewhere = people.right.client().clone().with("origin", "https://evil.example");
            self.refuses(&elsewhere, method, "another site's page", 403, "forbidden").await;
            let nowhere = people.right.client().clone().without("origin");
            self.refuses(&nowhere, method, "a session from nowhere", 403, "forbidden").await;
        }
        match self.of {
            For::Everybody => {}
            For::Project | For::ProjectBySession => {
                let theirs = people.right.project().to_string();
                let intruder = people.other.client().clone().with("berth-project", &theirs);
                self.refuses(&intruder, method, "an intruder", 404, "not_found").await;
                if self.about == About::One {
                    self.refuses(people.other.client(), method, "another customer", 404, "not_found").await;
                }
            }
            For::SignedIn => {}
            For::Staff | For::Owner => {
                self.refuses(people.right.client(), method, "a customer", 403, "forbidden").await;
            }
        }
        match self.of {
            For::Project if is_write => {
                self.refuses(&people.reads, method, "a reading token", 403, "token_readonly").await;
            }
            For::Project | For::Everybody => {}
            For::ProjectBySession | For::SignedIn | For::Staff | For::Owner => {
                self.refuses(&people.writes, method, "a token", 403, "forbidden").await;
            }
        }
        if self.of == For::Project && self.about == About::One {
            self.refuses(&people.other_writes, method, "another's token", 404, "not_found").await;
        }
        if matches!(self.of, For::Project | For::ProjectBySession) {
            self.another_project(method, people).await;
        }
        if self.of == For::Owner {
            self.refuses(people.staff.client(), method, "staff", 403, "forbidden").await;
        }
    }

    /// Another project of the same account has nothing to do with this one's things.
    async fn another_project(&self, method: &Method, people: &People) {
        match (self.of, self.about) {
            (For::ProjectBySession, _) => {
                self.refuses(&people.sibling, method, "another project's token", 403, "forbidden").await;
            }
            (_, About::One) => {
                self.refuses(&people.sibling, method, "another project's token", 404, "not_found").await;
            }
            (_, About::Shared) => self.admits(&people.sibling, method, "another project's token").await,
            (_, About::Project) => {
                let theirs = self.tried_by(&people.sibling, method).await;
                let said = "tried by another project's token";
                assert!(!theirs.status.is_server_error(), "{} {said}: {}", self.operation, theirs.text);
                if *method == Method::GET && theirs.status == 200 {
                    let ours = ids(&self.tried_by(&people.writes, method).await.json());
                    let shown: Vec<_> = ids(&theirs.json()).intersection(&ours).copied().collect();
                    assert!(shown.is_empty(), "{} {said} shows {shown:?}", self.operation);
                }
            }
        }
    }

    /// While the account is suspended, everything can be read, and nothing written.
    async fn suspended_ones(&self, method: &Method, people: &People) {
        let is_write = !matches!(*method, Method::GET);
        let session = people.right.client();
        match self.of {
            For::Project if is_write => {
                self.refuses(&people.writes, method, "a suspended account's token", 403, "forbidden").await;
                self.refuses(session, method, "a suspended account", 403, "forbidden").await;
            }
            For::Project => {
                self.admits(&people.reads, method, "a suspended account's token").await;
                self.admits(session, method, "a suspended account").await;
            }
            For::ProjectBySession if is_write => {
                self.refuses(session, method, "a suspended account", 403, "forbidden").await;
            }
            For::ProjectBySession => self.admits(session, method, "a suspended account").await,
            For::Everybody | For::SignedIn | For::Staff | For::Owner => {}
        }
    }

    async fn right_ones(&self, method: &Method, people: &People) {
        match self.of {
            For::Everybody => {}
            For::Project => {
                if *method == Method::GET {
                    self.admits(&people.reads, method, "a reading token").await;
                    self.admits(people.right.client(), method, "the right session").await;
                }
                self.admits(&people.writes, method, "a writing token").await;
            }
            For::ProjectBySession | For::SignedIn => {
                self.admits(people.right.client(), method, "the right one").await;
            }
            For::Staff => {
                self.admits(people.staff.client(), method, "staff").await;
                self.admits(people.owner.client(), method, "the owner").await;
            }
            For::Owner => self.admits(people.owner.client(), method, "the owner").await,
        }
    }
}

#[tokio::test]
async fn every_operation_admits_the_right_ones_and_nobody_else() {
    let berth = Berth::without_workers().await;
    let people = People::new(&berth).await;
    let table = table(&things(&berth, &people.right).await);
    let operations = operations();
    let method_of = |case: &Case| {
        let found = operations.iter().find(|(name, ..)| name == case.operation);
        found
            .map(|(.., method)| method.clone())
            .unwrap_or_else(|| panic!("{} is not in the API", case.operation))
    };
    // First everybody who must be refused, so that nothing they could have broken is gone already.
    for case in &table {
        case.wrong_ones(&method_of(case), &people).await;
    }
    let suspend = |reason| {
        accounts::cli::account_suspend(&berth.world().db, people.right.email(), reason, clock::now())
    };
    suspend(Some("The invoice of May is not paid.")).await.unwrap();
    for case in &table {
        case.suspended_ones(&method_of(case), &people).await;
    }
    suspend(None).await.unwrap();
    for case in &table {
        case.right_ones(&method_of(case), &people).await;
    }
}
