//! An order: what a customer names becomes what there is, or a list of everything that is wrong.
//! What belongs to another account is treated as what does not exist.

use berth_model::action::{Action, ResourceKind};
use berth_model::error::ApiError;
use berth_model::image::ImageStatus;
use berth_model::location::{Datacenter, Location};
use berth_model::quota::QuotaKind;
use berth_model::server::{NameOrId, PublicNetCreate, ServerCreate, ServerStatus};
use berth_model::{ByteSize, FieldError, FirewallId, LocationId, NetworkId, ProjectId, ServerId, Timestamp};
use sqlx::PgConnection;

use super::jobs::create;
use super::queries::{self, NewServer};
use super::rules::{self, fault};
use crate::actions::{self, NewAction};
use crate::catalog::queries::Shape;
use crate::config::Config;
use crate::http::{ApiResult, Problem};
use crate::{
    addresses, catalog, entropy, firewalls, images, jobs, networks, nodes, placement_groups, quotas,
    ssh_keys, volumes,
};

/// Draws of a MAC address before we give up. Of 16 million few are taken, so one is nearly always enough.
const MAC_DRAWS_MAX: usize = 16;
/// Longest part of a customer's words that is repeated in a sentence, in characters.
const QUOTE_MAX: usize = 60;

/// What an order names, found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    shape: Shape,
    image: images::queries::Found,
    location: LocationId,
    addresses: addresses::Order,
    pub(super) ssh_public_keys: Vec<String>,
    firewalls: Vec<FirewallId>,
    networks: Vec<NetworkId>,
}

/// Finds what the order names.
pub(super) async fn resolve(
    conn: &mut PgConnection,
    project: ProjectId,
    create: &ServerCreate,
    (now, cooled_by): (Timestamp, Timestamp),
) -> ApiResult<Order> {
    let mut faults = rules::create_faults(create);
    let shape = server_type(conn, create, &mut faults).await?;
    let disk = shape.as_ref().map(|shape| (shape.disk(), shape.name.as_str()));
    let image = usable_image(conn, project, &create.image, disk, now, &mut faults).await?;
    let net = create.public_net.clone().unwrap_or_default();
    let named = addresses::named(conn, project, &net, &mut faults).await?;
    let volumes = volumes::order::named(conn, project, &create.volumes, &mut faults).await?;
    let bound = named.first().map(|ip| ip.location).or(volumes.first().map(|volume| volume.location));
    let place = match bound {
        Some(location) => Place::Of(location),
        None => Place::With(&net, cooled_by),
    };
    let location = location(conn, create, shape.as_ref(), place, &mut faults).await?;
    faults.extend(location.and_then(|location| volumes::order::location_fault(&volumes, location)));
    if let Some(group) = create.placement_group
        && placement_groups::queries::get(conn, project, group).await?.is_none()
    {
        faults.push(fault("placement_group", "There is no such placement group in this project."));
    }
    let ssh_public_keys = ssh_public_keys(conn, project, &create.ssh_keys, &mut faults).await?;
    let firewalls = firewalls::named(conn, project, &create.firewalls, &mut faults).await?;
    let networks = networks::named(conn, project, &create.networks, &mut faults).await?;
    let (Some(shape), Some(image), Some(location), true) = (shape, image, location, faults.is_empty()) else {
        return Err(ApiError::fields(faults).into());
    };
    let addresses = addresses::resolve(conn, location, &net, &named, cooled_by).await?;
    Ok(Order { shape, image, location, addresses, ssh_public_keys, firewalls, networks })
}

/// Where a server goes whose order does not say.
#[derive(Debug, Clone, Copy)]
enum Place<'a> {
    /// Where a primary IP or a volume is that it names.
    Of(LocationId),
    /// Where there are such addresses, released before that time.
    With(&'a PublicNetCreate, Timestamp),
}

/// What a customer named, for a sentence.
pub fn quote(named: &NameOrId) -> String {
    let text = named.text();
    match text.char_indices().nth(QUOTE_MAX) {
        Some((end, _)) => format!("“{}…”", &text[..end]),
        None => format!("“{text}”"),
    }
}

