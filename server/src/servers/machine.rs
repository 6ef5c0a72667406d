//! What a node is told that a server's machine should be: put together from the rows of all subjects.
//!
//! Whoever changes such a row calls [`queries::touch`] in the same transaction and sees to it that the node is
//! told: by a [`super::change`] that holds the server, or by [`super::jobs::follow`], which does not. Both tell
//! everything anew, so that it does not matter which is heard last: whoever told an older revision finds that
//! out as it records, and tells again.

use berth_model::ServerId;
use berth_model::agent::{BootDevice, Hardware, Nic, Rescue, VmImage, VmPlace, VmSeed, VmSpec, WantedPower};
use berth_model::location::Datacenter;
use sqlx::PgConnection;

use super::queries::{self, Machine};
use crate::config::Config;
use crate::{addresses, firewalls, networks, volumes};

/// A server's machine, as the rows have it.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What the server's own row says.
    pub machine: Machine,
    /// What the node is to be told.
    pub spec: VmSpec,
}

/// What the machine of a server should be; `None` when the server is gone.
///
/// # Errors
/// When the database fails.
pub async fn wanted(
    conn: &mut PgConnection,
    config: &Config,
    server: ServerId,
    power: WantedPower,
) -> sqlx::Result<Option<Wanted>> {
    let Some(machine) = queries::machine(conn, server).await? else { return Ok(None) };
    let rescue = queries::rescue(conn, server).await?;
    let iso = queries::iso(conn, server).await?.map(|iso| iso.sha256);
    let boot = if iso.is_some() { vec![BootDevice::Iso, BootDevice::Disk] } else { vec![BootDevice::Disk] };
    let (attached, mounts) = volumes::queries::of_machine(conn, server).await?;
    let card = addresses::queries::card(conn, server).await?;
    let has_way_out = card.addresses.iter().any(|address| address.ip.is_ipv4());
    let private = networks::of_machine(conn, server, has_way_out).await?;
    let firewall = firewalls::of_machine(conn, server).await?;
    // A card without addresses would be one on which the guest may have any: there is none then.
    let public = (!card.is_empty()).then(|| Nic {
        mac: machine.mac.clone(),
        addresses: card.addresses,
        networks: card.networks,
        firewall,
        ..Nic::default()
    });
    let spec = VmSpec {
        vcpus: machine.need.cores,
        memory: machine.need.memory,
        disk: machine.need.disk,
        image: VmImage { sha256: machine.image_sha256.clone() },
        volumes: attached,
        nics: public.into_iter().chain(private).collect(),
        seed: VmSeed {
            hostname: machine.name.clone(),
            ssh_keys: machine.ssh_public_keys.clone(),
            root_password_hash: machine.root_password_hash.clone(),
            user_data: machine.user_data.clone(),
            mounts,
            name_servers: config.name_servers.clone(),
        },
        power,
        hardware: Hardware { boot, ..Hardware::default() },
        iso,
        rescue: rescue.map(|rescue| Rescue {
            image: rescue.sha256,
            root_password_hash: rescue.root_password_hash,
            ssh_keys: rescue.ssh_keys,
        }),
        place: Some(VmPlace {
            region: machine.network_zone.clone(),
            availability_zone: Datacenter::name_of(&machine.location),
        }),
        ..VmSpec::default()
    };
    Ok(Some(Wanted { machine, spec }))
}
