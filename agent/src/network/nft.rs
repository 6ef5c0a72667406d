//! The node's whole filter as one nftables script, made of typed values alone.
//!
//! | table | does |
//! | --- | --- |
//! | `bridge T` | what a card on a bridge may call itself: MAC, ARP, IPv4, IPv6, neighbours, no DHCP server, no router |
//! | `inet T`, `arp T` | the same for a routed card; firewalls, with connection tracking |
//! | `inet T_count` | counts by address what the firewalls let through |
//!
//! The kernel takes a script whole or not at all. That alone is not enough: a packet that is under way while a
//! base chain is replaced may pass the new one, still empty, and the old one, empty by now. So tables, base
//! chains and maps stay for ever, and what is in them is replaced: a packet meets the old or the new.
//!
//! Firewalls go by address, for a guest cannot use another's; so they are the same on a bridge and on a
//! routed card. A firewall's chain ends with `return` when it lets a packet through: the other end's
//! firewall is still to be asked when both are on this node.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr};

use berth_model::agent::{Firewall, FirewallProtocol, FirewallRule, Nic};
use berth_model::{PrivateNetworkId, VmId};
use ipnet::IpNet;

use super::names::Names;
use crate::services::SERVICE_V4;

/// The node's link-local address on every routed card: the gateway of its guest.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The UDP port of VXLAN.
pub const VXLAN_PORT: u16 = 4789;

/// A network card, as the filter sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Whose it is.
    pub vm: VmId,
    /// The node's end.
    pub tap: String,
    mac: [u8; 6],
    /// Every address it may use, none within another.
    own: Vec<IpNet>,
    /// It was given no address: any may be its own.
    open: bool,
    firewall: Option<Firewall>,
    /// The private network it is plugged into.
    pub private: Option<PrivateNetworkId>,
}

impl Card {
    /// The card of a VM; nothing when its MAC address is none.
    pub fn new(names: &Names, vm: VmId, nic: &Nic) -> Option<Self> {
        let mut mac = [0; 6];
        let mut parts = nic.mac.split(':');
        for byte in &mut mac {
            *byte = parts.next().and_then(|part| u8::from_str_radix(part, 16).ok())?;
        }
        let addresses = nic.addresses.iter().map(|address| IpNet::from(address.ip));
        // nftables has no map of everything; nobody is routed everything.
        let networks = nic.networks.iter().map(IpNet::trunc).filter(|net| net.prefix_len() > 0);
        let own = disjoint(addresses.chain(networks).collect());
        let open = nic.addresses.is_empty() && nic.networks.is_empty();
        let tap = names.tap(vm, &nic.mac);
        Some(Self { vm, tap, mac, own, open, firewall: nic.firewall.clone(), private: nic.private })
    }

    /// The addresses it may use.
    pub fn own(&self) -> &[IpNet] {
        &self.own
    }

    /// Its MAC address.
    pub fn hardware(&self) -> [u8; 6] {
        self.mac
    }

    fn mac(&self) -> String {
        self.mac.map(|byte| format!("{byte:02x}")).join(":")
    }

    /// The link-local address that follows from the MAC address (RFC 4291, appendix A).
    fn link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac;
        let id = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        Ipv6Addr::from_bits((0xfe80_u128 << 112) | u128::from(id))
    }

    fn of_family(&self, v4: bool) -> Vec<IpNet> {
        self.own.iter().copied().filter(|net| net.addr().is_ipv4() == v4).collect()
    }
}

/// What the filter is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Are public cards routed? They stand on a bridge if not.
    pub routed: bool,
    /// Does the agent answer what guests ask the network for? Then nobody else is asked.
    pub serves: bool,
    /// All cards.
    pub cards: Vec<Card>,
    /// Private networks: their bridge, and from which nodes they take frames.
    pub networks: BTreeMap<PrivateNetworkId, (String, Vec<IpAddr>)>,
}

/// Leaves out what lies within another.
pub fn disjoint(mut nets: Vec<IpNet>) -> Vec<IpNet> {
    nets.sort_by_key(|net| (net.network(), net.prefix_len()));
    let mut kept: Vec<IpNet> = Vec::with_capacity(nets.len());
    for net in nets {
        if !kept.last().is_some_and(|last| last.contains(&net)) {
            kept.push(net);
        }
    }
    kept
}

/// The name of the counter of what an address carries, in one direction.
pub fn counter(vm: VmId, net: IpNet, inbound: bool) -> String {
    let address = match net.network() {
        IpAddr::V4(ip) => format!("{:08x}", ip.to_bits()),
        IpAddr::V6(ip) => format!("{:032x}", ip.to_bits()),
    };
    format!("c_{vm}_{address}_{}_{}", net.prefix_len(), if inbound { "in" } else { "out" })
}