async fn server_type(
    conn: &mut PgConnection,
    create: &ServerCreate,
    faults: &mut Vec<FieldError>,
) -> ApiResult<Option<Shape>> {
    let named = &create.server_type;
    let shape = catalog::queries::shape(conn, named).await?;
    let message = match &shape {
        None => format!("There is no server type {}.", quote(named)),
        Some(shape) if shape.deprecated => format!("The server type {} is no longer offered.", shape.name),
        Some(shape) if shape.offered.is_empty() => {
            format!("The server type {} is offered nowhere.", shape.name)
        }
        Some(_) => return Ok(shape),
    };
    faults.push(fault("server_type", message));
    Ok(None)
}

/// The image that is named, if a disk can be made from it: one of `disk`, which is of what is named beside it.
pub(super) async fn usable_image(
    conn: &mut PgConnection,
    project: ProjectId,
    named: &NameOrId,
    disk: Option<(ByteSize, &str)>,
    now: Timestamp,
    faults: &mut Vec<FieldError>,
) -> ApiResult<Option<images::queries::Found>> {
    let found = images::queries::find(conn, project, named).await?;
    let message = match &found {
        None => format!("There is no image {}.", quote(named)),
        Some(image) if image.status != ImageStatus::Available => {
            format!("The image {} cannot be used now.", image.description)
        }
        Some(image) if image.deprecated.is_some_and(|since| since <= now) => {
            format!("The image {} is no longer offered.", image.description)
        }
        Some(image) => match disk {
            Some((disk, whose)) if image.disk_bytes.unsigned_abs() > disk.bytes() => {
                let gib = |bytes: u64| bytes.div_ceil(1 << 30);
                let needed = gib(image.disk_bytes.unsigned_abs());
                format!("This image needs a disk of {needed} GB; {whose} has {}.", gib(disk.bytes()))
            }
            _ => return Ok(found),
        },
    };
    faults.push(fault("image", message));
    Ok(None)
}

/// The location that is named, or whose datacenter is; without either, the first that offers the
/// type and can take a server now.
async fn location(
    conn: &mut PgConnection,
    create: &ServerCreate,
    shape: Option<&Shape>,
    place: Place<'_>,
    faults: &mut Vec<FieldError>,
) -> ApiResult<Option<LocationId>> {
    let locations = catalog::queries::locations(conn).await?;
    let is = |named: &NameOrId, id: i64, name: &str| named.id() == Some(id) || named.text() == name;
    let (field, named, found) = match (&create.location, &create.datacenter) {
        (Some(named), _) => ("location", named, locations.iter().find(|l| is(named, l.id.0, &l.name))),
        (None, Some(named)) => {
            let has = |location: &&Location| is(named, location.id.0, &Datacenter::of(location).name);
            ("datacenter", named, locations.iter().find(has))
        }
        (None, None) => match (any_location(conn, shape, place).await?, shape) {
            (None, Some(shape)) => {
                let message = format!(
                    "The server type {} is not offered where this primary IP or volume is.",
                    shape.name
                );
                faults.push(fault("server_type", message));
                return Ok(None);
            }
            (location, _) => return Ok(location),
        },
    };
    let Some(location) = found else {
        faults.push(fault(field, format!("There is no {field} {}.", quote(named))));
        return Ok(None);
    };
    match shape {
        Some(shape) if !shape.offered.contains(&location.id.0) => {
            let message = format!("The server type {} is not offered in {}.", shape.name, location.name);
            faults.push(fault(field, message));
            Ok(None)
        }
        _ => Ok(Some(location.id)),
    }
}

async fn any_location(
    conn: &mut PgConnection,
    shape: Option<&Shape>,
    place: Place<'_>,
) -> sqlx::Result<Option<LocationId>> {
    let offered = shape.map(|shape| shape.offered.as_slice()).unwrap_or_default();
    let (net, cooled_by) = match place {
        Place::Of(location) => return Ok(Some(location).filter(|location| offered.contains(&location.0))),
        Place::With(net, cooled_by) => (net, cooled_by),
    };
    for id in offered.iter().copied().map(LocationId) {
        if nodes::queries::any_ready(conn, id).await? && addresses::has_room(conn, id, net, cooled_by).await?
        {
            return Ok(Some(id));
        }
    }
    // None is ready: the order says later why, as it would for a location that was named.
    Ok(offered.first().copied().map(LocationId))
}

