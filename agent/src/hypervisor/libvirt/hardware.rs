//! What a VM is built of beside its sizes: firmware, machine, processor, watchdog, TPM, CD drive.
//!
//! In rescue a VM boots by BIOS from its first disk, whatever its own firmware and boot order are: so the
//! rescue image has to know one way to boot, and what UEFI remembers of the VM's own system stays untouched.

use berth_model::FieldError;
use berth_model::agent::{BootDevice, DomainType, Firmware, Hardware, Watchdog};
use quick_xml::events::Event;
use serde::Serialize;
use virt::connect::Connect;

use super::domain::Plan;
use super::ops::refused;
use super::xml;
use crate::hypervisor::HypervisorError;

#[derive(Serialize)]
pub struct Os<'a> {
    #[serde(rename = "@firmware", skip_serializing_if = "Option::is_none")]
    firmware: Option<&'static str>,
    #[serde(rename = "type")]
    os_type: OsType<'a>,
    #[serde(rename = "firmware", skip_serializing_if = "Option::is_none")]
    features: Option<FirmwareFeatures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nvram: Option<String>,
    boot: Vec<Device>,
}

#[derive(Serialize)]
struct OsType<'a> {
    #[serde(rename = "@arch", skip_serializing_if = "Option::is_none")]
    arch: Option<&'static str>,
    #[serde(rename = "@machine", skip_serializing_if = "Option::is_none")]
    machine: Option<&'a str>,
    #[serde(rename = "$text")]
    value: &'static str,
}

#[derive(Serialize)]
struct FirmwareFeatures {
    feature: FirmwareFeature,
}

#[derive(Serialize)]
struct FirmwareFeature {
    #[serde(rename = "@enabled")]
    enabled: &'static str,
    #[serde(rename = "@name")]
    name: &'static str,
}

#[derive(Serialize)]
struct Device {
    #[serde(rename = "@dev")]
    dev: &'static str,
}

/// Firmware, machine and boot order.
pub fn os<'a>(plan: &Plan<'a>) -> Os<'a> {
    let hardware = &plan.spec.hardware;
    // The test driver knows another machine than QEMU does, so it chooses.
    let real = plan.domain_type != DomainType::Test;
    let in_rescue = plan.spec.rescue.is_some();
    let uefi = real && !in_rescue && hardware.firmware == Firmware::Uefi;
    let boot: &[BootDevice] = if in_rescue { &[BootDevice::Disk] } else { &hardware.boot };
    Os {
        firmware: uefi.then_some("efi"),
        os_type: OsType {
            arch: real.then_some("x86_64"),
            machine: real.then_some(hardware.machine.as_str()),
            value: "hvm",
        },
        features: uefi
            .then_some(FirmwareFeatures { feature: FirmwareFeature { enabled: "no", name: "secure-boot" } }),
        nvram: uefi.then(|| xml::path(&plan.folder.nvram())),
        boot: boot.iter().map(|device| Device { dev: boot_word(*device) }).collect(),
    }
}

fn boot_word(device: BootDevice) -> &'static str {
    match device {
        BootDevice::Disk => "hd",
        BootDevice::Iso => "cdrom",
        BootDevice::Network => "network",
    }
}

#[derive(Serialize)]
pub struct Cpu<'a> {
    #[serde(rename = "@mode")]
    mode: &'static str,
    #[serde(rename = "@match", skip_serializing_if = "Option::is_none")]
    exactly: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<CpuModel<'a>>,
}

#[derive(Serialize)]
struct CpuModel<'a> {
    #[serde(rename = "@fallback")]
    fallback: &'static str,
    #[serde(rename = "$text")]
    name: &'a str,
}

/// The processor.
pub fn cpu<'a>(plan: &Plan<'a>) -> Option<Cpu<'a>> {
    let mode = |mode| Some(Cpu { mode, exactly: None, model: None });
    match (plan.domain_type, plan.spec.hardware.cpu.as_str()) {
        (DomainType::Test | DomainType::Simulator, _) => None,
        // Not host-passthrough: a guest that knows the model can move to another node.
        (DomainType::Kvm, "auto") => mode("host-model"),
        (DomainType::Kvm, "host_passthrough") => mode("host-passthrough"),
        // QEMU's default processor is one of 2003.
        (DomainType::Qemu, "auto" | "host_passthrough") => mode("maximum"),
        (DomainType::Kvm | DomainType::Qemu, name) => Some(Cpu {
            mode: "custom",
            exactly: Some("exact"),
            model: Some(CpuModel { fallback: "forbid", name }),
        }),
    }
}

#[derive(Serialize)]
pub struct WatchdogDevice {
    #[serde(rename = "@model")]
    model: &'static str,
    #[serde(rename = "@action")]
    action: &'static str,
}

/// The watchdog, if there is one.
pub fn watchdog(watchdog: Watchdog) -> Option<WatchdogDevice> {
    let action = match watchdog {
        Watchdog::None => return None,
        Watchdog::Reset => "reset",
        Watchdog::PowerOff => "poweroff",
        Watchdog::Pause => "pause",
    };
    Some(WatchdogDevice { model: "i6300esb", action })
}

#[derive(Serialize)]
pub struct Tpm {
    #[serde(rename = "@model")]
    model: &'static str,
    backend: TpmBackend,
}

