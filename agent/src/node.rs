//! What the node is, and whether it can work.
//!
//! A loop asks the hypervisor and the disk, each on at most one thread; requests are answered from
//! what it saw last. So a hypervisor or a disk that hangs makes the node unhealthy, and `GET /v1/node`
//! still answers.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_model::agent::{
    Capacity, DomainType, Health, Node, NodeCheck, NodeFacts, RoomShare, Share, Versions, Vm, VmSpec,
};
use berth_model::{ByteSize, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::checks::{self, check};
use crate::clock;
use crate::config::{Accelerator, Config, HypervisorKind};
use crate::hypervisor::{HypervisorError, HypervisorFacts};
use crate::lease::Lease;
use crate::maintenance::Switch;
use crate::tls::Tls;
use crate::work::Work;

/// Less room for disks than this, and the node takes no work.
pub const STORAGE_FREE_MIN: ByteSize = ByteSize::gib(2);

/// No clock of a node that runs this version shows less: 2026-01-01T00:00:00Z.
const CLOCK_MIN_UNIX_MS: i64 = 1_767_225_600_000;

/// A certificate with less than this part of its life left should have been replaced.
const CERTIFICATE_LIFE_PART: i64 = 10;

/// Watches the node.
pub struct NodeWatch {
    config: Arc<Config>,
    work: Arc<Work>,
    tls: Arc<Tls>,
    maintenance: Arc<Switch>,
    lease: Arc<Lease>,
    seen: Mutex<Seen>,
}

/// What the loop saw last.
#[derive(Debug, Clone, Default)]
struct Seen {
    facts: Option<HypervisorFacts>,
    hypervisor_fault: Option<String>,
    storage: Option<Storage>,
    storage_fault: Option<String>,
    /// Checks that the node needs and that were not fine.
    unfit: Vec<String>,
}

/// Room for disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage {
    /// In all.
    pub size: ByteSize,
    /// Not used.
    pub free: ByteSize,
}

impl NodeWatch {
    /// A watch that has seen nothing yet.
    pub fn new(
        config: Arc<Config>,
        work: Arc<Work>,
        tls: Arc<Tls>,
        maintenance: Arc<Switch>,
        lease: Arc<Lease>,
    ) -> Self {
        let nothing = Some("The hypervisor has not answered yet.".to_owned());
        let seen = Seen { hypervisor_fault: nothing, ..Seen::default() };
        Self { config, work, tls, maintenance, lease, seen: Mutex::new(seen) }
    }

    /// `GET /v1/node`.
    pub fn node(&self) -> Node {
        let seen = self.seen().clone();
        let (domain_type, mut versions, storage_leases) = match seen.facts {
            Some(facts) => (facts.domain_type, facts.versions, facts.storage_leases),
            None => (self.domain_type_until_known(), Versions::default(), false),
        };
        env!("CARGO_PKG_VERSION").clone_into(&mut versions.agent);
        versions.kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let storage = seen.storage.unwrap_or(Storage { size: ByteSize(0), free: ByteSize(0) });
        let facts = NodeFacts {
            name: self.config.name.clone(),
            cores: std::thread::available_parallelism()
                .map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
            memory: memory(),
            storage: storage.size,
            storage_free: storage.free,
            domain_type,
            versions,
            storage_leases,
        };
        let certificate_expires = self.tls.life().map(|life| life.not_after);
        Node { facts, health: self.health(), certificate_expires, maintenance: self.maintenance.get() }
    }

    /// Can the node work?
    pub fn health(&self) -> Health {
        let seen = self.seen().clone();
        let mut faults: Vec<String> = seen.hypervisor_fault.into_iter().chain(seen.storage_fault).collect();
        faults.extend(self.lease.fault());
        faults.extend(self.tls.problem());
        if let Some(storage) = seen.storage {
            faults.extend(storage_fault(storage));
        }
        faults.extend(clock_fault(clock::now()));
        faults.extend(self.tls.life().and_then(|life| certificate_fault(life, clock::now())));
        faults.extend(seen.unfit);
        let overdue = self.work.overdue();
        if overdue > 0 {
            faults.push(format!("{overdue} functions of the hypervisor take far too long."));
        }
        Health { healthy: faults.is_empty(), faults }
    }

