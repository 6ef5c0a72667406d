//! The seed: a small CD image with the label `cidata` that cloud-init reads (its NoCloud source).
//!
//! | file | holds |
//! | --- | --- |
//! | `meta-data` | instance id, host name, SSH keys |
//! | `user-data` | the customer's own, byte for byte; ours when there is none |
//! | `vendor-data` | ours, when the customer has their own |
//! | `network-config` | addresses by MAC |
//!
//! cloud-init applies user data over vendor data, key by key, so both apply, and the customer's word
//! wins. Keys and host name stand in the meta-data as well: there no user data hides them.
//!
//! The instance id follows from the VM and its image alone. A changed key or address does not make a
//! running system a new instance, which would run the customer's user data again.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr::{self, V4, V6};
use std::path::Path;
use std::time::SystemTime;

use berth_model::agent::{Nic, NicRoute, Rescue, VmSeed, VmSpec};
use berth_model::{VmId, VolumeId};

use super::folder::Folder;
use super::ops::not_done;
use super::tool;
use crate::hypervisor::HypervisorError;
use crate::storage;

/// Digits of the image's checksum in the instance id.
const IMAGE_DIGITS: usize = 12;

/// The seed's files, in the order in which they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// Names and contents.
    pub files: Vec<(&'static str, String)>,
}

impl Seed {
    /// What a VM's cloud-init shall read.
    pub fn new(id: VmId, spec: &VmSpec) -> Self {
        let ours = cloud_config(&spec.seed);
        let mut files = vec![
            ("meta-data", meta_data(&instance(id, spec), spec)),
            ("network-config", network_config(&spec.nics, &spec.seed)),
        ];
        match &spec.seed.user_data {
            Some(theirs) => files.extend([("user-data", theirs.clone()), ("vendor-data", ours)]),
            None => files.push(("user-data", ours)),
        }
        Self { files }
    }

    /// What the rescue system of a VM shall read: the VM's name and addresses, and its own ways in for root.
    pub fn of_rescue(id: VmId, spec: &VmSpec, rescue: &Rescue) -> Self {
        let hash = &rescue.root_password_hash;
        let seed = VmSeed {
            ssh_keys: rescue.ssh_keys.clone(),
            root_password_hash: Some(hash.clone()),
            user_data: None,
            ..spec.seed.clone()
        };
        let spec = VmSpec { seed, ..spec.clone() };
        let mut seed = Self::new(id, &spec);
        seed.files[0].1 = meta_data(&rescue_instance(id, rescue), &spec);
        seed
    }

    /// Brings the seed in `folder` to this one. Told twice, the file stays as it is.
    pub fn put(&self, folder: &Folder) -> Result<(), HypervisorError> {
        self.put_at(folder, &folder.seed())
    }

    /// The same with the file `path` in `folder`.
    pub fn put_at(&self, folder: &Folder, path: &Path) -> Result<(), HypervisorError> {
        let wrong = |e: io::Error| not_done("could not write the seed", &e);
        // Holds the customer's user data: readable for us alone, and gone at the end.
        let work = tempfile::Builder::new()
            .prefix("seed-")
            .suffix(".new")
            .tempdir_in(folder.path())
            .map_err(wrong)?;
        let (files, image) = (work.path().join("files"), work.path().join("image"));
        self.write_files(&files).map_err(wrong)?;
        let fixed =
            ["-as", "mkisofs", "-quiet", "-V", "cidata", "-J", "-r", "-no-pad", "-o"].map(AsRef::as_ref);
        let args = fixed.into_iter().chain([image.as_os_str(), files.as_os_str()]);
        tool::run("xorriso", "xorriso", args)?;
        let new = fs::read(&image).map_err(wrong)?;
        if fs::read(path).is_ok_and(|old| old == new) {
            return Ok(());
        }
        folder.put(path, |path| fs::rename(&image, path)).map_err(wrong)
    }

    /// All dates are one, so that the same seed is the same image.
    fn write_files(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir(folder)?;
        for (name, content) in &self.files {
            let path = folder.join(name);
            fs::write(&path, content)?;
            File::open(path)?.set_modified(SystemTime::UNIX_EPOCH)?;
        }
        File::open(folder)?.set_modified(SystemTime::UNIX_EPOCH)
    }
}

/// A VM's instance id: another one for another image.
pub fn instance(id: VmId, spec: &VmSpec) -> String {
    let image: String = spec.image.sha256.chars().take(IMAGE_DIGITS).collect();
    format!("berth-{id}-{image}")
}

/// That of its rescue: one of its own for each password.
pub fn rescue_instance(id: VmId, rescue: &Rescue) -> String {
    let hash = rescue.root_password_hash.bytes().rev();
    let digits: String = hash.filter(u8::is_ascii_alphanumeric).take(IMAGE_DIGITS).map(char::from).collect();
    format!("berth-{id}-rescue-{digits}")
}

fn meta_data(instance: &str, spec: &VmSpec) -> String {
    let mut out = format!("instance-id: {instance}\n");
    line(&mut out, format_args!("local-hostname: {}", quoted(&spec.seed.hostname)));
    list(&mut out, "public-keys", &spec.seed.ssh_keys);
    out
}

