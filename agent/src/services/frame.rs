//! Frames as they come out of a card and go into it: who is meant, and what is in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    Icmpv6Message, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr,
    NdiscNeighborFlags, NdiscRepr, UdpPacket, UdpRepr,
};

use super::{SERVICE_MAC, SERVICE_V4};

/// The longest frame that is read.
pub const FRAME_MAX_BYTES: usize = 2048;
/// DHCP's ports: server, client.
pub const DHCP: (u16, u16) = (67, 68);
/// DHCPv6's.
pub const DHCPV6: (u16, u16) = (547, 546);
/// What neighbours' messages have: they came through no router.
pub const HOP_LIMIT_ON_LINK: u8 = 255;
/// What others have.
const HOP_LIMIT: u8 = 64;
/// Whoever is on a link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: EthernetAddress = EthernetAddress([0x33, 0x33, 0, 0, 0, 1]);

/// What a guest asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    /// Who has the service's address?
    Arp {
        /// The guest's own address.
        from: Ipv4Addr,
    },
    /// A message for a DHCP server.
    Dhcp(&'a [u8]),
    /// A message for a DHCPv6 server.
    Dhcpv6 {
        /// The guest's link-local address.
        from: Ipv6Addr,
        /// The message.
        message: &'a [u8],
    },
    /// Is there a router?
    Router {
        /// The guest's link-local address, or none yet.
        from: Ipv6Addr,
    },
    /// An IPv4 packet to the service's address.
    Packet(&'a [u8]),
}

/// Reads a frame of the card with this MAC address. Nothing for what is damaged, from another, or not for us.
pub fn read(frame: &[u8], mac: EthernetAddress) -> Option<Asked<'_>> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    if frame.src_addr() != mac {
        return None;
    }
    match frame.ethertype() {
        EthernetProtocol::Arp => read_arp(frame.payload(), mac),
        EthernetProtocol::Ipv4 => read_v4(frame.payload()),
        EthernetProtocol::Ipv6 => read_v6(frame.payload()),
        _ => None,
    }
}

fn read_arp(payload: &[u8], mac: EthernetAddress) -> Option<Asked<'_>> {
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr: from,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&ArpPacket::new_checked(payload).ok()?).ok()?
    else {
        return None;
    };
    let ours = operation == ArpOperation::Request
        && source_hardware_addr == mac
        && target_protocol_addr == SERVICE_V4
        && from != SERVICE_V4;
    ours.then_some(Asked::Arp { from })
}

fn read_v4(payload: &[u8]) -> Option<Asked<'_>> {
    let packet = Ipv4Packet::new_checked(payload).ok()?;
    let to = packet.dst_addr();
    if packet.version() != 4 || packet.more_frags() || packet.frag_offset() != 0 {
        return None;
    }
    if packet.next_header() == IpProtocol::Udp && (to == SERVICE_V4 || to == Ipv4Addr::BROADCAST) {
        let udp = UdpPacket::new_checked(packet.payload()).ok()?;
        return (udp.dst_port() == DHCP.0).then(|| Asked::Dhcp(udp.payload()));
    }
    let from = packet.src_addr();
    let answerable =
        !from.is_unspecified() && !from.is_multicast() && !from.is_broadcast() && from != SERVICE_V4;
    (to == SERVICE_V4 && answerable).then(|| Asked::Packet(&payload[..usize::from(packet.total_len())]))
}

fn read_v6(payload: &[u8]) -> Option<Asked<'_>> {
    let packet = Ipv6Packet::new_checked(payload).ok()?;
    let from = packet.src_addr();
    match packet.next_header() {
        _ if packet.version() != 6 => None,
        IpProtocol::Icmpv6 => {
            let message = Icmpv6Packet::new_checked(packet.payload()).ok()?;
            let solicits = message.msg_type() == Icmpv6Message::RouterSolicit
                && packet.hop_limit() == HOP_LIMIT_ON_LINK
                && (from.is_unspecified() || from.is_unicast_link_local());
            solicits.then_some(Asked::Router { from })
        }
        IpProtocol::Udp if from.is_unicast_link_local() => {
            let udp = UdpPacket::new_checked(packet.payload()).ok()?;
            (udp.dst_port() == DHCPV6.0).then(|| Asked::Dhcpv6 { from, message: udp.payload() })
        }
        _ => None,
    }
}

/// “I have the service's address.”
pub fn arp(to: EthernetAddress, ip: Ipv4Addr) -> Vec<u8> {
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: SERVICE_MAC,
        source_protocol_addr: SERVICE_V4,
        target_hardware_addr: to,
        target_protocol_addr: ip,
    };
    ethernet(to, EthernetProtocol::Arp, reply.buffer_len(), |payload| {
        reply.emit(&mut ArpPacket::new_unchecked(payload));
    })
}

