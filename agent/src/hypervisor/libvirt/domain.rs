//! The domain XML of a VM: the one place where it is made. Each part says why it is as it is.
//!
//! The whole [`VmSpec`] stands in the domain's metadata, so that an agent that comes anew finds what
//! each VM was last told to be. libvirt keeps the definition readable for root alone.

use std::path::{Path, PathBuf};

use berth_model::agent::{DomainType, Nic, VmSpec, VolumeFormat};
use berth_model::{ByteSize, VmId};
use serde::Serialize;

use super::disk::Cache;
use super::folder::Folder;
use super::hardware;
use super::names;
use super::network::GuestNetwork;
use super::sizes::{CpuTune, IoTune, Vcpu, Vcpus};
use super::source::DiskSource;
use super::volumes::{self, Placed};
use super::xml;
use crate::network::{Names, PRIVATE_MTU};
use crate::storage::pool;

/// The namespace of our metadata.
pub const METADATA_URI: &str = "urn:berth:vm:1";

/// Seconds between two reports of the guest's balloon driver on its memory.
const BALLOON_PERIOD_S: u32 = 5;

/// What a definition is made from.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// The VM.
    pub id: VmId,
    /// How its domain is named.
    pub prefix: &'a names::Prefix,
    /// The node's name.
    pub node: &'a str,
    /// What runs it.
    pub domain_type: DomainType,
    /// What it should be.
    pub spec: &'a VmSpec,
    /// Where its files stand.
    pub folder: &'a Folder,
    /// What its network cards are plugged into.
    pub network: &'a GuestNetwork,
    /// How its disk is cached.
    pub cache: Cache,
    /// How its cards' ends on the node are called; nothing where libvirt may choose.
    pub names: Option<&'a Names>,
    /// The file of the ISO in its CD drive.
    pub iso: Option<&'a Path>,
    /// Its volumes.
    pub volumes: &'a [Placed],
    /// Where its disk lies; nothing for the file in its folder.
    pub disk: Option<&'a PoolDisk>,
}

/// A disk in a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolDisk {
    /// Where it lies.
    pub source: pool::Source,
    /// How it lies there.
    pub format: VolumeFormat,
    /// How it is cached.
    pub cache: Cache,
    /// The file of the lease on it that libvirt does not take by itself.
    pub lease: Option<PathBuf>,
}

/// The definition.
pub fn xml(plan: &Plan<'_>) -> String {
    let Plan { spec, folder, .. } = *plan;
    let name = plan.prefix.domain(plan.id);
    xml::write(&Domain {
        domain_type: match plan.domain_type {
            DomainType::Kvm => "kvm",
            DomainType::Qemu => "qemu",
            DomainType::Test | DomainType::Simulator => "test",
        },
        uuid: names::uuid(&name),
        title: spec.title.as_deref(),
        metadata: Metadata {
            vm: MetadataVm { namespace: METADATA_URI, node: plan.node, spec: xml::ascii_json(spec) },
        },
        memory: Amount::of(spec.memory_max.unwrap_or(spec.memory)),
        current_memory: spec.memory_max.map(|_| Amount::of(spec.memory)),
        vcpu: Vcpu::of(spec),
        vcpus: Vcpus::of(spec),
        cputune: CpuTune::of(&spec.limits),
        os: hardware::os(plan),
        features: Features { acpi: Empty {}, apic: Empty {} },
        cpu: hardware::cpu(plan),
        clock: Clock { offset: "utc" },
        on_poweroff: "destroy",
        on_reboot: "restart",
        // As with hardware: what crashed stays down until somebody starts it.
        on_crash: "destroy",
        devices: Devices {
            disk: disks(plan),
            volumes: plan.volumes.iter().map(volumes::Disk::of).collect(),
            controller: volumes::Controller::new(plan.domain_type != DomainType::Test),
            interface: spec.nics.iter().map(|nic| Interface::new(nic, plan)).collect(),
            // A socket for the agent (`virsh console` knows it, too), and a log that lives on over restarts.
            serial: Serial {
                kind: "unix",
                source: Socket { mode: "bind", path: xml::path(&folder.serial()) },
                log: Log { file: xml::path(&folder.console()), append: "on" },
            },
            // Nobody reaches the screen but through libvirt, which hands connections to the agent. All who look
            // share it, whatever their program asks for.
            graphics: Graphics { kind: "vnc", share: "ignore", listen: Listen { kind: "none" } },
            video: Video { model: Model { kind: "vga" } },
            channel: Channel {
                kind: "unix",
                target: ChannelTarget { kind: "virtio", name: "org.qemu.guest_agent.0" },
            },
            // Keys made at the first boot need randomness at once.
            rng: spec.hardware.rng.then_some(Rng {
                model: "virtio",
                backend: Backend { model: "random", value: "/dev/urandom" },
            }),
            watchdog: hardware::watchdog(spec.hardware.watchdog),
            tpm: spec.hardware.tpm.then(hardware::tpm),
            memballoon: Balloon { model: "virtio", stats: Stats { period: BALLOON_PERIOD_S } },
            lease: plan.disk.and_then(|disk| LeaseDevice::of(disk.lease.as_deref()?)),
        },
        name,
    })
}

