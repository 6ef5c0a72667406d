//! Real guests and the node's network, seen from inside the guests: the tiny image on QEMU, under the
//! machine's own libvirtd. What a guest does is in its user data; it tells on its serial line what it heard.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod libvirt_common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use berth_agent::config::Gateway;
use berth_agent::hypervisor::Hypervisor;
use berth_agent::hypervisor::libvirt::GuestNetwork;
use berth_agent::network::Names;
use berth_agent::proof;
use berth_model::agent::{
    Firewall, FirewallProtocol, FirewallRule, Limits, Nic, NicAddress, PrivateNetwork, VmSpec, VmState,
    WantedPower,
};
use berth_model::{PrivateNetworkId, VmId};
use libvirt_common::{Nat, Node, TINY, run, spec, wait_for};

const ID: VmId = VmId(7);

/// Addresses of this run and of this test, so that no two meet: 10.x.y.1 is the node's.
fn address(test: u8, last: u8) -> Ipv4Addr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(10, 128 | (high & 0x3f) << 1 | test, low, last)
}

fn with_address(spec: &mut VmSpec, ip: Ipv4Addr, prefix: u8, gateway: Ipv4Addr) {
    spec.nics[0].addresses = vec![NicAddress { ip: ip.into(), prefix, gateway: Some(gateway.into()) }];
}

/// Fetches the guest's page; `None` when nobody answers in time.
fn page(ip: Ipv4Addr) -> Option<String> {
    let patience = Duration::from_secs(2);
    let mut guest = TcpStream::connect_timeout(&SocketAddr::from((ip, 80)), patience).ok()?;
    guest.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    guest.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut page = String::new();
    guest.read_to_string(&mut page).ok()?;
    Some(page)
}

fn heard(node: &Node, what: &str) {
    wait_for(what, || node.console(ID).contains(what).then_some(()));
}

fn no_rules_are_left(node: &Node) {
    let names = Names::new(&node.config.prefix);
    let links = run("ip", &["-d", "link", "show"]);
    assert!(!links.contains(&names.alias()), "{links}");
    assert!(!links.contains(&names.tap(ID, "52:54:00:be:00:01")), "{links}");
}

#[test]
fn a_guest_that_lies_is_not_heard_and_gets_and_loses_cards_while_it_runs() {
    let _proof =
        proof::guest(&["nic.attach", "nic.detach", "network.put", "network.get", "network.delete", "vm.put"]);
    let (gateway, own, other) = (address(0, 1), address(0, 2), address(0, 9));
    let bridge = format!("bn{}", std::process::id());
    let node = Node::tiny(GuestNetwork::Nat { bridge, gateway: Gateway { ip: gateway, prefix: 24 } });
    let _nat = Nat::of(&node);
    let mut spec = spec(TINY);
    with_address(&mut spec, own, 24, gateway);
    // Before and after each lie the guest says the truth, and is heard. Pings wait a second for their answer.
    spec.seed.user_data = Some(format!(
        "#!/bin/sh\nexec >/dev/ttyS0 2>&1\n\
         say() {{ ping -c 1 -W ${{3:-1}} -I $1 {gateway} >/dev/null && echo \"$2: heard\" || echo \"$2: silent\"; }}\n\
         say {own} truth-1 30\n\
         ip addr add {other}/24 dev eth0\nsay {other} false-ip\nip addr del {other}/24 dev eth0\n\
         say {own} truth-2 30\n\
         mac=$(cat /sys/class/net/eth0/address)\n\
         ip link set eth0 down; ip link set eth0 address 52:54:00:be:ff:ff; ip link set eth0 up\n\
         say {own} false-mac\n\
         ip link set eth0 down; ip link set eth0 address $mac; ip link set eth0 up\n\
         say {own} truth-3 30\n\
         while ! ip link show eth1 >/dev/null 2>&1; do sleep 0.1; done\n\
         echo \"second: $(cat /sys/class/net/eth1/address) mtu $(cat /sys/class/net/eth1/mtu)\"\n\
         while ip link show eth1 >/dev/null 2>&1; do sleep 0.1; done\necho second: gone\n"
    ));
    node.libvirt.put(ID, &spec).unwrap();
    node.wait_for_boot(ID, 1);
    heard(&node, "truth-3: heard");
    let said = node.console(ID);
    for line in ["truth-1: heard", "false-ip: silent", "truth-2: heard", "false-mac: silent"] {
        assert!(said.contains(line), "{line}: {said}");
    }

    // A card in a private network, into the running guest; told twice.
    let network = PrivateNetworkId(i64::from(std::process::id() & 0x00ff_ffff));
    let private = PrivateNetwork { local: Ipv4Addr::LOCALHOST.into(), peers: vec![] };
    node.libvirt.put_network(network, &private).unwrap();
    let mut two = VmSpec { power: WantedPower::Keep, ..spec.clone() };
    let mac = "52:54:00:be:00:02";
    two.nics.push(Nic { mac: mac.to_owned(), private: Some(network), ..Nic::default() });
    let plugged = node.libvirt.put(ID, &two).unwrap();
    assert_eq!(node.libvirt.put(ID, &two).unwrap(), plugged);
    heard(&node, &format!("second: {mac} mtu 1430"));
    let state = node.libvirt.network().unwrap();
    assert_eq!((state.fault, state.nics.len(), state.networks.len()), (None, 2, 1));
    assert!(node.libvirt.delete_network(network).is_err(), "a network in use stays");

    let one = VmSpec { power: WantedPower::Keep, ..spec };
    node.libvirt.put(ID, &one).unwrap();
    assert_eq!(node.libvirt.put(ID, &one).unwrap().spec, Some(one));
    heard(&node, "second: gone");
    node.libvirt.delete_network(network).unwrap();
    node.libvirt.delete(ID).unwrap();
    node.assert_nothing_left(ID);
    no_rules_are_left(&node);
}

