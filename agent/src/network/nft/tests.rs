use berth_model::agent::{NicAddress, PortRange};
use proptest::prelude::*;

use super::*;
use crate::proof;

fn names() -> Names {
    Names::new("berth-")
}

fn nic(mac: &str, addresses: &[&str], networks: &[&str]) -> Nic {
    let address = |ip: &&str| NicAddress { ip: ip.parse().unwrap(), prefix: 24, gateway: None };
    Nic {
        mac: mac.to_owned(),
        addresses: addresses.iter().map(address).collect(),
        networks: networks.iter().map(|net| net.parse().unwrap()).collect(),
        ..Nic::default()
    }
}

fn plan(nics: &[Nic]) -> Plan {
    let card = |(n, nic): (usize, &Nic)| Card::new(&names(), VmId(n as i64 + 1), nic).unwrap();
    Plan { cards: nics.iter().enumerate().map(card).collect(), ..Plan::default() }
}

#[test]
fn a_rule_names_protocol_ports_and_peers_of_each_family() {
    let _proof = proof::pure(&["firewall.set"]);
    let rule = |protocol, ports: Option<&str>, peers: &[&str]| FirewallRule {
        protocol,
        ports: ports.map(|ports| ports.to_owned().try_into().unwrap()),
        peers: peers.iter().map(|net| net.parse().unwrap()).collect(),
    };
    use FirewallProtocol::{Esp, Gre, Icmp, Tcp, Udp};
    let cases: [(FirewallRule, &[&str]); 7] = [
        (rule(Tcp, Some("22"), &[]), &["tcp dport 22 return"]),
        (rule(Udp, Some("8000-8999"), &["0.0.0.0/0"]), &["meta nfproto ipv4 udp dport 8000-8999 return"]),
        (
            rule(Tcp, None, &["10.1.2.3/8", "10.9.0.0/16", "2001:db8::/32"]),
            &[
                "ip saddr { 10.0.0.0/8 } meta l4proto tcp return",
                "ip6 saddr { 2001:db8::/32 } meta l4proto tcp return",
            ],
        ),
        (rule(Icmp, None, &[]), &["meta l4proto { icmp, ipv6-icmp } return"]),
        (rule(Gre, None, &[]), &["meta l4proto gre return"]),
        (rule(Esp, None, &["192.0.2.1/32"]), &["ip saddr { 192.0.2.1 } meta l4proto esp return"]),
        (rule(Tcp, Some("1-65535"), &["::/0"]), &["meta nfproto ipv6 tcp dport 1-65535 return"]),
    ];
    for (rule, lines) in cases {
        assert_eq!(firewall_rule(&rule, "saddr"), lines);
    }
}

#[test]
fn a_link_local_address_follows_from_the_mac_address() {
    let _proof = proof::pure(&["nic.attach"]);
    let plan = plan(&[nic("52:54:00:12:34:56", &[], &[])]);
    assert_eq!(plan.cards[0].link_local().to_string(), "fe80::5054:ff:fe12:3456");
    assert_eq!(plan.cards[0].mac(), "52:54:00:12:34:56");
}

#[test]
fn the_first_card_keeps_an_address_that_two_claim() {
    let _proof = proof::pure(&["nic.attach"]);
    let plan = plan(&[
        nic("52:54:00:00:00:01", &["10.0.0.1"], &[]),
        nic("52:54:00:00:00:02", &["10.0.0.1"], &["10.0.0.0/30"]),
    ]);
    assert_eq!(elements(plan.cards.iter(), true, |card, _| card.vm.to_string()), ["10.0.0.0/30 : 2"]);
}

#[test]
fn a_counters_name_is_read_back() {
    let _proof = proof::pure(&["traffic.get"]);
    for net in ["10.77.0.7/32", "2001:db8:1::/64", "::/0"] {
        let net: IpNet = net.parse().unwrap();
        for inbound in [true, false] {
            let name = counter(VmId(7), net, inbound);
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{name}");
            assert_eq!(counter_of(&name), Some((VmId(7), net, inbound)));
        }
    }
    for other in ["", "c_", "c_x_0a_32_in", "c_7_0a4d0007_33_in", "c_7_0a4d0007_32_up", "c_7_0a4d0007_32_in_"]
    {
        assert_eq!(counter_of(other), None, "{other}");
    }
}

