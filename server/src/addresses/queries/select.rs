//! Primary and floating IPs as the API shows them.

use berth_model::address::{AssigneeType, DnsPtr, FloatingIp, IpFamily, IpProtection, PrimaryIp};
use berth_model::location::{Datacenter, Location};
use berth_model::{FloatingIpId, LocationId, PrimaryIpId, ProjectId, ServerId, Timestamp};
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{PgConnection, Postgres, QueryBuilder};

use crate::addresses::{Kind, PublicIpId};
use crate::http::{Filter, Page};
use crate::{catalog, labels};

const SELECT: &str =
    "select p.id, p.family, host(a.ip) as ip, a.location_id, p.name, p.description, p.labels,
        p.auto_delete, p.protect_delete, p.server_id, p.created,
        coalesce((select jsonb_agg(jsonb_build_object('ip', host(r.ip), 'dns_ptr', r.name) order by r.ip)
                  from reverse_names r where r.public_ip_id = p.id), '[]') as names";
const FROM: &str = " from public_ips p join addresses a on a.id = p.address_id";

#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    family: IpFamily,
    ip: String,
    location_id: LocationId,
    name: String,
    description: String,
    labels: Value,
    auto_delete: bool,
    protect_delete: bool,
    server_id: Option<ServerId>,
    created: Timestamp,
    names: Json<Vec<DnsPtr>>,
}

impl Row {
    fn location(&self, locations: &[Location]) -> sqlx::Result<Location> {
        // A location with addresses is never deleted.
        locations.iter().find(|l| l.id == self.location_id).cloned().ok_or(sqlx::Error::RowNotFound)
    }

    fn text(&self) -> String {
        match self.family {
            IpFamily::Ipv4 => self.ip.clone(),
            IpFamily::Ipv6 => format!("{}/{}", self.ip, super::IPV6_PREFIX),
        }
    }

    fn primary(self, locations: &[Location]) -> sqlx::Result<PrimaryIp> {
        let location = self.location(locations)?;
        Ok(PrimaryIp {
            id: PrimaryIpId(self.id),
            ip: self.text(),
            name: self.name,
            family: self.family,
            assignee_id: self.server_id,
            assignee_type: AssigneeType::Server,
            auto_delete: self.auto_delete,
            blocked: false,
            created: self.created,
            datacenter: Datacenter::of(&location),
            location,
            dns_ptr: self.names.0,
            labels: labels::from_json(self.labels),
            protection: IpProtection { delete: self.protect_delete },
        })
    }

    fn floating(self, locations: &[Location]) -> sqlx::Result<FloatingIp> {
        let home_location = self.location(locations)?;
        Ok(FloatingIp {
            id: FloatingIpId(self.id),
            ip: self.text(),
            name: self.name,
            description: self.description,
            family: self.family,
            server: self.server_id,
            dns_ptr: self.names.0,
            home_location,
            blocked: false,
            protection: IpProtection { delete: self.protect_delete },
            labels: labels::from_json(self.labels),
            created: self.created,
        })
    }
}

async fn one(
    conn: &mut PgConnection,
    project: ProjectId,
    kind: Kind,
    id: PublicIpId,
) -> sqlx::Result<Option<Row>> {
    let mut sql = QueryBuilder::new(SELECT);
    push_from(&mut sql, project, kind);
    sql.push(" and p.id = ").push_bind(id);
    sql.build_query_as().fetch_optional(conn).await
}

async fn page_of(
    conn: &mut PgConnection,
    project: ProjectId,
    kind: Kind,
    (filter, ip): (&Filter, Option<&str>),
    page: Page,
) -> sqlx::Result<(Vec<Row>, i64)> {
    let push_from = |sql: &mut QueryBuilder<Postgres>| {
        push_from(sql, project, kind);
        if let Some(ip) = ip {
            let first = ip.strip_suffix("/64").unwrap_or(ip);
            sql.push(" and host(a.ip) = ").push_bind(first.to_owned());
        }
    };
    filter.page_of(conn, SELECT, push_from, page).await
}

fn push_from(sql: &mut QueryBuilder<Postgres>, project: ProjectId, kind: Kind) {
    sql.push(FROM).push(" where p.project_id = ").push_bind(project);
    sql.push(" and p.kind = ").push_bind(kind).push(" and not p.gone");
}

/// One primary IP of the project.
///
/// # Errors
/// When the database fails.
pub async fn primary(
    conn: &mut PgConnection,
    project: ProjectId,
    id: PrimaryIpId,
) -> sqlx::Result<Option<PrimaryIp>> {
    let Some(row) = one(conn, project, Kind::Primary, id.into()).await? else { return Ok(None) };
    row.primary(&catalog::queries::locations(conn).await?).map(Some)
}

/// A page of the project's primary IPs, of those with this address if one is given, and how many there are on all pages.
///
/// # Errors
/// When the database fails.
pub async fn primary_list(
    conn: &mut PgConnection,
    project: ProjectId,
    asked: (&Filter, Option<&str>),
    page: Page,
) -> sqlx::Result<(Vec<PrimaryIp>, i64)> {
    let (rows, total) = page_of(conn, project, Kind::Primary, asked, page).await?;
    let locations = catalog::queries::locations(conn).await?;
    let list: sqlx::Result<_> = rows.into_iter().map(|row| row.primary(&locations)).collect();
    Ok((list?, total))
}

/// One floating IP of the project.
///
/// # Errors
/// When the database fails.
pub async fn floating(
    conn: &mut PgConnection,
    project: ProjectId,
    id: FloatingIpId,
) -> sqlx::Result<Option<FloatingIp>> {
    let Some(row) = one(conn, project, Kind::Floating, id.into()).await? else { return Ok(None) };
    row.floating(&catalog::queries::locations(conn).await?).map(Some)
}

/// A page of the project's floating IPs, of those with this address if one is given, and how many there are on all pages.
///
/// # Errors
/// When the database fails.
pub async fn floating_list(
    conn: &mut PgConnection,
    project: ProjectId,
    asked: (&Filter, Option<&str>),
    page: Page,
) -> sqlx::Result<(Vec<FloatingIp>, i64)> {
    let (rows, total) = page_of(conn, project, Kind::Floating, asked, page).await?;
    let locations = catalog::queries::locations(conn).await?;
    let list: sqlx::Result<_> = rows.into_iter().map(|row| row.floating(&locations)).collect();
    Ok((list?, total))
}
