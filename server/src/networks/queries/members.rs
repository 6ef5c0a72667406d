//! Servers in networks: their cards and addresses.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use berth_model::{NetworkId, PrivateNetworkId, ServerId};
use ipnet::Ipv4Net;
use sqlx::PgConnection;

use super::read;

/// A server's card in a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// In which.
    pub network: NetworkId,
    /// The network's number on the nodes.
    pub vni: PrivateNetworkId,
    /// The network's range.
    pub range: Ipv4Net,
    /// `86:00:00:…`
    pub mac: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Further addresses that it may use.
    pub aliases: Vec<Ipv4Addr>,
    /// The server is losing it.
    pub leaving: bool,
}

/// The cards that a server is to have, by network.
///
/// # Errors
/// When the database fails.
pub async fn cards(conn: &mut PgConnection, server: ServerId) -> sqlx::Result<Vec<Card>> {
    cards_of(conn, &[server.0], false).await.map(|cards| cards.into_iter().map(|(_, card)| card).collect())
}

/// The cards of a server, and those that it is losing, by network.
///
/// # Errors
/// When the database fails.
pub async fn all_cards(conn: &mut PgConnection, server: ServerId) -> sqlx::Result<Vec<Card>> {
    cards_of(conn, &[server.0], true).await.map(|cards| cards.into_iter().map(|(_, card)| card).collect())
}

async fn cards_of(
    conn: &mut PgConnection,
    servers: &[i64],
    leaving: bool,
) -> sqlx::Result<Vec<(ServerId, Card)>> {
    let rows = sqlx::query!(
        r#"select m.server_id as "server: ServerId", m.network_id as "network: NetworkId", n.vni,
                  n.ip_range::text as "range!", m.mac::text as "mac!", m.leaving, host(own.ip) as "ip!",
                  array(select host(a.ip) from network_addresses a
                        where a.network_id = m.network_id and a.server_id = m.server_id and a.alias
                          and (not a.leaving or $2) order by a.ip) as "aliases!"
           from network_members m
           join networks n on n.id = m.network_id
           join network_addresses own
             on own.network_id = m.network_id and own.server_id = m.server_id and not own.alias
           where m.server_id = any ($1) and (not m.leaving or $2)
           order by m.server_id, m.network_id"#,
        servers,
        leaving
    );
    let mut cards = Vec::new();
    for row in rows.fetch_all(conn).await? {
        let aliases = row.aliases.iter().map(|ip| read(ip)).collect::<sqlx::Result<_>>()?;
        let card = Card {
            network: row.network,
            vni: PrivateNetworkId(row.vni.into()),
            range: read(&row.range)?,
            mac: row.mac,
            ip: read(&row.ip)?,
            aliases,
            leaving: row.leaving,
        };
        cards.push((row.server, card));
    }
    Ok(cards)
}

/// A server of a network, and the range of another network in which it is as well.
///
/// # Errors
/// When the database fails.
pub async fn other_ranges(
    conn: &mut PgConnection,
    network: NetworkId,
) -> sqlx::Result<Vec<(ServerId, Ipv4Net)>> {
    let rows = sqlx::query!(
        r#"select m.server_id as "server: ServerId", n.ip_range::text as "range!"
           from network_members m
           join network_members other on other.server_id = m.server_id and other.network_id <> m.network_id
           join networks n on n.id = other.network_id
           where m.network_id = $1 and not m.leaving and not other.leaving order by m.server_id, n.id"#,
        network.0
    );
    rows.fetch_all(conn).await?.into_iter().map(|row| Ok((row.server, read(&row.range)?))).collect()
}

/// The servers in a network, and those that are leaving it, by number.
///
/// # Errors
/// When the database fails.
pub async fn servers_in(conn: &mut PgConnection, network: NetworkId) -> sqlx::Result<Vec<ServerId>> {
    sqlx::query_scalar!(
        r#"select server_id as "server: ServerId" from network_members where network_id = $1 order by server_id"#,
        network.0
    )
    .fetch_all(conn)
    .await
}

