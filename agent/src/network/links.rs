//! What is set on the interfaces themselves: routes of routed cards, bandwidth, bridges, VXLAN. Each
//! function looks first and changes what differs, so it may be told again after a break anywhere.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use berth_model::PrivateNetworkId;
use berth_model::agent::{Limits, Nic, PrivateNetwork};
use ipnet::IpNet;
use serde_json::Value;

use super::names::Names;
use super::nft::{Card, GATEWAY_V6, VXLAN_PORT};
use super::program::{ask, run, tell};
use crate::hypervisor::HypervisorError;
use crate::services;

/// The node's address on every routed card: the gateway of its guest.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Marks our routes (`proto` of `ip route`).
const ROUTE_PROTOCOL: &str = "66";
/// The largest packet in a private network: 1500 less IPv6, UDP, VXLAN and Ethernet.
pub const PRIVATE_MTU: u32 = 1430;
/// How long a packet may wait for its turn under a limit.
const LATENCY: &str = "100ms";
/// Least and most bytes that may pass at once under a limit.
const BURST_BYTES: (u64, u64) = (64 * 1024, 4 * 1024 * 1024);
/// What every VXLAN entry for broadcasts has as its MAC address.
const ALL: &str = "00:00:00:00:00:00";

type Done = Result<(), HypervisorError>;

/// Tells this node and its neighbours that addresses are a card's now; what is more than one address, this node alone.
pub fn announce(bridge: &str, mac: [u8; 6], fresh: &[IpNet]) -> Done {
    for net in fresh {
        // What is sent from here next asks anew.
        tell(&["ip", "neigh", "flush", "to", &net.to_string(), "dev", bridge])?;
    }
    let single = fresh.iter().filter(|net| net.prefix_len() == net.max_prefix_len());
    Ok(services::announce(bridge, mac, single.map(IpNet::addr))?)
}

/// Lets connection tracking see what passes a bridge.
pub fn track_on_bridge(bridge: &str) -> Done {
    let is_there = || Path::new("/proc/sys/net/bridge").exists();
    if !is_there() {
        // Without it the bridge takes the setting, and firewalls would see nothing.
        tell(&["modprobe", "br_netfilter"])?;
    }
    if !is_there() {
        let why = "Firewalls on a bridge need the kernel's br_netfilter, which is not there.";
        return Err(HypervisorError::Failed(why.to_owned()));
    }
    let words = [
        "ip",
        "link",
        "set",
        "dev",
        bridge,
        "type",
        "bridge",
        "nf_call_iptables",
        "1",
        "nf_call_ip6tables",
        "1",
    ];
    tell(&words).map(drop)
}

/// The node forwards between routed cards and the world.
pub fn forward_packets() -> Done {
    sysctl("net/ipv4/ip_forward", "1")?;
    sysctl("net/ipv6/conf/all/forwarding", "1")
}

/// Brings the routes of a routed card's addresses to it, and its gateway.
pub fn route(card: &Card, nic: &Nic) -> Done {
    let tap = &card.tap;
    sysctl(&format!("net/ipv4/conf/{tap}/proxy_arp"), "1")?;
    sysctl(&format!("net/ipv6/conf/{tap}/accept_ra"), "0")?;
    let mut batch = format!(
        "addr replace {GATEWAY_V4}/32 dev {tap} scope link\naddr replace {GATEWAY_V6}/64 dev {tap} nodad\n\
         link set dev {tap} up\n"
    );
    let mut wanted = BTreeSet::new();
    // A routed network lies behind the card's own address of its family, else on the wire.
    let via = |net: &IpNet| {
        let mut own = nic.addresses.iter().map(|address| address.ip);
        own.find(|ip| ip.is_ipv4() == net.addr().is_ipv4() && !net.contains(ip))
    };
    for net in card.own() {
        wanted.insert(net.to_string());
        let address = net.prefix_len() == net.max_prefix_len();
        let via = via(net).filter(|_| !address).map_or_else(String::new, |ip| format!(" via {ip} onlink"));
        batch.push_str(&format!("route replace {net}{via} dev {tap} proto {ROUTE_PROTOCOL}\n"));
    }
    for family in ["-4", "-6"] {
        let routes = ask(&["ip", "-j", family, "route", "show", "dev", tap, "proto", ROUTE_PROTOCOL])?;
        for to in routes.as_array().into_iter().flatten().filter_map(|route| route["dst"].as_str()) {
            // It is shown without its length where it is of one address.
            let net: Option<IpNet> = to.parse().ok().or_else(|| to.parse::<IpAddr>().ok().map(IpNet::from));
            if net.is_none_or(|net| !wanted.contains(&net.to_string())) {
                batch.push_str(&format!("route del {to} dev {tap} proto {ROUTE_PROTOCOL}\n"));
            }
        }
    }
    batch_of_ip(&batch)
}

