//! `vm.resize`, `vm.limits`, `samples`.

use berth_model::VmId;
use berth_model::agent::function::{samples, vm};
use berth_model::agent::{SampleList, Vm, VmSpec, WantedPower};
use berth_model::error::ApiError;

use super::{Functions, no_faults};
use crate::api::Api;
use crate::error::Refusal;
use crate::sizes::resized;
use crate::spec;

pub(super) fn tie(functions: &mut Functions) {
    functions.change::<vm::Resize>(no_faults, |api, _, id, wanted| {
        change_spec(api, *id, |spec| resized(spec, &wanted))
    });
    functions.change::<vm::Limits>(spec::limits_faults, |api, _, id, limits| {
        change_spec(api, *id, |spec| VmSpec { limits, ..spec })
    });
    functions.answer::<samples::Get, _>(async |api, (), wanted| {
        let mut samples = api.work.counters().await?;
        samples.retain(|sample| wanted.vms.is_empty() || wanted.vms.contains(&sample.vm));
        Ok(SampleList { samples })
    });
}

/// Brings a VM to what `change` makes of its specification, and leaves its power as it is.
pub(super) fn change_spec(api: &Api, id: VmId, change: impl FnOnce(VmSpec) -> VmSpec) -> Result<Vm, Refusal> {
    let hypervisor = api.work.hypervisor();
    let Some(before) = hypervisor.get(id)?.spec else {
        return Err(Refusal::conflict(format!("VM {id} is half-made; put it again.")));
    };
    let spec = VmSpec { power: WantedPower::Keep, ..change(before) };
    let faults = spec::faults(&spec);
    if !faults.is_empty() {
        return Err(Refusal(ApiError::fields(faults)));
    }
    Ok(hypervisor.put(id, &spec)?)
}