/// Is the server in the network, and not leaving it?
///
/// # Errors
/// When the database fails.
pub async fn is_member(conn: &mut PgConnection, network: NetworkId, server: ServerId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from network_members where network_id = $1 and server_id = $2 and not leaving)
           as "is!""#,
        network.0,
        server.0
    )
    .fetch_one(conn)
    .await
}

/// Makes a server a member; `false` when another card has this MAC address.
///
/// # Errors
/// When the database fails.
pub async fn add_member(
    conn: &mut PgConnection,
    network: NetworkId,
    server: ServerId,
    mac: &str,
) -> sqlx::Result<bool> {
    let added = sqlx::query!(
        "insert into network_members (network_id, server_id, mac) values ($1, $2, $3::text::macaddr)
         on conflict on constraint network_members_mac_key do nothing",
        network.0,
        server.0,
        mac
    );
    Ok(added.execute(conn).await?.rows_affected() == 1)
}

/// A server is no member any more; its addresses are free.
///
/// # Errors
/// When the database fails.
pub async fn remove_member(
    conn: &mut PgConnection,
    network: NetworkId,
    server: ServerId,
) -> sqlx::Result<()> {
    sqlx::query!("delete from network_members where network_id = $1 and server_id = $2", network.0, server.0)
        .execute(conn)
        .await
        .map(drop)
}

/// A member is leaving, or stays; of a network that was deleted none does.
///
/// # Errors
/// When the database fails.
pub async fn set_leaving(
    conn: &mut PgConnection,
    network: NetworkId,
    server: ServerId,
    leaving: bool,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update network_members m set leaving = $3 or n.gone from networks n
         where n.id = m.network_id and m.network_id = $1 and m.server_id = $2",
        network.0,
        server.0,
        leaving
    )
    .execute(conn)
    .await
    .map(drop)
}

/// The addresses of a network that servers have.
///
/// # Errors
/// When the database fails.
pub async fn taken(conn: &mut PgConnection, network: NetworkId) -> sqlx::Result<BTreeSet<Ipv4Addr>> {
    let ips = sqlx::query_scalar!(
        r#"select host(ip) as "ip!" from network_addresses where network_id = $1"#,
        network.0
    );
    ips.fetch_all(conn).await?.iter().map(|ip| read(ip)).collect()
}

/// Gives a member an address.
///
/// # Errors
/// When the database fails; the constraint `network_addresses_key` when it is taken.
pub async fn add_address(
    conn: &mut PgConnection,
    network: NetworkId,
    server: ServerId,
    ip: Ipv4Addr,
    alias: bool,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into network_addresses (network_id, ip, server_id, alias) values ($1, $2::text::inet, $3, $4)",
        network.0,
        ip.to_string(),
        server.0,
        alias
    )
    .execute(conn)
    .await
    .map(drop)
}

/// These addresses of a member are leaving, or stay.
///
/// # Errors
/// When the database fails.
pub async fn let_leave(
    conn: &mut PgConnection,
    network: NetworkId,
    server: ServerId,
    ips: &[Ipv4Addr],
    leaving: bool,
) -> sqlx::Result<()> {
    let ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
    sqlx::query!(
        "update network_addresses set leaving = $4
         where network_id = $1 and server_id = $2 and alias and host(ip) = any ($3)",
        network.0,
        server.0,
        &ips,
        leaving
    )
    .execute(conn)
    .await
    .map(drop)
}

/// These addresses of a member, which were leaving, are free.
///
/// # Errors
/// When the database fails.
pub async fn remove_leaving(
    conn: &mut PgConnection,
    network: NetworkId,
    server: ServerId,
    ips: &[Ipv4Addr],
) -> sqlx::Result<()> {
    let ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
    sqlx::query!(
        "delete from network_addresses
         where network_id = $1 and server_id = $2 and leaving and host(ip) = any ($3)",
        network.0,
        server.0,
        &ips
    )
    .execute(conn)
    .await
    .map(drop)
}
