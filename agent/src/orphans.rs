//! What belongs to nothing any more: found by whoever knows the place, removed only when told.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use berth_model::VmId;
use berth_model::agent::{Orphan, OrphanList};

use crate::clock;
use crate::hypervisor::HypervisorError;

/// What was touched later than this many seconds ago may be in the making.
const OLD_S: i64 = 600;

type Remove<'a> = Box<dyn FnOnce() -> Result<(), HypervisorError> + 'a>;

/// Something left over, and how to remove it.
pub struct Found<'a> {
    orphan: Orphan,
    vm: Option<VmId>,
    remove: Remove<'a>,
}

impl<'a> Found<'a> {
    /// Something of a kind, and why it is left over.
    pub fn new(
        kind: &str,
        name: String,
        why: &str,
        remove: impl FnOnce() -> Result<(), HypervisorError> + 'a,
    ) -> Self {
        let (kind, why) = (kind.to_owned(), why.to_owned());
        let orphan = Orphan { kind, name, why, removed: false, kept: None };
        Self { orphan, vm: None, remove: Box::new(remove) }
    }

    /// It is nobody's only as long as no function works on this VM.
    #[must_use]
    pub fn of(self, vm: VmId) -> Self {
        Self { vm: Some(vm), ..self }
    }
}

/// Names all that was found, and removes it if told. `hold` keeps a VM from all functions as long as what it
/// gives is there, or gives nothing when one works on it: how old something seems to be is no proof, since a
/// clock may jump.
pub fn list<H>(found: Vec<Found<'_>>, remove: bool, hold: impl Fn(VmId) -> Option<H>) -> OrphanList {
    let settle = |Found { mut orphan, vm, remove: with }: Found<'_>| {
        let _held = match vm {
            Some(vm) => Some(hold(vm)?),
            None => None,
        };
        if remove {
            match with() {
                Ok(()) => orphan.removed = true,
                Err(e) => orphan.kept = Some(e.to_string()),
            }
        }
        Some(orphan)
    };
    let mut orphans: Vec<Orphan> = found.into_iter().filter_map(settle).collect();
    orphans.sort();
    OrphanList { orphans }
}

/// Was it, and all that is in it, left alone for ten minutes? Not if that cannot be told.
pub fn is_old(path: &Path) -> bool {
    newest_s(path).is_ok_and(|newest| clock::now().unix_ms() / 1000 - newest >= OLD_S)
}

/// When something was last written there, in seconds since 1970.
fn newest_s(path: &Path) -> std::io::Result<i64> {
    let metadata = std::fs::symlink_metadata(path)?;
    let mut newest = metadata.mtime();
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            newest = newest.max(newest_s(&entry?.path())?);
        }
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_removed_says_why_and_nothing_goes_untold() {
        let _proof = crate::proof::pure(&["node.orphans"]);
        let found = |gone: &'static std::cell::Cell<u32>| {
            let stuck = || Err(HypervisorError::Conflict("It runs.".to_owned()));
            vec![
                Found::new("log", "b".to_owned(), "No VM.", move || {
                    gone.set(gone.get() + 1);
                    Ok(())
                }),
                Found::new("domain", "a".to_owned(), "No folder.", stuck),
            ]
        };
        let gone: &'static std::cell::Cell<u32> = Box::leak(Box::default());
        let hold = |_| Some(());
        let named = list(found(gone), false, hold).orphans;
        assert!(named.iter().all(|orphan| !orphan.removed && orphan.kept.is_none()) && gone.get() == 0);
        let removed = list(found(gone), true, hold).orphans;
        assert_eq!((removed[0].kind.as_str(), removed[0].kept.as_deref()), ("domain", Some("It runs.")));
        assert!(removed[1].removed && gone.get() == 1);
    }

    #[test]
    fn what_a_function_works_on_is_no_orphan() {
        let _proof = crate::proof::pure(&["node.orphans"]);
        let found = || vec![Found::new("half-made VM", "7".to_owned(), "No domain.", || Ok(())).of(VmId(7))];
        let busy = |vm| (vm != VmId(7)).then_some(());
        assert_eq!(list(found(), true, busy).orphans, []);
        assert!(list(found(), true, |_| Some(())).orphans[0].removed);
    }

    #[test]
    fn what_is_being_written_is_not_old() {
        let _proof = crate::proof::pure(&["node.orphans"]);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("disk.qcow2");
        std::fs::write(&file, "").unwrap();
        assert!(!is_old(folder.path()) && !is_old(&folder.path().join("none")));
        let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        for path in [file.as_path(), folder.path()] {
            std::fs::File::open(path).unwrap().set_modified(long_ago).unwrap();
        }
        assert!(is_old(folder.path()));
        std::fs::write(&file, "more").unwrap();
        assert!(!is_old(folder.path()), "by what is in it");
    }
}
