//! A VM's volumes: disks on its SCSI controller, which takes and gives them while the guest runs and needs
//! no slot for each. A guest knows a volume by its serial number, the same on every VM.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use berth_model::agent::{VmSpec, VolumeFormat};
use berth_model::{ByteSize, VmId, VolumeId};
use quick_xml::events::Event;
use serde::Serialize;
use virt::domain::Domain;
use virt::sys;

use super::disk::Cache;
use super::ops::refused;
use super::sizes::IoTune;
use super::source::{self, DiskSource};
use super::{leases, xml};
use crate::hypervisor::HypervisorError;
use crate::storage::pool::Source;
use crate::storage::{serial, volume_of_serial};

/// Places of volumes on the controller. The first ones are left to drives, and 7 is the controller's own.
const UNITS: [u8; 16] = [3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19];
/// How long a guest may take to let go of a volume.
const LET_GO: Duration = Duration::from_secs(20);
/// How often that is looked at.
const STEP: Duration = Duration::from_millis(50);

/// A volume in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Which.
    pub volume: VolumeId,
    /// Its place on the controller.
    pub unit: u8,
    /// Where it lies.
    pub source: Source,
    /// How it lies there.
    pub format: VolumeFormat,
    /// The guest may only read it.
    pub read_only: bool,
    /// How it is cached.
    pub cache: Cache,
    /// The limits of the VM's disks, which each volume has for itself.
    pub tune: Option<IoTune>,
}

/// A volume as it stands in a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    unit: Option<u8>,
    dev: String,
    read_only: bool,
    xml: String,
}

impl Found {
    /// How the guest's controller calls it.
    pub fn dev(&self) -> &str {
        &self.dev
    }

    /// May the guest only read it?
    pub fn read_only(&self) -> bool {
        self.read_only
    }
}

/// Puts the volumes of a spec in their places; one that is there stays where it is.
pub fn place(
    spec: &VmSpec,
    sources: &BTreeMap<VolumeId, (Source, VolumeFormat)>,
    there: &BTreeMap<VolumeId, Found>,
) -> Result<Vec<Placed>, HypervisorError> {
    let taken = |unit: &u8| there.values().any(|found| found.unit == Some(*unit));
    let mut free = UNITS.into_iter().filter(|unit| !taken(unit));
    let mut placed = Vec::new();
    for attachment in &spec.volumes {
        let Some((source, format)) = sources.get(&attachment.volume) else { continue };
        let unit = there.get(&attachment.volume).and_then(|found| found.unit).or_else(|| free.next());
        let unit = unit.ok_or_else(|| {
            HypervisorError::Conflict("The VM has no place for another volume; detach one first.".to_owned())
        })?;
        let cache = source::cache(source)?;
        let (source, read_only) = (source.clone(), attachment.read_only);
        // What a guest may only read has no limits, as its other disks that it may not write to.
        let tune = IoTune::of(&spec.limits).filter(|_| !read_only);
        placed.push(Placed {
            volume: attachment.volume,
            unit,
            source,
            format: *format,
            read_only,
            cache,
            tune,
        });
    }
    Ok(placed)
}

/// Brings a running guest's volumes to what was placed.
pub fn converge(domain: &Domain, id: VmId, placed: &[Placed]) -> Result<(), HypervisorError> {
    let live = |what: &str| -> Result<BTreeMap<VolumeId, Found>, HypervisorError> {
        let text = domain.xml_desc(0).map_err(|e| refused(what, &e))?;
        Ok(found(&text))
    };
    let there = live("say which volumes the VM has")?;
    let is_wanted = |volume: &VolumeId, found: &Found| {
        placed.iter().any(|p| p.volume == *volume && p.read_only == found.read_only)
    };
    for (volume, found) in there.iter().filter(|(volume, found)| !is_wanted(volume, found)) {
        let detached = domain.detach_device_flags(&found.xml, sys::VIR_DOMAIN_AFFECT_LIVE);
        detached.map_err(|e| refused(&format!("detach volume {volume}"), &e))?;
        let until = Instant::now() + LET_GO;
        while live("say which volumes the VM has")?.contains_key(volume) {
            if Instant::now() > until {
                let message = format!("The guest of VM {id} does not let go of volume {volume}.");
                return Err(HypervisorError::Conflict(message));
            }
            std::thread::sleep(STEP);
        }
    }
    let missing =
        |placed: &&Placed| there.get(&placed.volume).is_none_or(|f| f.read_only != placed.read_only);
    for placed in placed.iter().filter(missing) {
        let disk = xml::write(&Disk::of(placed));
        let attached = domain.attach_device_flags(&disk, sys::VIR_DOMAIN_AFFECT_LIVE);
        let attached = attached.map_err(|e| refused(&format!("attach volume {}", placed.volume), &e));
        attached.map_err(|e| leases::explain(id, &disk, e))?;
    }
    Ok(())
}

