//! All SQL of `addresses`, `public_ips` and `reverse_names`.

mod card;
mod pools;
mod select;

use std::net::IpAddr;

use berth_model::address::IpFamily;
use berth_model::label::Labels;
use berth_model::{
    ActionId, AddressId, FloatingIpId, LocationId, PrimaryIpId, ProjectId, ServerId, Timestamp,
};
use ipnet::IpNet;
use sqlx::PgConnection;

pub use card::{Card, card, public_nets};
pub use pools::{Standing, put, standing, withdraw};
pub use select::{floating, floating_list, primary, primary_list};

use super::pool::IPV6_PREFIX;
use super::{Kind, PublicIpId};
use crate::labels;

const fn number(family: IpFamily) -> i32 {
    match family {
        IpFamily::Ipv4 => 4,
        IpFamily::Ipv6 => 6,
    }
}

fn ip(text: &str) -> sqlx::Result<IpAddr> {
    text.parse().map_err(|e| sqlx::Error::Decode(Box::new(e)))
}

/// Does the location offer addresses of this family, free or not?
///
/// # Errors
/// When the database fails.
pub async fn offers(conn: &mut PgConnection, location: LocationId, family: IpFamily) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from addresses where location_id = $1 and family(ip) = $2 and offered) as "offers!""#,
        location.0,
        number(family)
    )
    .fetch_one(conn)
    .await
}

/// Is an address of the location free, since `cooled_by` at least?
///
/// # Errors
/// When the database fails.
pub async fn any_free(
    conn: &mut PgConnection,
    location: LocationId,
    family: IpFamily,
    cooled_by: Timestamp,
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from addresses where location_id = $1 and family(ip) = $2 and offered
                                                  and free_since <= $3) as "free!""#,
        location.0,
        number(family),
        cooled_by as Timestamp
    )
    .fetch_one(conn)
    .await
}

/// Takes the address of the location that was free the longest, of those that were since `cooled_by` at least.
/// Callers at the same moment get different ones, without waiting for each other while there are others; `None` when
/// no more are free.
///
/// # Errors
/// When the database fails.
pub async fn take(
    conn: &mut PgConnection,
    location: LocationId,
    family: IpFamily,
    cooled_by: Timestamp,
) -> sqlx::Result<Option<AddressId>> {
    let quick = sqlx::query_scalar!(
        r#"update addresses set free_since = null where id = (
               select id from addresses
               where location_id = $1 and family(ip) = $2 and offered and free_since <= $3
               order by free_since, id limit 1 for update skip locked)
           returning id as "id: AddressId""#,
        location.0,
        number(family),
        cooled_by as Timestamp,
    );
    if let Some(id) = quick.fetch_optional(&mut *conn).await? {
        return Ok(Some(id));
    }
    // Somebody may be about to take one and not do so in the end: whoever gets none has waited for them all.
    sqlx::query_scalar!(
        r#"update addresses set free_since = null where id = (
               select id from addresses
               where location_id = $1 and family(ip) = $2 and offered and free_since <= $3
               order by free_since, id limit 1 for update)
           returning id as "id: AddressId""#,
        location.0,
        number(family),
        cooled_by as Timestamp,
    )
    .fetch_optional(conn)
    .await
}

/// Who shall hold an address.
#[derive(Debug, Clone)]
pub struct NewIp<'a> {
    /// How.
    pub kind: Kind,
    /// Of which family the address is.
    pub family: IpFamily,
    /// Whose.
    pub project: ProjectId,
    /// Its name; made of its number without one.
    pub name: Option<&'a str>,
    /// The customer's own words.
    pub description: &'a str,
    /// The customer's own marks.
    pub labels: &'a Labels,
    /// Does it go with its server?
    pub auto_delete: bool,
    /// Whose server's it is.
    pub server: Option<ServerId>,
    /// When it was asked for.
    pub now: Timestamp,
}

