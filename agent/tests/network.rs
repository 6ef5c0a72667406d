//! The node's network, in network namespaces of the tests' own: nodes, and guests at the other ends of
//! their cards. The rules, routes, queues and tunnels are the kernel's.
//!
//! That something is not heard is seen without waiting: what is said after it arrives, and it did not.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod netns;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use berth_agent::hypervisor::HypervisorError;
use berth_agent::network::{Mode, Plane};
use berth_agent::proof;
use berth_model::agent::{
    Firewall, FirewallProtocol, FirewallRule, Limits, Nic, NicAddress, Peer, PrivateNetwork, TrafficList,
};
use berth_model::{PrivateNetworkId, VmId};
use netns::{Icmp, Namespace, PATIENCE};
use tempfile::TempDir;

/// The port on which a guest answers with its name.
const PORT: u16 = 5000;
/// A type of ICMPv6 that means nothing to a kernel, for marks.
const MARK: u8 = 200;

/// A node: a namespace, and the agent's network in it.
struct Node {
    space: Namespace,
    plane: Plane,
    home: TempDir,
}

/// A guest: a namespace whose `eth0` is a card of a node.
struct Guest {
    space: Namespace,
    vm: VmId,
    nic: Nic,
}

fn nic(last: u8, addresses: &[&str]) -> Nic {
    let address = |text: &&str| {
        let (ip, prefix) = text.split_once('/').unwrap();
        NicAddress { ip: ip.parse().unwrap(), prefix: prefix.parse().unwrap(), gateway: None }
    };
    Nic {
        mac: format!("52:54:00:00:00:{last:02x}"),
        addresses: addresses.iter().map(address).collect(),
        ..Nic::default()
    }
}

impl Node {
    fn new(mode: Mode) -> Self {
        let home = tempfile::tempdir().unwrap();
        let space = Namespace::new();
        let plane = Plane::open("t-", mode, home.path()).unwrap();
        plane.fill([]);
        Self { space, plane, home }
    }

    /// On a bridge, on which the node is 10.0.0.1 and fd00::1.
    fn bridged() -> Self {
        let node = Self::new(Mode::Bridged { bridge: "br0".to_owned() });
        node.space.ip("link add br0 type bridge forward_delay 0 mcast_snooping 0");
        node.space.ip("addr add 10.0.0.1/24 dev br0");
        node.space.ip("addr add fd00::1/64 dev br0 nodad");
        node.space.ip("link set br0 up");
        node.space.within(|| node.plane.prepare()).unwrap();
        node
    }

    fn within<T: Send>(&self, call: impl FnOnce(&Plane) -> Result<T, HypervisorError> + Send) -> T {
        self.space.within(|| call(&self.plane)).unwrap()
    }

    /// The agent comes anew.
    fn reopen(&mut self, mode: Mode, guests: &[&Guest]) {
        self.plane = Plane::open("t-", mode, self.home.path()).unwrap();
        self.plane.fill(guests.iter().map(|guest| (guest.vm, vec![guest.nic.clone()])));
        self.within(Plane::converge);
    }

    /// What libvirt does when a VM starts: the card comes with its name, and stands on its bridge.
    fn guest(&self, vm: i64, nic: Nic) -> Guest {
        let vm = VmId(vm);
        self.plane.tell(vm, Some(std::slice::from_ref(&nic)));
        self.within(Plane::converge);
        let space = Namespace::new();
        let tap = self.plane.names().tap(vm, &nic.mac);
        let (mac, guest) = (&nic.mac, space.name());
        self.space.ip(&format!("link add {tap} type veth peer name eth0 address {mac} netns {guest}"));
        let bridge = match nic.private {
            Some(id) => Some(self.plane.names().bridge(id)),
            None => (!self.plane.routed()).then(|| "br0".to_owned()),
        };
        if let Some(bridge) = bridge {
            self.space.ip(&format!("link set {tap} master {bridge}"));
        }
        self.space.ip(&format!("link set {tap} up"));
        space.ip("link set eth0 up");
        for NicAddress { ip, prefix, .. } in &nic.addresses {
            let nodad = if ip.is_ipv6() { " nodad" } else { "" };
            space.ip(&format!("addr add {ip}/{prefix} dev eth0{nodad}"));
        }
        self.within(|plane| plane.plug(vm, std::slice::from_ref(&nic)));
        if self.plane.routed() && nic.private.is_none() {
            space.ip("route add 169.254.1.1 dev eth0");
            space.ip("route add default via 169.254.1.1 dev eth0");
            space.ip("-6 route add default via fe80::1 dev eth0");
        }
        Guest { space, vm, nic }
    }