/// Grows a volume that a running guest has; says whether it has it.
pub fn grow(domain: &Domain, volume: VolumeId, size: ByteSize) -> Result<bool, HypervisorError> {
    if !domain.is_active().unwrap_or(false) {
        return Ok(false);
    }
    let text = domain.xml_desc(0).map_err(|e| refused("say which volumes the VM has", &e))?;
    let Some(found) = found(&text).remove(&volume) else { return Ok(false) };
    domain
        .block_resize(&found.dev, size.bytes(), sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES)
        .map_err(|e| refused("grow the volume", &e))?;
    Ok(true)
}

/// The volumes in a domain's XML, as libvirt writes it.
pub fn found(domain: &str) -> BTreeMap<VolumeId, Found> {
    let mut all = BTreeMap::new();
    let mut reader = quick_xml::Reader::from_str(domain);
    let mut disk: Option<(usize, Found, Option<VolumeId>)> = None;
    let mut in_serial = false;
    loop {
        let before = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
        let event = match reader.read_event() {
            Ok(Event::Eof) | Err(_) => return all,
            Ok(event) => event,
        };
        match event {
            Event::Start(tag) if tag.name().as_ref() == "disk" => {
                let empty = Found { unit: None, dev: String::new(), read_only: false, xml: String::new() };
                disk = Some((before, empty, None));
            }
            Event::End(tag) if tag.name().as_ref() == "disk" => {
                let after = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
                if let Some((from, found, Some(volume))) = disk.take() {
                    let xml = domain.get(from..after).unwrap_or_default().to_owned();
                    all.insert(volume, Found { xml, ..found });
                }
            }
            Event::Start(tag) | Event::Empty(tag) => {
                in_serial = tag.name().as_ref() == "serial";
                let Some((_, found, _)) = &mut disk else { continue };
                let attribute = |name: &str| {
                    let attribute = tag.try_get_attribute(name).ok()??;
                    Some(attribute.value.into_owned())
                };
                match tag.name().as_ref() {
                    "target" => found.dev = attribute("dev").unwrap_or_default(),
                    "readonly" => found.read_only = true,
                    "address" => found.unit = attribute("unit").and_then(|unit| unit.parse().ok()),
                    _ => {}
                }
            }
            Event::Text(text) if in_serial => {
                if let Some((_, _, volume)) = &mut disk {
                    *volume = volume_of_serial(text.trim());
                }
            }
            Event::End(_) => in_serial = false,
            _ => {}
        }
    }
}

/// QEMU's word for a form.
pub fn word(format: VolumeFormat) -> &'static str {
    match format {
        VolumeFormat::Qcow2 => "qcow2",
        VolumeFormat::Raw => "raw",
    }
}

/// The controller of volumes: there from the start, so that the first one finds it.
#[derive(Debug, Serialize)]
pub struct Controller {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@index")]
    index: u8,
    #[serde(rename = "@model", skip_serializing_if = "Option::is_none")]
    model: Option<&'static str>,
}

impl Controller {
    /// For a real guest, or for the test driver.
    pub fn new(real: bool) -> Self {
        Self { kind: "scsi", index: 0, model: real.then_some("virtio-scsi") }
    }
}

/// A volume as a disk of a domain.
#[derive(Debug, Serialize)]
#[serde(rename = "disk")]
pub struct Disk {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@device")]
    device: &'static str,
    driver: Driver,
    source: DiskSource,
    target: Target,
    #[serde(skip_serializing_if = "Option::is_none")]
    readonly: Option<Empty>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iotune: Option<IoTune>,
    serial: String,
    address: Address,
}

#[derive(Debug, Serialize)]
struct Driver {
    #[serde(rename = "@name")]
    name: &'static str,
    #[serde(rename = "@type")]
    format: &'static str,
    #[serde(rename = "@cache")]
    cache: &'static str,
    #[serde(rename = "@io", skip_serializing_if = "Option::is_none")]
    io: Option<&'static str>,
    #[serde(rename = "@discard")]
    discard: &'static str,
}

#[derive(Debug, Serialize)]
struct Target {
    #[serde(rename = "@dev")]
    dev: String,
    #[serde(rename = "@bus")]
    bus: &'static str,
}

