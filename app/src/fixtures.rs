//! Resources for the tests of this crate.

use berth_model::action::{Action, ActionResource, ActionStatus, ResourceKind};
use berth_model::load::LoadSample;
use berth_model::server::Server;
use berth_model::{ActionId, Timestamp};

/// `seconds` after 1970.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_ms(seconds * 1000).unwrap()
}

/// An action on a server, under way.
pub fn action(id: i64, server: i64, command: &str) -> Action {
    Action {
        id: ActionId(id),
        command: command.to_owned(),
        status: ActionStatus::Running,
        progress: 0,
        started: at(0),
        finished: None,
        resources: vec![ActionResource { id: server, kind: ResourceKind::Server }],
        error: None,
        steps: Vec::new(),
    }
}

/// A sample of nothing but CPU time.
pub fn sample(seconds: i64, cpu_millicores: u32) -> LoadSample {
    LoadSample {
        at: at(seconds),
        cpu_millicores,
        memory_used_bytes: 0,
        disk_read_bytes_per_s: 0,
        disk_write_bytes_per_s: 0,
        disk_read_ops_per_s: 0,
        disk_write_ops_per_s: 0,
        net_in_bytes_per_s: 0,
        net_out_bytes_per_s: 0,
        net_in_packets_per_s: 0,
        net_out_packets_per_s: 0,
    }
}

/// A server that runs.
pub fn server(id: i64, name: &str) -> Server {
    let location = serde_json::json!({
        "id": 1, "name": "rtm1", "description": "Rotterdam", "country": "NL", "city": "Rotterdam",
        "latitude": 51.9, "longitude": 4.4, "network_zone": "eu",
    });
    let price = serde_json::json!({ "net": "0.0058000000", "gross": "0.0058000000" });
    serde_json::from_value(serde_json::json!({
        "id": id, "name": name, "status": "running", "created": at(0),
        "public_net": {
            "ipv4": { "id": 5, "ip": "203.0.113.24", "blocked": false, "dns_ptr": null },
            "ipv6": null, "floating_ips": [], "firewalls": [],
        },
        "private_net": [],
        "server_type": {
            "id": 1, "name": "s1", "description": "1 vCPU, 2 GB, 40 GB", "category": "Shared CPU", "cores": 1,
            "memory": 2.0, "disk": 40, "cpu_type": "shared", "storage_type": "local", "architecture": "x86",
            "prices": [{
                "location": "rtm1", "price_hourly": price, "price_monthly": price,
                "included_traffic": 1, "price_per_tb_traffic": price,
            }],
            "locations": [], "deprecated": false, "deprecation": null, "included_traffic": 1,
        },
        "location": location,
        "datacenter": { "id": 1, "name": "rtm1-dc1", "description": "Rotterdam DC 1", "location": location },
        "image": null, "iso": null, "rescue_enabled": false, "locked": false, "backup_window": null,
        "outgoing_traffic": null, "ingoing_traffic": null, "included_traffic": 1,
        "protection": { "delete": false, "rebuild": false }, "labels": {}, "volumes": [], "load_balancers": [],
        "primary_disk_size": 40, "placement_group": null,
    }))
    .unwrap()
}
