//! What is a good network, and which addresses servers get in it. Pure.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use berth_model::FieldError;
use berth_model::network::{NetworkCreate, NetworkUpdate, Route, SubnetCreate, SubnetKind};
use ipnet::Ipv4Net;

use crate::labels;
use crate::servers::rules::fault;

/// Most subnets of a network.
pub const SUBNETS_MAX: usize = 50;
/// Most routes of a network.
pub const ROUTES_MAX: usize = 100;
/// Most servers in a network.
pub const MEMBERS_MAX: usize = 100;
/// Most networks that a server is in.
pub const OF_SERVER_MAX: usize = 3;
/// Most alias addresses of a server in a network.
pub const ALIASES_MAX: usize = 5;
/// A network is as large as this or larger.
const NETWORK_PREFIX_MAX: u8 = 24;
/// A subnet is as large as this or larger.
const SUBNET_PREFIX_MAX: u8 = 30;
/// A subnet that was not named is as large as this, if the network is.
const SUBNET_PREFIX: u8 = 24;
/// The public gateway of servers elsewhere, which clients and systems may take for granted.
const RESERVED: Ipv4Addr = Ipv4Addr::new(172, 31, 1, 1);

/// The private ranges of RFC 1918, section 3.
const PRIVATE: [Ipv4Net; 3] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
];

/// A network's shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// All of it.
    pub range: Ipv4Net,
    /// Its parts, each with its network zone.
    pub subnets: Vec<(Ipv4Net, String)>,
    /// Where packets to other networks go.
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
}

/// The gateway of a network: its first address.
pub fn gateway(range: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from_bits(range.network().to_bits() | 1)
}

/// Have two ranges addresses in common?
pub fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(b) || b.contains(a)
}

fn is_private(net: &Ipv4Net) -> bool {
    PRIVATE.iter().any(|private| private.contains(net))
}

fn net(text: &str) -> Result<Ipv4Net, String> {
    let Ok(net) = text.parse::<Ipv4Net>() else {
        return Err("A range is written like 10.0.0.0/16.".to_owned());
    };
    if net != net.trunc() {
        return Err(format!("This is an address in the range {}. Name the range.", net.trunc()));
    }
    Ok(net)
}

/// A range of a network.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn range(text: &str) -> Result<Ipv4Net, String> {
    let net = net(text)?;
    if !is_private(&net) {
        return Err("A network is of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16.".to_owned());
    }
    if net.prefix_len() > NETWORK_PREFIX_MAX {
        return Err(format!("A network is a /{NETWORK_PREFIX_MAX} or larger."));
    }
    Ok(net)
}

/// The network's new range, in which its old one lies.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn wider(shape: &Shape, text: &str) -> Result<Ipv4Net, String> {
    let wider = range(text)?;
    if !wider.contains(&shape.range) {
        return Err(format!("A network only grows: its range {} must lie in the new one.", shape.range));
    }
    Ok(wider)
}

/// A network as those that are filtered by: everything is two halves.
pub fn halves_of_everything(net: Ipv4Net) -> Vec<Ipv4Net> {
    if net.prefix_len() > 0 {
        vec![net]
    } else {
        net.subnets(1).map_or_else(|_| Vec::new(), Iterator::collect)
    }
}

/// Everything that is wrong with a network's order by itself, beside its range, subnets and routes.
pub fn create_faults(create: &NetworkCreate) -> Vec<FieldError> {
    let mut faults = labels::named_faults(Some(&create.name), create.labels.as_ref());
    faults.extend(vswitch_fault(create.expose_routes_to_vswitch));
    if create.subnets.len() > SUBNETS_MAX {
        faults.push(fault("subnets", format!("A network has at most {SUBNETS_MAX} subnets.")));
    }
    if create.routes.len() > ROUTES_MAX {
        faults.push(fault("routes", format!("A network has at most {ROUTES_MAX} routes.")));
    }
    faults
}

/// Everything that is wrong with a change.
pub fn update_faults(update: &NetworkUpdate) -> Vec<FieldError> {
    let mut faults = labels::named_faults(update.name.as_deref(), update.labels.as_ref());
    faults.extend(vswitch_fault(update.expose_routes_to_vswitch));
    faults
}

fn vswitch_fault(exposes: Option<bool>) -> Option<FieldError> {
    let message = "There are no vSwitches to which routes could be exposed.";
    exposes.unwrap_or_default().then(|| fault("expose_routes_to_vswitch", message))
}

