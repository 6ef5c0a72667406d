use std::path::{Path, PathBuf};
use std::process::Command;

use berth_model::agent::{
    BootDevice, Firmware, Hardware, Name, Nic, NicAddress, Rescue, VmImage, VmLimits, VmSeed,
    VolumeAttachment, VolumeFormat, WantedPower, Watchdog,
};
use berth_model::{ByteSize, PrivateNetworkId, VolumeId};

use super::*;
use crate::hypervisor::libvirt::names::Prefix;
use crate::storage::pool::{RbdSource, Source};

fn spec() -> VmSpec {
    VmSpec {
        vcpus: 4,
        memory: ByteSize::gib(8),
        disk: ByteSize::gib(160),
        image: VmImage { sha256: "ab".repeat(32) },
        disk_mode: Default::default(),
        volumes: Vec::new(),
        nics: vec![Nic {
            mac: "52:54:00:00:00:07".to_owned(),
            addresses: vec![NicAddress {
                ip: "10.77.0.7".parse().unwrap(),
                prefix: 24,
                gateway: Some("10.77.0.1".parse().unwrap()),
            }],
            ..Nic::default()
        }],
        seed: VmSeed {
            hostname: "web-1".to_owned(),
            ssh_keys: vec!["ssh-ed25519 AAAA <me> & \"you\"".to_owned()],
            root_password_hash: Some("$6$salt$hash".to_owned()),
            user_data: Some("#!/bin/sh\n# ]]> </berth:vm> \u{ffff} é 🚢 \u{1}\n".to_owned()),
            mounts: Vec::new(),
            name_servers: vec!["9.9.9.9".parse().unwrap()],
        },
        power: WantedPower::On,
        ..VmSpec::default()
    }
}

struct Case {
    golden: &'static str,
    domain_type: DomainType,
    spec: VmSpec,
    network: GuestNetwork,
    cache: Cache,
}

fn names() -> Names {
    Names::new("berth-")
}

fn cases() -> Vec<Case> {
    let bridge = "br0".to_owned();
    let mut two_cards = spec();
    two_cards.volumes = vec![
        VolumeAttachment { volume: VolumeId(5), read_only: false },
        VolumeAttachment { volume: VolumeId(6), read_only: true },
    ];
    two_cards.nics.push(Nic { mac: "52:54:00:00:00:08".to_owned(), ..Nic::default() });
    two_cards.nics.push(Nic {
        mac: "52:54:00:00:00:09".to_owned(),
        private: Some(PrivateNetworkId(5)),
        ..Nic::default()
    });
    let mut bare = spec();
    bare.vcpus = 1;
    bare.memory = ByteSize::mib(64);
    bare.nics.clear();
    bare.seed.user_data = None;
    let mut built = spec();
    built.hardware = Hardware {
        firmware: Firmware::Uefi,
        machine: "pc-q35-7.2".to_owned(),
        cpu: "Nehalem".to_owned(),
        rng: false,
        watchdog: Watchdog::Reset,
        tpm: true,
        boot: vec![BootDevice::Iso, BootDevice::Disk, BootDevice::Network],
    };
    built.iso = Some("cd".repeat(32));
    built.title = Some("Mara's <web> & mail".to_owned());
    let mut rescued = built.clone();
    rescued.hardware.machine = "pc".to_owned();
    rescued.hardware.cpu = "host_passthrough".to_owned();
    rescued.rescue = Some(Rescue {
        image: "ef".repeat(32),
        root_password_hash: "$6$salt$hash".to_owned(),
        ..Rescue::default()
    });
    let mut in_ceph = spec();
    in_ceph.disk_pool = Name::new("ceph");
    in_ceph.volumes =
        [5, 6, 8].map(|id| VolumeAttachment { volume: VolumeId(id), read_only: false }).to_vec();
    in_ceph.limits.disk_read_iops = Some(1000);
    let mut limited = spec();
    limited.vcpus_max = Some(6);
    limited.memory_max = Some(ByteSize::gib(16));
    // Without a weight: it is written as this machine's kernel counts it.
    limited.limits = VmLimits {
        cpu_percent: Some(150),
        disk_read_iops: Some(1000),
        disk_write_bytes_per_s: Some(ByteSize::mib(50)),
        ..VmLimits::default()
    };
    let nat = GuestNetwork::Nat { bridge: "berth0".to_owned(), gateway: "10.77.0.1/24".parse().unwrap() };
    vec![
        Case {
            golden: "kvm-nat",
            domain_type: DomainType::Kvm,
            spec: spec(),
            network: nat,
            cache: Cache::None,
        },
        Case {
            golden: "qemu-bridge-two-cards",
            domain_type: DomainType::Qemu,
            spec: two_cards,
            network: GuestNetwork::Bridge { bridge },
            cache: Cache::Writeback,
        },
        Case {
            golden: "kvm-routed",
            domain_type: DomainType::Kvm,
            spec: spec(),
            network: GuestNetwork::Routed,
            cache: Cache::None,
        },
        Case {
            golden: "qemu-user",
            domain_type: DomainType::Qemu,
            spec: spec(),
            network: GuestNetwork::User,
            cache: Cache::None,
        },
        Case {
            golden: "kvm-built",
            domain_type: DomainType::Kvm,
            spec: built,
            network: GuestNetwork::User,
            cache: Cache::None,
        },
        Case {
            golden: "kvm-rescued",
            domain_type: DomainType::Kvm,
            spec: rescued,
            network: GuestNetwork::User,
            cache: Cache::None,
        },
        Case {
            golden: "kvm-room-and-limits",
            domain_type: DomainType::Kvm,
            spec: limited,
            network: GuestNetwork::User,
            cache: Cache::None,
        },
        Case {
            golden: "kvm-ceph",
            domain_type: DomainType::Kvm,
            spec: in_ceph,
            network: GuestNetwork::User,
            cache: Cache::None,
        },
        Case {
            golden: "test-no-card",
            domain_type: DomainType::Test,
            spec: bare,
            network: GuestNetwork::User,
            cache: Cache::None,
        },
    ]
}

