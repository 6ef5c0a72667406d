//! DHCP (RFC 2131): one client, one address, which is always the same.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use smoltcp::wire::{
    DhcpFlags, DhcpMessageType as Kind, DhcpOpCode, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress,
};

use super::offer::{Offer, V4};
use super::{LEASE_S, REBIND_S, RENEW_S, SERVICE_V4, frame};

/// The shortest message that all clients take (RFC 951).
const MESSAGE_MIN_BYTES: usize = 300;
/// Where a message's options begin.
const HEADER_BYTES: usize = 240;
/// Most name servers that are told.
const NAME_SERVERS_MAX: usize = 8;

mod option {
    pub const DNS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const MTU: u8 = 26;
    pub const REQUESTED_IP: u8 = 50;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const RENEWAL: u8 = 58;
    pub const REBINDING: u8 = 59;
    pub const CLIENT: u8 = 61;
    pub const ROUTES: u8 = 121;
}

/// What a client asked, and what it is answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// `request`
    pub asked: &'static str,
    /// `ack`; nothing for what needs no answer.
    pub answered: Option<&'static str>,
    /// The frame.
    pub frame: Option<Vec<u8>>,
}

/// What is in a client's message.
struct Message<'a> {
    kind: Kind,
    xid: u32,
    secs: u16,
    broadcast: bool,
    own_ip: Ipv4Addr,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    client: Option<&'a [u8]>,
}

impl<'a> Message<'a> {
    /// Nothing for what is damaged, was passed on by a relay, or speaks for another card.
    fn read(bytes: &'a DhcpPacket<&'a [u8]>, mac: EthernetAddress) -> Option<Self> {
        let fine = bytes.opcode() == DhcpOpCode::Request
            && bytes.hardware_len() == 6
            && bytes.client_hardware_address() == mac
            && bytes.relay_agent_ip().is_unspecified();
        let mut message = Self {
            kind: Kind::Unknown(0),
            xid: bytes.transaction_id(),
            secs: bytes.secs(),
            broadcast: bytes.flags().contains(DhcpFlags::BROADCAST),
            own_ip: bytes.client_ip(),
            requested: None,
            server: None,
            client: None,
        };
        if !fine {
            return None;
        }
        let ip = |data: &[u8]| <[u8; 4]>::try_from(data).ok().map(Ipv4Addr::from);
        for DhcpOption { kind, data } in bytes.options() {
            match kind {
                option::MESSAGE_TYPE => message.kind = Kind::from(*data.first()?),
                option::REQUESTED_IP => message.requested = ip(data),
                option::SERVER => message.server = Some(ip(data)?),
                option::CLIENT => message.client = Some(data),
                _ => {}
            }
        }
        Some(message)
    }
}

/// Answers a client's message.
pub fn answer(offer: &Offer, message: &[u8]) -> Option<Answer> {
    let v4 = offer.v4.as_ref()?;
    let packet = DhcpPacket::new_checked(message).ok().filter(|_| message.len() >= HEADER_BYTES)?;
    let message = Message::read(&packet, offer.mac)?;
    let silent = |asked| Some(Answer { asked, answered: None, frame: None });
    let ours = message.server.is_none_or(|server| server == SERVICE_V4);
    let (asked, kind) = match message.kind {
        Kind::Discover => ("discover", Kind::Offer),
        // It took another server's offer.
        Kind::Request if !ours => return silent("request"),
        Kind::Request => {
            let wanted = message.requested.or(Some(message.own_ip).filter(|ip| !ip.is_unspecified()));
            ("request", if wanted? == v4.address.addr() { Kind::Ack } else { Kind::Nak })
        }
        Kind::Inform => ("inform", Kind::Ack),
        Kind::Release => return silent("release"),
        Kind::Decline => return silent("decline"),
        _ => return None,
    };
    let answered = match kind {
        Kind::Offer => "offer",
        Kind::Nak => "nak",
        _ => "ack",
    };
    let frame = reply(offer, v4, &message, kind);
    Some(Answer { asked, answered: Some(answered), frame: Some(frame) })
}

fn reply(offer: &Offer, v4: &V4, message: &Message<'_>, kind: Kind) -> Vec<u8> {
    let refuses = kind == Kind::Nak;
    // Who only informs itself has an address already, and no lease.
    let leases = !refuses && message.kind != Kind::Inform;
    let address = v4.address.addr();
    let options = if refuses { Options::default() } else { Options::of(offer, leases) };
    let mut options: Vec<DhcpOption<'_>> =
        options.0.iter().map(|(kind, data)| DhcpOption { kind: *kind, data }).collect();
    // As it came (RFC 6842).
    options.extend(message.client.map(|data| DhcpOption { kind: option::CLIENT, data }));
    let reply = DhcpRepr {
        message_type: kind,
        transaction_id: message.xid,
        secs: message.secs,
        client_hardware_address: offer.mac,
        client_ip: if refuses { Ipv4Addr::UNSPECIFIED } else { message.own_ip },
        your_ip: if leases { address } else { Ipv4Addr::UNSPECIFIED },
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: v4.gateway.filter(|_| !refuses),
        subnet_mask: (!refuses).then(|| v4.address.netmask()),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: message.broadcast,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(SERVICE_V4),
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: leases.then_some(LEASE_S),
        renew_duration: None,
        rebind_duration: None,
        additional_options: &options,
    };
    let mut bytes = vec![0; reply.buffer_len().max(MESSAGE_MIN_BYTES)];
    reply.emit(&mut DhcpPacket::new_unchecked(&mut bytes[..])).expect("the buffer has its length");
    let to = match message.own_ip {
        _ if refuses || message.broadcast => Ipv4Addr::BROADCAST,
        ip if ip.is_unspecified() => address,
        ip => ip,
    };
    frame::udp(offer.mac, SERVICE_V4, to, frame::DHCP, &bytes)
}

/// Options of an answer, by number.
#[derive(Default)]
struct Options(Vec<(u8, Vec<u8>)>);

impl Options {
    fn of(offer: &Offer, leases: bool) -> Self {
        let mut options = Self::default();
        if leases {
            options.add(option::RENEWAL, RENEW_S.to_be_bytes());
            options.add(option::REBINDING, REBIND_S.to_be_bytes());
        }
        let servers = offer.name_servers_v4();
        let servers: Vec<u8> =
            servers.iter().take(NAME_SERVERS_MAX).flat_map(|server| server.octets()).collect();
        options.add(option::DNS, servers);
        options.add(option::HOST_NAME, offer.hostname.as_bytes());
        options.add(option::MTU, u16::try_from(offer.mtu).unwrap_or(u16::MAX).to_be_bytes());
        options.add(option::ROUTES, routes(&offer.routes_v4()));
        options
    }

    fn add(&mut self, kind: u8, data: impl AsRef<[u8]>) {
        // What is longer goes on in another option of the same number (RFC 3396).
        self.0.extend(data.as_ref().chunks(u8::MAX.into()).map(|part| (kind, part.to_vec())));
    }
}

/// Classless static routes as they are written (RFC 3442): of a network, only the bytes that count.
fn routes(routes: &[(Ipv4Net, Ipv4Addr)]) -> Vec<u8> {
    let route = |(net, via): &(Ipv4Net, Ipv4Addr)| {
        let counts = usize::from(net.prefix_len().div_ceil(8));
        [&[net.prefix_len()][..], &net.network().octets()[..counts], &via.octets()].concat()
    };
    routes.iter().flat_map(route).collect()
}
