//! Does KVM work here? `/dev/kvm` is no proof: there are machines that have it and where no stock
//! kernel boots. So a kernel is booted for a few seconds, and the answer is kept on disk, until QEMU,
//! the node's kernel or the booted files change.
//!
//! The guest gets `berth.probe` on its command line and says `berth-probe ok` on its serial port. A kernel
//! without an initial RAM disk proves as much by running until it misses its root filesystem.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use berth_model::agent::DomainType;
use serde::{Deserialize, Serialize};

use super::tool;

/// How long the probe boot may take.
const BOOT_MAX: Duration = Duration::from_secs(10);
/// How much of the guest's output is read.
const OUTPUT_MAX_BYTES: usize = 1 << 20;
/// What shows that a kernel ran.
const PROOFS: [&str; 2] = ["berth-probe ok", "Unable to mount root fs"];
/// QEMU's program.
const QEMU: &str = "qemu-system-x86_64";

/// What a node should boot guests with, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// KVM or QEMU.
    pub domain_type: DomainType,
    /// A sentence for the operator when it is not KVM.
    pub reason: Option<String>,
}

/// What is booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeFiles {
    /// The kernel.
    pub kernel: PathBuf,
    /// Its initial RAM disk.
    pub initrd: Option<PathBuf>,
}

impl ProbeFiles {
    /// Those of the configuration, else the node's own kernel, if it is there.
    pub fn choose(kernel: Option<&Path>, initrd: Option<&Path>) -> Option<Self> {
        let own = || {
            let path = PathBuf::from(format!("/boot/vmlinuz-{}", kernel_release()));
            path.exists().then_some(path)
        };
        let kernel = kernel.map(Path::to_owned).or_else(own)?;
        Some(Self { kernel, initrd: initrd.map(Path::to_owned) })
    }
}

/// A verdict on disk, with all that it depends on.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    key: String,
    verdict: Verdict,
}

/// The verdict: kept from last time in `cache`, or from a boot now. `kvm_known` says whether libvirt
/// offers KVM at all.
pub fn verdict(files: Option<&ProbeFiles>, cache: &Path, kvm_known: bool) -> Verdict {
    let no = |reason: String| Verdict { domain_type: DomainType::Qemu, reason: Some(reason) };
    if !kvm_known {
        return no("libvirt offers no KVM on this node (is /dev/kvm there, and open to the group kvm?), so guests run \
                   on QEMU's translator, some ten times slower."
            .to_owned());
    }
    let Some(files) = files else {
        return no(
            "There is no kernel to find out with whether KVM works, so guests run on QEMU's translator: set \
                   libvirt.probe_kernel, or libvirt.accelerator to kvm."
                .to_owned(),
        );
    };
    let key = key(files);
    let kept = fs::read(cache).ok().and_then(|text| serde_json::from_slice::<Kept>(&text).ok());
    if let Some(kept) = kept.filter(|kept| kept.key == key) {
        return kept.verdict;
    }
    let verdict = match boot(files, "kvm", BOOT_MAX) {
        Ok(()) => Verdict { domain_type: DomainType::Kvm, reason: None },
        Err(why) => no(format!("A probe boot with KVM failed ({why}), so guests run on QEMU's translator.")),
    };
    keep(cache, &Kept { key, verdict: verdict.clone() });
    verdict
}

fn keep(cache: &Path, kept: &Kept) {
    let text = serde_json::to_vec_pretty(kept).expect("a verdict is plain data");
    let new = cache.with_extension("new");
    if let Err(e) = fs::write(&new, text).and_then(|()| fs::rename(&new, cache)) {
        tracing::warn!(path = %cache.display(), error = %e, "could not keep the verdict on KVM");
    }
}

