//! `vm`, `kept`.

use std::sync::Arc;
use std::time::Duration;

use berth_model::agent::function::{Function, kept, vm};
use berth_model::agent::{
    BootDevice, HardwareChange, KeptDiskList, Nothing, PowerVerb, Rescue, Rescued, SHUTDOWN_WAIT_MAX_S, Vm,
    VmIso, VmList, VmRebuild, VmRename, VmShutdown, VmSpec, VmState, WantedPower,
};
use berth_model::{FieldError, VmId};

use super::{Functions, disk_thing, no_faults};
use crate::api::Api;
use crate::error::Refusal;
use crate::guest::Guest;
use crate::hypervisor::{Hypervisor, HypervisorError};
use crate::work::Claim;
use crate::{entropy, spec};

pub(super) fn tie(functions: &mut Functions) {
    functions.read::<vm::List>(|api, (), _| Ok(VmList { vms: api.work.hypervisor().list()? }));
    functions.read::<vm::Get>(|api, id, _| Ok(api.work.hypervisor().get(*id)?));
    functions.change::<vm::Put>(spec::faults, |api, _, id, spec| {
        api.admit(*id)?;
        let _image = api.images.hold(&spec.image.sha256)?;
        let _rescue = spec.rescue.as_ref().map(|rescue| api.images.hold(&rescue.image)).transpose()?;
        let _disk = hold_disk(api, *id, &spec)?;
        Ok(api.work.hypervisor().put(*id, &spec)?)
    });
    functions.change::<vm::Delete>(no_faults, |api, cx, id, how| {
        api.work.hypervisor().remove(*id, &how, cx)?;
        api.moves.forget(*id);
        Ok(Nothing {})
    });
    power::<vm::Start>(functions, PowerVerb::Start);
    power::<vm::Reboot>(functions, PowerVerb::Reboot);
    power::<vm::Reset>(functions, PowerVerb::Reset);
    power::<vm::PowerOff>(functions, PowerVerb::PowerOff);
    power::<vm::Pause>(functions, PowerVerb::Pause);
    power::<vm::Resume>(functions, PowerVerb::Resume);
    functions.change::<vm::Shutdown>(shutdown_faults, |api, cx, id, how| {
        let hypervisor = api.work.hypervisor();
        Ok(match how.wait_s {
            None => hypervisor.power(*id, PowerVerb::Shutdown)?,
            Some(wait_s) => hypervisor.shutdown(*id, Duration::from_secs(wait_s.into()), cx)?,
        })
    });
    functions.change::<vm::Save>(no_faults, |api, cx, id, _| Ok(api.work.hypervisor().save(*id, cx)?));
    systems(functions);
    settings(functions);
    functions.read::<kept::List>(|api, (), _| Ok(KeptDiskList { disks: api.work.hypervisor().kept()? }));
    functions.change::<kept::Delete>(no_faults, |api, _, name, _| {
        api.work.hypervisor().delete_kept(name)?;
        Ok(Nothing {})
    });
}

/// Keeps a VM's disk for bringing the VM to `spec`, unless that leaves the disk alone, and the VM on or off: its cards
/// and their addresses and firewalls go on changing while the disk is copied.
fn hold_disk(api: &Api, id: VmId, spec: &VmSpec) -> Result<Option<Claim>, Refusal> {
    let is = match api.work.hypervisor().get(id) {
        Ok(vm) => Some(vm),
        Err(HypervisorError::NotFound(_)) => None,
        Err(e) => return Err(e.into()),
    };
    if is.is_some_and(|vm| leaves_disk(&vm, spec)) {
        return Ok(None);
    }
    let held = api.work.try_hold(vm::Put::NAME, disk_thing(id));
    held.map(Some).ok_or_else(|| {
        Refusal::conflict(format!("The disk of VM {id} is being copied; try again when that is done."))
    })
}

fn leaves_disk(vm: &Vm, spec: &VmSpec) -> bool {
    let is_off = matches!(vm.state, VmState::Off | VmState::Crashed);
    let stays = match spec.power {
        WantedPower::Keep => true,
        WantedPower::On => !is_off,
        WantedPower::Off => is_off,
    };
    let disk = |spec: &VmSpec| (spec.disk, spec.disk_mode, spec.disk_pool.clone(), spec.image.clone());
    stays && vm.spec.as_ref().is_some_and(|is| disk(is) == disk(spec))
}

