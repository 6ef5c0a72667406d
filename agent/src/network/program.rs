//! The programs that set the kernel's network: nft, ip, bridge, tc. Arguments as they are, no shell, and
//! a time limit.

use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

use crate::hypervisor::HypervisorError;

/// How long one may take, in seconds.
const PATIENCE_S: &str = "30";
/// What `timeout` says then.
const TOOK_TOO_LONG: i32 = 124;
/// How much of a complaint is passed on, in characters.
const COMPLAINT_MAX: usize = 500;

/// Runs a program, feeding it `input`.
pub fn run(words: &[&str], input: &str) -> Result<String, HypervisorError> {
    let failed = |why: String| HypervisorError::Failed(format!("{} {why}", words.join(" ")));
    let mut command = Command::new("timeout");
    command.args(["-k", "5", PATIENCE_S]).args(words).env("LC_ALL", "C");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(format!("could not be run: {e}")))?;
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(|e| failed(format!("could not be waited for: {e}")))?;
    if output.status.success() {
        return match written {
            Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(failed(format!("did not listen: {e}"))),
            _ => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        };
    }
    if output.status.code() == Some(TOOK_TOO_LONG) {
        return Err(failed(format!("took longer than {PATIENCE_S} s")));
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint: String = complaint.trim().chars().take(COMPLAINT_MAX).collect();
    Err(failed(format!("failed: {complaint}")))
}

/// Runs a program without input.
pub fn tell(words: &[&str]) -> Result<String, HypervisorError> {
    run(words, "")
}

/// Runs a program that answers in JSON.
pub fn ask(words: &[&str]) -> Result<serde_json::Value, HypervisorError> {
    let said = tell(words)?;
    // Of nothing, these programs say nothing.
    let said = if said.trim().is_empty() { "[]" } else { &said };
    serde_json::from_str(said)
        .map_err(|e| HypervisorError::Failed(format!("{} did not answer in JSON: {e}", words.join(" "))))
}
