//! Private networks.

use berth_model::network::{Network, Subnet, *};
use berth_model::*;

use crate::golden;
use crate::samples::{at, labels};

#[test]
fn networks_keep_their_wire_form() {
    let route = Route { destination: "10.100.1.0/24".into(), gateway: "10.0.1.2".into() };
    let network = Network {
        id: NetworkId(4),
        name: "inner".into(),
        ip_range: "10.0.0.0/16".into(),
        subnets: vec![Subnet {
            kind: SubnetKind::Cloud,
            ip_range: "10.0.1.0/24".into(),
            network_zone: "eu-west".into(),
            gateway: "10.0.0.1".parse().unwrap(),
            vswitch_id: None,
        }],
        routes: vec![route.clone()],
        servers: vec![ServerId(7)],
        load_balancers: vec![],
        expose_routes_to_vswitch: false,
        protection: NetworkProtection { delete: true },
        labels: labels(),
        created: at("2026-11-20T02:14:00Z"),
    };
    golden("network", &NetworkReply { network });
    let subnet = SubnetCreate {
        kind: SubnetKind::Cloud,
        ip_range: Some("10.0.1.0/24".into()),
        network_zone: "eu-west".into(),
        ..SubnetCreate::default()
    };
    golden(
        "network_create",
        &NetworkCreate {
            name: "inner".into(),
            ip_range: "10.0.0.0/16".into(),
            subnets: vec![subnet.clone()],
            routes: vec![route.clone()],
            labels: Some(labels()),
            expose_routes_to_vswitch: Some(false),
        },
    );
    golden("network_add_subnet", &subnet);
    golden("network_add_route", &route);
    golden("network_change_ip_range", &IpRange { ip_range: "10.0.0.0/8".into() });
    golden("network_change_protection", &ChangeNetworkProtection { delete: Some(true) });
    let attach = AttachToNetwork {
        network: NetworkId(4),
        ip: Some("10.0.1.2".parse().unwrap()),
        alias_ips: vec!["10.0.1.3".parse().unwrap()],
        ip_range: None,
    };
    golden("attach_to_network", &attach);
    golden("detach_from_network", &DetachFromNetwork { network: NetworkId(4) });
    golden(
        "change_alias_ips",
        &ChangeAliasIps { network: NetworkId(4), alias_ips: vec!["10.0.1.3".parse().unwrap()] },
    );
}