/// The definition of one card, for a guest that runs.
pub fn interface_xml(nic: &Nic, plan: &Plan<'_>) -> String {
    xml::write(&Interface::new(nic, plan))
}

/// The bridge that a card is plugged into.
pub fn bridge_of(nic: &Nic, plan: &Plan<'_>) -> Option<String> {
    match (nic.private, plan.network) {
        (Some(id), _) => plan.names.map(|names| names.bridge(id)),
        // libvirt's network is plugged into by its bridge, as any other: of its own bookkeeping of cards we
        // need nothing, and it fails on a node where no dnsmasq ever ran.
        (None, GuestNetwork::Nat { bridge, .. } | GuestNetwork::Bridge { bridge }) => Some(bridge.clone()),
        (None, GuestNetwork::Routed | GuestNetwork::User) => None,
    }
}

/// Its own disk and seed; in rescue, the rescue system's, with its own disk between them.
fn disks(plan: &Plan<'_>) -> Vec<Disk> {
    let Plan { spec, folder, .. } = *plan;
    let driver = |format, cache: Cache| Driver {
        name: "qemu",
        format: volumes::word(format),
        cache: Some(cache.name()),
        io: cache.io(),
        // What the guest trims is given back to the node.
        discard: Some("unmap"),
    };
    let disk = |dev, path: &Path| Disk {
        driver: driver(VolumeFormat::Qcow2, plan.cache),
        source: Some(DiskSource::file(path)),
        iotune: IoTune::of(&spec.limits),
        ..Disk::virtio(dev)
    };
    let own_disk = |dev| match plan.disk {
        None => disk(dev, &folder.disk()),
        Some(PoolDisk { source, format, cache, .. }) => {
            let (kind, source) = DiskSource::of(source);
            let (driver, source, iotune) = (driver(*format, *cache), Some(source), IoTune::of(&spec.limits));
            Disk { kind, driver, source, iotune, ..Disk::virtio(dev) }
        }
    };
    // A disk, not a CD drive: a guest without a driver for SATA reads it too.
    let seed = |dev, path: &Path| Disk {
        source: Some(DiskSource::file(path)),
        readonly: Some(Empty {}),
        ..Disk::virtio(dev)
    };
    let mut disks = match spec.rescue {
        None => vec![own_disk("vda"), seed("vdb", &folder.seed())],
        Some(_) => vec![
            disk("vda", &folder.rescue_disk()),
            own_disk("vdb"),
            // Behind all names that volumes may have.
            seed("vdz", &folder.rescue_seed()),
        ],
    };
    disks.push(cd_drive(&spec.hardware.machine, plan.iso));
    disks
}

/// The CD drive, always there, since none can be plugged in while a VM runs.
fn cd_drive(machine: &str, iso: Option<&Path>) -> Disk {
    Disk {
        device: "cdrom",
        source: iso.map(DiskSource::file),
        target: hardware::cd_target(machine),
        readonly: Some(Empty {}),
        ..Disk::virtio("")
    }
}