/// What gives a VM another system.
fn systems(functions: &mut Functions) {
    functions.change::<vm::Rebuild>(rebuild_faults, |api, cx, id, rebuild| {
        let _image = api.images.hold(&rebuild.image)?;
        Ok(api.work.hypervisor().rebuild(*id, &rebuild, cx)?)
    });
    functions.change::<vm::RescueOn>(
        |request| fault(spec::is_sha256(&request.image), "image", spec::SHA256_RULE),
        |api, _, id, request| {
            let _image = api.images.hold(&request.image)?;
            let root_password = entropy::password();
            let root_password_hash = entropy::crypt(&root_password);
            let rescue = Rescue { image: request.image, root_password_hash, ssh_keys: Vec::new() };
            let vm = api.work.hypervisor().rescue_on(*id, &rescue)?;
            Ok(Rescued { vm, root_password })
        },
    );
    functions
        .change::<vm::RescueOff>(no_faults, |api, _, id, _| Ok(api.work.hypervisor().rescue_off(*id)?));
}

/// What changes a VM's spec, a part each.
fn settings(functions: &mut Functions) {
    functions.change::<vm::Rename>(rename_faults, |api, _, id, to| {
        let hostname = to.hostname.clone();
        let vm = change(api, *id, |spec| {
            if let Some(hostname) = to.hostname {
                spec.seed.hostname = hostname;
            }
            if let Some(title) = to.title {
                spec.title = Some(title).filter(|title| !title.is_empty());
            }
        })?;
        if let Some(hostname) = hostname.filter(|_| vm.state == VmState::Running) {
            tell_hostname(api, *id, &hostname);
        }
        Ok(vm)
    });
    functions
        .change::<vm::Autostart>(no_faults, |api, _, id, to| change(api, *id, |spec| spec.autostart = to.on));
    functions.change::<vm::BootOrder>(
        |order| fault(spec::is_boot_order(&order.boot), "boot", spec::BOOT_RULE),
        |api, _, id, order| change(api, *id, |spec| spec.hardware.boot = order.boot),
    );
    functions.change::<vm::Firmware>(no_faults, |api, _, id, to| {
        change(api, *id, |spec| spec.hardware.firmware = to.firmware)
    });
    functions.change::<vm::Hardware>(hardware_faults, |api, _, id, to| {
        change(api, *id, |spec| {
            let hardware = &mut spec.hardware;
            hardware.machine = to.machine.unwrap_or_else(|| hardware.machine.clone());
            hardware.cpu = to.cpu.unwrap_or_else(|| hardware.cpu.clone());
            hardware.rng = to.rng.unwrap_or(hardware.rng);
            hardware.watchdog = to.watchdog.unwrap_or(hardware.watchdog);
            hardware.tpm = to.tpm.unwrap_or(hardware.tpm);
        })
    });
    functions.change::<vm::IsoAttach>(
        |request: &VmIso| fault(spec::is_sha256(&request.iso), "iso", spec::ISO_RULE),
        |api, _, id, request| {
            let _iso = api.images.hold(&request.iso)?;
            change(api, *id, |spec| {
                spec.iso = Some(request.iso);
                if request.boot {
                    spec.hardware.boot.retain(|device| *device != BootDevice::Iso);
                    spec.hardware.boot.insert(0, BootDevice::Iso);
                }
            })
        },
    );
    functions.change::<vm::IsoEject>(no_faults, |api, _, id, _| change(api, *id, |spec| spec.iso = None));
}

fn power<F: Function<Target = VmId, Request = Nothing, Answer = Vm>>(
    functions: &mut Functions,
    verb: PowerVerb,
) {
    functions.change::<F>(no_faults, move |api, _, id, _| {
        let hypervisor = api.work.hypervisor();
        let stood_still = match verb {
            PowerVerb::Resume => hypervisor.get(*id)?.state == VmState::Paused,
            PowerVerb::Start => hypervisor.get(*id)?.saved,
            _ => false,
        };
        let vm = hypervisor.power(*id, verb)?;
        if stood_still {
            set_clock_beside(hypervisor, *id);
        }
        Ok(vm)
    });
}

/// Sets the clock of a guest that stood still. It runs already, so nobody waits for its agent.
fn set_clock_beside(hypervisor: &Arc<dyn Hypervisor>, id: VmId) {
    let hypervisor = Arc::clone(hypervisor);
    std::thread::spawn(move || Guest::of(&*hypervisor, id).sync_time_or_log());
}

