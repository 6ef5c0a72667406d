//! Values that several subjects show.

use std::collections::BTreeMap;

use berth_model::action::*;
use berth_model::image::*;
use berth_model::load::*;
use berth_model::location::*;
use berth_model::network::PrivateNet;
use berth_model::page::{Meta, Pagination};
use berth_model::server::*;
use berth_model::server_type::*;
use berth_model::*;

pub fn at(text: &str) -> Timestamp {
    serde_json::from_value(serde_json::Value::String(text.into())).unwrap()
}

pub fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([("env".to_owned(), "prod".to_owned()), ("example.com/role".to_owned(), "web".to_owned())])
}

pub fn location() -> Location {
    Location {
        id: LocationId(1),
        name: "rtm1".into(),
        description: "Rotterdam".into(),
        country: "NL".into(),
        city: "Rotterdam".into(),
        latitude: 51.92,
        longitude: 4.48,
        network_zone: "eu-west".into(),
    }
}

pub fn meta() -> Meta {
    Meta { pagination: Pagination::new(1, 25, 1) }
}

pub fn server_type() -> ServerType {
    let eur = |micros| Price::untaxed(Money::micros(micros, Currency::EUR));
    ServerType {
        id: ServerTypeId(2),
        name: "s2".into(),
        description: "2 vCPU, 4 GB, 60 GB".into(),
        category: "Shared CPU".into(),
        cores: 2,
        memory: 4.0,
        disk: 60,
        cpu_type: CpuKind::Shared,
        storage_type: "local".into(),
        architecture: "x86".into(),
        prices: vec![LocationPrice {
            location: "rtm1".into(),
            price_hourly: eur(10_100),
            price_monthly: eur(6_800_000),
            included_traffic: 20_000_000_000_000,
            price_per_tb_traffic: eur(1_000_000),
        }],
        locations: vec![ServerTypeLocation {
            id: LocationId(1),
            name: "rtm1".into(),
            deprecation: None,
            available: true,
            recommended: true,
        }],
        deprecated: false,
        deprecation: None,
        included_traffic: 20_000_000_000_000,
    }
}

pub fn image() -> Image {
    Image {
        id: ImageId(3),
        kind: ImageKind::System,
        status: ImageStatus::Available,
        name: Some("debian-12".into()),
        description: "Debian 12".into(),
        image_size: Some(0.15),
        disk_size: 2.0,
        created: at("2026-11-01T00:00:00Z"),
        created_from: None,
        bound_to: None,
        os_flavor: "debian".into(),
        os_version: Some("12".into()),
        architecture: "x86".into(),
        rapid_deploy: true,
        protection: ImageProtection::default(),
        deprecated: None,
        deleted: None,
        labels: BTreeMap::new(),
    }
}

pub fn action() -> Action {
    Action {
        id: ActionId(40),
        command: "create_server".into(),
        status: ActionStatus::Error,
        progress: 40,
        started: at("2026-11-20T02:14:00Z"),
        finished: Some(at("2026-11-20T02:14:09.5Z")),
        resources: vec![ActionResource { id: 7, kind: ResourceKind::Server }],
        error: Some(ActionError {
            code: ErrorCode::PlacementError,
            message: "No node in rtm1 has room.".into(),
        }),
        steps: vec![
            ActionStep { title: "Choose a node".into(), state: StepState::Failed, took_ms: Some(120) },
            ActionStep { title: "Reserve an address".into(), state: StepState::Waiting, took_ms: None },
        ],
    }
}

pub fn server() -> Server {
    Server {
        id: ServerId(7),
        name: "web-1".into(),
        status: ServerStatus::Running,
        created: at("2026-11-20T02:14:00Z"),
        public_net: PublicNet {
            ipv4: Some(PublicIpv4 {
                id: PrimaryIpId(5),
                ip: "203.0.113.24".parse().unwrap(),
                blocked: false,
                dns_ptr: None,
            }),
            ..PublicNet::default()
        },
        private_net: vec![PrivateNet {
            network: NetworkId(4),
            ip: "10.0.1.2".parse().unwrap(),
            alias_ips: vec!["10.0.1.3".parse().unwrap()],
            mac_address: "86:00:00:aa:bb:cc".into(),
        }],
        server_type: server_type(),
        datacenter: Datacenter::of(&location()),
        location: location(),
        image: Some(image()),
        iso: None,
        rescue_enabled: false,
        locked: false,
        backup_window: None,
        outgoing_traffic: Some(0),
        ingoing_traffic: Some(0),
        included_traffic: 20_000_000_000_000,
        protection: ServerProtection::default(),
        labels: labels(),
        volumes: vec![],
        load_balancers: vec![],
        primary_disk_size: 60,
        placement_group: None,
    }
}

pub fn sample() -> LoadSample {
    LoadSample {
        at: at("2026-11-20T02:14:02Z"),
        cpu_millicores: 460,
        memory_used_bytes: 268_435_456,
        disk_read_bytes_per_s: 4096,
        disk_write_bytes_per_s: 8192,
        disk_read_ops_per_s: 41,
        disk_write_ops_per_s: 212,
        net_in_bytes_per_s: 525_000,
        net_out_bytes_per_s: 2_325_000,
        net_in_packets_per_s: 310,
        net_out_packets_per_s: 1_650,
    }
}
