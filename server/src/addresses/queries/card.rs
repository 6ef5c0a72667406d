//! What of all this a server has: on its public network card, and as the API shows it.

use std::net::{IpAddr, Ipv6Addr};

use berth_model::address::{DnsPtr, IpFamily};
use berth_model::agent::NicAddress;
use berth_model::server::{PublicIpv4, PublicIpv6, PublicNet};
use berth_model::{FloatingIpId, PrimaryIpId, ServerId};
use ipnet::IpNet;
use serde::Deserialize;
use sqlx::PgConnection;

use crate::addresses::Kind;

/// What a server's public network card has. Without anything, the server has no such card.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Card {
    /// Its own addresses, of primary IPs.
    pub addresses: Vec<NicAddress>,
    /// Networks that are routed to it: its IPv6 network, and its floating IPs.
    pub networks: Vec<IpNet>,
}

impl Card {
    /// Has it nothing?
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.networks.is_empty()
    }
}

/// What the server's public network card has.
///
/// # Errors
/// When the database fails.
pub async fn card(conn: &mut PgConnection, server: ServerId) -> sqlx::Result<Card> {
    let rows = sqlx::query!(
        r#"select p.kind as "kind: Kind", p.family as "family: IpFamily", host(a.ip) as "ip!", a.prefix,
                  host(a.gateway) as "gateway!"
           from public_ips p join addresses a on a.id = p.address_id
           where p.server_id = $1 and p.leaving_id is null order by p.kind desc, p.family, p.id"#,
        server.0
    );
    let mut card = Card::default();
    for row in rows.fetch_all(conn).await? {
        let net = super::net(row.family, &row.ip)?;
        if row.kind == Kind::Primary {
            card.addresses.push(NicAddress {
                ip: own_address(net),
                prefix: u8::try_from(row.prefix).map_err(|e| sqlx::Error::Decode(Box::new(e)))?,
                gateway: Some(super::ip(&row.gateway)?),
            });
        }
        if row.kind == Kind::Floating || row.family == IpFamily::Ipv6 {
            card.networks.push(net);
        }
    }
    Ok(card)
}

/// What a server has of a network as its own address: of an IPv6 network the first after the network's own.
fn own_address(net: IpNet) -> IpAddr {
    match net.addr() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() | 1)),
    }
}

/// An address of a server, as the view `public_ips_of_server` has it.
#[derive(Debug, Deserialize)]
pub struct PublicIp {
    id: i64,
    kind: Kind,
    ip: IpAddr,
    names: Vec<DnsPtr>,
}

/// The public side of a server, as the API shows it.
pub fn public_net(ips: Vec<PublicIp>) -> PublicNet {
    let mut net = PublicNet::default();
    for PublicIp { id, kind, ip, names } in ips {
        match (kind, ip) {
            (Kind::Floating, _) => net.floating_ips.push(FloatingIpId(id)),
            (Kind::Primary, IpAddr::V4(ip)) => {
                let (id, dns_ptr) = (PrimaryIpId(id), names.into_iter().next().map(|name| name.dns_ptr));
                net.ipv4 = Some(PublicIpv4 { id, ip, blocked: false, dns_ptr });
            }
            (Kind::Primary, IpAddr::V6(ip)) => {
                let (id, ip) = (PrimaryIpId(id), format!("{ip}/{}", super::IPV6_PREFIX));
                net.ipv6 = Some(PublicIpv6 { id, ip, blocked: false, dns_ptr: names });
            }
        }
    }
    net
}
