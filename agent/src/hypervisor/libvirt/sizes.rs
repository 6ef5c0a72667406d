//! A VM's size and limits in its definition, and live.
//!
//! | what | live |
//! | --- | --- |
//! | virtual CPUs | plugged, and with KVM unplugged, up to `vcpus_max`; the guest agent brings them online |
//! | memory | by the balloon, up to `memory_max` |
//! | disk | grown by QEMU; the guest agent grows the file system ([`guest::Guest::grow`]) |
//! | limits | through cgroups and QEMU's own throttling |

use std::path::Path;
use std::time::{Duration, Instant};

use berth_model::agent::{VmLimits, VmSpec, VmState};
use berth_model::{ByteSize, VmId};
use serde::{Deserialize, Serialize};
use virt::domain::{Domain, SchedBandwidth, SchedulerInfo};
use virt::error::Error;
use virt::sys;

use super::ops::{metadata, refused, state};
use super::{Libvirt, ffi, xml};
use crate::guest::Guest;
use crate::hypervisor::HypervisorError;
use crate::sizes::Running;

/// Microseconds over which a CPU quota is counted.
const PERIOD_US: u64 = 100_000;
/// How long a guest may take to give back a CPU or memory before the answer goes out without.
const GUEST_PATIENCE: Duration = Duration::from_secs(15);
/// How often the guest is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The namespace of the note that the guest's file system has yet to grow. It stands in the running
/// domain alone: at its next start the guest grows it by itself.
const GROW_URI: &str = "urn:berth:grow:1";

/// `<vcpu current="2">4</vcpu>`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vcpu {
    #[serde(rename = "@current", default, skip_serializing_if = "Option::is_none")]
    current: Option<u32>,
    #[serde(rename = "$text")]
    max: u32,
}

impl Vcpu {
    /// What a specification says.
    pub fn of(spec: &VmSpec) -> Self {
        Self { current: spec.vcpus_max.map(|_| spec.vcpus), max: spec.vcpus_max.unwrap_or(spec.vcpus) }
    }
}

/// Each virtual CPU.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Vcpus {
    #[serde(default)]
    vcpu: Vec<OneVcpu>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OneVcpu {
    #[serde(rename = "@id")]
    id: u32,
    #[serde(rename = "@enabled")]
    enabled: String,
    #[serde(rename = "@hotpluggable")]
    hotpluggable: String,
}

impl Vcpus {
    /// All but the first can be unplugged, where a specification leaves room to change.
    pub fn of(spec: &VmSpec) -> Option<Self> {
        let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        let one = |id| OneVcpu { id, enabled: yes_no(id < spec.vcpus), hotpluggable: yes_no(id > 0) };
        spec.vcpus_max.map(|max| Self { vcpu: (0..max).map(one).collect() })
    }

    fn fixed(&self) -> u32 {
        let fixed = self.vcpu.iter().filter(|vcpu| vcpu.enabled == "yes" && vcpu.hotpluggable == "no");
        u32::try_from(fixed.count()).unwrap_or(u32::MAX).max(1)
    }
}

/// Shares and quota of CPU time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CpuTune {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shares: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    global_period: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    global_quota: Option<i64>,
}

impl CpuTune {
    /// What limits say; nothing if they say nothing.
    pub fn of(limits: &VmLimits) -> Option<Self> {
        let tune = Self {
            shares: limits.cpu_weight.map(|weight| shares(weight, has_unified_cgroups())),
            global_period: limits.cpu_percent.map(|_| PERIOD_US),
            global_quota: limits.cpu_percent.map(|percent| i64::from(percent) * (PERIOD_US as i64) / 100),
        };
        (tune != Self::default()).then_some(tune)
    }

    fn same(&self, wanted: Option<&Self>) -> bool {
        let usual = shares(WEIGHT_USUAL, has_unified_cgroups());
        let plain =
            |tune: &Self| (tune.shares.unwrap_or(usual), tune.global_quota.filter(|quota| *quota > 0));
        plain(self) == plain(wanted.unwrap_or(&Self::default()))
    }
}

/// The weight of a VM that was given none.
const WEIGHT_USUAL: u32 = 100;

/// A weight in the words of the kernel's control groups: the old ones count shares around 1024, the
/// unified ones weights around 100.
fn shares(weight: u32, is_unified: bool) -> u64 {
    let weight = u64::from(weight);
    if is_unified { weight } else { (weight * 1024 / 100).max(2) }
}

