//! A PostgreSQL for tests and for checking queries: fast, forgetful, and gone with this process.
//!
//! It is not the control plane's own private cluster: the control plane's queries are checked against this
//! one before the control plane can be built.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::{shell, stop};

const READY_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// Nothing of it needs to outlive a crash, and tests run side by side.
const SETTINGS: &[&str] = &[
    "listen_addresses=",
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "max_connections=400",
    "unix_socket_permissions=0777",
    "autovacuum_naptime=5s",
];

/// A running cluster.
#[derive(Debug)]
pub struct Postgres {
    server: Child,
    folder: PathBuf,
}

impl Postgres {
    /// Makes and starts one.
    pub fn start() -> Result<Self> {
        let binaries = newest_binaries(Path::new("/usr/lib/postgresql")).context(
            "There is no PostgreSQL server below /usr/lib/postgresql; install the package postgresql.",
        )?;
        // Short, because a unix socket's path is; and where another user may go.
        let folder = PathBuf::from(shell::output(
            shell::command("mktemp").args(["-d", "/tmp/berth-postgres-XXXXXX"]),
        )?);
        if shell::is_root() {
            shell::output(shell::command("chown").arg("postgres:").arg(&folder))?;
        }
        shell::output(shell::command("chmod").arg("755").arg(&folder))?;
        let initdb = binaries.join("initdb");
        shell::output(
            as_postgres(&initdb, &folder)
                .args(["-D", "data", "-U", "berth", "-A", "trust", "-E", "UTF8"])
                .args(["--locale=C.UTF-8", "--no-sync"]),
        )?;
        let log = std::fs::File::create(folder.join("log"))?;
        let mut command = as_postgres(&binaries.join("postgres"), &folder);
        command.args(["-D", "data", "-k"]).arg(&folder);
        command.args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        let server = command
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("PostgreSQL could not be started.")?;
        let mut postgres = Self { server, folder };
        postgres.wait(&binaries)?;
        Ok(postgres)
    }

    /// A superuser's address.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// Makes an empty database and gives back its address.
    pub fn create(&self, name: &str) -> Result<String> {
        shell::output(shell::command("psql").args([
            "-q",
            "-d",
            &self.url(),
            "-c",
            &format!("create database {name}"),
        ]))?;
        Ok(self.url_of(name))
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres:///{database}?user=berth&host={}", self.folder.display())
    }

    fn wait(&mut self, binaries: &Path) -> Result<()> {
        let began = Instant::now();
        let mut ready = shell::command(binaries.join("pg_isready"));
        ready.arg("-q").arg("-h").arg(&self.folder);
        while !shell::succeeds(&mut ready) {
            stop::check()?;
            if self.server.try_wait()?.is_some() || began.elapsed() > READY_MAX {
                let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                bail!("PostgreSQL did not start:\n{}", log.trim_end());
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGINT: it lets nobody finish, and ends cleanly.
        if let Some(pid) = i32::try_from(self.server.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _gone_already = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        drop(self.server.wait());
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// A program of PostgreSQL, which refuses to run as root, and ends with this one even when this one is killed.
fn as_postgres(program: &Path, folder: &Path) -> std::process::Command {
    let mut command = shell::command("setpriv");
    command.args(["--pdeathsig", "INT"]);
    if shell::is_root() {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups"]);
    }
    command.arg(program).current_dir(folder);
    command
}

fn newest_binaries(folder: &Path) -> Option<PathBuf> {
    let versions = std::fs::read_dir(folder).ok()?.flatten();
    let version = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let newest =
        versions.filter_map(version).filter(|v| binaries(folder, *v).join("postgres").is_file()).max()?;
    Some(binaries(folder, newest))
}

fn binaries(folder: &Path, version: u32) -> PathBuf {
    folder.join(version.to_string()).join("bin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_taken_by_number() {
        let own = std::env::temp_dir().join(format!("xtask-postgres-{}", std::process::id()));
        for version in ["9", "15", "17", "common"] {
            std::fs::create_dir_all(own.join(version).join("bin")).unwrap();
        }
        for version in ["9", "15"] {
            std::fs::write(own.join(version).join("bin/postgres"), "").unwrap();
        }
        let newest = newest_binaries(&own);
        std::fs::remove_dir_all(&own).unwrap();
        assert_eq!(newest, Some(own.join("15/bin")));
    }
}
