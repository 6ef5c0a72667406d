//! How many VMs the kernel lets read and write their disks.
//!
//! QEMU asks for 1,024 requests of the kernel's asynchronous I/O for each VM. As the kernel comes, all programs
//! together get 65,536: the 65th VM would not start.

use std::fs;
use std::io;

use berth_model::agent::NodeCheck;

/// Where the kernel says and is told it.
const FILE: &str = "/proc/sys/fs/aio-max-nr";
/// What a VM takes.
const OF_A_VM: u64 = 1024;
/// For so many VMs there is to be enough.
const VMS: u64 = 1024;

/// Raises the limit where it is too low.
pub fn allow_many() -> io::Result<()> {
    if allowed()? < VMS { fs::write(FILE, (VMS * OF_A_VM).to_string()) } else { Ok(()) }
}

/// Is it high enough?
pub fn check() -> NodeCheck {
    said(allowed())
}

fn said(allowed: io::Result<u64>) -> NodeCheck {
    let (ok, sentence) = match allowed {
        Ok(vms @ VMS..) => (true, format!("The kernel lets {vms} VMs use their disks.")),
        Ok(vms) => (
            false,
            format!("The kernel lets {vms} VMs use their disks; set fs.aio-max-nr to {}.", VMS * OF_A_VM),
        ),
        Err(e) => (false, format!("Whether the kernel lets many VMs use their disks cannot be told: {e}.")),
    };
    NodeCheck { check: "disk requests".to_owned(), ok, needed: false, sentence }
}

fn allowed() -> io::Result<u64> {
    let text = fs::read_to_string(FILE)?;
    let requests: u64 = text.trim().parse().map_err(io::Error::other)?;
    Ok(requests / OF_A_VM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_word_is_read_and_said() {
        let _proof = crate::proof::pure(&["node.check"]);
        assert!(allowed().unwrap() > 0);
        let few = said(Ok(64));
        assert!(!few.ok && few.sentence.contains("64 VMs") && few.sentence.contains("1048576"), "{few:?}");
        assert!(said(Ok(VMS)).ok && !said(Err(io::Error::other("gone"))).ok);
    }
}