/// Limits what a card carries. Towards the guest by its interface's own queue; from the guest by that of
/// `shaper`, through which its packets are led.
pub fn limit(tap: &str, shaper: &str, limits: Limits, names: &Names) -> Done {
    match limits.in_bits_per_second {
        Some(rate) => queue(tap, rate)?,
        None if has_qdisc(tap, "tbf")? => tell(&["tc", "qdisc", "del", "dev", tap, "root"]).map(drop)?,
        None => {}
    }
    let Some(rate) = limits.out_bits_per_second else {
        if has_qdisc(tap, "ingress")? {
            tell(&["tc", "qdisc", "del", "dev", tap, "ingress"])?;
        }
        return remove(shaper);
    };
    if !exists(shaper)? {
        tell(&["ip", "link", "add", shaper, "type", "ifb"])?;
    }
    tell(&["ip", "link", "set", "dev", shaper, "alias", &names.alias(), "up"])?;
    queue(shaper, rate)?;
    if !has_qdisc(tap, "ingress")? {
        tell(&["tc", "qdisc", "add", "dev", tap, "handle", "ffff:", "ingress"])?;
    }
    let filters = tell(&["tc", "filter", "show", "dev", tap, "parent", "ffff:"])?;
    if !filters.contains(shaper) {
        let words = "protocol all u32 match u32 0 0 action mirred egress redirect dev";
        let mut command = vec!["tc", "filter", "add", "dev", tap, "parent", "ffff:"];
        command.extend(words.split(' '));
        command.push(shaper);
        tell(&command)?;
    }
    Ok(())
}

fn queue(interface: &str, rate: u64) -> Done {
    // 10 ms of it.
    let burst = (rate / 8 / 100).clamp(BURST_BYTES.0, BURST_BYTES.1);
    let (rate, burst) = (format!("{rate}bit"), burst.to_string());
    let words = ["tc", "qdisc", "replace", "dev", interface, "root", "handle", "1:", "tbf"];
    let words: Vec<_> =
        words.into_iter().chain(["rate", &rate, "burst", &burst, "latency", LATENCY]).collect();
    tell(&words).map(drop)
}

fn has_qdisc(interface: &str, kind: &str) -> Result<bool, HypervisorError> {
    let shown = ask(&["tc", "-j", "qdisc", "show", "dev", interface])?;
    Ok(shown.as_array().into_iter().flatten().any(|qdisc| qdisc["kind"] == kind))
}

