//! VMs that start with their node. The agent starts them, and not libvirt, which knows nothing of filters: no guest
//! may be heard before those of its cards stand.
//!
//! That is done once in each boot of the node, which is noted in the data folder. A VM that cannot start is told of,
//! and left to its operator.

use std::fs;
use std::io::Write as _;

use berth_model::agent::VmState;

use super::Libvirt;
use crate::clock;
use crate::hypervisor::{Hypervisor as _, HypervisorError};

/// The boot in which they were started last.
const NOTE: &str = "boot";

impl Libvirt {
    /// Starts the VMs that start with the node, if it was booted since they were started last.
    pub(super) fn start_with_node(&self) -> Result<(), HypervisorError> {
        let (note, boot) = (self.config.data_dir.join(NOTE), clock::since_boot().boot);
        if fs::read_to_string(&note).is_ok_and(|known| known == boot) {
            return Ok(());
        }
        let connect = self.connection.get()?;
        for vm in self.list()? {
            let starts = vm.spec.is_some_and(|spec| spec.autostart);
            let Some(domain) = self.domain(&connect, vm.id)?.filter(|_| starts && vm.state == VmState::Off)
            else {
                continue;
            };
            match self.start(&connect, vm.id, &domain) {
                Ok(()) => tracing::info!(vm = vm.id.0, "a VM was started with its node"),
                Err(e) => {
                    tracing::error!(vm = vm.id.0, error = %e, "a VM could not be started with its node");
                }
            }
        }
        let mut file = tempfile::NamedTempFile::new_in(&self.config.data_dir)?;
        file.write_all(boot.as_bytes())?;
        file.persist(note).map_err(|e| e.error)?;
        Ok(())
    }
}
