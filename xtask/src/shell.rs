//! Running other programs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::stop;

const POLL: Duration = Duration::from_millis(20);

/// A command with nothing on its standard input.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// A command that runs as root, through sudo unless this already is root.
pub fn root_command(program: &str) -> Command {
    if is_root() {
        return command(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.arg(program);
    sudo
}

/// A command that runs as root if `root`.
pub fn root_if(root: bool, program: &str) -> Command {
    if root { root_command(program) } else { command(program) }
}

/// The same command as root, with its folder and what was set of its environment: `PATH`, too, which sudo
/// would replace.
pub fn as_root(command: Command) -> Command {
    if is_root() { command } else { through_sudo(&command) }
}

fn through_sudo(inner: &Command) -> Command {
    let mut sudo = command("sudo");
    sudo.args(["-E", "env"]);
    for (name, value) in inner.get_envs() {
        if let Some(value) = value {
            let mut set = name.to_owned();
            set.push("=");
            set.push(value);
            sudo.arg(set);
        }
    }
    sudo.arg(inner.get_program()).args(inner.get_args());
    if let Some(folder) = inner.get_current_dir() {
        sudo.current_dir(folder);
    }
    sudo
}

/// Does this run as root?
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Cargo, of the toolchain that runs this.
pub fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// What a command prints, trimmed; an error with what it complained of when it fails.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let output = command.output().with_context(|| format!("Cannot run {shown}."))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{shown} failed ({}):\n{}", output.status, complaint.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Does it end well? What it prints is of no interest.
pub fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Asks a child to end: whoever stops this program alone, and not its whole group, means the child, too.
pub fn ask_to_end(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _gone_already = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// Waits for a child; when this program is asked to stop, the child is, too.
pub fn wait(mut child: Child) -> Result<ExitStatus> {
    let mut is_asked = false;
    loop {
        if let Some(status) = child.try_wait()? {
            stop::check()?;
            return Ok(status);
        }
        if stop::wait(POLL) {
            if !is_asked {
                ask_to_end(&child);
                is_asked = true;
            }
            std::thread::sleep(POLL);
        }
    }
}

/// The program's file, looked for in `PATH`.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Debian keeps what administrators run in sbin, which a user's PATH may lack.
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(sbin).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// A command as somebody would type it.
pub fn shown(command: &Command) -> String {
    let mut text = name(Path::new(command.get_program()));
    for argument in command.get_args() {
        let _infallible = write!(text, " {}", argument.to_string_lossy());
    }
    match text.char_indices().nth(160) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_says_what_it_complained_of() {
        let error = output(command("sh").args(["-c", "echo no >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("sh -c echo no") && error.ends_with("no"), "{error}");
    }

    #[test]
    fn sudo_passes_on_the_environment_with_the_path() {
        let mut inner = command("bench");
        inner.arg("first-load").env("PATH", "/tools:/bin").env_remove("GONE").current_dir("/r");
        let sudo = through_sudo(&inner);
        assert_eq!(shown(&sudo), "sudo -E env PATH=/tools:/bin bench first-load");
        assert_eq!(sudo.get_current_dir(), Some(Path::new("/r")));
    }

    #[test]
    fn a_program_is_found_on_the_path() {
        assert!(which("sh").is_some());
        assert!(which("no-such-program").is_none());
    }
}
