//! `/v1/primary_ips` and `/v1/floating_ips`: what both do alike.

mod floating;
mod primary;

use axum::Json;
use berth_model::action::{Action, ActionReply, ResourceKind};
use berth_model::address::ChangeDnsPtr;
use berth_model::error::ApiError;
use berth_model::location::{Datacenter, Location};
use berth_model::server::NameOrId;
use berth_model::{ErrorCode, LocationId, ProjectId, ServerId, Timestamp};
use http::StatusCode;
use serde::Deserialize;
use sqlx::PgConnection;
use utoipa_axum::router::OpenApiRouter;

use super::jobs::releasing::LeavingIp;
use super::queries::{self, HeldIp, NewIp};
use super::{Kind, PublicIpId, none_left, rules};
use crate::actions::{self, NewAction};
use crate::config::Config;
use crate::http::{ApiResult, Problem};
use crate::servers::jobs::losing;
use crate::servers::queries::Held;
use crate::{World, catalog, clock, servers};

/// The routes of addresses.
pub fn router() -> OpenApiRouter<World> {
    primary::router().merge(floating::router())
}

/// Which addresses are asked for besides.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// This address; of IPv6 the network, `2001:db8:7:1::/64`.
    ip: Option<String>,
}

/// The answer to an action that was begun.
type Told = (StatusCode, Json<ActionReply>);

fn told(action: Action) -> Told {
    (StatusCode::CREATED, Json(ActionReply { action }))
}

/// One that is held, and its server.
struct Both {
    ip: HeldIp,
    /// The server that has it.
    server: Option<Held>,
    /// The server that another field of the request names.
    named: Option<Held>,
}