    /// Changes a guest's card, as a put does.
    fn change(&self, guest: &mut Guest, change: impl FnOnce(&mut Nic)) {
        change(&mut guest.nic);
        let nics = [guest.nic.clone()];
        self.plane.tell(guest.vm, Some(&nics));
        self.within(Plane::converge);
        self.within(|plane| plane.plug(guest.vm, &nics));
    }

    /// The world beyond the node, at 198.51.100.2 and 2001:db8:ffff::2, which sends all to the node.
    fn world(&self) -> Namespace {
        let world = Namespace::new();
        self.space.ip(&format!("link add up0 type veth peer name eth0 netns {}", world.name()));
        for (space, interface, last) in [(&self.space, "up0", 1), (&world, "eth0", 2)] {
            space.ip(&format!("addr add 198.51.100.{last}/24 dev {interface}"));
            space.ip(&format!("addr add 2001:db8:ffff::{last}/64 dev {interface} nodad"));
            space.ip(&format!("link set {interface} up"));
        }
        world.ip("route add default via 198.51.100.1");
        world.ip("-6 route add default via 2001:db8:ffff::1");
        world
    }
}

impl Namespace {
    fn socket(&self, address: &str, port: u16) -> UdpSocket {
        let address: IpAddr = address.parse().unwrap();
        let socket = self.within(|| UdpSocket::bind((address, port))).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Does `text`, sent from here, reach the other's socket, whose mark is sent after it from `honest`?
    fn is_heard(&self, from: &str, to: &UdpSocket, honest: &UdpSocket) -> bool {
        let to_address = to.local_addr().unwrap();
        self.socket(from, 0).send_to(b"lie", to_address).unwrap();
        honest.send_to(b"mark", to_address).unwrap();
        next(to) == "lie" && {
            assert_eq!(next(to), "mark");
            true
        }
    }
}

fn next(socket: &UdpSocket) -> String {
    let mut buffer = [0; 2048];
    let (length, _) = socket.recv_from(&mut buffer).expect("something is heard");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// Everybody knows everybody's MAC address, so that a packet tells of the filter alone.
fn introduce(guests: &[&Guest]) {
    for guest in guests {
        for other in guests.iter().filter(|other| other.vm != guest.vm) {
            for NicAddress { ip, .. } in &other.nic.addresses {
                guest.space.ip(&format!("neigh replace {ip} lladdr {} dev eth0", other.nic.mac));
            }
        }
    }
}

#[test]
fn a_guest_that_lies_about_its_address_is_not_heard_on_a_bridge() {
    let _proof = proof::driver(&["nic.attach"]);
    let node = Node::bridged();
    let liar = node.guest(1, nic(1, &["10.0.0.2/24", "fd00::2/64"]));
    let other = node.guest(2, nic(2, &["10.0.0.3/24", "fd00::3/64"]));
    introduce(&[&liar, &other]);
    for (mine, theirs, lie, prefix) in
        [("10.0.0.2", "10.0.0.3", "10.0.0.9", 24), ("fd00::2", "fd00::3", "fd00::9", 64)]
    {
        let ear = other.space.socket(theirs, PORT);
        let honest = liar.space.socket(mine, 0);
        assert!(liar.space.is_heard(mine, &ear, &honest), "{mine} is its own");

        // Another's address, and one that is nobody's.
        let nodad = if lie.contains(':') { " nodad" } else { "" };
        liar.space.ip(&format!("addr add {lie}/{prefix} dev eth0{nodad}"));
        assert!(!liar.space.is_heard(lie, &ear, &honest), "{lie} is not its own");
        // The same in ARP and neighbour discovery: nobody learns it.
        liar.space.ip(&format!("neigh del {theirs} dev eth0"));
        liar.space.socket(lie, 0).send_to(b"lie", (theirs.parse::<IpAddr>().unwrap(), PORT)).unwrap();
        introduce(&[&liar, &other]);
        honest.send_to(b"mark", ear.local_addr().unwrap()).unwrap();
        assert_eq!(next(&ear), "mark");
        let learned = other.space.ip("neigh show");
        assert!(!learned.contains(&format!("{lie} ")), "{learned}");
        liar.space.ip(&format!("addr del {lie}/{prefix} dev eth0"));

        // Another's MAC address.
        liar.space.ip("link set eth0 address 52:54:00:00:00:aa");
        introduce(&[&liar, &other]);
        honest.send_to(b"lie", ear.local_addr().unwrap()).unwrap();
        liar.space.ip("link set eth0 address 52:54:00:00:00:01");
        introduce(&[&liar, &other]);
        honest.send_to(b"mark", ear.local_addr().unwrap()).unwrap();
        assert_eq!(next(&ear), "mark", "another MAC address is not heard");
    }
}

#[test]
fn a_guest_cannot_pose_as_router_dhcp_server_or_neighbour() {
    let _proof = proof::driver(&["nic.attach"]);
    let node = Node::bridged();
    let liar = node.guest(1, nic(1, &["10.0.0.2/24", "fd00::2/64"]));
    let other = node.guest(2, nic(2, &["10.0.0.3/24", "fd00::3/64"]));
    introduce(&[&liar, &other]);

    let ear = other.space.socket("10.0.0.3", 68);
    let honest = liar.space.socket("10.0.0.2", 1067);
    liar.space.socket("10.0.0.2", 67).send_to(b"lease", ear.local_addr().unwrap()).unwrap();
    honest.send_to(b"mark", ear.local_addr().unwrap()).unwrap();
    assert_eq!(next(&ear), "mark", "no DHCP server is heard");

    let ear = Icmp::new(&other.space);
    let mouth = Icmp::new(&liar.space);
    let target = |ip: &str| {
        let ip: std::net::Ipv6Addr = ip.parse().unwrap();
        // Flags: override.
        [&[0x20, 0, 0, 0][..], &ip.octets()].concat()
    };
    let (router, redirect, neighbour) = (134, 137, 136);
    for (kind, body) in [
        (router, vec![64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]),
        (redirect, target("fd00::1")),
        (neighbour, target("fd00::3")),
        (neighbour, target("fe80::1")),
    ] {
        mouth.send("fd00::3", kind, &body);
        mouth.send("fd00::3", MARK, &body);
        assert_eq!(ear.next(&[kind, MARK]).0, MARK, "{kind} {body:?}");
    }
    // Of itself it may speak.
    mouth.send("fd00::3", neighbour, &target("fd00::2"));
    assert_eq!(ear.next(&[neighbour, MARK]), (neighbour, target("fd00::2")));
}

#[test]
fn routed_guests_are_reached_and_those_that_lie_are_not_heard() {
    let _proof = proof::driver(&["nic.attach", "nic.detach", "network.get"]);
    let node = Node::new(Mode::Routed);
    let world = node.world();
    let mut with_network = nic(1, &["203.0.113.2/32", "2001:db8:1::1/64"]);
    with_network.networks = vec!["2001:db8:1::/64".parse().unwrap()];
    let mut liar = node.guest(1, with_network);
    let other = node.guest(2, nic(2, &["203.0.113.3/32", "2001:db8:2::1/128"]));
    for (mine, theirs, beyond, lie) in [
        ("203.0.113.2", "203.0.113.3", "198.51.100.2", "203.0.113.9"),
        ("2001:db8:1::1", "2001:db8:2::1", "2001:db8:ffff::2", "2001:db8:9::9"),
    ] {
        let (neighbour, outside) = (other.space.socket(theirs, PORT), world.socket(beyond, PORT));
        let honest = liar.space.socket(mine, 0);
        let (length, nodad) = if lie.contains(':') { (128, " nodad") } else { (32, "") };
        for ear in [&neighbour, &outside] {
            assert!(liar.space.is_heard(mine, ear, &honest), "{mine} is its own");
        }
        liar.space.ip(&format!("addr add {lie}/{length} dev eth0{nodad}"));
        for ear in [&neighbour, &outside] {
            assert!(!liar.space.is_heard(lie, ear, &honest), "{lie} is not its own");
        }
        liar.space.ip("link set eth0 address 52:54:00:00:00:aa");
        honest.send_to(b"lie", neighbour.local_addr().unwrap()).unwrap();
        liar.space.ip("link set eth0 address 52:54:00:00:00:01");
        honest.send_to(b"mark", neighbour.local_addr().unwrap()).unwrap();
        assert_eq!(next(&neighbour), "mark", "another MAC address is not heard");
    }
    // All of its own network is its own.
    liar.space.ip("addr add 2001:db8:1::77/128 dev eth0 nodad");
    let outside = world.socket("2001:db8:ffff::2", PORT);
    let honest = liar.space.socket("2001:db8:1::1", 0);
    assert!(liar.space.is_heard("2001:db8:1::77", &outside, &honest));
    let inside = liar.space.socket("2001:db8:1::77", PORT);
    world.socket("2001:db8:ffff::2", 0).send_to(b"in", inside.local_addr().unwrap()).unwrap();
    assert_eq!(next(&inside), "in");

    // An address that is taken away is routed no more.
    node.change(&mut liar, |nic| nic.networks.clear());
    assert!(!node.space.ip("-6 route show").contains("2001:db8:1::/64"));
    assert!(node.space.ip("-6 route show").contains("2001:db8:1::1 "));
    let state = node.within(Plane::state);
    assert_eq!((state.filtered, state.fault, state.nics.len()), (true, None, 2));

    // A VM that is gone leaves nothing, and its card, would it still be there, is not heard.
    let ear = world.socket("198.51.100.2", PORT + 1);
    node.plane.tell(liar.vm, None);
    node.within(Plane::converge);
    liar.space.socket("203.0.113.2", 0).send_to(b"ghost", ear.local_addr().unwrap()).unwrap();
    other.space.socket("203.0.113.3", 0).send_to(b"mark", ear.local_addr().unwrap()).unwrap();
    assert_eq!(next(&ear), "mark");
}

fn rule(protocol: FirewallProtocol, ports: &str, peers: &[&str]) -> FirewallRule {
    FirewallRule {
        protocol,
        ports: (!ports.is_empty()).then(|| ports.to_owned().try_into().unwrap()),
        peers: peers.iter().map(|net| net.parse().unwrap()).collect(),
    }
}

#[test]
fn a_firewall_lets_in_what_its_rules_say_and_what_answers() {
    let _proof = proof::driver(&["firewall.set", "firewall.remove"]);
    for bridged in [false, true] {
        let (node, world, addresses): (_, _, &[&str]) = if bridged {
            let node = Node::bridged();
            // Somebody on the same bridge: nothing of it is routed.
            let world = node.guest(9, nic(9, &["10.0.0.9/24", "fd00::9/64"])).space;
            (node, world, &["10.0.0.2/24", "fd00::2/64"])
        } else {
            let node = Node::new(Mode::Routed);
            let world = node.world();
            (node, world, &["203.0.113.2/32", "2001:db8:1::1/128"])
        };
        let mut guest = node.guest(1, nic(1, addresses));
        let far: &[&str] =
            if bridged { &["10.0.0.9", "fd00::9"] } else { &["198.51.100.2", "2001:db8:ffff::2"] };
        use FirewallProtocol::Udp;
        node.change(&mut guest, |nic| {
            nic.firewall = Some(Firewall { inbound: vec![rule(Udp, "5000-5009", &[])], outbound: None });
        });
        for (near, far) in addresses.iter().map(|text| text.split('/').next().unwrap()).zip(far) {
            let (open, shut) = (guest.space.socket(near, 5005), guest.space.socket(near, 5010));
            let outside = world.socket(far, 7000);
            outside.send_to(b"hello", shut.local_addr().unwrap()).unwrap();
            outside.send_to(b"hello", open.local_addr().unwrap()).unwrap();
            assert_eq!(next(&open), "hello");
            shut.set_nonblocking(true).unwrap();
            assert!(shut.recv(&mut [0; 9]).is_err(), "a port that no rule names is shut");
            // What it asked for itself comes in.
            shut.set_nonblocking(false).unwrap();
            shut.send_to(b"ask", outside.local_addr().unwrap()).unwrap();
            assert_eq!(next(&outside), "ask");
            outside.send_to(b"answer", shut.local_addr().unwrap()).unwrap();
            assert_eq!(next(&shut), "answer");
        }
        // Only from where a rule says, and only to where one says.
        let (near, far) = (addresses[0].split('/').next().unwrap(), far[0]);
        let (open, outside) = (guest.space.socket(near, 5000), world.socket(far, 7001));
        node.change(&mut guest, |nic| {
            nic.firewall = Some(Firewall {
                inbound: vec![
                    rule(Udp, "5000", &["192.0.2.0/24"]),
                    rule(Udp, "5001", &[&format!("{far}/32")]),
                ],
                outbound: Some(vec![rule(Udp, "7002", &[])]),
            });
        });
        let named = guest.space.socket(near, 5001);
        outside.send_to(b"hello", open.local_addr().unwrap()).unwrap();
        outside.send_to(b"hello", named.local_addr().unwrap()).unwrap();
        assert_eq!(next(&named), "hello");
        open.set_nonblocking(true).unwrap();
        assert!(open.recv(&mut [0; 9]).is_err(), "from elsewhere it is shut");
        let (to_shut, to_open) = (world.socket(far, 7003), world.socket(far, 7002));
        // The kernel says no to the guest itself on some of its own sends; what counts is who hears it.
        let _ = named.send_to(b"out", to_shut.local_addr().unwrap());
        named.send_to(b"out", to_open.local_addr().unwrap()).unwrap();
        assert_eq!(next(&to_open), "out");
        to_shut.set_nonblocking(true).unwrap();
        assert!(to_shut.recv(&mut [0; 9]).is_err(), "nothing goes out but what a rule names");
        // Without a firewall all comes in.
        node.change(&mut guest, |nic| nic.firewall = None);
        open.set_nonblocking(false).unwrap();
        world.socket(far, 7004).send_to(b"free", open.local_addr().unwrap()).unwrap();
        assert_eq!(next(&open), "free");
    }
}

#[test]
fn a_rule_change_under_load_drops_no_allowed_packet_and_lets_no_other_in() {
    let _proof = proof::driver(&["firewall.set"]);
    let node = Node::new(Mode::Routed);
    let world = node.world();
    let mut guest = node.guest(1, nic(1, &["203.0.113.2/32"]));
    let firewall = |n: u16| Firewall {
        inbound: vec![
            rule(FirewallProtocol::Tcp, &format!("{}", 1000 + n), &["10.0.0.0/8"]),
            rule(FirewallProtocol::Udp, "5000", &[]),
        ],
        outbound: None,
    };
    node.change(&mut guest, |nic| nic.firewall = Some(firewall(0)));

    let ear = guest.space.socket("203.0.113.2", PORT);
    let shut = guest.space.socket("203.0.113.2", PORT + 1);
    let (stop, sent, slowest) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        // Each packet is of a connection of its own, so that it meets the rules, and is waited for.
        let load = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let n = sent.fetch_add(1, Ordering::Relaxed);
                let outside = world.socket("198.51.100.2", 0);
                outside.send_to(b"shut out", "203.0.113.2:5001").unwrap();
                let began = Instant::now();
                outside.send_to(format!("{n}").as_bytes(), "203.0.113.2:5000").unwrap();
                assert_eq!(next(&ear), format!("{n}"), "an allowed packet was dropped");
                slowest.fetch_max(began.elapsed().as_millis() as u64, Ordering::Relaxed);
            }
        });
        let changes = 150;
        for n in 0..changes {
            node.change(&mut guest, |nic| nic.firewall = Some(firewall(n)));
        }
        stop.store(true, Ordering::Relaxed);
        load.join().unwrap();
    });
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent > 60, "there was load: {sent} packets, the slowest took {slowest:?} ms");
    shut.set_nonblocking(true).unwrap();
    assert!(shut.recv(&mut [0; 9]).is_err(), "nothing was let in that no rule allows");
}

