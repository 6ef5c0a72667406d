//! Every operation of the API, with who may use it, the path for things of the right one, and a body that
//! would be accepted.

use serde_json::{Value, json};

use super::things::Things;
use crate::certificates::certificate_pair;
use crate::support::{PASSWORD, PUBLIC_KEYS};

/// Who may use an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
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
pub struct Case {
    pub operation: String,
    pub of: For,
    pub path: String,
    pub body: Option<Value>,
    pub about: About,
}

/// Whose things an operation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// All of the project, or a new one: another project sees none of them.
    Project,
    /// One of the project, named in the path: for others it is not there.
    One,
    /// What is the same for everybody, such as the catalogue.
    Shared,
}

/// Every operation. Those that end something (things, tokens, sessions) come last.
pub fn table(has: &Things) -> Vec<Case> {
    let subjects = [
        people(has),
        catalog(has),
        servers(has),
        images(has),
        addresses(has),
        volumes(has),
        firewalls(has),
        networks(has),
        belongings(has),
        limits(has),
        webhooks(has),
        staff(has),
    ];
    let mut table: Vec<Case> = subjects.into_iter().flatten().collect();
    table.sort_by_key(|case| {
        let ends_session = case.operation.starts_with("session_") && case.of == For::SignedIn;
        (ends_session, case.operation.ends_with("_delete"))
    });
    table
}

fn case(operation: impl Into<String>, of: For, path: impl Into<String>, body: Option<Value>) -> Case {
    Case { operation: operation.into(), of, path: path.into(), body, about: About::Project }
}

/// A case about what is the same for every project.
fn shared(operation: &str, path: impl Into<String>) -> Case {
    Case { about: About::Shared, ..case(operation, For::Project, path, None) }
}

/// A case whose path names a thing of the project.
fn owned(operation: impl Into<String>, of: For, path: impl Into<String>, body: Option<Value>) -> Case {
    Case { about: About::One, ..case(operation, of, path, body) }
}

/// A thing of the project, of a kind that has the usual operations.
struct Thing {
    kind: &'static str,
    id: i64,
}

impl Thing {
    fn path(&self) -> String {
        format!("/v1/{}s/{}", self.kind, self.id)
    }

    /// List, create, get, update and delete.
    fn usual(&self, create: Value) -> Vec<Case> {
        let Self { kind, .. } = self;
        let all = format!("/v1/{kind}s");
        vec![
            case(format!("{kind}_list"), For::Project, &all, None),
            case(format!("{kind}_create"), For::Project, &all, Some(create)),
            owned(format!("{kind}_get"), For::Project, self.path(), None),
            owned(format!("{kind}_update"), For::Project, self.path(), Some(json!({"name": "renamed"}))),
            owned(format!("{kind}_delete"), For::Project, self.path(), None),
        ]
    }

    /// Its actions and those of its kind: lists, and one of them.
    fn actions(&self, action: i64) -> [Case; 4] {
        let Self { kind, .. } = self;
        let (all, own) = (format!("/v1/{kind}s/actions"), format!("{}/actions", self.path()));
        [
            case(format!("{kind}_action_list"), For::Project, &all, None),
            owned(format!("{kind}_action_get"), For::Project, format!("{all}/{action}"), None),
            owned(format!("action_list_of_{kind}"), For::Project, &own, None),
            owned(format!("action_get_of_{kind}"), For::Project, format!("{own}/{action}"), None),
        ]
    }

    /// What is done with it.
    fn does(&self, verb: &str, body: impl Into<Option<Value>>) -> Case {
        let (operation, path) = (format!("{}_{verb}", self.kind), format!("{}/actions/{verb}", self.path()));
        owned(operation, For::Project, path, body.into())
    }
}

fn people(has: &Things) -> Vec<Case> {
    use For::{Everybody, ProjectBySession, SignedIn};
    let passwords = json!({"current_password": PASSWORD, "new_password": "another good one"});
    let token = format!("/v1/tokens/{}", has.token);
    vec![
        case("user_create", Everybody, "/v1/users", Some(json!({}))),
        case("session_create", Everybody, "/v1/session", Some(json!({}))),
        case("session_get", SignedIn, "/v1/session", None),
        case("session_password_change", SignedIn, "/v1/session/password", Some(passwords)),
        case("session_delete", SignedIn, "/v1/session", None),
        case("token_list", ProjectBySession, "/v1/tokens", None),
        case("token_create", ProjectBySession, "/v1/tokens", Some(json!({"name": "ci", "access": "read"}))),
        owned("token_delete", ProjectBySession, token, None),
        case("live", For::Project, "/v1/live", None),
    ]
}

