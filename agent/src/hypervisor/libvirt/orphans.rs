//! What crashes left of VMs: in libvirt, in the VMs' folders, and where libvirt keeps files by domain.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use berth_model::agent::Name;
use berth_model::{Timestamp, VmId};

use super::folder::gone;
use super::names::{Prefix, vm_id};
use super::ops::{on_disk, refused};
use super::{Libvirt, QEMU_LOGS, backup};
use crate::hypervisor::{Hypervisor, HypervisorError};
use crate::orphans::{Found, is_old};

/// What is known of VMs when leftovers are looked for.
struct Known {
    folders: BTreeSet<VmId>,
    domains: BTreeSet<VmId>,
    awaited: BTreeMap<VmId, Timestamp>,
}

impl Known {
    fn has(&self, id: VmId) -> bool {
        self.folders.contains(&id) || self.domains.contains(&id)
    }
}

type Finder = for<'a> fn(&'a Libvirt, &Known) -> Result<Vec<Found<'a>>, HypervisorError>;

/// Who finds what; each kind of leftover is one of them.
const FINDERS: [Finder; 9] =
    [folders, domains, unfinished, files_by_domain, interfaces, copies_of_images, volumes, lent_disks, rooms];

/// Where libvirt keeps a file for each domain: what it is, the folder, and what follows the domain's name.
const FILES_BY_DOMAIN: [(&str, &str, &str); 3] = [
    ("log", QEMU_LOGS, ".log"),
    ("firmware settings", "/var/lib/libvirt/qemu/nvram", "_VARS."),
    ("saved memory", "/var/lib/libvirt/qemu/save", ".save"),
];

/// All of it.
pub fn find(libvirt: &Libvirt) -> Result<Vec<Found<'_>>, HypervisorError> {
    let connect = libvirt.connection.get()?;
    let all = connect.list_all_domains(0).map_err(|e| refused("list the VMs", &e))?;
    let names = all.iter().filter_map(|domain| domain.name().ok());
    let known = Known {
        folders: libvirt.folders.list().map_err(on_disk)?.into_iter().collect(),
        domains: names.filter_map(|name| libvirt.prefix.vm(&name)).collect(),
        awaited: libvirt.rooms()?.into_iter().collect(),
    };
    let mut found = Vec::new();
    for finder in FINDERS {
        found.extend(finder(libvirt, &known)?);
    }
    Ok(found)
}

/// Interfaces that bear the agent's mark.
fn interfaces<'a>(libvirt: &'a Libvirt, _: &Known) -> Result<Vec<Found<'a>>, HypervisorError> {
    let Some(plane) = libvirt.plane()? else { return Ok(Vec::new()) };
    let why = "No VM's network card and no private network needs it.";
    let found = |name: String| {
        let interface = name.clone();
        Found::new("interface", name, why, move || plane.remove_orphan(&interface))
    };
    Ok(plane.state()?.orphans.into_iter().map(found).collect())
}

/// Pools' own copies of images whose file is not on the node.
fn copies_of_images<'a>(libvirt: &'a Libvirt, _: &Known) -> Result<Vec<Found<'a>>, HypervisorError> {
    let storage = libvirt.storage();
    // A pool that does not answer is the self-check's business.
    let unused = storage.unused_images().unwrap_or_else(|e| {
        tracing::warn!(error = %e, "pools' copies of images could not be looked at");
        Vec::new()
    });
    let why = "No disk stands on it, and the image is not on this node.";
    let is_file = |sha256: &str| libvirt.config.images_dir.join(format!("{sha256}.qcow2")).exists();
    let unused = unused.into_iter().filter(|(_, sha256)| !is_file(sha256));
    let found = |(pool, sha256): (Name, String)| {
        Found::new("copy of an image", format!("{pool}/{sha256}"), why, move || storage.forget_image(&sha256))
    };
    Ok(unused.map(found).collect())
}

/// Volumes that were not made or deleted to their end, that a VM has which is gone, or that no record names.
fn volumes<'a>(libvirt: &'a Libvirt, known: &Known) -> Result<Vec<Found<'a>>, HypervisorError> {
    let storage = libvirt.storage();
    let left = storage.left_behind(|vm| known.has(vm))?.into_iter();
    Ok(left
        .map(|left| Found::new(left.kind(), left.name(), left.why(), move || storage.clear(&left)))
        .collect())
}

/// Disks that QEMU or the agent lends over NBD, to a function that is gone.
fn lent_disks<'a>(libvirt: &'a Libvirt, known: &Known) -> Result<Vec<Found<'a>>, HypervisorError> {
    let connect = libvirt.connection.get()?;
    let mut found = Vec::new();
    for id in known.folders.intersection(&known.domains).copied() {
        let socket = libvirt.folders.of(id).path().join("nbd.sock");
        if is_old(&socket) {
            found.push(file("lent disk", socket, "The function that lent the VM's disk is gone.").of(id));
        }
        let Some(domain) = libvirt.domain(&connect, id)? else { continue };
        if libvirt.is_test_driver() || !backup::has_job(&domain) {
            continue;
        }
        let why = "QEMU lends the VM's disk to a backup that is gone.";
        let name = libvirt.prefix.domain(id);
        found.push(Found::new("lent disk", name, why, move || backup::end_job(&domain)).of(id));
    }
    Ok(found)
}