/// The CD drive alone, to change what is in it.
pub fn cd_drive_xml(machine: &str, iso: Option<&Path>) -> String {
    xml::write(&cd_drive(machine, iso))
}

/// The spec in the text of our metadata element, as libvirt gives it back.
pub fn spec_of_metadata(metadata: &str) -> Result<VmSpec, String> {
    let text = xml::text_of(metadata)?;
    serde_json::from_str(&text).map_err(|e| e.to_string())
}

#[derive(Serialize)]
#[serde(rename = "domain")]
struct Domain<'a> {
    #[serde(rename = "@type")]
    domain_type: &'static str,
    name: String,
    uuid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    metadata: Metadata<'a>,
    memory: Amount,
    #[serde(rename = "currentMemory", skip_serializing_if = "Option::is_none")]
    current_memory: Option<Amount>,
    vcpu: Vcpu,
    #[serde(skip_serializing_if = "Option::is_none")]
    vcpus: Option<Vcpus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cputune: Option<CpuTune>,
    os: hardware::Os<'a>,
    features: Features,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<hardware::Cpu<'a>>,
    clock: Clock,
    on_poweroff: &'static str,
    on_reboot: &'static str,
    on_crash: &'static str,
    devices: Devices<'a>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    #[serde(rename = "berth:vm")]
    vm: MetadataVm<'a>,
}

#[derive(Serialize)]
struct MetadataVm<'a> {
    #[serde(rename = "@xmlns:berth")]
    namespace: &'static str,
    #[serde(rename = "@node")]
    node: &'a str,
    #[serde(rename = "$text")]
    spec: String,
}

#[derive(Serialize)]
struct Amount {
    #[serde(rename = "@unit")]
    unit: &'static str,
    #[serde(rename = "$text")]
    value: u64,
}

impl Amount {
    fn of(size: ByteSize) -> Self {
        Self { unit: "KiB", value: size.bytes() / 1024 }
    }
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Features {
    acpi: Empty,
    apic: Empty,
}

#[derive(Serialize)]
struct Clock {
    #[serde(rename = "@offset")]
    offset: &'static str,
}

#[derive(Serialize)]
struct Devices<'a> {
    disk: Vec<Disk>,
    #[serde(rename = "disk")]
    volumes: Vec<volumes::Disk>,
    controller: volumes::Controller,
    interface: Vec<Interface<'a>>,
    serial: Serial,
    graphics: Graphics,
    video: Video,
    channel: Channel,
    #[serde(skip_serializing_if = "Option::is_none")]
    rng: Option<Rng>,
    #[serde(skip_serializing_if = "Option::is_none")]
    watchdog: Option<hardware::WatchdogDevice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tpm: Option<hardware::Tpm>,
    memballoon: Balloon,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<LeaseDevice>,
}

/// A lease that is taken by its name: the file `{path}/{lockspace}/{key}`.
#[derive(Serialize)]
struct LeaseDevice {
    lockspace: String,
    key: String,
    target: LeaseTarget,
}

#[derive(Serialize)]
struct LeaseTarget {
    #[serde(rename = "@path")]
    path: String,
}

impl LeaseDevice {
    fn of(file: &Path) -> Option<Self> {
        let lockspace = file.parent()?;
        Some(Self {
            lockspace: lockspace.file_name()?.to_string_lossy().into_owned(),
            key: file.file_name()?.to_string_lossy().into_owned(),
            target: LeaseTarget { path: xml::path(lockspace.parent()?) },
        })
    }
}

#[derive(Serialize)]
#[serde(rename = "disk")]
struct Disk {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@device")]
    device: &'static str,
    driver: Driver,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<DiskSource>,
    target: hardware::Target,
    #[serde(skip_serializing_if = "Option::is_none")]
    readonly: Option<Empty>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iotune: Option<IoTune>,
}

