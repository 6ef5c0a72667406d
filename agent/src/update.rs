//! The agent's own update, which goes back by itself.
//!
//! ```text
//! node.update ─► fetch ─► SHA-256 ─► --version, check-config ─► stop serving, the process stays
//!    the old process waits beside the new program, run as its child:
//!       healthy in time ─► end the child, put the program in place, become it  ─► done
//!       ended, or late  ─► end the child, become the old program again         ─► rolled back
//! ```
//!
//! The program that is installed changes only once the new one has worked, so whatever is cut off before
//! leaves the old one, and whatever looks after the process sees one process all along. VMs are no children of
//! the agent and do not notice.

use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use berth_model::agent::{UpdateRequest, UpdateState, UpdateStatus};
use berth_model::{ErrorCode, FieldError};
use futures_util::StreamExt;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::error::Refusal;
use crate::images::checksum;
use crate::runs::Cx;
use crate::{clock, spec};

/// Largest file.
const FILE_MAX_BYTES: u64 = 512 << 20;
/// How long a fetch may stand still.
const SILENCE: Duration = Duration::from_secs(30);
/// Seconds that a program may take to say its version.
const SAY_PATIENCE_S: &str = "20";
/// How long the new version may take if the request does not say.
const TRIAL_PATIENCE_S: u32 = 60;
/// Longest that it may take.
const TRIAL_PATIENCE_MAX_S: u32 = 600;
/// How long a program has to end when it is asked to.
const END_PATIENCE: Duration = Duration::from_secs(20);
/// How often the new version is asked whether it is healthy.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What Debian's packages begin with.
const PACKAGE_MAGIC: &[u8] = b"!<arch>\n";
/// Where the program stands in a package.
const IN_PACKAGE: &str = "usr/bin/berth-agent";

/// A new version that is to be tried.
#[derive(Debug, Clone)]
pub struct Trial {
    program: PathBuf,
    status: UpdateStatus,
    patience: Duration,
    was_healthy: bool,
}

/// Prepares updates.
pub struct Updates {
    folder: PathBuf,
    arguments: Vec<OsString>,
    trial: Arc<OnceLock<Trial>>,
    stop: CancellationToken,
}

impl Updates {
    /// Keeps its files under `data_dir`. Told to, it sets `trial` and stops the agent.
    pub fn new(data_dir: &Path, trial: Arc<OnceLock<Trial>>, stop: CancellationToken) -> Self {
        let arguments = std::env::args_os().skip(1).collect();
        Self { folder: data_dir.join("update"), arguments, trial, stop }
    }

    /// How the last one went.
    pub fn status(&self) -> Result<UpdateStatus, Refusal> {
        match std::fs::read(self.folder.join("status.json")) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| Refusal::own("The update's status", &e)),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Err(Refusal::new(ErrorCode::NotFound, "The agent was not updated here yet."))
            }
            Err(e) => Err(Refusal::own("The update's status", &e)),
        }
    }

    /// Fetches and checks a new version, and then stops the agent for the trial. `idle` refuses while anything else
    /// is under way.
    pub fn prepare(
        &self,
        cx: &Cx,
        request: &UpdateRequest,
        was_healthy: bool,
        idle: impl Fn() -> Result<(), Refusal>,
    ) -> Result<UpdateStatus, Refusal> {
        idle()?;
        if self.trial.get().is_some() {
            return Err(Refusal::conflict("An update is under way."));
        }
        let own = |e: std::io::Error| Refusal::own("The update could not be kept", &e);
        // What an update before this one left.
        match std::fs::remove_dir_all(self.folder.join("program")) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(own(e)),
            _ => {}
        }
        std::fs::create_dir_all(&self.folder).map_err(own)?;
        let file = tempfile::NamedTempFile::new_in(&self.folder).map_err(own)?;
        fetch(cx, &request.source, file.as_file())?;
        let found = checksum(file.path()).map_err(own)?;
        if found != request.sha256 {
            let message =
                format!("The file's SHA-256 is {found}; it was damaged on its way, or is another file.");
            return Err(Refusal::field("sha256", message));
        }
        let program = unpack(&self.folder.join("program"), file)?;
        cx.phase("Try whether it starts", 0);
        let to = self.ask(&program)?;
        cx.check()?;
        let status = UpdateStatus {
            state: UpdateState::Trying,
            sha256: found,
            from: env!("CARGO_PKG_VERSION").to_owned(),
            to,
            reason: None,
            at: clock::now(),
        };
        idle()?;
        write_status(&self.folder, &status).map_err(own)?;
        let patience = Duration::from_secs(request.patience.unwrap_or(TRIAL_PATIENCE_S).into());
        let trial = Trial { program, status: status.clone(), patience, was_healthy };
        if self.trial.set(trial).is_err() {
            return Err(Refusal::conflict("An update is under way."));
        }
        self.stop.cancel();
        Ok(status)
    }

    /// Asks a program for its version, and whether it takes this agent's configuration.
    fn ask(&self, program: &Path) -> Result<String, Refusal> {
        let version = say(program, ["--version".into()])?;
        let Some(version) = version.trim().strip_prefix("berth-agent ") else {
            return Err(Refusal::field("source", "The file is no berth-agent."));
        };
        say(program, check_arguments(&self.arguments))?;
        Ok(version.to_owned())
    }
}