#[derive(Serialize)]
struct TpmBackend {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@version")]
    version: &'static str,
}

/// A TPM 2.0, emulated by swtpm. libvirt keeps its state, and removes it with the domain.
pub fn tpm() -> Tpm {
    Tpm { model: "tpm-crb", backend: TpmBackend { kind: "emulator", version: "2.0" } }
}

#[derive(Serialize)]
pub struct Target {
    #[serde(rename = "@dev")]
    pub dev: &'static str,
    #[serde(rename = "@bus")]
    pub bus: &'static str,
}

/// Where the CD drive is plugged in: what every installer has a driver for.
pub fn cd_target(machine: &str) -> Target {
    if machine == "pc" || machine.starts_with("pc-i440fx-") {
        Target { dev: "hda", bus: "ide" }
    } else {
        Target { dev: "sda", bus: "sata" }
    }
}

/// Refuses what this node cannot build. Asks libvirt only for what is not the default.
pub fn check(connect: &Connect, domain_type: DomainType, hardware: &Hardware) -> Result<(), HypervisorError> {
    let kind = match domain_type {
        DomainType::Kvm => "kvm",
        DomainType::Qemu => "qemu",
        DomainType::Test | DomainType::Simulator => return Ok(()),
    };
    if hardware.is_default() {
        return Ok(());
    }
    let machine = &hardware.machine;
    let asked = connect.domain_capabilities(None, Some("x86_64"), Some(machine), Some(kind), 0);
    let capabilities = asked.map_err(|e| match refused("say what it can build", &e) {
        HypervisorError::Failed(_) => {
            invalid("hardware.machine", format!("This node has no machine {machine}."))
        }
        other => other,
    })?;
    let capabilities = Capabilities::read(&capabilities)
        .map_err(|e| HypervisorError::Failed(format!("libvirt's capabilities could not be read: {e}")))?;
    let cpu = &hardware.cpu;
    if !matches!(cpu.as_str(), "auto" | "host_passthrough") && !capabilities.cpus.contains(cpu) {
        return Err(invalid("hardware.cpu", format!("This node has no processor {cpu}, or cannot be one.")));
    }
    if hardware.firmware == Firmware::Uefi && !capabilities.uefi {
        return Err(HypervisorError::Lacking("This node has no UEFI: install the package ovmf.".to_owned()));
    }
    if hardware.tpm && !capabilities.tpm {
        let message = "This node has no TPM: install the packages swtpm and swtpm-tools.";
        return Err(HypervisorError::Lacking(message.to_owned()));
    }
    Ok(())
}

fn invalid(field: &str, message: String) -> HypervisorError {
    HypervisorError::Invalid(FieldError { name: field.to_owned(), messages: vec![message] })
}

/// What libvirt says that it can build.
#[derive(Debug, Default, PartialEq, Eq)]
struct Capabilities {
    cpus: Vec<String>,
    uefi: bool,
    tpm: bool,
}

impl Capabilities {
    fn read(text: &str) -> Result<Self, String> {
        let mut reader = quick_xml::Reader::from_str(text);
        let mut found = Self::default();
        let mut path: Vec<String> = Vec::new();
        let mut usable = false;
        loop {
            match reader.read_event().map_err(|e| e.to_string())? {
                Event::Start(element) => {
                    let name = element.name();
                    path.push(name.as_ref().to_owned());
                    let attribute = element.try_get_attribute("usable").ok().flatten();
                    usable = attribute.is_some_and(|usable| &*usable.value == "yes");
                }
                Event::End(_) => {
                    path.pop();
                }
                Event::Text(text) => {
                    let text = text.trim();
                    let at: Vec<&str> = path.iter().map(String::as_str).collect();
                    match at.as_slice() {
                        [_, "cpu", "mode", "model"] if usable => found.cpus.push(text.to_owned()),
                        [_, "os", "enum", "value"] if text == "efi" => found.uefi = true,
                        [_, "devices", "tpm", "enum", "value"] if text == "emulator" => found.tpm = true,
                        _ => {}
                    }
                }
                Event::Eof => return Ok(found),
                _ => {}
            }
        }
    }
}

/// Can what libvirt says of itself be read?
#[cfg(test)]
pub fn reads(xml: &str) -> Result<(), String> {
    Capabilities::read(xml).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_can_build_is_read_from_its_capabilities() {
        let text = "<domainCapabilities>
          <os supported='yes'><enum name='firmware'><value>efi</value></enum>
            <loader supported='yes'><enum name='type'><value>rom</value></enum></loader></os>
          <cpu><mode name='host-model' supported='yes'><model fallback='forbid'>EPYC</model></mode>
            <mode name='custom' supported='yes'>
              <model usable='yes' vendor='Intel'>Nehalem</model><model usable='no' vendor='AMD'>EPYC-Rome</model>
            </mode></cpu>
          <devices><tpm supported='yes'><enum name='model'><value>tpm-crb</value></enum>
            <enum name='backendModel'><value>emulator</value></enum></tpm></devices>
        </domainCapabilities>";
        let expected = Capabilities { cpus: vec!["Nehalem".to_owned()], uefi: true, tpm: true };
        assert_eq!(Capabilities::read(text), Ok(expected));
        assert_eq!(Capabilities::read("<domainCapabilities/>"), Ok(Capabilities::default()));
        assert!(Capabilities::read("<a></b>").is_err());
    }
}