/// Our part of the cloud-config.
pub fn cloud_config(seed: &VmSeed) -> String {
    let mut out = String::from("#cloud-config\n");
    line(&mut out, format_args!("hostname: {}", quoted(&seed.hostname)));
    // Of "mail.example.org" cloud-init makes the host name "mail", and writes both to /etc/hosts.
    out.push_str("manage_etc_hosts: localhost\ndisable_root: false\n");
    // An image without locales fails on any other value.
    out.push_str("locale: false\n");
    list(&mut out, "ssh_authorized_keys", &seed.ssh_keys);
    if !seed.mounts.is_empty() {
        out.push_str("mounts:\n");
    }
    for volume in &seed.mounts {
        let (device, name) = (device_of(*volume), storage::serial(*volume));
        line(&mut out, format_args!("  - [{device}, /mnt/{name}, auto, \"discard,nofail,defaults\"]"));
    }
    if let Some(hash) = &seed.root_password_hash {
        out.push_str("chpasswd:\n  expire: false\n  users:\n    - name: root\n      type: hash\n");
        line(&mut out, format_args!("      password: {}", quoted(hash)));
        if seed.ssh_keys.is_empty() {
            // Else the password would open the console alone, and nobody could sign in by SSH.
            out.push_str(
                "ssh_pwauth: true\nwrite_files:\n  - path: /etc/ssh/sshd_config.d/50-root-password.conf\n",
            );
            out.push_str("    content: \"PermitRootLogin yes\\n\"\n");
        }
    }
    out
}

/// Where a guest finds a volume: udev's name for its serial number.
fn device_of(volume: VolumeId) -> String {
    format!("/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_{}", storage::serial(volume))
}

/// Network configuration, version 2.
fn network_config(nics: &[Nic], seed: &VmSeed) -> String {
    let mut out = String::from("version: 2\n");
    out.push_str(if nics.is_empty() { "ethernets: {}\n" } else { "ethernets:\n" });
    for (n, nic) in nics.iter().enumerate() {
        line(&mut out, format_args!("  nic{n}:\n    match:\n      macaddress: {}", quoted(&nic.mac)));
        line(&mut out, format_args!("    dhcp4: {}", nic.addresses.is_empty()));
        if nic.addresses.is_empty() {
            continue;
        }
        out.push_str("    addresses:\n");
        for address in &nic.addresses {
            let text = format!("{}/{}", address.ip, address.prefix);
            line(
                &mut out,
                format_args!("      - {}", if address.ip.is_ipv4() { text } else { quoted(&text) }),
            );
        }
        let mut routes = String::new();
        for address in &nic.addresses {
            let Some(gateway) = address.gateway else { continue };
            let everywhere = if gateway.is_ipv4() { "0.0.0.0/0" } else { "\"::/0\"" };
            let mut route = format!("      - to: {everywhere}\n        via: {}\n", address_text(gateway, ""));
            if !in_network(gateway, address.ip, address.prefix) {
                route.push_str("        on-link: true\n");
            }
            // Several addresses of one network share their gateway.
            if !routes.contains(&route) {
                routes.push_str(&route);
            }
        }
        for NicRoute { to, via } in &nic.routes {
            line(&mut routes, format_args!("      - to: {to}\n        via: {via}"));
        }
        if !routes.is_empty() {
            out.push_str("    routes:\n");
            out.push_str(&routes);
        }
        if !seed.name_servers.is_empty() {
            out.push_str("    nameservers:\n      addresses:\n");
            for server in &seed.name_servers {
                line(&mut out, format_args!("        - {}", address_text(*server, "")));
            }
        }
    }
    out
}

/// An address and what follows it. Those with colons are quoted.
fn address_text(ip: IpAddr, rest: &str) -> String {
    let text = format!("{ip}{rest}");
    if ip.is_ipv4() { text } else { quoted(&text) }
}

/// Do both addresses stand in one network of this prefix?
fn in_network(a: IpAddr, b: IpAddr, prefix: u8) -> bool {
    let same = |a: u128, b: u128, bits: u32| {
        let rest = bits.saturating_sub(u32::from(prefix));
        a.checked_shr(rest).unwrap_or(0) == b.checked_shr(rest).unwrap_or(0)
    };
    match (a, b) {
        (V4(a), V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
        (V6(a), V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a String takes everything");
}

fn list(out: &mut String, key: &str, items: &[String]) {
    if items.is_empty() {
        return;
    }
    line(out, format_args!("{key}:"));
    for item in items {
        line(out, format_args!("  - {}", scalar(item.trim())));
    }
}

/// A text in YAML: plain where that is safe, which keeps SSH keys readable for simple readers too.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || " @._+/=-".contains(c);
    let begins_plainly = text.starts_with(|c: char| c.is_ascii_alphabetic());
    if begins_plainly && text.contains(' ') && text.chars().all(plain) {
        text.to_owned()
    } else {
        quoted(text)
    }
}

/// A text in YAML's double quotes, in ASCII. Not JSON's: YAML knows no pairs of surrogates, and a key's
/// comment may hold any character.
pub fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match (c, u32::from(c)) {
            ('"' | '\\', _) => quoted.extend(['\\', c]),
            (' '..='~', _) => quoted.push(c),
            (_, code @ ..=0xffff) => quoted.push_str(&format!("\\u{code:04x}")),
            (_, code) => quoted.push_str(&format!("\\U{code:08x}")),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests;
