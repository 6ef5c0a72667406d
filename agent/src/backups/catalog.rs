//! What a store holds of one VM.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::agent::{Backup, Name};
use berth_model::{ByteSize, Timestamp, VmId};

use super::manifest::{Base, Found, Locked, Manifest, names};
use super::seal::{AccountKey, BackupKeys};
use super::store::{Store, StoreError};
use crate::error::Refusal;

/// The backups of a VM.
pub struct Catalog {
    vm: VmId,
    /// By name; those that cannot be read with the reason.
    entries: BTreeMap<Name, Result<Found, String>>,
    /// The readable ones, the oldest first.
    order: Vec<Name>,
    damaged: BTreeSet<String>,
}

/// A backup and those it builds on, the full one first, each with its keys.
pub type Chain<'a> = Vec<(&'a Manifest, BackupKeys)>;

impl Catalog {
    /// Reads all manifests of a VM.
    pub fn read(store: &dyn Store, vm: VmId) -> Result<Self, Refusal> {
        let mut entries = BTreeMap::new();
        let objects = store.objects(&names::manifests(vm))?;
        let found = objects.iter().filter_map(|object| Name::new(object.name.strip_suffix(".json")?));
        let found: Vec<Name> = found.collect();
        let paths: Vec<String> = found.iter().map(|name| names::manifest(vm, name)).collect();
        for (name, text) in found.into_iter().zip(store.get_all(&paths)) {
            let found = match text {
                Ok(text) => Found::parse(vm, &name, &text),
                Err(StoreError::Missing(_)) => continue,
                Err(e) => return Err(e.into()),
            };
            entries.insert(name, found);
        }
        let damaged = store.objects(&names::all_damaged(vm))?.into_iter().map(|note| note.name).collect();
        let order = order(&entries);
        Ok(Self { vm, entries, order, damaged })
    }

    /// Is there a backup of this name, readable or not?
    pub fn has(&self, name: &Name) -> bool {
        self.entries.contains_key(name)
    }

    /// A backup that is there. The error is for the caller who named it.
    pub fn find(&self, name: &Name) -> Result<&Found, Refusal> {
        match self.entries.get(name) {
            Some(Ok(found)) => Ok(found),
            Some(Err(problem)) => Err(Refusal::conflict(format!("The backup {name} is damaged: {problem}"))),
            None => Err(Refusal::new(
                berth_model::ErrorCode::NotFound,
                format!("There is no backup {name} of VM {}.", self.vm),
            )),
        }
    }