/// VMs whose making or deleting was cut off and never told again.
fn folders<'a>(libvirt: &'a Libvirt, known: &Known) -> Result<Vec<Found<'a>>, HypervisorError> {
    let half_made = known.folders.difference(&known.domains).copied();
    let old = half_made
        .filter(|id| !known.awaited.contains_key(id) && is_old(libvirt.folders.of(*id).path()))
        .collect::<Vec<_>>()
        .into_iter();
    let why = "It has a folder and no domain: it was not made or not deleted to its end.";
    // What is found and what is removed are minutes apart.
    let remove = move |id: VmId| match libvirt.domain(&libvirt.connection.get()?, id)? {
        Some(_) => Err(HypervisorError::Conflict("It was made to its end meanwhile.".to_owned())),
        None => libvirt.delete(id),
    };
    let found = |id: VmId| Found::new("half-made VM", id.to_string(), why, move || remove(id)).of(id);
    Ok(old.map(found).collect())
}

/// Rooms for VMs that did not come.
fn rooms<'a>(libvirt: &'a Libvirt, known: &Known) -> Result<Vec<Found<'a>>, HypervisorError> {
    let empty = known.awaited.iter().filter(|(id, _)| !known.domains.contains(id));
    let old = empty.filter(|(id, _)| is_old(libvirt.folders.of(**id).path()));
    let found = |(id, until): (&VmId, &Timestamp)| {
        let (id, why) = (*id, format!("It did not come from its node. The room goes by itself at {until}."));
        Found::new("room for a VM", id.to_string(), &why, move || libvirt.clear_room(id)).of(id)
    };
    Ok(old.map(found).collect())
}

/// Domains without files.
fn domains<'a>(libvirt: &'a Libvirt, known: &Known) -> Result<Vec<Found<'a>>, HypervisorError> {
    let bare = known.domains.difference(&known.folders).copied();
    let remove = move |id: VmId| {
        if libvirt.folders.of(id).exists().map_err(on_disk)? {
            return Err(HypervisorError::Conflict("It has a folder again.".to_owned()));
        }
        let runs = libvirt.get(id)?.state.is_on();
        if runs {
            return Err(HypervisorError::Conflict("It runs; power it off first.".to_owned()));
        }
        libvirt.delete(id)
    };
    let why = "The domain has no folder: its disk is gone.";
    let found = |id: VmId| Found::new("domain", libvirt.prefix.domain(id), why, move || remove(id)).of(id);
    Ok(bare.map(found).collect())
}

/// What was being made in a VM's folder.
fn unfinished<'a>(libvirt: &'a Libvirt, known: &Known) -> Result<Vec<Found<'a>>, HypervisorError> {
    let mut found = Vec::new();
    for id in known.folders.intersection(&known.domains) {
        for path in entries(libvirt.folders.of(*id).path())? {
            if path.extension().is_some_and(|extension| extension == "new") && is_old(&path) {
                let why = "It was being made when the agent was cut off.";
                found.push(file("unfinished file", path, why).of(*id));
            }
        }
    }
    Ok(found)
}

/// Files that libvirt keeps by a domain's name.
fn files_by_domain<'a>(libvirt: &'a Libvirt, known: &Known) -> Result<Vec<Found<'a>>, HypervisorError> {
    let mut found = Vec::new();
    if libvirt.config.uri != "qemu:///system" {
        return Ok(found);
    }
    for (kind, folder, suffix) in FILES_BY_DOMAIN {
        for path in entries(Path::new(folder))? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let of_none = vm_of_file(&libvirt.prefix, name, suffix).filter(|id| !known.has(*id));
            if let Some(id) = of_none
                && is_old(&path)
            {
                found.push(file(kind, path, "Its VM is not there any more.").of(id));
            }
        }
    }
    Ok(found)
}

fn file<'a>(kind: &str, path: PathBuf, why: &str) -> Found<'a> {
    let name = path.to_string_lossy().into_owned();
    Found::new(kind, name, why, move || {
        let removed =
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        gone(removed).map_err(on_disk)
    })
}

/// The VM that a file `{prefix}{id}{suffix}…` belongs to.
fn vm_of_file(prefix: &Prefix, name: &str, suffix: &str) -> Option<VmId> {
    let (domain, _) = name.split_once(suffix)?;
    vm_id(domain.strip_prefix(prefix.domain_prefix())?)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, HypervisorError> {
    match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => {
            entries.and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect()).map_err(on_disk)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_our_domains_are_ours() {
        let _proof = crate::proof::pure(&["node.orphans"]);
        let prefix = Prefix::new("berth-").unwrap();
        let of = |name, suffix| vm_of_file(&prefix, name, suffix);
        assert_eq!(of("berth-7.log", ".log"), Some(VmId(7)));
        assert_eq!(of("berth-7.log.0", ".log"), Some(VmId(7)));
        assert_eq!(of("berth-12_VARS.fd", "_VARS."), Some(VmId(12)));
        for other in ["berth-7", "berth-x.log", "other-7.log", "berth-07.log", "xberth-7.log", "7.log"] {
            assert_eq!(of(other, ".log"), None, "{other}");
        }
    }
}