/// Reads a counter's name back.
pub fn counter_of(name: &str) -> Option<(VmId, IpNet, bool)> {
    let mut parts = name.strip_prefix("c_")?.split('_');
    let vm = parts.next()?.parse().ok()?;
    let address = parts.next()?;
    let ip: IpAddr = match address.len() {
        8 => std::net::Ipv4Addr::from_bits(u32::from_str_radix(address, 16).ok()?).into(),
        32 => Ipv6Addr::from_bits(u128::from_str_radix(address, 16).ok()?).into(),
        _ => return None,
    };
    let net = IpNet::new(ip, parts.next()?.parse().ok()?).ok()?;
    let inbound = match parts.next()? {
        "in" => true,
        "out" => false,
        _ => return None,
    };
    parts.next().is_none().then_some((vm, net, inbound))
}

/// The script that brings the kernel to a plan, from anything. `chains` are those that are there: family, name.
pub fn script(names: &Names, plan: &Plan, chains: &[(String, String)]) -> String {
    let table = names.table();
    let mut out = Lines::default();
    let (routed, bridged): (Vec<_>, Vec<_>) =
        plan.cards.iter().partition(|card| plan.routed && card.private.is_none());
    bridge_table(&mut out, names, &bridged, plan.serves);
    if plan.routed {
        arp_table(&mut out, names, &routed, plan.serves);
    } else {
        // To remove what may not be there, it is made first.
        out.line(format_args!("add table arp {table}\ndelete table arp {table}"));
    }
    inet_table(&mut out, names, plan, &routed);
    count_table(&mut out, table, plan);
    let is_gone = |(family, chain): &&(String, String)| {
        (plan.routed || family != "arp") && !out.chains.contains(&(family.clone(), chain.clone()))
    };
    let gone: Vec<_> = chains.iter().filter(is_gone).collect();
    // They refer to one another, too: emptied before any goes.
    let of_gone = |verb: &str| -> String {
        gone.iter().map(|(family, chain)| format!("{verb} chain {family} {table} {chain}\n")).collect()
    };
    let gone = of_gone("flush") + &of_gone("delete");
    // First all chains, then what is in them: they refer to one another.
    out.made + &out.filled + &gone
}

/// The script that leaves nothing.
pub fn nothing(names: &Names) -> String {
    let table = names.table();
    let tables = [("bridge", ""), ("inet", ""), ("arp", ""), ("inet", "_count")];
    tables.map(|(f, more)| format!("add table {f} {table}{more}\ndelete table {f} {table}{more}\n")).concat()
}

/// A script under way.
#[derive(Default)]
struct Lines {
    made: String,
    filled: String,
    chains: BTreeSet<(String, String)>,
}

impl Lines {
    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        writeln!(self.made, "{text}").expect("a String takes everything");
    }

    fn fill(&mut self, text: std::fmt::Arguments<'_>) {
        writeln!(self.filled, "{text}").expect("a String takes everything");
    }

    /// A chain with these rules and no others. It is of a table `FAMILY NAME`.
    fn chain(&mut self, table: &str, name: &str, hook: &str, rules: impl IntoIterator<Item = String>) {
        let hook = match hook {
            "" => String::new(),
            hook => format!(" {{ type filter hook {hook}; policy accept; }}"),
        };
        self.line(format_args!("add chain {table} {name}{hook}"));
        self.line(format_args!("flush chain {table} {name}"));
        for rule in rules {
            self.fill(format_args!("add rule {table} {name} {rule}"));
        }
        let family = table.split(' ').next().unwrap_or_default();
        self.chains.insert((family.to_owned(), name.to_owned()));
    }

    /// A map with these elements and no others.
    fn map(&mut self, table: &str, name: &str, kind: &str, elements: &[String]) {
        self.line(format_args!("add map {table} {name} {{ type {kind}; }}"));
        self.fill(format_args!("flush map {table} {name}"));
        if !elements.is_empty() {
            self.fill(format_args!("add element {table} {name} {{ {} }}", elements.join(", ")));
        }
    }

    /// Sends what comes from a card to its chain. From a card that is not known, nothing is heard.
    fn dispatch(&mut self, table: &str, names: &Names, to: &str, cards: &[&Card]) -> [String; 2] {
        let elements: Vec<_> =
            cards.iter().map(|card| format!("\"{0}\" : goto {to}_{0}", card.tap)).collect();
        self.map(table, "cards", "ifname : verdict", &elements);
        ["iifname vmap @cards".to_owned(), format!("iifname \"{}\" drop", names.taps())]
    }
}