/// Writes who holds an address that was just taken.
///
/// # Errors
/// When the database fails; the constraint `public_ips_name_key` when the name is taken.
pub async fn insert(
    conn: &mut PgConnection,
    address: AddressId,
    new: &NewIp<'_>,
) -> sqlx::Result<PublicIpId> {
    sqlx::query_scalar!(
        r#"with number as (select nextval(pg_get_serial_sequence('public_ips', 'id')) as id)
           insert into public_ips (id, kind, family, project_id, address_id, name, description, labels, auto_delete,
                                   server_id, created)
           overriding system value
           select id, $1, $2, $3, $4,
                  coalesce($5, case $1 when 'primary' then 'primary_ip-' else 'floating-ip-' end || id),
                  $6, $7, $8, $9, $10 from number
           returning id as "id: PublicIpId""#,
        new.kind as Kind,
        new.family as IpFamily,
        new.project.0,
        address.0,
        new.name,
        new.description,
        labels::to_json(new.labels),
        new.auto_delete,
        new.server.map(|server| server.0),
        new.now as Timestamp,
    )
    .fetch_one(conn)
    .await
}

/// Gives a server a primary IP of its own, which goes with it, unless it has one of this family already. `false` when
/// no more addresses are free.
///
/// # Errors
/// When the database fails.
pub async fn equip(
    conn: &mut PgConnection,
    (project, location, server): (ProjectId, LocationId, ServerId),
    family: IpFamily,
    cooled_by: Timestamp,
    now: Timestamp,
) -> sqlx::Result<bool> {
    if has_primary(conn, server, family).await? {
        return Ok(true);
    }
    let Some(address) = take(conn, location, family, cooled_by).await? else { return Ok(false) };
    let new = NewIp {
        kind: Kind::Primary,
        family,
        project,
        name: None,
        description: "",
        labels: &Labels::new(),
        auto_delete: true,
        server: Some(server),
        now,
    };
    insert(conn, address, &new).await?;
    Ok(true)
}

/// Has the server a primary IP of this family?
///
/// # Errors
/// When the database fails.
pub async fn has_primary(conn: &mut PgConnection, server: ServerId, family: IpFamily) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from public_ips where server_id = $1 and kind = 'primary' and family = $2)
           as "has!""#,
        server.0,
        family as IpFamily
    )
    .fetch_one(conn)
    .await
}

/// How many floating IPs the server has.
///
/// # Errors
/// When the database fails.
pub async fn floating_count(conn: &mut PgConnection, server: ServerId) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"select count(*) as "count!" from public_ips where server_id = $1 and kind = 'floating'"#,
        server.0
    )
    .fetch_one(conn)
    .await
}

/// What a handler must know of a primary or floating IP before it changes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldIp {
    /// Its number.
    pub id: PublicIpId,
    /// How it is held.
    pub kind: Kind,
    /// Of which family it is.
    pub family: IpFamily,
    /// The address, or the IPv6 network.
    pub net: IpNet,
    /// Where it can be used.
    pub location: LocationId,
    /// Whose it is.
    pub server: Option<ServerId>,
    /// An action moves it.
    pub locked: bool,
    /// It cannot be deleted.
    pub protect_delete: bool,
}

/// A primary or floating IP of the project, its row locked until the transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn hold(
    conn: &mut PgConnection,
    project: ProjectId,
    kind: Kind,
    id: PublicIpId,
) -> sqlx::Result<Option<HeldIp>> {
    let row = sqlx::query!(
        r#"select p.family as "family: IpFamily", host(a.ip) as "ip!", a.location_id as "location: LocationId",
                  p.server_id as "server: ServerId", p.locked_by is not null as "locked!", p.protect_delete
           from public_ips p join addresses a on a.id = p.address_id
           where p.project_id = $1 and p.kind = $2 and p.id = $3 and not p.gone for no key update of p"#,
        project.0,
        kind as Kind,
        id.0
    );
    let Some(row) = row.fetch_optional(conn).await? else { return Ok(None) };
    Ok(Some(HeldIp {
        id,
        kind,
        family: row.family,
        net: net(row.family, &row.ip)?,
        location: row.location,
        server: row.server,
        locked: row.locked,
        protect_delete: row.protect_delete,
    }))
}

fn net(family: IpFamily, text: &str) -> sqlx::Result<IpNet> {
    let prefix = match family {
        IpFamily::Ipv4 => 32,
        IpFamily::Ipv6 => IPV6_PREFIX,
    };
    IpNet::new(ip(text)?, prefix).map_err(|e| sqlx::Error::Decode(Box::new(e)))
}

