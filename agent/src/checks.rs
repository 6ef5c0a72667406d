//! The node's self-check: what of it could keep it from working, or soon will.
//!
//! Each check is one function; what it reads stands apart from what that means.

use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};

use berth_model::agent::NodeCheck;
use serde_json::Value;

/// Seconds that a program may take.
const PATIENCE_S: &str = "5";
/// So much of a disk's life may be used up, in percent.
const WEAR_MAX: u64 = 90;
/// What a kernel notes of itself when something went wrong in it (`tainted-kernels.rst`), by bit.
const TAINTS: [(u32, &str); 3] =
    [(4, "a processor reported a hardware error"), (7, "it has had an oops"), (14, "a processor hung in it")];

/// All that concern the node itself; `data_dir` holds its disks.
pub fn of_node(data_dir: &Path) -> Vec<NodeCheck> {
    let follows = said("timedatectl", &["show", "--property=NTPSynchronized", "--value"]);
    let taints = std::fs::read_to_string("/proc/sys/kernel/tainted").unwrap_or_default();
    vec![
        check("data folder", true, data_folder(data_dir)),
        check("clock", false, clock_sync(follows.as_deref())),
        check("kernel", false, kernel(taints.trim().parse().unwrap_or(0))),
        check("reboot", false, reboot(Path::new("/run/reboot-required").exists())),
        check("disk wear", true, disk_wear()),
    ]
}

/// A check with its finding: in order or not, a sentence.
pub fn check(name: &str, needed: bool, finding: Result<String, String>) -> NodeCheck {
    let ok = finding.is_ok();
    NodeCheck { check: name.to_owned(), ok, needed, sentence: finding.unwrap_or_else(|sentence| sentence) }
}

fn data_folder(folder: &Path) -> Result<String, String> {
    match tempfile::tempfile_in(folder) {
        Ok(_) => Ok(format!("{} can be written to.", folder.display())),
        Err(e) if e.kind() == ErrorKind::StorageFull => Err(format!("{} is full.", folder.display())),
        Err(e) => Err(format!("{} cannot be written to: {e}.", folder.display())),
    }
}

fn clock_sync(said: Option<&str>) -> Result<String, String> {
    match said.map(str::trim) {
        Some("yes") => Ok("The clock follows a time server.".to_owned()),
        Some("no") => Err("The clock follows no time server: set up systemd-timesyncd or chrony.".to_owned()),
        _ => Ok("Whether the clock follows a time server cannot be told here.".to_owned()),
    }
}

fn kernel(taints: u64) -> Result<String, String> {
    let found: Vec<_> =
        TAINTS.iter().filter(|(bit, _)| taints >> bit & 1 == 1).map(|(_, what)| *what).collect();
    if found.is_empty() {
        return Ok("The kernel has noted no trouble since it was booted.".to_owned());
    }
    Err(format!("The kernel is in trouble ({}): look into its log, and reboot the node.", found.join(", ")))
}

fn reboot(required: bool) -> Result<String, String> {
    if required {
        return Err("An installed package asks for a reboot of the node.".to_owned());
    }
    Ok("No installed package asks for a reboot.".to_owned())
}

fn disk_wear() -> Result<String, String> {
    let Some(scan) = said("smartctl", &["--scan", "--json"]) else {
        return Ok("Disks are not looked at: the package smartmontools is not installed.".to_owned());
    };
    let devices = devices(&scan);
    let reports: Vec<_> = devices
        .iter()
        .map(|device| (device.as_str(), said("smartctl", &["--health", "--attributes", "--json", device])))
        .collect();
    wear(&reports)
}

fn devices(scan: &str) -> Vec<String> {
    let scan: Value = serde_json::from_str(scan).unwrap_or_default();
    let names = scan["devices"].as_array().into_iter().flatten().filter_map(|device| device["name"].as_str());
    names.map(str::to_owned).collect()
}

/// What the reports of disks mean: `smartctl --json`, by device.
fn wear(reports: &[(&str, Option<String>)]) -> Result<String, String> {
    let mut faults = Vec::new();
    let mut fine = 0;
    for (device, report) in reports {
        let report: Value =
            report.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let used = report["nvme_smart_health_information_log"]["percentage_used"].as_u64();
        match (report["smart_status"]["passed"].as_bool(), used) {
            (Some(false), _) => faults.push(format!("{device} says that it is failing")),
            (_, Some(used)) if used >= WEAR_MAX => faults.push(format!("{device} is worn by {used} %")),
            (Some(true), _) => fine += 1,
            (None, _) => {}
        }
    }
    match (faults.is_empty(), fine) {
        (false, _) => Err(format!("Replace disks: {}.", faults.join(", "))),
        (true, 0) => Ok("No disk here tells of its health.".to_owned()),
        (true, fine) => Ok(format!("{fine} of {} disks say that they are well.", reports.len())),
    }
}

/// What a program prints, however it ends: smartctl tells of disks in its exit code, too. `None` if there is
/// no such program, or it takes too long.
fn said(program: &str, args: &[&str]) -> Option<String> {
    let mut command = Command::new("timeout");
    command.args([PATIENCE_S, program]).args(args).stdin(Stdio::null()).env("LC_ALL", "C");
    let output = command.output().ok()?;
    let is_lacking = matches!(output.status.code(), Some(124..=127) | None);
    (!is_lacking).then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_or_worn_disk_is_named() {
        let _proof = crate::proof::pure(&["node.check"]);
        let scan = r#"{"devices":[{"name":"/dev/sda","type":"sat"},{"name":"/dev/nvme0","type":"nvme"}]}"#;
        assert_eq!(devices(scan), ["/dev/sda", "/dev/nvme0"]);
        let report = |text: &str| Some(text.to_owned());
        let well = report(r#"{"smart_status":{"passed":true}}"#);
        let failing = report(r#"{"smart_status":{"passed":false}}"#);
        let worn = report(
            r#"{"smart_status":{"passed":true},"nvme_smart_health_information_log":{"percentage_used":93}}"#,
        );
        assert_eq!(
            wear(&[("a", well.clone()), ("b", None)]),
            Ok("1 of 2 disks say that they are well.".to_owned())
        );
        assert!(wear(&[("a", None)]).unwrap().starts_with("No disk"));
        let sentence = wear(&[("/dev/sda", failing), ("/dev/sdb", well), ("/dev/nvme0", worn)]).unwrap_err();
        assert!(
            sentence.contains("/dev/sda says") && sentence.contains("/dev/nvme0 is worn by 93 %"),
            "{sentence}"
        );
        assert!(!sentence.contains("sdb"), "{sentence}");
    }

    #[test]
    fn trouble_of_the_kernel_and_the_clock_is_said() {
        let _proof = crate::proof::pure(&["node.check"]);
        assert!(kernel(0).is_ok() && kernel(1 << 12).is_ok(), "a module from elsewhere is no trouble");
        assert!(kernel(1 << 7 | 1 << 4).unwrap_err().contains("hardware error, it has had an oops"));
        assert!(clock_sync(Some("yes\n")).is_ok() && clock_sync(None).is_ok());
        assert!(clock_sync(Some("no\n")).is_err());
        assert!(reboot(true).is_err() && reboot(false).is_ok());
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_said() {
        let _proof = crate::proof::pure(&["node.check"]);
        assert!(data_folder(tempfile::tempdir().unwrap().path()).is_ok());
        assert!(data_folder(Path::new("/nowhere")).unwrap_err().contains("/nowhere cannot be written to"));
        assert_eq!(said("no-such-program", &[]), None);
        assert_eq!(said("echo", &["a"]).as_deref(), Some("a\n"));
    }
}
