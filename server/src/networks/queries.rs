//! All SQL of `addresses`.

use std::net::IpAddr;

use berth_model::{AddressId, LocationId, ServerId, Timestamp};
use sqlx::PgConnection;

use super::Address;

struct Row {
    id: AddressId,
    ip: String,
    prefix: i16,
    gateway: String,
}

impl TryFrom<Row> for Address {
    type Error = sqlx::Error;
    fn try_from(row: Row) -> sqlx::Result<Self> {
        let ip = |text: &str| text.parse().map_err(|e| sqlx::Error::Decode(Box::new(e)));
        let prefix = u8::try_from(row.prefix).map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
        Ok(Self { id: row.id, ip: ip(&row.ip)?, prefix, gateway: ip(&row.gateway)? })
    }
}

/// Gives the server an address of the location: the one it has already, else the one that was
/// free the longest. Callers at the same moment get different ones, without waiting for each
/// other; `None` when no more are free.
///
/// # Errors
/// When the database fails.
pub async fn reserve(
    conn: &mut PgConnection,
    location: LocationId,
    server: ServerId,
) -> sqlx::Result<Option<Address>> {
    if let Some(address) = of_server(conn, server).await? {
        return Ok(Some(address));
    }
    let row = sqlx::query_as!(
        Row,
        r#"update addresses set server_id = $2 where id = (
               select id from addresses
               where location_id = $1 and server_id is null and family(ip) = 4
               order by free_since, id limit 1 for update skip locked)
           returning id as "id: AddressId", host(ip) as "ip!", prefix, host(gateway) as "gateway!""#,
        location.0,
        server.0,
    );
    row.fetch_optional(conn).await?.map(Address::try_from).transpose()
}

/// Takes all addresses of the server back; nothing when it has none.
///
/// # Errors
/// When the database fails.
pub async fn release(conn: &mut PgConnection, server: ServerId, now: Timestamp) -> sqlx::Result<()> {
    sqlx::query!(
        "update addresses set server_id = null, free_since = $2 where server_id = $1",
        server.0,
        now as Timestamp
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The IPv4 address of a server.
///
/// # Errors
/// When the database fails.
pub async fn of_server(conn: &mut PgConnection, server: ServerId) -> sqlx::Result<Option<Address>> {
    let row = sqlx::query_as!(
        Row,
        r#"select id as "id: AddressId", host(ip) as "ip!", prefix, host(gateway) as "gateway!"
           from addresses where server_id = $1 and family(ip) = 4"#,
        server.0
    );
    row.fetch_optional(conn).await?.map(Address::try_from).transpose()
}

/// Is an address of the location free?
///
/// # Errors
/// When the database fails.
pub async fn any_free(conn: &mut PgConnection, location: LocationId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists(select from addresses where location_id = $1 and server_id is null) as "free!""#,
        location.0
    )
    .fetch_one(conn)
    .await
}

/// Adds addresses to a location; those that it has already take on the new network. Says how many
/// are new. An address of another location is an error that names it.
///
/// # Errors
/// When the database fails; [`sqlx::Error::Protocol`] with a sentence when one stands elsewhere.
pub async fn add(
    conn: &mut PgConnection,
    location: LocationId,
    ips: &[IpAddr],
    (prefix, gateway): (u8, IpAddr),
    now: Timestamp,
) -> sqlx::Result<u64> {
    let ips: Vec<String> = ips.iter().map(IpAddr::to_string).collect();
    let elsewhere = sqlx::query_scalar!(
        r#"select host(ip) as "ip!" from addresses
           where ip = any ($1::text[]::inet[]) and location_id <> $2 order by ip limit 1"#,
        &ips,
        location.0
    );
    if let Some(ip) = elsewhere.fetch_optional(&mut *conn).await? {
        return Err(sqlx::Error::Protocol(format!("the address {ip} belongs to another location already")));
    }
    let written = sqlx::query_scalar!(
        r#"insert into addresses (location_id, ip, prefix, gateway, free_since)
           select $1, ip::inet, $3, $4::text::inet, $5 from unnest($2::text[]) with ordinality as t (ip, n) order by n
           on conflict (ip) do update set prefix = excluded.prefix, gateway = excluded.gateway
           returning (xmax = 0) as "new!""#,
        location.0,
        &ips,
        i16::from(prefix),
        gateway.to_string(),
        now as Timestamp,
    );
    let written = written.fetch_all(conn).await?;
    Ok(written.into_iter().filter(|new| *new).count() as u64)
}