#[test]
fn private_networks_of_two_projects_with_the_same_range_never_meet() {
    let _proof = proof::driver(&["network.put", "network.delete", "network.get"]);
    let underlay = Namespace::new();
    underlay.ip("link add br0 type bridge forward_delay 0");
    underlay.ip("link set br0 up");
    let nodes: Vec<Node> = (1..=2)
        .map(|n| {
            let node = Node::bridged();
            node.space.ip(&format!("link add up0 type veth peer name n{n} netns {}", underlay.name()));
            node.space.ip(&format!("addr add 192.168.0.{n}/24 dev up0"));
            node.space.ip("link set up0 up");
            underlay.ip(&format!("link set n{n} master br0 up"));
            node
        })
        .collect();
    let [one, two] = nodes.as_slice() else { panic!("two nodes") };
    // As the control plane tells it: in each network a card on each node, by the same addresses.
    let projects = [PrivateNetworkId(11), PrivateNetworkId(12)];
    let network = |n: u8, macs: &[&str]| PrivateNetwork {
        local: IpAddr::from([192, 168, 0, n]),
        peers: vec![Peer {
            node: IpAddr::from([192, 168, 0, 3 - n]),
            macs: macs.iter().map(|mac| (*mac).to_owned()).collect(),
        }],
    };
    let refused = one.plane.check(VmId(1), &[Nic { private: Some(projects[0]), ..nic(1, &[]) }]);
    assert!(matches!(refused, Err(HypervisorError::Lacking(_))), "{refused:?}");
    for id in projects {
        let last = id.0 as u8 * 2;
        let (mac_one, mac_two) = (nic(last, &[]).mac, nic(last + 1, &[]).mac);
        // Twice, as a control plane may; and the first time before it knew of the other node.
        one.within(|plane| plane.put_network(id, &PrivateNetwork { peers: vec![], ..network(1, &[]) }));
        for _ in 0..2 {
            one.within(|plane| plane.put_network(id, &network(1, &[&mac_two])));
            two.within(|plane| plane.put_network(id, &network(2, &[&mac_one])));
        }
    }
    let private = |node: &Node, id: PrivateNetworkId, more: u8, ip: &str| {
        let last = id.0 as u8 * 2 + more;
        node.guest(i64::from(last), Nic { private: Some(id), ..nic(last, &[ip]) })
    };
    let near: Vec<Guest> = projects.iter().map(|id| private(one, *id, 0, "10.9.0.1/24")).collect();
    let far: Vec<Guest> = projects.iter().map(|id| private(two, *id, 1, "10.9.0.2/24")).collect();
    let ears: Vec<UdpSocket> = far.iter().map(|guest| guest.space.socket("10.9.0.2", PORT)).collect();
    // All at the same addresses and ports: connection tracking must not mix them up either.
    let mouths: Vec<UdpSocket> = near.iter().map(|guest| guest.space.socket("10.9.0.1", 6000)).collect();
    for round in 0..3 {
        for (n, mouth) in mouths.iter().enumerate() {
            mouth.send_to(format!("{n} {round}").as_bytes(), "10.9.0.2:5000").unwrap();
        }
        for (n, ear) in ears.iter().enumerate() {
            assert_eq!(next(ear), format!("{n} {round}"));
            ear.send_to(format!("back {n} {round}").as_bytes(), "10.9.0.1:6000").unwrap();
        }
        for (n, mouth) in mouths.iter().enumerate() {
            assert_eq!(next(mouth), format!("back {n} {round}"));
        }
    }
    // A third card on this node is only in the second network: the first cannot reach it, on one node either.
    let third = private(one, projects[1], 8, "10.9.0.3/24");
    let ear = third.space.socket("10.9.0.3", PORT);
    near[0].space.ip(&format!("neigh replace 10.9.0.3 lladdr {} dev eth0", third.nic.mac));
    mouths[0].send_to(b"stray", "10.9.0.3:5000").unwrap();
    mouths[1].send_to(b"mark", "10.9.0.3:5000").unwrap();
    assert_eq!(next(&ear), "mark");
    // Frames of a network are taken from its nodes alone.
    let mut forged = vec![8, 0, 0, 0, 0, 0, 11, 0];
    forged.extend([0xff; 6]);
    forged.extend([0x52, 0x54, 0, 0, 0, 0x77, 8, 6]);
    underlay.ip("addr add 192.168.0.9/24 dev br0");
    let before = ingress(one, "xt");
    underlay.socket("192.168.0.9", 0).send_to(&forged, "192.168.0.1:4789").unwrap();
    assert!(before.is_none() || ingress(one, "xt") == before);

    // A network in use stays; then nothing of it is left.
    let used = one.space.within(|| one.plane.delete_network(projects[0]));
    assert!(matches!(used, Err(HypervisorError::Conflict(_))), "{used:?}");
    assert_eq!(one.within(Plane::state).networks.len(), 2);
    for guest in near.iter().chain([&third]) {
        one.plane.tell(guest.vm, None);
    }
    for id in projects {
        one.within(|plane| plane.delete_network(id));
        one.within(|plane| plane.delete_network(id));
    }
    assert!(!one.space.ip("-d link show").contains("vxlan"));
    let state = one.within(Plane::state);
    assert_eq!((state.networks, state.orphans), (vec![], vec![]));
}