/// Whose server's it is now, without a lock; `None` when the project has no such thing.
///
/// # Errors
/// When the database fails.
pub async fn server_of(
    conn: &mut PgConnection,
    project: ProjectId,
    kind: Kind,
    id: PublicIpId,
) -> sqlx::Result<Option<Option<ServerId>>> {
    sqlx::query_scalar!(
        r#"select server_id as "server: ServerId" from public_ips
           where project_id = $1 and kind = $2 and id = $3 and not gone"#,
        project.0,
        kind as Kind,
        id.0
    )
    .fetch_optional(conn)
    .await
}

/// The server's primary IP that this address is of, its row locked until the transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn hold_primary_with(
    conn: &mut PgConnection,
    server: ServerId,
    ip: IpAddr,
) -> sqlx::Result<Option<HeldIp>> {
    let found = sqlx::query!(
        r#"select p.id as "id: PublicIpId", p.project_id as "project: ProjectId"
           from public_ips p join addresses a on a.id = p.address_id
           where p.server_id = $1 and p.kind = 'primary'
             and $2::text::inet <<= set_masklen(a.ip, case family(a.ip) when 4 then 32 else 64 end)"#,
        server.0,
        ip.to_string()
    );
    match found.fetch_optional(&mut *conn).await? {
        Some(found) => hold(conn, found.project, Kind::Primary, found.id).await,
        None => Ok(None),
    }
}

/// Changes what the customer may change; what is `None` stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct Update<'a> {
    /// The new name.
    pub name: Option<&'a str>,
    /// The new description.
    pub description: Option<&'a str>,
    /// Does it go with its server?
    pub auto_delete: Option<bool>,
    /// All labels anew.
    pub labels: Option<&'a Labels>,
    /// It cannot be deleted.
    pub protect_delete: Option<bool>,
}

/// Changes what the customer may change.
///
/// # Errors
/// When the database fails; the constraint `public_ips_name_key` when the name is taken.
pub async fn update(conn: &mut PgConnection, id: PublicIpId, to: Update<'_>) -> sqlx::Result<()> {
    sqlx::query!(
        "update public_ips set name = coalesce($2, name), description = coalesce($3, description),
                auto_delete = coalesce($4, auto_delete), labels = coalesce($5, labels),
                protect_delete = coalesce($6, protect_delete) where id = $1",
        id.0,
        to.name,
        to.description,
        to.auto_delete,
        to.labels.map(labels::to_json),
        to.protect_delete
    )
    .execute(conn)
    .await
    .map(drop)
}

/// From now on it is this server's, or nobody's; the node of `leaving` may still have it. Of servers that are gone by
/// then, nobody's.
///
/// # Errors
/// When the database fails.
pub async fn set_server(
    conn: &mut PgConnection,
    id: PublicIpId,
    server: Option<ServerId>,
    leaving: Option<ServerId>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update public_ips set server_id = (select id from servers where id = $2),
                leaving_id = (select id from servers where id = $3) where id = $1",
        id.0,
        server.map(|server| server.0),
        leaving.map(|server| server.0)
    )
    .execute(conn)
    .await
    .map(drop)
}

/// The node of this server may still have it, and nobody's else.
///
/// # Errors
/// When the database fails.
pub async fn leaving(conn: &mut PgConnection, id: PublicIpId) -> sqlx::Result<Option<ServerId>> {
    let leaving =
        sqlx::query_scalar!(r#"select leaving_id as "id: ServerId" from public_ips where id = $1"#, id.0);
    Ok(leaving.fetch_optional(conn).await?.flatten())
}

/// No node has it any more of which it is not.
///
/// # Errors
/// When the database fails.
pub async fn set_left(conn: &mut PgConnection, id: PublicIpId) -> sqlx::Result<()> {
    sqlx::query!("update public_ips set leaving_id = null where id = $1", id.0).execute(conn).await.map(drop)
}

/// An action moves it from now on, or none any more.
///
/// # Errors
/// When the database fails.
pub async fn lock(conn: &mut PgConnection, id: PublicIpId, action: Option<ActionId>) -> sqlx::Result<()> {
    sqlx::query!("update public_ips set locked_by = $2 where id = $1", id.0, action.map(|action| action.0))
        .execute(conn)
        .await
        .map(drop)
}

/// Gives one of its addresses a reverse name, or none.
///
/// # Errors
/// When the database fails.
pub async fn set_reverse_name(
    conn: &mut PgConnection,
    id: PublicIpId,
    ip: IpAddr,
    name: Option<&str>,
) -> sqlx::Result<()> {
    let ip = ip.to_string();
    match name {
        Some(name) => sqlx::query!(
            "insert into reverse_names (public_ip_id, ip, name) values ($1, $2::text::inet, $3)
             on conflict (public_ip_id, ip) do update set name = excluded.name",
            id.0,
            ip,
            name
        ),
        None => sqlx::query!(
            "delete from reverse_names where public_ip_id = $1 and ip = $2::text::inet",
            id.0,
            ip
        ),
    }
    .execute(conn)
    .await
    .map(drop)
}

/// How many reverse names it has.
///
/// # Errors
/// When the database fails.
pub async fn reverse_names(conn: &mut PgConnection, id: PublicIpId) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"select count(*) as "count!" from reverse_names where public_ip_id = $1"#, id.0)
        .fetch_one(conn)
        .await
}