/// The shape that an order asks for, or everything that is wrong with it.
///
/// # Errors
/// The fields that are wrong.
pub fn ordered(create: &NetworkCreate, zones: &BTreeSet<String>) -> Result<Shape, Vec<FieldError>> {
    let mut faults = create_faults(create);
    let range = match range(&create.ip_range) {
        Ok(range) => range,
        Err(message) => {
            faults.push(fault("ip_range", message));
            return Err(faults);
        }
    };
    let mut shape = Shape { range, subnets: Vec::new(), routes: Vec::new() };
    for (at, asked) in create.subnets.iter().enumerate().take(SUBNETS_MAX) {
        match subnet(&shape, asked, zones, &format!("subnets[{at}].")) {
            Ok(subnet) => shape.subnets.push(subnet),
            Err(wrong) => faults.push(wrong),
        }
    }
    for (at, asked) in create.routes.iter().enumerate().take(ROUTES_MAX) {
        match route(&shape, asked, &format!("routes[{at}].")) {
            Ok(route) => shape.routes.push(route),
            Err(wrong) => faults.push(wrong),
        }
    }
    if faults.is_empty() { Ok(shape) } else { Err(faults) }
}

/// A subnet that can be added; `before` stands before its fields' names.
///
/// # Errors
/// The field that is wrong.
pub fn subnet(
    shape: &Shape,
    asked: &SubnetCreate,
    zones: &BTreeSet<String>,
    before: &str,
) -> Result<(Ipv4Net, String), FieldError> {
    let wrong = |field: &str, message: String| Err(fault(format!("{before}{field}"), message));
    if asked.kind == SubnetKind::Vswitch || asked.vswitch_id.is_some() {
        return wrong("type", "There are no vSwitches: a subnet has the type “cloud”.".to_owned());
    }
    if !zones.contains(&asked.network_zone) {
        let all: Vec<_> = zones.iter().map(String::as_str).collect();
        return wrong("network_zone", format!("There is no such network zone; there is {}.", all.join(", ")));
    }
    let gateway = gateway(shape.range).to_string();
    if asked.gateway.as_ref().is_some_and(|asked| !asked.is_empty() && *asked != gateway) {
        return wrong("gateway", format!("The gateway of this network is {gateway}."));
    }
    if shape.subnets.len() >= SUBNETS_MAX {
        return wrong("ip_range", format!("A network has at most {SUBNETS_MAX} subnets."));
    }
    let named = asked.ip_range.as_deref().filter(|text| !text.is_empty());
    let range = match named {
        None => match free_subnet(shape) {
            Some(range) => range,
            None => return wrong("ip_range", "The network has no free /24 left. Name a range.".to_owned()),
        },
        Some(text) => match net(text) {
            Ok(range) => range,
            Err(message) => return wrong("ip_range", message),
        },
    };
    match subnet_fault(shape, &range) {
        Some(message) => wrong("ip_range", message),
        None => Ok((range, asked.network_zone.clone())),
    }
}

fn subnet_fault(shape: &Shape, range: &Ipv4Net) -> Option<String> {
    if !shape.range.contains(range) {
        return Some(format!("A subnet lies in the network's range, {}.", shape.range));
    }
    if range.prefix_len() > SUBNET_PREFIX_MAX {
        return Some(format!("A subnet is a /{SUBNET_PREFIX_MAX} or larger."));
    }
    if let Some((other, _)) = shape.subnets.iter().find(|(other, _)| overlap(other, range)) {
        return Some(format!("The subnet {other} lies there."));
    }
    let other = shape.routes.iter().find(|(to, _)| to.prefix_len() > 0 && overlap(to, range));
    other.map(|(other, _)| format!("The route to {other} leads there."))
}

/// The first /24 of a network on which nothing lies.
fn free_subnet(shape: &Shape) -> Option<Ipv4Net> {
    let parts = shape.range.subnets(SUBNET_PREFIX.max(shape.range.prefix_len())).ok()?;
    parts.into_iter().find(|part| subnet_fault(shape, part).is_none())
}

