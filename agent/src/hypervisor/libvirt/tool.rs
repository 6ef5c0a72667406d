//! Running the tools that QEMU and the ISO writer come with: arguments as they are, no shell.

use std::ffi::OsStr;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::hypervisor::HypervisorError;

/// How much of a tool's complaint is passed on, in characters.
const COMPLAINT_MAX: usize = 500;

/// How often a watched program is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Runs `program` to its end; says which package has it when it is missing.
pub fn run<A: AsRef<OsStr>>(
    program: &str,
    package: &str,
    args: impl IntoIterator<Item = A>,
) -> Result<String, HypervisorError> {
    let mut command = Command::new(program);
    // One date for what is made, and messages in one language.
    command.args(args).stdin(Stdio::null()).env("LC_ALL", "C").env("SOURCE_DATE_EPOCH", "0");
    let output = command.output().map_err(|e| no_start(program, package, &e))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(program, output.status, &output.stderr))
}

/// Runs `program` and asks `goes_on` every now and then; once that is an error, the program is ended.
pub fn run_watched<A: AsRef<OsStr>>(
    program: &str,
    package: &str,
    args: impl IntoIterator<Item = A>,
    mut goes_on: impl FnMut() -> Result<(), HypervisorError>,
) -> Result<(), HypervisorError> {
    let complaints = tempfile::tempfile()?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(complaints.try_clone()?);
    let mut child = command.env("LC_ALL", "C").spawn().map_err(|e| no_start(program, package, &e))?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if let Err(stopped) = goes_on() {
            child.kill()?;
            child.wait()?;
            return Err(stopped);
        }
        std::thread::sleep(LOOK_EVERY);
    };
    if status.success() {
        return Ok(());
    }
    let mut complaint = Vec::new();
    (&complaints).seek(SeekFrom::Start(0))?;
    (&complaints).take(64 * 1024).read_to_end(&mut complaint)?;
    Err(failed(program, status, &complaint))
}

fn no_start(program: &str, package: &str, e: &std::io::Error) -> HypervisorError {
    match e.kind() {
        ErrorKind::NotFound => {
            HypervisorError::Failed(format!("{program} is missing: install the package {package}."))
        }
        _ => HypervisorError::Failed(format!("{program} could not be run: {e}.")),
    }
}

fn failed(program: &str, status: ExitStatus, complaint: &[u8]) -> HypervisorError {
    let complaint = String::from_utf8_lossy(complaint);
    let complaint: String = complaint.trim().chars().take(COMPLAINT_MAX).collect();
    if complaint.contains("No space left on device") {
        return HypervisorError::Lacking(format!("The node has no room: {complaint}"));
    }
    HypervisorError::Failed(format!("{program} failed ({status}): {complaint}"))
}