/// This process's own arguments, with another command.
fn check_arguments(arguments: &[OsString]) -> Vec<OsString> {
    let changed = |argument: &OsString| match argument.to_str() {
        Some("serve") => "check-config".into(),
        _ => argument.clone(),
    };
    arguments.iter().map(changed).collect()
}

/// What is wrong with a request.
pub fn faults(request: &UpdateRequest) -> Vec<FieldError> {
    let is_url = ["https://", "http://"].iter().any(|scheme| request.source.starts_with(scheme));
    let rules = [
        (
            "source",
            is_url || request.source.starts_with('/'),
            "An https:// address, or a path from the root.",
        ),
        ("sha256", spec::is_sha256(&request.sha256), spec::SHA256_RULE),
        (
            "patience",
            request.patience.is_none_or(|s| (1..=TRIAL_PATIENCE_MAX_S).contains(&s)),
            "A new version gets 1 to 600 seconds.",
        ),
    ];
    let wrong = rules.into_iter().filter(|(_, fine, _)| !fine);
    wrong
        .map(|(name, _, rule)| FieldError { name: name.to_owned(), messages: vec![rule.to_owned()] })
        .collect()
}

fn fetch(cx: &Cx, source: &str, mut to: &std::fs::File) -> Result<(), Refusal> {
    let failed =
        |e: &dyn std::fmt::Display| Refusal::field("source", format!("{source} cannot be read: {e}."));
    if let Some(path) = source.starts_with('/').then(|| Path::new(source)) {
        let file = std::fs::File::open(path).map_err(|e| failed(&e))?;
        let bytes = file.metadata().map_err(|e| failed(&e))?.len();
        if bytes > FILE_MAX_BYTES {
            return Err(failed(&"it is far too large"));
        }
        std::io::copy(&mut file.take(FILE_MAX_BYTES), &mut to).map_err(|e| failed(&e))?;
        return Ok(());
    }
    let download = async {
        // Whoever else links this crate may have chosen a provider; any will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().read_timeout(SILENCE).connect_timeout(SILENCE).build();
        let response = client.map_err(|e| failed(&e))?.get(source).send().await.map_err(|e| failed(&e))?;
        let response = response.error_for_status().map_err(|e| failed(&e.without_url()))?;
        cx.phase("Fetch", response.content_length().unwrap_or(0));
        let mut bytes = 0;
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|e| failed(&e.without_url()))?;
            bytes += chunk.len() as u64;
            if bytes > FILE_MAX_BYTES {
                return Err(failed(&"it is far too large"));
            }
            to.write_all(&chunk).map_err(|e| failed(&e))?;
            cx.done(bytes);
            cx.check()?;
        }
        Ok(())
    };
    tokio::runtime::Handle::current().block_on(download)
}

