//! The files of a private cluster: its lock, its binaries, how it is made and how it is left behind.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use sha2::{Digest as _, Sha256};

/// Where Debian and its children keep each version's binaries.
const VERSIONS: &str = "/usr/lib/postgresql";
/// The user a cluster of root runs as.
const USER: &str = "postgres";
/// Bytes of a socket's path that the kernel takes, with the zero at its end.
const SOCKET_PATH_MAX: usize = 108;
/// The socket's name in its folder, for the port PostgreSQL is used to.
const SOCKET_NAME: &str = ".s.PGSQL.5432";
/// Longest wait for a postmaster that was left behind.
const LEFTOVER_MAX: Duration = Duration::from_secs(10);
/// Longest wait for somebody else's lock.
const LOCK_WAIT: Duration = Duration::from_secs(3);
/// Largest log that is kept on.
const LOG_MAX_BYTES: u64 = 10 * 1024 * 1024;

/// A cluster that is ours, because we hold its lock.
pub(super) struct Cluster {
    folder: PathBuf,
    socket_dir: PathBuf,
    bin: PathBuf,
    owner: Option<Ids>,
    is_throwaway: bool,
    /// Given back when dropped, and by the kernel when we are killed.
    _lock: File,
}

/// A user and their group.
#[derive(Debug, Clone, Copy)]
struct Ids {
    user: u32,
    group: u32,
}

fn folder(data_dir: &Path) -> PathBuf {
    // A relative path would be another one for the postmaster, which changes its folder.
    std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned()).join("postgres")
}

/// The folder of the socket: `run` beside the data, or, when that path is too long for a socket, a
/// folder that is named after it where paths are short.
pub(super) fn socket_dir(data_dir: &Path) -> PathBuf {
    let folder = folder(data_dir);
    let beside = folder.join("run");
    if beside.as_os_str().len() + 1 + SOCKET_NAME.len() < SOCKET_PATH_MAX {
        return beside;
    }
    let name = format!("berth-{}", &hex::encode(Sha256::digest(folder.as_os_str().as_encoded_bytes()))[..12]);
    let base = if rustix::process::geteuid().is_root() { "/run" } else { "/tmp" };
    Path::new(base).join(name)
}

/// Does a process hold the cluster's lock?
pub(super) fn is_taken(data_dir: &Path) -> anyhow::Result<bool> {
    let path = folder(data_dir).join("lock");
    if !path.exists() {
        return Ok(false);
    }
    let file = File::open(&path).with_context(|| format!("the lock {}", path.display()))?;
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("the lock {}", path.display())),
    }
}

impl Cluster {
    /// Takes the lock of the cluster in `data_dir` and finds what runs it.
    pub(super) fn take(data_dir: &Path, bin_dir: Option<&Path>, is_throwaway: bool) -> anyhow::Result<Self> {
        let owner = if rustix::process::geteuid().is_root() { Some(ids_of(USER)?) } else { None };
        let (folder, socket_dir) = (folder(data_dir), socket_dir(data_dir));
        // Others must pass through the data folder to reach the cluster, but need not read it.
        make_dir(data_dir, 0o711, None)?;
        make_dir(&folder, 0o711, None)?;
        if let Some(owner) = owner {
            ensure_passable(&folder, owner)?;
        }
        let lock = take_lock(&folder)?;
        let marker = folder.join("throwaway");
        if is_throwaway {
            ensure!(
                !folder.join("data").exists() || marker.exists(),
                "{} holds a cluster that is to be kept. Name another folder for a throwaway one.",
                folder.display()
            );
            fs::write(&marker, "Removed when its berth ends.\n")?;
        } else if marker.exists() {
            bail!("{} holds a throwaway cluster. Remove that folder first.", folder.display());
        }
        make_dir(&socket_dir, 0o700, owner)?;
        let bin = match bin_dir {
            Some(bin) => bin.to_owned(),
            None => find_binaries(&folder.join("data"))?,
        };
        let cluster = Self { folder, socket_dir, bin, owner, is_throwaway, _lock: lock };
        cluster.turn_log()?;
        Ok(cluster)
    }

