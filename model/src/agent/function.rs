//! What a function of the agent is, and the list of all of them.
//!
//! A function is a request and its answer: a name (`vm.resize`), a method and a path, what it works on
//! (the path's names, its [`Target`]), what is asked (the body) and what is answered. The agent's
//! routes, its command line, its OpenAPI document, its README and the control plane's client are all
//! made from this list, so a function that is not in it cannot be reached in any way.

#[macro_use]
mod list;
mod target;

use serde::{Deserialize, Serialize};

pub use self::target::{Checksum, Mac, Name, Sha256, Target, TargetValue};
use super::run::RunId;
use super::*;
use crate::{PrivateNetworkId, VmId, VolumeId};

/// A body or an answer.
#[cfg(not(feature = "openapi"))]
pub trait Shape: Serialize + serde::de::DeserializeOwned + Send + 'static {}
#[cfg(not(feature = "openapi"))]
impl<T: Serialize + serde::de::DeserializeOwned + Send + 'static> Shape for T {}

/// A body or an answer, with its schema.
#[cfg(feature = "openapi")]
pub trait Shape: Serialize + serde::de::DeserializeOwned + Send + utoipa::ToSchema + 'static {}
#[cfg(feature = "openapi")]
impl<T: Serialize + serde::de::DeserializeOwned + Send + utoipa::ToSchema + 'static> Shape for T {}

/// No body, or no answer: `204 No Content`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// How a function is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// Reads.
    Get,
    /// Brings something to what the body says.
    Put,
    /// Does something.
    Post,
    /// Leaves nothing of something.
    Delete,
}

impl Method {
    /// HTTP's word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// How a function works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Looks, and changes nothing. Not logged.
    Read,
    /// Changes something, within two minutes.
    Change,
    /// Changes something and may take hours: tells how far it is, and can be cancelled.
    Long,
}

/// A function of the agent.
pub trait Function: 'static {
    /// `vm.resize`: what it is for, and the verb.
    const NAME: &'static str;
    /// Its documentation, a line each; the first is its summary.
    const DOC: &'static [&'static str];
    /// How it works.
    const KIND: Kind;
    /// How it is asked for.
    const METHOD: Method;
    /// Where: `/v1/vms/{vm}/resize`.
    const PATH: &'static str;
    /// What it works on.
    type Target: Target;
    /// What is asked.
    type Request: Shape;
    /// What is answered.
    type Answer: Shape;

    /// One line for lists.
    fn summary() -> &'static str {
        Self::DOC.first().map_or("", |line| line.trim())
    }

    /// The path for a target.
    fn path(target: &Self::Target) -> String {
        fill(Self::PATH, &target.values())
    }
}

