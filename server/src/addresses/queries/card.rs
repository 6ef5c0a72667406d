//! What of all this a server has: on its public network card, and as the API shows it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use berth_model::address::{DnsPtr, IpFamily};
use berth_model::agent::NicAddress;
use berth_model::server::{PublicIpv4, PublicIpv6, PublicNet};
use berth_model::{FloatingIpId, PrimaryIpId, ServerId};
use ipnet::IpNet;
use sqlx::PgConnection;
use sqlx::types::Json;

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

/// The public side of these servers, as the API shows it; those without anything are left out.
///
/// # Errors
/// When the database fails.
pub async fn public_nets(
    conn: &mut PgConnection,
    servers: &[i64],
) -> sqlx::Result<HashMap<ServerId, PublicNet>> {
    let rows = sqlx::query!(
        r#"select p.id, p.server_id as "server!: ServerId", p.kind as "kind: Kind", host(a.ip) as "ip!",
                  coalesce((select jsonb_agg(jsonb_build_object('ip', host(r.ip), 'dns_ptr', r.name) order by r.ip)
                            from reverse_names r where r.public_ip_id = p.id), '[]') as "names!: Json<Vec<DnsPtr>>"
           from public_ips p join addresses a on a.id = p.address_id
           where p.server_id = any ($1) order by p.id"#,
        servers
    );
    let mut nets: HashMap<ServerId, PublicNet> = HashMap::new();
    for row in rows.fetch_all(conn).await? {
        let net = nets.entry(row.server).or_default();
        let (id, names) = (PrimaryIpId(row.id), row.names.0);
        match (row.kind, super::ip(&row.ip)?) {
            (Kind::Floating, _) => net.floating_ips.push(FloatingIpId(row.id)),
            (Kind::Primary, IpAddr::V4(ip)) => {
                let dns_ptr = names.into_iter().next().map(|name| name.dns_ptr);
                net.ipv4 = Some(PublicIpv4 { id, ip, blocked: false, dns_ptr });
            }
            (Kind::Primary, IpAddr::V6(ip)) => {
                let ip = format!("{ip}/{}", super::IPV6_PREFIX);
                net.ipv6 = Some(PublicIpv6 { id, ip, blocked: false, dns_ptr: names });
            }
        }
    }
    Ok(nets)
}