/// An IPv4 packet, as it is.
pub fn packet_v4(to: EthernetAddress, packet: &[u8]) -> Vec<u8> {
    ethernet(to, EthernetProtocol::Ipv4, packet.len(), |payload| payload.copy_from_slice(packet))
}

/// A UDP datagram, between these ports.
pub fn udp(
    to: EthernetAddress,
    from: impl Into<IpAddr>,
    to_ip: impl Into<IpAddr>,
    ports: (u16, u16),
    message: &[u8],
) -> Vec<u8> {
    let udp = UdpRepr { src_port: ports.0, dst_port: ports.1 };
    let (from, to_ip) = (from.into(), to_ip.into());
    let emit = |payload: &mut [u8]| {
        let emit = |place: &mut [u8]| place.copy_from_slice(message);
        let packet = &mut UdpPacket::new_unchecked(payload);
        udp.emit(packet, &from.into(), &to_ip.into(), message.len(), emit, &ChecksumCapabilities::default());
    };
    let length = udp.header_len() + message.len();
    match (from, to_ip) {
        (IpAddr::V4(from), IpAddr::V4(to_ip)) => {
            let ip = Ipv4Repr {
                src_addr: from,
                dst_addr: to_ip,
                next_header: IpProtocol::Udp,
                payload_len: length,
                hop_limit: HOP_LIMIT,
            };
            ethernet(to, EthernetProtocol::Ipv4, ip.buffer_len() + length, |payload| {
                ip.emit(&mut Ipv4Packet::new_unchecked(&mut *payload), &ChecksumCapabilities::default());
                emit(&mut payload[ip.buffer_len()..]);
            })
        }
        (IpAddr::V6(from), IpAddr::V6(to_ip)) => {
            v6(to, from, to_ip, IpProtocol::Udp, HOP_LIMIT, length, emit)
        }
        _ => Vec::new(),
    }
}

/// An IPv6 packet whose payload of `length` bytes `emit` writes.
pub fn v6(
    to: EthernetAddress,
    from: Ipv6Addr,
    to_ip: Ipv6Addr,
    protocol: IpProtocol,
    hop_limit: u8,
    length: usize,
    emit: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let ip =
        Ipv6Repr { src_addr: from, dst_addr: to_ip, next_header: protocol, payload_len: length, hop_limit };
    ethernet(to, EthernetProtocol::Ipv6, ip.buffer_len() + length, |payload| {
        ip.emit(&mut Ipv6Packet::new_unchecked(&mut *payload));
        emit(&mut payload[ip.buffer_len()..]);
    })
}

/// “I have this address now”: to all neighbours, as if the card said it (RFC 5227, 3; RFC 4861, 7.2.6).
pub fn announcement(mac: EthernetAddress, ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => {
            let request = ArpRepr::EthernetIpv4 {
                operation: ArpOperation::Request,
                source_hardware_addr: mac,
                source_protocol_addr: ip,
                target_hardware_addr: EthernetAddress([0; 6]),
                target_protocol_addr: ip,
            };
            framed(mac, EthernetAddress::BROADCAST, EthernetProtocol::Arp, request.buffer_len(), |payload| {
                request.emit(&mut ArpPacket::new_unchecked(payload));
            })
        }
        IpAddr::V6(ip) => {
            let advert = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
                flags: NdiscNeighborFlags::OVERRIDE,
                target_addr: ip,
                lladdr: Some(mac.into()),
            });
            let packet = Ipv6Repr {
                src_addr: ip,
                dst_addr: ALL_NODES,
                next_header: IpProtocol::Icmpv6,
                payload_len: advert.buffer_len(),
                hop_limit: HOP_LIMIT_ON_LINK,
            };
            let length = packet.buffer_len() + advert.buffer_len();
            framed(mac, ALL_NODES_MAC, EthernetProtocol::Ipv6, length, |payload| {
                packet.emit(&mut Ipv6Packet::new_unchecked(&mut *payload));
                let payload = &mut Icmpv6Packet::new_unchecked(&mut payload[packet.buffer_len()..]);
                advert.emit(&ip, &ALL_NODES, payload, &ChecksumCapabilities::default());
            })
        }
    }
}

fn ethernet(
    to: EthernetAddress,
    ethertype: EthernetProtocol,
    length: usize,
    emit: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    framed(SERVICE_MAC, to, ethertype, length, emit)
}

fn framed(
    from: EthernetAddress,
    to: EthernetAddress,
    ethertype: EthernetProtocol,
    length: usize,
    emit: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let header = EthernetRepr { src_addr: from, dst_addr: to, ethertype };
    let mut bytes = vec![0; header.buffer_len() + length];
    header.emit(&mut EthernetFrame::new_unchecked(&mut bytes));
    emit(&mut bytes[header.buffer_len()..]);
    bytes
}