/// Puts values into a path's names.
fn fill(path: &str, values: &[String]) -> String {
    let mut values = values.iter();
    let part = |part: &str| match part.starts_with('{') {
        true => values.next().cloned().unwrap_or_default(),
        false => part.to_owned(),
    };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

/// Does something with each function of a list, of which it knows the type.
pub trait Visitor {
    /// The next function.
    fn visit<F: Function>(&mut self);
}

functions! {
    /// The node itself.
    mod node {
        /// Show what the node is and whether it can work.
        ///
        /// Answered from what was seen last, so it answers also while the hypervisor hangs.
        Get = "get" Read Get "/v1/node" (()) Nothing => Node;
        /// Look after everything that the node needs, a sentence each.
        ///
        /// What is not `ok` and is `needed` makes the node unhealthy, too.
        Check = "check" Read Get "/v1/node/check" (()) Nothing => NodeChecks;
        /// Show what the node has, and how much of it is promised to VMs.
        Capacity = "capacity" Read Get "/v1/node/capacity" (()) Nothing => super::Capacity;
        /// Close the node for new VMs, or open it again.
        ///
        /// VMs that are there go on and can be changed. It holds until it is told otherwise, over restarts, too.
        Maintenance = "maintenance" Change Put "/v1/node/maintenance" (()) MaintenanceRequest => Node;
        /// Find what crashes long ago left behind, and remove it only when told.
        ///
        /// What was touched in the last ten minutes is left out: it may be in the making. `conflict` is not
        /// answered: what cannot be removed is listed with the reason.
        Orphans = "orphans" Change Post "/v1/node/orphans" (()) OrphansRequest => OrphanList;
        /// Replace the agent by another version, and go back by itself if that does not work.
        ///
        /// Answered once the file is fetched and checked; then the agent tries the new version in its own
        /// place, and keeps it if it is healthy in time. VMs keep running. `node.update_status` tells the end.
        Update = "update" Long Post "/v1/node/update" (()) UpdateRequest => super::UpdateStatus;
        /// Show how the last update of the agent went; `not_found` when there was none.
        UpdateStatus = "update_status" Read Get "/v1/node/update" (()) Nothing => super::UpdateStatus;
        /// Grant the node its lease, or renew it: without one, VMs marked for failover do not run.
        ///
        /// Counted from the moment in the grant, by the node's own clock; told twice, it ends the same, and a
        /// grant that comes late changes nothing. `conflict` when a newer term was granted, when the moment is
        /// of another boot, or when so much time went by since that nothing would be left of the lease. Not
        /// logged.
        Lease = "lease" Change Put "/v1/node/lease" (()) LeaseGrant => NodeLease;
        /// Show the node's lease, how long it lasts, and which VMs are marked for failover.
        LeaseStatus = "lease_status" Read Get "/v1/node/lease" (()) Nothing => NodeLease;
        /// Let the node go without a lease: VMs marked for failover run as any other.
        ///
        /// For an installation that gives failover up. Fine when there is none. Nothing is started by it.
        LeaseEnd = "lease_end" Change Delete "/v1/node/lease" (()) Nothing => NodeLease;
    }

    /// Virtual machines.
    mod vm {
        /// List all VMs, also half-made ones.
        List = "list" Read Get "/v1/vms" (()) Nothing => VmList;
        /// Show one VM.
        ///
        /// `not_found` when nothing of it is there.
        Get = "get" Read Get "/v1/vms/{vm}" (VmId) Nothing => Vm;
        /// Bring a VM to what a specification says, made anew if need be.
        ///
        /// What a running guest allows is changed at once; the rest waits for its next start, and the answer
        /// names it in `pending`. Told twice, it ends the same.
        Put = "put" Change Put "/v1/vms/{vm}" (VmId) VmSpec => Vm;
        /// Delete a VM; its disk goes with it, is wiped, or is kept.
        ///
        /// A kept disk becomes a whole one without an image, which `kept.list` shows; `conflict` when its name
        /// is taken. Wiping overwrites what the disk's file holds; what the node's own storage copied elsewhere
        /// it does not reach. Fine when there is no VM; cut off, it is told again.
        Delete = "delete" Long Delete "/v1/vms/{vm}" (VmId) VmDelete => Nothing;
        /// Start a VM, from its saved memory if there is any; fine when it runs.
        ///
        /// A guest that goes on from its saved memory then gets the node's time, if its guest agent answers.
        Start = "start" Change Post "/v1/vms/{vm}/start" (VmId) Nothing => Vm;
        /// Ask a VM's system to stop, by the guest agent or else by the power button.
        ///
        /// Answered once it is asked; with `wait_s`, once it is off: the guest agent is asked, then the power
        /// button pressed, and after that time the plug is pulled. Cancelled, it waits no longer and pulls
        /// nothing. Fine when it is off.
        Shutdown = "shutdown" Long Post "/v1/vms/{vm}/shutdown" (VmId) VmShutdown => Vm;
        /// Ask a VM's system to reboot.
        ///
        /// Answered once it is asked; told twice, it reboots twice. `conflict` when it is off.
        Reboot = "reboot" Change Post "/v1/vms/{vm}/reboot" (VmId) Nothing => Vm;
        /// Press a VM's reset button.
        ///
        /// Told twice, it is pressed twice. `conflict` when it is off.
        Reset = "reset" Change Post "/v1/vms/{vm}/reset" (VmId) Nothing => Vm;
        /// Pull a VM's plug; fine when it is off.
        PowerOff = "power_off" Change Post "/v1/vms/{vm}/power_off" (VmId) Nothing => Vm;
        /// Hold a VM's CPUs where they are; fine when they are held.
        ///
        /// `conflict` when it is off.
        Pause = "pause" Change Post "/v1/vms/{vm}/pause" (VmId) Nothing => Vm;
        /// Let a held VM go on; fine when it runs.
        ///
        /// Its guest then gets the node's time, if its guest agent answers. `conflict` when it is off.
        Resume = "resume" Change Post "/v1/vms/{vm}/resume" (VmId) Nothing => Vm;
        /// Write a VM's memory to disk and switch it off; its next start goes on from there.
        ///
        /// The answer's `saved` says that there is such memory. Cancelled, the VM runs on. Fine when it is off.
        Save = "save" Long Post "/v1/vms/{vm}/save" (VmId) Nothing => Vm;
        /// Make a VM's disk anew from an image; number, cards, addresses and sizes stay.
        ///
        /// All that was on its disk is gone, and so are a saved memory and a rescue. The VM is switched off for
        /// it; ask it to shut down before if its programs should end in order. Told twice, it is made anew
        /// twice. `resource_unavailable` when the image is not on the node.
        Rebuild = "rebuild" Long Post "/v1/vms/{vm}/rebuild" (VmId) VmRebuild => Vm;
        /// Boot a VM from a rescue image, with its own disk as the second one.
        ///
        /// The answer has the rescue system's root password, and no other answer ever will: told twice, it
        /// boots once more with another password. The VM is switched off for it. It boots by BIOS, whatever the
        /// VM's own firmware is, with the VM's own addresses, and stays in rescue over reboots.
        RescueOn = "rescue_on" Change Post "/v1/vms/{vm}/rescue_on" (VmId) VmRescue => Rescued;
        /// Boot a VM from its own disk again.
        ///
        /// What was written to the rescue system itself is gone. Afterwards the VM runs; fine when it is in no
        /// rescue.
        RescueOff = "rescue_off" Change Post "/v1/vms/{vm}/rescue_off" (VmId) Nothing => Vm;
        /// Give a VM another host name, another title, or both.
        ///
        /// The title changes at once; so does the host name where the guest's agent answers. Else its system is told
        /// at its next start; the answer names what waits for that in `pending`. Told twice, it ends the same.
        Rename = "rename" Change Post "/v1/vms/{vm}/rename" (VmId) VmRename => Vm;
        /// Let a VM start with its node, or no longer.
        ///
        /// Not for a VM that may be started on another node while this one is away. Told twice, it ends the same.
        Autostart = "autostart" Change Post "/v1/vms/{vm}/autostart" (VmId) VmAutostart => Vm;
        /// Set where a VM looks for a system: disk, ISO, network.
        ///
        /// Holds from the next start on, and the answer says so in `pending`. Told twice, it ends the same.
        BootOrder = "boot_order" Change Post "/v1/vms/{vm}/boot_order" (VmId) VmBootOrder => Vm;
        /// Set a VM's firmware: BIOS or UEFI.
        ///
        /// Holds from the next start on, and the answer says so in `pending`. A system that was installed for
        /// the other may not boot. Told twice, it ends the same.
        Firmware = "firmware" Change Post "/v1/vms/{vm}/firmware" (VmId) FirmwareChange => Vm;
        /// Set a VM's machine type, processor, random-number device, watchdog and TPM.
        ///
        /// What is not named stays. Holds from the next start on, and the answer names it in `pending`.
        /// `invalid_input` for a machine or processor that the node does not have. Told twice, it ends the same.
        Hardware = "hardware" Change Post "/v1/vms/{vm}/hardware" (VmId) HardwareChange => Vm;
        /// Put an ISO into a VM's CD drive, in place of one that is there; to boot from it, too.
        ///
        /// At once, also while it runs. `resource_unavailable` when the ISO is not on the node. Told twice, it
        /// ends the same.
        IsoAttach = "iso_attach" Change Post "/v1/vms/{vm}/iso_attach" (VmId) VmIso => Vm;
        /// Empty a VM's CD drive, even if its system holds it shut.
        ///
        /// At once, also while it runs. Fine when it is empty.
        IsoEject = "iso_eject" Change Post "/v1/vms/{vm}/iso_eject" (VmId) Nothing => Vm;
        /// Show what a VM's screen shows, as a PNG.
        ///
        /// `conflict` when it is off.
        Screenshot = "screenshot" Read Get "/v1/vms/{vm}/screenshot" (VmId) Nothing => super::Screenshot;
        /// Press keys of a VM's keyboard together, like ctrl, alt and delete.
        ///
        /// At once, also while another function works on the VM. Told twice, they are pressed twice.
        /// `conflict` when it is off.
        SendKeys = "send_keys" Change Post "/v1/vms/{vm}/send_keys" (VmId) super::SendKeys => Nothing;
        /// Change a VM's virtual CPUs, memory or disk.
        ///
        /// At once where the running guest allows: virtual CPUs up to `vcpus_max`, memory up to
        /// `memory_max`, a larger disk with the file system on it. The rest waits for the next start, and the
        /// answer names it in `pending`. A disk never shrinks. Told twice, it ends the same.
        Resize = "resize" Change Post "/v1/vms/{vm}/resize" (VmId) VmResize => Vm;
        /// Limit what a VM may use of the node's CPUs and disks.
        ///
        /// At once, also while it runs. What is not given is not limited. Told twice, it ends the same.
        Limits = "limits" Change Put "/v1/vms/{vm}/limits" (VmId) VmLimits => Vm;
    }

    /// Disks that were kept when their VM was deleted.
    mod kept {
        /// List the kept disks.
        List = "list" Read Get "/v1/kept" (()) Nothing => KeptDiskList;
        /// Delete a kept disk.
        ///
        /// Fine when there is none of that name.
        Delete = "delete" Change Delete "/v1/kept/{name}" (Name) Nothing => Nothing;
    }

    /// What goes on inside a guest, through its guest agent.
    mod guest {
        /// Show a guest's system, users, file systems and interfaces.
        ///
        /// As the guest says it. `unavailable` within 9 s when its guest agent does not answer.
        Info = "info" Read Get "/v1/vms/{vm}/guest" (VmId) Nothing => GuestInfo;
        /// Set a user's password, given as a hash.
        ///
        /// Told twice, it ends the same.
        SetPassword = "set_password" Change Post "/v1/vms/{vm}/guest/password" (VmId) GuestPassword => Nothing;
        /// Set the SSH keys that let a user in; all others go.
        ///
        /// `resource_unavailable` when the guest agent is too old for it. Told twice, it ends the same.
        SetSshKeys = "set_ssh_keys" Change Post "/v1/vms/{vm}/guest/ssh_keys" (VmId) GuestSshKeys => Nothing;
        /// Set a guest's host name.
        ///
        /// At once where the guest allows, and at its next boots; the answer says which. The VM's
        /// specification has the new name, too. Told twice, it ends the same.
        SetHostname = "set_hostname" Change Post "/v1/vms/{vm}/guest/hostname" (VmId) GuestHostname => HostnameSet;
        /// Freeze a guest's file systems: nothing is written until they are thawed.
        ///
        /// After `limit_s` seconds the agent thaws them by itself. Told twice, the limit begins anew.
        Freeze = "freeze" Change Post "/v1/vms/{vm}/guest/freeze" (VmId) GuestFreeze => Frozen;
        /// Thaw a guest's file systems; fine when none is frozen.
        Thaw = "thaw" Change Post "/v1/vms/{vm}/guest/thaw" (VmId) Nothing => Thawed;
        /// Give what a guest's file systems do not use back to the node.
        Trim = "trim" Change Post "/v1/vms/{vm}/guest/trim" (VmId) Nothing => Trimmed;
        /// Set a guest's clock to the node's.
        SyncTime = "sync_time" Change Post "/v1/vms/{vm}/guest/sync_time" (VmId) Nothing => TimeSynced;
    }

    /// Counters of VMs.
    mod samples {
        /// Read the counters of running VMs: CPU, memory, disks, network cards.
        ///
        /// A VM that is named and does not run is left out. The same for Prometheus: `GET /metrics`.
        Get = "get" Read Post "/v1/samples" (()) SamplesRequest => SampleList;
    }

    /// Consoles of VMs.
    mod console {
        /// Make a ticket that opens one console of a VM once, within seconds.
        ///
        /// At most 1024 are kept; the agent forgets them when it restarts.
        Ticket = "ticket" Read Post "/v1/vms/{vm}/console/ticket" (VmId) ConsoleTicketRequest => ConsoleTicket;
        /// Show the last lines that a VM wrote to its serial port.
        ///
        /// The log is a ring: of each VM the last 8 MiB or so are kept, over restarts, too.
        Log = "log" Read Post "/v1/vms/{vm}/console/log" (VmId) ConsoleLogRequest => ConsoleLog;
    }

    /// Image files.
    mod image {
        /// List all image files, with the VMs and volumes that stand on them.
        List = "list" Read Get "/v1/images" (()) Nothing => ImageFileList;
        /// Show one image file, with the VMs and volumes that stand on it.
        Get = "get" Read Get "/v1/images/{sha256}" (Sha256) Nothing => ImageFile;
        /// Fetch an image or an ISO from a URL, checked against its SHA-256 or SHA-512.
        ///
        /// A fetch that was cut off goes on where it was when it is told again, also by an agent that was killed;
        /// what nobody asked for in a day is removed. When the file is on the node, nothing is fetched. A file
        /// with another checksum, another format, a claim to stand on another file, or more bytes than allowed is
        /// refused, and nothing of it is left. Addresses of private networks are refused unless the agent's
        /// configuration allows them. `unavailable` when the other side is silent or cut the connection too often.
        Fetch = "fetch" Long Post "/v1/images/fetch/{checksum}" (Checksum) ImageFetch => ImageFile;
        /// Convert a raw, vmdk, vdi or qcow2 file to an image that VMs are made from.
        ///
        /// The answer is the new file, compressed, named by its own checksum; the old one stays. Told again, it
        /// ends with the same file.
        Convert = "convert" Long Post "/v1/images/{sha256}/convert" (Sha256) Nothing => ImageFile;
        /// Read an image back: its checksum, and whether its inner tables are sound.
        Verify = "verify" Long Post "/v1/images/{sha256}/verify" (Sha256) Nothing => ImageVerdict;
        /// Make an image from a VM's disk as it is now, compressed, without its snapshots.
        ///
        /// A running guest goes on; its file systems are frozen for a moment if its agent answers. The answer
        /// names the image by its checksum. Told again, another image is made from what the disk is then. Meanwhile
        /// the VM's cards, firewalls, volumes and names change as ever; what would change or delete its disk, or
        /// start or stop it, is answered with `conflict`.
        FromDisk = "from_disk" Long Post "/v1/vms/{vm}/image" (VmId) Nothing => ImageFile;
        /// Delete an image file.
        ///
        /// Fine when there is none; `conflict` while a disk or a volume stands on it.
        Delete = "delete" Change Delete "/v1/images/{sha256}" (Sha256) Nothing => Nothing;
    }

    /// Backups of VMs' disks.
    mod backup {
        /// Back up a VM's disk, running or off: what changed, or all of it.
        ///
        /// Incremental when the last backup in this store is whole and the disk's changes since are known, and
        /// else full; the answer says why. Compressed, checksummed, and sealed with the key. A running guest is
        /// frozen for a moment when its agent answers. Volumes beside the disk are not in it. Told twice with
        /// one name, it ends the same; cut off, nothing is left that counts. `resource_unavailable` when the
        /// store or the node is full, `unavailable` when the store does not answer.
        Create = "create" Long Put "/v1/vms/{vm}/backups/{backup}" ((VmId, Name)) BackupCreate => Backup;
        /// List backups, with what is known to be wrong with them.
        ///
        /// Needs no key. Sizes in bytes. Of a store that cannot be read within seconds, the VMs that could; `next`
        /// says where to go on.
        List = "list" Read Post "/v1/backups/list" (()) BackupWhere => BackupList;
        /// Read a backup back, with all it builds on, and compare its checksums and seals.
        ///
        /// What is found damaged is noted beside the backup: the next one is then full by itself, until a
        /// verification finds nothing. `conflict` that names the damaged piece; `invalid_input` when the key is
        /// another one.
        Verify = "verify" Long Post "/v1/backups/{backup}/verify" (Name) BackupVerify => BackupVerified;
        /// Restore a backup to the disk of a VM that is off, or to the disk of a new VM.
        ///
        /// The disk is replaced in one step, when all of it is written; the next backup is a full one. A new VM
        /// is half-made then: `vm.put` with the answer's image finishes it. Told twice, it ends the same.
        /// `conflict` while the VM is on; `resource_unavailable` when its image is not on the node.
        Restore = "restore" Long Post "/v1/vms/{vm}/restore_backup" (VmId) BackupRestore => RestoredDisk;
        /// Delete the backups of a VM that no rule keeps and no kept one builds on.
        ///
        /// Pieces of backups that were cut off go, too.
        Prune = "prune" Long Post "/v1/vms/{vm}/prune_backups" (VmId) BackupPrune => BackupPruned;
        /// Delete a backup.
        ///
        /// Fine when there is none; `conflict` while others build on it, unless they may go, too.
        Delete = "delete" Long Post "/v1/vms/{vm}/backups/{backup}/delete" ((VmId, Name)) BackupDelete => BackupPruned;
    }

    /// Network cards.
    mod nic {
        /// Plug a network card into a VM, or bring it to what the request says.
        ///
        /// A running guest gets it at once. Told twice, it ends the same; the MAC address says which card.
        Attach = "attach" Change Post "/v1/vms/{vm}/nics" (VmId) Nic => Vm;
        /// Take a network card out of a VM; fine when it has none of this MAC address.
        ///
        /// A running guest that does not let go within 20 seconds keeps it until its next start: `conflict`.
        Detach = "detach" Change Delete "/v1/vms/{vm}/nics/{mac}" ((VmId, Mac)) Nothing => Vm;
        /// Show what a VM's cards asked for last — address, router, metadata — and got.
        ///
        /// Since the agent runs: it keeps no record. Empty where the node does not serve its guests.
        Leases = "leases" Read Get "/v1/vms/{vm}/leases" (VmId) Nothing => LeaseList;
    }

    /// Firewalls of network cards.
    mod firewall {
        /// Set what may come in and go out of a network card.
        ///
        /// All rules change at once: no packet meets half of them, or none. Connections that stand go on.
        /// Told twice, it ends the same. `not_found` when the VM has no such card.
        Set = "set" Change Put "/v1/vms/{vm}/nics/{mac}/firewall" ((VmId, Mac)) Firewall => Vm;
        /// Take the firewall of a network card away: everything may come in and go out.
        Remove = "remove" Change Delete "/v1/vms/{vm}/nics/{mac}/firewall" ((VmId, Mac)) Nothing => Vm;
    }

    /// The guests' network.
    mod network {
        /// Show what the node does for its guests' network cards, and what is left over.
        Get = "get" Read Get "/v1/network" (()) Nothing => NetworkState;
        /// Bring this node's part of a private network to what the request says.
        ///
        /// Told whenever a card is plugged into it anywhere, or goes. Told twice, it ends the same.
        Put = "put" Change Put "/v1/networks/{network}" (PrivateNetworkId) PrivateNetwork => Nothing;
        /// Take a private network off the node; fine when it is not there.
        ///
        /// `conflict` while a card of a VM is plugged into it.
        Delete = "delete" Change Delete "/v1/networks/{network}" (PrivateNetworkId) Nothing => Nothing;
    }

    /// Traffic.
    mod traffic {
        /// Show how many bytes each address has sent and received since it was first used.
        ///
        /// Only grows, over restarts of guest, agent and node. What a firewall dropped is not counted.
        Get = "get" Read Get "/v1/traffic" (()) Nothing => TrafficList;
    }

    /// Places for volumes.
    mod pool {
        /// List all pools, with what they hold and what they promised.
        List = "list" Read Get "/v1/pools" (()) Nothing => PoolList;
        /// Show one pool, with what it holds and what it promised.
        Get = "get" Read Get "/v1/pools/{pool}" (Name) Nothing => Pool;
    }

    /// Volumes: disks that live longer than the VMs they are attached to.
    mod volume {
        /// List all volumes, also half-made ones.
        List = "list" Read Get "/v1/volumes" (()) Nothing => VolumeList;
        /// Show one volume.
        Get = "get" Read Get "/v1/volumes/{volume}" (VolumeId) Nothing => Volume;
        /// Make a volume with nothing on it but a file system, if one is wanted.
        ///
        /// Fine when it is there with this size, pool, format and file system; `conflict` when it is there with others.
        /// `resource_unavailable` when the pool is full, or would promise more than it may.
        Create = "create" Change Put "/v1/volumes/{volume}" (VolumeId) VolumeCreate => Volume;
        /// Make a volume from an image, standing on its file or with a copy of it.
        ///
        /// Fine when it is there and was made so; `conflict` when it is there otherwise.
        /// `resource_unavailable` when the image is not on the node, or the pool is full.
        CloneFromImage = "clone_from_image" Long Post "/v1/volumes/{volume}/clone" (VolumeId) VolumeClone => Volume;
        /// Give a volume to a VM, at once also when it runs.
        ///
        /// Fine when the VM has it; `conflict` while another VM does. It becomes a part of the VM's specification.
        Attach = "attach" Change Put "/v1/vms/{vm}/volumes/{volume}" ((VmId, VolumeId)) VolumeAttach => Vm;
        /// Take a volume from a VM, at once also when it runs.
        ///
        /// Fine when the VM does not have it; `conflict` when the running guest does not let go of it.
        Detach = "detach" Change Delete "/v1/vms/{vm}/volumes/{volume}" ((VmId, VolumeId)) Nothing => Vm;
        /// Grow a volume, at once also in a running guest.
        ///
        /// Fine when it has this size; it never shrinks.
        Resize = "resize" Change Post "/v1/volumes/{volume}/resize" (VolumeId) VolumeResize => Volume;
        /// Let another node fetch a volume that no VM has.
        ///
        /// Opens a port for an hour; the answer is handed to `volume.fetch` on the other node. Told again, it answers
        /// the same, and the hour begins anew. `conflict` while a VM has it, or when it stands on an image or is no file.
        Offer = "offer" Change Post "/v1/volumes/{volume}/offer" (VolumeId) Nothing => VolumeOffer;
        /// Bring a volume here from the node that offers it.
        ///
        /// That node keeps its own until it is told to delete it. Fine when it is here whole; after it was cut off or
        /// cancelled, it is fetched anew. What was written to it there meanwhile is found, and nothing is kept then.
        /// `unavailable` when that node is silent; `conflict` when the pool is no folder.
        Fetch = "fetch" Long Post "/v1/volumes/{volume}/fetch" (VolumeId) VolumeFetch => Volume;
        /// Delete a volume and what is on it.
        ///
        /// Fine when there is none; `conflict` while a VM has it.
        Delete = "delete" Change Delete "/v1/volumes/{volume}" (VolumeId) Nothing => Nothing;
    }

    /// Snapshots of VMs' own disks.
    mod snapshot {
        /// List the snapshots of a VM's disk.
        List = "list" Read Get "/v1/vms/{vm}/snapshots" (VmId) Nothing => SnapshotList;
        /// Take a snapshot of a VM's disk; a running guest goes on.
        ///
        /// Its file systems are frozen for a moment if its agent answers within three seconds; the answer says
        /// whether they were. Fine when there is one of this name: that is answered as it is. Volumes are not in it.
        Create = "create" Change Put "/v1/vms/{vm}/snapshots/{snapshot}" ((VmId, Name)) Nothing => Snapshot;
        /// Bring a VM's disk back to a snapshot; what was written since is lost.
        ///
        /// A running VM is powered off for it and started again. The snapshot stays, and so do newer ones. Told
        /// twice, it ends the same.
        Revert = "revert" Change Post "/v1/vms/{vm}/snapshots/{snapshot}/revert" ((VmId, Name)) Nothing => Vm;
        /// Delete a snapshot; what the disk holds stays, and a running guest goes on.
        ///
        /// Fine when there is none.
        Delete = "delete" Change Delete "/v1/vms/{vm}/snapshots/{snapshot}" ((VmId, Name)) Nothing => Nothing;
    }

    /// The log of functions.
    mod run {
        /// List what is being done and what was done last, newest first.
        List = "list" Read Get "/v1/runs" (()) Nothing => RunList;
        /// Show one run.
        Get = "get" Read Get "/v1/runs/{run}" (RunId) Nothing => Run;
        /// Cancel a long function that is under way.
        ///
        /// It stops at the next point where nothing is left behind. Fine when it has ended.
        Cancel = "cancel" Change Post "/v1/runs/{run}/cancel" (RunId) Nothing => Run;
    }

    /// Moving a VM to another node: prepare there, send here, finish there.
    mod moving {
        /// Make room on this node for a VM that comes from another one.
        ///
        /// Checks image, memory and disk space, makes the VM's folder, its seed, an empty disk and empty volumes
        /// (or finds them on storage that both nodes share), and opens a port. The answer is handed to
        /// `moving.send` on the other node. Told again, it gives the same answer and a later `until`, or a new
        /// one after the agent was restarted. A room in which no VM arrives until then is removed; after ten
        /// minutes it is among `node.orphans`. `conflict` when the VM or a volume is on this node already, is in
        /// rescue, has a TPM, a disk in a pool that is not Ceph's, or a volume that is neither a file nor in a pool
        /// that both nodes share; `resource_unavailable` when there is no room.
        Prepare = "prepare" Change Post "/v1/vms/{vm}/move/prepare" (VmId) MovePrepare => MovePlace;
        /// Send a VM to the node that awaits it; live when it runs.
        ///
        /// Nothing of the VM or its volumes is left on this node afterwards. When it fails or is cancelled, the VM
        /// goes on here as if nothing had been, and `moving.abort` clears the other node. Told again after the
        /// agent was cut off, it sends anew, or finds that the VM has arrived and clears up here; a VM that was
        /// cut off at its switch-over stands still until then. `conflict` when its memory is saved, or when it
        /// does not fit the room.
        Send = "send" Long Post "/v1/vms/{vm}/move/send" (VmId) MoveSend => MoveSent;
        /// Make a VM that has arrived one of this node, and close the port.
        ///
        /// The answer says how long it stood still at the switch-over, in milliseconds. `conflict` when it has
        /// not arrived. Told again, it shows the VM.
        Finish = "finish" Change Post "/v1/vms/{vm}/move/finish" (VmId) Nothing => MoveArrived;
        /// Give up awaiting a VM: nothing of it is left on this node.
        ///
        /// Fine when none is awaited. `conflict` when it has arrived, since then it may be nowhere else.
        Abort = "abort" Change Post "/v1/vms/{vm}/move/abort" (VmId) Nothing => Nothing;
    }

    /// The agent's certificate.
    mod certificate {
        /// Make a new key on the node, and ask for its certificate.
        Request = "request" Change Post "/v1/certificate/request" (()) Nothing => CertificateRequest;
        /// Take the certificate for the key last requested; used from the next connection on.
        Put = "put" Change Put "/v1/certificate" (()) Certificate => Nothing;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen(Vec<(&'static str, &'static str, &'static str, String)>);

    impl Visitor for Seen {
        fn visit<F: Function>(&mut self) {
            self.0.push((F::NAME, F::METHOD.word(), F::PATH, F::summary().to_owned()));
        }
    }

    fn all() -> Seen {
        let mut seen = Seen::default();
        visit_all(&mut seen);
        seen
    }

    #[test]
    fn names_and_routes_are_unique_and_summaries_are_sentences() {
        let seen = all().0;
        for (n, (name, method, path, summary)) in seen.iter().enumerate() {
            assert!(seen[..n].iter().all(|other| other.0 != *name), "{name} twice");
            assert!(seen[..n].iter().all(|other| (other.1, other.2) != (*method, *path)), "{path} twice");
            assert!(summary.ends_with('.') && summary.len() < 90, "{name}: {summary}");
            assert!(path.starts_with("/v1/"), "{path}");
        }
    }

    #[test]
    fn a_path_is_filled_and_read_back() {
        assert_eq!(vm::Start::path(&VmId(7)), "/v1/vms/7/start");
        assert_eq!(<VmId as Target>::parse(&["7".to_owned()]), Ok(VmId(7)));
        for bad in ["0", "-1", "07", "x", ""] {
            assert_eq!(<VmId as Target>::parse(&[bad.to_owned()]), Err((0, VmId::RULE)), "{bad}");
        }
    }
}