fn nets() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (any::<u32>(), 0_u8..=32)
            .prop_map(|(ip, p)| IpNet::new(std::net::Ipv4Addr::from(ip).into(), p).unwrap()),
        (any::<u128>(), 0_u8..=128).prop_map(|(ip, p)| IpNet::new(Ipv6Addr::from(ip).into(), p).unwrap()),
        // Those that meet each other, and those that are written in strange ways.
        (0_u8..8, 24_u8..=32)
            .prop_map(|(b, p)| IpNet::new(std::net::Ipv4Addr::new(10, 0, 0, b).into(), p).unwrap()),
        (0_u16..8, 96_u8..=128).prop_map(|(b, p)| {
            IpNet::new(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0x0a00, b).into(), p).unwrap()
        }),
    ]
}

fn rules() -> impl Strategy<Value = FirewallRule> {
    use FirewallProtocol::{Esp, Gre, Icmp, Tcp, Udp};
    let ports = proptest::option::of((1_u16.., any::<u16>()));
    let protocol = prop_oneof![Just(Tcp), Just(Udp), Just(Icmp), Just(Gre), Just(Esp)];
    (protocol, ports, proptest::collection::vec(nets(), 0..4)).prop_map(|(protocol, ports, peers)| {
        FirewallRule {
            protocol,
            ports: ports.and_then(|(first, more)| PortRange::new(first, first.saturating_add(more))),
            peers,
        }
    })
}

fn nics() -> impl Strategy<Value = Nic> {
    let firewall = (
        proptest::collection::vec(rules(), 0..4),
        proptest::option::of(proptest::collection::vec(rules(), 0..3)),
    );
    let firewall = firewall.prop_map(|(inbound, outbound)| Firewall { inbound, outbound });
    (
        prop_oneof![any::<[u8; 6]>().prop_map(|mac| mac.map(|b| format!("{b:02x}")).join(":")), ".*"],
        proptest::collection::vec(nets(), 0..4),
        proptest::collection::vec(nets(), 0..3),
        proptest::option::of(firewall),
        proptest::option::of(1_i64..5),
    )
        .prop_map(|(mac, addresses, networks, firewall, private)| Nic {
            mac,
            addresses: addresses
                .into_iter()
                .map(|net| NicAddress { ip: net.addr(), prefix: net.prefix_len(), gateway: None })
                .collect(),
            networks,
            firewall,
            routes: Vec::new(),
            limits: None,
            private: private.map(PrivateNetworkId),
        })
}

fn plans() -> impl Strategy<Value = Plan> {
    let networks = proptest::collection::btree_map(1_i64..5, proptest::collection::vec(nets(), 0..3), 0..3);
    let switches = (any::<bool>(), any::<bool>());
    (switches, proptest::collection::vec((1_i64.., nics()), 0..5), networks).prop_map(
        |((routed, serves), nics, networks)| Plan {
            routed,
            serves,
            cards: nics.iter().filter_map(|(vm, nic)| Card::new(&names(), VmId(*vm), nic)).collect(),
            networks: networks
                .into_iter()
                .map(|(id, nodes)| {
                    let id = PrivateNetworkId(id);
                    (id, (names().bridge(id), nodes.into_iter().map(|net| net.addr()).collect()))
                })
                .collect(),
        },
    )
}

/// The kernel takes one script after the other, in a network namespace of their own.
fn nft_takes(scripts: &[&str]) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let mut words = String::new();
    for (n, script) in scripts.iter().enumerate() {
        let path = folder.path().join(n.to_string());
        std::fs::write(&path, script).unwrap();
        words.push_str(&format!("nft -f {} && ", path.display()));
    }
    words.push_str("true");
    let output = std::process::Command::new("unshare").args(["--net", "sh", "-c", &words]).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// Whatever is asked for, nftables takes it whole, after anything else, and nothing of a text in it gets
    /// into the script.
    #[test]
    fn nftables_takes_every_script(before in plans(), plan in plans()) {
        let _proof = proof::pure(&["firewall.set", "network.put", "nic.attach"]);
        let first = script(&names(), &before, &[]);
        let there: Vec<(String, String)> = first
            .lines()
            .filter_map(|line| {
                let mut words = line.strip_prefix("add chain ")?.split(' ');
                let (family, table, chain) = (words.next()?, words.next()?, words.next()?);
                (table == names().table()).then(|| (family.to_owned(), chain.to_owned()))
            })
            .filter(|(family, _)| before.routed || family != "arp")
            .collect();
        let script = script(&names(), &plan, &there);
        let allowed = |c: char| c.is_ascii_alphanumeric() || " \n_-,.:;{}\"/@&=!*".contains(c);
        prop_assert!(script.chars().all(allowed), "{}", script);
        if let Err(complaint) = nft_takes(&[&first, &script]) {
            prop_assert!(false, "{}\n{}\n{}", complaint, first, script);
        }
    }
}
