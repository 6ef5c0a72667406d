//! `snapshot`.

use berth_model::agent::function::snapshot;
use berth_model::agent::{Nothing, SnapshotList};

use super::{Functions, no_faults};

pub(super) fn tie(functions: &mut Functions) {
    functions.read::<snapshot::List>(|api, vm, _| {
        Ok(SnapshotList { snapshots: api.work.hypervisor().snapshots(*vm)? })
    });
    functions.change::<snapshot::Create>(no_faults, |api, _, (vm, name), _| {
        Ok(api.work.hypervisor().snapshot_create(*vm, name)?)
    });
    functions.change::<snapshot::Revert>(no_faults, |api, _, (vm, name), _| {
        Ok(api.work.hypervisor().snapshot_revert(*vm, name)?)
    });
    functions.change::<snapshot::Delete>(no_faults, |api, _, (vm, name), _| {
        api.work.hypervisor().snapshot_delete(*vm, name)?;
        Ok(Nothing {})
    });
}
