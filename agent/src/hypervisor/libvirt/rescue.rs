//! The files of a rescue: an overlay on the rescue image, and a seed with the rescue's own password.

use berth_model::VmId;
use berth_model::agent::VmSpec;
use virt::domain::Domain;
use virt::sys;

use super::disk::Overlay;
use super::folder::{Folder, gone};
use super::ops::{metadata, on_disk};
use super::seed::Seed;
use super::{Libvirt, disk, domain};
use crate::hypervisor::HypervisorError;
use crate::spec::DISK_MAX;

impl Libvirt {
    /// The rescue image must be there.
    pub(super) fn check_rescue(&self, spec: &VmSpec) -> Result<(), HypervisorError> {
        let Some(rescue) = &spec.rescue else { return Ok(()) };
        self.images.find(&rescue.image, DISK_MAX).map(drop)
    }

    /// Makes what a rescue needs, or removes what one left that is over. While the VM runs all stays as it is:
    /// `rescue_on` and `rescue_off` switch it off first, and whoever puts a spec starts it by another put.
    pub(super) fn put_rescue(
        &self,
        id: VmId,
        folder: &Folder,
        spec: &VmSpec,
        runs: bool,
    ) -> Result<(), HypervisorError> {
        match &spec.rescue {
            _ if runs => Ok(()),
            Some(rescue) => {
                let there = Overlay::read(&folder.rescue_disk())?;
                if !there.is_some_and(|overlay| overlay.is_of(&rescue.image)) {
                    let image = self.images.find(&rescue.image, DISK_MAX)?;
                    folder.put(&folder.rescue_disk(), |new| disk::overlay(new, &image))?;
                }
                Seed::of_rescue(id, spec, rescue).put_at(folder, &folder.rescue_seed())
            }
            None => remove(folder),
        }
    }
}

/// Removes the files of a rescue.
pub fn remove(folder: &Folder) -> Result<(), HypervisorError> {
    for file in [folder.rescue_disk(), folder.rescue_seed()] {
        gone(std::fs::remove_file(file)).map_err(on_disk)?;
    }
    Ok(())
}

/// Is this domain, which runs, in rescue? Then its own disk is not where it usually is.
pub fn runs(domain: Option<&Domain>) -> Result<bool, HypervisorError> {
    let Some(domain) = domain else { return Ok(false) };
    let text = metadata(domain, domain::METADATA_URI, sys::VIR_DOMAIN_AFFECT_LIVE)?;
    Ok(text.and_then(|text| domain::spec_of_metadata(&text).ok()).is_some_and(|spec| spec.rescue.is_some()))
}
