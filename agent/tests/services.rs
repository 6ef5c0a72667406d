//! What the agent answers its guests' questions to the network with, in network namespaces of the tests'
//! own. Those who ask are strangers to it: busybox's DHCP client, rdisc6, and the kernel's own IPv6 and TCP.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod netns;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Instant;

use berth_agent::network::{Mode, Plane};
use berth_agent::proof;
use berth_model::VmId;
use berth_model::agent::{CardLeases, Nic, NicAddress, VmSeed, VmSpec};
use netns::{Icmp, Namespace, PATIENCE};
use tempfile::TempDir;

/// A type of ICMPv6 that means nothing to a kernel, for marks.
const MARK: u8 = 200;
/// What busybox's client does with a lease: it tells.
const TELL: &str = "#!/bin/sh\n[ $1 = bound ] && \
    echo \"$ip/$mask router=$router dns=$dns mtu=$mtu routes=$staticroutes name=$hostname from=$serverid\" \
    >\"$TOLD\"\nexit 0\n";

struct Node {
    space: Namespace,
    plane: Plane,
    home: TempDir,
    mode: Mode,
}

/// A guest that knows nothing of its network: a namespace whose `eth0` is a card of a node.
struct Guest {
    space: Namespace,
    vm: VmId,
    spec: VmSpec,
}

fn spec(last: u8, addresses: &[(&str, &str)]) -> VmSpec {
    let address = |(text, gateway): &(&str, &str)| {
        let (ip, prefix) = text.split_once('/').unwrap();
        let gateway = (!gateway.is_empty()).then(|| gateway.parse().unwrap());
        NicAddress { ip: ip.parse().unwrap(), prefix: prefix.parse().unwrap(), gateway }
    };
    let mac = format!("52:54:00:00:00:{last:02x}");
    let addresses = addresses.iter().map(address).collect();
    VmSpec {
        nics: vec![Nic { mac, addresses, ..Nic::default() }],
        seed: VmSeed {
            hostname: format!("quay-{last}"),
            user_data: Some(format!("#!/bin/sh\n# for {last}\n{}", "x".repeat(20_000))),
            mounts: Vec::new(),
            name_servers: vec!["9.9.9.9".parse().unwrap(), "2620:fe::fe".parse().unwrap()],
            ..VmSeed::default()
        },
        ..VmSpec::default()
    }
}

impl Node {
    fn new(mode: Mode) -> Self {
        let home = tempfile::tempdir().unwrap();
        let space = Namespace::new();
        let plane = Plane::open("s-", mode.clone(), home.path()).unwrap().with_services().unwrap();
        plane.fill([]);
        std::fs::write(home.path().join("tell"), TELL).unwrap();
        Self { space, plane, home, mode }
    }

    fn bridged() -> Self {
        let node = Self::new(Mode::Bridged { bridge: "br0".to_owned() });
        node.space.ip("link add br0 type bridge forward_delay 0 mcast_snooping 0");
        node.space.ip("addr add 10.0.0.1/24 dev br0");
        node.space.ip("link set br0 up");
        node.space.within(|| node.plane.prepare()).unwrap();
        node
    }

    /// What libvirt does when a VM starts, and the agent then.
    fn guest(&self, vm: i64, spec: VmSpec) -> Guest {
        let space = Namespace::new();
        let guest = Guest { space, vm: VmId(vm), spec };
        guest.space.within(|| {
            for (key, value) in [("accept_dad", "0"), ("router_solicitations", "0")] {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/default/{key}"), value).unwrap();
            }
        });
        self.put(&guest);
        self.plug(&guest);
        guest
    }

    fn tap(&self, guest: &Guest) -> String {
        self.plane.names().tap(guest.vm, &guest.spec.nics[0].mac)
    }

    fn plug(&self, guest: &Guest) {
        let (tap, mac, to) = (self.tap(guest), &guest.spec.nics[0].mac, guest.space.name());
        self.space.ip(&format!("link add {tap} type veth peer name eth0 address {mac} netns {to}"));
        if !self.plane.routed() {
            self.space.ip(&format!("link set {tap} master br0"));
        }
        self.space.ip(&format!("link set {tap} up"));
        guest.space.ip("link set lo up");
        guest.space.ip("link set eth0 up");
        self.put(guest);
        self.space.within(|| self.plane.plug(guest.vm, &guest.spec.nics)).unwrap();
    }

