//! The ISO in a VM's CD drive. ISO files stand beside the images, as `{sha256}.iso`.

use std::path::{Path, PathBuf};

use berth_model::VmId;
use berth_model::agent::VmSpec;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use virt::sys;

use super::ops::{is, on_disk, refused};
use super::{Libvirt, domain, spec_in, xml};
use crate::hypervisor::HypervisorError;

impl Libvirt {
    /// The file of a spec's ISO; [`HypervisorError::Lacking`] when it is not on the node.
    pub(super) fn iso(&self, spec: &VmSpec) -> Result<Option<PathBuf>, HypervisorError> {
        let Some(sha256) = &spec.iso else { return Ok(None) };
        let folder = &self.config.images_dir;
        // QEMU and libvirt follow this name from elsewhere.
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.clone());
        let path = folder.join(format!("{sha256}.iso"));
        if path.try_exists().map_err(on_disk)? {
            return Ok(Some(path));
        }
        Err(HypervisorError::Lacking(format!("The ISO {sha256} is not on this node.")))
    }
}

/// Puts what `spec` says into the CD drive of a VM that runs. One without a drive gets it at its next start.
pub fn follow(id: VmId, domain: &Domain, spec: &VmSpec, iso: Option<&Path>) -> Result<(), HypervisorError> {
    if !domain.is_active().map_err(|e| refused("say whether the VM runs", &e))? {
        return Ok(());
    }
    let Some(runs) = spec_in(id, domain, sys::VIR_DOMAIN_AFFECT_LIVE)? else { return Ok(()) };
    if runs.iso == spec.iso {
        return Ok(());
    }
    // The drive stands where the machine that runs has it. By force: a guest may hold it shut for ever.
    let drive = domain::cd_drive_xml(&runs.hardware.machine, iso);
    let flags = sys::VIR_DOMAIN_AFFECT_LIVE | sys::VIR_DOMAIN_DEVICE_MODIFY_FORCE;
    match domain.update_device_flags(&drive, flags) {
        // The test driver changes nothing while a VM runs, so there the note is all.
        Err(e) if is(&e, ErrorNumber::NoSupport) => {}
        Err(e) if lacks_drive(&e) => return Ok(()),
        changed => changed.map_err(|e| refused("change the CD", &e))?,
    }
    note(domain, &VmSpec { iso: spec.iso.clone(), ..runs })
}

fn lacks_drive(e: &Error) -> bool {
    [ErrorNumber::DeviceMissing, ErrorNumber::InvalidArg].iter().any(|number| is(e, *number))
}

/// Notes in a running domain what it is now.
fn note(domain: &Domain, spec: &VmSpec) -> Result<(), HypervisorError> {
    let kind = sys::VIR_DOMAIN_METADATA_ELEMENT.cast_signed();
    let text = xml::element("vm", &xml::ascii_json(spec));
    let live = sys::VIR_DOMAIN_AFFECT_LIVE;
    let noted = domain.set_metadata(kind, Some(&text), Some("berth"), Some(domain::METADATA_URI), live);
    super::unless_off(domain, "note what the VM is", noted)
}
