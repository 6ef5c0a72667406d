//! Addresses that a project holds.

use berth_model::address::*;
use berth_model::location::Datacenter;
use berth_model::*;

use crate::golden;
use crate::samples::{at, labels, location};

#[test]
fn addresses_keep_their_wire_form() {
    let name = |ip: &str| DnsPtr { ip: ip.parse().unwrap(), dns_ptr: "mail.example.org".into() };
    let primary_ip = PrimaryIp {
        id: PrimaryIpId(5),
        name: "web".into(),
        ip: "203.0.113.24".into(),
        family: IpFamily::Ipv4,
        assignee_id: Some(ServerId(7)),
        assignee_type: AssigneeType::Server,
        auto_delete: true,
        blocked: false,
        created: at("2026-11-20T02:14:00Z"),
        location: location(),
        datacenter: Datacenter::of(&location()),
        dns_ptr: vec![name("203.0.113.24")],
        labels: labels(),
        protection: IpProtection { delete: true },
    };
    golden("primary_ip", &PrimaryIpReply { primary_ip });
    let floating_ip = FloatingIp {
        id: FloatingIpId(6),
        name: "vip".into(),
        description: "Web".into(),
        ip: "2001:db8:7:1::/64".into(),
        family: IpFamily::Ipv6,
        server: None,
        dns_ptr: vec![name("2001:db8:7:1::9")],
        home_location: location(),
        blocked: false,
        protection: IpProtection::default(),
        labels: labels(),
        created: at("2026-11-20T02:14:00Z"),
    };
    golden("floating_ip", &FloatingIpCreated { floating_ip, action: None });
}

#[test]
fn requests_for_addresses_keep_their_wire_form() {
    golden(
        "primary_ip_create",
        &PrimaryIpCreate {
            name: "web".into(),
            family: IpFamily::Ipv4,
            assignee_id: None,
            assignee_type: Some(AssigneeType::Server),
            location: None,
            datacenter: Some("rtm1-dc1".into()),
            auto_delete: Some(false),
            labels: Some(labels()),
        },
    );
    golden(
        "primary_ip_assign",
        &PrimaryIpAssign { assignee_id: ServerId(7), assignee_type: AssigneeType::Server },
    );
    golden("primary_ip_update", &PrimaryIpUpdate { auto_delete: Some(true), ..PrimaryIpUpdate::default() });
    golden(
        "floating_ip_create",
        &FloatingIpCreate {
            family: IpFamily::Ipv6,
            name: Some("vip".into()),
            description: Some("Web".into()),
            home_location: Some("rtm1".into()),
            server: None,
            labels: None,
        },
    );
    golden("floating_ip_assign", &FloatingIpAssign { server: ServerId(7) });
    golden(
        "floating_ip_update",
        &FloatingIpUpdate { description: Some("".into()), ..FloatingIpUpdate::default() },
    );
    golden("change_dns_ptr", &ChangeDnsPtr { ip: "203.0.113.24".parse().unwrap(), dns_ptr: None });
    golden("change_ip_protection", &ChangeIpProtection { delete: Some(true) });
}
