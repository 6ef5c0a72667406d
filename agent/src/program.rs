//! Running a program that takes its time or reads what strangers wrote: it can be cancelled, tells how far
//! it is, ends with the agent's patience, and gets no more of the node than it needs.

use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::hypervisor::HypervisorError;
use crate::runs::Cx;

/// How often a program is looked at.
const STEP: Duration = Duration::from_millis(20);
/// How much of a program's complaint is passed on, in characters.
const COMPLAINT_MAX: usize = 500;
/// Most output that is read.
const OUTPUT_MAX_BYTES: u64 = 16 * 1024 * 1024;
/// A user that owns nothing (Debian's `nobody`).
pub const NOBODY: u32 = 65534;

/// What a program may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confinement {
    /// Processor time, in seconds.
    pub cpu_s: u64,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Largest file it may write, in bytes.
    pub file_bytes: u64,
}

/// A program to be run.
#[derive(Debug)]
pub struct Program {
    program: OsString,
    package: &'static str,
    args: Vec<OsString>,
    patience: Duration,
    confinement: Option<(Confinement, bool)>,
}

impl Program {
    /// A program of a Debian package, with a day to end in.
    pub fn new(program: impl Into<OsString>, package: &'static str) -> Self {
        let patience = Duration::from_secs(24 * 3600);
        Self { program: program.into(), package, args: Vec::new(), patience, confinement: None }
    }

    /// `qemu-img`.
    pub fn qemu_img<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Self {
        Self::new("qemu-img", "qemu-utils").args(args)
    }

    /// More arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// How long it may take.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Keeps it small. It runs as a user that owns nothing where that user can read `file`.
    pub fn confined(mut self, confinement: Confinement, file: &Path) -> Self {
        self.confinement = Some((confinement, nobody_can_read(file)));
        self
    }

    /// Runs it to its end.
    pub fn run(self) -> Result<String, HypervisorError> {
        self.run_in(&Cx::unwatched())
    }

    /// The same; it is killed when the function is cancelled. `qemu-img -p` tells how far it is.
    pub fn run_in(self, cx: &Cx) -> Result<String, HypervisorError> {
        let name = self.program.to_string_lossy().into_owned();
        let until = Instant::now() + self.patience;
        let child = self.command().spawn().map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                HypervisorError::Failed(format!("{name} is missing: install the package {}.", self.package))
            }
            _ => HypervisorError::Failed(format!("{name} could not be run: {e}.")),
        })?;
        let mut child = Killed(child);
        let out = child.0.stdout.take().map(|out| read(out, Some(cx.meter())));
        let err = child.0.stderr.take().map(|err| read(err, None));
        let status = loop {
            if let Some(status) = child.0.try_wait()? {
                break status;
            }
            if cx.is_cancelled() {
                return Err(HypervisorError::Conflict("The function was cancelled.".to_owned()));
            }
            if Instant::now() > until {
                let seconds = self.patience.as_secs();
                return Err(HypervisorError::Failed(format!("{name} did not end in {seconds} s.")));
            }
            std::thread::sleep(STEP);
        };
        let join = |reader: Option<std::thread::JoinHandle<Vec<u8>>>| {
            let bytes = reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (out, complaint) = (join(out), join(err));
        if status.success() {
            return Ok(out);
        }
        let complaint: String = complaint.trim().chars().take(COMPLAINT_MAX).collect();
        if complaint.contains("No space left on device") {
            return Err(HypervisorError::Lacking(format!("The node has no room: {complaint}")));
        }
        Err(HypervisorError::Failed(format!("{name} failed ({status}): {complaint}")))
    }

    fn command(&self) -> Command {
        let mut words: Vec<OsString> = Vec::new();
        if let Some((limits, as_nobody)) = &self.confinement {
            let limit = |name: &str, value: u64| OsString::from(format!("--{name}={value}"));
            words.push("prlimit".into());
            words.extend([
                limit("cpu", limits.cpu_s),
                limit("as", limits.memory_bytes),
                limit("fsize", limits.file_bytes),
                limit("core", 0),
                limit("nofile", 64),
            ]);
            if *as_nobody {
                words.push("setpriv".into());
                let user = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
                words.extend(user.map(OsString::from));
                words.extend(["--clear-groups", "--no-new-privs", "--inh-caps=-all"].map(OsString::from));
            }
        }
        words.push(self.program.clone());
        words.extend(self.args.iter().cloned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env("LC_ALL", "C").env("TZ", "UTC").env("SOURCE_DATE_EPOCH", "0");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// Ends with its owner.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn read(
    mut from: impl Read + Send + 'static,
    progress: Option<crate::runs::Meter>,
) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let (mut all, mut part) = (Vec::new(), [0; 8192]);
        while let Ok(n @ 1..) = from.read(&mut part) {
            if let Some(percent) = progress.as_ref().and_then(|_| percent(&part[..n])) {
                progress.as_ref().inspect(|meter| meter.part(percent));
            }
            // Read to its end, so that the writer does not stand still.
            if all.len() as u64 + n as u64 <= OUTPUT_MAX_BYTES {
                all.extend_from_slice(&part[..n]);
            }
        }
        all
    })
}

/// The last `(12.34/100%)` in a piece of output, as a part of one.
fn percent(output: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(output).ok()?;
    let number = text.rsplit_once("/100%)")?.0.rsplit_once('(')?.1;
    number.trim().parse::<f64>().ok().map(|percent| (percent / 100.0).clamp(0.0, 1.0))
}

/// Could somebody who owns nothing read this file? Only root can run a program as somebody else.
fn nobody_can_read(file: &Path) -> bool {
    let mode = |path: &Path| path.metadata().map_or(0, |meta| meta.permissions().mode());
    let Ok(file) = file.canonicalize() else { return false };
    rustix::process::geteuid().is_root()
        && mode(&file) & 0o004 != 0
        && file.ancestors().skip(1).all(|folder| mode(folder) & 0o001 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_the_output() {
        assert_eq!(percent(b"    (0.00/100%)\r    (50.00/100%)\r"), Some(0.5));
        for other in [&b""[..], b"/100%)", b"(x/100%)", b"\xff(1/100%)"] {
            assert_eq!(percent(other), None);
        }
    }

    #[test]
    fn a_program_ends_with_the_patience_and_with_a_cancel() {
        let slow = || Program::new("sleep", "coreutils").args(["30"]);
        let late = slow().patience(Duration::from_millis(50)).run().unwrap_err();
        assert!(late.to_string().contains("did not end"), "{late}");
        let cx = Cx::unwatched();
        cx.cancel();
        assert!(matches!(slow().run_in(&cx), Err(HypervisorError::Conflict(_))));
    }

    #[test]
    fn a_confined_program_gets_no_more_than_it_may() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let limits = Confinement { cpu_s: 7, memory_bytes: 1 << 30, file_bytes: 4096 };
        let said = Program::new("sh", "dash")
            .args(["-c", "ulimit -t; ulimit -f; id -u"])
            .confined(limits, file.path())
            .run()
            .unwrap();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[..2], ["7", "8"], "seconds, and blocks of 512 bytes");
        assert_ne!(lines[2], NOBODY.to_string(), "nobody cannot read a file with mode 0600");
    }
}