/// Reads what a VM should be, changes it, and brings the VM there; whether it runs stays as it is.
fn change(api: &Api, id: VmId, change: impl FnOnce(&mut VmSpec)) -> Result<Vm, Refusal> {
    let hypervisor = api.work.hypervisor();
    let Some(mut spec) = hypervisor.get(id)?.spec else {
        return Err(Refusal::conflict(format!("VM {id} is half-made; put it again.")));
    };
    change(&mut spec);
    spec.power = WantedPower::Keep;
    Ok(hypervisor.put(id, &spec)?)
}

/// Tells a guest its name. One whose agent does not answer hears of it at its next start.
fn tell_hostname(api: &Api, id: VmId, hostname: &str) {
    if let Err(e) = Guest::of(&**api.work.hypervisor(), id).set_hostname(hostname) {
        tracing::info!(vm = id.0, error = %e, "a guest was not told its new name");
    }
}

fn fault(fine: bool, name: &str, message: &str) -> Vec<FieldError> {
    let fault = || FieldError { name: name.to_owned(), messages: vec![message.to_owned()] };
    if fine { Vec::new() } else { vec![fault()] }
}

fn shutdown_faults(how: &VmShutdown) -> Vec<FieldError> {
    let fine = how.wait_s.is_none_or(|wait_s| (1..=SHUTDOWN_WAIT_MAX_S).contains(&wait_s));
    fault(fine, "wait_s", "A VM is waited for from 1 to 3,600 seconds.")
}

fn rebuild_faults(rebuild: &VmRebuild) -> Vec<FieldError> {
    let mut faults = fault(spec::is_sha256(&rebuild.image), "image", spec::SHA256_RULE);
    faults.extend(rebuild.seed.iter().flat_map(spec::seed_faults));
    faults
}

fn rename_faults(to: &VmRename) -> Vec<FieldError> {
    let hostname = to.hostname.as_deref().is_none_or(spec::is_hostname);
    let title = to.title.as_deref().is_none_or(|title| title.is_empty() || spec::is_title(title));
    let mut faults = fault(hostname, "hostname", spec::HOSTNAME_RULE);
    faults.extend(fault(title, "title", spec::TITLE_RULE));
    faults
}

fn hardware_faults(to: &HardwareChange) -> Vec<FieldError> {
    let machine = to.machine.as_deref().is_none_or(spec::is_machine);
    let mut faults = fault(machine, "machine", spec::MACHINE_RULE);
    faults.extend(fault(to.cpu.as_deref().is_none_or(spec::is_cpu), "cpu", spec::CPU_RULE));
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(faults: Vec<FieldError>) -> Vec<String> {
        faults.into_iter().map(|fault| fault.name).collect()
    }

    #[test]
    fn nonsense_is_refused_with_its_field() {
        let _proof = crate::proof::pure(&["vm.shutdown", "vm.rebuild", "vm.rename", "vm.hardware"]);
        for wait_s in [0, 3601] {
            assert_eq!(names(shutdown_faults(&VmShutdown { wait_s: Some(wait_s) })), ["wait_s"]);
        }
        assert!(shutdown_faults(&VmShutdown { wait_s: Some(60) }).is_empty());
        let rebuild: VmRebuild = serde_json::from_str("{\"image\":\"../../etc/passwd\"}").unwrap();
        assert_eq!(rebuild.power, WantedPower::On);
        assert_eq!(names(rebuild_faults(&rebuild)), ["image"]);
        let rename = VmRename { hostname: Some("two words".into()), title: Some("a\nb".into()) };
        assert_eq!(names(rename_faults(&rename)), ["hostname", "title"]);
        let rename = VmRename { hostname: None, title: Some(String::new()) };
        assert!(rename_faults(&rename).is_empty(), "an empty title is none");
        for (machine, cpu) in [("virt", "auto"), ("pc-q35-", "auto"), ("q35", "-x"), ("q35", "a b")] {
            let change = HardwareChange {
                machine: Some(machine.into()),
                cpu: Some(cpu.into()),
                ..HardwareChange::default()
            };
            assert_eq!(hardware_faults(&change).len(), 1, "{machine} {cpu}");
        }
    }
}