fn bridge_table(out: &mut Lines, names: &Names, cards: &[&Card], serves: bool) {
    let table = &format!("bridge {}", names.table());
    out.line(format_args!("add table {table}"));
    for card in cards {
        let tap = &card.tap;
        out.chain(table, &format!("nd_{tap}"), "", neighbour_rules(card, true));
        out.chain(table, &format!("arp_{tap}"), "", arp_rules(card, serves));
        let mut rules = vec![
            format!("ether saddr != {} drop", card.mac()),
            "ether type != { ip, ip6, arp } drop".to_owned(),
            format!("ether type arp goto arp_{tap}"),
        ];
        rules.extend(ip_rules(card, true, serves));
        out.chain(table, &format!("from_{tap}"), "", rules);
    }
    let rules = out.dispatch(table, names, "from", cards);
    out.chain(table, "prerouting", "prerouting priority -300", rules);
}

fn arp_table(out: &mut Lines, names: &Names, cards: &[&Card], serves: bool) {
    let table = &format!("arp {}", names.table());
    out.line(format_args!("add table {table}"));
    for card in cards {
        out.chain(table, &format!("arp_{}", card.tap), "", arp_rules(card, serves));
    }
    let rules = out.dispatch(table, names, "arp", cards);
    out.chain(table, "input", "input priority 0", rules);
}

fn inet_table(out: &mut Lines, names: &Names, plan: &Plan, routed: &[&Card]) {
    let table = &format!("inet {}", names.table());
    out.line(format_args!("add table {table}"));
    let mut early = network_rules(plan);
    for card in routed {
        out.chain(table, &format!("nd_{}", card.tap), "", neighbour_rules(card, false));
        let mut rules = vec![format!("ether saddr != {} drop", card.mac())];
        rules.extend(ip_rules(card, false, plan.serves));
        out.chain(table, &format!("from_{}", card.tap), "", rules);
    }
    // Also where no card is routed: another agent before this one may have routed.
    let dispatch = out.dispatch(table, names, "from", routed);
    if plan.routed {
        early.extend(dispatch);
    }
    out.chain(table, "prerouting", "prerouting priority -300", early);

    let mut forward = Vec::new();
    if let Some(bridges) = bridges(plan) {
        forward.push(format!("iifname {bridges} accept"));
    }
    let fenced: Vec<_> = public(plan).filter_map(|card| Some((card, card.firewall.as_ref()?))).collect();
    for (card, firewall) in &fenced {
        out.chain(table, &format!("in_{}", card.tap), "", firewall_rules(&firewall.inbound, "saddr"));
        if let Some(outbound) = &firewall.outbound {
            out.chain(table, &format!("out_{}", card.tap), "", firewall_rules(outbound, "daddr"));
        }
    }
    let outward = |firewall: &Firewall| firewall.outbound.is_some();
    let all = |_: &Firewall| true;
    for (direction, side, has) in [("out", "saddr", &outward as &dyn Fn(&_) -> bool), ("in", "daddr", &all)] {
        for (family, v4) in [("ip", true), ("ip6", false)] {
            let cards = fenced.iter().filter(|(_, firewall)| has(firewall)).map(|(card, _)| *card);
            let elements = elements(cards, v4, |card, _| format!("jump {direction}_{}", card.tap));
            let map = format!("{family}_{direction}");
            out.map(table, &map, &format!("{} : verdict; flags interval", address_type(v4)), &elements);
            forward.push(format!("{family} {side} vmap @{map}"));
        }
    }
    out.chain(table, "forward", "forward priority 0", forward);
}

/// What is said of private networks before anything else: connections in them are not tracked, and frames
/// of theirs come from their nodes alone.
fn network_rules(plan: &Plan) -> Vec<String> {
    // Two projects use the same addresses: their connections must not be taken for one another's.
    let mut rules: Vec<_> =
        bridges(plan).map(|bridges| format!("iifname {bridges} notrack accept")).into_iter().collect();
    for (id, (_, nodes)) in &plan.networks {
        // The VXLAN network identifier stands 12 bytes behind the UDP header's beginning.
        let of_network = format!("udp dport {VXLAN_PORT} @th,96,24 {id}");
        for (family, v4) in [("ip", true), ("ip6", false)] {
            let nodes: Vec<IpNet> =
                disjoint(nodes.iter().filter(|ip| ip.is_ipv4() == v4).map(|ip| IpNet::from(*ip)).collect());
            let protocol = if v4 { "ipv4" } else { "ipv6" };
            rules.push(match nodes.is_empty() {
                true => format!("meta nfproto {protocol} {of_network} drop"),
                false => format!("{family} saddr != {} {of_network} drop", set(&nodes)),
            });
        }
    }
    rules
}