/// A file and a block device for the spec's volumes.
fn volumes(spec: &VmSpec) -> Vec<Placed> {
    let places = [
        (3, Source::File("/var/lib/berth-agent/volumes/5/volume.qcow2".into()), VolumeFormat::Qcow2),
        (4, Source::Block("/dev/vg0/berth-volume-6".into()), VolumeFormat::Raw),
        (5, rbd("berth-volume-8"), VolumeFormat::Raw),
    ];
    let placed = spec.volumes.iter().zip(places).map(|(attachment, (unit, source, format))| Placed {
        volume: attachment.volume,
        unit,
        cache: if matches!(source, Source::Rbd(_)) { Cache::Writeback } else { Cache::None },
        source,
        format,
        read_only: attachment.read_only,
        tune: IoTune::of(&spec.limits),
    });
    placed.collect()
}

fn rbd(image: &str) -> Source {
    Source::Rbd(RbdSource {
        monitors: vec![("192.0.2.1".to_owned(), Some(3300)), ("2001:db8::1".to_owned(), None)],
        image: format!("vms/{image}"),
        user: "berth".to_owned(),
        key: "6f2d1b1e-5c1f-4a5e-9d64-0d0b7c3a1e2f".to_owned(),
    })
}

fn xml_of(case: &Case) -> String {
    let pool_disk = case.spec.disk_pool.as_ref().map(|_| PoolDisk {
        source: rbd("berth-vm-7"),
        format: VolumeFormat::Raw,
        cache: Cache::Writeback,
        lease: Some(PathBuf::from("/srv/leases/0d71")),
    });
    xml(&Plan {
        id: VmId(7),
        prefix: &Prefix::new("berth-").unwrap(),
        node: "node <1> & \"co\"",
        domain_type: case.domain_type,
        spec: &case.spec,
        folder: &Folder::at(PathBuf::from("/var/lib/berth-agent/vms/7")),
        network: &case.network,
        cache: case.cache,
        names: (case.domain_type != DomainType::Test).then_some(&names()),
        iso: case.spec.iso.as_ref().map(|_| Path::new("/images/an.iso")),
        volumes: &volumes(&case.spec),
        disk: pool_disk.as_ref(),
    })
}

fn golden(case: &Case) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case.golden).with_extension("xml")
}