fn has_unified_cgroups() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Limits of a disk; 0 is none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct IoTune {
    #[serde(skip_serializing_if = "is_zero")]
    read_bytes_sec: u64,
    #[serde(skip_serializing_if = "is_zero")]
    write_bytes_sec: u64,
    #[serde(skip_serializing_if = "is_zero")]
    read_iops_sec: u64,
    #[serde(skip_serializing_if = "is_zero")]
    write_iops_sec: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl IoTune {
    /// What limits say; nothing if they say nothing.
    pub fn of(limits: &VmLimits) -> Option<Self> {
        let rate = |rate: Option<ByteSize>| rate.map_or(0, ByteSize::bytes);
        let tune = Self {
            read_bytes_sec: rate(limits.disk_read_bytes_per_s),
            write_bytes_sec: rate(limits.disk_write_bytes_per_s),
            read_iops_sec: limits.disk_read_iops.unwrap_or(0),
            write_iops_sec: limits.disk_write_iops.unwrap_or(0),
        };
        (tune != Self::default()).then_some(tune)
    }

    fn parameters(&self) -> [(&'static str, u64); 4] {
        [
            ("read_bytes_sec", self.read_bytes_sec),
            ("write_bytes_sec", self.write_bytes_sec),
            ("read_iops_sec", self.read_iops_sec),
            ("write_iops_sec", self.write_iops_sec),
        ]
    }
}

/// A running domain, as libvirt tells of it.
#[derive(Debug, Deserialize)]
struct Live {
    #[serde(rename = "@type")]
    domain_type: String,
    memory: Kib,
    #[serde(rename = "currentMemory")]
    current_memory: Kib,
    vcpu: Vcpu,
    #[serde(default)]
    vcpus: Vcpus,
    #[serde(default)]
    cputune: CpuTune,
    devices: LiveDevices,
}

/// libvirt gives amounts of memory back in KiB.
#[derive(Debug, Deserialize)]
struct Kib {
    #[serde(rename = "$text")]
    kib: u64,
}

impl Kib {
    fn size(&self) -> ByteSize {
        ByteSize(self.kib.saturating_mul(1024))
    }
}

#[derive(Debug, Default, Deserialize)]
struct LiveDevices {
    #[serde(default)]
    disk: Vec<LiveDisk>,
}

#[derive(Debug, Deserialize)]
struct LiveDisk {
    target: LiveTarget,
    #[serde(default)]
    iotune: IoTune,
    readonly: Option<Empty>,
}

#[derive(Debug, Deserialize)]
struct LiveTarget {
    #[serde(rename = "@dev")]
    dev: String,
}

#[derive(Debug, Deserialize)]
struct Empty {}

impl Live {
    fn of(domain: &Domain) -> Result<Self, HypervisorError> {
        let xml = domain.xml_desc(0).map_err(|e| refused("show the VM", &e))?;
        Self::parse(&xml).map_err(|e| HypervisorError::Failed(format!("libvirt's definition of the VM: {e}")))
    }

    fn parse(xml: &str) -> Result<Self, quick_xml::DeError> {
        quick_xml::de::from_str(xml)
    }

    fn running(&self) -> Running {
        let vcpus = self.vcpu.current.unwrap_or(self.vcpu.max);
        // QEMU's translator does not survive that a CPU is unplugged: its memory is corrupt afterwards.
        let can_unplug = self.domain_type != "qemu";
        Running {
            vcpus,
            vcpus_min: if can_unplug { self.vcpus.fixed() } else { vcpus },
            vcpus_max: self.vcpu.max,
            memory: self.current_memory.size(),
            memory_max: self.memory.size(),
        }
    }

    /// Disks that the guest may write to; those that it may not are ours.
    fn disks(&self) -> impl Iterator<Item = &LiveDisk> {
        self.devices.disk.iter().filter(|disk| disk.readonly.is_none())
    }

    fn has_limits(&self, limits: &VmLimits) -> bool {
        let tune = IoTune::of(limits).unwrap_or_default();
        self.cputune.same(CpuTune::of(limits).as_ref()) && self.disks().all(|disk| disk.iotune == tune)
    }
}

/// What of a specification a domain that runs does not have yet.
pub fn pending(domain: &Domain, spec: &VmSpec) -> Result<Vec<String>, HypervisorError> {
    let live = Live::of(domain)?;
    let mut pending = live.running().pending(spec);
    if !live.has_limits(&spec.limits) {
        pending.push("limits".to_owned());
    }
    if must_grow(domain)? {
        pending.push("disk".to_owned());
    }
    Ok(pending)
}

/// Notes that the guest's file system has yet to follow its disk.
pub fn note_growth(domain: &Domain) -> Result<(), HypervisorError> {
    set_growth_note(domain, Some(&xml::element("grow", "")))
        .map_err(|e| refused("note the disk's growth", &e))
}

fn set_growth_note(domain: &Domain, note: Option<&str>) -> Result<(), Error> {
    let kind = sys::VIR_DOMAIN_METADATA_ELEMENT.cast_signed();
    domain.set_metadata(kind, note, Some("grow"), Some(GROW_URI), sys::VIR_DOMAIN_AFFECT_LIVE)
}

fn must_grow(domain: &Domain) -> Result<bool, HypervisorError> {
    Ok(metadata(domain, GROW_URI, sys::VIR_DOMAIN_AFFECT_LIVE)?.is_some())
}

impl Libvirt {
    /// Brings a running domain as near to the specification as its guest allows. What it does not
    /// allow is [`pending`] afterwards, so nothing here fails but what makes libvirt silent.
    pub(super) fn apply_live(&self, id: VmId, domain: &Domain, spec: &VmSpec) -> Result<(), HypervisorError> {
        let live = Live::of(domain)?;
        let now = live.running();
        if let Some(vcpus) = now.vcpus_toward(spec) {
            let set = domain.set_vcpus_flags(vcpus, sys::VIR_DOMAIN_VCPU_LIVE);
            noted(id, "change the number of CPUs", set)?;
            wait_until(domain, |running| running.vcpus == vcpus)?;
        }
        if let Some(memory) = now.memory_toward(spec) {
            let set = domain.set_memory_flags(memory.bytes() / 1024, sys::VIR_DOMAIN_MEM_LIVE);
            noted(id, "change the balloon", set)?;
            wait_until(domain, |running| running.has_memory(memory))?;
        }
        if !live.has_limits(&spec.limits) {
            set_limits(id, domain, &live, &spec.limits)?;
        }
        let is_running = state(domain)? == VmState::Running;
        // Not while the guest is about to give one back.
        if is_running && spec.vcpus_max.is_some() && Live::of(domain)?.running().vcpus == spec.vcpus {
            let online = Guest::of(self, id).bring_cpus_online();
            online.unwrap_or_else(|e| tracing::debug!(vm = id.0, error = %e, "CPUs were not brought online"));
        }
        if is_running && must_grow(domain)? {
            match Guest::of(self, id).grow("vda") {
                Ok(()) => noted(id, "forget the note", set_growth_note(domain, None))?,
                Err(e) => {
                    tracing::info!(vm = id.0, error = %e, "the guest's file system grows at its next boot");
                }
            }
        }
        Ok(())
    }
}

fn set_limits(id: VmId, domain: &Domain, live: &Live, limits: &VmLimits) -> Result<(), HypervisorError> {
    let tune = CpuTune::of(limits).unwrap_or_default();
    let scheduler = SchedulerInfo {
        cpu_shares: Some(tune.shares.unwrap_or_else(|| shares(WEIGHT_USUAL, has_unified_cgroups()))),
        global_bw: SchedBandwidth { period: Some(PERIOD_US), quota: Some(tune.global_quota.unwrap_or(-1)) },
        ..SchedulerInfo::default()
    };
    if !live.cputune.same(Some(&tune)) {
        let set = domain.set_scheduler_parameters_flags(&scheduler, sys::VIR_DOMAIN_AFFECT_LIVE);
        noted(id, "limit the VM's CPU time", set)?;
    }
    let tune = IoTune::of(limits).unwrap_or_default();
    for disk in live.disks().filter(|disk| disk.iotune != tune) {
        let set =
            ffi::set_block_io_tune(domain, &disk.target.dev, &tune.parameters(), sys::VIR_DOMAIN_AFFECT_LIVE);
        noted(id, "limit the VM's disks", set)?;
    }
    Ok(())
}

/// What libvirt or the guest does not do waits for the next start; an error is only that libvirt is gone.
fn noted(id: VmId, what: &str, done: Result<(), Error>) -> Result<(), HypervisorError> {
    match done.map_err(|e| refused(what, &e)) {
        Err(gone @ HypervisorError::Unavailable(_)) if !is_guest_slow(&gone) => Err(gone),
        Err(e) => {
            tracing::info!(vm = id.0, error = %e, "this waits for the VM's next start");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// libvirt waits 5 s for a guest to give back a CPU, and then says that it timed out.
fn is_guest_slow(error: &HypervisorError) -> bool {
    error.to_string().contains("unplug")
}

fn wait_until(domain: &Domain, fine: impl Fn(&Running) -> bool) -> Result<(), HypervisorError> {
    let until = Instant::now() + GUEST_PATIENCE;
    while state(domain)? == VmState::Running && !fine(&Live::of(domain)?.running()) && Instant::now() < until
    {
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Can the definition of a VM be read?
#[cfg(test)]
pub fn reads(xml: &str) -> Result<(), String> {
    let _running = Live::parse(xml).map_err(|e| e.to_string())?.running();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: &str = "<domain type='qemu' id='60'>
  <metadata><berth:vm xmlns:berth='urn:berth:vm:1' node='n'>{\"a\": 1}</berth:vm></metadata>
  <memory unit='KiB'>262144</memory>
  <currentMemory unit='KiB'>204800</currentMemory>
  <vcpu placement='static' current='2'>3</vcpu>
  <vcpus>
    <vcpu id='0' enabled='yes' hotpluggable='no' order='1'/>
    <vcpu id='1' enabled='yes' hotpluggable='yes' order='2'/>
    <vcpu id='2' enabled='no' hotpluggable='yes'/>
  </vcpus>
  <cputune><shares>512</shares><global_period>100000</global_period><global_quota>50000</global_quota></cputune>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <source file='/a'><x/></source><target dev='vda' bus='virtio'/>
      <iotune><write_iops_sec>5000</write_iops_sec></iotune>
    </disk>
    <disk type='file' device='disk'><target dev='vdb' bus='virtio'/><readonly/></disk>
    <controller type='usb' index='0'/>
  </devices>
</domain>";

    #[test]
    fn a_running_domain_is_read() {
        let _proof = crate::proof::pure(&["vm.resize", "vm.limits"]);
        let live = Live::parse(LIVE).unwrap();
        let running = live.running();
        assert_eq!((running.vcpus, running.vcpus_min, running.vcpus_max), (2, 2, 3));
        let kvm = Live::parse(&LIVE.replace("type='qemu'", "type='kvm'")).unwrap().running();
        assert_eq!((kvm.vcpus, kvm.vcpus_min, kvm.vcpus_max), (2, 1, 3));
        assert_eq!((running.memory, running.memory_max), (ByteSize::mib(200), ByteSize::mib(256)));
        let names: Vec<_> = live.disks().map(|disk| disk.target.dev.as_str()).collect();
        assert_eq!(names, ["vda"]);
        let limits = VmLimits {
            cpu_percent: Some(50),
            cpu_weight: Some(50),
            disk_write_iops: Some(5000),
            ..VmLimits::default()
        };
        if !has_unified_cgroups() {
            assert!(live.has_limits(&limits));
        }
        assert!(!live.has_limits(&VmLimits::default()));
        assert!(!live.has_limits(&VmLimits { disk_write_iops: Some(1), ..limits }));
    }

    #[test]
    fn limits_are_written_in_libvirt_s_words() {
        let _proof = crate::proof::pure(&["vm.limits"]);
        let limits = VmLimits {
            cpu_percent: Some(150),
            disk_read_iops: Some(7),
            disk_write_bytes_per_s: Some(ByteSize::mib(1)),
            ..VmLimits::default()
        };
        let tune = CpuTune::of(&limits).unwrap();
        assert_eq!(
            (tune.global_period, tune.global_quota, tune.shares),
            (Some(100_000), Some(150_000), None)
        );
        let tune = IoTune::of(&limits).unwrap();
        assert_eq!((tune.read_iops_sec, tune.write_iops_sec, tune.write_bytes_sec), (7, 0, 1 << 20));
        assert_eq!(CpuTune::of(&VmLimits::default()), None);
        assert_eq!(IoTune::of(&VmLimits::default()), None);
        assert_eq!([shares(1, false), shares(100, false), shares(100, true)], [10, 1024, 100]);
    }
}
