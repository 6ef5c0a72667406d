//! `nic`, `firewall`, `network`, `traffic`.

use berth_model::ErrorCode;
use berth_model::VmId;
use berth_model::agent::function::{Mac, firewall, network, nic, traffic};
use berth_model::agent::{Nic, Nothing, Vm, VmSpec, WantedPower};
use berth_model::error::ApiError;

use super::{Functions, no_faults};
use crate::api::Api;
use crate::error::Refusal;
use crate::{network as rules, spec};

pub(super) fn tie(functions: &mut Functions) {
    functions.change::<nic::Attach>(spec::nic_faults, |api, _, id, nic| {
        change(api, *id, |spec| {
            match spec.nics.iter_mut().find(|old| old.mac == nic.mac) {
                Some(old) => *old = nic,
                None => spec.nics.push(nic),
            }
            Ok(())
        })
    });
    functions.change::<nic::Detach>(no_faults, |api, _, (id, mac), _| {
        change(api, *id, |spec| {
            spec.nics.retain(|nic| nic.mac != mac.as_str());
            Ok(())
        })
    });
    functions.read::<nic::Leases>(|api, id, _| Ok(api.work.hypervisor().leases(*id)?));
    functions.change::<firewall::Set>(
        |firewall| rules::firewall_faults(firewall, ""),
        |api, _, (id, mac), firewall| {
            change(api, *id, |spec| {
                card(spec, *id, mac)?.firewall = Some(firewall);
                Ok(())
            })
        },
    );
    functions.change::<firewall::Remove>(no_faults, |api, _, (id, mac), _| {
        change(api, *id, |spec| {
            card(spec, *id, mac)?.firewall = None;
            Ok(())
        })
    });
    functions.read::<network::Get>(|api, (), _| Ok(api.work.hypervisor().network()?));
    functions.change::<network::Put>(rules::network_faults, |api, _, id, network| {
        api.work.hypervisor().put_network(*id, &network)?;
        Ok(Nothing {})
    });
    functions.change::<network::Delete>(no_faults, |api, _, id, _| {
        api.work.hypervisor().delete_network(*id)?;
        Ok(Nothing {})
    });
    functions.read::<traffic::Get>(|api, (), _| Ok(api.work.hypervisor().traffic()?));
}

/// Brings a VM to its own spec with a change in it, and leaves its power as it is.
fn change(
    api: &Api,
    id: VmId,
    change: impl FnOnce(&mut VmSpec) -> Result<(), Refusal>,
) -> Result<Vm, Refusal> {
    let hypervisor = api.work.hypervisor();
    let spec = hypervisor.get(id)?.spec;
    let half_made = || Refusal::new(ErrorCode::Conflict, format!("VM {id} is half-made; put it again."));
    let mut spec = spec.ok_or_else(half_made)?;
    change(&mut spec)?;
    let faults = spec::faults(&spec);
    if !faults.is_empty() {
        return Err(Refusal(ApiError::fields(faults)));
    }
    spec.power = WantedPower::Keep;
    Ok(hypervisor.put(id, &spec)?)
}

fn card<'a>(spec: &'a mut VmSpec, id: VmId, mac: &Mac) -> Result<&'a mut Nic, Refusal> {
    let none = || Refusal::new(ErrorCode::NotFound, format!("VM {id} has no network card {mac}."));
    spec.nics.iter_mut().find(|nic| nic.mac == mac.as_str()).ok_or_else(none)
}