/// A route that can be added; `before` stands before its fields' names.
///
/// # Errors
/// The field that is wrong.
pub fn route(shape: &Shape, asked: &Route, before: &str) -> Result<(Ipv4Net, Ipv4Addr), FieldError> {
    let wrong = |field: &str, message: String| Err(fault(format!("{before}{field}"), message));
    let to = match net(&asked.destination) {
        Ok(to) => to,
        Err(message) => return wrong("destination", message),
    };
    let Ok(via) = asked.gateway.parse::<Ipv4Addr>() else {
        return wrong("gateway", "An address is written like 10.0.1.1.".to_owned());
    };
    let is_default = to.prefix_len() == 0;
    if !is_default && !is_private(&to) {
        let message = "A route leads to 0.0.0.0/0 or into 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16.";
        return wrong("destination", message.to_owned());
    }
    if let Some((subnet, _)) = shape.subnets.iter().find(|(subnet, _)| !is_default && overlap(subnet, &to)) {
        return wrong("destination", format!("The subnet {subnet} lies there."));
    }
    let mut others = shape.routes.iter().filter(|(other, _)| (other.prefix_len() == 0) == is_default);
    if let Some((other, _)) = others.find(|(other, _)| overlap(other, &to)) {
        return wrong("destination", format!("The route to {other} leads there."));
    }
    let first = gateway(shape.range);
    if !is_default && (to.contains(&first) || to.contains(&RESERVED)) {
        return wrong("destination", format!("No route leads to {first} or {RESERVED}."));
    }
    if !shape.range.contains(&via) || via == first || via == RESERVED {
        let message =
            format!("A gateway is an address in {}, and neither {first} nor {RESERVED}.", shape.range);
        return wrong("gateway", message);
    }
    if shape.routes.len() >= ROUTES_MAX {
        return wrong("destination", format!("A network has at most {ROUTES_MAX} routes."));
    }
    Ok((to, via))
}

/// Can a server have this address of a network? Not the gateway, not the first and the last of a subnet.
fn is_usable(shape: &Shape, subnet: &Ipv4Net, ip: Ipv4Addr) -> bool {
    subnet.contains(&ip)
        && ip != subnet.network()
        && ip != subnet.broadcast()
        && ip != gateway(shape.range)
        && ip != RESERVED
}

/// Why a server gets no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAddress {
    /// No subnet of the server's network zone, or not the one that was named.
    NoSubnet,
    /// That one cannot be had.
    Unusable,
    /// That one, or all, are taken.
    Taken,
}

/// The address that a server in `zone` gets: the one that it asks for, or the first that is free, of the subnet that
/// is named, if one is.
///
/// # Errors
/// Why it gets none.
pub fn address(
    shape: &Shape,
    zone: &str,
    (ip, within): (Option<Ipv4Addr>, Option<&str>),
    taken: &BTreeSet<Ipv4Addr>,
) -> Result<Ipv4Addr, NoAddress> {
    let fits = |subnet: &Ipv4Net| within.is_none_or(|within| subnet.to_string() == within);
    let subnets: Vec<_> = shape
        .subnets
        .iter()
        .filter(|(subnet, of)| of == zone && fits(subnet))
        .map(|(subnet, _)| subnet)
        .collect();
    if subnets.is_empty() {
        return Err(NoAddress::NoSubnet);
    }
    match ip {
        Some(ip) if !subnets.iter().any(|subnet| is_usable(shape, subnet, ip)) => Err(NoAddress::Unusable),
        Some(ip) if taken.contains(&ip) => Err(NoAddress::Taken),
        Some(ip) => Ok(ip),
        None => {
            let mut all = subnets.iter().flat_map(|subnet| {
                subnet.hosts().filter(|ip| is_usable(shape, subnet, *ip) && !taken.contains(ip))
            });
            all.next().ok_or(NoAddress::Taken)
        }
    }
}

