//! A VM's disk and volumes, brought to what its specification says.

use std::collections::BTreeMap;

use berth_model::agent::VmSpec;
use berth_model::{ByteSize, FieldError, VmId};
use virt::domain::Domain;
use virt::sys;

use super::disk::{self, Overlay};
use super::domain::PoolDisk;
use super::folder::Folder;
use super::ops::refused;
use super::volumes::{self, Placed};
use super::{Libvirt, rescue, sizes, source};
use crate::hypervisor::HypervisorError;
use crate::runs::Cx;
use crate::spec;
use crate::storage::disks;

impl Libvirt {
    /// Brings the disk to the spec, after looking whether it can be brought there.
    pub(super) fn put_disk(
        &self,
        id: VmId,
        folder: &Folder,
        spec: &VmSpec,
        running: Option<&Domain>,
    ) -> Result<(), HypervisorError> {
        if disks::pool_of(spec).is_some() {
            return self.put_pool_disk(id, spec, running);
        }
        match Overlay::read(&folder.disk())? {
            None => {
                let image = self.images.find(&spec.image.sha256, spec.disk)?;
                disk::put(folder, &image, spec)?;
                self.own_disk(id)
            }
            Some(overlay) if overlay.size < spec.disk && rescue::runs(running)? => Err(in_rescue()),
            Some(overlay) if overlay.size < spec.disk => {
                running.map_or(Ok(()), sizes::note_growth)?;
                disk::grow(&folder.disk(), running, spec.disk)
            }
            Some(_) => Ok(()),
        }
    }

    fn put_pool_disk(
        &self,
        id: VmId,
        spec: &VmSpec,
        running: Option<&Domain>,
    ) -> Result<(), HypervisorError> {
        self.storage.put_disk(&Cx::unwatched(), id, spec, |grows| match running {
            // The test driver runs nothing: nobody has the disk open.
            None => Ok(false),
            Some(_) if self.is_test_driver() => Ok(false),
            Some(_) if rescue::runs(running)? => {
                if grows {
                    Err(in_rescue())
                } else {
                    Ok(true)
                }
            }
            Some(domain) => {
                if grows {
                    sizes::note_growth(domain)?;
                }
                disk::grow_live(domain, spec.disk).map(|()| true)
            }
        })
    }

    /// All that can be refused is refused here, before anything is touched.
    pub(super) fn check(&self, id: VmId, folder: &Folder, spec: &VmSpec) -> Result<(), HypervisorError> {
        if id.0 <= 0 {
            let messages = vec!["A VM's number is 1 or more.".to_owned()];
            return Err(HypervisorError::Invalid(FieldError { name: "id".to_owned(), messages }));
        }
        spec::check(spec)?;
        self.check_nics(id, &spec.nics)?;
        self.iso(spec)?;
        self.check_rescue(spec)?;
        self.storage.check_claims(id, &spec.volumes)?;
        self.check_leases(id, spec)?;
        self.admit_spec(id, spec)?;
        self.storage.check_disk(id, spec)?;
        if disks::pool_of(spec).is_some() {
            if Overlay::read(&folder.disk())?.is_some() {
                let message = "The disk lies in the pool default, and stays there; delete the VM first.";
                return Err(HypervisorError::Conflict(message.to_owned()));
            }
            return Ok(());
        }
        let more = if let Some(overlay) = Overlay::read(&folder.disk())? {
            disk::check_change(&overlay, &spec.image.sha256, spec.disk)?;
            spec.disk.bytes() - overlay.size.bytes()
        } else {
            self.images.find(&spec.image.sha256, spec.disk)?;
            spec.disk.bytes()
        };
        disk::check_room(self.folders.disks(), ByteSize(more))?;
        self.storage.check_room_for_disk(ByteSize(more))
    }

    /// The VM's disk, if it lies in a pool.
    pub(super) fn pool_disk(&self, id: VmId) -> Result<Option<PoolDisk>, HypervisorError> {
        let Some((source, format)) = self.storage.disk_source(id)? else { return Ok(None) };
        let cache = source::cache(&source)?;
        let lease = self.lease_on(&source)?;
        Ok(Some(PoolDisk { source, format, cache, lease }))
    }

    /// Gives the VM its volumes, each in the place it had.
    pub(super) fn claim_volumes(
        &self,
        id: VmId,
        spec: &VmSpec,
        before: Option<&Domain>,
    ) -> Result<Vec<Placed>, HypervisorError> {
        let sources = self.storage.claim(id, &spec.volumes)?;
        let mut there = BTreeMap::new();
        if let Some(domain) = before {
            // What runs comes last: its places cannot be changed.
            for flags in [sys::VIR_DOMAIN_XML_INACTIVE, 0] {
                let text = domain.xml_desc(flags).map_err(|e| refused("say which volumes the VM has", &e))?;
                there.extend(volumes::found(&text));
            }
        }
        volumes::place(spec, &sources, &there)
    }
}

fn in_rescue() -> HypervisorError {
    HypervisorError::Conflict("The VM is in rescue; its disk grows when that is over.".to_owned())
}
