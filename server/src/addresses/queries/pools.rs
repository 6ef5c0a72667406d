//! What the operator has.

use std::net::IpAddr;

use berth_model::LocationId;
use ipnet::IpNet;
use sqlx::PgConnection;

use crate::addresses::pool::Pool;

/// Makes what is handed out of one network in a location what these pools say, which are all of that network. Says
/// how many addresses are new. What the pools leave out stays with its holders and is handed to nobody after that.
///
/// # Errors
/// When the database fails; [`sqlx::Error::Protocol`] with a sentence when an address belongs to another location.
pub async fn put(
    conn: &mut PgConnection,
    location: LocationId,
    network: IpNet,
    pools: &[&Pool],
) -> sqlx::Result<u64> {
    // By ranges, not one by one: there are few ranges, and many addresses.
    let spans = pools.iter().flat_map(|pool| pool.spans());
    let (firsts, lasts): (Vec<String>, Vec<String>) =
        spans.map(|(first, last)| (first.to_string(), last.to_string())).unzip();
    let elsewhere = sqlx::query_scalar!(
        r#"select host(a.ip) as "ip!" from addresses a
           join unnest($1::text[], $2::text[]) as span (first, last)
                on a.ip between span.first::inet and span.last::inet
           where a.location_id <> $3 order by a.ip limit 1"#,
        &firsts,
        &lasts,
        location.0
    );
    if let Some(ip) = elsewhere.fetch_optional(&mut *conn).await? {
        return Err(sqlx::Error::Protocol(format!("the address {ip} belongs to another location already")));
    }
    let mut new = 0;
    for pool in pools {
        new += put_all(conn, location, pool).await?;
    }
    sqlx::query!(
        "update addresses a set offered = false
         where location_id = $1 and pool = $2::text::cidr and offered
           and not exists (select from unnest($3::text[], $4::text[]) as span (first, last)
                           where a.ip between span.first::inet and span.last::inet)",
        location.0,
        network.to_string(),
        &firsts,
        &lasts
    )
    .execute(conn)
    .await?;
    Ok(new)
}

async fn put_all(conn: &mut PgConnection, location: LocationId, pool: &Pool) -> sqlx::Result<u64> {
    let ips: Vec<String> = pool.addresses().map(|ip| ip.to_string()).collect();
    let written = sqlx::query_scalar!(
        r#"insert into addresses as known (location_id, ip, pool, prefix, gateway, free_since)
           select $1, ip::inet, $3::text::cidr, $4, $5::text::inet, 'epoch'
           from unnest($2::text[]) with ordinality as t (ip, n) order by n
           on conflict (ip) do update set pool = excluded.pool, prefix = excluded.prefix,
               gateway = excluded.gateway, offered = true
           where (known.pool, known.prefix, known.gateway, known.offered)
                 is distinct from (excluded.pool, excluded.prefix, excluded.gateway, true)
           returning (xmax = 0) as "new!""#,
        location.0,
        &ips,
        pool.network.to_string(),
        i16::from(pool.prefix()),
        pool.gateway.to_string(),
    );
    let written = written.fetch_all(conn).await?;
    Ok(written.into_iter().filter(|new| *new).count() as u64)
}

/// Nothing of a network is handed out any more. Says how many addresses that stops.
///
/// # Errors
/// When the database fails.
pub async fn withdraw(conn: &mut PgConnection, network: IpNet) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "update addresses set offered = false where pool = $1::text::cidr and offered",
        network.to_string()
    );
    Ok(done.execute(conn).await?.rows_affected())
}

/// How a network stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The location's name.
    pub location: String,
    /// The network.
    pub network: String,
    /// Its router.
    pub gateway: IpAddr,
    /// Addresses that somebody holds.
    pub held: i64,
    /// Addresses that are free, also those that cool down.
    pub free: i64,
    /// Addresses that are handed out no more.
    pub withdrawn: i64,
}

/// How all networks stand, by location.
///
/// # Errors
/// When the database fails.
pub async fn standing(conn: &mut PgConnection) -> sqlx::Result<Vec<Standing>> {
    let rows = sqlx::query!(
        r#"select l.name as location, a.pool::text as "network!", host(a.gateway) as "gateway!",
                  count(*) filter (where a.free_since is null) as "held!",
                  count(*) filter (where a.free_since is not null and a.offered) as "free!",
                  count(*) filter (where a.free_since is not null and not a.offered) as "withdrawn!"
           from addresses a join locations l on l.id = a.location_id
           group by l.id, l.name, a.pool, a.gateway order by l.id, a.pool, a.gateway"#
    );
    let standing = rows.fetch_all(conn).await?.into_iter().map(|row| {
        Ok(Standing {
            location: row.location,
            network: row.network,
            gateway: super::ip(&row.gateway)?,
            held: row.held,
            free: row.free,
            withdrawn: row.withdrawn,
        })
    });
    standing.collect()
}
