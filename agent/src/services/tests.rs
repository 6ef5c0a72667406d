use std::net::IpAddr;

use berth_model::PrivateNetworkId;
use berth_model::agent::{Nic, NicAddress, NicRoute, Rescue, VmImage, VmPlace, VmSeed};
use dhcproto::v6::{self, DhcpOption as Option6, MessageType};
use dhcproto::{Decodable as _, Decoder, Encodable as _};
use proptest::prelude::*;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, DhcpMessageType, DhcpPacket, DhcpRepr, EthernetFrame, EthernetProtocol,
    Icmpv6Message, Icmpv6Packet, IpProtocol, Ipv4Packet, Ipv6Packet, NdiscOption, NdiscOptionRepr,
    NdiscPrefixInfoFlags, NdiscRouterFlags, UdpPacket,
};

use super::frame::Asked;
use super::metadata::Metadata;
use super::web::{Request, Response};
use super::*;
use crate::proof;

const MAC: &str = "52:54:00:12:34:56";
const ADDRESS: EthernetAddress = EthernetAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
const OTHER: EthernetAddress = EthernetAddress([0x52, 0x54, 0, 0x12, 0x34, 0x57]);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0xff, 0xfe12, 0x3456);

fn nic(addresses: &[(&str, &str)], networks: &[&str]) -> Nic {
    let address = |(text, gateway): &(&str, &str)| {
        let (ip, prefix) = text.split_once('/').unwrap();
        let gateway = (!gateway.is_empty()).then(|| gateway.parse().unwrap());
        NicAddress { ip: ip.parse().unwrap(), prefix: prefix.parse().unwrap(), gateway }
    };
    Nic {
        mac: MAC.to_owned(),
        addresses: addresses.iter().map(address).collect(),
        networks: networks.iter().map(|net| net.parse().unwrap()).collect(),
        ..Nic::default()
    }
}

fn spec(nics: Vec<Nic>) -> VmSpec {
    VmSpec {
        image: VmImage { sha256: "ab".repeat(32) },
        nics,
        seed: VmSeed {
            hostname: "quay-7.example.org".to_owned(),
            ssh_keys: vec!["ssh-ed25519 AAAA a@b".to_owned(), "ssh-rsa BBBB \u{1f6a2}".to_owned()],
            root_password_hash: Some("$6$salt$secret".to_owned()),
            user_data: Some("#cloud-config\npackages: [vim]\n".to_owned()),
            mounts: Vec::new(),
            name_servers: vec!["9.9.9.9".parse().unwrap(), "2620:fe::fe".parse().unwrap()],
        },
        place: Some(VmPlace { region: "eu-central".to_owned(), availability_zone: "fsn1-dc14".to_owned() }),
        ..VmSpec::default()
    }
}

fn offer(nic: &Nic, routed: bool) -> Offer {
    Offer::new(&spec(vec![nic.clone()]), nic, routed).unwrap()
}

