//! What machines write and the repository keeps: the metadata of the checked queries, which lets Berth be
//! built without a database, the OpenAPI document, and the reference of the settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::place::{Place, text};
use crate::postgres::Postgres;
use crate::progress::{Progress, Step};
use crate::{install, shell};

/// What `berth` prints of itself, by command, and where it is kept.
const DOCUMENTS: [(&str, &str); 2] = [("openapi", "server/openapi.json"), ("config", "docs/settings.toml")];

/// Files of a folder, by name.
type Files = BTreeMap<String, Vec<u8>>;

/// `cargo xtask generate [--check]`.
pub fn command(place: &Place, check: bool) -> Result<()> {
    let mut progress = Progress::new(3, place.logs());
    progress.step("Install Debian packages", install::install)?;
    progress.step("Check the queries against a database", |step| queries(place, step, check))?;
    progress.step("Write the OpenAPI document and the settings", |step| {
        let mut build = shell::cargo();
        build.args(["build", "--package", "berth-server", "--bin", "berth"]);
        step.run(offline(&mut build).current_dir(&place.root))?;
        documents(place, check)
    })
}

/// A cargo that checks queries against the kept metadata, whatever database the environment names.
pub fn offline(cargo: &mut std::process::Command) -> &mut std::process::Command {
    cargo.env("SQLX_OFFLINE", "true").env_remove("DATABASE_URL")
}

/// Writes `server/.sqlx`, or with `check` only compares.
pub fn queries(place: &Place, step: &Step, check: bool) -> Result<String> {
    let server = place.root.join("server");
    let fresh = place.target.join("sqlx.new");
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh)?;
    }
    std::fs::create_dir_all(&fresh)?;
    let postgres = Postgres::start()?;
    let url = postgres.create("berth")?;
    for migration in sorted(&server.join("migrations"), "sql")? {
        let mut psql = shell::command("psql");
        psql.args(["-q", "-v", "ON_ERROR_STOP=1", "-1", "-d", &url, "-f", text(&migration)?]);
        step.run(&mut psql)?;
    }
    // Its macros ask the database only when the compiler reads the sources again.
    for root in ["src/lib.rs", "src/main.rs"] {
        step.run(shell::command("touch").arg("-c").arg(server.join(root)))?;
    }
    let mut cargo = shell::cargo();
    cargo.args(["check", "--package", "berth-server", "--all-targets"]).current_dir(&place.root);
    cargo.env("DATABASE_URL", &url).env("SQLX_OFFLINE", "false").env("SQLX_OFFLINE_DIR", &fresh);
    step.run(&mut cargo)?;
    let (kept, written) = (read(&server.join(".sqlx"))?, read(&fresh)?);
    std::fs::remove_dir_all(&fresh)?;
    if kept == written {
        return Ok("as they should be".to_owned());
    }
    if check {
        bail!("server/.sqlx is not what the queries say: run `cargo xtask generate` and commit it.");
    }
    write(&server.join(".sqlx"), &kept, &written)?;
    Ok(format!("{} queries", written.len()))
}

/// Writes what `berth` tells of itself, or with `check` only compares.
pub fn documents(place: &Place, check: bool) -> Result<String> {
    let mut stale = Vec::new();
    for (command, name) in DOCUMENTS {
        let said =
            shell::command(place.program("berth")).arg(command).output().context("Cannot run berth.")?;
        if !said.status.success() {
            bail!("berth {command} failed:\n{}", String::from_utf8_lossy(&said.stderr).trim_end());
        }
        let file = place.root.join(name);
        if std::fs::read(&file).is_ok_and(|kept| kept == said.stdout) {
            continue;
        }
        stale.push(name);
        if !check {
            std::fs::write(&file, said.stdout)
                .with_context(|| format!("Cannot write {}.", file.display()))?;
        }
    }
    match (stale.is_empty(), check) {
        (true, _) => Ok("as they should be".to_owned()),
        (false, true) => {
            bail!("{}: not up to date; run `cargo xtask generate` and commit it.", stale.join(", "))
        }
        (false, false) => Ok(stale.join(", ")),
    }
}

fn read(folder: &Path) -> Result<Files> {
    if !folder.exists() {
        return Ok(Files::new());
    }
    let read = |path: PathBuf| {
        let name = text(path.file_name().map(Path::new).context("a file has a name")?)?.to_owned();
        Ok((name, std::fs::read(&path)?))
    };
    sorted(folder, "json")?.into_iter().map(read).collect()
}

fn write(folder: &Path, kept: &Files, written: &Files) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for stale in kept.keys().filter(|name| !written.contains_key(*name)) {
        std::fs::remove_file(folder.join(stale))?;
    }
    for (name, content) in written {
        if kept.get(name) != Some(content) {
            std::fs::write(folder.join(name), content)?;
        }
    }
    Ok(())
}

fn sorted(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("Cannot read {}.", folder.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let mut paths: Vec<_> =
        paths.into_iter().filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_query_needs_any_more_is_removed() {
        let folder = std::env::temp_dir().join(format!("xtask-sqlx-{}", std::process::id()));
        let files =
            |names: &[&str]| names.iter().map(|n| (format!("{n}.json"), b"{}".to_vec())).collect::<Files>();
        write(&folder, &Files::new(), &files(&["a", "b"])).unwrap();
        write(&folder, &files(&["a", "b"]), &files(&["b", "c"])).unwrap();
        let left = read(&folder).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(left, files(&["b", "c"]));
    }
}
