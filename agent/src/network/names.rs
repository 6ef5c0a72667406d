//! What is called how: tables, and interfaces, of which a name has at most 15 characters.
//!
//! All follows from the agent's prefix and from what it is for, so an agent that comes anew finds what it
//! made, and two agents in one kernel do not meet.

use berth_model::{PrivateNetworkId, VmId};
use sha2::{Digest, Sha256};

/// Longest name of an interface.
const INTERFACE_MAX_BYTES: usize = 15;
/// Digits that say whose an interface is.
const OWNER_DIGITS: usize = 3;
/// Digits that tell a VM's interfaces apart.
const HASH_DIGITS: usize = 4;
/// As many when the VM's number is too long to stand beside them.
const LONG_HASH_DIGITS: usize = 10;
/// Of which digits a hash is made.
const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Begins the names of all that one agent has in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    prefix: String,
    table: String,
    owner: String,
}

impl Names {
    /// Of the agent whose domains' names begin with `prefix`.
    pub fn new(prefix: &str) -> Self {
        let clean: String =
            prefix.chars().filter(char::is_ascii_alphanumeric).take(20).collect::<String>().to_lowercase();
        let hash = hash(&[prefix]);
        let table = format!("b_{clean}_{}", &hash[..LONG_HASH_DIGITS]);
        Self { prefix: prefix.to_owned(), table, owner: hash[..OWNER_DIGITS].to_owned() }
    }

    /// The name of its nftables tables.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// What is written on every interface of it that is not libvirt's.
    pub fn alias(&self) -> String {
        format!("berth {}", self.table)
    }

    /// The node's end of a network card.
    pub fn tap(&self, vm: VmId, mac: &str) -> String {
        self.interface('t', vm.0, mac)
    }

    /// All ends of network cards, as nftables matches names.
    pub fn taps(&self) -> String {
        format!("t{}*", self.owner)
    }

    /// What shapes the packets that come out of a network card.
    pub fn shaper(&self, vm: VmId, mac: &str) -> String {
        self.interface('i', vm.0, mac)
    }

    /// The bridge of a private network.
    pub fn bridge(&self, id: PrivateNetworkId) -> String {
        self.interface('p', id.0, "network")
    }

    /// The way of a private network to the other nodes.
    pub fn vxlan(&self, id: PrivateNetworkId) -> String {
        self.interface('x', id.0, "network")
    }

    /// `tk3f7_9abc`; a number that is too long for it stands in the hash alone.
    fn interface(&self, kind: char, number: i64, what: &str) -> String {
        let hash = hash(&[&self.prefix, &number.to_string(), what]);
        let owner = &self.owner;
        let name = format!("{kind}{owner}{number}_{}", &hash[..HASH_DIGITS]);
        if name.len() <= INTERFACE_MAX_BYTES {
            name
        } else {
            format!("{kind}{owner}_{}", &hash[..LONG_HASH_DIGITS])
        }
    }
}

fn hash(parts: &[&str]) -> String {
    let digest = parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part).chain_update([0]));
    digest.finalize().iter().map(|byte| char::from(DIGITS[usize::from(byte % 32)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ_by_agent_vm_and_card() {
        let (a, b) = (Names::new("berth-"), Names::new("t-x_"));
        let mac = "52:54:00:00:00:01";
        let taps = [a.tap(VmId(7), mac), b.tap(VmId(7), mac), a.tap(VmId(8), mac), a.tap(VmId(7), "other")];
        for (n, tap) in taps.iter().enumerate() {
            assert!(tap.len() <= 15 && !taps[..n].contains(tap), "{taps:?}");
            assert!(tap.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{tap}");
        }
        assert!(a.tap(VmId(7), mac)[4..].starts_with("7_"));
        assert_eq!(a.tap(VmId(i64::MAX), mac).len(), 15);
        assert_ne!(Names::new("a-").table(), Names::new("a_").table());
    }
}
