//! Which addresses of a network are handed out. Pure.
//!
//! A pool counts in *units*: IPv4 addresses, or IPv6 networks of 64 bits, each known by its first address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, bail, ensure};
use ipnet::IpNet;

/// Most units of one pool: an IPv4 /16, an IPv6 /48.
pub const UNITS_MAX: u64 = 65_536;
/// Length of the prefix of the IPv6 networks that are handed out.
pub const IPV6_PREFIX: u8 = 64;
/// The gateway of IPv6 pools for which nobody names another: the node's own, where it routes.
const IPV6_GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// A network of the operator's, and what of it is handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// The network, or for IPv6 the prefix from which networks are cut.
    pub network: IpNet,
    /// Where its holders send everything else.
    pub gateway: IpAddr,
    /// First and last unit of each range; in order, and none touches the next.
    ranges: Vec<(u64, u64)>,
}

/// A pool as an operator writes it.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    /// `10.77.0.0/24`, `2001:db8:7::/48`
    pub cidr: &'a str,
    /// For IPv6 `fe80::1` if not said.
    pub gateway: Option<IpAddr>,
    /// `10.77.0.10-10.77.0.99`, `10.77.0.7`, `10.77.0.64/26`; all that can be used if there are none.
    pub ranges: &'a [String],
    /// The same, of what is not handed out.
    pub reserved: &'a [String],
}

impl Pool {
    /// Reads a pool.
    ///
    /// # Errors
    /// A sentence that begins with the key that is wrong.
    pub fn read(written: &Written<'_>) -> anyhow::Result<Self> {
        let network = network(written.cidr)?;
        let gateway = gateway(written.gateway, network)?;
        let whole = (unit_of(network.network()), unit_of(network.broadcast()));
        let read = |key: &'static str, texts: &[String]| -> anyhow::Result<Vec<(u64, u64)>> {
            texts
                .iter()
                .map(|text| range(text, network).with_context(|| format!("{key}: “{text}”")))
                .collect()
        };
        let mut ranges = joined(read("ranges", written.ranges)?);
        let mut reserved = read("reserved", written.reserved)?;
        if ranges.is_empty() {
            ranges.push(whole);
            reserved.extend(never_of_a_whole(network, gateway, whole));
        }
        let ranges = without(ranges, &joined(reserved));
        let pool = Self { network, gateway, ranges };
        ensure!(!pool.is_empty(), "ranges: nothing is left to hand out");
        ensure!(
            pool.len() <= UNITS_MAX,
            "ranges: a pool has at most {UNITS_MAX} addresses, or networks of IPv6; these are {}",
            pool.len()
        );
        let hits_gateway = pool.has(gateway);
        ensure!(!hits_gateway, "gateway: {gateway} would be handed out");
        Ok(pool)
    }

    /// How many units it hands out.
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|(first, last)| (last - first).saturating_add(1)).fold(0, u64::saturating_add)
    }

    /// Does it hand out nothing? One that was read does not.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Is the address in what it hands out?
    pub fn has(&self, ip: IpAddr) -> bool {
        let unit = unit_of(ip);
        self.network.contains(&ip) && self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&unit))
    }

    /// The first address of every unit, in order.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let v4 = self.network.addr().is_ipv4();
        self.ranges.iter().flat_map(move |(first, last)| (*first..=*last).map(move |unit| first_of(unit, v4)))
    }

    /// First and last address of each range that it hands out, in order.
    pub fn spans(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> + '_ {
        let v4 = self.network.addr().is_ipv4();
        self.ranges.iter().map(move |(first, last)| (first_of(*first, v4), first_of(*last, v4)))
    }

    /// The prefix that holders of a unit are told: they share an IPv4 network, and have an IPv6 network of their own.
    pub fn prefix(&self) -> u8 {
        match self.network {
            IpNet::V4(network) => network.prefix_len(),
            IpNet::V6(_) => IPV6_PREFIX,
        }
    }
}

