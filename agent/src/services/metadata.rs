//! What the metadata service says: a tree of texts, made from the VM's spec when it is asked for.
//!
//! | path | holds |
//! | --- | --- |
//! | `/hetzner/v1/metadata` | all of it as YAML; `…/hostname` and the like one by one |
//! | `/hetzner/v1/userdata` | the customer's user data |
//! | `/latest/meta-data/…`, `/latest/user-data` | the same in EC2's shape; a folder lists what is in it |
//!
//! Every process in the guest can ask. So root's password is not in it, not even as a hash: that stands in
//! the seed, which root alone can read. In rescue it says no more than the rescue's seed does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use berth_model::VmId;
use berth_model::agent::{Nic, VmSeed, VmSpec};
use ipnet::IpNet;

use crate::hypervisor::libvirt::seed;

/// The texts, by path.
pub struct Metadata(BTreeMap<String, String>);

impl Metadata {
    /// What a VM is told of itself.
    pub fn new(id: VmId, spec: &VmSpec) -> Self {
        let seed = public_seed(spec);
        let instance = match &spec.rescue {
            None => seed::instance(id, spec),
            Some(rescue) => seed::rescue_instance(id, rescue),
        };
        let mut tree = Self(BTreeMap::new());
        tree.hetzner(&instance, spec, &seed);
        tree.ec2(&instance, spec, &seed);
        tree
    }

    /// The text at a path; of a folder, what is in it, a name a line.
    pub fn get(&self, path: &str) -> Option<String> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let path = match parts.split_first() {
            Some((version, rest)) if is_version(version) => [&["latest"], rest].concat().join("/"),
            _ => parts.join("/"),
        };
        if let Some(text) = self.0.get(&path) {
            return Some(text.clone());
        }
        let folder = if path.is_empty() { String::new() } else { format!("{path}/") };
        let inside = self.0.keys().filter_map(|key| key.strip_prefix(&folder));
        let name = |rest: &str| match rest.split_once('/') {
            Some((name, _)) => format!("{name}/"),
            None => rest.to_owned(),
        };
        let mut names: BTreeSet<String> = inside.map(name).collect();
        // What is both a text and a folder is listed as a folder.
        names.retain({
            let folders: Vec<String> = names.iter().filter(|name| name.ends_with('/')).cloned().collect();
            move |name| !folders.contains(&format!("{name}/"))
        });
        (!names.is_empty()).then(|| names.into_iter().collect::<Vec<_>>().join("\n"))
    }

    fn put(&mut self, path: &str, text: impl Into<String>) {
        self.0.insert(path.to_owned(), text.into());
    }

    fn hetzner(&mut self, instance: &str, spec: &VmSpec, seed: &VmSeed) {
        let mut all = String::new();
        let mut tell = |tree: &mut Self, key: &str, value: String, in_yaml: String| {
            let _infallible = writeln!(all, "{key}: {in_yaml}");
            tree.put(&format!("hetzner/v1/metadata/{key}"), value);
        };
        tell(self, "instance-id", instance.to_owned(), instance.to_owned());
        tell(self, "hostname", seed.hostname.clone(), seed::quoted(&seed.hostname));
        if let Some(place) = &spec.place {
            tell(self, "region", place.region.clone(), seed::quoted(&place.region));
            let zone = &place.availability_zone;
            tell(self, "availability-zone", zone.clone(), seed::quoted(zone));
        }
        for (key, v4) in [("public-ipv4", true), ("public-ipv6", false)] {
            if let Some(ip) = addresses(spec, false).find(|ip| ip.is_ipv4() == v4) {
                tell(self, key, ip.to_string(), format!("\"{ip}\""));
            }
        }
        if let Some(ip) = addresses(spec, true).find(IpAddr::is_ipv4) {
            tell(self, "local-ipv4", ip.to_string(), format!("\"{ip}\""));
        }
        // JSON in one line is YAML, too; but for pairs of surrogates, which `quoted` does not write.
        let keys: Vec<_> = seed.ssh_keys.iter().map(|key| seed::quoted(key.trim())).collect();
        let keys = format!("[{}]", keys.join(", "));
        tell(self, "public-keys", keys.clone(), keys);
        let networks = private_networks(spec);
        tell(self, "private-networks", networks.clone(), networks);
        let ours = seed::cloud_config(seed);
        let quoted = seed::quoted(&ours);
        tell(self, "vendor_data", ours, quoted);
        self.put("hetzner/v1/metadata", all);
        self.put("hetzner/v1/userdata", seed.user_data.clone().unwrap_or_default());
    }

    fn ec2(&mut self, instance: &str, spec: &VmSpec, seed: &VmSeed) {
        let mut tell = |key: &str, text: String| self.put(&format!("latest/meta-data/{key}"), text);
        tell("instance-id", instance.to_owned());
        for key in ["hostname", "local-hostname"] {
            tell(key, seed.hostname.clone());
        }
        if let Some(nic) = spec.nics.first() {
            tell("mac", nic.mac.clone());
        }
        let public = addresses(spec, false).find(IpAddr::is_ipv4);
        if let Some(ip) = public {
            tell("public-ipv4", ip.to_string());
        }
        if let Some(ip) = addresses(spec, true).find(IpAddr::is_ipv4).or(public) {
            tell("local-ipv4", ip.to_string());
        }
        if let Some(place) = &spec.place {
            tell("placement/region", place.region.clone());
            tell("placement/availability-zone", place.availability_zone.clone());
        }
        for (n, key) in seed.ssh_keys.iter().enumerate() {
            tell(&format!("public-keys/{n}/openssh-key"), key.trim().to_owned());
        }
        if !seed.ssh_keys.is_empty() {
            let names: Vec<_> = (0..seed.ssh_keys.len()).map(|n| format!("{n}=key-{n}")).collect();
            tell("public-keys", names.join("\n"));
        }
        for (n, nic) in spec.nics.iter().enumerate() {
            let mut of_card =
                |key: &str, text| tell(&format!("network/interfaces/macs/{}/{key}", nic.mac), text);
            of_card("device-number", n.to_string());
            of_card("mac", nic.mac.clone());
            let kind = if nic.private.is_some() { "local-ipv4s" } else { "public-ipv4s" };
            for (key, v4) in [(kind, true), ("ipv6s", false)] {
                let of_family = |ip: &IpAddr| ip.is_ipv4() == v4;
                let ips: Vec<_> = of(nic).filter(of_family).map(|ip| ip.to_string()).collect();
                if !ips.is_empty() {
                    of_card(key, ips.join("\n"));
                }
            }
        }
        if let Some(user_data) = &seed.user_data {
            self.put("latest/user-data", user_data.clone());
        }
    }
}