/// The public keys that are named, each once.
pub(super) async fn ssh_public_keys(
    conn: &mut PgConnection,
    project: ProjectId,
    named: &[NameOrId],
    faults: &mut Vec<FieldError>,
) -> ApiResult<Vec<String>> {
    let named = &named[..named.len().min(rules::SSH_KEYS_MAX)];
    let mut lines = Vec::with_capacity(named.len());
    for (at, line) in ssh_keys::queries::lines(conn, project, named).await?.into_iter().enumerate() {
        match line {
            Some(line) if lines.contains(&line) => {}
            Some(line) => lines.push(line),
            None => {
                let message = format!("There is no SSH key {} in this project.", quote(&named[at]));
                faults.push(fault(format!("ssh_keys[{at}]"), message));
            }
        }
    }
    Ok(lines)
}

/// Writes the server, its action and its job, in the caller's transaction.
pub(super) async fn write(
    conn: &mut PgConnection,
    project: ProjectId,
    (create, order): (&ServerCreate, &Order),
    root_password_hash: Option<&str>,
    config: &Config,
    now: Timestamp,
) -> ApiResult<(ServerId, Action)> {
    let new = NewServer {
        project,
        name: &create.name,
        server_type: order.shape.id,
        cores: order.shape.cores,
        memory_mib: order.shape.memory_mib,
        disk_gib: order.shape.disk_gib,
        image: order.image.id,
        image_sha256: &order.image.sha256,
        location: order.location,
        ssh_public_keys: &order.ssh_public_keys,
        root_password_hash,
        user_data: create.user_data.as_deref(),
        labels: &create.labels,
        now,
    };
    firewalls::queries::take_turns(conn, project, false).await?;
    let id = insert(conn, &new).await?;
    let action = NewAction {
        project,
        command: "create_server",
        resources: &[(ResourceKind::Server, id.0)],
        steps: &jobs::titles::<create::ServerCreate>(),
        now,
    };
    let action = actions::queries::start(conn, &action).await?;
    queries::lock(conn, id, action.id, ServerStatus::Initializing).await?;
    let start = create.start_after_create.unwrap_or(true);
    addresses::assign_ordered(conn, project, id, &order.addresses).await?;
    if create.placement_group.is_some() {
        let joined = placement_groups::queries::join(conn, id, create.placement_group).await;
        joined.map_err(|error| {
            Problem::from(error)
                .on_constraint("servers_placement_group_fk", || rules::just_gone("placement group"))
        })?;
    }
    let automount = create.automount.unwrap_or(false);
    volumes::order::assign(conn, project, (id, action.id), &create.volumes, automount).await?;
    firewalls::apply_ordered(conn, project, id, &order.firewalls).await?;
    networks::join_ordered(conn, project, id, &order.networks).await?;
    let saga = create::ServerCreate::new(id, start, order.addresses.made.clone());
    jobs::enqueue(conn, &saga, Some(action.id), now).await?;
    if !images::queries::keep(conn, order.image.id, &order.image.sha256).await? {
        return Err(rules::just_gone("image").into());
    }
    queries::publish(conn, id, now).await?;
    let kinds = [QuotaKind::Servers, QuotaKind::Cores, QuotaKind::MemoryMib];
    let made = i64::try_from(order.addresses.made.len()).unwrap_or(i64::MAX);
    quotas::check_with(conn, config, project, &kinds, Some((QuotaKind::PrimaryIps, made))).await?;
    Ok((id, action))
}

async fn insert(conn: &mut PgConnection, new: &NewServer<'_>) -> ApiResult<ServerId> {
    for _ in 0..MAC_DRAWS_MAX {
        let mac = rules::mac(entropy::bytes());
        if let Some(id) = queries::insert(conn, new, &mac).await.map_err(name_is_taken)? {
            return Ok(id);
        }
    }
    Err(Problem::internal(anyhow::anyhow!("{MAC_DRAWS_MAX} MAC addresses drawn in a row are taken")))
}

/// The error when the project has another server of this name.
pub(super) fn name_is_taken(error: sqlx::Error) -> Problem {
    Problem::from(error).on_taken(
        "servers_name_key",
        "name",
        "The project has a server with this name already.",
    )
}