    /// Brings filter and services to the guest's spec.
    fn put(&self, guest: &Guest) {
        self.plane.tell(guest.vm, Some(&guest.spec.nics));
        self.space.within(|| {
            self.plane.converge().unwrap();
            self.plane.serve(guest.vm, &guest.spec);
        });
    }

    fn leases(&self, guest: &Guest) -> CardLeases {
        self.plane.leases(guest.vm).remove(0)
    }

    /// What busybox's DHCP client is told in a guest.
    fn lease(&self, guest: &Guest) -> String {
        let (script, told) = (self.home.path().join("tell"), self.home.path().join("told"));
        let _ = std::fs::remove_file(&told);
        let ask = format!(
            "chmod 755 {script}; TOLD={told} exec busybox udhcpc -i eth0 -f -q -n -t 60 -T 1 -s {script} \
             -x hostname:x -O mtu -O staticroutes -O hostname",
            script = script.display(),
            told = told.display()
        );
        guest.space.run("sh", &["-c", &ask]);
        std::fs::read_to_string(told).unwrap().trim().to_owned()
    }
}

/// Asks the metadata service; gives all that it said.
fn fetch(space: &Namespace, path: &str, header: &str) -> String {
    let address: SocketAddr = "169.254.169.254:80".parse().unwrap();
    let mut stream = space.within(|| TcpStream::connect_timeout(&address, PATIENCE)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 169.254.169.254\r\n{header}\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

/// What rdisc6 learns of routers, once it has an address to ask from; with one space between words.
fn routers(space: &Namespace) -> String {
    let words = ["netns", "exec", space.name(), "rdisc6", "-1", "-r", "20", "-w", "3000", "eth0"];
    let mut said = String::new();
    wait_for("a router", || {
        let output = Command::new("ip").args(words).output().unwrap();
        said = String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
        output.status.success()
    });
    said
}

fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_routed_guest_learns_its_network_by_dhcp_and_by_router_advertisement() {
    let _proof = proof::driver(&["nic.leases"]);
    let node = Node::new(Mode::Routed);
    let addresses = [("203.0.113.2/32", "169.254.1.1"), ("2001:db8:1::1/64", "fe80::1")];
    let mut spec = spec(2, &addresses);
    spec.nics[0].networks = vec!["2001:db8:1::/64".parse().unwrap()];
    let guest = node.guest(1, spec);
    assert_eq!(
        node.lease(&guest),
        "203.0.113.2/32 router=169.254.1.1 dns=9.9.9.9 mtu=1500 routes=169.254.169.254/32 \
         0.0.0.0 169.254.1.1/32 0.0.0.0 0.0.0.0/0 169.254.1.1 name=quay-2 from=169.254.169.254"
    );
    let said = routers(&guest.space);
    for words in [
        "Stateful address conf. : Yes",
        "Router lifetime : 65535",
        "MTU : 1500",
        "Prefix : 2001:db8:1::/64",
        "Autonomous address conf.: No",
        "Recursive DNS server : 2620:fe::fe",
        "from fe80::1",
    ] {
        assert!(said.contains(words), "{words}\n{said}");
    }
    // The kernel takes the same for its way out.
    wait_for("a default route", || {
        guest.space.ip("-6 route show default").contains("default via fe80::1 dev eth0 proto ra")
    });
    let leases = node.leases(&guest);
    assert!(leases.listening);
    let (dhcp, router) = (leases.dhcp.unwrap(), leases.router.unwrap());
    assert_eq!((dhcp.asked.as_str(), dhcp.answered.as_deref()), ("request", Some("ack")));
    assert_eq!(dhcp.address, Some(addresses[0].0.split('/').next().unwrap().parse().unwrap()));
    assert_eq!((router.asked.as_str(), router.answered.as_deref()), ("solicitation", Some("advertisement")));
    assert_eq!(router.address, Some("fe80::1".parse().unwrap()));
}

#[test]
fn questions_on_a_bridge_are_heard_by_no_neighbour_and_answers_come_to_their_own_server_alone() {
    let _proof = proof::driver(&["nic.leases"]);
    let node = Node::bridged();
    let guest = node.guest(1, spec(2, &[("10.0.0.2/24", "10.0.0.1"), ("fd00::2/64", "fe80::1")]));
    let other = node.guest(2, spec(3, &[("10.0.0.3/24", "10.0.0.1"), ("fd00::3/64", "fe80::1")]));
    for (guest, ip) in [(&guest, "fd00::2"), (&other, "fd00::3")] {
        guest.space.ip(&format!("addr add {ip}/64 dev eth0 nodad"));
    }
    other.space.ip("addr add 10.0.0.3/24 dev eth0");
    let dhcp_ears = [&other.space, &node.space].map(|space| {
        let ear = space.within(|| UdpSocket::bind("0.0.0.0:67")).unwrap();
        ear.set_nonblocking(true).unwrap();
        ear
    });
    let ear = Icmp::new(&other.space);
    let mouth = Icmp::new(&guest.space);

    assert!(node.lease(&guest).starts_with("10.0.0.2/24 router=10.0.0.1 "));
    assert!(node.lease(&other).contains("10.0.0.3/24 "), "each has its own");
    routers(&guest.space);
    // What is said after it arrives, and it did not; nor what an impostor would answer.
    let (solicitation, advertisement) = (133, 134);
    mouth.send("fd00::3", solicitation, &[0; 4]);
    mouth.send("fd00::3", advertisement, &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
    mouth.send("fd00::3", MARK, &[]);
    assert_eq!(ear.next(&[solicitation, MARK]).0, MARK);
    for ear in dhcp_ears {
        assert!(ear.recv(&mut [0; 9]).is_err(), "nobody hears another's question for an address");
    }

    // By a route on the wire, and by the gateway, which never sees it.
    guest.space.ip("addr add 10.0.0.2/24 dev eth0");
    guest.space.ip("route add 169.254.169.254 dev eth0");
    other.space.ip("route add default via 10.0.0.1 dev eth0");
    for (guest, last) in [(&guest, 2), (&other, 3)] {
        let name = fetch(&guest.space, "/hetzner/v1/metadata/hostname", "");
        assert!(name.starts_with("HTTP/1.1 200 OK\r\n"), "{name}");
        assert!(name.ends_with(&format!("\r\n\r\nquay-{last}")), "{name}");
        // More than a window of it.
        let user_data = fetch(&guest.space, "/latest/user-data", "");
        assert!(user_data.contains(&format!("# for {last}\n")) && user_data.len() > 20_000);
    }
    let passed_on = fetch(&guest.space, "/latest/user-data", "X-Forwarded-For: 198.51.100.7\r\n");
    assert!(passed_on.starts_with("HTTP/1.1 403 ") && !passed_on.contains("xxx"), "{passed_on}");
    assert!(fetch(&guest.space, "/latest/meta-data/no", "").starts_with("HTTP/1.1 404 "));
    let long = format!("X: {}\r\n", "y".repeat(4000));
    assert!(fetch_or_nothing(&guest.space, &long).is_none_or(|said| said.starts_with("HTTP/1.1 431 ")));
    // More at once than there are places: those who come too late are let in when one is free.
    std::thread::scope(|scope| {
        let calls: Vec<_> =
            (0..10).map(|_| scope.spawn(|| fetch(&guest.space, "/latest/user-data", ""))).collect();
        for call in calls {
            assert!(call.join().unwrap().len() > 20_000);
        }
    });
    let asked = node.leases(&guest).metadata.unwrap();
    assert_eq!((asked.asked.as_str(), asked.answered.as_deref()), ("GET /latest/user-data", Some("200")));
}

/// The same for what may be cut off while it is still being said.
fn fetch_or_nothing(space: &Namespace, header: &str) -> Option<String> {
    let address: SocketAddr = "169.254.169.254:80".parse().unwrap();
    let mut stream = space.within(|| TcpStream::connect_timeout(&address, PATIENCE)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET / HTTP/1.1\r\n{header}\r\n").ok()?;
    let mut said = String::new();
    stream.read_to_string(&mut said).ok()?;
    Some(said)
}

#[test]
fn a_card_that_changes_goes_and_comes_back_is_followed_by_this_agent_and_the_next() {
    let _proof = proof::driver(&["nic.leases", "nic.attach", "nic.detach"]);
    let mut node = Node::new(Mode::Routed);
    let mut guest = node.guest(1, spec(2, &[("203.0.113.2/32", "169.254.1.1")]));
    assert!(node.lease(&guest).starts_with("203.0.113.2/"));
    // Another address while it runs; told twice.
    guest.spec.nics[0].addresses[0].ip = "203.0.113.9".parse().unwrap();
    node.put(&guest);
    node.put(&guest);
    assert!(node.lease(&guest).starts_with("203.0.113.9/"));

    // The guest stops: its interface goes, and the agent lets go of it.
    node.space.ip(&format!("link del {}", node.tap(&guest)));
    wait_for("the agent to let go", || !node.leases(&guest).listening);
    assert!(node.leases(&guest).dhcp.is_some(), "what it asked is still known");
    // It comes back without a word, and is found.
    node.plug(&guest);
    node.space.within(|| node.plane.keep()).unwrap();
    assert!(node.leases(&guest).listening);
    assert!(node.lease(&guest).starts_with("203.0.113.9/"));

    // Another agent takes over; the first leaves no ear behind.
    node.plane = Plane::open("s-", node.mode.clone(), node.home.path()).unwrap().with_services().unwrap();
    node.plane.fill([(guest.vm, guest.spec.nics.clone())]);
    node.put(&guest);
    assert!(node.lease(&guest).starts_with("203.0.113.9/"));
    let ears = || node.space.run("cat", &["/proc/net/packet"]).lines().count() - 1;
    assert_eq!(ears(), 1);

    // A card that is taken away is served no more, and neither is a VM that is gone.
    let one = guest.spec.clone();
    guest.spec.nics.clear();
    node.space.within(|| node.plane.serve(guest.vm, &guest.spec));
    assert_eq!((node.plane.leases(guest.vm).len(), ears()), (0, 0));
    guest.spec = one;
    node.put(&guest);
    assert_eq!(ears(), 1);
    node.plane.forget(guest.vm);
    assert_eq!((node.plane.leases(guest.vm).len(), ears()), (0, 0));
}

#[test]
fn a_thousand_silent_cards_are_no_burden_and_leave_nothing() {
    let _proof = proof::driver(&["nic.leases"]);
    const CARDS: i64 = 1000;
    let node = Node::new(Mode::Routed);
    let specs: Vec<_> = (1..=CARDS)
        .map(|vm| {
            let mut spec = spec(1, &[("10.0.0.1/32", "169.254.1.1"), ("2001:db8::1/64", "fe80::1")]);
            spec.seed.user_data = None;
            spec.nics[0].mac = format!("52:54:00:00:{:02x}:{:02x}", vm / 256, vm % 256);
            (VmId(vm), spec)
        })
        .collect();
    let links: String = specs
        .iter()
        .map(|(vm, spec)| {
            format!("link add {} up type bridge\n", node.plane.names().tap(*vm, &spec.nics[0].mac))
        })
        .collect();
    let batch = node.home.path().join("links");
    std::fs::write(&batch, links).unwrap();
    node.space.ip(&format!("-batch {}", batch.display()));
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let before = resident();
    node.space.within(|| specs.iter().for_each(|(vm, spec)| node.plane.serve(*vm, spec)));
    let ears = || node.space.run("cat", &["/proc/net/packet"]).lines().count() - 1;
    assert_eq!(ears(), 1000);
    let grown = resident().saturating_sub(before);
    println!("{CARDS} cards: {} KiB", grown / 1024);
    assert!(grown < 16 * 1024 * 1024, "{grown}");
    specs.iter().for_each(|(vm, _)| node.plane.forget(*vm));
    assert_eq!(ears(), 0);
}