fn network(cidr: &str) -> anyhow::Result<IpNet> {
    let network: IpNet =
        cidr.parse().ok().with_context(|| format!("cidr: “{cidr}” is not a network like 10.77.0.0/24"))?;
    ensure!(network == network.trunc(), "cidr: “{cidr}” has bits set beyond its prefix");
    match network {
        IpNet::V4(v4) => ensure!(v4.prefix_len() >= 8, "cidr: “{cidr}” is larger than a /8"),
        IpNet::V6(v6) => {
            let fits = (16..=IPV6_PREFIX).contains(&v6.prefix_len());
            ensure!(fits, "cidr: “{cidr}”: networks of 64 bits are cut from a /16 to /64");
        }
    }
    Ok(network)
}

fn gateway(named: Option<IpAddr>, network: IpNet) -> anyhow::Result<IpAddr> {
    match (named, network) {
        (Some(ip @ IpAddr::V4(_)), IpNet::V4(_)) => {
            ensure!(network.contains(&ip), "gateway: {ip} is not in {network}");
            Ok(ip)
        }
        (None, IpNet::V4(_)) => bail!("gateway: name the router of {network}"),
        // Nobody shares a network with its holder, so only an address of the link itself is reached.
        (Some(IpAddr::V6(ip)), IpNet::V6(_)) if ip.is_unicast_link_local() => Ok(IpAddr::V6(ip)),
        (None, IpNet::V6(_)) => Ok(IpAddr::V6(IPV6_GATEWAY)),
        (Some(ip), IpNet::V4(_)) => bail!("gateway: {ip} is not in {network}"),
        (Some(ip), IpNet::V6(_)) => bail!("gateway: {ip} is not an address of the link, like fe80::1"),
    }
}

/// What nobody means to hand out who names a network without ranges: its router, and its first and last address.
fn never_of_a_whole(network: IpNet, gateway: IpAddr, (first, last): (u64, u64)) -> Vec<(u64, u64)> {
    let IpNet::V4(v4) = network else { return Vec::new() };
    let mut never = vec![(unit_of(gateway), unit_of(gateway))];
    if v4.prefix_len() < 31 {
        never.extend([(first, first), (last, last)]);
    }
    never
}

fn range(text: &str, network: IpNet) -> anyhow::Result<(u64, u64)> {
    let (first, last) = if let Some((first, last)) = text.split_once('-') {
        (unit(first, network)?, unit(last, network)?)
    } else if text.contains('/') {
        let part: IpNet = text.parse().context("this is not a network")?;
        ensure!(part == part.trunc(), "it has bits set beyond its prefix");
        ensure!(network.contains(&part), "it is not in {network}");
        ensure!(part.addr().is_ipv4() || part.prefix_len() <= IPV6_PREFIX, "it is smaller than a /64");
        (unit_of(part.network()), unit_of(part.broadcast()))
    } else {
        let unit = unit(text, network)?;
        (unit, unit)
    };
    ensure!(first <= last, "the last comes before the first");
    Ok((first, last))
}

fn unit(text: &str, network: IpNet) -> anyhow::Result<u64> {
    let ip: IpAddr = text.trim().parse().with_context(|| format!("{text} is not an address"))?;
    ensure!(network.contains(&ip), "{ip} is not in {network}");
    let unit = unit_of(ip);
    ensure!(first_of(unit, ip.is_ipv4()) == ip, "{ip} is not the first address of a /64");
    Ok(unit)
}

fn unit_of(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => u64::try_from(ip.to_bits() >> 64).unwrap_or(u64::MAX),
    }
}

fn first_of(unit: u64, v4: bool) -> IpAddr {
    match (v4, u32::try_from(unit)) {
        (true, Ok(bits)) => IpAddr::V4(Ipv4Addr::from_bits(bits)),
        _ => IpAddr::V6(Ipv6Addr::from_bits(u128::from(unit) << 64)),
    }
}

