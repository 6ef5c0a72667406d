use serde::{Deserialize, Serialize};

/// What a VM is built of beside its sizes. Each part is as the default says unless it is named. A change
/// of a running VM waits for its next start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Hardware {
    /// What finds the system to boot.
    pub firmware: Firmware,
    /// QEMU's machine: `q35` or `pc`, or one of their versions, like `pc-q35-7.2`, to stay on it when QEMU is
    /// updated.
    pub machine: String,
    /// The processor: `auto` (what this node has, by its name), `host_passthrough` (exactly this node's; where
    /// guests are translated, all that the translator knows), or a named one, like `Nehalem`, that every node
    /// of a group knows: a VM with it can move between them while it runs.
    pub cpu: String,
    /// Does it get random numbers from the node?
    pub rng: bool,
    /// What happens when its system no longer feeds the watchdog.
    pub watchdog: Watchdog,
    /// Does it have a TPM 2.0? Its secrets go with the VM.
    pub tpm: bool,
    /// Where systems are looked for, the first first; each at most once.
    pub boot: Vec<BootDevice>,
}

impl Default for Hardware {
    fn default() -> Self {
        Self {
            firmware: Firmware::Bios,
            machine: "q35".to_owned(),
            cpu: "auto".to_owned(),
            rng: true,
            watchdog: Watchdog::None,
            tpm: false,
            boot: vec![BootDevice::Disk],
        }
    }
}

impl Hardware {
    /// Is all of it as it is when nothing is said?
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What finds the system to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Firmware {
    /// A BIOS.
    #[default]
    Bios,
    /// UEFI, without secure boot. What it remembers goes with the VM.
    Uefi,
}

/// What a watchdog does that is not fed. It is one of Intel's, an i6300ESB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Watchdog {
    /// There is no watchdog.
    #[default]
    None,
    /// It presses the reset button.
    Reset,
    /// It pulls the plug.
    PowerOff,
    /// It holds the VM, so that somebody can look at it.
    Pause,
}

/// Where a system may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum BootDevice {
    /// The VM's disk.
    Disk,
    /// The CD drive.
    Iso,
    /// The first network card.
    Network,
}

/// A system beside the VM's own, to repair it with.
#[derive(Debug, Clone, PartialEq, Default, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Rescue {
    /// The rescue image, by SHA-256.
    pub image: String,
    /// Its root password, as a crypt(3) SHA-512 hash.
    pub root_password_hash: String,
    /// Lines for root's `authorized_keys` in it. At most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<String>,
}

/// `vm.hardware`: what is not named stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct HardwareChange {
    /// QEMU's machine: `q35`, `pc` or one of their versions.
    pub machine: Option<String>,
    /// The processor: `auto`, `host_passthrough` or a named one.
    pub cpu: Option<String>,
    /// Does it get random numbers from the node?
    pub rng: Option<bool>,
    /// What the watchdog does.
    pub watchdog: Option<Watchdog>,
    /// Does it have a TPM?
    pub tpm: Option<bool>,
}

/// `vm.firmware`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FirmwareChange {
    /// BIOS or UEFI.
    pub firmware: Firmware,
}

/// `vm.boot_order`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VmBootOrder {
    /// The first first; each at most once, and at least one.
    pub boot: Vec<BootDevice>,
}

/// `vm.autostart`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VmAutostart {
    /// Does it start with the node?
    pub on: bool,
}

/// `vm.rename`: what is not named stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct VmRename {
    /// The host name that its system is told.
    pub hostname: Option<String>,
    /// The title that operators see; empty for none.
    pub title: Option<String>,
}

/// `vm.iso_attach`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VmIso {
    /// The ISO, by SHA-256.
    pub iso: String,
    /// Is it booted from, before all else, from the next start on?
    #[serde(default)]
    pub boot: bool,
}
