//! The public addresses of a new server: primary IPs that are there, and which are to be made.

use berth_model::address::IpFamily;
use berth_model::error::ApiError;
use berth_model::server::PublicNetCreate;
use berth_model::{ErrorCode, FieldError, LocationId, PrimaryIpId, ProjectId, ServerId, Timestamp};
use sqlx::PgConnection;

use super::queries::{self, HeldIp};
use super::{Kind, PublicIpId, none_left};
use crate::http::{ApiResult, Problem};
use crate::servers::rules::fault;

/// What a new server gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Order {
    /// Primary IPs that are there.
    pub named: Vec<PublicIpId>,
    /// Of these families new ones are made.
    pub made: Vec<IpFamily>,
}

/// What of the public side of a server was asked for, by family: is it wanted, and which primary IP?
fn asked(net: &PublicNetCreate) -> [(IpFamily, &'static str, bool, Option<PrimaryIpId>); 2] {
    [(IpFamily::Ipv4, "ipv4", net.enable_ipv4, net.ipv4), (IpFamily::Ipv6, "ipv6", net.enable_ipv6, net.ipv6)]
}

/// The primary IPs that an order names, and what is wrong with them.
///
/// # Errors
/// When the database fails.
pub async fn named(
    conn: &mut PgConnection,
    project: ProjectId,
    net: &PublicNetCreate,
    faults: &mut Vec<FieldError>,
) -> sqlx::Result<Vec<HeldIp>> {
    let mut found = Vec::new();
    for (family, field, wanted, id) in asked(net) {
        let Some(id) = id else { continue };
        let ip = queries::hold(conn, project, Kind::Primary, id.into()).await?;
        let message = match ip {
            _ if !wanted => format!("Name one only with “enable_{field}”."),
            None => format!("There is no primary IP {id}."),
            Some(ip) if ip.family != family => {
                format!("The primary IP {id} is not an {} one.", family.noun())
            }
            Some(ip) if ip.server.is_some() || ip.locked => format!("The primary IP {id} is in use."),
            Some(ip) => {
                found.push(ip);
                continue;
            }
        };
        faults.push(fault(format!("public_net.{field}"), message));
    }
    Ok(found)
}

/// Has the location what the order asks for beside the primary IPs that it names?
///
/// # Errors
/// When the database fails.
pub async fn has_room(
    conn: &mut PgConnection,
    location: LocationId,
    net: &PublicNetCreate,
    cooled_by: Timestamp,
) -> sqlx::Result<bool> {
    for family in made(conn, location, net).await? {
        if !queries::any_free(conn, location, family, cooled_by).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Of which families an order gets new primary IPs. Where the operator has no IPv6, nobody need ask for a server
/// without.
async fn made(
    conn: &mut PgConnection,
    location: LocationId,
    net: &PublicNetCreate,
) -> sqlx::Result<Vec<IpFamily>> {
    let mut made = Vec::new();
    for (family, _, wanted, id) in asked(net) {
        let is_made = wanted && id.is_none();
        if is_made && (family == IpFamily::Ipv4 || queries::offers(conn, location, family).await?) {
            made.push(family);
        }
    }
    Ok(made)
}

/// What a new server in this location gets, of what was asked for and was found.
///
/// # Errors
/// `invalid_input` when a primary IP is of another location, or the location has none of what is wanted; `resource_unavailable` when all
/// addresses are taken.
pub async fn resolve(
    conn: &mut PgConnection,
    location: LocationId,
    net: &PublicNetCreate,
    named: &[HeldIp],
    cooled_by: Timestamp,
) -> ApiResult<Order> {
    if let Some(ip) = named.iter().find(|ip| ip.location != location) {
        let field = if ip.family == IpFamily::Ipv4 { "public_net.ipv4" } else { "public_net.ipv6" };
        return Err(ApiError::field(field, "This primary IP is of another location.").into());
    }
    let made = made(conn, location, net).await?;
    for family in &made {
        if !queries::any_free(conn, location, *family, cooled_by).await? {
            return Err(none_left(*family).into());
        }
    }
    let wants_any = net.enable_ipv4 || net.enable_ipv6;
    if wants_any && named.is_empty() && made.is_empty() {
        let message = "This location has no IPv6, and without any address nobody could reach the server.";
        return Err(ApiError::field("public_net.enable_ipv4", message).into());
    }
    let mut named: Vec<_> = named.iter().map(|ip| ip.id).collect();
    named.sort_unstable();
    Ok(Order { named, made })
}

/// Gives a server that was just written the primary IPs that its order names.
///
/// # Errors
/// `conflict` when another was faster.
pub async fn assign_ordered(
    conn: &mut PgConnection,
    project: ProjectId,
    server: ServerId,
    order: &Order,
) -> ApiResult<()> {
    for id in &order.named {
        let ip = queries::hold(conn, project, Kind::Primary, *id).await?;
        if !ip.is_some_and(|ip| ip.server.is_none() && !ip.locked) {
            let message = "A primary IP of this order has just been taken by another server.";
            return Err(Problem::new(ErrorCode::Conflict, message));
        }
        queries::set_server(conn, *id, Some(server), None).await?;
    }
    Ok(())
}
