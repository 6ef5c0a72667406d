//! A directory as a store. Nobody but the agent's user reads what it writes.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{OBJECT_MAX_BYTES, Object, Store, StoreError};

/// Ends the names of what is being put.
const UNFINISHED: &str = ".new";

/// A directory.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// Makes the directory, if what it stands in is there.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(wrong(path, &e)),
            _ => Ok(Self(path.to_owned())),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let mut new = path.as_os_str().to_owned();
        new.push(UNFINISHED);
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        let written = file.write_all(bytes).and_then(|()| fs::rename(&new, path));
        // The disk begins to write it at once, so that little is left to be settled, and what guests read stays
        // in the node's memory. A file system that does not know that is only slower.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        written.inspect_err(|_| drop(fs::remove_file(&new)))
    }

    fn entries(&self, folder: &str, is_folder: bool) -> Result<Vec<Object>, StoreError> {
        let path = self.path(folder);
        let read = || -> io::Result<Vec<Object>> {
            let mut found = Vec::new();
            for entry in fs::read_dir(&path)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                // What goes while it is looked at is gone.
                let Ok(metadata) = entry.metadata() else { continue };
                if metadata.is_dir() == is_folder && !name.ends_with(UNFINISHED) {
                    found.push(Object { name, bytes: metadata.len() });
                }
            }
            found.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(found)
        };
        match read() {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            read => read.map_err(|e| wrong(&path, &e)),
        }
    }
}

impl Store for Directory {
    fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), StoreError> {
        let path = self.path(name);
        self.write(&path, &bytes).map_err(|e| wrong(&path, &e))
    }

    fn settle(&self) -> Result<(), StoreError> {
        // One call for thousands of files and their names.
        let synced = File::open(&self.0).and_then(|folder| Ok(rustix::fs::syncfs(folder)?));
        synced.map_err(|e| wrong(&self.0, &e))
    }

    fn get(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let path = self.path(name);
        let read = || {
            let mut bytes = Vec::new();
            File::open(&path)?.take(OBJECT_MAX_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().map_err(|e: io::Error| match e.kind() {
            ErrorKind::NotFound => StoreError::Missing(name.to_owned()),
            _ => wrong(&path, &e),
        })
    }

    fn objects(&self, folder: &str) -> Result<Vec<Object>, StoreError> {
        self.entries(folder, false)
    }

    fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        Ok(self.entries(folder, true)?.into_iter().map(|object| object.name).collect())
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        gone(fs::remove_file(self.path(name)), &self.path(name))
    }

    fn delete_folder(&self, folder: &str) -> Result<(), StoreError> {
        gone(fs::remove_dir_all(self.path(folder)), &self.path(folder))
    }
}

fn gone(removed: io::Result<()>, path: &Path) -> Result<(), StoreError> {
    match removed {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(wrong(path, &e)),
        _ => Ok(()),
    }
}

fn wrong(path: &Path, e: &io::Error) -> StoreError {
    match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::Full,
        ErrorKind::StaleNetworkFileHandle | ErrorKind::TimedOut => {
            StoreError::Silent(format!("{}: {e}.", path.display()))
        }
        _ => StoreError::Wrong(format!("{}: {e}.", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_keeps_the_promises_of_stores() {
        let home = tempfile::tempdir().unwrap();
        let store = Directory::open(&home.path().join("backups")).unwrap();
        super::super::tests::keeps_its_promises(&store);
    }

    #[test]
    fn nobody_else_reads_it_and_what_was_cut_off_does_not_count() {
        let home = tempfile::tempdir().unwrap();
        let store = Directory::open(&home.path().join("backups")).unwrap();
        store.put("a/b", b"b".to_vec()).unwrap();
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(store.path("a")), 0o700);
        assert_eq!(mode(store.path("a/b")), 0o600);
        fs::write(store.path("a/c.new"), b"half").unwrap();
        assert_eq!(store.objects("a").unwrap().len(), 1);
        store.delete_folder("a").unwrap();
        assert!(!store.path("a").exists());
    }

    #[test]
    fn a_share_that_is_not_mounted_is_no_empty_store() {
        let home = tempfile::tempdir().unwrap();
        assert!(matches!(Directory::open(&home.path().join("share/backups")), Err(StoreError::Wrong(_))));
    }
}
