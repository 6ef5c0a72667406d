//! Running the tools that QEMU and the ISO writer come with: arguments as they are, no shell.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::process::{Command, Stdio};

use crate::hypervisor::HypervisorError;

/// How much of a tool's complaint is passed on, in characters.
const COMPLAINT_MAX: usize = 500;

/// Runs `program` to its end; says which package has it when it is missing.
pub fn run<A: AsRef<OsStr>>(
    program: &str,
    package: &str,
    args: impl IntoIterator<Item = A>,
) -> Result<String, HypervisorError> {
    let mut command = Command::new(program);
    // One date for what is made, and messages in one language.
    command.args(args).stdin(Stdio::null()).env("LC_ALL", "C").env("SOURCE_DATE_EPOCH", "0");
    let output = command.output().map_err(|e| match e.kind() {
        ErrorKind::NotFound => {
            HypervisorError::Failed(format!("{program} is missing: install the package {package}."))
        }
        _ => HypervisorError::Failed(format!("{program} could not be run: {e}.")),
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint: String = complaint.trim().chars().take(COMPLAINT_MAX).collect();
    Err(HypervisorError::Failed(format!("{program} failed ({}): {complaint}", output.status)))
}