#[test]
fn a_routed_guest_has_its_route_and_limits_from_its_first_packet_and_keeps_its_firewall() {
    let _proof = proof::guest(&["firewall.set", "firewall.remove", "traffic.get", "nic.attach"]);
    let node = Node::tiny(GuestNetwork::Routed);
    let own = address(1, 2);
    let mut spec = spec(TINY);
    with_address(&mut spec, own, 32, berth_agent::network::GATEWAY_V4);
    spec.nics[0].limits =
        Some(Limits { in_bits_per_second: Some(50_000_000), out_bits_per_second: Some(2_000_000) });
    // The world is a namespace beyond the node, to which the guest is routed.
    let world = World::new(address(1, 254));
    spec.seed.user_data = Some(format!(
        "#!/bin/sh\nexec >/dev/ttyS0 2>&1\n\
         ping -c 1 -W 30 {} >/dev/null && echo world: reached\n\
         dd if=/dev/zero of=/root/www/zeros bs=1024 count=512 2>/dev/null; echo zeros: there\n",
        world.ip
    ));
    let made = node.libvirt.put(ID, &spec).unwrap();
    assert_eq!(made.state, VmState::Running);
    node.wait_for_boot(ID, 1);
    heard(&node, "world: reached");
    heard(&node, "zeros: there");
    wait_for("the guest's page", || page(own));
    assert!(world.page(own), "from beyond the node it is reached, too");

    // 512 KiB at 2 Mbit/s take two seconds, less what may pass at once.
    let began = std::time::Instant::now();
    let mut guest = TcpStream::connect((own, 80)).unwrap();
    guest.write_all(b"GET /zeros HTTP/1.0\r\n\r\n").unwrap();
    let mut zeros = Vec::new();
    guest.read_to_end(&mut zeros).unwrap();
    assert!(
        zeros.len() > 512 * 1024 && began.elapsed() > Duration::from_millis(1200),
        "{:?}",
        began.elapsed()
    );

    // The firewall shuts the page and opens it again, while the guest runs.
    let change = |firewall: Option<Firewall>| {
        let mut spec = VmSpec { power: WantedPower::Keep, ..spec.clone() };
        spec.nics[0].firewall = firewall;
        assert_eq!(node.libvirt.put(ID, &spec).unwrap().started, made.started);
    };
    let open = FirewallRule {
        protocol: FirewallProtocol::Tcp,
        ports: Some("80".to_owned().try_into().unwrap()),
        peers: vec![],
    };
    change(Some(Firewall::default()));
    assert!(!world.page(own), "shut");
    change(Some(Firewall { inbound: vec![open], outbound: None }));
    assert!(world.page(own), "open");
    change(None);
    assert!(world.page(own), "open to all");

    let traffic = |libvirt: &berth_agent::hypervisor::libvirt::Libvirt| {
        let list = libvirt.traffic().unwrap();
        list.traffic.into_iter().find(|traffic| traffic.vm == ID).unwrap()
    };
    let before = traffic(&node.libvirt);
    assert!(before.in_bytes > 500 && before.out_bytes > 500, "{before:?}");
    // An agent that comes anew counts on, and finds the filter as it is.
    let again = node.reopened();
    again.tend().unwrap();
    let after = traffic(&again);
    assert!(after.in_bytes >= before.in_bytes && after.in_bytes < before.in_bytes + 20_000, "{after:?}");
    assert!(world.page(own));
    drop(again);

    node.libvirt.delete(ID).unwrap();
    node.assert_nothing_left(ID);
    no_rules_are_left(&node);
    let routes = run("ip", &["route", "show"]);
    assert!(!routes.contains(&format!("{own} ")), "{routes}");
}

/// Somebody beyond the node: a namespace with one address.
struct World {
    name: String,
    ip: Ipv4Addr,
}

impl World {
    fn new(ip: Ipv4Addr) -> Self {
        let name = format!("berth-w{}", std::process::id());
        let [a, b, c, _] = ip.octets();
        let node = Ipv4Addr::new(a, b, c, 253);
        let link = format!("bw{}", std::process::id());
        let world = Self { name: name.clone(), ip };
        run("ip", &["netns", "add", &name]);
        run("ip", &["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &name]);
        run("ip", &["addr", "add", &format!("{node}/30"), "dev", &link]);
        run("ip", &["link", "set", &link, "up"]);
        for words in [
            vec!["addr", "add", &format!("{ip}/30"), "dev", "eth0"],
            vec!["link", "set", "eth0", "up"],
            vec!["route", "add", "default", "via", &node.to_string()],
        ] {
            run("ip", &[&["-n", name.as_str()], words.as_slice()].concat());
        }
        world
    }

    /// Does the guest's page come?
    fn page(&self, of: Ipv4Addr) -> bool {
        let of = format!("/dev/tcp/{of}/80");
        let fetch = format!("exec 3<>{of} && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q Tiny <&3");
        let words = ["netns", "exec", &self.name, "timeout", "10", "bash", "-c", &fetch];
        Command::new("ip").args(words).output().unwrap().status.success()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Its link goes with it.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}
