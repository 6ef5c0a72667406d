//! Guest images, built by the recipes in `xtask/guests`, once for all checkouts.
//!
//! An image is known by its recipe: beside `tiny.qcow2` lies `tiny.json` with the checksum of the
//! recipe's files, and a changed recipe builds it anew.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::place::{Place, text};
use crate::progress::Step;
use crate::shell;

/// What the catalogue says of an image.
#[derive(Debug, Clone, Copy)]
pub struct Guest {
    /// By which customers ask for it.
    pub name: &'static str,
    /// For people.
    pub description: &'static str,
    /// `debian`.
    pub os_flavor: &'static str,
    /// `12`.
    pub os_version: &'static str,
    /// What its recipe makes, the disk first.
    files: &'static [&'static str],
    /// Another guest, of which its recipe takes parts.
    takes_from: Option<&'static str>,
}

/// All that are offered, the smallest first.
pub const GUESTS: &[Guest] = &[
    Guest {
        name: "tiny",
        description: "Tiny Linux",
        os_flavor: "tiny",
        os_version: "1",
        files: &["tiny.qcow2", "tiny.vmlinuz", "tiny.initrd"],
        takes_from: None,
    },
    Guest {
        name: "debian-12",
        description: "Debian 12",
        os_flavor: "debian",
        os_version: "12",
        files: &["debian-12.qcow2"],
        takes_from: None,
    },
];

/// What a server is rescued with; no customer asks for it by name.
pub const RESCUE: Guest = Guest {
    name: "rescue",
    description: "Rescue",
    os_flavor: "rescue",
    os_version: "1",
    files: &["rescue.qcow2", "rescue.vmlinuz", "rescue.initrd"],
    takes_from: Some("tiny"),
};

/// What stands beside an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// By which customers ask for it.
    pub name: String,
    /// For people.
    pub description: String,
    /// `debian`.
    pub os_flavor: String,
    /// `12`.
    pub os_version: String,
    /// SHA-256 of the file, 64 hex digits.
    pub sha256: String,
    /// Size of the file in bytes.
    pub file_size_bytes: u64,
    /// Size of the disk in it, in bytes.
    pub disk_size_bytes: u64,
    /// SHA-256 of what built it.
    pub recipe: String,
}

/// Builds the images that are missing or whose recipe changed.
pub fn build(place: &Place, step: &Step) -> Result<String> {
    let mut built = Vec::new();
    for guest in GUESTS.iter().chain([&RESCUE]) {
        let recipe = recipe(&place.root.join("xtask/guests"), guest.name, guest.takes_from)?;
        if !is_built(place, guest, &recipe) {
            step.say(&format!("building {}", guest.name));
            build_one(place, step, guest, &recipe)?;
            built.push(guest.name);
        }
    }
    Ok(if built.is_empty() { "they are there".to_owned() } else { built.join(", ") })
}

/// The disk of an image.
pub fn disk(place: &Place, name: &str) -> PathBuf {
    place.images().join(format!("{name}.qcow2"))
}