/// `UPDATE_GOLDEN=1` writes the files anew, to be read before they are committed.
#[test]
fn domains_are_as_the_golden_files_say() {
    let _proof = crate::proof::pure(&[
        "vm.put",
        "vm.resize",
        "vm.limits",
        "vm.autostart",
        "vm.boot_order",
        "vm.firmware",
        "vm.hardware",
        "vm.iso_attach",
        "vm.iso_eject",
        "vm.rename",
        "vm.rescue_on",
        "vm.rescue_off",
        "volume.attach",
    ]);
    for case in cases() {
        let (path, xml) = (golden(&case), xml_of(&case));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &xml).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(expected == xml, "{} differs from what is made now:\n{xml}", path.display());
    }
}

#[test]
fn libvirts_schema_takes_every_golden_file() {
    for case in cases() {
        let checked = Command::new("virt-xml-validate").arg(golden(&case)).arg("domain").output();
        let checked = checked.expect("virt-xml-validate is in Debian's package libvirt-clients");
        let complaint = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(checked.status.success(), "{}: {complaint}", case.golden);
    }
}

#[test]
fn the_whole_spec_comes_back_from_the_metadata() {
    let _proof = crate::proof::pure(&["vm.get", "vm.list"]);
    for case in cases() {
        let xml = xml_of(&case);
        let from = xml.find("<berth:vm").unwrap();
        let to = xml.find("</berth:vm>").unwrap() + "</berth:vm>".len();
        assert_eq!(spec_of_metadata(&xml[from..to]), Ok(case.spec));
    }
}

/// As libvirt hands our element out of a definition.
fn metadata_in(xml: &str) -> &str {
    let end = "</berth:vm>";
    &xml[xml.find("<berth:vm").unwrap()..xml.find(end).unwrap() + end.len()]
}

fn goldens() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect()
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 128, ..Default::default() })]

    #[test]
    fn whatever_a_vm_should_be_is_read_back_from_its_definition(spec in crate::fuzz::specs()) {
        let folder = Folder::at("/var/lib/berth-agent/vms/7".into());
        let (prefix, names) = (Prefix::new("berth-").unwrap(), names());
        let network = GuestNetwork::Bridge { bridge: "br0".to_owned() };
        let volumes: Vec<Placed> = volumes(&spec).into_iter().enumerate().map(|(n, v)| Placed { unit: 3 + n as u8, ..v }).collect();
        let text = xml(&Plan {
            id: VmId(7), prefix: &prefix, node: "a-node", domain_type: DomainType::Qemu, spec: &spec, folder: &folder,
            network: &network, cache: Cache::None, names: Some(&names), iso: None, volumes: &volumes, disk: None,
        });
        proptest::prop_assert_eq!(spec_of_metadata(metadata_in(&text)).unwrap(), spec.clone());
        let cards: Vec<String> = crate::hypervisor::libvirt::nics::macs_of(&text).unwrap();
        let wanted: Vec<String> = spec.nics.iter().map(|nic| nic.mac.clone()).collect();
        proptest::prop_assert_eq!(cards, wanted);
        let found: Vec<_> = crate::hypervisor::libvirt::volumes::found(&text).into_keys().collect();
        let mut wanted: Vec<_> = volumes.iter().map(|placed| placed.volume).collect();
        wanted.sort();
        wanted.dedup();
        proptest::prop_assert_eq!(found, wanted);
        // libvirt always says it.
        let memory = "</memory><currentMemory unit='KiB'>65536</currentMemory>";
        crate::hypervisor::libvirt::sizes::reads(&text.replacen("</memory>", memory, 1)).unwrap();
        // One element of a kind that there is one of: no text broke out of its own.
        for once in ["<name>", "<uuid>", "<berth:vm ", "<devices>", "</domain>"] {
            proptest::prop_assert_eq!(text.matches(once).count(), 1, "{}", once);
        }
    }

    #[test]
    fn no_definition_breaks_the_agent(text in proptest::prop_oneof![
        crate::fuzz::mangled(goldens()),
        proptest::string::string_regex("(<domain>|</domain>|<interface type='a'>|</interface>|<mac address='b'/>|<vcpu>|</vcpu>|<!\\[CDATA\\[|\\]\\]>|&amp;|&#0;|&x;|[<>&]|\\PC){0,40}").unwrap(),
    ]) {
        let _read = spec_of_metadata(&text);
        let _read = crate::hypervisor::libvirt::nics::macs_of(&text);
        let _read = crate::hypervisor::libvirt::volumes::found(&text);
        let _read = crate::hypervisor::libvirt::sizes::reads(&text);
        let _read = crate::hypervisor::libvirt::hardware::reads(&text);
    }
}