/// Brings the program into a folder of its own: out of a package, or as it is.
fn unpack(folder: &Path, file: tempfile::NamedTempFile) -> Result<PathBuf, Refusal> {
    let own = |e: std::io::Error| Refusal::own("The update could not be kept", &e);
    let mut magic = [0; PACKAGE_MAGIC.len()];
    let is_package = std::fs::File::open(file.path()).map_err(own)?.read_exact(&mut magic).is_ok()
        && magic == PACKAGE_MAGIC;
    std::fs::create_dir_all(folder).map_err(own)?;
    let program = if is_package {
        let arguments = ["-x".into(), file.path().into(), folder.into()];
        say(Path::new("dpkg-deb"), arguments)?;
        folder.join(IN_PACKAGE)
    } else {
        let program = folder.join("berth-agent");
        file.persist(&program).map_err(|e| own(e.error))?;
        program
    };
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).map_err(|e| {
        match e.kind() {
            ErrorKind::NotFound => Refusal::field("source", format!("The package holds no {IN_PACKAGE}.")),
            _ => own(e),
        }
    })?;
    Ok(program)
}

/// What a program prints, which must end well.
fn say(program: &Path, arguments: impl IntoIterator<Item = OsString>) -> Result<String, Refusal> {
    let mut command = std::process::Command::new("timeout");
    command.arg(SAY_PATIENCE_S).arg(program).args(arguments).stdin(Stdio::null()).env("LC_ALL", "C");
    let mut tries = 5;
    let output = loop {
        tries -= 1;
        let output = command.output().map_err(|e| Refusal::own("The new version could not be tried", &e))?;
        // A program that another thread started just now may hold the file open until it begins.
        let is_busy = String::from_utf8_lossy(&output.stderr).contains("Text file busy");
        if !is_busy || tries == 0 {
            break output;
        }
        std::thread::sleep(LOOK_EVERY);
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint: String = complaint.trim().chars().take(500).collect();
    Err(Refusal::field("source", format!("The file does not start ({}): {complaint}", output.status)))
}

fn write_status(folder: &Path, status: &UpdateStatus) -> std::io::Result<()> {
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    new.write_all(&serde_json::to_vec(status)?)?;
    new.as_file().sync_all()?;
    new.persist(folder.join("status.json"))?;
    Ok(())
}

/// Where this process's program stands, and what it was started with; to be taken when it starts.
#[derive(Debug, Clone)]
pub struct Own {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Own {
    /// This process's.
    pub fn find() -> std::io::Result<Self> {
        Ok(Self { program: std::env::current_exe()?, arguments: std::env::args_os().skip(1).collect() })
    }

    /// Becomes the program that is installed. Comes back only with an error.
    pub fn become_installed(&self) -> std::io::Error {
        std::process::Command::new(&self.program).args(&self.arguments).exec()
    }

    /// Puts a program in the place of this one, whole or not at all; this one stays beside it as `.old`.
    fn install(&self, program: &Path) -> std::io::Result<()> {
        let beside = |extension| self.program.with_extension(extension);
        let (new, old) = (beside("new"), beside("old"));
        std::fs::copy(program, &new)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755))?;
        std::fs::File::open(&new)?.sync_all()?;
        match std::fs::remove_file(&old) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        std::fs::hard_link(&self.program, &old)?;
        std::fs::rename(&new, &self.program)?;
        let folder = self.program.parent().unwrap_or(Path::new("/"));
        std::fs::File::open(folder)?.sync_all()
    }
}

/// Runs the new version as a child until it is healthy or its time is over, and settles it: the program that
/// is installed afterwards is the one to become. `asked` ends when this process is to end; then nothing is
/// settled, and `false` is told.
pub async fn try_out<H: Future<Output = Result<bool, String>>>(
    own: &Own,
    trial: Trial,
    data_dir: &Path,
    healthy: impl Fn() -> H,
    asked: impl Future<Output = ()>,
) -> bool {
    let Trial { program, status, patience, was_healthy } = trial;
    tracing::info!(from = status.from, to = status.to, "a new version is tried");
    let tried = tokio::select! {
        tried = run(own, &program, patience, was_healthy, healthy) => tried,
        () = asked => return false,
    };
    let settled = tried.and_then(|()| {
        own.install(&program).map_err(|e| format!("It works, but could not be installed: {e}."))
    });
    let (state, reason) = match settled {
        Ok(()) => (UpdateState::Done, None),
        Err(reason) => (UpdateState::RolledBack, Some(reason)),
    };
    match &reason {
        None => tracing::info!(version = status.to, "the new version stays"),
        Some(reason) => tracing::error!(version = status.from, reason, "back to the old version"),
    }
    let status = UpdateStatus { state, reason, at: clock::now(), ..status };
    let folder = data_dir.join("update");
    if let Err(e) = write_status(&folder, &status) {
        tracing::warn!(error = %e, "how the update went could not be written down");
    }
    drop(std::fs::remove_dir_all(folder.join("program")));
    true
}