/// Brings this node's part of a private network to what it should be.
pub fn private(names: &Names, id: PrivateNetworkId, network: &PrivateNetwork) -> Done {
    let (bridge, vxlan, alias) = (names.bridge(id), names.vxlan(id), names.alias());
    let links = links()?;
    let of = |name: &str| links.iter().find(|link| link["ifname"] == name);
    let mut batch = String::new();
    if of(&bridge).is_none() {
        batch.push_str(&format!(
            "link add {bridge} mtu {PRIVATE_MTU} type bridge stp_state 0 forward_delay 0 \
             mcast_snooping 0\n"
        ));
    }
    let local = network.local.to_string();
    let right =
        |link: &Value| ["local", "local6"].iter().any(|key| link["linkinfo"]["info_data"][key] == local);
    let old = of(&vxlan);
    let keep = old.is_some_and(right);
    if !keep {
        if old.is_some() {
            batch.push_str(&format!("link del {vxlan}\n"));
        }
        batch.push_str(&format!(
            "link add {vxlan} mtu {PRIVATE_MTU} type vxlan id {id} local {local} dstport \
             {VXLAN_PORT} nolearning\n"
        ));
    }
    batch.push_str(&format!(
        // The node itself is nobody in it: no address by itself.
        "link set dev {bridge} addrgenmode none\nlink set dev {vxlan} addrgenmode none\n\
         link set dev {bridge} alias \"{alias}\" up\nlink set dev {vxlan} alias \"{alias}\" master {bridge} up\n"
    ));
    batch_of_ip(&batch)?;
    peers(&vxlan, network)
}

/// The unicast table of a private network: where each MAC address is, and all nodes for broadcasts.
fn peers(vxlan: &str, network: &PrivateNetwork) -> Done {
    let mut wanted = BTreeSet::new();
    for peer in &network.peers {
        wanted.insert((ALL.to_owned(), peer.node));
        wanted.extend(peer.macs.iter().map(|mac| (mac.clone(), peer.node)));
    }
    let shown = ask(&["bridge", "-j", "fdb", "show", "dev", vxlan])?;
    let entry =
        |entry: &Value| Some((entry["mac"].as_str()?.to_owned(), entry["dst"].as_str()?.parse().ok()?));
    let there: BTreeSet<(String, IpAddr)> =
        shown.as_array().into_iter().flatten().filter_map(entry).collect();
    let gone =
        there.difference(&wanted).map(|(mac, to)| format!("fdb del {mac} dev {vxlan} dst {to} self\n"));
    let new = wanted.difference(&there).map(|(mac, to)| {
        let verb = if mac == ALL { "append" } else { "replace" };
        format!("fdb {verb} {mac} dev {vxlan} dst {to} self static\n")
    });
    // A card that moved is taken from its old node first; one batch, so nobody waits for it long.
    let batch: String = gone.chain(new).collect();
    if batch.is_empty() { Ok(()) } else { run(&["bridge", "-batch", "-"], &batch).map(drop) }
}

/// Leaves nothing of a private network on this node.
pub fn no_private(names: &Names, id: PrivateNetworkId) -> Done {
    remove(&names.vxlan(id))?;
    remove(&names.bridge(id))
}

/// Removes an interface; fine if there is none.
pub fn remove(interface: &str) -> Done {
    if exists(interface)? { tell(&["ip", "link", "del", interface]).map(drop) } else { Ok(()) }
}

/// Is there such an interface?
pub fn exists(interface: &str) -> Result<bool, HypervisorError> {
    Ok(links()?.iter().any(|link| link["ifname"] == interface))
}

/// Interfaces that bear the agent's mark.
pub fn ours(names: &Names) -> Result<Vec<String>, HypervisorError> {
    let ours = |link: &Value| {
        (link["ifalias"] == names.alias()).then(|| link["ifname"].as_str().map(str::to_owned)).flatten()
    };
    Ok(links()?.iter().filter_map(ours).collect())
}

fn links() -> Result<Vec<Value>, HypervisorError> {
    match ask(&["ip", "-j", "-d", "link", "show"])? {
        Value::Array(links) => Ok(links),
        _ => Ok(Vec::new()),
    }
}

fn batch_of_ip(batch: &str) -> Done {
    run(&["ip", "-batch", "-"], batch).map(drop)
}

fn sysctl(name: &str, value: &str) -> Done {
    let path = format!("/proc/sys/{name}");
    fs::write(&path, value).map_err(|e| HypervisorError::Failed(format!("{path} could not be set: {e}")))
}
