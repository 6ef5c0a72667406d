//! The node's lease in the control plane, and what follows when it is lost: the node fences itself.
//!
//! ```text
//! node.lease ──► lease.json, memory ◄── a thread looks every second ──► over for too long:
//!                      ▲                                                marked VMs are powered off
//!  a marked VM starts ─┘ only while the lease is held
//! ```
//!
//! Nothing here asks what time it is: all is counted by the node's clock since its boot. What was granted
//! stands on the disk, so an agent that was killed counts on where the one before it stopped; after a boot
//! nothing is left of it. The thread needs neither disk nor libvirt to do its work.
//!
//! The lease has its words in [`berth_model::agent::LeaseGrant`].

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_model::agent::function::Kind;
use berth_model::agent::{LEASE_MAX_S, LeaseGrant, LeaseState, NodeLease, NodeMoment};
use berth_model::{FieldError, VmId};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::error::Refusal;
use crate::hypervisor::{Hypervisor, HypervisorError};
use crate::runs::Runs;
use crate::work::Asked;

const FILE: &str = "lease.json";

/// The lease.
#[derive(Debug)]
pub struct Lease {
    file: PathBuf,
    kept: Mutex<Kept>,
    /// Marked VMs, as they were seen last.
    marked: Mutex<Vec<VmId>>,
}

/// What is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kept {
    Never,
    Granted(LeaseGrant),
    /// There was one, and its file cannot be read.
    Unreadable,
}

/// How the node stands at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standing {
    state: LeaseState,
    left_ms: u64,
    fenced_in_ms: u64,
}

impl Kept {
    fn standing(&self, now: &NodeMoment) -> Standing {
        let over = |state| Standing { state, left_ms: 0, fenced_in_ms: 0 };
        let grant = match self {
            Self::Never => return over(LeaseState::None),
            Self::Granted(grant) if grant.from.boot == now.boot => grant,
            Self::Granted(_) | Self::Unreadable => return over(LeaseState::Fenced),
        };
        let ends = grant.from.ms.saturating_add(u64::from(grant.ttl_s) * 1000);
        let fenced = ends.saturating_add(u64::from(grant.fence_after_s) * 1000);
        let (left_ms, fenced_in_ms) = (ends.saturating_sub(now.ms), fenced.saturating_sub(now.ms));
        let state = match (left_ms, fenced_in_ms) {
            (1.., _) => LeaseState::Held,
            (0, 1..) => LeaseState::Ended,
            (0, 0) => LeaseState::Fenced,
        };
        Standing { state, left_ms, fenced_in_ms }
    }

    /// What a grant makes of it. A grant that was overtaken by a later one changes nothing.
    fn granted(&self, grant: &LeaseGrant, now: &NodeMoment) -> Result<Self, Refusal> {
        if grant.from.boot != now.boot {
            let message = "The node was booted since it told that moment; ask for node.lease_status.";
            return Err(Refusal::conflict(message));
        }
        let Some(age_ms) = now.ms.checked_sub(grant.from.ms) else {
            return Err(Refusal::field("from.ms", "This moment has not been yet on this node."));
        };
        if age_ms >= u64::from(grant.ttl_s) * 1000 {
            let message = "The moment that the lease is counted from is longer ago than it would live.";
            return Err(Refusal::conflict(message));
        }
        match self {
            Self::Granted(known) if grant.term < known.term => Err(Refusal::conflict(format!(
                "The node's lease was granted in term {} already; {} is older.",
                known.term, grant.term
            ))),
            Self::Granted(known)
                if grant.term == known.term
                    && grant.from.boot == known.from.boot
                    && grant.from.ms < known.from.ms =>
            {
                Ok(self.clone())
            }
            _ => Ok(Self::Granted(grant.clone())),
        }
    }
}

