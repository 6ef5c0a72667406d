//! Router advertisements (RFC 4861): the way out, the networks, name servers and the largest packet.

use std::net::Ipv6Addr;

use smoltcp::time::Duration;
use smoltcp::wire::{
    Icmpv6Message, Icmpv6Packet, IpProtocol, NdiscOption, NdiscOptionRepr, NdiscPrefixInfoFlags,
    NdiscPrefixInformation, NdiscRouterFlags,
};

use super::offer::{Offer, Prefix, V6};
use super::{LEASE_S, SERVICE_V6, frame};

/// How long a router holds without being told of again: the longest there is, some 18 hours (RFC 8319). An
/// agent that is down takes no guest's way out.
const ROUTER_LIFETIME_S: u16 = u16::MAX;
/// How long a guest prefers addresses of a network: a week.
const PREFERRED_S: u32 = 7 * 24 * 3600;
/// What packets begin with.
const HOP_LIMIT: u8 = 64;
/// The option of name servers (RFC 8106).
const RDNSS: u8 = 25;
/// Most name servers that are told.
const NAME_SERVERS_MAX: usize = 8;

/// Tells of the router, to the one who asked, or to whoever is there. Nothing where there is no IPv6.
pub fn advertise(offer: &Offer, to: Option<Ipv6Addr>) -> Option<Vec<u8>> {
    let v6 = offer.v6.as_ref()?;
    let servers = name_servers(&offer.name_servers_v6());
    let mut options = vec![NdiscOptionRepr::Mtu(offer.mtu)];
    options.extend(v6.prefixes.iter().map(|prefix| NdiscOptionRepr::PrefixInformation(information(prefix))));
    if let Some(data) = &servers {
        let length = u8::try_from((data.len() + 2) / 8).unwrap_or(u8::MAX);
        options.push(NdiscOptionRepr::Unknown { type_: RDNSS, length, data });
    }
    // A gateway speaks for itself when its neighbours ask for its MAC address.
    let from = v6.gateway.unwrap_or(SERVICE_V6);
    let to_ip = to.filter(|to| !to.is_unspecified()).unwrap_or(frame::ALL_NODES);
    let header = Icmpv6Packet::new_unchecked(&[Icmpv6Message::RouterAdvert.into()]).header_len();
    let length = header + options.iter().map(NdiscOptionRepr::buffer_len).sum::<usize>();
    let emit = |payload: &mut [u8]| {
        let mut message = Icmpv6Packet::new_unchecked(&mut *payload);
        message.set_msg_type(Icmpv6Message::RouterAdvert);
        message.set_msg_code(0);
        message.set_current_hop_limit(HOP_LIMIT);
        message.set_router_flags(flags(v6, servers.is_some()));
        message.set_router_lifetime(Duration::from_secs(v6.gateway.map_or(0, |_| ROUTER_LIFETIME_S).into()));
        message.set_reachable_time(Duration::ZERO);
        message.set_retrans_time(Duration::ZERO);
        let mut rest = &mut payload[header..];
        for option in &options {
            let (place, behind) = rest.split_at_mut(option.buffer_len());
            option.emit(&mut NdiscOption::new_unchecked(place));
            rest = behind;
        }
        Icmpv6Packet::new_unchecked(payload).fill_checksum(&from, &to_ip);
    };
    Some(frame::v6(offer.mac, from, to_ip, IpProtocol::Icmpv6, frame::HOP_LIMIT_ON_LINK, length, emit))
}

/// Addresses come by DHCPv6, and so may the rest.
fn flags(v6: &V6, has_servers: bool) -> NdiscRouterFlags {
    let mut flags = NdiscRouterFlags::empty();
    flags.set(NdiscRouterFlags::MANAGED, !v6.addresses.is_empty());
    flags.set(NdiscRouterFlags::OTHER, has_servers);
    flags
}

fn information(prefix: &Prefix) -> NdiscPrefixInformation {
    let mut flags = NdiscPrefixInfoFlags::empty();
    flags.set(NdiscPrefixInfoFlags::ON_LINK, prefix.on_link);
    flags.set(NdiscPrefixInfoFlags::ADDRCONF, prefix.autonomous);
    NdiscPrefixInformation {
        prefix_len: prefix.net.prefix_len(),
        flags,
        valid_lifetime: Duration::from_secs(LEASE_S.into()),
        preferred_lifetime: Duration::from_secs(PREFERRED_S.into()),
        prefix: prefix.net.network(),
    }
}

/// What stands in the option of name servers, behind its type and its length.
fn name_servers(servers: &[Ipv6Addr]) -> Option<Vec<u8>> {
    if servers.is_empty() {
        return None;
    }
    let mut data = vec![0, 0];
    data.extend(u32::from(ROUTER_LIFETIME_S).to_be_bytes());
    data.extend(servers.iter().take(NAME_SERVERS_MAX).flat_map(|server| server.octets()));
    Some(data)
}