    pub(super) fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// A postmaster that outlived its berth is stopped: fast, then without delay.
    pub(super) fn stop_leftover(&self) -> anyhow::Result<()> {
        let Some(pid) = self.leftover() else { return Ok(()) };
        tracing::warn!(pid = pid.as_raw_nonzero(), "a PostgreSQL was left behind; it is stopped first");
        for signal in [Signal::INT, Signal::QUIT, Signal::KILL] {
            // Gone in between is what is wanted.
            let _ = kill_process(pid, signal);
            let began = Instant::now();
            while began.elapsed() < LEFTOVER_MAX {
                if self.leftover() != Some(pid) {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        bail!(
            "A PostgreSQL (process {}) uses {} and does not stop.",
            pid.as_raw_nonzero(),
            self.data().display()
        )
    }

    /// The postmaster of this cluster, if one lives. Its number alone proves nothing: after a
    /// restart of the machine it may be anybody's.
    fn leftover(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        let pid = Pid::from_raw(text.lines().next()?.trim().parse().ok()?)?;
        test_kill_process(pid).ok()?;
        let process = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        let works_here = fs::read_link(process.join("cwd")).ok()? == self.data().canonicalize().ok()?;
        // A dead one that nobody waited for has no working folder any more.
        works_here.then_some(pid)
    }

    /// Makes the cluster beside its place and moves it there when it is whole.
    pub(super) fn make_if_missing(&self) -> anyhow::Result<()> {
        if self.is_throwaway && self.data().exists() {
            fs::remove_dir_all(self.data())?;
        }
        if self.data().join("PG_VERSION").exists() {
            return Ok(());
        }
        let new = self.folder.join("data.new");
        if new.exists() {
            fs::remove_dir_all(&new)?;
        }
        make_dir(&new, 0o700, self.owner)?;
        let mut initdb = self.as_owner("initdb");
        initdb.arg("-D").arg(&new).args(["-U", super::NAME, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"]);
        if self.is_throwaway {
            initdb.arg("--no-sync");
        }
        let output = initdb.output().context("initdb (with setpriv, of util-linux) cannot be run")?;
        if !output.status.success() {
            bail!(
                "The private PostgreSQL cannot be made:\n{}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        fs::rename(&new, self.data())?;
        File::open(&self.folder)?.sync_all()?;
        Ok(())
    }

    /// The postmaster's command.
    pub(super) fn command(&self) -> Command {
        let mut command = self.as_owner("postgres");
        command.arg("-D").arg(self.data()).arg("-k").arg(&self.socket_dir);
        command.args([
            "-c",
            "listen_addresses=",
            "-c",
            "unix_socket_permissions=0700",
            "-c",
            "max_connections=200",
        ]);
        if self.is_throwaway {
            command.args(["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"]);
        }
        // What cannot be logged is lost, not a reason to stay down.
        let log = || fs::OpenOptions::new().create(true).append(true).mode(0o600).open(self.log());
        command.stdout(Stdio::null()).stderr(log().map_or_else(|_| Stdio::null(), Stdio::from));
        command
    }

    /// `program`, as the cluster's owner, interrupted by the kernel when we die.
    fn as_owner(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "INT"]);
        if let Some(Ids { user, group }) = self.owner {
            command.args([format!("--reuid={user}"), format!("--regid={group}"), "--init-groups".into()]);
        }
        command.arg("--").arg(self.bin.join(program));
        // A terminal's Ctrl-C is for us: we stop it in our own order. And its folder must be one
        // that its user may enter.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.current_dir("/").stdin(Stdio::null()).env_remove("PGDATA").env("LC_ALL", "C.UTF-8");
        command
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn turn_log(&self) -> anyhow::Result<()> {
        if fs::metadata(self.log()).is_ok_and(|log| log.len() > LOG_MAX_BYTES) {
            fs::rename(self.log(), self.folder.join("log.old"))?;
        }
        Ok(())
    }

    /// The end of the log, for an error.
    pub(super) fn last_words(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// Leaves nothing of a cluster that no longer runs outside its own folder.
    pub(super) fn leave(self) -> anyhow::Result<()> {
        if !self.socket_dir.starts_with(&self.folder) {
            fs::remove_dir_all(&self.socket_dir)?;
        }
        Ok(())
    }

    /// Removes everything of a cluster that no longer runs.
    pub(super) fn remove(self) -> anyhow::Result<()> {
        let folder = self.folder.clone();
        self.leave()?;
        Ok(fs::remove_dir_all(folder)?)
    }
}

fn take_lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join("lock");
    let options = fs::OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(&path);
    let file = options.with_context(|| format!("the lock {}", path.display()))?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // A command that started the cluster for itself lets go of it soon.
            Err(TryLockError::WouldBlock) if began.elapsed() < LOCK_WAIT => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(TryLockError::WouldBlock) => bail!(
                "Another berth runs the private PostgreSQL in {}. Stop it, or give this one another data_dir, or \
                 give both the same database_url.",
                folder.display()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("the lock {}", path.display()));
            }
        }
    }
}

/// Makes a folder that is `owner`'s; one that is there must not be somebody else's.
fn make_dir(path: &Path, mode: u32, owner: Option<Ids>) -> anyhow::Result<()> {
    if !path.exists() {
        let made = fs::DirBuilder::new().recursive(true).mode(mode).create(path);
        made.with_context(|| format!("the folder {} cannot be made", path.display()))?;
        if let Some(Ids { user, group }) = owner {
            chown(path, Some(user), Some(group))?;
        }
    }
    let found = fs::symlink_metadata(path)?;
    let expected = owner.map_or(rustix::process::geteuid().as_raw(), |ids| ids.user);
    if mode == 0o700 {
        ensure!(
            found.is_dir() && found.uid() == expected,
            "{} is not a folder of the user who runs PostgreSQL. Remove it.",
            path.display()
        );
    }
    Ok(())
}

/// Can `owner` reach this folder? Said here, because PostgreSQL's own message names no remedy.
fn ensure_passable(folder: &Path, owner: Ids) -> anyhow::Result<()> {
    for ancestor in folder.ancestors() {
        let found = fs::metadata(ancestor)?;
        let bit = match (found.uid() == owner.user, found.gid() == owner.group) {
            (true, _) => 0o100,
            (false, true) => 0o010,
            (false, false) => 0o001,
        };
        ensure!(
            found.mode() & bit != 0,
            "PostgreSQL runs as the user {USER}, who may not enter {path}. Run: chmod o+x {path}",
            path = ancestor.display()
        );
    }
    Ok(())
}

fn ids_of(user: &str) -> anyhow::Result<Ids> {
    let passwd = fs::read_to_string("/etc/passwd").context("the list of users")?;
    let line = passwd.lines().find_map(|line| line.strip_prefix(user)?.strip_prefix(':'));
    let ids = line.and_then(|line| {
        let mut fields = line.split(':').skip(1);
        Some(Ids { user: fields.next()?.parse().ok()?, group: fields.next()?.parse().ok()? })
    });
    ids.with_context(|| {
        format!(
            "PostgreSQL does not run as root, and there is no user {user}. Install the package postgresql."
        )
    })
}

/// The binaries of the cluster's own version; for a new one the newest.
fn find_binaries(data: &Path) -> anyhow::Result<PathBuf> {
    let bin = |version: &str| Path::new(VERSIONS).join(version).join("bin");
    let is_there = |bin: &Path| bin.join("postgres").exists() && bin.join("initdb").exists();
    if let Ok(version) = fs::read_to_string(data.join("PG_VERSION")) {
        let version = version.trim();
        let fits = [bin(version)].into_iter().find(|bin| is_there(bin));
        return fits.with_context(|| {
            format!("{} was made by PostgreSQL {version}, which is not installed. Install the package postgresql-{version}, \
                     or set “postgres_bin_dir”.", data.display())
        });
    }
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(VERSIONS)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let version = entry.ok()?.file_name().into_string().ok()?;
            Some((version.parse().ok()?, bin(&version)))
        })
        .filter(|(_, bin)| is_there(bin))
        .collect();
    found.sort();
    let on_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).find(|bin| is_there(bin))
    };
    found.pop().map(|(_, bin)| bin).or_else(on_path).context(
        "No PostgreSQL is installed. Install the package postgresql, or set “database_url” to one that runs.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_has_a_short_path_however_deep_the_data_lies() {
        let near = Path::new("/var/lib/berth");
        assert_eq!(socket_dir(near), Path::new("/var/lib/berth/postgres/run"));
        let deep = Path::new("/").join("deep/".repeat(30));
        let short = socket_dir(&deep);
        assert!(short.as_os_str().len() + 1 + SOCKET_NAME.len() < SOCKET_PATH_MAX, "{}", short.display());
        assert_eq!(short, socket_dir(&deep), "everybody finds the same one");
        assert_ne!(short, socket_dir(&deep.join("other")));
    }
}
