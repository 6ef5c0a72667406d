//! What a [`VmSpec`] may say, decided without looking at the node. The API asks before it calls a
//! hypervisor, and each hypervisor asks again, so that none depends on its caller.
//!
//! Whatever passes here is safe in a file name, in an XML attribute and in cloud-init's files:
//! numbers are in range, and texts are one line of printable characters, except user data, which is
//! passed on as it is.

use std::collections::HashSet;
use std::net::IpAddr;

use berth_model::agent::function::TargetValue as _;
use berth_model::agent::{BootDevice, Hardware, Nic, VmLimits, VmSeed, VmSpec, VolumeAttachment};
use berth_model::server::USER_DATA_MAX_BYTES;
use berth_model::{ByteSize, FieldError, VolumeId};

use crate::hypervisor::HypervisorError;
use crate::network;

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
/// Most volumes.
pub const VOLUMES_MAX: usize = 16;
/// Most network cards.
pub const NICS_MAX: usize = 8;
/// Most addresses of one network card.
pub const ADDRESSES_MAX: usize = 64;
/// Most lines of `authorized_keys`.
pub const SSH_KEYS_MAX: usize = 100;
/// Longest line of `authorized_keys`, in bytes.
pub const SSH_KEY_MAX_BYTES: usize = 16 * 1024;
/// Highest limit of operations a second.
pub const IOPS_MAX: u64 = 10_000_000;
/// Lowest limit of bytes a second: a guest must come up.
pub const DISK_RATE_MIN: ByteSize = ByteSize(64 * 1024);
/// Highest limit of bytes a second.
pub const DISK_RATE_MAX: ByteSize = ByteSize::gib(1024);
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
    volumes(&spec.volumes, &mut faults);
    nics(&spec.nics, &mut faults);
    seed(&spec.seed, &mut faults);
    headroom(spec, &mut faults);
    limits(&spec.limits, "limits.", &mut faults);
    hardware(&spec.hardware, &mut faults);
    let iso = spec.iso.as_ref().is_none_or(|iso| is_sha256(iso));
    faults.unless(iso, "iso", ISO_RULE);
    if let Some(rescue) = &spec.rescue {
        faults.unless(is_sha256(&rescue.image), "rescue.image", SHA256_RULE);
        let hash = is_password_hash(&rescue.root_password_hash);
        faults.unless(hash, "rescue.root_password_hash", PASSWORD_HASH_RULE);
        ssh_keys(&rescue.ssh_keys, "rescue.", &mut faults);
    }
    faults.unless(!(spec.failover && spec.autostart), "autostart", AUTOSTART_RULE);
    if let Some(place) = &spec.place {
        faults.unless(is_place(&place.region), "place.region", PLACE_RULE);
        faults.unless(is_place(&place.availability_zone), "place.availability_zone", PLACE_RULE);
    }
    faults.unless(spec.title.as_deref().is_none_or(is_title), "title", TITLE_RULE);
    faults.0
}

/// The same of a spec that stands within a request; `before` is what its fields' names begin with there.
pub fn faults_of(before: &str, spec: &VmSpec) -> Vec<FieldError> {
    let named = |fault: FieldError| FieldError { name: format!("{before}{}", fault.name), ..fault };
    faults(spec).into_iter().map(named).collect()
}

/// What is wrong with a seed.
pub fn seed_faults(of: &VmSeed) -> Vec<FieldError> {
    let mut faults = Faults::default();
    seed(of, &mut faults);
    faults.0
}

/// What is wrong with limits that stand alone.
pub fn limits_faults(limits_given: &VmLimits) -> Vec<FieldError> {
    let mut faults = Faults::default();
    limits(limits_given, "", &mut faults);
    faults.0
}

/// What is wrong with keys that stand alone.
pub fn ssh_keys_faults(keys: &[String]) -> Vec<FieldError> {
    let mut faults = Faults::default();
    ssh_keys(keys, "", &mut faults);
    faults.0
}

fn headroom(spec: &VmSpec, faults: &mut Faults) {
    let vcpus = spec.vcpus_max.is_none_or(|max| (spec.vcpus..=VCPUS_MAX).contains(&max));
    faults.unless(
        vcpus,
        "vcpus_max",
        "A VM grows to its own number of virtual CPUs or more, and to 128 at most.",
    );
    let memory =
        |max: ByteSize| (spec.memory..=MEMORY_MAX).contains(&max) && max.0.is_multiple_of(ByteSize::mib(1).0);
    faults.unless(
        spec.memory_max.is_none_or(memory),
        "memory_max",
        "A VM grows to its own memory or more, a whole number of MiB, and to 16 TiB at most.",
    );
}