/// Frames that a network's tunnel took in, if there is one whose name begins so.
fn ingress(node: &Node, beginning: &str) -> Option<String> {
    let shown = node.space.ip("-s -o link show type vxlan");
    shown.lines().find(|line| line.contains(&format!(" {beginning}"))).map(str::to_owned)
}

fn carried(list: &TrafficList, ip: &str) -> (u64, u64) {
    let of = list.traffic.iter().find(|traffic| traffic.network.addr() == ip.parse::<IpAddr>().unwrap());
    of.map_or((0, 0), |traffic| (traffic.in_bytes, traffic.out_bytes))
}

#[test]
fn traffic_counts_each_byte_once_over_restarts_and_changes() {
    let _proof = proof::driver(&["traffic.get"]);
    let mut node = Node::new(Mode::Routed);
    let world = node.world();
    let mut guest = node.guest(1, nic(1, &["203.0.113.2/32", "2001:db8:1::1/128"]));
    let ip = "203.0.113.2";
    let (inside, outside) = (guest.space.socket(ip, PORT), world.socket("198.51.100.2", PORT));
    // Headers of IPv4 and UDP, and a thousand bytes.
    let packet = 28 + 1000;
    let mut expected = (0, 0);
    let mut say = |times: u64| {
        for _ in 0..times {
            outside.send_to(&[7; 1000], inside.local_addr().unwrap()).unwrap();
            next(&inside);
            inside.send_to(&[7; 1000], outside.local_addr().unwrap()).unwrap();
            next(&outside);
            inside.send_to(&[7; 1000], outside.local_addr().unwrap()).unwrap();
            next(&outside);
        }
        expected = (expected.0 + times * packet, expected.1 + 2 * times * packet);
        expected
    };
    let now = say(3);
    assert_eq!(carried(&node.within(Plane::traffic), ip), now);
    assert_eq!(carried(&node.within(Plane::traffic), ip), now, "a look adds nothing");

    // The agent comes anew; a rule changes; both.
    let more = say(2);
    node.reopen(Mode::Routed, &[&guest]);
    assert_eq!(carried(&node.within(Plane::traffic), ip), more);
    let more = say(1);
    let allow = vec![rule(FirewallProtocol::Udp, "", &[])];
    node.change(&mut guest, |nic| nic.firewall = Some(Firewall { inbound: allow, outbound: None }));
    let more = {
        let _ = more;
        say(1)
    };
    assert_eq!(carried(&node.within(Plane::traffic), ip), more);

    // Somebody removes all rules, as a reboot of the node does; the agent puts them back.
    node.space.run("nft", &["flush", "ruleset"]);
    assert!(node.within(Plane::state).fault.is_some(), "it is said");
    node.within(Plane::keep);
    assert_eq!(node.within(Plane::state).fault, None);
    let more = say(4);
    assert_eq!(carried(&node.within(Plane::traffic), ip), more);

    // What a firewall drops does not count.
    node.change(&mut guest, |nic| nic.firewall = Some(Firewall::default()));
    let stranger = world.socket("198.51.100.2", 0);
    stranger.send_to(&[7; 1000], inside.local_addr().unwrap()).unwrap();
    let more = {
        let _ = more;
        say(1)
    };
    assert_eq!(carried(&node.within(Plane::traffic), ip), more);

    // The address goes, and is told of as gone.
    node.change(&mut guest, |nic| nic.addresses.truncate(0));
    node.within(Plane::traffic);
    let list = node.within(Plane::traffic);
    assert_eq!(carried(&list, ip), more);
    assert!(list.traffic.iter().all(|traffic| traffic.gone.is_some()), "{list:?}");
    assert!(!node.space.run("nft", &["list", "counters"]).contains("counter c_1_"));
}

