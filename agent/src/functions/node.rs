//! `node`, `run`, `certificate`.

use berth_model::ErrorCode;
use berth_model::agent::function::{Function, certificate, node, run};
use berth_model::agent::{NodeChecks, NodeLease, Nothing, RunList};

use super::{Functions, no_faults, vm_things};
use crate::api::Api;
use crate::error::Refusal;
use crate::{clock, lease, maintenance, orphans, update};

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
        let hold = |vm| {
            let held = api.work.try_hold(node::Orphans::NAME, vm_things(vm))?;
            (!api.moves.is_coming(vm)).then_some(held)
        };
        Ok(orphans::list(found, request.remove, hold))
    });
    functions.change::<node::Update>(update::faults, |api, cx, (), request| {
        // What runs on beside the new version holds nothing there, so nothing may.
        let runs = api.work.runs();
        api.updates.prepare(cx, &request, api.node.health().healthy, || runs.idle_but_for(cx.run()))
    });
    functions.read::<node::UpdateStatus>(|api, (), _| api.updates.status());
    // Asked every few seconds, so nothing is logged; and nothing else may hold it up.
    functions.answer::<node::Lease, _>(async |api, (), grant| {
        let faults = lease::faults(&grant);
        if !faults.is_empty() {
            return Err(Refusal::fields(faults));
        }
        held(api, move |api| api.lease.grant(&grant, &clock::since_boot())).await
    });
    functions.answer::<node::LeaseStatus, _>(async |api, (), _| held(api, |_| Ok(())).await);
    functions.answer::<node::LeaseEnd, _>(async |api, (), _| held(api, |api| api.lease.end()).await);
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

/// Does something with the node's lease, and shows it.
async fn held(
    api: Api,
    change: impl FnOnce(&Api) -> Result<(), Refusal> + Send + 'static,
) -> Result<NodeLease, Refusal> {
    let held = move || {
        change(&api)?;
        Ok(api.lease.show(api.work.hypervisor().marked(), clock::since_boot()))
    };
    let done = tokio::task::spawn_blocking(held).await;
    done.unwrap_or_else(|broken| Err(Refusal::own("It broke off", &broken)))
}

fn unknown(id: berth_model::agent::RunId) -> Refusal {
    Refusal::new(ErrorCode::NotFound, format!("There is no run {id}, or it is no longer known."))
}