/// The bridges of all private networks, as a set.
fn bridges(plan: &Plan) -> Option<String> {
    let bridges: Vec<_> = plan.networks.values().map(|(bridge, _)| format!("\"{bridge}\"")).collect();
    (!bridges.is_empty()).then(|| format!("{{ {} }}", bridges.join(", ")))
}

fn address_type(v4: bool) -> &'static str {
    if v4 { "ipv4_addr" } else { "ipv6_addr" }
}

fn count_table(out: &mut Lines, table: &str, plan: &Plan) {
    let table = &format!("inet {table}_count");
    out.line(format_args!("add table {table}"));
    // Before the maps, or nft does not find them.
    for name in counters(plan) {
        out.line(format_args!("add counter {table} {name}"));
    }
    let mut rules = Vec::new();
    for (family, v4) in [("ip", true), ("ip6", false)] {
        for (inbound, direction, side) in [(true, "in", "daddr"), (false, "out", "saddr")] {
            let map = format!("{family}_{direction}");
            let all =
                elements(public(plan), v4, |card, net| format!("\"{}\"", counter(card.vm, net, inbound)));
            out.map(table, &map, &format!("{} : counter; flags interval", address_type(v4)), &all);
            rules.push(format!("counter name {family} {side} map @{map}"));
        }
    }
    out.chain(table, "forward", "forward priority 10", rules);
}

/// The names of all counters in use.
pub fn counters(plan: &Plan) -> impl Iterator<Item = String> {
    public(plan).flat_map(|card| {
        card.own.iter().flat_map(|net| [true, false].map(|inbound| counter(card.vm, *net, inbound)))
    })
}

fn public(plan: &Plan) -> impl Iterator<Item = &Card> {
    plan.cards.iter().filter(|card| card.private.is_none())
}

/// `ADDRESS : VALUE` for a map of a family. An address that two cards have goes to the larger network, else
/// to the first: that is refused before, and a map with both would be refused whole.
fn elements<'a>(
    cards: impl Iterator<Item = &'a Card>,
    v4: bool,
    value: impl Fn(&Card, IpNet) -> String,
) -> Vec<String> {
    let mut all: Vec<(IpNet, &Card)> =
        cards.flat_map(|card| card.of_family(v4).into_iter().map(move |net| (net, card))).collect();
    all.sort_by_key(|(net, _)| (net.network(), net.prefix_len()));
    let mut last: Option<IpNet> = None;
    let mut elements = Vec::with_capacity(all.len());
    for (net, card) in all {
        if !last.is_some_and(|last| last.contains(&net)) {
            elements.push(format!("{} : {}", text(net), value(card, net)));
            last = Some(net);
        }
    }
    elements
}

/// An address in ARP: its own, or none yet.
fn arp_rules(card: &Card, serves: bool) -> Vec<String> {
    let mut rules = vec![format!("arp saddr ether != {} drop", card.mac())];
    if serves {
        rules.push(format!("arp daddr ip {SERVICE_V4} drop"));
    }
    if card.open {
        rules.push("accept".to_owned());
        return rules;
    }
    let mut nets = card.of_family(true);
    nets.push(IpNet::from(IpAddr::from([0, 0, 0, 0])));
    rules.extend([format!("arp saddr ip {} accept", set(&disjoint(nets))), "drop".to_owned()]);
    rules
}

/// Of whom a guest may speak in neighbour discovery: of its own addresses.
fn neighbour_rules(card: &Card, on_bridge: bool) -> Vec<String> {
    let target = |net: IpNet| {
        let IpNet::V6(net) = net else { return None };
        let (value, mask) = (net.network().to_bits(), net.netmask().to_bits());
        Some(match net.prefix_len() {
            0 => "return".to_owned(),
            128 => format!("@th,64,128 {value:#034x} return"),
            _ => format!("@th,64,128 & {mask:#034x} == {value:#034x} return"),
        })
    };
    let mut rules = Vec::new();
    if on_bridge {
        rules.extend(target(IpNet::from(IpAddr::from(card.link_local()))));
    } else {
        rules.push(format!("@th,64,128 {:#034x} drop", GATEWAY_V6.to_bits()));
        rules.extend(target(link_locals()));
    }
    rules.extend(card.of_family(false).into_iter().filter_map(target));
    rules.push("drop".to_owned());
    rules
}

