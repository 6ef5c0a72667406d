//! Which libvirt, what it is begun with, and what runs its guests.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use berth_model::agent::{DomainType, NodeCheck};
use virt::connect::Connect;

use super::connection::Connection;
use super::disk::{self, Cache, Images};
use super::events::Hub;
use super::fence::Marks;
use super::folder::Folders;
use super::mend::AtWork;
use super::moving::notes::Notes;
use super::names::Prefix;
use super::network::GuestNetwork;
use super::probe::{self, ProbeFiles, Verdict};
use super::{Libvirt, aio, kept, nics};
use crate::config::{Accelerator, PoolSection, StorageSection};
use crate::hypervisor::HypervisorError;
use crate::network::Plane;
use crate::storage::Storage;

/// Which libvirt, and what VMs are made of.
#[derive(Debug, Clone)]
pub struct LibvirtConfig {
    /// `qemu:///system`, or `test:///default` for libvirt's test driver.
    pub uri: String,
    /// Names of this agent's domains begin with it: `berth-`.
    pub prefix: String,
    /// The node's name, noted in each domain.
    pub node_name: String,
    /// Where VMs' folders stand.
    pub data_dir: PathBuf,
    /// Where image files stand, as `{sha256}.qcow2`.
    pub images_dir: PathBuf,
    /// What runs guests.
    pub accelerator: Accelerator,
    /// Kernel of the probe boot; the node's own if not set.
    pub probe_kernel: Option<PathBuf>,
    /// Initial RAM disk of the probe boot.
    pub probe_initrd: Option<PathBuf>,
    /// What guests' network cards are plugged into.
    pub network: GuestNetwork,
    /// Does the node serve its guests DHCP, router advertisements and metadata, where it filters?
    pub services: bool,
    /// Limits of pools.
    pub storage: StorageSection,
    /// Pools beside `default`.
    pub pools: Vec<PoolSection>,
}

impl Libvirt {
    /// Begins to keep a connection; libvirt need not be there yet. The error is for the operator.
    pub fn open(config: LibvirtConfig) -> Result<Self, HypervisorError> {
        let prefix = Prefix::new(&config.prefix).map_err(HypervisorError::Failed)?;
        if !config.uri.starts_with("test") {
            // What cannot be raised is said by a check of the node.
            let _said_by_the_check = aio::allow_many();
        }
        let wrong = |what: &str, e: &std::io::Error| {
            HypervisorError::Failed(format!("{what} {}: {e}", config.data_dir.display()))
        };
        let folders = Folders::open(&config.data_dir, config.storage.disks.as_deref())
            .map_err(|e| wrong("could not make folders for VMs in", &e))?;
        let marks = Marks::open(&folders).map_err(|e| wrong("could not read the marks of VMs in", &e))?;
        let notes = Notes::open(&config.data_dir).map_err(|e| wrong("could not write to", &e))?;
        let kept = kept::Shelf::open(&config.data_dir)
            .map_err(|e| wrong("could not make a folder for kept disks in", &e))?;
        let cache = Cache::of(folders.disks()).map_err(|e| wrong("could not write to", &e))?;
        let hub = Arc::new(Hub::new(prefix.clone()));
        let connection = Connection::keep(&config.uri, hub.clone())
            .map_err(|e| HypervisorError::Failed(format!("could not start libvirt's event loop: {e}")))?;
        let images = Images::new(config.images_dir.clone());
        let disks = folders.clone();
        let storage = Storage::open(
            &config.storage,
            &config.pools,
            &config.data_dir,
            &config.images_dir,
            Box::new(move || disk::sizes(&disks)),
        )?;
        let verdict = OnceLock::new();
        let mode = nics::mode(&config.network, config.uri.starts_with("test"));
        let plane =
            mode.map(|mode| Plane::open(&config.prefix, mode, &config.data_dir.join("network"))).transpose();
        let plane = plane.map_err(|e| wrong("could not keep the network's state in", &e))?;
        let plane = match config.services {
            true => plane.map(Plane::with_services).transpose(),
            false => Ok(plane),
        };
        let plane = plane
            .map_err(|e| HypervisorError::Failed(format!("could not begin to serve guests: {e}")))?
            .map(Arc::new);
        Ok(Self {
            config,
            prefix,
            folders,
            notes,
            images,
            kept,
            storage,
            cache,
            connection: Arc::new(connection),
            hub,
            verdict,
            network: Mutex::default(),
            plane,
            marks,
            lease: OnceLock::new(),
            at_work: AtWork::default(),
        })
    }

    /// Why guests do not run on KVM, a sentence for the operator. Nothing if they do, if the configuration
    /// chose, or as long as [`Hypervisor::facts`] did not find out. It is no fault: such a node works, slowly.
    ///
    /// [`Hypervisor::facts`]: crate::hypervisor::Hypervisor::facts
    pub fn accelerator_remark(&self) -> Option<String> {
        self.verdict.get()?.reason.clone()
    }

    pub(super) fn check_accelerator(&self) -> NodeCheck {
        let remark = self.accelerator_remark();
        let check = |ok, sentence| NodeCheck { check: "accelerator".to_owned(), ok, needed: false, sentence };
        match (remark, self.config.accelerator) {
            (Some(remark), _) => check(false, remark),
            (None, Accelerator::Qemu) => {
                check(false, "Guests are translated, as the settings say.".to_owned())
            }
            (None, _) => check(true, "Nothing keeps guests from running on KVM.".to_owned()),
        }
    }

    pub(super) fn is_test_driver(&self) -> bool {
        self.config.uri.starts_with("test")
    }

    pub(super) fn domain_type(&self, connect: &Connect) -> DomainType {
        if self.is_test_driver() {
            return DomainType::Test;
        }
        match self.config.accelerator {
            Accelerator::Kvm => DomainType::Kvm,
            Accelerator::Qemu => DomainType::Qemu,
            Accelerator::Auto => self.verdict.get_or_init(|| self.find_verdict(connect)).domain_type,
        }
    }

    fn find_verdict(&self, connect: &Connect) -> Verdict {
        let LibvirtConfig { probe_kernel, probe_initrd, data_dir, .. } = &self.config;
        let files = ProbeFiles::choose(probe_kernel.as_deref(), probe_initrd.as_deref());
        let kvm_known = connect.domain_capabilities(None, Some("x86_64"), None, Some("kvm"), 0).is_ok();
        let verdict = probe::verdict(files.as_ref(), &data_dir.join("accelerator.json"), kvm_known);
        match &verdict.reason {
            Some(reason) => tracing::warn!("{reason}"),
            None => tracing::info!("a probe boot with KVM succeeded"),
        }
        verdict
    }
}
