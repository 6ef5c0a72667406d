//! Servers as the API shows them, any number of them in a constant number of queries.

use std::collections::HashMap;

use berth_model::location::Datacenter;
use berth_model::server::{AppliedFirewall, AppliedStatus, Server, ServerProtection, ServerStatus};
use berth_model::{
    ImageId, IsoId, LocationId, PlacementGroupId, ProjectId, ServerId, ServerTypeId, Timestamp,
};
use sqlx::PgConnection;

use crate::{
    addresses, backups, catalog, firewalls, images, isos, labels, networks, placement_groups, volumes,
};

/// These servers, each with its project, in the order given; those that are gone are left out.
///
/// # Errors
/// When the database fails.
pub async fn render(conn: &mut PgConnection, ids: &[ServerId]) -> sqlx::Result<Vec<(ProjectId, Server)>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let numbers: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"select s.id as "id: ServerId", s.project_id as "project: ProjectId", s.name,
                  s.status as "status: ServerStatus", s.created as "created: Timestamp",
                  s.server_type_id as "server_type: ServerTypeId", s.image_id as "image: ImageId",
                  s.location_id as "location: LocationId", s.locked_by is not null as "locked!",
                  s.protect_delete, s.protect_rebuild, s.labels, s.disk_gib, s.iso_id as "iso: IsoId",
                  s.placement_group_id as "group: PlacementGroupId",
                  s.rescue_sha256 is not null as "rescue!", s.revision_told = s.revision as "told!"
           from unnest($1::bigint[]) with ordinality as asked (id, place)
           join servers s on s.id = asked.id
           order by asked.place"#,
        &numbers
    )
    .fetch_all(&mut *conn)
    .await?;

    let mut types: Vec<ServerTypeId> = rows.iter().map(|row| row.server_type).collect();
    types.sort_unstable();
    types.dedup();
    let types = catalog::queries::server_types(conn, Some(&types)).await?;
    let types: HashMap<_, _> = types.into_iter().map(|t| (t.id, t)).collect();
    let locations = catalog::queries::locations(conn).await?;
    let locations: HashMap<_, _> = locations.into_iter().map(|l| (l.id, l)).collect();
    let mut used: Vec<ImageId> = rows.iter().map(|row| row.image).collect();
    used.sort_unstable();
    used.dedup();
    let images = images::queries::by_ids(conn, &used).await?;
    let images: HashMap<_, _> = images.into_iter().map(|i| (i.id, i)).collect();

    let used: Vec<IsoId> = rows.iter().filter_map(|row| row.iso).collect();
    let isos = if used.is_empty() { Vec::new() } else { isos::queries::by_ids(conn, &used).await? };
    let isos: HashMap<_, _> = isos.into_iter().map(|i| (i.id, i)).collect();

    let used: Vec<PlacementGroupId> = rows.iter().filter_map(|row| row.group).collect();
    let groups = match used.is_empty() {
        true => Vec::new(),
        false => placement_groups::queries::by_ids(conn, &used).await?,
    };
    let groups: HashMap<_, _> = groups.into_iter().map(|group| (group.id, group)).collect();

    let mut volumes = volumes::queries::of_servers(conn, &numbers).await?;
    let mut public_nets = addresses::queries::public_nets(conn, &numbers).await?;

    let mut windows = backups::windows(conn, &numbers).await?;

    let marked: Vec<_> =
        rows.iter().map(|row| (row.project, row.id, labels::from_json(row.labels.clone()))).collect();
    let mut firewalls = firewalls::queries::of_servers(conn, &marked).await?;

    let mut private_nets = networks::queries::private_nets(conn, &numbers).await?;

    let mut servers = Vec::with_capacity(rows.len());
    for (row, (.., labels)) in rows.into_iter().zip(marked) {
        // Rows that servers refer to are never deleted.
        let (Some(server_type), Some(location)) = (types.get(&row.server_type), locations.get(&row.location))
        else {
            return Err(sqlx::Error::RowNotFound);
        };
        let price = server_type.prices.iter().find(|price| price.location == location.name);
        let mut public_net = public_nets.remove(&row.id).unwrap_or_default();
        let status = if row.told { AppliedStatus::Applied } else { AppliedStatus::Pending };
        let applied = firewalls.remove(&row.id).unwrap_or_default().into_iter();
        public_net.firewalls = applied.map(|id| AppliedFirewall { id, status }).collect();
        let server = Server {
            id: row.id,
            name: row.name,
            status: row.status,
            created: row.created,
            public_net,
            private_net: private_nets.remove(&row.id).unwrap_or_default(),
            server_type: server_type.clone(),
            location: location.clone(),
            datacenter: Datacenter::of(location),
            image: images.get(&row.image).cloned(),
            iso: row.iso.and_then(|id| isos.get(&id).cloned()),
            rescue_enabled: row.rescue,
            locked: row.locked,
            backup_window: windows.remove(&row.id),
            outgoing_traffic: None,
            ingoing_traffic: None,
            included_traffic: price.map_or(server_type.included_traffic, |price| price.included_traffic),
            protection: ServerProtection { delete: row.protect_delete, rebuild: row.protect_rebuild },
            labels,
            volumes: volumes.remove(&row.id).unwrap_or_default(),
            load_balancers: Vec::new(),
            primary_disk_size: row.disk_gib.unsigned_abs(),
            placement_group: row.group.and_then(|id| groups.get(&id).cloned()),
        };
        servers.push((row.project, server));
    }
    Ok(servers)
}