/// What stands beside an image.
pub fn about(place: &Place, name: &str) -> Result<About> {
    let file = place.images().join(format!("{name}.json"));
    let text = std::fs::read(&file).with_context(|| format!("Cannot read {}.", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is damaged; delete it.", file.display()))
}

fn is_built(place: &Place, guest: &Guest, recipe: &str) -> bool {
    about(place, guest.name).is_ok_and(|about| about.recipe == recipe)
        && guest.files.iter().all(|file| place.images().join(file).is_file())
}

fn build_one(place: &Place, step: &Step, guest: &Guest, recipe: &str) -> Result<()> {
    let images = place.images();
    let work = images.join(format!(".{}-{}", guest.name, std::process::id()));
    std::fs::create_dir_all(&work).with_context(|| format!("Cannot make {}.", work.display()))?;
    let made = make(place, step, guest, recipe, &work);
    if made.is_ok() {
        // The description last: without it, what is there counts as nothing.
        let about = format!("{}.json", guest.name);
        for file in guest.files.iter().copied().chain([about.as_str()]) {
            std::fs::rename(work.join(file), images.join(file))?;
        }
    }
    shell::output(shell::root_command("rm").arg("-rf").arg(&work))?;
    made.with_context(|| format!("The guest image {} could not be built.", guest.name))
}

fn make(place: &Place, step: &Step, guest: &Guest, recipe: &str, work: &Path) -> Result<()> {
    let script = place.root.join("xtask/guests").join(guest.name).join("build.sh");
    step.run(shell::root_command("sh").arg(script).arg(work))?;
    if !shell::is_root() {
        let owner = rustix::process::getuid().as_raw().to_string();
        step.run(shell::root_command("chown").args(["-R", &owner]).arg(work))?;
    }
    let disk = work.join(guest.files[0]);
    let mut info = shell::command("qemu-img");
    let info = shell::output(info.args(["info", "--output=json", text(&disk)?]))?;
    let info: serde_json::Value = serde_json::from_str(&info)?;
    let about = About {
        name: guest.name.to_owned(),
        description: guest.description.to_owned(),
        os_flavor: guest.os_flavor.to_owned(),
        os_version: guest.os_version.to_owned(),
        sha256: sha256(&disk)?,
        file_size_bytes: std::fs::metadata(&disk)?.len(),
        disk_size_bytes: info["virtual-size"]
            .as_u64()
            .context("qemu-img did not say how large the disk is")?,
        recipe: recipe.to_owned(),
    };
    Ok(std::fs::write(work.join(format!("{}.json", guest.name)), serde_json::to_vec_pretty(&about)?)?)
}

/// SHA-256 of a recipe: its own files and what the recipes share, with their names.
fn recipe(guests: &Path, name: &str, takes_from: Option<&str>) -> Result<String> {
    let mut files = vec![guests.join("common.sh")];
    for name in [Some(name), takes_from].into_iter().flatten() {
        collect(&guests.join(name), &mut files)?;
    }
    files.sort();
    hash_files(guests, &files)
}

/// SHA-256 over files, with their names below `base`.
pub fn hash_files(base: &Path, files: &[PathBuf]) -> Result<String> {
    let mut hash = Sha256::new();
    for file in files {
        let content = std::fs::read(file).with_context(|| format!("Cannot read {}.", file.display()))?;
        let name = text(file.strip_prefix(base)?)?;
        hash.update(format!("{name}\0{}\0", content.len()));
        hash.update(&content);
    }
    Ok(hex::encode(hash.finalize()))
}

/// All files below a folder.
pub fn collect(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("Cannot read {}.", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), into)?;
        } else {
            into.push(entry.path());
        }
    }
    Ok(())
}

fn sha256(file: &Path) -> Result<String> {
    let mut file = File::open(file)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guests() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("guests")
    }

    #[test]
    fn every_guest_has_a_recipe() {
        for guest in GUESTS.iter().chain([&RESCUE]) {
            assert!(guests().join(guest.name).join("build.sh").is_file(), "{}", guest.name);
            assert_eq!(guest.files[0], format!("{}.qcow2", guest.name));
        }
    }

    #[test]
    fn a_changed_recipe_is_another_image() {
        let own = std::env::temp_dir().join(format!("xtask-recipe-{}", std::process::id()));
        std::fs::create_dir_all(own.join("x")).unwrap();
        std::fs::write(own.join("common.sh"), "a").unwrap();
        std::fs::write(own.join("x/build.sh"), "b").unwrap();
        let before = recipe(&own, "x", None).unwrap();
        assert_eq!(before, recipe(&own, "x", None).unwrap());
        std::fs::write(own.join("common.sh"), "c").unwrap();
        let after = recipe(&own, "x", None).unwrap();
        std::fs::remove_dir_all(own).unwrap();
        assert_ne!(before, after);
    }
}