fn catalog(has: &Things) -> Vec<Case> {
    let Things { location, server_type, iso, .. } = has;
    vec![
        shared("location_list", "/v1/locations"),
        shared("location_get", format!("/v1/locations/{location}")),
        shared("datacenter_list", "/v1/datacenters"),
        shared("datacenter_get", format!("/v1/datacenters/{location}")),
        shared("server_type_list", "/v1/server_types"),
        shared("server_type_get", format!("/v1/server_types/{server_type}")),
        shared("load_balancer_type_list", "/v1/load_balancer_types"),
        shared("pricing_get", "/v1/pricing"),
        shared("iso_list", "/v1/isos"),
        shared("iso_get", format!("/v1/isos/{iso}")),
    ]
}

fn servers(has: &Things) -> Vec<Case> {
    let Things { network, placement_group, action, .. } = has;
    let server = Thing { kind: "server", id: has.server };
    let path = server.path();
    let range = "start=2026-11-20T02:00:00Z&end=2026-11-20T03:00:00Z";
    let mut cases =
        server.usual(json!({"name": "another", "server_type": "s1", "image": "tiny", "location": "rtm1"}));
    cases.extend(server.actions(*action));
    cases.extend([
        case("action_list", For::Project, "/v1/actions", None),
        owned("action_get", For::Project, format!("/v1/actions/{action}"), None),
        server.does("poweron", None),
        server.does("poweroff", None),
        server.does("shutdown", None),
        server.does("reboot", None),
        server.does("reset", None),
        server.does("change_type", json!({"server_type": "s2", "upgrade_disk": false})),
        server.does("change_protection", json!({"delete": false})),
        server.does("create_image", json!({})),
        server.does("rebuild", json!({"image": "tiny"})),
        server.does("reset_password", None),
        server.does("enable_rescue", json!({})),
        server.does("disable_rescue", None),
        server.does("attach_iso", json!({"iso": "tools"})),
        server.does("detach_iso", None),
        server.does("change_dns_ptr", dns_ptr()),
        server.does("enable_backup", None),
        server.does("disable_backup", None),
        server.does("add_to_placement_group", json!({"placement_group": placement_group})),
        server.does("remove_from_placement_group", None),
        server.does("attach_to_network", json!({"network": network})),
        server.does("detach_from_network", json!({"network": network})),
        server.does("change_alias_ips", json!({"network": network, "alias_ips": []})),
        server.does("request_console", None),
        case("server_console", For::Everybody, format!("{path}/console?token=x"), None),
        owned("server_load", For::Project, format!("{path}/load"), None),
        owned("server_metrics", For::Project, format!("{path}/metrics?type=cpu&{range}"), None),
    ]);
    cases
}

fn images(has: &Things) -> Vec<Case> {
    let snapshot = Thing { kind: "image", id: has.snapshot };
    let mut cases = vec![
        case("image_list", For::Project, "/v1/images?type=snapshot", None),
        shared("image_get", format!("/v1/images/{}", has.image)),
        owned("image_update", For::Project, snapshot.path(), Some(json!({}))),
        owned("image_delete", For::Project, snapshot.path(), None),
        snapshot.does("change_protection", json!({"delete": false})),
    ];
    cases.extend(snapshot.actions(has.image_action));
    cases
}

fn dns_ptr() -> Value {
    json!({"ip": "10.77.0.10", "dns_ptr": "mail.example.org"})
}

fn addresses(has: &Things) -> Vec<Case> {
    let server = has.server;
    let primary_ip = Thing { kind: "primary_ip", id: has.primary_ip };
    let mut cases = primary_ip.usual(json!({"name": "another", "type": "ipv4", "location": "rtm1"}));
    cases.extend(primary_ip.actions(has.primary_ip_action));
    cases.extend([
        primary_ip.does("assign", json!({"assignee_id": server, "assignee_type": "server"})),
        primary_ip.does("unassign", None),
        primary_ip.does("change_dns_ptr", dns_ptr()),
        primary_ip.does("change_protection", json!({"delete": false})),
    ]);
    let floating_ip = Thing { kind: "floating_ip", id: has.floating_ip };
    cases.extend(floating_ip.usual(json!({"type": "ipv4", "home_location": "rtm1"})));
    cases.extend(floating_ip.actions(has.floating_ip_action));
    cases.extend([
        floating_ip.does("assign", json!({"server": server})),
        floating_ip.does("unassign", None),
        floating_ip.does("change_dns_ptr", dns_ptr()),
        floating_ip.does("change_protection", json!({"delete": false})),
    ]);
    cases
}

fn volumes(has: &Things) -> Vec<Case> {
    let volume = Thing { kind: "volume", id: has.volume };
    let mut cases = volume.usual(json!({"name": "another", "size": 10, "location": "rtm1"}));
    cases.extend(volume.actions(has.volume_action));
    cases.extend([
        volume.does("attach", json!({"server": has.server})),
        volume.does("detach", None),
        volume.does("resize", json!({"size": 20})),
        volume.does("change_protection", json!({"delete": false})),
    ]);
    cases
}