async fn run<H: Future<Output = Result<bool, String>>>(
    own: &Own,
    program: &Path,
    patience: Duration,
    was_healthy: bool,
    healthy: impl Fn() -> H,
) -> Result<(), String> {
    let mut command = tokio::process::Command::new(program);
    command.args(&own.arguments).stdin(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|e| format!("It could not be started: {e}."))?;
    let until = Instant::now() + patience;
    let mut last = "It did not answer.".to_owned();
    let tried = loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("It ended by itself ({status})."));
        }
        match timeout(until.saturating_duration_since(Instant::now()), healthy()).await {
            Ok(Ok(is_healthy)) if is_healthy || !was_healthy => break Ok(()),
            Ok(Ok(_)) => "It answered, but was not healthy.".clone_into(&mut last),
            Ok(Err(_)) => {}
            Err(_) => break Err(last),
        }
        if Instant::now() >= until {
            break Err(last);
        }
        sleep(LOOK_EVERY).await;
    };
    end(&mut child).await;
    tried.map_err(|last: String| format!("It was not healthy within {} s: {last}", patience.as_secs()))
}

/// Ends a child: asked first, so that it leaves its socket behind cleanly.
async fn end(child: &mut tokio::process::Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _gone_already = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if timeout(END_PATIENCE, child.wait()).await.is_err() {
        let _gone_already = child.kill().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_by_field() {
        let _proof = crate::proof::pure(&["node.update"]);
        let of = |source: &str, sha256: &str, patience| {
            let request = UpdateRequest { source: source.to_owned(), sha256: sha256.to_owned(), patience };
            faults(&request).into_iter().map(|fault| fault.name).collect::<Vec<_>>()
        };
        let sha256 = "a".repeat(64);
        assert!(of("/tmp/berth-agent", &sha256, None).is_empty());
        assert!(of("https://berth.example/agent.deb", &sha256, Some(600)).is_empty());
        assert_eq!(of("berth-agent", "A", Some(0)), ["source", "sha256", "patience"]);
        assert_eq!(of("ftp://x", &sha256, Some(601)), ["source", "patience"]);
    }

    #[test]
    fn a_program_is_replaced_whole_and_the_old_one_stays_beside_it() {
        let _proof = crate::proof::pure(&["node.update"]);
        let folder = tempfile::tempdir().unwrap();
        let own = Own { program: folder.path().join("berth-agent"), arguments: Vec::new() };
        std::fs::write(&own.program, "one").unwrap();
        for (n, next) in ["two", "three"].into_iter().enumerate() {
            let before = std::fs::read_to_string(&own.program).unwrap();
            let new = folder.path().join(format!("new-{n}"));
            std::fs::write(&new, next).unwrap();
            own.install(&new).unwrap();
            assert_eq!(std::fs::read_to_string(&own.program).unwrap(), next);
            assert_eq!(std::fs::read_to_string(folder.path().join("berth-agent.old")).unwrap(), before);
        }
        let arguments = ["--config", "/x", "serve"].map(OsString::from);
        assert_eq!(check_arguments(&arguments), ["--config", "/x", "check-config"].map(OsString::from));
    }

    #[test]
    fn how_an_update_went_is_found_again() {
        let _proof = crate::proof::pure(&["node.update_status"]);
        let data = tempfile::tempdir().unwrap();
        let updates = Updates::new(data.path(), Arc::default(), CancellationToken::new());
        assert_eq!(updates.status().unwrap_err().0.code, ErrorCode::NotFound);
        let status = UpdateStatus {
            state: UpdateState::RolledBack,
            sha256: "a".repeat(64),
            from: "1".to_owned(),
            to: "2".to_owned(),
            reason: Some("No.".to_owned()),
            at: clock::now(),
        };
        std::fs::create_dir(data.path().join("update")).unwrap();
        write_status(&data.path().join("update"), &status).unwrap();
        let again = Updates::new(data.path(), Arc::default(), CancellationToken::new()).status().unwrap();
        assert_eq!(again.reason, status.reason);
    }
}