/// The customer sees it no more; it holds its address until the node of its server has lost it.
///
/// # Errors
/// When the database fails.
pub async fn set_gone(conn: &mut PgConnection, id: PublicIpId) -> sqlx::Result<()> {
    sqlx::query!(
        "update public_ips set gone = true, leaving_id = server_id, server_id = null where id = $1",
        id.0
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Removes it, with its reverse names; its address is free, and cools down. Nothing when it is gone already.
///
/// # Errors
/// When the database fails.
pub async fn remove(conn: &mut PgConnection, id: PublicIpId, now: Timestamp) -> sqlx::Result<()> {
    sqlx::query!(
        "with gone as (delete from public_ips where id = $1 returning address_id)
         update addresses set free_since = $2 where id in (select address_id from gone)",
        id.0,
        now as Timestamp
    )
    .execute(conn)
    .await
    .map(drop)
}

/// The machine of the server that it was leaving has lost it: one that was deleted is removed, another is nobody's, and
/// nothing holds it any more.
///
/// # Errors
/// When the database fails.
pub async fn settle(conn: &mut PgConnection, id: PublicIpId, now: Timestamp) -> sqlx::Result<()> {
    let gone = sqlx::query_scalar!(
        "update public_ips set leaving_id = null, locked_by = null where id = $1 returning gone",
        id.0
    );
    match gone.fetch_optional(&mut *conn).await? {
        Some(true) => remove(conn, id, now).await,
        Some(false) | None => Ok(()),
    }
}

/// A server's machine is gone, or never was: its primary IPs of these families that go with it are removed, the others
/// and its floating IPs are nobody's. Nothing when it has none.
///
/// # Errors
/// When the database fails.
pub async fn release(
    conn: &mut PgConnection,
    server: ServerId,
    families: &[IpFamily],
    now: Timestamp,
) -> sqlx::Result<()> {
    let families: Vec<i32> = families.iter().map(|family| number(*family)).collect();
    sqlx::query!(
        "with gone as (
             delete from public_ips p using addresses a
             where a.id = p.address_id and (p.leaving_id = $1 and p.gone
                or p.server_id = $1 and p.kind = 'primary' and p.auto_delete and not p.protect_delete
                   and family(a.ip) = any ($2))
             returning p.address_id)
         update addresses set free_since = $3 where id in (select address_id from gone)",
        server.0,
        &families,
        now as Timestamp
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "update public_ips set server_id = nullif(server_id, $1), leaving_id = nullif(leaving_id, $1)
         where server_id = $1 or leaving_id = $1",
        server.0
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Has the project a primary IP of this number?
///
/// # Errors
/// When the database fails.
pub async fn primary_exists(
    conn: &mut PgConnection,
    project: ProjectId,
    id: PrimaryIpId,
) -> sqlx::Result<bool> {
    Ok(server_of(conn, project, Kind::Primary, id.into()).await?.is_some())
}

/// Has the project a floating IP of this number?
///
/// # Errors
/// When the database fails.
pub async fn floating_exists(
    conn: &mut PgConnection,
    project: ProjectId,
    id: FloatingIpId,
) -> sqlx::Result<bool> {
    Ok(server_of(conn, project, Kind::Floating, id.into()).await?.is_some())
}