#[test]
fn bandwidth_is_limited_both_ways_and_freed_again() {
    let _proof = proof::driver(&["nic.attach", "nic.detach"]);
    let node = Node::new(Mode::Routed);
    let world = node.world();
    let mut guest = node.guest(1, nic(1, &["203.0.113.2/32"]));
    let limits = Limits { in_bits_per_second: Some(4_000_000), out_bits_per_second: Some(4_000_000) };
    // Told twice, it is the same.
    for _ in 0..2 {
        node.change(&mut guest, |nic| nic.limits = Some(limits));
    }
    // 256 KiB at 4 Mbit/s take half a second, less what may pass at once.
    let least = Duration::from_millis(300);
    let inside = guest.space.within(|| std::net::TcpListener::bind("203.0.113.2:80")).unwrap();
    let outside = world.within(|| std::net::TcpListener::bind("198.51.100.2:80")).unwrap();
    for (from, to) in [(&world, &inside), (&guest.space, &outside)] {
        let took = transfer(from, to, 256 * 1024);
        assert!(took >= least, "{took:?}");
    }
    let shaper = node.plane.names().shaper(guest.vm, &guest.nic.mac);
    assert!(node.space.ip("link show type ifb").contains(&shaper));
    node.change(&mut guest, |nic| nic.limits = None);
    assert!(!node.space.ip("link show").contains(&shaper));
    assert!(!node.space.run("tc", &["qdisc", "show"]).contains("tbf"));
    transfer(&world, &inside, 256 * 1024);

    // What a crash left is named.
    node.change(&mut guest, |nic| nic.limits = Some(limits));
    node.plane.tell(guest.vm, None);
    assert_eq!(node.within(Plane::state).orphans, [shaper]);
    node.within(|plane| plane.unplug(guest.vm, std::slice::from_ref(&guest.nic)));
    assert_eq!(node.within(Plane::state).orphans, [""; 0]);
    node.within(Plane::tear_down);
    assert_eq!(node.space.run("nft", &["list", "ruleset"]), "");
}