/// A DHCP message of the card `mac`.
fn message(kind: DhcpMessageType, mac: EthernetAddress, change: impl FnOnce(&mut DhcpRepr<'_>)) -> Vec<u8> {
    let mut repr = DhcpRepr {
        message_type: kind,
        transaction_id: 0x1234_5678,
        secs: 3,
        client_hardware_address: mac,
        client_ip: Ipv4Addr::UNSPECIFIED,
        your_ip: Ipv4Addr::UNSPECIFIED,
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: None,
        subnet_mask: None,
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: false,
        requested_ip: None,
        client_identifier: Some(mac),
        server_identifier: None,
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    change(&mut repr);
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut DhcpPacket::new_unchecked(&mut bytes[..])).unwrap();
    bytes
}

/// What is in a frame of DHCP: to which address, the message, and its options by number.
fn dhcp_in(frame: &[u8]) -> (Ipv4Addr, DhcpMessageType, Ipv4Addr, BTreeMap<u8, Vec<u8>>) {
    let frame = EthernetFrame::new_checked(frame).unwrap();
    assert_eq!((frame.src_addr(), frame.dst_addr()), (SERVICE_MAC, ADDRESS));
    assert_eq!(frame.ethertype(), EthernetProtocol::Ipv4);
    let ip = Ipv4Packet::new_checked(frame.payload()).unwrap();
    assert!(ip.verify_checksum() && ip.src_addr() == SERVICE_V4);
    let udp = UdpPacket::new_checked(ip.payload()).unwrap();
    assert!(udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
    assert_eq!((udp.src_port(), udp.dst_port()), (67, 68));
    let dhcp = DhcpPacket::new_checked(udp.payload()).unwrap();
    assert_eq!((dhcp.transaction_id(), dhcp.client_hardware_address()), (0x1234_5678, ADDRESS));
    let mut options: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    // Those of one number are one (RFC 3396).
    dhcp.options().for_each(|option| options.entry(option.kind).or_default().extend(option.data));
    (ip.dst_addr(), options[&53][0].into(), dhcp.your_ip(), options)
}

#[test]
fn an_address_is_announced_to_all_neighbours_in_the_cards_name() {
    let _proof = proof::pure(&["vm.put", "nic.attach"]);
    let ip = Ipv4Addr::new(203, 0, 113, 9);
    let frame = frame::announcement(ADDRESS, ip.into());
    let frame = EthernetFrame::new_checked(&frame[..]).unwrap();
    assert_eq!((frame.src_addr(), frame.dst_addr()), (ADDRESS, EthernetAddress::BROADCAST));
    let arp = ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).unwrap()).unwrap();
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = arp
    else {
        panic!("{arp:?}");
    };
    assert_eq!((operation, source_hardware_addr), (ArpOperation::Request, ADDRESS));
    assert_eq!((source_protocol_addr, target_protocol_addr), (ip, ip));

    let ip: Ipv6Addr = "2001:db8::9".parse().unwrap();
    let frame = frame::announcement(ADDRESS, ip.into());
    let frame = EthernetFrame::new_checked(&frame[..]).unwrap();
    assert_eq!((frame.src_addr(), frame.dst_addr().0[..2].to_vec()), (ADDRESS, vec![0x33, 0x33]));
    let packet = Ipv6Packet::new_checked(frame.payload()).unwrap();
    assert_eq!((packet.src_addr(), packet.dst_addr(), packet.hop_limit()), (ip, frame::ALL_NODES, 255));
    let message = Icmpv6Packet::new_checked(packet.payload()).unwrap();
    assert!(message.verify_checksum(&ip, &frame::ALL_NODES));
    assert_eq!((message.msg_type(), message.target_addr()), (Icmpv6Message::NeighborAdvert, ip));
}

#[test]
fn a_lease_tells_a_routed_card_its_address_and_the_way_to_its_gateway() {
    let _proof = proof::pure(&["nic.leases"]);
    let nic = nic(&[("203.0.113.2/32", "169.254.1.1"), ("203.0.113.3/32", "")], &[]);
    let offer = offer(&nic, true);
    let ask = |bytes: &[u8]| dhcp::answer(&offer, bytes).unwrap();
    let discovered = ask(&message(DhcpMessageType::Discover, ADDRESS, |_| {}));
    assert_eq!((discovered.asked, discovered.answered), ("discover", Some("offer")));
    let address = Ipv4Addr::new(203, 0, 113, 2);
    let (to, kind, yours, options) = dhcp_in(&discovered.frame.unwrap());
    assert_eq!((to, kind, yours), (address, DhcpMessageType::Offer, address));

    let request = message(DhcpMessageType::Request, ADDRESS, |message| {
        message.requested_ip = Some(address);
        message.server_identifier = Some(SERVICE_V4);
        message.broadcast = true;
    });
    let (to, kind, yours, acknowledged) = dhcp_in(&ask(&request).frame.unwrap());
    assert_eq!((to, kind, yours), (Ipv4Addr::BROADCAST, DhcpMessageType::Ack, address));
    assert_eq!(options.keys().collect::<Vec<_>>(), acknowledged.keys().collect::<Vec<_>>());
    for (option, value) in [
        (1, &[255, 255, 255, 255][..]),
        (3, &[169, 254, 1, 1]),
        (6, &[9, 9, 9, 9]),
        (12, b"quay-7.example.org"),
        (26, &[5, 220]),
        (51, &LEASE_S.to_be_bytes()),
        (54, &SERVICE_V4.octets()),
        (58, &RENEW_S.to_be_bytes()),
        (61, &[1, 0x52, 0x54, 0, 0x12, 0x34, 0x56]),
        // The service and the gateway are on the wire; all else goes to the gateway.
        (121, &[32, 169, 254, 169, 254, 0, 0, 0, 0, 32, 169, 254, 1, 1, 0, 0, 0, 0, 0, 169, 254, 1, 1]),
    ] {
        assert_eq!(acknowledged[&option], value, "{option}");
    }
}