fn link_locals() -> IpNet {
    "fe80::/10".parse().expect("it is a network")
}

/// What IP a guest may send. One without a fixed address may use any, but still serves no DHCP and no route.
fn ip_rules(card: &Card, on_bridge: bool, serves: bool) -> Vec<String> {
    let mut rules = vec![
        "udp sport { 67, 547 } drop".to_owned(),
        "icmp type { redirect, router-advertisement } drop".to_owned(),
        "icmpv6 type { nd-router-advert, nd-redirect } drop".to_owned(),
    ];
    if serves {
        // The agent has heard it.
        rules.push(format!("ip daddr {SERVICE_V4} drop"));
    }
    if card.open {
        rules.push("accept".to_owned());
        return rules;
    }
    if serves {
        rules.extend(
            [
                "ip daddr 255.255.255.255 udp dport 67 drop",
                "ip6 daddr ff02::/16 udp dport 547 drop",
                "icmpv6 type nd-router-solicit drop",
            ]
            .map(str::to_owned),
        );
    }
    rules.push("ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept".to_owned());
    let (v4, mut v6) = (card.of_family(true), card.of_family(false));
    if !v4.is_empty() {
        rules.push(format!("ip saddr {} accept", set(&v4)));
    }
    rules.push("meta protocol ip drop".to_owned());
    if on_bridge {
        v6.push(IpNet::from(IpAddr::from(card.link_local())));
    } else {
        rules.push(format!("ip6 saddr {GATEWAY_V6} drop"));
        v6.push(link_locals());
    }
    rules.extend([
        format!("icmpv6 type nd-neighbor-advert jump nd_{}", card.tap),
        format!("ip6 saddr :: icmpv6 type nd-neighbor-solicit jump nd_{}", card.tap),
        "ip6 saddr :: icmpv6 type { nd-router-solicit, nd-neighbor-solicit, mld2-listener-report } accept"
            .to_owned(),
        format!("ip6 saddr {} accept", set(&disjoint(v6))),
        "drop".to_owned(),
    ]);
    rules
}

fn firewall_rules(rules: &[FirewallRule], peer: &str) -> Vec<String> {
    let mut lines = vec![
        "ct state established,related return".to_owned(),
        "ct state invalid drop".to_owned(),
        // On a bridge, neighbours ask for each other here.
        "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } return".to_owned(),
    ];
    lines.extend(rules.iter().flat_map(|rule| firewall_rule(rule, peer)));
    lines.push("drop".to_owned());
    lines
}

fn firewall_rule(rule: &FirewallRule, peer: &str) -> Vec<String> {
    let what = match (rule.protocol, rule.ports) {
        (FirewallProtocol::Tcp, Some(ports)) => format!("tcp dport {ports}"),
        (FirewallProtocol::Udp, Some(ports)) => format!("udp dport {ports}"),
        (FirewallProtocol::Tcp, None) => "meta l4proto tcp".to_owned(),
        (FirewallProtocol::Udp, None) => "meta l4proto udp".to_owned(),
        (FirewallProtocol::Icmp, _) => "meta l4proto { icmp, ipv6-icmp }".to_owned(),
        (FirewallProtocol::Gre, _) => "meta l4proto gre".to_owned(),
        (FirewallProtocol::Esp, _) => "meta l4proto esp".to_owned(),
    };
    if rule.peers.is_empty() {
        return vec![format!("{what} return")];
    }
    let of = |family: &str, protocol: &str, v4: bool| {
        let peers: Vec<IpNet> =
            disjoint(rule.peers.iter().filter(|net| net.addr().is_ipv4() == v4).map(IpNet::trunc).collect());
        match peers.as_slice() {
            [] => None,
            [all] if all.prefix_len() == 0 => Some(format!("meta nfproto {protocol} {what} return")),
            peers => Some(format!("{family} {peer} {} {what} return", set(peers))),
        }
    };
    [of("ip", "ipv4", true), of("ip6", "ipv6", false)].into_iter().flatten().collect()
}

fn set(nets: &[IpNet]) -> String {
    let nets: Vec<_> = nets.iter().map(|net| text(*net)).collect();
    format!("{{ {} }}", nets.join(", "))
}

/// An address without the length of its prefix where it stands alone.
fn text(net: IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.network().to_string() } else { net.trunc().to_string() }
}

#[cfg(test)]
mod tests;
