//! DHCPv6 (RFC 8415): one client, and the addresses that its card has.

use std::net::Ipv6Addr;

use dhcproto::v6::{DhcpOption, IAAddr, IANA, Message, MessageType as Kind, OptionCode, Status, StatusCode};
use dhcproto::{Decodable as _, Decoder, Encodable as _};

use super::dhcp::Answer;
use super::offer::Offer;
use super::{LEASE_S, REBIND_S, RENEW_S, SERVICE_MAC, SERVICE_V6, frame};

/// Most identity associations of a client that are answered.
const ASSOCIATIONS_MAX: usize = 4;
/// Most addresses in one of them that are looked at.
const ADDRESSES_MAX: usize = 64;

/// How the service is called in DHCPv6: a DUID of its link-layer address (RFC 8415, section 11.4).
fn duid() -> Vec<u8> {
    [&[0, 3, 0, 1][..], SERVICE_MAC.as_bytes()].concat()
}

/// Answers a message that came from the link-local address `from`.
pub fn answer(offer: &Offer, from: Ipv6Addr, message: &[u8]) -> Option<Answer> {
    let addresses = &offer.v6.as_ref()?.addresses;
    let message = Message::decode(&mut Decoder::new(message)).ok()?;
    let options = message.opts();
    let server = options.get(OptionCode::ServerId);
    let ours = matches!(server, Some(DhcpOption::ServerId(id)) if *id == duid());
    let at_once = options.get(OptionCode::RapidCommit).is_some();
    let (asked, kind) = match message.msg_type() {
        Kind::Solicit => ("solicit", if at_once { Kind::Reply } else { Kind::Advertise }),
        Kind::Request => ("request", Kind::Reply),
        Kind::Renew => ("renew", Kind::Reply),
        Kind::Rebind => ("rebind", Kind::Reply),
        Kind::Confirm => ("confirm", Kind::Reply),
        Kind::Release => ("release", Kind::Reply),
        Kind::Decline => ("decline", Kind::Reply),
        Kind::InformationRequest => ("information request", Kind::Reply),
        _ => return None,
    };
    let names_server =
        matches!(message.msg_type(), Kind::Request | Kind::Renew | Kind::Release | Kind::Decline);
    // Who names a server means that one alone; these must name one.
    if if names_server { !ours } else { server.is_some() && !ours } {
        return Some(Answer { asked, answered: None, frame: None });
    }
    let mut reply = Message::new_with_id(kind, message.xid());
    reply.opts_mut().insert(options.get(OptionCode::ClientId)?.clone());
    reply.opts_mut().insert(DhcpOption::ServerId(duid()));
    let mut associations = options.iter().filter_map(|option| match option {
        DhcpOption::IANA(association) => Some(association),
        _ => None,
    });
    match message.msg_type() {
        Kind::Confirm => {
            let fine = associations.all(|association| held(association).all(|ip| addresses.contains(&ip)));
            reply.opts_mut().insert(status(if fine { Status::Success } else { Status::NotOnLink }));
        }
        Kind::Release | Kind::Decline => reply.opts_mut().insert(status(Status::Success)),
        Kind::InformationRequest => {}
        _ => {
            for association in associations.take(ASSOCIATIONS_MAX) {
                reply.opts_mut().insert(DhcpOption::IANA(lease(addresses, association)));
            }
            if kind == Kind::Reply && at_once {
                reply.opts_mut().insert(DhcpOption::RapidCommit);
            }
        }
    }
    let servers = offer.name_servers_v6();
    if !servers.is_empty() {
        reply.opts_mut().insert(DhcpOption::DomainNameServers(servers));
    }
    let answered = if kind == Kind::Advertise { "advertise" } else { "reply" };
    let frame = frame::udp(offer.mac, SERVICE_V6, from, frame::DHCPV6, &reply.to_vec().ok()?);
    Some(Answer { asked, answered: Some(answered), frame: Some(frame) })
}

/// The card's addresses; and those that the client still has and should not, with no time left.
fn lease(addresses: &[Ipv6Addr], asked: &IANA) -> IANA {
    let mut lease = IANA { id: asked.id, t1: RENEW_S, t2: REBIND_S, opts: Default::default() };
    if addresses.is_empty() {
        lease.opts.insert(status(Status::NoAddrsAvail));
        return lease;
    }
    let address = |addr, life| {
        let opts = Default::default();
        DhcpOption::IAAddr(IAAddr { addr, preferred_life: life, valid_life: life, opts })
    };
    for ip in addresses {
        lease.opts.insert(address(*ip, LEASE_S));
    }
    for ip in held(asked).filter(|ip| !addresses.contains(ip)) {
        lease.opts.insert(address(ip, 0));
    }
    lease
}

fn held(association: &IANA) -> impl Iterator<Item = Ipv6Addr> {
    let addresses = association.opts.iter().filter_map(|option| match option {
        DhcpOption::IAAddr(address) => Some(address.addr),
        _ => None,
    });
    addresses.take(ADDRESSES_MAX)
}

fn status(status: Status) -> DhcpOption {
    DhcpOption::StatusCode(StatusCode { status, msg: String::new() })
}