fn limits(limits: &VmLimits, prefix: &str, faults: &mut Faults) {
    let mut check =
        |fine: bool, field: &str, rule: &str| faults.unless(fine, &format!("{prefix}{field}"), rule);
    check(
        limits.cpu_percent.is_none_or(|percent| (1..=VCPUS_MAX * 100).contains(&percent)),
        "cpu_percent",
        "CPU time is limited to 1 to 12,800 percent of one core.",
    );
    check(
        limits.cpu_weight.is_none_or(|weight| (1..=10_000).contains(&weight)),
        "cpu_weight",
        "A weight is 1 to 10,000; 100 is usual.",
    );
    for (iops, field) in
        [(limits.disk_read_iops, "disk_read_iops"), (limits.disk_write_iops, "disk_write_iops")]
    {
        let fine = iops.is_none_or(|iops| (1..=IOPS_MAX).contains(&iops));
        check(fine, field, "Operations are limited to 1 to 10,000,000 a second.");
    }
    let rates = [
        (limits.disk_read_bytes_per_s, "disk_read_bytes_per_s"),
        (limits.disk_write_bytes_per_s, "disk_write_bytes_per_s"),
    ];
    for (rate, field) in rates {
        let fine = rate.is_none_or(|rate| (DISK_RATE_MIN..=DISK_RATE_MAX).contains(&rate));
        check(fine, field, "Throughput is limited to 64 KiB to 1 TiB a second.");
    }
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

/// What is wrong with one network card.
pub fn nic_faults(nic: &Nic) -> Vec<FieldError> {
    let mut faults = Faults::default();
    nics(std::slice::from_ref(nic), &mut faults);
    for fault in &mut faults.0 {
        fault.name = fault.name.trim_start_matches("nics[0].").to_owned();
    }
    faults.0
}

/// How an ISO is named.
pub const ISO_RULE: &str = "An ISO is named by its SHA-256: 64 digits of 0-9 and a-f, lower case.";
/// How a password is given.
pub const PASSWORD_HASH_RULE: &str = "A password is given as a crypt(3) SHA-512 hash, which begins with $6$.";
/// What may start by itself.
pub const AUTOSTART_RULE: &str =
    "A VM that is marked for failover does not start with its node: it may run elsewhere by then.";
/// What a title may be.
pub const TITLE_RULE: &str = "A title is one line of 1 to 128 characters.";
/// What a machine may be called.
pub const MACHINE_RULE: &str =
    "A machine is q35 or pc, or one of their versions, like pc-q35-7.2 or pc-i440fx-7.2.";
/// What a processor may be called.
pub const CPU_RULE: &str =
    "A processor is auto, host_passthrough, or a name of letters, digits, dots and hyphens.";
/// What a boot order may be.
pub const BOOT_RULE: &str = "A boot order names disk, iso and network, each at most once, and at least one.";

/// What a place may be called.
pub const PLACE_RULE: &str = "A place has 1 to 63 letters, digits, hyphens and dots.";

/// May a place be called this?
pub fn is_place(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
}

/// Is this a crypt(3) SHA-512 hash?
pub fn is_password_hash(text: &str) -> bool {
    text.starts_with("$6$")
        && text.len() <= 256
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"$./=".contains(&b))
}

/// Is this a title?
pub fn is_title(text: &str) -> bool {
    (1..=128).contains(&text.chars().count())
        && !text.trim().is_empty()
        && !text.chars().any(char::is_control)
}

/// May a machine be called this?
pub fn is_machine(text: &str) -> bool {
    let version = text.strip_prefix("pc-q35-").or_else(|| text.strip_prefix("pc-i440fx-"));
    let is_version =
        |text: &str| (1..=8).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    matches!(text, "q35" | "pc") || version.is_some_and(is_version)
}

/// May a processor be called this?
pub fn is_cpu(text: &str) -> bool {
    matches!(text, "auto" | "host_passthrough")
        || (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
            && text.as_bytes()[0].is_ascii_alphanumeric()
}

/// Is this a boot order?
pub fn is_boot_order(boot: &[BootDevice]) -> bool {
    let mut seen = HashSet::new();
    !boot.is_empty() && boot.iter().all(|device| seen.insert(device))
}

fn hardware(hardware: &Hardware, faults: &mut Faults) {
    faults.unless(is_machine(&hardware.machine), "hardware.machine", MACHINE_RULE);
    faults.unless(is_cpu(&hardware.cpu), "hardware.cpu", CPU_RULE);
    faults.unless(is_boot_order(&hardware.boot), "hardware.boot", BOOT_RULE);
}

/// What a host name may be.
pub const HOSTNAME_RULE: &str =
    "A host name has letters, digits, hyphens and dots, and at most 63 characters between dots.";

/// Is this a host name?
pub fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

fn volumes(volumes: &[VolumeAttachment], faults: &mut Faults) {
    faults.unless(volumes.len() <= VOLUMES_MAX, "volumes", "A VM has at most 16 volumes.");
    let mut seen = HashSet::new();
    for (n, attachment) in volumes.iter().enumerate().take(VOLUMES_MAX) {
        let field = format!("volumes[{n}].volume");
        let id = attachment.volume;
        faults.unless(VolumeId::read(&id.to_string()).is_some(), &field, VolumeId::RULE);
        faults.unless(seen.insert(id), &field, "A volume is named twice.");
    }
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
        for fault in network::nic_faults(nic, &format!("nics[{n}]")) {
            faults.0.push(fault);
        }
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
    faults.unless(is_hostname(&seed.hostname), "seed.hostname", HOSTNAME_RULE);
    ssh_keys(&seed.ssh_keys, "seed.", faults);
    faults.unless(
        seed.root_password_hash.as_deref().is_none_or(is_password_hash),
        "seed.root_password_hash",
        PASSWORD_HASH_RULE,
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

fn ssh_keys(keys: &[String], prefix: &str, faults: &mut Faults) {
    let field = format!("{prefix}ssh_keys");
    faults.unless(keys.len() <= SSH_KEYS_MAX, &field, "A VM takes at most 100 SSH keys.");
    for (n, key) in keys.iter().enumerate().take(SSH_KEYS_MAX) {
        let line =
            !key.trim().is_empty() && key.len() <= SSH_KEY_MAX_BYTES && !key.chars().any(char::is_control);
        faults.unless(line, &format!("{field}[{n}]"), "An SSH key is one line of at most 16 KiB.");
    }
}

fn is_mac(text: &str) -> bool {
    let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let pairs: Vec<&[u8]> = text.split(':').map(str::as_bytes).collect();
    pairs.len() == 6
        && pairs.iter().all(|pair| matches!(pair, [a, b] if lower_hex(*a) && lower_hex(*b)))
        && u8::from_str_radix(&text[..2], 16).is_ok_and(|first| first & 1 == 0)
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