impl Lease {
    /// Reads it from the data folder.
    pub fn open(data_dir: &Path) -> Self {
        let file = data_dir.join(FILE);
        let kept = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).map_or(Kept::Unreadable, Kept::Granted),
            Err(e) if e.kind() == ErrorKind::NotFound => Kept::Never,
            Err(_) => Kept::Unreadable,
        };
        Self { file, kept: Mutex::new(kept), marked: Mutex::default() }
    }

    /// As it is, with these VMs marked.
    pub fn show(&self, marked: Vec<VmId>, now: NodeMoment) -> NodeLease {
        let kept = self.kept();
        let Standing { state, left_ms, fenced_in_ms } = kept.standing(&now);
        let term = match &*kept {
            Kept::Granted(grant) => Some(grant.term),
            Kept::Never | Kept::Unreadable => None,
        };
        NodeLease { state, term, left_ms, fenced_in_ms, marked, now }
    }

    /// Takes a grant. Blocks.
    pub fn grant(&self, grant: &LeaseGrant, now: &NodeMoment) -> Result<(), Refusal> {
        let mut kept = self.kept();
        let after = kept.granted(grant, now)?;
        if *kept == after {
            return Ok(());
        }
        match (self.write(grant), &*kept) {
            (Ok(()), _) => {}
            // An agent that comes anew must know that there was a lease at all.
            (Err(e), Kept::Never) => return Err(Refusal::own("It could not be written down", &e)),
            // It would find the lease before this one, which ends sooner.
            (Err(e), _) => tracing::warn!(error = %e, "the node's lease was renewed and not written down"),
        }
        let before = std::mem::replace(&mut *kept, after).standing(now).state;
        if before != LeaseState::Held {
            tracing::info!(term = grant.term, "the node holds a lease in the control plane");
        }
        Ok(())
    }

    /// Lets the node go without one. Blocks.
    pub fn end(&self) -> Result<(), Refusal> {
        let mut kept = self.kept();
        let folder = self.file.parent().unwrap_or(Path::new("/"));
        let removed = match std::fs::remove_file(&self.file) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| std::fs::File::open(folder)?.sync_all()),
        };
        removed.map_err(|e| Refusal::own("It could not be removed", &e))?;
        *kept = Kept::Never;
        Ok(())
    }

    /// Refuses the start of a VM that is marked, unless the lease is held or the node needs none.
    pub fn admit(&self, id: VmId) -> Result<(), HypervisorError> {
        match self.kept().standing(&clock::since_boot()).state {
            LeaseState::None | LeaseState::Held => Ok(()),
            LeaseState::Ended | LeaseState::Fenced => Err(HypervisorError::Conflict(format!(
                "VM {id} is marked for failover, and the node's lease in the control plane has ended: it may \
                 run elsewhere, and starts here only once the lease is granted anew."
            ))),
        }
    }

    /// What is wrong, for the node's health: nothing as long as no VM is marked.
    pub fn fault(&self) -> Option<String> {
        let standing = self.kept().standing(&clock::since_boot());
        let marked = self.marked();
        let list = marked.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match standing.state {
            LeaseState::None | LeaseState::Held => None,
            _ if marked.is_empty() => None,
            LeaseState::Ended => Some(format!(
                "The node's lease in the control plane has ended: VMs that are marked for failover ({list}) are \
                 powered off in {} s.",
                standing.fenced_in_ms.div_ceil(1000)
            )),
            LeaseState::Fenced => Some(format!(
                "The node has no lease in the control plane: VMs that are marked for failover ({list}) are off, \
                 and can be started once it has one."
            )),
        }
    }

    /// Looks until `stop`, and powers marked VMs off whenever they run and must not. Blocks: a thread's work.
    pub fn watch(
        &self,
        hypervisor: &dyn Hypervisor,
        runs: &Arc<Runs>,
        every: Duration,
        stop: &CancellationToken,
    ) {
        let mut failed = BTreeSet::new();
        while !stop.is_cancelled() {
            let marked = hypervisor.marked();
            self.marked().clone_from(&marked);
            let standing = self.kept().standing(&clock::since_boot());
            if standing.state == LeaseState::Fenced && !marked.is_empty() {
                for (id, ended) in hypervisor.fence(&marked) {
                    note(runs, id, ended, &mut failed);
                }
            }
            std::thread::sleep(every);
        }
    }

    /// Replaces the file as a whole. The first must outlive a power cut; after one, all that counts is that it
    /// is there.
    fn write(&self, grant: &LeaseGrant) -> std::io::Result<()> {
        let folder = self.file.parent().unwrap_or(Path::new("/"));
        let mut new = tempfile::NamedTempFile::new_in(folder)?;
        new.write_all(&serde_json::to_vec(grant)?)?;
        let first = !self.file.try_exists()?;
        if first {
            new.as_file().sync_all()?;
        }
        new.persist(&self.file)?;
        if first {
            std::fs::File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Replaced as a whole: fine after any panic.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn marked(&self) -> MutexGuard<'_, Vec<VmId>> {
        self.marked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells of a VM that was powered off, or could not be; of the same failure once.
fn note(runs: &Arc<Runs>, id: VmId, ended: Result<(), HypervisorError>, failed: &mut BTreeSet<VmId>) {
    match &ended {
        Ok(()) => {
            tracing::error!(
                vm = id.0,
                "the node has lost its lease: a VM marked for failover was powered off"
            );
            failed.remove(&id);
        }
        Err(e) if failed.insert(id) => {
            tracing::error!(vm = id.0, error = %e, "the node has lost its lease, and a VM could not be powered off");
        }
        Err(_) => return,
    }
    let runs = Arc::clone(runs);
    // On its own: the log is on the disk, which may hang.
    std::thread::spawn(move || {
        let cx = runs.begin(&Asked {
            function: "node.fence",
            kind: Kind::Change,
            on: format!("VM {id}"),
            words: String::new(),
            by: "the node, which lost its lease".to_owned(),
            wait: None,
        });
        let failure = ended.err().map(Refusal::from);
        runs.end(&cx, failure.as_ref());
    });
}

/// What is wrong with a grant.
pub fn faults(grant: &LeaseGrant) -> Vec<FieldError> {
    let rules = [
        (grant.term >= 1, "term", "A term is 1 or more."),
        ((1..=LEASE_MAX_S).contains(&grant.ttl_s), "ttl_s", "A lease lives 1 to 3,600 seconds."),
        (grant.fence_after_s <= LEASE_MAX_S, "fence_after_s", "Marked VMs run on for 0 to 3,600 seconds."),
        (grant.from.boot.len() <= 64, "from.boot", "This names no boot of a node."),
    ];
    let wrong = rules.into_iter().filter(|(fine, ..)| !fine);
    let fault = |(_, name, message): (bool, &str, &str)| FieldError {
        name: name.to_owned(),
        messages: vec![message.to_owned()],
    };
    wrong.map(fault).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FUNCTIONS: &[&str] = &["node.lease", "node.lease_status", "node.lease_end"];

    fn at(ms: u64) -> NodeMoment {
        NodeMoment { boot: "this".to_owned(), ms }
    }

    fn grant(term: u64, from_ms: u64) -> LeaseGrant {
        LeaseGrant { term, from: at(from_ms), ttl_s: 30, fence_after_s: 20 }
    }

    #[test]
    fn a_lease_ends_and_then_the_node_is_fenced() {
        let _proof = crate::proof::pure(FUNCTIONS);
        let kept = Kept::Never.granted(&grant(1, 1000), &at(1500)).unwrap();
        let standing = |ms| kept.standing(&at(ms));
        let is = |state, left_ms, fenced_in_ms| Standing { state, left_ms, fenced_in_ms };
        assert_eq!(standing(1500), is(LeaseState::Held, 29_500, 49_500));
        assert_eq!(standing(30_999), is(LeaseState::Held, 1, 20_001));
        assert_eq!(standing(31_000), is(LeaseState::Ended, 0, 20_000));
        assert_eq!(standing(51_000), is(LeaseState::Fenced, 0, 0));
        assert_eq!(Kept::Never.standing(&at(0)).state, LeaseState::None);
        // A boot ends every lease, and so does a file that nobody can read.
        let rebooted = NodeMoment { boot: "next".to_owned(), ms: 2000 };
        assert_eq!(kept.standing(&rebooted).state, LeaseState::Fenced);
        assert_eq!(Kept::Unreadable.standing(&at(0)).state, LeaseState::Fenced);
        assert!(Kept::Unreadable.granted(&grant(1, 0), &at(0)).is_ok());
    }

    #[test]
    fn a_grant_that_comes_late_is_worth_no_more() {
        let _proof = crate::proof::pure(FUNCTIONS);
        let kept = Kept::Never.granted(&grant(2, 5000), &at(5000)).unwrap();
        // Of an older term, of another boot, of a moment that is to come, and one that would be over.
        assert!(kept.granted(&grant(1, 6000), &at(6000)).unwrap_err().to_string().contains("term 2"));
        let boot = LeaseGrant { from: NodeMoment { boot: "last".to_owned(), ms: 0 }, ..grant(2, 0) };
        assert!(kept.granted(&boot, &at(6000)).unwrap_err().to_string().contains("booted"));
        assert!(kept.granted(&grant(2, 7000), &at(6000)).is_err());
        assert!(kept.granted(&grant(2, 6000), &at(36_000)).unwrap_err().to_string().contains("longer ago"));
        // Overtaken: nothing changes. The next term counts whatever came before.
        assert_eq!(kept.granted(&grant(2, 4000), &at(6000)).unwrap(), kept);
        let next = kept.granted(&grant(3, 4500), &at(6000)).unwrap();
        assert_eq!(next.standing(&at(6000)).left_ms, 28_500);
    }

    #[test]
    fn an_agent_that_comes_anew_counts_on() {
        let _proof = crate::proof::pure(FUNCTIONS);
        let folder = tempfile::tempdir().unwrap();
        let lease = Lease::open(folder.path());
        assert_eq!(lease.show(vec![], at(0)).state, LeaseState::None);
        lease.grant(&grant(1, 1000), &at(1000)).unwrap();
        lease.grant(&grant(1, 2000), &at(2500)).unwrap();
        let again = Lease::open(folder.path());
        let shown = again.show(vec![VmId(7)], at(12_000));
        assert_eq!((shown.state, shown.term, shown.left_ms), (LeaseState::Held, Some(1), 20_000));
        assert_eq!(again.show(vec![], at(52_000)).state, LeaseState::Fenced);
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        assert_eq!(Lease::open(folder.path()).show(vec![], at(2000)).state, LeaseState::Fenced);
        again.end().unwrap();
        again.end().unwrap();
        assert_eq!(Lease::open(folder.path()).show(vec![], at(2000)).state, LeaseState::None);
    }

    #[test]
    fn a_grant_out_of_bounds_names_its_field() {
        let _proof = crate::proof::pure(&["node.lease"]);
        let wrong = LeaseGrant { term: 0, from: at(0), ttl_s: 0, fence_after_s: 3601 };
        let names: Vec<_> = faults(&wrong).into_iter().map(|fault| fault.name).collect();
        assert_eq!(names, ["term", "ttl_s", "fence_after_s"]);
        assert!(faults(&grant(1, 0)).is_empty());
    }
}