    /// All names, also of those that cannot be read.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.entries.keys()
    }

    /// All that can be read, the oldest first.
    pub fn manifests(&self) -> impl DoubleEndedIterator<Item = &Manifest> {
        self.order.iter().filter_map(|name| Some(&self.entries.get(name)?.as_ref().ok()?.manifest))
    }

    /// Those that build on a backup, directly or not, so that each stands before what it builds on.
    pub fn dependents(&self, name: &Name) -> Vec<Name> {
        let mut found = vec![name.clone()];
        for manifest in self.manifests() {
            if manifest.builds_on.as_ref().is_some_and(|base| found.contains(&base.name)) {
                found.push(manifest.name.clone());
            }
        }
        found.remove(0);
        found.reverse();
        found
    }

    /// As callers see them.
    pub fn shown(&self) -> Vec<Backup> {
        let unreadable = self.entries.iter().filter_map(|(name, found)| {
            let problem = found.as_ref().err()?;
            Some(Backup {
                vm: self.vm,
                name: name.clone(),
                taken: Timestamp::from_unix_ms(0)?,
                kind: berth_model::agent::BackupKind::Full,
                builds_on: None,
                full_because: None,
                image: String::new(),
                disk: ByteSize(0),
                read: ByteSize(0),
                stored: ByteSize(0),
                frozen: false,
                problem: Some(problem.clone()),
            })
        });
        let readable = self.manifests().map(|manifest| manifest.shown(self.problem(manifest)));
        unreadable.chain(readable).collect()
    }

    /// What is wrong with a backup or what it builds on, as far as manifests and notes tell.
    pub fn problem(&self, manifest: &Manifest) -> Option<String> {
        let mut own = manifest;
        // Salts are drawn at random, so no chain bites its own tail; a forged one is cut here.
        for _ in 0..=self.entries.len() {
            if self.damaged.contains(own.name.as_str()) {
                return Some(format!("A verification found {} damaged.", own.name));
            }
            let base = own.builds_on.as_ref()?;
            own = match self.base(base) {
                Ok(base) => base,
                Err(problem) => return Some(problem),
            };
        }
        Some(format!("{} builds on itself.", manifest.name))
    }

    /// A backup with what it builds on. The error is a sentence on what is broken.
    pub fn chain<'a>(&'a self, last: &'a Manifest, account: &AccountKey) -> Result<Chain<'a>, Broken> {
        let (mut chain, mut own) = (Vec::new(), last);
        loop {
            let found = match self.entries.get(&own.name) {
                Some(Ok(found)) => found,
                _ => return Err(Broken::Damaged(format!("{} cannot be read.", own.name))),
            };
            let keys = found.keys(account).map_err(|locked| match locked {
                Locked::OtherKey => Broken::OtherKey(own.name.clone()),
                Locked::Forged => {
                    Broken::Damaged(format!("The manifest of {} is not as it was sealed.", own.name))
                }
            })?;
            chain.push((own, keys));
            match &own.builds_on {
                None => break,
                Some(_) if chain.len() > self.entries.len() => {
                    return Err(Broken::Damaged(format!("{} builds on itself.", own.name)));
                }
                Some(base) => own = self.base(base).map_err(Broken::Damaged)?,
            }
        }
        chain.reverse();
        Ok(chain)
    }

    fn base(&self, base: &Base) -> Result<&Manifest, String> {
        match self.entries.get(&base.name) {
            Some(Ok(found)) if found.manifest.salt == base.salt => Ok(&found.manifest),
            Some(Ok(_)) => Err(format!("{}, on which it builds, was made anew since.", base.name)),
            Some(Err(_)) => Err(format!("{}, on which it builds, cannot be read.", base.name)),
            None => Err(format!("{}, on which it builds, is missing.", base.name)),
        }
    }
}

/// The readable ones, the oldest first. One that builds on another is the newer of both, whatever the node's
/// clock said as they were taken.
fn order(entries: &BTreeMap<Name, Result<Found, String>>) -> Vec<Name> {
    let base = |manifest: &Manifest| {
        let base = manifest.builds_on.as_ref()?;
        let found = entries.get(&base.name)?.as_ref().ok()?;
        (found.manifest.salt == base.salt).then_some(&found.manifest)
    };
    let age = |last: &Manifest| {
        let (mut newest, mut depth, mut own) = (last.taken, 0, last);
        // A forged chain that bites its own tail is cut here.
        while depth < entries.len()
            && let Some(next) = base(own)
        {
            (newest, depth, own) = (newest.max(next.taken), depth + 1, next);
        }
        (newest, depth)
    };
    let readable = entries.iter().filter_map(|(name, found)| Some((name, &found.as_ref().ok()?.manifest)));
    let mut readable: Vec<_> = readable.map(|(name, manifest)| (age(manifest), name.clone())).collect();
    readable.sort();
    readable.into_iter().map(|(_, name)| name).collect()
}

/// Why a chain cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// This one was made with another key.
    OtherKey(Name),
    /// A sentence.
    Damaged(String),
}

impl From<Broken> for Refusal {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::OtherKey(name) => {
                Self::field("key", format!("The backup {name} was made with another key than this."))
            }
            Broken::Damaged(problem) => Self::conflict(format!("The backup cannot be read back: {problem}")),
        }
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OtherKey(name) => write!(f, "{name} was made with another key."),
            Self::Damaged(problem) => f.write_str(problem),
        }
    }
}
