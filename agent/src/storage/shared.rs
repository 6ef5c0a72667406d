//! A storage that nodes share knows its own name, so that two nodes can tell that theirs is one.

use std::io::{self, ErrorKind, Write};
use std::path::Path;

use crate::entropy;

/// The file with the name.
const FILE: &str = "berth-storage";

/// The name of the storage in `folder`; whoever is first draws it.
pub fn name_of(folder: &Path) -> io::Result<String> {
    let path = folder.join(FILE);
    if let Some(name) = read(&path)? {
        return Ok(name);
    }
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(entropy::ticket().as_bytes())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(&path) {
        Err(e) if e.error.kind() != ErrorKind::AlreadyExists => return Err(e.error),
        _ => {}
    }
    read(&path)?.ok_or_else(|| io::Error::new(ErrorKind::NotFound, "the storage's name is gone again"))
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(name) => Ok(Some(name.trim().to_owned())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storage_has_one_name_for_all_who_come() {
        let _proof = crate::proof::pure(&["moving.prepare"]);
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let names = std::thread::scope(|scope| {
            let come = || scope.spawn(|| name_of(one.path()).unwrap());
            [come(), come(), come()].map(|thread| thread.join().unwrap())
        });
        assert!(names.iter().all(|name| *name == names[0] && name.len() > 16));
        assert_ne!(name_of(other.path()).unwrap(), names[0]);
    }
}