fn transfer(from: &Namespace, to: &std::net::TcpListener, bytes: usize) -> Duration {
    use std::io::{Read, Write};
    let address: SocketAddr = to.local_addr().unwrap();
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = from.within(|| std::net::TcpStream::connect(address)).unwrap();
            stream.write_all(&vec![7; bytes]).unwrap();
        });
        let (mut stream, _) = to.accept().unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), bytes);
    });
    began.elapsed()
}

#[test]
fn an_address_that_another_has_is_refused() {
    let _proof = proof::pure(&["nic.attach"]);
    let home = tempfile::tempdir().unwrap();
    let plane = Plane::open("t-", Mode::Routed, home.path()).unwrap();
    plane.fill([(VmId(1), vec![nic(1, &["10.0.0.2/24"])])]);
    let mut whole = nic(2, &[]);
    whole.networks = vec!["10.0.0.0/28".parse().unwrap()];
    for taken in [nic(2, &["10.0.0.2/32"]), whole] {
        let refused = plane.check(VmId(2), &[taken]);
        assert!(
            matches!(&refused, Err(HypervisorError::Conflict(why)) if why.contains("VM 1")),
            "{refused:?}"
        );
    }
    plane.check(VmId(1), &[nic(1, &["10.0.0.2/24"])]).unwrap();
    plane.check(VmId(2), &[nic(2, &["10.0.0.3/24"])]).unwrap();
}