/// All that the verdict depends on.
fn key(files: &ProbeFiles) -> String {
    let file = |path: &Path| match fs::metadata(path) {
        Ok(meta) => format!("{} {} {}.{}", path.display(), meta.size(), meta.mtime(), meta.mtime_nsec()),
        Err(e) => format!("{} {e}", path.display()),
    };
    let qemu = tool::run(QEMU, "qemu-system-x86", ["--version"]).unwrap_or_default();
    let initrd = files.initrd.as_deref().map(file);
    [
        qemu.lines().next().unwrap_or_default(),
        &kernel_release(),
        &file(&files.kernel),
        &initrd.unwrap_or_default(),
    ]
    .join("; ")
}

fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// Boots `files` under QEMU's `accelerator`; the error says why there was no proof.
pub fn boot(files: &ProbeFiles, accelerator: &str, at_most: Duration) -> Result<(), String> {
    let mut command = Command::new(QEMU);
    command.args([
        "-accel",
        accelerator,
        "-cpu",
        "max",
        "-m",
        "256",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
    ]);
    command.args(["-display", "none", "-serial", "stdio", "-monitor", "none", "-kernel"]).arg(&files.kernel);
    if let Some(initrd) = &files.initrd {
        command.arg("-initrd").arg(initrd);
    }
    command.args(["-append", "console=ttyS0 panic=-1 berth.probe"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut guest = Guest(command.spawn().map_err(|e| format!("{QEMU} could not be run: {e}"))?);
    let mut output = guest.0.stdout.take().ok_or("it has no output")?;
    let (proved, proof) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let (mut seen, mut part) = (Vec::new(), [0; 4096]);
        while let Ok(n @ 1..) = output.read(&mut part) {
            seen.extend_from_slice(&part[..n]);
            let text = String::from_utf8_lossy(&seen);
            if PROOFS.iter().any(|proof| text.contains(proof)) {
                let _ = proved.send(());
                break;
            }
            if seen.len() > OUTPUT_MAX_BYTES {
                break;
            }
        }
    });
    let begun = Instant::now();
    let proof = proof.recv_timeout(at_most);
    drop(guest);
    let _ = reader.join();
    match proof {
        Ok(()) => Ok(()),
        Err(mpsc::RecvTimeoutError::Timeout) => Err(format!("no sign of life in {} s", at_most.as_secs())),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            Err(format!("it ended after {} ms", begun.elapsed().as_millis()))
        }
    }
}

/// The probe's guest, which ends with the probe.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> ProbeFiles {
        let kernel = folder.join("vmlinuz");
        fs::write(&kernel, b"no kernel").unwrap();
        ProbeFiles { kernel, initrd: None }
    }

    #[test]
    fn without_kvm_or_a_kernel_the_verdict_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("verdict");
        for (files, kvm_known) in [(None, true), (Some(files(folder.path())), false)] {
            let verdict = verdict(files.as_ref(), &cache, kvm_known);
            assert_eq!(verdict.domain_type, DomainType::Qemu);
            assert!(verdict.reason.is_some());
        }
        assert!(!cache.exists());
    }

    #[test]
    fn a_kernel_that_does_not_boot_is_no_proof_and_the_verdict_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("verdict");
        let files = files(folder.path());
        let first = verdict(Some(&files), &cache, true);
        assert_eq!(first.domain_type, DomainType::Qemu);
        let kept: Kept = serde_json::from_slice(&fs::read(&cache).unwrap()).unwrap();
        assert_eq!(kept, Kept { key: key(&files), verdict: first });
    }

    #[test]
    fn a_kept_verdict_holds_until_the_files_change() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("verdict");
        let files = files(folder.path());
        let kvm = Verdict { domain_type: DomainType::Kvm, reason: None };
        keep(&cache, &Kept { key: key(&files), verdict: kvm.clone() });
        assert_eq!(verdict(Some(&files), &cache, true), kvm);
        fs::write(&files.kernel, b"another kernel").unwrap();
        assert_ne!(verdict(Some(&files), &cache, true), kvm);
    }
}
