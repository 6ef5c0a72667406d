//! What the control plane and the agents say to each other.

use berth_model::agent::*;
use berth_model::*;

use crate::golden;
use crate::samples::at;

#[test]
fn the_agent_protocol_keeps_its_wire_form() {
    let sha256 = "a".repeat(64);
    let spec = VmSpec {
        vcpus: 2,
        memory: ByteSize::gib(4),
        disk: ByteSize::gib(60),
        image: VmImage { sha256: sha256.clone() },
        disk_mode: Default::default(),
        volumes: Vec::new(),
        nics: vec![Nic {
            mac: "52:54:00:aa:bb:cc".into(),
            addresses: vec![NicAddress {
                ip: "203.0.113.24".parse().unwrap(),
                prefix: 24,
                gateway: Some("203.0.113.1".parse().unwrap()),
            }],
            ..Nic::default()
        }],
        seed: VmSeed {
            hostname: "web-1".into(),
            ssh_keys: vec!["ssh-ed25519 AAAA… mara@laptop".into()],
            root_password_hash: Some("$6$…".into()),
            user_data: None,
            mounts: vec![VolumeId(5)],
            name_servers: vec!["203.0.113.1".parse().unwrap()],
        },
        power: WantedPower::On,
        vcpus_max: Some(4),
        memory_max: Some(ByteSize::gib(8)),
        limits: VmLimits { cpu_percent: Some(150), disk_write_iops: Some(2000), ..VmLimits::default() },
        ..VmSpec::default()
    };
    golden("vm_spec", &spec);
    let vm = Vm {
        id: VmId(7),
        state: VmState::Running,
        spec: Some(spec),
        started: Some(at("2026-11-20T02:14:00Z")),
        saved: false,
        pending: vec!["memory".to_owned()],
    };
    golden("vm_list", &VmList { vms: vec![vm] });
    let run = Run {
        id: RunId(41),
        function: "backup.create".to_owned(),
        on: "VM 7".to_owned(),
        asked_by: "control plane, 7f".to_owned(),
        began: at("2026-11-20T02:14:00Z"),
        ended: None,
        progress: Some(Progress { phase: "Copy the disk".to_owned(), done: 4096, total: 8192 }),
        error: None,
    };
    golden("run_list", &RunList { runs: vec![run] });
    let file = ImageFile {
        format: ImageFormat::Qcow2,
        used_by_volumes: Vec::new(),
        sha256,
        file_size: ByteSize(157_286_400),
        disk_size: ByteSize::gib(2),
        used_by: vec![VmId(7)],
    };
    golden("vm_images", &ImageFileList { images: vec![file] });
    let health = Health { healthy: false, faults: vec!["libvirt does not answer.".into()] };
    let versions = Versions {
        agent: "0.1.0".into(),
        libvirt: "9.0.0".into(),
        qemu: "7.2.22".into(),
        kernel: "6.1.0".into(),
    };
    let facts = NodeFacts {
        name: "n1".into(),
        cores: 2,
        memory: ByteSize::gib(24),
        storage: ByteSize::gib(250),
        storage_free: ByteSize::gib(80),
        domain_type: DomainType::Qemu,
        versions,
        storage_leases: true,
    };
    golden(
        "node",
        &Node {
            facts,
            health: health.clone(),
            certificate_expires: Some(at("2027-02-20T02:14:00Z")),
            maintenance: None,
        },
    );
    let gone = VmEvent { vm: VmId(7), state: None, at: at("2026-11-20T02:14:00Z") };
    let counters = CounterSample {
        vm: VmId(7),
        at: at("2026-11-20T02:14:02Z"),
        cpu_ns: 1_000_000_000,
        memory_used_bytes: 268_435_456,
        disk_read_bytes: 1,
        disk_write_bytes: 2,
        disk_read_ops: 3,
        disk_write_ops: 4,
        net_in_bytes: 5,
        net_out_bytes: 6,
        steal_ns: Some(7),
        memory: MemorySample { balloon_bytes: 8, resident_bytes: 9, ..MemorySample::default() },
        disks: vec![DiskSample { name: "vda".into(), read_bytes: 1, ..DiskSample::default() }],
        nics: vec![NicSample { in_bytes: 5, out_bytes: 6, ..NicSample::default() }],
    };
    golden(
        "stream",
        &vec![
            StreamMessage::Hello { vms: vec![gone], health: health.clone() },
            StreamMessage::Vm(VmEvent { state: Some(VmState::Off), ..gone }),
            StreamMessage::Samples { samples: vec![counters.clone()] },
            StreamMessage::Beat { health },
        ],
    );
    golden("sample_list", &SampleList { samples: vec![counters.clone()] });
    golden("samples_request", &SamplesRequest { vms: vec![VmId(7)] });
    golden(
        "vm_resize",
        &VmResize { vcpus: Some(4), memory_max: Some(ByteSize::gib(8)), ..VmResize::default() },
    );
    golden("guest_password", &GuestPassword { user: "root".into(), password_hash: "$6$…".into() });
    golden(
        "guest_ssh_keys",
        &GuestSshKeys { user: "root".into(), ssh_keys: vec!["ssh-ed25519 AAAA… a".into()] },
    );
    golden("guest_hostname", &GuestHostname { hostname: "web-2".into() });
    golden("guest_hostname_set", &HostnameSet { hostname: "web-2".into(), holds_from: HoldsFrom::NextBoot });
    golden("guest_freeze", &GuestFreeze { limit_s: 30 });
    golden("guest_frozen", &Frozen { until: at("2026-11-20T02:14:30Z") });
    golden("guest_thawed", &Thawed { file_systems: 2 });
    golden("guest_time_synced", &TimeSynced { ahead_before_ms: -5000, ahead_ms: 3 });
    let trimmed =
        TrimmedFileSystem { mounted_at: "/".into(), trimmed: ByteSize::gib(1), error: Some("no".into()) };
    golden("guest_trimmed", &Trimmed { file_systems: vec![trimmed] });
    let os = GuestOs {
        id: "debian".into(),
        name: "Debian GNU/Linux 12 (bookworm)".into(),
        version: "12".into(),
        kernel: "6.1.0".into(),
        machine: "x86_64".into(),
    };
    golden(
        "guest_info",
        &GuestInfo {
            agent_version: "7.2.22".into(),
            os: Some(os),
            hostname: Some("web-1".into()),
            time_zone: Some("CET".into()),
            utc_offset_s: Some(3600),
            users: vec![GuestUser { user: "mara".into(), since: Some(at("2026-11-20T02:14:00Z")) }],
            file_systems: vec![GuestFileSystem {
                mounted_at: "/".into(),
                device: "vda1".into(),
                kind: "ext4".into(),
                size: Some(ByteSize::gib(60)),
                used: Some(ByteSize::gib(2)),
            }],
            interfaces: vec![GuestInterface {
                name: "eth0".into(),
                mac: Some("52:54:00:aa:bb:cc".into()),
                addresses: vec![GuestAddress { ip: "203.0.113.24".parse().unwrap(), prefix: 24 }],
            }],
        },
    );
    golden("stream_watch", &StreamCommand::Watch { vms: vec![VmId(7)] });
    golden(
        "enrol",
        &EnrolRequest {
            token: "1.secret.ca".into(),
            address: "https://10.0.0.5:7701".into(),
            csr_pem: "-----".into(),
        },
    );
    golden(
        "enrol_reply",
        &EnrolReply { node: NodeId(1), certificate_pem: "-----".into(), ca_pem: "-----".into() },
    );
    golden("certificate_request", &CertificateRequest { csr_pem: "-----".into() });
    golden("certificate", &Certificate { certificate_pem: "-----".into() });
}