/// A MAC address of three random bytes: of those that nobody sells (locally administered).
pub fn mac(random: [u8; 3]) -> String {
    let [a, b, c] = random;
    format!("86:00:00:{a:02x}:{b:02x}:{c:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zones() -> BTreeSet<String> {
        BTreeSet::from(["eu".to_owned()])
    }

    fn asks(ip_range: &str) -> SubnetCreate {
        let ip_range = (!ip_range.is_empty()).then(|| ip_range.to_owned());
        SubnetCreate { ip_range, network_zone: "eu".to_owned(), ..SubnetCreate::default() }
    }

    fn leads(destination: &str, gateway: &str) -> Route {
        Route { destination: destination.to_owned(), gateway: gateway.to_owned() }
    }

    fn shape() -> Shape {
        let create = NetworkCreate {
            name: "n".to_owned(),
            ip_range: "10.0.0.0/16".to_owned(),
            subnets: vec![asks("10.0.1.0/29"), asks("")],
            routes: vec![leads("10.100.1.0/24", "10.0.1.2")],
            ..NetworkCreate::default()
        };
        ordered(&create, &zones()).expect("a good network")
    }

    #[test]
    fn a_network_is_private_and_large_enough() {
        for good in ["10.0.0.0/8", "172.16.0.0/12", "192.168.7.0/24"] {
            assert_eq!(range(good).map(|range| range.to_string()), Ok(good.to_owned()));
        }
        for bad in
            ["", "10.0.0.0", "10.0.0.1/16", "11.0.0.0/16", "10.0.0.0/25", "192.168.0.0/15", "fd00::/64"]
        {
            assert!(range(bad).is_err(), "{bad}");
        }
        assert!(wider(&shape(), "10.0.0.0/8").is_ok());
        assert!(wider(&shape(), "10.0.0.0/24").is_err());
        assert!(wider(&shape(), "192.168.0.0/16").is_err());
    }

    #[test]
    fn subnets_lie_in_the_network_beside_each_other() {
        let shape = shape();
        assert_eq!(shape.subnets[1].0.to_string(), "10.0.0.0/24", "the first that is free");
        for (bad, field) in [
            (asks("10.1.0.0/24"), "ip_range"),
            (asks("10.0.0.0/16"), "ip_range"),
            (asks("10.0.1.4/30"), "ip_range"),
            (asks("10.0.2.0/31"), "ip_range"),
            (asks("x"), "ip_range"),
            (SubnetCreate { network_zone: "mars".into(), ..asks("") }, "network_zone"),
            (SubnetCreate { kind: SubnetKind::Vswitch, ..asks("") }, "type"),
            (SubnetCreate { gateway: Some("10.0.0.9".into()), ..asks("") }, "gateway"),
        ] {
            assert_eq!(subnet(&shape, &bad, &zones(), "").expect_err("wrong").name, field, "{bad:?}");
        }
    }

    #[test]
    fn routes_lead_elsewhere_by_way_of_the_network() {
        let shape = shape();
        assert!(route(&shape, &leads("0.0.0.0/0", "10.0.1.2"), "").is_ok());
        for (to, via, field) in [
            ("10.0.1.0/24", "10.0.1.2", "destination"),
            ("10.100.0.0/16", "10.0.1.2", "destination"),
            ("8.8.8.0/24", "10.0.1.2", "destination"),
            ("x", "10.0.1.2", "destination"),
            ("10.101.0.0/24", "10.0.0.1", "gateway"),
            ("10.101.0.0/24", "172.31.1.1", "gateway"),
            ("10.101.0.0/24", "10.2.0.1", "gateway"),
            ("10.101.0.0/24", "", "gateway"),
        ] {
            assert_eq!(route(&shape, &leads(to, via), "").expect_err("wrong").name, field, "{to} {via}");
        }
    }

    #[test]
    fn a_server_gets_the_first_address_that_is_free_and_never_a_reserved_one() {
        let shape = shape();
        let ip = |text: &str| text.parse::<Ipv4Addr>().expect("an address");
        let get = |asked: Option<&str>, within, taken: &[&str]| {
            let taken = taken.iter().map(|text| ip(text)).collect();
            address(&shape, "eu", (asked.map(ip), within), &taken)
        };
        assert_eq!(get(None, None, &[]), Ok(ip("10.0.1.1")));
        assert_eq!(get(None, None, &["10.0.1.1", "10.0.1.2"]), Ok(ip("10.0.1.3")));
        let all = ["10.0.1.1", "10.0.1.2", "10.0.1.3", "10.0.1.4", "10.0.1.5", "10.0.1.6"];
        assert_eq!(get(None, None, &all), Ok(ip("10.0.0.2")), "10.0.0.1 is the gateway");
        assert_eq!(get(None, Some("10.0.1.0/29"), &all), Err(NoAddress::Taken));
        assert_eq!(get(None, Some("10.9.0.0/24"), &[]), Err(NoAddress::NoSubnet));
        assert_eq!(get(Some("10.0.1.4"), None, &[]), Ok(ip("10.0.1.4")));
        assert_eq!(get(Some("10.0.1.4"), None, &all), Err(NoAddress::Taken));
        for reserved in ["10.0.0.0", "10.0.0.1", "10.0.0.255", "10.0.1.7", "10.0.9.9"] {
            assert_eq!(get(Some(reserved), None, &[]), Err(NoAddress::Unusable), "{reserved}");
        }
        assert_eq!(address(&shape, "us", (None, None), &BTreeSet::new()), Err(NoAddress::NoSubnet));
    }
}