    /// `GET /v1/node/check`: all of it anew, but for what the loop asks often enough. Blocks.
    pub fn checks(&self) -> Vec<NodeCheck> {
        let seen = self.seen().clone();
        let now = clock::now();
        let or = |fault: Option<String>, fine: &str| fault.map_or_else(|| Ok(fine.to_owned()), Err);
        let storage = seen.storage_fault.or_else(|| seen.storage.and_then(storage_fault));
        let certificate =
            self.tls.problem().or_else(|| self.tls.life().and_then(|life| certificate_fault(life, now)));
        let mut all = vec![
            check("hypervisor", true, or(seen.hypervisor_fault, "The hypervisor answers.")),
            check("free space", true, or(storage, "The disk has room.")),
            check("time", true, or(clock_fault(now), "The clock shows a time that can be.")),
            check("lease", true, or(self.lease.fault(), "No VM is kept off for want of a lease.")),
            check("certificate", true, or(certificate, "The certificate is in order, if there is one yet.")),
        ];
        all.extend(self.slow_checks());
        all
    }

    fn slow_checks(&self) -> Vec<NodeCheck> {
        let mut checks = checks::of_node(&self.config.data_dir);
        checks.extend(self.work.hypervisor().checks());
        checks
    }

    /// `GET /v1/node/capacity`, with these VMs.
    pub fn capacity(&self, vms: &[Vm]) -> Capacity {
        let facts = self.node().facts;
        let has = (u64::from(facts.cores), facts.memory, facts.storage);
        capacity(has, facts.storage_free, vms)
    }

