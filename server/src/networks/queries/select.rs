//! Which networks a list shows, and as what.

use berth_model::network::{Network, NetworkProtection, Route, Subnet, SubnetKind};
use berth_model::{NetworkId, ProjectId, ServerId, Timestamp};
use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::read;
use crate::http::{Filter, Page};
use crate::labels;
use crate::networks::rules;

#[derive(Deserialize)]
struct Part {
    range: String,
    zone: String,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: NetworkId,
    name: String,
    labels: Value,
    range: String,
    protect_delete: bool,
    created: Timestamp,
    subnets: Json<Vec<Part>>,
    routes: Json<Vec<Route>>,
    servers: Vec<i64>,
}

const SELECT: &str = "select id, name, labels, ip_range::text as range, protect_delete, created,
    coalesce((select jsonb_agg(jsonb_build_object('range', s.ip_range::text, 'zone', s.network_zone)
                               order by s.ip_range)
              from network_subnets s where s.network_id = networks.id), '[]') as subnets,
    coalesce((select jsonb_agg(jsonb_build_object('destination', r.destination::text, 'gateway', host(r.gateway))
                               order by r.destination)
              from network_routes r where r.network_id = networks.id), '[]') as routes,
    array(select m.server_id from network_members m where m.network_id = networks.id and not m.leaving
          order by 1) as servers";

fn push_from(sql: &mut QueryBuilder<Postgres>, project: ProjectId) {
    sql.push(" from networks where not gone and project_id = ").push_bind(project);
}

/// One network of the project.
///
/// # Errors
/// When the database fails.
pub async fn get(
    conn: &mut PgConnection,
    project: ProjectId,
    id: NetworkId,
) -> sqlx::Result<Option<Network>> {
    let mut sql = QueryBuilder::new(SELECT);
    push_from(&mut sql, project);
    sql.push(" and id = ").push_bind(id);
    let row: Option<Row> = sql.build_query_as().fetch_optional(conn).await?;
    row.map(render).transpose()
}

/// A page of the project's networks, and how many there are on all pages.
///
/// # Errors
/// When the database fails.
pub async fn list(
    conn: &mut PgConnection,
    project: ProjectId,
    filter: &Filter,
    page: Page,
) -> sqlx::Result<(Vec<Network>, i64)> {
    let (rows, total) = filter.page_of(conn, SELECT, |sql| push_from(sql, project), page).await?;
    Ok((rows.into_iter().map(render).collect::<sqlx::Result<_>>()?, total))
}

fn render(row: Row) -> sqlx::Result<Network> {
    let gateway = rules::gateway(read::<Ipv4Net>(&row.range)?);
    let subnet = |part: Part| Subnet {
        kind: SubnetKind::Cloud,
        ip_range: part.range,
        network_zone: part.zone,
        gateway,
        vswitch_id: None,
    };
    Ok(Network {
        id: row.id,
        name: row.name,
        ip_range: row.range,
        subnets: row.subnets.0.into_iter().map(subnet).collect(),
        routes: row.routes.0,
        servers: row.servers.into_iter().map(ServerId).collect(),
        load_balancers: Vec::new(),
        expose_routes_to_vswitch: false,
        protection: NetworkProtection { delete: row.protect_delete },
        labels: labels::from_json(row.labels),
        created: row.created,
    })
}
