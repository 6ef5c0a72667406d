//! What else a hypervisor does with whole machines: stop them in order, save them, make them anew, rescue
//! them, and keep their disks.

use std::time::Duration;

use berth_model::VmId;
use berth_model::agent::{KeptDisk, Name, Rescue, Vm, VmDelete, VmRebuild, VmSpec};

use super::HypervisorError;
use crate::runs::Cx;

/// These may be cut off anywhere and told again, too.
pub trait Machines: Send + Sync + 'static {
    /// Asks the system to stop, and pulls the plug when `wait` is over; nothing if it is off.
    fn shutdown(&self, id: VmId, wait: Duration, cx: &Cx) -> Result<Vm, HypervisorError>;

    /// Writes the memory to the node's disk and ends the run; the next start goes on there. Nothing if it is off.
    fn save(&self, id: VmId, cx: &Cx) -> Result<Vm, HypervisorError>;

    /// Makes the disk anew from an image.
    fn rebuild(&self, id: VmId, rebuild: &VmRebuild, cx: &Cx) -> Result<Vm, HypervisorError>;

    /// Boots a rescue image made anew, with the VM's own disk beside it.
    fn rescue_on(&self, id: VmId, rescue: &Rescue) -> Result<Vm, HypervisorError>;

    /// Boots the VM's own disk again; it runs afterwards.
    fn rescue_off(&self, id: VmId) -> Result<Vm, HypervisorError>;

    /// Leaves nothing of a VM but, if that is wished, its disk. Fine if there is none.
    fn remove(&self, id: VmId, how: &VmDelete, cx: &Cx) -> Result<(), HypervisorError>;

    /// Disks that were kept, by name.
    fn kept(&self) -> Result<Vec<KeptDisk>, HypervisorError>;

    /// Deletes a kept disk; fine if there is none.
    fn delete_kept(&self, name: &Name) -> Result<(), HypervisorError>;
}

/// The name that a VM's disk is kept under.
pub fn kept_name(id: VmId, how: &VmDelete) -> Name {
    let usual = || Name::new(&format!("vm-{id}")).expect("a VM's number makes a name");
    how.keep_as.clone().unwrap_or_else(usual)
}

/// What a running VM does not follow yet: the fields in which the spec it was started with and the one it
/// has now differ.
pub fn pending(runs: &VmSpec, wanted: &VmSpec) -> Vec<String> {
    let (a, b) = (&runs.hardware, &wanted.hardware);
    [
        ("hardware.boot", a.boot != b.boot),
        ("hardware.cpu", a.cpu != b.cpu),
        ("hardware.firmware", a.firmware != b.firmware),
        ("hardware.machine", a.machine != b.machine),
        ("hardware.rng", a.rng != b.rng),
        ("hardware.tpm", a.tpm != b.tpm),
        ("hardware.watchdog", a.watchdog != b.watchdog),
        ("iso", runs.iso != wanted.iso),
        ("rescue", runs.rescue != wanted.rescue),
        ("seed", runs.seed != wanted.seed),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(field, _)| field.to_owned())
    .collect()
}

#[cfg(test)]
mod tests {
    use berth_model::agent::Firmware;

    use super::*;

    #[test]
    fn what_waits_for_the_next_start_is_named() {
        let runs = VmSpec::default();
        assert!(pending(&runs, &runs).is_empty());
        let mut wanted = runs.clone();
        wanted.hardware.firmware = Firmware::Uefi;
        wanted.iso = Some("a".repeat(64));
        wanted.title = Some("told at once".to_owned());
        assert_eq!(pending(&runs, &wanted), ["hardware.firmware", "iso"]);
    }
}