#[test]
fn dhcp_answers_nobody_but_its_own_card_and_gives_nothing_but_its_own_address() {
    let _proof = proof::pure(&["nic.leases"]);
    let card = nic(&[("10.0.0.2/24", "10.0.0.1")], &[]);
    let known = offer(&card, false);
    let ask = |kind, mac, change: fn(&mut DhcpRepr<'_>)| dhcp::answer(&known, &message(kind, mac, change));
    use DhcpMessageType::{Decline, Discover, Inform, Nak, Release, Request};
    assert_eq!(ask(Discover, OTHER, |_| {}), None, "another card");
    assert_eq!(ask(Discover, ADDRESS, |m| m.relay_agent_ip = SERVICE_V4), None, "through a relay");
    assert_eq!(ask(DhcpMessageType::Offer, ADDRESS, |_| {}), None, "a server");
    assert_eq!(ask(Request, ADDRESS, |_| {}), None, "a request for nothing");
    let other_server = ask(Request, ADDRESS, |m| m.server_identifier = Some([10, 0, 0, 9].into())).unwrap();
    assert_eq!((other_server.answered, other_server.frame), (None, None));
    let renewed = ask(Request, ADDRESS, |m| m.client_ip = [10, 0, 0, 2].into()).unwrap();
    let (to, _, yours, options) = dhcp_in(&renewed.frame.unwrap());
    assert_eq!((to, yours), ([10, 0, 0, 2].into(), [10, 0, 0, 2].into()));
    // The gateway is in the network: no route of its own.
    assert_eq!(options[&121], [32, 169, 254, 169, 254, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    let refused = ask(Request, ADDRESS, |m| m.requested_ip = Some([10, 0, 0, 3].into())).unwrap();
    assert_eq!(refused.answered, Some("nak"));
    let (to, kind, yours, options) = dhcp_in(&refused.frame.unwrap());
    assert_eq!((to, kind, yours), (Ipv4Addr::BROADCAST, Nak, Ipv4Addr::UNSPECIFIED));
    assert!(!options.contains_key(&1) && !options.contains_key(&121) && !options.contains_key(&51));
    let informed = ask(Inform, ADDRESS, |m| m.client_ip = [10, 0, 0, 2].into()).unwrap();
    let (_, _, yours, options) = dhcp_in(&informed.frame.unwrap());
    assert!(yours.is_unspecified() && !options.contains_key(&51) && options.contains_key(&6));
    for kind in [Release, Decline] {
        assert_eq!(ask(kind, ADDRESS, |_| {}).unwrap().frame, None);
    }
    // A card without an IPv4 address leaves it to others.
    let none = offer(&nic(&[("fd00::2/64", "")], &[]), false);
    assert_eq!(dhcp::answer(&none, &message(Discover, ADDRESS, |_| {})), None);
}

/// What an advertisement says: from whom, to whom, for how long, its flags, and its options.
fn advertised(
    offer: &Offer,
    to: Option<Ipv6Addr>,
) -> (Ipv6Addr, Ipv6Addr, u64, NdiscRouterFlags, Vec<String>) {
    let frame = router::advertise(offer, to).unwrap();
    let frame = EthernetFrame::new_checked(&frame[..]).unwrap();
    assert_eq!((frame.src_addr(), frame.dst_addr()), (SERVICE_MAC, ADDRESS));
    let ip = Ipv6Packet::new_checked(frame.payload()).unwrap();
    assert_eq!((ip.hop_limit(), ip.next_header()), (255, IpProtocol::Icmpv6));
    let message = Icmpv6Packet::new_checked(ip.payload()).unwrap();
    assert!(message.verify_checksum(&ip.src_addr(), &ip.dst_addr()));
    assert_eq!(message.msg_type(), Icmpv6Message::RouterAdvert);
    let mut rest = message.payload();
    let mut options = Vec::new();
    while !rest.is_empty() {
        let option = NdiscOption::new_checked(rest).unwrap();
        options.push(match NdiscOptionRepr::parse(&option).unwrap() {
            NdiscOptionRepr::Mtu(mtu) => format!("mtu {mtu}"),
            NdiscOptionRepr::PrefixInformation(info) => {
                let flag = |flag, word| if info.flags.contains(flag) { word } else { "" };
                let on_link = flag(NdiscPrefixInfoFlags::ON_LINK, " on-link");
                let autonomous = flag(NdiscPrefixInfoFlags::ADDRCONF, " autonomous");
                format!("{}/{}{on_link}{autonomous}", info.prefix, info.prefix_len)
            }
            NdiscOptionRepr::Unknown { type_: 25, data, .. } => {
                let ip: [u8; 16] = data[6..].try_into().unwrap();
                format!("dns {}", Ipv6Addr::from(ip))
            }
            other => panic!("{other:?}"),
        });
        rest = &rest[usize::from(option.data_len()) * 8..];
    }
    let lifetime = message.router_lifetime().secs();
    (ip.src_addr(), ip.dst_addr(), lifetime, message.router_flags(), options)
}

#[test]
fn a_router_advertisement_says_what_the_addresses_call_for() {
    let _proof = proof::pure(&["nic.leases"]);
    let all: Ipv6Addr = "ff02::1".parse().unwrap();
    let gateway: Ipv6Addr = "fe80::1".parse().unwrap();
    let dns = "dns 2620:fe::fe";
    // An address in a /64 of its own: it is to use that one.
    let card = nic(&[("2001:db8:1::1/64", "fe80::1")], &["2001:db8:1::/64"]);
    let both = NdiscRouterFlags::MANAGED | NdiscRouterFlags::OTHER;
    let said = advertised(&offer(&card, true), None);
    let expected = ["mtu 1500", "2001:db8:1::/64", dns].map(str::to_owned).to_vec();
    assert_eq!(said, (gateway, all, 65535, both, expected));
    assert_eq!(advertised(&offer(&card, true), Some(LINK_LOCAL)).1, LINK_LOCAL);
    assert_eq!(advertised(&offer(&card, true), Some(Ipv6Addr::UNSPECIFIED)).1, all);

    // A network and no address in it: any of it is its own.
    let card = nic(&[("10.0.0.2/24", "")], &["2001:db8:7::/64"]);
    let (from, _, lifetime, flags, options) = advertised(&offer(&card, true), None);
    assert_eq!((from, lifetime, flags), (SERVICE_V6, 0, NdiscRouterFlags::OTHER));
    assert_eq!(options[1], "2001:db8:7::/64 autonomous");

    // On a bridge, others of its network are on the wire. A gateway that is no link-local one cannot be told.
    let card = nic(&[("fd00::2/64", "fd00::1"), ("fd00::3/64", ""), ("fd01::1/128", "")], &[]);
    let (from, _, lifetime, _, options) = advertised(&offer(&card, false), None);
    assert_eq!((from, lifetime), (SERVICE_V6, 0));
    assert_eq!(options, ["mtu 1500", "fd00::/64 on-link", dns]);
    assert_eq!(advertised(&offer(&card, true), None).4[1], "fd00::/64", "and behind the node they are not");

    // A private network has smaller packets, and its members on the wire, wherever the node routes.
    let card = Nic { private: Some(PrivateNetworkId(5)), ..nic(&[("fd05::2/64", "")], &[]) };
    assert_eq!(advertised(&offer(&card, true), None).4[..2], ["mtu 1430", "fd05::/64 on-link"]);
    assert_eq!(router::advertise(&offer(&nic(&[("10.0.0.2/24", "")], &[]), true), None), None);
}

#[test]
fn a_lease_tells_of_all_networks_behind_neighbours() {
    let _proof = proof::pure(&["nic.leases", "nic.attach"]);
    let via = Ipv4Addr::new(10, 0, 0, 9);
    let route = |n: u8| NicRoute { to: ipnet::Ipv4Net::new(Ipv4Addr::new(10, 100, n, 0), 24).unwrap(), via };
    let card = Nic { routes: (0..100).map(route).collect(), ..nic(&[("10.0.0.2/16", "")], &[]) };
    let asked = message(DhcpMessageType::Discover, ADDRESS, |_| {});
    let answered = dhcp::answer(&offer(&card, false), &asked).unwrap();
    let (.., options) = dhcp_in(&answered.frame.unwrap());
    let routes = &options[&121];
    assert_eq!(routes[..9], [32, 169, 254, 169, 254, 0, 0, 0, 0]);
    assert_eq!(routes[9..17], [24, 10, 100, 0, 10, 0, 0, 9]);
    assert_eq!((routes.len(), &routes[9 + 99 * 8..]), (9 + 100 * 8, &[24, 10, 100, 99, 10, 0, 0, 9][..]));
    let faults = crate::network::nic_faults(&card, "nics[0]");
    assert!(faults.is_empty(), "{faults:?}");
    let stranger = NicRoute { via: Ipv4Addr::new(10, 1, 0, 1), ..route(0) };
    let faults = crate::network::nic_faults(&Nic { routes: vec![route(0), stranger], ..card }, "nics[0]");
    assert_eq!(faults[0].name, "nics[0].routes[1]");
}

#[test]
fn dhcpv6_gives_the_cards_addresses_and_takes_others_back() {
    let _proof = proof::pure(&["nic.leases"]);
    let card = nic(&[("2001:db8:1::1/64", "fe80::1"), ("2001:db8:1::9/64", "")], &[]);
    let offer = offer(&card, true);
    let server = [&[0, 3, 0, 1][..], SERVICE_MAC.as_bytes()].concat();
    let ask = |kind, options: Vec<Option6>| {
        let mut message = v6::Message::new_with_id(kind, [1, 2, 3]);
        message.opts_mut().insert(Option6::ClientId(vec![0, 3, 0, 1, 9]));
        options.into_iter().for_each(|option| message.opts_mut().insert(option));
        dhcpv6::answer(&offer, LINK_LOCAL, &message.to_vec().unwrap())
    };
    let read = |frame: &[u8]| {
        let frame = EthernetFrame::new_checked(frame).unwrap();
        assert_eq!((frame.src_addr(), frame.dst_addr()), (SERVICE_MAC, ADDRESS));
        let ip = Ipv6Packet::new_checked(frame.payload()).unwrap();
        assert_eq!((ip.src_addr(), ip.dst_addr()), (SERVICE_V6, LINK_LOCAL));
        let udp = UdpPacket::new_checked(ip.payload()).unwrap();
        assert!(udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
        assert_eq!((udp.src_port(), udp.dst_port()), (547, 546));
        v6::Message::decode(&mut Decoder::new(udp.payload())).unwrap()
    };
    let association = |addresses: &[&str]| {
        let mut opts = v6::DhcpOptions::new();
        for ip in addresses {
            let (addr, opts_of) = (ip.parse().unwrap(), v6::DhcpOptions::new());
            opts.insert(Option6::IAAddr(v6::IAAddr {
                addr,
                preferred_life: 9,
                valid_life: 9,
                opts: opts_of,
            }));
        }
        Option6::IANA(v6::IANA { id: 7, t1: 0, t2: 0, opts })
    };
    let given = |message: &v6::Message| -> Vec<(String, u32)> {
        let Some(Option6::IANA(lease)) = message.opts().get(v6::OptionCode::IANA) else { return vec![] };
        assert_eq!((lease.id, lease.t1), (7, RENEW_S));
        let address = |option: &Option6| match option {
            Option6::IAAddr(ip) => Some((ip.addr.to_string(), ip.valid_life)),
            _ => None,
        };
        let mut given: Vec<_> = lease.opts.iter().filter_map(address).collect();
        given.sort();
        given
    };
    let own = |ip: &str| (ip.to_owned(), LEASE_S);
    let ours = || Option6::ServerId(server.clone());
    let rapid = || Option6::RapidCommit;

    let solicited = read(&ask(MessageType::Solicit, vec![association(&[])]).unwrap().frame.unwrap());
    assert_eq!((solicited.msg_type(), solicited.xid()), (MessageType::Advertise, [1, 2, 3]));
    assert_eq!(given(&solicited), [own("2001:db8:1::1"), own("2001:db8:1::9")]);
    assert_eq!(
        solicited.opts().get(v6::OptionCode::DomainNameServers),
        Some(&Option6::DomainNameServers(vec!["2620:fe::fe".parse().unwrap()]))
    );
    let at_once = read(&ask(MessageType::Solicit, vec![association(&[]), rapid()]).unwrap().frame.unwrap());
    assert_eq!(at_once.msg_type(), MessageType::Reply);
    assert!(at_once.opts().get(v6::OptionCode::RapidCommit).is_some());
    let stale = association(&["2001:db8:1::1", "2001:db8:2::2"]);
    let renewed = read(&ask(MessageType::Renew, vec![ours(), stale.clone()]).unwrap().frame.unwrap());
    assert_eq!(given(&renewed)[2], ("2001:db8:2::2".to_owned(), 0), "{:?}", given(&renewed));
    for (held, status) in
        [(stale, v6::Status::NotOnLink), (association(&["2001:db8:1::9"]), v6::Status::Success)]
    {
        let confirmed = read(&ask(MessageType::Confirm, vec![held]).unwrap().frame.unwrap());
        let Some(Option6::StatusCode(code)) = confirmed.opts().get(v6::OptionCode::StatusCode) else {
            panic!()
        };
        assert_eq!(code.status, status);
    }
    // Who means another server, or none where one must be named, is not answered.
    let other = ask(MessageType::Request, vec![Option6::ServerId(vec![0, 3, 0, 1, 1]), association(&[])]);
    assert_eq!(other.unwrap().frame, None);
    assert_eq!(ask(MessageType::Renew, vec![association(&[])]).unwrap().frame, None);
    assert_eq!(ask(MessageType::Reply, vec![ours()]), None);
}

#[test]
fn metadata_is_a_tree_of_what_the_seed_says_without_its_secret() {
    let _proof = proof::pure(&["nic.leases"]);
    let private = Nic { private: Some(PrivateNetworkId(5)), ..nic(&[("10.5.0.2/24", "")], &[]) };
    let public = nic(&[("203.0.113.2/32", "169.254.1.1"), ("2001:db8:1::1/64", "")], &[]);
    let mut spec = spec(vec![public, private]);
    let tree = Metadata::new(VmId(7), &spec);
    let get = |path: &str| tree.get(path).unwrap_or_else(|| panic!("{path}"));
    for (path, text) in [
        ("/hetzner/v1/metadata/instance-id", "berth-7-abababababab"),
        ("/hetzner/v1/metadata/hostname", "quay-7.example.org"),
        ("/hetzner/v1/metadata/public-ipv4", "203.0.113.2"),
        ("/hetzner/v1/metadata/public-ipv6", "2001:db8:1::1"),
        ("/hetzner/v1/metadata/region", "eu-central"),
        ("/hetzner/v1/metadata/availability-zone", "fsn1-dc14"),
        ("/hetzner/v1/metadata/public-keys", "[\"ssh-ed25519 AAAA a@b\", \"ssh-rsa BBBB \\U0001f6a2\"]"),
        ("/hetzner/v1/userdata", "#cloud-config\npackages: [vim]\n"),
        ("/latest/user-data", "#cloud-config\npackages: [vim]\n"),
        ("/latest/meta-data/instance-id", "berth-7-abababababab"),
        ("/2009-04-04/meta-data/local-ipv4", "10.5.0.2"),
        ("/latest//meta-data/public-keys/", "0=key-0\n1=key-1"),
        ("/latest/meta-data/public-keys/0/openssh-key", "ssh-ed25519 AAAA a@b"),
        ("/latest/meta-data/placement/", "availability-zone\nregion"),
        ("/", "hetzner/\nlatest/"),
        ("/latest", "meta-data/\nuser-data"),
        ("/hetzner/v1", "metadata/\nuserdata"),
    ] {
        assert_eq!(get(path), text, "{path}");
    }
    let listed = get("/latest/meta-data/");
    assert!(listed.lines().any(|line| line == "public-keys/") && listed.lines().any(|line| line == "mac"));
    assert_eq!(listed.lines().filter(|line| line.starts_with("public-keys")).count(), 1, "{listed}");
    let all = get("/hetzner/v1/metadata");
    for line in [
        "instance-id: berth-7-abababababab",
        "hostname: \"quay-7.example.org\"",
        "public-keys: [\"ssh-ed25519 AAAA a@b\", \"ssh-rsa BBBB \\U0001f6a2\"]",
        "private-networks: [{\"ip\": \"10.5.0.2\", \"interface_num\": 1, \"mac_address\": \
         \"52:54:00:12:34:56\", \"network_id\": 5, \"network\": \"10.5.0.0/24\"}]",
    ] {
        assert!(all.lines().any(|l| l == line), "{line}\n{all}");
    }
    assert!(get("/hetzner/v1/metadata/vendor_data").starts_with("#cloud-config\n"));
    for path in ["/latest/meta-data/nothing", "/latest/meta-data/host", "/latest/user-data/x", "/1999", "/.."]
    {
        assert_eq!(tree.get(path), None, "{path}");
    }
    let everything = |tree: &Metadata| {
        let paths = ["/hetzner/v1/metadata", "/hetzner/v1/metadata/vendor_data", "/hetzner/v1/userdata"];
        paths.iter().filter_map(|path| tree.get(path)).collect::<String>()
    };
    assert!(!everything(&tree).contains("secret") && !everything(&tree).contains("$6$"));

    // A rescue system is told nothing of the customer's.
    spec.rescue = Some(Rescue {
        image: "c".repeat(64),
        root_password_hash: "$6$a$once".to_owned(),
        ..Rescue::default()
    });
    let rescue = Metadata::new(VmId(7), &spec);
    assert_eq!(rescue.get("/latest/meta-data/instance-id").unwrap(), "berth-7-rescue-ecnoa6");
    assert_eq!(rescue.get("/latest/user-data"), None);
    for word in ["vim", "AAAA", "once"] {
        assert!(!everything(&rescue).contains(word), "{word}");
    }
}

#[test]
fn a_request_is_read_strictly_and_one_that_was_passed_on_is_refused() {
    let _proof = proof::pure(&["nic.leases"]);
    let read = |text: &str| web::read(text.as_bytes());
    let request = |text: &str| read(text).unwrap().unwrap();
    let plain = request("GET /latest/user-data?x=1 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((plain.path.as_str(), plain.forwarded), ("/latest/user-data", false));
    assert!(request("GET / HTTP/1.1\r\nx-forwarded-FOR: 1.2.3.4\r\n\r\n").forwarded);
    assert_eq!(read("GET / HTTP/1.1\r\nHost"), Ok(None));
    for junk in ["\u{1}\u{2}\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9\r\n\r\n"] {
        assert_eq!(read(junk), Err(()), "{junk:?}");
    }
    assert_eq!(read(&format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(40))), Err(()));
    let spec = spec(vec![]);
    let status = |method: &str, path: &str, forwarded| {
        let request = Request { method: method.to_owned(), path: path.to_owned(), forwarded };
        let Response { status, .. } = port::respond(VmId(7), &spec, &request);
        status
    };
    assert_eq!(status("GET", "/latest/user-data", false), 200);
    assert_eq!(status("GET", "/latest/user-data", true), 403);
    assert_eq!(status("PUT", "/latest/api/token", true), 403);
    assert_eq!(status("PUT", "/latest/api/token", false), 200);
    assert_eq!(status("GET", "/nothing", false), 404);
    assert_eq!(status("POST", "/latest/user-data", false), 405);
}

fn frame(from: EthernetAddress, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&[0xff; 6][..], from.as_bytes(), &kind.to_be_bytes(), payload].concat()
}

/// A DHCP message in its frame, from an address that is none yet.
fn dhcp_frame(from: EthernetAddress, message: &[u8]) -> Vec<u8> {
    let mut frame = super::frame::udp(
        EthernetAddress::BROADCAST,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::BROADCAST,
        (68, 67),
        message,
    );
    frame[6..12].copy_from_slice(from.as_bytes());
    frame
}

#[test]
fn a_frame_of_another_card_or_for_another_is_not_read() {
    let _proof = proof::pure(&["nic.leases"]);
    let discover = message(DhcpMessageType::Discover, ADDRESS, |_| {});
    let read = |frame: &[u8]| super::frame::read(frame, ADDRESS).is_some();
    assert!(read(&dhcp_frame(ADDRESS, &discover)));
    assert!(!read(&dhcp_frame(OTHER, &discover)));
    let arp = |to: Ipv4Addr, from: EthernetAddress| {
        let fixed = [0, 1, 8, 0, 6, 4, 0, 1];
        let own = [10, 0, 0, 2];
        [&fixed[..], from.as_bytes(), &own, &[0; 6], &to.octets()].concat()
    };
    assert_eq!(
        super::frame::read(&frame(ADDRESS, 0x0806, &arp(SERVICE_V4, ADDRESS)), ADDRESS),
        Some(Asked::Arp { from: [10, 0, 0, 2].into() })
    );
    assert!(!read(&frame(ADDRESS, 0x0806, &arp([10, 0, 0, 1].into(), ADDRESS))));
    assert!(!read(&frame(ADDRESS, 0x0806, &arp(SERVICE_V4, OTHER))));
}

fn spoken() -> impl Strategy<Value = Vec<u8>> {
    let discover = || message(DhcpMessageType::Discover, ADDRESS, |_| {});
    let solicit = {
        let mut message = v6::Message::new_with_id(MessageType::Solicit, [1, 2, 3]);
        message.opts_mut().insert(Option6::ClientId(vec![1, 2, 3]));
        let opts = v6::DhcpOptions::new();
        message.opts_mut().insert(Option6::IANA(v6::IANA { id: 1, t1: 0, t2: 0, opts }));
        let to: IpAddr = "ff02::1:2".parse().unwrap();
        let mut frame = super::frame::udp(
            EthernetAddress::BROADCAST,
            LINK_LOCAL,
            to,
            (546, 547),
            &message.to_vec().unwrap(),
        );
        frame[6..12].copy_from_slice(ADDRESS.as_bytes());
        frame
    };
    let router = {
        let emit = |payload: &mut [u8]| payload.copy_from_slice(&[133, 0, 0, 0, 0, 0, 0, 0]);
        let to = EthernetAddress::BROADCAST;
        let mut frame = super::frame::v6(to, LINK_LOCAL, LINK_LOCAL, IpProtocol::Icmpv6, 255, 8, emit);
        frame[6..12].copy_from_slice(ADDRESS.as_bytes());
        frame
    };
    let syn = {
        let tcp = [0x80, 1, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0x10, 0, 0, 0, 0, 0];
        let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 2, 169, 254, 169, 254];
        Ipv4Packet::new_unchecked(&mut ip[..]).fill_checksum();
        frame(ADDRESS, 0x0800, &[&ip[..], &tcp].concat())
    };
    let valid = prop_oneof![Just(dhcp_frame(ADDRESS, &discover())), Just(solicit), Just(router), Just(syn),];
    let damage = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let damaged = (valid, damage, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(mut frame, damage, end, cut)| {
            for (place, byte) in damage {
                let place = place.index(frame.len());
                frame[place] = byte;
            }
            if cut {
                frame.truncate(end.index(frame.len()));
            }
            frame
        },
    );
    let kinds = prop_oneof![Just(0x0800_u16), Just(0x0806), Just(0x86dd), any::<u16>()];
    let junk = (kinds, proptest::collection::vec(any::<u8>(), 0..400))
        .prop_map(|(kind, payload)| frame(ADDRESS, kind, &payload));
    prop_oneof![4 => damaged, 1 => junk, 1 => proptest::collection::vec(any::<u8>(), 0..80)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_frame_breaks_the_services_and_none_of_another_card_is_answered(
        frames in proptest::collection::vec(spoken(), 1..8),
    ) {
        let _proof = proof::pure(&["nic.leases"]);
        let card = nic(&[("10.0.0.2/24", "10.0.0.1"), ("2001:db8:1::1/64", "fe80::1")], &[]);
        let spec = spec(vec![card.clone()]);
        let offer = Offer::new(&spec, &card, false).unwrap();
        let mut voice = port::Voice::default();
        let now = Instant::now();
        for frame in &frames {
            let answers = voice.answer(VmId(7), &spec, &offer, frame, now);
            let is_own = frame.get(6..12) == Some(ADDRESS.as_bytes());
            prop_assert!(is_own || answers.is_empty());
            for answer in answers {
                let answer = EthernetFrame::new_checked(&answer[..]).unwrap();
                prop_assert_eq!((answer.src_addr(), answer.dst_addr()), (SERVICE_MAC, ADDRESS));
            }
        }
    }

    #[test]
    fn no_request_breaks_the_metadata_service(
        junk in proptest::collection::vec(any::<u8>(), 0..300),
        path in "[/a-z0-9.-]{0,40}",
    ) {
        let _proof = proof::pure(&["nic.leases"]);
        let _refused = web::read(&junk);
        let said = web::read(format!("GET /{path} HTTP/1.1\r\n\r\n").as_bytes());
        prop_assert!(said.is_ok());
        let spec = spec(vec![nic(&[("10.0.0.2/24", "10.0.0.1")], &[])]);
        let request = said.unwrap().unwrap();
        let response = port::respond(VmId(7), &spec, &request);
        prop_assert!(matches!(response.status, 200 | 404));
    }
}
