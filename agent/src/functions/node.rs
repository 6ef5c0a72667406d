//! `node`, `run`, `certificate`.

use berth_model::ErrorCode;
use berth_model::agent::function::{Function, certificate, node, run};
use berth_model::agent::{NodeChecks, Nothing, RunList};

use super::{Functions, no_faults, vm_thing};
use crate::error::Refusal;
use crate::{clock, maintenance, orphans, update};

pub(super) fn tie(functions: &mut Functions) {
    functions.answer::<node::Get, _>(async |api, (), _| Ok(api.node.node()));
    functions.read::<node::Check>(|api, (), _| Ok(NodeChecks { checks: api.node.checks() }));
    functions.read::<node::Capacity>(|api, (), _| Ok(api.node.capacity(&api.work.hypervisor().list()?)));
    functions.change::<node::Maintenance>(maintenance::faults, |api, _, (), request| {
        api.maintenance.set(request, clock::now())?;
        Ok(api.node.node())
    });
    functions.change::<node::Orphans>(no_faults, |api, _, (), request| {
        let mut found = api.work.hypervisor().orphans()?;
        found.extend(api.images.orphans()?);
        Ok(orphans::list(found, request.remove, |vm| api.work.try_hold(node::Orphans::NAME, vm_thing(vm))))
    });
    functions.change::<node::Update>(update::faults, |api, cx, (), request| {
        api.updates.prepare(cx, &request, api.node.health().healthy)
    });
    functions.read::<node::UpdateStatus>(|api, (), _| api.updates.status());
    functions.answer::<run::List, _>(async |api, (), _| Ok(RunList { runs: api.work.runs().list() }));
    functions.answer::<run::Get, _>(async |api, id, _| api.work.runs().get(id).ok_or_else(|| unknown(id)));
    functions
        .answer::<run::Cancel, _>(async |api, id, _| api.work.runs().cancel(id).ok_or_else(|| unknown(id)));
    functions.answer::<certificate::Request, _>(async |api, (), _| api.tls.request());
    functions.answer::<certificate::Put, _>(async |api, (), certificate| {
        api.tls.accept(certificate)?;
        Ok(Nothing {})
    });
}

fn unknown(id: berth_model::agent::RunId) -> Refusal {
    Refusal::new(ErrorCode::NotFound, format!("There is no run {id}, or it is no longer known."))
}
