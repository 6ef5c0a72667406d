//! What a [`VmSpec`] may say, decided without looking at the node. The API asks before it calls a
//! hypervisor, and each hypervisor asks again, so that none depends on its caller.
//!
//! Whatever passes here is safe in a file name, in an XML attribute and in cloud-init's files:
//! numbers are in range, and texts are one line of printable characters, except user data, which is
//! passed on as it is.

use std::collections::HashSet;
use std::net::IpAddr;

use berth_model::agent::{Nic, VmSeed, VmSpec};
use berth_model::server::USER_DATA_MAX_BYTES;
use berth_model::{ByteSize, FieldError};

use crate::hypervisor::HypervisorError;

/// Most virtual CPUs.
pub const VCPUS_MAX: u32 = 128;
/// Least memory.
pub const MEMORY_MIN: ByteSize = ByteSize::mib(64);
/// Most memory.
pub const MEMORY_MAX: ByteSize = ByteSize::gib(16 * 1024);
/// Least disk.
pub const DISK_MIN: ByteSize = ByteSize::mib(1);
/// Most disk.
pub const DISK_MAX: ByteSize = ByteSize::gib(64 * 1024);
/// Most network cards.
pub const NICS_MAX: usize = 8;
/// Most addresses of one network card.
pub const ADDRESSES_MAX: usize = 64;
/// Most lines of `authorized_keys`.
pub const SSH_KEYS_MAX: usize = 100;
/// Longest line of `authorized_keys`, in bytes.
pub const SSH_KEY_MAX_BYTES: usize = 16 * 1024;
/// Most name servers.
pub const NAME_SERVERS_MAX: usize = 8;

/// What is wrong with `spec`; empty when nothing is.
pub fn faults(spec: &VmSpec) -> Vec<FieldError> {
    let mut faults = Faults::default();
    faults.unless((1..=VCPUS_MAX).contains(&spec.vcpus), "vcpus", "A VM has 1 to 128 virtual CPUs.");
    let memory =
        (MEMORY_MIN..=MEMORY_MAX).contains(&spec.memory) && spec.memory.0.is_multiple_of(ByteSize::mib(1).0);
    faults.unless(memory, "memory", "Memory is a whole number of MiB, from 64 MiB to 16 TiB.");
    let disk = (DISK_MIN..=DISK_MAX).contains(&spec.disk) && spec.disk.0.is_multiple_of(512);
    faults.unless(disk, "disk", "A disk is a multiple of 512 bytes, from 1 MiB to 64 TiB.");
    faults.unless(is_sha256(&spec.image.sha256), "image.sha256", SHA256_RULE);
    nics(&spec.nics, &mut faults);
    seed(&spec.seed, &mut faults);
    faults.0
}

/// The same of a spec that stands within a request; `before` is what its fields' names begin with there.
pub fn faults_of(before: &str, spec: &VmSpec) -> Vec<FieldError> {
    let named = |fault: FieldError| FieldError { name: format!("{before}{}", fault.name), ..fault };
    faults(spec).into_iter().map(named).collect()
}

/// The same for a hypervisor: refuses with the first fault.
pub fn check(spec: &VmSpec) -> Result<(), HypervisorError> {
    faults(spec).into_iter().next().map_or(Ok(()), |fault| Err(HypervisorError::Invalid(fault)))
}

/// How an image is named.
pub const SHA256_RULE: &str = "An image is named by its SHA-256: 64 digits of 0-9 and a-f, lower case.";

/// Is this the name of an image?
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn nics(nics: &[Nic], faults: &mut Faults) {
    faults.unless(nics.len() <= NICS_MAX, "nics", "A VM has at most 8 network cards.");
    let mut seen = HashSet::new();
    for (n, nic) in nics.iter().enumerate().take(NICS_MAX) {
        let field = format!("nics[{n}].mac");
        faults.unless(
            is_mac(&nic.mac),
            &field,
            "A MAC address looks like 52:54:00:aa:bb:cc, in lower case, and is not a multicast one.",
        );
        faults.unless(seen.insert(&nic.mac), &field, "Two network cards have the same MAC address.");
        let field = format!("nics[{n}].addresses");
        faults.unless(
            nic.addresses.len() <= ADDRESSES_MAX,
            &field,
            "A network card has at most 64 addresses.",
        );
        for (m, address) in nic.addresses.iter().enumerate().take(ADDRESSES_MAX) {
            let longest = if address.ip.is_ipv4() { 32 } else { 128 };
            let field = format!("nics[{n}].addresses[{m}].prefix");
            faults.unless(
                address.prefix <= longest,
                &field,
                "A prefix is 0 to 32 for IPv4, 0 to 128 for IPv6.",
            );
            let field = format!("nics[{n}].addresses[{m}].gateway");
            let family = |ip: &IpAddr| ip.is_ipv4() == address.ip.is_ipv4();
            faults.unless(
                address.gateway.as_ref().is_none_or(family),
                &field,
                "A gateway is of the same family as its address.",
            );
        }
    }
}

fn seed(seed: &VmSeed, faults: &mut Faults) {
    faults.unless(
        is_hostname(&seed.hostname),
        "seed.hostname",
        "A host name has letters, digits, hyphens and dots, and at most 63 characters between dots.",
    );
    faults.unless(seed.ssh_keys.len() <= SSH_KEYS_MAX, "seed.ssh_keys", "A VM takes at most 100 SSH keys.");
    for (n, key) in seed.ssh_keys.iter().enumerate().take(SSH_KEYS_MAX) {
        let line =
            !key.trim().is_empty() && key.len() <= SSH_KEY_MAX_BYTES && !key.chars().any(char::is_control);
        faults.unless(line, &format!("seed.ssh_keys[{n}]"), "An SSH key is one line of at most 16 KiB.");
    }
    let hash = |hash: &String| {
        hash.starts_with("$6$")
            && hash.len() <= 256
            && hash.bytes().all(|b| b.is_ascii_alphanumeric() || b"$./=".contains(&b))
    };
    faults.unless(
        seed.root_password_hash.as_ref().is_none_or(hash),
        "seed.root_password_hash",
        "A password is given as a crypt(3) SHA-512 hash, which begins with $6$.",
    );
    faults.unless(
        seed.user_data.as_ref().is_none_or(|data| data.len() <= USER_DATA_MAX_BYTES && !data.contains('\0')),
        "seed.user_data",
        "User data has at most 32 KiB and no zero bytes.",
    );
    faults.unless(
        seed.name_servers.len() <= NAME_SERVERS_MAX,
        "seed.name_servers",
        "A VM takes at most 8 name servers.",
    );
}

fn is_mac(text: &str) -> bool {
    let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let pairs: Vec<&[u8]> = text.split(':').map(str::as_bytes).collect();
    pairs.len() == 6
        && pairs.iter().all(|pair| matches!(pair, [a, b] if lower_hex(*a) && lower_hex(*b)))
        && u8::from_str_radix(&text[..2], 16).is_ok_and(|first| first & 1 == 0)
}

fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

#[derive(Default)]
struct Faults(Vec<FieldError>);

impl Faults {
    fn unless(&mut self, fine: bool, name: &str, message: &str) {
        if fine {
            return;
        }
        match self.0.iter_mut().find(|fault| fault.name == name) {
            Some(fault) => fault.messages.push(message.to_owned()),
            None => self.0.push(FieldError { name: name.to_owned(), messages: vec![message.to_owned()] }),
        }
    }
}
