//! What is called how: domains, networks, UUIDs.

use berth_model::VmId;
use uuid::Uuid;

/// Longest prefix.
const PREFIX_MAX_BYTES: usize = 32;

/// Under which UUIDs of domains are made; any fixed number would do.
const UUID_NAMESPACE: Uuid = Uuid::from_u128(0x6c0f_2a5e_94b1_4a37_8f1d_2b7c_55d0_e913);

/// The beginning of the names of this agent's domains. It parts the agent's domains from all others
/// of the same libvirt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix(String);

impl Prefix {
    /// Takes a prefix; the error is a sentence.
    pub fn new(text: &str) -> Result<Self, String> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        // With a digit at the end, VM 12 of "a" and VM 2 of "a1" would be one domain.
        let ends_well = text.bytes().next_back().is_some_and(|b| !b.is_ascii_digit());
        let begins_well = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if text.len() <= PREFIX_MAX_BYTES && begins_well && ends_well && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "“{text}” cannot begin the names of domains: take up to 32 letters, digits, hyphens, dots \
                 or underscores that do not end in a digit, like “berth-”."
            ))
        }
    }

    /// The name of a VM's domain.
    pub fn domain(&self, id: VmId) -> String {
        format!("{}{id}", self.0)
    }

    /// What all names of domains begin with.
    pub fn domain_prefix(&self) -> &str {
        &self.0
    }

    /// The VM of a domain, if it is ours.
    pub fn vm(&self, domain: &str) -> Option<VmId> {
        vm_id(domain.strip_prefix(&self.0)?)
    }

    /// The name of the NAT network.
    pub fn network(&self) -> String {
        format!("{}nat", self.0)
    }
}

/// A VM's number, written the one way it is written in names.
pub fn vm_id(text: &str) -> Option<VmId> {
    let id: VmId = text.parse().ok()?;
    (id.0 > 0 && id.to_string() == text).then_some(id)
}

/// The UUID of the domain or network `name`: the same each time, so that defining it again changes it
/// instead of failing.
pub fn uuid(name: &str) -> String {
    Uuid::new_v5(&UUID_NAMESPACE, name.as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_domains_of_the_prefix_are_ours() {
        let prefix = Prefix::new("berth-").unwrap();
        assert_eq!(prefix.vm(&prefix.domain(VmId(12))), Some(VmId(12)));
        for other in [
            "berth-",
            "berth-012",
            "berth-+1",
            "berth-0",
            "berth--1",
            "berth-nat",
            "berth-x-1",
            "1",
            "other-1",
        ] {
            assert_eq!(prefix.vm(other), None, "{other}");
        }
    }

    #[test]
    fn a_prefix_that_could_be_confused_is_refused() {
        for bad in ["", "vm1", "-a", "a b", "a/", "ä-", &"a".repeat(33)] {
            assert!(Prefix::new(bad).is_err(), "{bad}");
        }
        assert!(Prefix::new("t4-x_").is_ok());
    }

    #[test]
    fn uuids_follow_from_names() {
        assert_eq!(uuid("berth-1"), uuid("berth-1"));
        assert_ne!(uuid("berth-1"), uuid("berth-2"));
    }
}