    /// Looks until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let hypervisor = self.watch_hypervisor();
        let storage = self.watch_storage();
        let checks = self.watch_checks();
        tokio::select! {
            () = stop.cancelled() => {}
            () = hypervisor => {}
            () = storage => {}
            () = checks => {}
        }
    }

    async fn watch_hypervisor(&self) {
        let mut every = interval(self.config.limits.ping_every);
        loop {
            every.tick().await;
            let hypervisor = Arc::clone(self.work.hypervisor());
            let silent = |watch: &Self| watch.hypervisor_fault("The hypervisor does not answer.");
            let answer = self.patiently(move || hypervisor.ping(), silent).await;
            if !self.note(answer) {
                // It may come back as another version.
                self.seen().facts = None;
            } else if self.seen().facts.is_none() {
                let hypervisor = Arc::clone(self.work.hypervisor());
                let slow =
                    |watch: &Self| watch.hypervisor_fault("What boots guests here is being found out.");
                let answer = self.patiently(move || hypervisor.facts(), slow).await;
                let facts = answer.as_ref().and_then(|answer| answer.as_ref().ok()).cloned();
                self.note(answer);
                self.seen().facts = facts;
            }
            let mut seen = self.seen();
            if seen.hypervisor_fault.is_none() && seen.facts.is_none() {
                seen.hypervisor_fault = Some("What the hypervisor is was not found out.".to_owned());
            }
        }
    }

    /// Notes whether the hypervisor answered, and says so when that changed.
    fn note<T>(&self, answer: Option<Result<T, HypervisorError>>) -> bool {
        let fault = match answer {
            Some(Ok(_)) => None,
            Some(Err(e)) => Some(format!("The hypervisor does not answer: {e}")),
            None => Some("Asking the hypervisor broke off.".to_owned()),
        };
        let mut seen = self.seen();
        match (&seen.hypervisor_fault, &fault) {
            (Some(_), None) => tracing::info!("the hypervisor answers"),
            (None, Some(fault)) => tracing::warn!("{fault}"),
            _ => {}
        }
        let fine = fault.is_none();
        seen.hypervisor_fault = fault;
        fine
    }

    fn hypervisor_fault(&self, sentence: &str) {
        tracing::warn!("{sentence}");
        self.seen().hypervisor_fault = Some(sentence.to_owned());
    }

    async fn watch_storage(&self) {
        let mut every = interval(self.config.limits.ping_every);
        loop {
            every.tick().await;
            let folder: PathBuf = self.config.data_dir.clone();
            let answer = self.patiently(
                move || rustix::fs::statvfs(&folder),
                |watch| {
                    tracing::warn!("the disk does not answer");
                    watch.seen().storage_fault = Some("The disk does not answer.".to_owned());
                },
            );
            let answer = answer.await;
            let mut seen = self.seen();
            seen.storage_fault = match answer {
                Some(Ok(room)) => {
                    let bytes = |blocks: u64| ByteSize(blocks.saturating_mul(room.f_frsize));
                    seen.storage = Some(Storage { size: bytes(room.f_blocks), free: bytes(room.f_bavail) });
                    None
                }
                Some(Err(e)) => Some(format!("The disk does not answer: {e}.")),
                None => Some("Asking the disk broke off.".to_owned()),
            };
        }
    }

    async fn watch_checks(self: &Arc<Self>) {
        let mut every = interval(self.config.limits.check_every);
        loop {
            every.tick().await;
            let watch = Arc::clone(self);
            // One that hangs is the loop's alone: what was found before holds.
            let Ok(checks) = tokio::task::spawn_blocking(move || watch.slow_checks()).await else { continue };
            let unfit: Vec<_> =
                checks.into_iter().filter(|c| c.needed && !c.ok).map(|c| c.sentence).collect();
            for sentence in &unfit {
                tracing::warn!("{sentence}");
            }
            self.seen().unfit = unfit;
        }
    }

    /// Waits for a blocking question, however long it takes; calls `late` once if that is too long.
    /// `None` if it panicked.
    async fn patiently<T: Send + 'static>(
        &self,
        ask: impl FnOnce() -> T + Send + 'static,
        late: impl FnOnce(&Self),
    ) -> Option<T> {
        let mut answer = tokio::task::spawn_blocking(ask);
        match tokio::time::timeout(self.config.limits.ping_patience, &mut answer).await {
            Ok(answer) => answer.ok(),
            Err(_) => {
                late(self);
                answer.await.ok()
            }
        }
    }

    fn domain_type_until_known(&self) -> DomainType {
        match (self.config.hypervisor, self.config.libvirt.accelerator) {
            (HypervisorKind::Simulator, _) => DomainType::Simulator,
            (HypervisorKind::Libvirt, Accelerator::Kvm) => DomainType::Kvm,
            (HypervisorKind::Libvirt, Accelerator::Auto | Accelerator::Qemu) => DomainType::Qemu,
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Each field is replaced as a whole: fine after any panic.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A certificate's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Its beginning.
    pub not_before: Timestamp,
    /// Its end.
    pub not_after: Timestamp,
}

fn storage_fault(storage: Storage) -> Option<String> {
    let free = storage.free.as_mib();
    (storage.free < STORAGE_FREE_MIN).then(|| format!("The disk is nearly full: {free} MiB are free."))
}

fn clock_fault(now: Timestamp) -> Option<String> {
    (now.unix_ms() < CLOCK_MIN_UNIX_MS).then(|| format!("The clock is wrong: it shows {now}."))
}

fn certificate_fault(life: Life, now: Timestamp) -> Option<String> {
    let whole = life.not_after.unix_ms() - life.not_before.unix_ms();
    let left = life.not_after.unix_ms() - now.unix_ms();
    if now < life.not_before {
        Some(format!("The clock is wrong, or the certificate: it begins at {}.", life.not_before))
    } else if left <= 0 {
        Some(format!("The certificate ended at {}.", life.not_after))
    } else if left < whole / CERTIFICATE_LIFE_PART {
        Some(format!("The certificate ends at {} and was not replaced.", life.not_after))
    } else {
        None
    }
}

fn capacity((cores, memory, storage): (u64, ByteSize, ByteSize), free: ByteSize, vms: &[Vm]) -> Capacity {
    let specs: Vec<_> = vms.iter().filter_map(|vm| vm.spec.as_ref()).collect();
    let cores_promised = specs.iter().map(|spec| u64::from(spec.vcpus)).fold(0, u64::saturating_add);
    let room = |total: ByteSize, of: fn(&VmSpec) -> ByteSize| {
        let promised = specs.iter().map(|spec| of(spec).bytes()).fold(0, u64::saturating_add);
        RoomShare { total, promised: ByteSize(promised) }
    };
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Capacity {
        cores: Share { total: cores, promised: cores_promised },
        memory: room(memory, |spec| spec.memory),
        storage: room(storage, |spec| spec.disk),
        storage_free: free,
        vms: count(specs.len()),
        half_made: count(vms.len() - specs.len()),
    }
}

fn memory() -> ByteSize {
    let info = rustix::system::sysinfo();
    // Field widths differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    ByteSize((info.totalram as u64).saturating_mul(u64::from(info.mem_unit)))
}

fn interval(every: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(n: i64) -> Timestamp {
        Timestamp::from_unix_ms(CLOCK_MIN_UNIX_MS + n * 86_400_000).unwrap()
    }

    #[test]
    fn a_certificate_is_a_fault_in_its_last_tenth() {
        let _proof = crate::proof::pure(&["node.get"]);
        let life = Life { not_before: day(10), not_after: day(110) };
        assert_eq!(certificate_fault(life, day(50)), None);
        assert_eq!(certificate_fault(life, day(99)), None);
        for (now, word) in [(9, "begins"), (101, "not replaced"), (110, "ended"), (500, "ended")] {
            assert!(certificate_fault(life, day(now)).unwrap().contains(word), "day {now}");
        }
    }

    #[test]
    fn a_clock_before_this_version_is_a_fault() {
        assert_eq!(clock_fault(day(0)), None);
        assert!(clock_fault(day(-1)).is_some());
    }

    #[test]
    fn what_is_promised_is_the_sum_over_all_whole_vms() {
        let _proof = crate::proof::pure(&["node.capacity"]);
        let spec = |vcpus, gib| VmSpec {
            vcpus,
            memory: ByteSize::gib(gib),
            disk: ByteSize::gib(10 * gib),
            image: berth_model::agent::VmImage { sha256: "a".repeat(64) },
            nics: vec![],
            seed: berth_model::agent::VmSeed {
                hostname: "a".to_owned(),
                ssh_keys: vec![],
                root_password_hash: None,
                user_data: None,
                mounts: Vec::new(),
                name_servers: vec![],
            },
            power: berth_model::agent::WantedPower::Keep,
            ..VmSpec::default()
        };
        let vm = |id, state, spec| Vm {
            id: berth_model::VmId(id),
            state,
            spec,
            started: None,
            saved: false,
            pending: vec![],
        };
        use berth_model::agent::VmState::{Off, Running};
        let vms = [vm(1, Running, Some(spec(2, 4))), vm(2, Off, Some(spec(4, 8))), vm(3, Off, None)];
        let found = capacity((4, ByteSize::gib(16), ByteSize::gib(100)), ByteSize::gib(90), &vms);
        assert_eq!(found.cores, Share { total: 4, promised: 6 });
        assert_eq!(found.memory.promised, ByteSize::gib(12));
        assert_eq!(found.storage.promised, ByteSize::gib(120));
        assert_eq!((found.vms, found.half_made), (2, 1));
    }

    #[test]
    fn a_full_disk_is_a_fault() {
        let _proof = crate::proof::pure(&["node.get"]);
        let with = |free| storage_fault(Storage { size: ByteSize::gib(100), free });
        assert_eq!(with(ByteSize::gib(2)), None);
        assert!(with(ByteSize::gib(1)).unwrap().contains("1024 MiB"));
    }
}
