//! Joins what the page shell does not carry itself into one style sheet: the icons, then every
//! `*.module.css` of the app with its class names scoped.
//!
//! ```text
//! style/tokens.css, style/base.css ──────────────▶ inline in index.html (Trunk)
//! style/icons.css, style/frame.css ─┐
//! app/src/**/*.module.css ──scope──▶ join ────────▶ target/style/app.css ──hash──▶ index.html
//! ```
//!
//! `import_style!` in the app derives the same names from the same paths, so that the two agree
//! without a file between them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("style/ stands in the workspace")?;
    let sheet = join(&root.join("app"), &[root.join("style/icons.css"), root.join("style/frame.css")])?;
    let target = root.join("target/style");
    fs::create_dir_all(&target).with_context(|| format!("cannot make {}", target.display()))?;
    let path = target.join("app.css");
    // Unchanged is left alone, or a watching Trunk would build without end.
    if fs::read_to_string(&path).is_ok_and(|old| old == sheet) {
        return Ok(());
    }
    fs::write(&path, sheet).with_context(|| format!("cannot write {}", path.display()))
}

/// The global sheets as they are, then the scoped ones in the order of their paths.
fn join(app: &Path, global: &[PathBuf]) -> Result<String> {
    let mut sheet = String::new();
    for path in global {
        sheet.push_str(&read(path)?);
    }
    let config = stylance_core::Config::load(app.to_path_buf())?;
    let mut modules = Vec::new();
    find_modules(&app.join("src"), &mut modules)?;
    modules.sort();
    let mut hashes = std::collections::BTreeMap::new();
    for path in &modules {
        let scoped = stylance_core::load_and_modify_css(path, &config)
            .with_context(|| format!("{} is not CSS that can be scoped", path.display()))?;
        if let Some(other) = hashes.insert(scoped.hash.clone(), path) {
            bail!(
                "{} and {} got the same scope {}; rename one",
                path.display(),
                other.display(),
                scoped.hash
            );
        }
        sheet.push_str(&scoped.contents);
    }
    Ok(sheet)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn find_modules(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            find_modules(&path, found)?;
        } else if path.to_string_lossy().ends_with(".module.css") {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_scoped_and_global_ones_are_not() {
        let app = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = app.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        };
        file("Cargo.toml", "[package]\nname = \"x\"\n");
        file("src/a.module.css", ".btn :global(.i) { margin: .5rem }\n");
        file("src/deep/b.module.css", ".btn { margin: 0 }\n");
        let icons = file("icons.css", ".i { color: red }\n");
        let sheet = join(app.path(), &[icons]).unwrap();
        assert!(sheet.starts_with(".i { color: red }\n"), "{sheet}");
        assert!(sheet.contains(" .i { margin: .5rem }"), "{sheet}");
        assert!(!sheet.contains(".btn "), "{sheet}");
        assert_eq!(sheet.matches(".btn-").count(), 2, "{sheet}");
    }
}