#[derive(Debug, Serialize)]
struct Empty {}

#[derive(Debug, Serialize)]
struct Address {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@controller")]
    controller: u8,
    #[serde(rename = "@bus")]
    bus: u8,
    #[serde(rename = "@target")]
    target: u8,
    #[serde(rename = "@unit")]
    unit: u8,
}

impl Disk {
    /// The element.
    pub fn of(placed: &Placed) -> Self {
        let (kind, source) = DiskSource::of(&placed.source);
        Self {
            kind,
            device: "disk",
            driver: Driver {
                name: "qemu",
                format: word(placed.format),
                cache: placed.cache.name(),
                io: placed.cache.io(),
                // What the guest trims is given back to the pool.
                discard: "unmap",
            },
            source,
            target: Target { dev: format!("sd{}", char::from(b'a' + placed.unit)), bus: "scsi" },
            readonly: placed.read_only.then_some(Empty {}),
            iotune: placed.tune.clone(),
            serial: serial(placed.volume),
            address: Address { kind: "drive", controller: 0, bus: 0, target: 0, unit: placed.unit },
        }
    }
}

#[cfg(test)]
mod tests {
    use berth_model::agent::VolumeAttachment;
    use proptest::prelude::*;

    use super::*;

    fn placed(volume: i64, unit: u8, source: Source) -> Placed {
        let format = if matches!(source, Source::File(_)) { VolumeFormat::Qcow2 } else { VolumeFormat::Raw };
        let cache = Cache::None;
        Placed { volume: VolumeId(volume), unit, source, format, read_only: false, cache, tune: None }
    }

    #[test]
    fn a_volume_is_found_again_in_its_own_xml() {
        let _proof = crate::proof::pure(&["volume.attach", "volume.detach"]);
        let one = placed(5, 4, Source::File("/pool/volumes/5/volume.qcow2".into()));
        let two = Placed { read_only: true, ..placed(6, 3, Source::Block("/dev/vg0/berth-volume-6".into())) };
        let (first, second) = (xml::write(&Disk::of(&one)), xml::write(&Disk::of(&two)));
        assert!(first.contains("<disk type=\"file\""), "{first}");
        assert!(second.contains("<source dev=\"/dev/vg0/berth-volume-6\"/>"), "{second}");
        let own_disk = "<disk><target dev='vda'/><address unit='0'/></disk>";
        let found = found(&format!("<domain><devices>{own_disk}{first}{second}</devices></domain>"));
        assert_eq!(found.len(), 2);
        let one = &found[&VolumeId(5)];
        assert_eq!((one.unit, one.dev.as_str(), one.read_only), (Some(4), "sde", false));
        assert_eq!(one.xml, first.trim_end());
        assert!(found[&VolumeId(6)].read_only);
    }

    #[test]
    fn a_volume_stays_in_its_place_and_a_new_one_takes_a_free_one() {
        let _proof = crate::proof::pure(&["volume.attach"]);
        let folder = tempfile::tempdir().unwrap();
        let source = || (Source::File(folder.path().join("volume.qcow2")), VolumeFormat::Qcow2);
        let there = found(&xml::write(&Disk::of(&placed(5, 3, source().0))));
        let attachment = |id| VolumeAttachment { volume: VolumeId(id), read_only: false };
        let mut spec: VmSpec = serde_json::from_value(serde_json::json!({
            "vcpus": 1, "memory": 1, "disk": 1, "image": {"sha256": ""}, "nics": [], "power": "on",
            "seed": {"hostname": "a", "ssh_keys": [], "root_password_hash": null, "user_data": null, "name_servers": []},
        }))
        .unwrap();
        spec.volumes = [9, 5].map(attachment).to_vec();
        let sources = [9, 5].map(|id| (VolumeId(id), source())).into();
        let units: Vec<u8> = place(&spec, &sources, &there).unwrap().iter().map(|p| p.unit).collect();
        assert_eq!(units, [4, 3]);
        spec.volumes = (20..37).map(attachment).collect();
        let sources = (20..37).map(|id| (VolumeId(id), source())).collect();
        assert!(matches!(place(&spec, &sources, &BTreeMap::new()), Err(HypervisorError::Conflict(_))));
    }

    proptest! {
        #[test]
        fn no_xml_breaks_the_agent(text in "(<disk>|</disk>|<serial>|</serial>|volume-5|<target dev='a'/>|<|>|\\PC)*") {
            let _read = found(&text);
        }
    }
}