/// Holds a primary or floating IP with the server that has it, and the server `named` by a field, in the order of
/// locks.
async fn hold(
    conn: &mut PgConnection,
    project: ProjectId,
    (kind, id): (Kind, PublicIpId),
    named: Option<(&'static str, ServerId)>,
) -> ApiResult<Both> {
    let of = queries::server_of(conn, project, kind, id).await?;
    let of = of.ok_or_else(|| Problem::not_found(kind.noun()))?;
    let mut servers: Vec<ServerId> = of.into_iter().chain(named.map(|(_, server)| server)).collect();
    servers.sort_unstable();
    servers.dedup();
    let mut held = Vec::with_capacity(servers.len());
    for server in servers {
        held.extend(servers::queries::hold(conn, project, server).await?);
    }
    let ip = queries::hold(conn, project, kind, id).await?.ok_or_else(|| Problem::not_found(kind.noun()))?;
    refuse_locked(&ip)?;
    if ip.server != of {
        let message = format!("The {} has just been moved. Look where it is, and try again.", kind.noun());
        return Err(Problem::new(ErrorCode::Conflict, message));
    }
    let find = |id: ServerId| held.iter().find(|server| server.id == id).cloned();
    let named = match named {
        Some((field, id)) => Some(find(id).ok_or_else(|| no_server(field))?),
        None => None,
    };
    Ok(Both { ip, server: of.and_then(find), named })
}

fn no_server(field: &str) -> Problem {
    Problem::field(field, "There is no such server.")
}

fn refuse_locked(ip: &HeldIp) -> Result<(), ApiError> {
    if ip.locked {
        let message = format!("The {} is being moved. Try again when that has ended.", ip.kind.noun());
        return Err(ApiError::new(ErrorCode::Locked, message));
    }
    Ok(())
}

/// Refuses a server in another location than the address.
///
/// # Errors
/// `invalid_input`.
pub(super) async fn refuse_elsewhere(
    conn: &mut PgConnection,
    server: ServerId,
    ip: &HeldIp,
) -> ApiResult<()> {
    let wish = servers::queries::wish(conn, server).await?;
    if wish.is_some_and(|wish| wish.location == ip.location) {
        return Ok(());
    }
    let field = match ip.kind {
        Kind::Primary => "assignee_id",
        Kind::Floating => "server",
    };
    Err(Problem::field(field, format!("The server is in another location than the {}.", ip.kind.noun())))
}

/// The location that is named, or whose datacenter is.
async fn place(
    conn: &mut PgConnection,
    location: (&'static str, Option<&NameOrId>),
    datacenter: Option<&NameOrId>,
) -> ApiResult<Option<LocationId>> {
    let is = |named: &NameOrId, id: i64, name: &str| named.id() == Some(id) || named.text() == name;
    let locations = catalog::queries::locations(conn).await?;
    let (field, word, found): (_, _, Option<&Location>) = match (location, datacenter) {
        ((field, Some(named)), _) => {
            (field, "location", locations.iter().find(|l| is(named, l.id.0, &l.name)))
        }
        (_, Some(named)) => {
            let has = |l: &&Location| is(named, l.id.0, &Datacenter::of(l).name);
            ("datacenter", "datacenter", locations.iter().find(has))
        }
        _ => return Ok(None),
    };
    match found {
        Some(location) => Ok(Some(location.id)),
        None => Err(Problem::field(field, format!("There is no such {word}."))),
    }
}

/// Takes an address of the location, and writes who holds it.
async fn make(
    conn: &mut PgConnection,
    config: &Config,
    location: LocationId,
    new: &NewIp<'_>,
    now: Timestamp,
) -> ApiResult<PublicIpId> {
    let taken = queries::take(conn, location, new.family, config.addresses_cooled_by(now)).await?;
    let address = taken.ok_or_else(|| none_left(new.family))?;
    queries::insert(conn, address, new).await.map_err(|error| name_is_taken(error, new.kind))
}

fn name_is_taken(error: sqlx::Error, kind: Kind) -> Problem {
    let message = format!("The project has a {} with this name already.", kind.noun());
    Problem::from(error).on_taken("public_ips_name_key", "name", &message)
}

/// Deletes one, which a server may have. Its address is free once the server's node has lost it.
async fn delete(conn: &mut PgConnection, both: &Both) -> ApiResult<()> {
    let (ip, now) = (&both.ip, clock::now());
    if ip.protect_delete {
        let noun = ip.kind.noun();
        let message = format!("The {noun} is protected from deletion. Take the protection off first.");
        return Err(Problem::new(ErrorCode::Protected, message));
    }
    let Some(server) = &both.server else { return Ok(queries::remove(conn, ip.id, now).await?) };
    queries::set_gone(conn, ip.id).await?;
    losing::free_once_lost(conn, server.id, LeavingIp::new(ip.id), now).await?;
    Ok(servers::queries::publish(conn, server.id, now).await?)
}

/// Gives an address of a primary or floating IP a reverse name, or none; its row is locked.
///
/// # Errors
/// `invalid_input` when the address is of another, or the name is no host name.
pub async fn rename(conn: &mut PgConnection, ip: &HeldIp, asked: &ChangeDnsPtr) -> ApiResult<()> {
    let name = rules::reverse_name(ip.net, asked.ip, asked.dns_ptr.as_deref());
    let name = name.map_err(|fault| ApiError::fields(vec![fault]))?;
    queries::set_reverse_name(conn, ip.id, asked.ip, name.as_deref()).await?;
    if queries::reverse_names(conn, ip.id).await? > rules::REVERSE_NAMES_MAX {
        let message = format!("A network has at most {} reverse names.", rules::REVERSE_NAMES_MAX);
        return Err(Problem::new(ErrorCode::ResourceLimitExceeded, message));
    }
    Ok(())
}

/// [`rename`] as an action that is done at once.
async fn change_dns_ptr(
    conn: &mut PgConnection,
    project: ProjectId,
    (kind, id): (Kind, PublicIpId),
    asked: &ChangeDnsPtr,
) -> ApiResult<Action> {
    let both = hold(conn, project, (kind, id), None).await?;
    rename(conn, &both.ip, asked).await?;
    let now = clock::now();
    if let Some(server) = &both.server {
        servers::queries::publish(conn, server.id, now).await?;
    }
    done(conn, project, (kind, id), "change_dns_ptr", now).await
}

/// Protects one from deletion, or no longer, as an action that is done at once.
async fn change_protection(
    conn: &mut PgConnection,
    project: ProjectId,
    (kind, id): (Kind, PublicIpId),
    protect_delete: Option<bool>,
) -> ApiResult<Action> {
    let ip = queries::hold(conn, project, kind, id).await?.ok_or_else(|| Problem::not_found(kind.noun()))?;
    queries::update(conn, ip.id, queries::Update { protect_delete, ..queries::Update::default() }).await?;
    done(conn, project, (kind, id), "change_protection", clock::now()).await
}

async fn done(
    conn: &mut PgConnection,
    project: ProjectId,
    (kind, id): (Kind, PublicIpId),
    command: &str,
    now: Timestamp,
) -> ApiResult<Action> {
    let resources = &[(kind.resource(), id.0)];
    Ok(actions::queries::done(conn, &NewAction { project, command, resources, steps: &[], now }).await?)
}

impl Kind {
    const fn resource(self) -> ResourceKind {
        match self {
            Self::Primary => ResourceKind::PrimaryIp,
            Self::Floating => ResourceKind::FloatingIp,
        }
    }
}