fn firewalls(has: &Things) -> Vec<Case> {
    let firewall = Thing { kind: "firewall", id: has.firewall };
    let targets = json!([{"type": "server", "server": {"id": has.server}}]);
    let mut cases = firewall.usual(json!({"name": "another"}));
    cases.extend(firewall.actions(has.firewall_action));
    cases.extend([
        firewall.does("set_rules", json!({"rules": []})),
        firewall.does("apply_to_resources", json!({"apply_to": targets})),
        firewall.does("remove_from_resources", json!({"remove_from": targets})),
    ]);
    cases
}

fn networks(has: &Things) -> Vec<Case> {
    let network = Thing { kind: "network", id: has.network };
    let subnet = json!({"type": "cloud", "network_zone": "eu-west", "ip_range": "10.0.7.0/24"});
    let route = json!({"destination": "10.9.0.0/24", "gateway": "10.0.0.9"});
    let mut cases = network.usual(json!({"name": "another", "ip_range": "10.0.0.0/16"}));
    cases.extend(network.actions(has.network_action));
    cases.extend([
        network.does("add_subnet", subnet),
        network.does("delete_subnet", json!({"ip_range": "10.0.7.0/24"})),
        network.does("add_route", route.clone()),
        network.does("delete_route", route),
        network.does("change_ip_range", json!({"ip_range": "10.0.0.0/8"})),
        network.does("change_protection", json!({"delete": false})),
    ]);
    cases
}

/// SSH keys, placement groups and certificates.
fn belongings(has: &Things) -> Vec<Case> {
    let ssh_key = Thing { kind: "ssh_key", id: has.ssh_key };
    let mut cases = ssh_key.usual(json!({"name": "another", "public_key": PUBLIC_KEYS[1]}));
    let placement_group = Thing { kind: "placement_group", id: has.placement_group };
    cases.extend(placement_group.usual(json!({"name": "another", "type": "spread"})));
    let certificate = Thing { kind: "certificate", id: has.certificate };
    let (pem, key) = certificate_pair();
    cases.extend(certificate.usual(json!({"name": "another", "certificate": pem, "private_key": key})));
    cases.extend(certificate.actions(has.certificate_action));
    cases.push(certificate.does("retry", None));
    cases
}

fn limits(has: &Things) -> Vec<Case> {
    let more = json!({"kind": "cores", "limit": 1000, "reason": "A cluster."});
    let request = format!("/v1/limit_requests/{}", has.limit_request);
    vec![
        case("limit_list", For::Project, "/v1/limits", None),
        case("limit_request_list", For::Project, "/v1/limit_requests", None),
        case("limit_request_create", For::Project, "/v1/limit_requests", Some(more)),
        owned("limit_request_get", For::Project, request, None),
    ]
}

fn webhooks(has: &Things) -> Vec<Case> {
    let webhook = Thing { kind: "webhook", id: has.webhook };
    let deliveries = format!("{}/deliveries", webhook.path());
    let delivery = format!("{deliveries}/{}", has.delivery);
    let mut cases = webhook.usual(json!({"name": "another", "url": "https://example.org/hook"}));
    cases.extend([
        owned("webhook_delivery_list", For::Project, deliveries, None),
        owned("webhook_delivery_get", For::Project, &delivery, None),
        owned("webhook_delivery_replay", For::Project, format!("{delivery}/replay"), None),
    ]);
    cases
}

fn staff(has: &Things) -> Vec<Case> {
    use For::{Everybody, Owner, Staff};
    let account = format!("/v1/staff/accounts/{}", has.account);
    let request = format!("/v1/staff/limit_requests/{}", has.limit_request);
    let project = format!("/v1/staff/projects/{}/limits", has.project);
    let limit = json!({"kind": "cores", "limit": 50});
    let node = format!("/v1/nodes/{}", has.node);
    vec![
        case("account_list", Staff, "/v1/staff/accounts", None),
        case("account_suspend", Staff, format!("{account}/suspend"), Some(json!({"reason": "x"}))),
        case("account_resume", Staff, format!("{account}/resume"), None),
        case("staff_limit_request_list", Staff, "/v1/staff/limit_requests", None),
        case("staff_limit_request_grant", Staff, format!("{request}/grant"), Some(json!({}))),
        case("staff_limit_request_decline", Staff, format!("{request}/decline"), Some(json!({}))),
        case("staff_project_limits_get", Staff, &project, None),
        case("staff_project_limits_set", Staff, &project, Some(limit.clone())),
        case("staff_account_limits_set", Staff, format!("{account}/limits"), Some(limit)),
        case("node_list", Staff, "/v1/nodes", None),
        case("node_update", Owner, node, Some(json!({"accepts_servers": true}))),
        case("agent_enrol", Everybody, "/v1/agents/enrol", Some(json!({}))),
    ]
}