/// The seed without what only root may know.
fn public_seed(spec: &VmSpec) -> VmSeed {
    let seed = VmSeed { root_password_hash: None, ..spec.seed.clone() };
    match spec.rescue {
        None => seed,
        Some(_) => VmSeed { ssh_keys: Vec::new(), user_data: None, ..seed },
    }
}

/// `2009-04-04`, `1.0`: EC2's names for what `latest` holds.
fn is_version(text: &str) -> bool {
    let date = text.len() == 10
        && text
            .bytes()
            .enumerate()
            .all(|(n, b)| if n == 4 || n == 7 { b == b'-' } else { b.is_ascii_digit() });
    date || text == "1.0"
}

fn of(nic: &Nic) -> impl Iterator<Item = IpAddr> {
    nic.addresses.iter().map(|address| address.ip)
}

/// Addresses of public cards, or of private ones.
fn addresses(spec: &VmSpec, private: bool) -> impl Iterator<Item = IpAddr> {
    spec.nics.iter().filter(move |nic| nic.private.is_some() == private).flat_map(of)
}

fn private_networks(spec: &VmSpec) -> String {
    let cards = spec.nics.iter().enumerate().filter_map(|(n, nic)| {
        let (network, address) = (nic.private?, nic.addresses.first()?);
        let range = IpNet::new(address.ip, address.prefix).ok()?.trunc();
        Some(format!(
            "{{\"ip\": \"{}\", \"interface_num\": {n}, \"mac_address\": \"{}\", \"network_id\": {network}, \
             \"network\": \"{range}\"}}",
            address.ip, nic.mac
        ))
    });
    format!("[{}]", cards.collect::<Vec<_>>().join(", "))
}
