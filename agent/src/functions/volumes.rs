//! `pool`, `volume`.

use berth_model::agent::function::{pool, volume};
use berth_model::agent::{Nothing, PoolList, Vm, VmSpec, VolumeAttachment, VolumeList};
use berth_model::error::ApiError;
use berth_model::{VmId, VolumeId};

use super::{Functions, no_faults};
use crate::api::Api;
use crate::error::Refusal;
use crate::moving::fetch_faults;
use crate::storage::{clone_faults, create_faults, volume_faults};

pub(super) fn tie(functions: &mut Functions) {
    functions
        .read::<pool::List>(|api, (), _| Ok(PoolList { pools: api.work.hypervisor().storage().pools()? }));
    functions.read::<pool::Get>(|api, name, _| Ok(api.work.hypervisor().storage().pool_info(name)?));
    functions.read::<volume::List>(|api, (), _| {
        Ok(VolumeList { volumes: api.work.hypervisor().storage().volumes()? })
    });
    functions.read::<volume::Get>(|api, id, _| Ok(api.work.hypervisor().storage().volume(*id)?));
    functions.change::<volume::Create>(create_faults, |api, _, id, wanted| {
        Ok(api.work.hypervisor().storage().create(*id, &wanted)?)
    });
    functions.change::<volume::CloneFromImage>(clone_faults, |api, cx, id, wanted| {
        let _image = api.images.hold(&wanted.image)?;
        Ok(api.work.hypervisor().storage().clone_from_image(cx, *id, &wanted)?)
    });
    functions.change::<volume::Resize>(
        |wanted| volume_faults(wanted.size),
        |api, _, id, wanted| Ok(api.work.hypervisor().volume_resize(*id, wanted.size)?),
    );
    functions.change::<volume::Offer>(no_faults, |api, _, id, _| {
        api.moves.offer(api.work.hypervisor().storage().offer(*id)?)
    });
    functions.change::<volume::Fetch>(fetch_faults, |api, cx, id, wanted| {
        let offered = &wanted.from.volume;
        if offered.id != *id {
            let message = format!("This offer is of volume {}.", offered.id);
            return Err(Refusal(ApiError::field("from.volume", message)));
        }
        let way = api.moves.way_to(&wanted)?;
        Ok(api.work.hypervisor().storage().fetch(cx, offered, wanted.pool.as_ref(), || way.disk())?)
    });
    functions.change::<volume::Delete>(no_faults, |api, _, id, _| {
        api.work.hypervisor().storage().delete(*id)?;
        Ok(Nothing {})
    });
    functions.change::<volume::Attach>(no_faults, |api, _, (vm, volume), wanted| {
        change_volumes(
            api,
            *vm,
            *volume,
            Some(VolumeAttachment { volume: *volume, read_only: wanted.read_only }),
        )
    });
    functions.change::<volume::Detach>(no_faults, |api, _, (vm, volume), _| {
        change_volumes(api, *vm, *volume, None)
    });
}

/// Brings the volumes of a VM to those it has, less `volume`, and more `wanted`.
fn change_volumes(
    api: &Api,
    vm: VmId,
    volume: VolumeId,
    wanted: Option<VolumeAttachment>,
) -> Result<Vm, Refusal> {
    let hypervisor = api.work.hypervisor();
    let half_made = || Refusal::conflict(format!("VM {vm} is half-made; put it again."));
    let mut spec = hypervisor.get(vm)?.spec.ok_or_else(half_made)?;
    let place = spec.volumes.iter().position(|attachment| attachment.volume == volume);
    match (place, wanted) {
        (Some(n), Some(wanted)) => spec.volumes[n] = wanted,
        (None, Some(wanted)) => spec.volumes.push(wanted),
        (Some(n), None) => drop(spec.volumes.remove(n)),
        (None, None) => {}
    }
    let faults = crate::spec::faults(&spec);
    if !faults.is_empty() {
        return Err(Refusal(ApiError::fields(faults)));
    }
    // Its power is not this function's business, whatever it was told last.
    let spec = VmSpec { power: berth_model::agent::WantedPower::Keep, ..spec };
    Ok(hypervisor.put(vm, &spec)?)
}
