//! `vm`.

use berth_model::VmId;
use berth_model::agent::function::{Function, vm};
use berth_model::agent::{Nothing, PowerVerb, Vm, VmList};

use super::{Functions, no_faults};
use crate::spec;

pub(super) fn tie(functions: &mut Functions) {
    functions.read::<vm::List>(|api, (), _| Ok(VmList { vms: api.work.hypervisor().list()? }));
    functions.read::<vm::Get>(|api, id, _| Ok(api.work.hypervisor().get(*id)?));
    functions.change::<vm::Put>(spec::faults, |api, _, id, spec| {
        let _image = api.images.hold(&spec.image.sha256)?;
        Ok(api.work.hypervisor().put(*id, &spec)?)
    });
    functions.change::<vm::Delete>(no_faults, |api, _, id, _| {
        api.work.hypervisor().delete(*id)?;
        api.moves.forget(*id);
        Ok(Nothing {})
    });
    power::<vm::Start>(functions, PowerVerb::Start);
    power::<vm::Shutdown>(functions, PowerVerb::Shutdown);
    power::<vm::Reboot>(functions, PowerVerb::Reboot);
    power::<vm::Reset>(functions, PowerVerb::Reset);
    power::<vm::PowerOff>(functions, PowerVerb::PowerOff);
}

fn power<F: Function<Target = VmId, Request = Nothing, Answer = Vm>>(
    functions: &mut Functions,
    verb: PowerVerb,
) {
    functions.change::<F>(no_faults, move |api, _, id, _| Ok(api.work.hypervisor().power(*id, verb)?));
}
