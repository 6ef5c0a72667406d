//! Servers as the API shows them, any number of them in a constant number of queries.

use std::collections::HashMap;

use berth_model::location::Datacenter;
use berth_model::network::PrivateNet;
use berth_model::server::{AppliedFirewall, AppliedStatus, Server, ServerProtection, ServerStatus};
use berth_model::{
    ImageId, IsoId, LocationId, PlacementGroupId, ProjectId, ServerId, ServerTypeId, Timestamp, VolumeId,
};
use sqlx::PgConnection;
use sqlx::types::Json;

use crate::addresses::queries::PublicIp;
use crate::{addresses, backups, catalog, firewalls, images, isos, labels, placement_groups};

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
                  s.rescue_sha256 is not null as "rescue!", s.revision_told = s.revision as "told!",
                  (select volumes from volumes_of_server v where v.server_id = s.id) as volumes,
                  (select public_ips from public_ips_of_server p where p.server_id = s.id)
                      as "public_ips: Json<Vec<PublicIp>>",
                  (select private_nets from private_nets_of_server n where n.server_id = s.id)
                      as "private_nets: Json<Vec<PrivateNet>>",
                  (select first_hour from windows_of_server b where b.server_id = s.id) as first_hour,
                  (select edition from catalog_edition) as "edition!"
           from unnest($1::bigint[]) with ordinality as asked (id, place)
           join servers s on s.id = asked.id
           order by asked.place"#,
        &numbers
    )
    .fetch_all(&mut *conn)
    .await?;

    let Some(edition) = rows.first().map(|row| row.edition.clone()) else { return Ok(Vec::new()) };
    let catalog = catalog::queries::shelf(conn, &edition).await?;
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

    let marked: Vec<_> =
        rows.iter().map(|row| (row.project, row.id, labels::from_json(row.labels.clone()))).collect();
    let mut firewalls = firewalls::queries::of_servers(conn, &marked).await?;

    let mut servers = Vec::with_capacity(rows.len());
    for (row, (.., labels)) in rows.into_iter().zip(marked) {
        // Rows that servers refer to are never deleted.
        let types = (catalog.types.get(&row.server_type), catalog.locations.get(&row.location));
        let (Some(server_type), Some(location)) = types else {
            return Err(sqlx::Error::RowNotFound);
        };
        let price = server_type.prices.iter().find(|price| price.location == location.name);
        let mut public_net =
            addresses::queries::public_net(row.public_ips.map_or_else(Vec::new, |ips| ips.0));
        let status = if row.told { AppliedStatus::Applied } else { AppliedStatus::Pending };
        let applied = firewalls.remove(&row.id).unwrap_or_default().into_iter();
        public_net.firewalls = applied.map(|id| AppliedFirewall { id, status }).collect();
        let server = Server {
            id: row.id,
            name: row.name,
            status: row.status,
            created: row.created,
            public_net,
            private_net: row.private_nets.map_or_else(Vec::new, |nets| nets.0),
            server_type: server_type.clone(),
            location: location.clone(),
            datacenter: Datacenter::of(location),
            image: images.get(&row.image).cloned(),
            iso: row.iso.and_then(|id| isos.get(&id).cloned()),
            rescue_enabled: row.rescue,
            locked: row.locked,
            backup_window: row.first_hour.map(backups::rules::window),
            outgoing_traffic: None,
            ingoing_traffic: None,
            included_traffic: price.map_or(server_type.included_traffic, |price| price.included_traffic),
            protection: ServerProtection { delete: row.protect_delete, rebuild: row.protect_rebuild },
            labels,
            volumes: row.volumes.unwrap_or_default().into_iter().map(VolumeId).collect(),
            load_balancers: Vec::new(),
            primary_disk_size: row.disk_gib.unsigned_abs(),
            placement_group: row.group.and_then(|id| groups.get(&id).cloned()),
        };
        servers.push((row.project, server));
    }
    Ok(servers)
}
