//! The web app, built by Trunk as it is shipped.

use std::path::Path;

use anyhow::Result;

use crate::place::Place;
use crate::progress::Step;
use crate::{images, shell, tools};

/// What the app is made of; a change in it builds the app anew.
const SOURCES: &[&str] = &[
    "app",
    "model",
    "style",
    "public",
    "Cargo.toml",
    "Cargo.lock",
    "Trunk.toml",
    "index.html",
    "rust-toolchain.toml",
];

/// Builds the app unless it is built from what is there.
pub fn build(place: &Place, step: &Step) -> Result<String> {
    // Beside what it speaks of: checkouts that share a target folder have each their own.
    let key_file = place.app().with_extension("key");
    let key = key(&place.root)?;
    if place.app().join("index.html").is_file()
        && std::fs::read_to_string(&key_file).is_ok_and(|old| old == key)
    {
        return Ok("unchanged".to_owned());
    }
    let mut trunk = shell::command("trunk");
    trunk.args(["build", "--release", "--cargo-profile", "wasm-release"]).current_dir(&place.root);
    trunk.env("PATH", tools::path(place)?).env("TRUNK_SKIP_VERSION_CHECK", "true").env("NO_COLOR", "true");
    step.run(trunk.arg("--dist").arg(place.app()))?;
    std::fs::write(key_file, key)?;
    Ok(String::new())
}

fn key(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    for source in SOURCES.iter().map(|source| root.join(source)) {
        if source.is_dir() {
            images::collect(&source, &mut files)?;
        } else if source.is_file() {
            files.push(source);
        }
    }
    files.sort();
    images::hash_files(root, &files)
}
