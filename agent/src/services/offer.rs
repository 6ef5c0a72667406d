//! What a card is told, decided from its VM's spec alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use berth_model::agent::function::Mac;
use berth_model::agent::{Nic, NicRoute, VmSpec};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use smoltcp::wire::EthernetAddress;

use super::SERVICE_V4;
use crate::network::PRIVATE_MTU;

/// The largest packet of a public card: every network carries that.
const PUBLIC_MTU: u32 = 1500;
/// The length of a prefix from which a guest makes addresses by itself (RFC 4862).
const AUTONOMOUS_PREFIX: u8 = 64;

/// What a card is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The card's MAC address: nobody else is answered.
    pub mac: EthernetAddress,
    /// Its IPv4 address; without one DHCP stays silent.
    pub v4: Option<V4>,
    /// Its part of IPv6; without one routers stay silent.
    pub v6: Option<V6>,
    /// Networks behind neighbours.
    pub routes: Vec<NicRoute>,
    /// Name servers.
    pub name_servers: Vec<IpAddr>,
    /// The host name.
    pub hostname: String,
    /// The largest packet.
    pub mtu: u32,
}

/// An IPv4 address with its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct V4 {
    /// The address, with the length of its prefix.
    pub address: Ipv4Net,
    /// Where everything else goes.
    pub gateway: Option<Ipv4Addr>,
}

/// IPv6 addresses with their way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct V6 {
    /// Its addresses, given out by DHCPv6.
    pub addresses: Vec<Ipv6Addr>,
    /// The networks it is told of.
    pub prefixes: Vec<Prefix>,
    /// Where everything else goes. A router speaks of itself by its link-local address alone, so a gateway
    /// with another one cannot be told.
    pub gateway: Option<Ipv6Addr>,
}

/// A network in a router advertisement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// The network.
    pub net: Ipv6Net,
    /// Are its other addresses on the same wire?
    pub on_link: bool,
    /// May the guest make itself addresses in it?
    pub autonomous: bool,
}

impl Offer {
    /// What a card of a VM is told; `routed` where its frames go no further than the node. Nothing for a card
    /// whose MAC address is none.
    pub fn new(spec: &VmSpec, nic: &Nic, routed: bool) -> Option<Self> {
        let mac = Mac::new(&nic.mac)?;
        let routed = routed && nic.private.is_none();
        Some(Self {
            mac: mac_address(&mac)?,
            v4: v4(nic),
            v6: v6(nic, routed),
            routes: nic.routes.clone(),
            name_servers: spec.seed.name_servers.clone(),
            hostname: spec.seed.hostname.clone(),
            mtu: if nic.private.is_some() { PRIVATE_MTU } else { PUBLIC_MTU },
        })
    }

    /// The routes that DHCP tells of (option 121). Without a gateway `0.0.0.0`, the network is on the wire.
    pub fn routes_v4(&self) -> Vec<(Ipv4Net, Ipv4Addr)> {
        let Some(v4) = &self.v4 else { return Vec::new() };
        let alone = |ip: Ipv4Addr| (Ipv4Net::from(ip), Ipv4Addr::UNSPECIFIED);
        let mut routes = vec![alone(SERVICE_V4)];
        routes.extend(self.routes.iter().map(|route| (route.to, route.via)));
        if let Some(gateway) = v4.gateway {
            if !v4.address.contains(&gateway) || v4.address.prefix_len() == 32 {
                routes.push(alone(gateway));
            }
            routes.push((Ipv4Net::default(), gateway));
        }
        routes
    }

    /// Its name servers of one family.
    pub fn name_servers_v4(&self) -> Vec<Ipv4Addr> {
        let v4 = |ip: &IpAddr| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None };
        self.name_servers.iter().filter_map(v4).collect()
    }

    /// Those of the other.
    pub fn name_servers_v6(&self) -> Vec<Ipv6Addr> {
        let v6 = |ip: &IpAddr| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None };
        self.name_servers.iter().filter_map(v6).collect()
    }
}

fn mac_address(mac: &Mac) -> Option<EthernetAddress> {
    let mut bytes = [0; 6];
    for (byte, part) in bytes.iter_mut().zip(mac.as_str().split(':')) {
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    Some(EthernetAddress(bytes))
}

fn v4(nic: &Nic) -> Option<V4> {
    nic.addresses.iter().find_map(|address| {
        let IpNet::V4(net) = IpNet::new(address.ip, address.prefix).ok()? else { return None };
        let gateway = address.gateway.and_then(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None });
        Some(V4 { address: net, gateway })
    })
}

fn v6(nic: &Nic, routed: bool) -> Option<V6> {
    let mut v6 = V6 { addresses: Vec::new(), prefixes: Vec::new(), gateway: None };
    let whole: Vec<Ipv6Net> = nic
        .networks
        .iter()
        .filter_map(|net| if let IpNet::V6(net) = net { Some(net.trunc()) } else { None })
        .collect();
    for address in &nic.addresses {
        let Ok(IpNet::V6(net)) = IpNet::new(address.ip, address.prefix) else { continue };
        v6.addresses.push(net.addr());
        let link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        if let Some(IpAddr::V6(gateway)) = address.gateway.filter(link_local) {
            v6.gateway.get_or_insert(gateway);
        }
        let prefix = net.trunc();
        let known = v6.prefixes.iter().any(|known| known.net == prefix);
        if (1..128).contains(&net.prefix_len()) && !known {
            // Nobody else is in a network of its own; and from a routed card, all go through the node.
            let own = whole.iter().any(|whole| whole.contains(&prefix));
            v6.prefixes.push(Prefix { net: prefix, on_link: !own && !routed, autonomous: false });
        }
    }
    for net in whole {
        // Where it has an address, it is to use that one, and not make others beside it.
        let has_address = v6.addresses.iter().any(|ip| net.contains(ip));
        if net.prefix_len() == AUTONOMOUS_PREFIX && !has_address {
            v6.prefixes.push(Prefix { net, on_link: false, autonomous: true });
        }
    }
    (!v6.addresses.is_empty() || !v6.prefixes.is_empty()).then_some(v6)
}