impl Disk {
    /// A virtio disk `dev`; the rest is to be filled in.
    fn virtio(dev: &'static str) -> Self {
        Self {
            kind: "file",
            device: "disk",
            driver: Driver { name: "qemu", format: "raw", cache: None, io: None, discard: None },
            source: None,
            target: hardware::Target { dev, bus: "virtio" },
            readonly: None,
            iotune: None,
        }
    }
}

#[derive(Serialize)]
struct Driver {
    #[serde(rename = "@name")]
    name: &'static str,
    #[serde(rename = "@type")]
    format: &'static str,
    #[serde(rename = "@cache", skip_serializing_if = "Option::is_none")]
    cache: Option<&'static str>,
    #[serde(rename = "@io", skip_serializing_if = "Option::is_none")]
    io: Option<&'static str>,
    #[serde(rename = "@discard", skip_serializing_if = "Option::is_none")]
    discard: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(rename = "interface")]
struct Interface<'a> {
    #[serde(rename = "@type")]
    kind: &'static str,
    mac: Mac<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Tap>,
    model: Model,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<Mtu>,
}

impl<'a> Interface<'a> {
    fn new(nic: &'a Nic, plan: &Plan<'_>) -> Self {
        let bridge = bridge_of(nic, plan);
        let kind = match (&bridge, plan.network) {
            (Some(_), _) => "bridge",
            (None, GuestNetwork::Routed) => "ethernet",
            (None, _) => "user",
        };
        // The filter goes by the name of the card's end on the node, so it stands before the card is there.
        let tap =
            plan.names.filter(|_| kind != "user").map(|names| Tap { dev: names.tap(plan.id, &nic.mac) });
        Self {
            kind,
            mac: Mac { address: &nic.mac },
            source: bridge.map(|bridge| Source { bridge }),
            target: tap,
            model: Model { kind: "virtio" },
            mtu: nic.private.map(|_| Mtu { size: PRIVATE_MTU }),
        }
    }
}

#[derive(Serialize)]
struct Mac<'a> {
    #[serde(rename = "@address")]
    address: &'a str,
}

#[derive(Serialize)]
struct Source {
    #[serde(rename = "@bridge")]
    bridge: String,
}

#[derive(Serialize)]
struct Tap {
    #[serde(rename = "@dev")]
    dev: String,
}

#[derive(Serialize)]
struct Mtu {
    #[serde(rename = "@size")]
    size: u32,
}

#[derive(Serialize)]
struct Model {
    #[serde(rename = "@type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct Serial {
    #[serde(rename = "@type")]
    kind: &'static str,
    source: Socket,
    log: Log,
}

#[derive(Serialize)]
struct Socket {
    #[serde(rename = "@mode")]
    mode: &'static str,
    #[serde(rename = "@path")]
    path: String,
}

#[derive(Serialize)]
struct Graphics {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@sharePolicy")]
    share: &'static str,
    listen: Listen,
}

#[derive(Serialize)]
struct Listen {
    #[serde(rename = "@type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct Video {
    model: Model,
}

#[derive(Serialize)]
struct Log {
    #[serde(rename = "@file")]
    file: String,
    #[serde(rename = "@append")]
    append: &'static str,
}

#[derive(Serialize)]
struct Channel {
    #[serde(rename = "@type")]
    kind: &'static str,
    target: ChannelTarget,
}

#[derive(Serialize)]
struct ChannelTarget {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@name")]
    name: &'static str,
}

#[derive(Serialize)]
struct Rng {
    #[serde(rename = "@model")]
    model: &'static str,
    backend: Backend,
}

#[derive(Serialize)]
struct Backend {
    #[serde(rename = "@model")]
    model: &'static str,
    #[serde(rename = "$text")]
    value: &'static str,
}

#[derive(Serialize)]
struct Balloon {
    #[serde(rename = "@model")]
    model: &'static str,
    stats: Stats,
}

#[derive(Serialize)]
struct Stats {
    #[serde(rename = "@period")]
    period: u32,
}

#[cfg(test)]
mod tests;