/// The same units, in order, each range apart from the next.
fn joined(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match out.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => out.push((first, last)),
        }
    }
    out
}

/// What is left of the ranges without the others; both as [`joined`] makes them.
fn without(ranges: Vec<(u64, u64)>, others: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    for (first, last) in ranges {
        // What is left begins here; none when the end is cut off.
        let mut begin = Some(first);
        for &(from, to) in others.iter().filter(|(from, to)| *from <= last && *to >= first) {
            let Some(at) = begin else { break };
            if from > at {
                left.push((at, from - 1));
            }
            begin = to.checked_add(1).filter(|next| *next <= last);
        }
        left.extend(begin.map(|at| (at, last)));
    }
    left
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn read(cidr: &str, gateway: &str, ranges: &[&str], reserved: &[&str]) -> anyhow::Result<Pool> {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let (ranges, reserved) = (owned(ranges), owned(reserved));
        let gateway = gateway.parse().ok();
        Pool::read(&Written { cidr, gateway, ranges: &ranges, reserved: &reserved })
    }

    fn texts(pool: &Pool) -> Vec<String> {
        pool.addresses().map(|ip| ip.to_string()).collect()
    }

    #[test]
    fn a_network_without_ranges_is_handed_out_without_its_router_and_its_ends() {
        let pool = read("10.0.0.0/29", "10.0.0.1", &[], &["10.0.0.4-10.0.0.5"]).unwrap();
        assert_eq!(texts(&pool), ["10.0.0.2", "10.0.0.3", "10.0.0.6"]);
        assert_eq!((pool.len(), pool.prefix()), (3, 29));
        let pool = read("2001:db8:7::/62", "", &[], &["2001:db8:7::/64"]).unwrap();
        assert_eq!(texts(&pool), ["2001:db8:7:1::", "2001:db8:7:2::", "2001:db8:7:3::"]);
        assert_eq!((pool.gateway.to_string().as_str(), pool.prefix()), ("fe80::1", 64));
        assert_eq!(read("2001:db8::/48", "", &[], &[]).unwrap().len(), UNITS_MAX);
    }

    #[test]
    fn ranges_may_be_networks_single_addresses_and_overlap() {
        let ranges = ["10.0.0.8/30", "10.0.0.10-10.0.0.13", "10.0.0.20"];
        let pool = read("10.0.0.0/24", "10.0.0.1", &ranges, &["10.0.0.9"]).unwrap();
        let last: Vec<_> = pool.addresses().map(|ip| ip.to_string().split_off(7)).collect();
        assert_eq!(last, ["8", "10", "11", "12", "13", "20"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (cidr, gateway, ranges, reserved, key) in [
            ("10.0.0.0/33", "10.0.0.1", &[][..], &[][..], "cidr"),
            ("10.0.0.1/24", "10.0.0.1", &[], &[], "cidr"),
            ("2001:db8::/65", "", &[], &[], "cidr"),
            ("10.0.0.0/24", "", &[], &[], "gateway"),
            ("10.0.0.0/24", "10.0.1.1", &[], &[], "gateway"),
            ("10.0.0.0/24", "fe80::1", &[], &[], "gateway"),
            ("10.0.0.0/24", "10.0.0.1", &["10.0.0.0-10.0.0.9"], &[], "gateway"),
            ("2001:db8::/48", "2001:db8::1", &[], &[], "gateway"),
            ("2001:db8::/47", "", &[], &[], "ranges"),
            ("10.0.0.0/8", "10.0.0.1", &[], &[], "ranges"),
            ("10.0.0.0/24", "10.0.0.1", &["10.0.0.9-10.0.0.8"], &[], "ranges"),
            ("10.0.0.0/24", "10.0.0.1", &["10.0.1.9"], &[], "ranges"),
            ("10.0.0.0/24", "10.0.0.1", &["10.0.0.8"], &["10.0.0.8"], "ranges"),
            ("2001:db8::/48", "", &["2001:db8::1"], &[], "ranges"),
            ("2001:db8::/48", "", &[], &["2001:db8::/65"], "reserved"),
            ("10.0.0.0/24", "10.0.0.1", &[], &["x"], "reserved"),
        ] {
            let said = format!("{:#}", read(cidr, gateway, ranges, reserved).unwrap_err());
            assert!(said.starts_with(key), "{cidr} {gateway} {ranges:?} {reserved:?}: {said}");
        }
    }

    fn some_ranges() -> impl Strategy<Value = Vec<(u64, u64)>> {
        proptest::collection::vec((0u64..256, 0u64..40), 0..8)
            .prop_map(|list| list.into_iter().map(|(first, more)| (first, (first + more).min(255))).collect())
    }

    proptest! {
        #[test]
        fn a_pool_is_exactly_its_ranges_without_what_is_reserved(
            v4: bool, ranges in some_ranges(), reserved in some_ranges(),
        ) {
            let (cidr, base) = if v4 { ("10.9.8.0/24", 0x0a09_0800) } else { ("2001:db8:7:100::/56", 0x2001_0db8_0007_0100) };
            let text = |(first, last): &(u64, u64)| {
                format!("{}-{}", first_of(base + first, v4), first_of(base + last, v4))
            };
            let written: Vec<String> = ranges.iter().map(text).collect();
            let kept: Vec<String> = reserved.iter().map(text).collect();
            // A router in a corner that is never handed out here, for IPv4 only.
            let router = first_of(base + 255, true);
            let kept = if v4 { [kept, vec![router.to_string()]].concat() } else { kept };
            let is_in = |unit: u64, list: &[(u64, u64)]| list.iter().any(|(a, b)| (*a..=*b).contains(&unit));
            let wanted: BTreeSet<IpAddr> = (0..256)
                .filter(|&unit| is_in(unit, &ranges) || ranges.is_empty() && !(v4 && unit == 0))
                .filter(|&unit| !(is_in(unit, &reserved) || v4 && unit == 255))
                .map(|unit| first_of(base + unit, v4))
                .collect();
            let gateway = v4.then_some(router);
            match Pool::read(&Written { cidr, gateway, ranges: &written, reserved: &kept }) {
                Err(error) => prop_assert!(wanted.is_empty(), "{error:#}"),
                Ok(pool) => {
                    let handed: Vec<IpAddr> = pool.addresses().collect();
                    prop_assert!(handed.is_sorted(), "in order");
                    prop_assert_eq!(handed.len() as u64, pool.len(), "none twice");
                    prop_assert!(handed.iter().all(|ip| pool.has(*ip) && pool.network.contains(ip)));
                    let in_spans = |ip: &IpAddr| pool.spans().any(|(first, last)| first <= *ip && *ip <= last);
                    prop_assert!(handed.iter().all(in_spans));
                    prop_assert_eq!(handed.into_iter().collect::<BTreeSet<_>>(), wanted);
                }
            }
        }

        #[test]
        fn networks_of_64_bits_never_overlap(first in 0u64..1000, count in 1u64..200) {
            let text = |unit| first_of(0x2001_0db8_0000_0000 + unit, false);
            let range = [format!("{}-{}", text(first), text(first + count - 1))];
            let pool = Pool::read(&Written { cidr: "2001:db8::/32", gateway: None, ranges: &range, reserved: &[] }).unwrap();
            let nets: Vec<IpNet> = pool.addresses().map(|ip| IpNet::new(ip, IPV6_PREFIX).unwrap()).collect();
            prop_assert_eq!(nets.len() as u64, count);
            prop_assert!(nets.iter().all(|net| *net == net.trunc() && pool.network.contains(net)));
            prop_assert!(nets.windows(2).all(|two| !two[0].contains(&two[1]) && !two[1].contains(&two[0])));
        }
    }
}
