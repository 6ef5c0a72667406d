//! The wire form of every type that crosses one, as files: a change of a type shows as a change
//! of its file. `BERTH_GOLDEN=write cargo test -p berth-model` writes them anew.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;

use berth_model::action::*;
use berth_model::address::*;
use berth_model::agent::*;
use berth_model::error::{ApiError, ErrorBody};
use berth_model::event::*;
use berth_model::image::*;
use berth_model::load::*;
use berth_model::location::*;
use berth_model::metrics::*;
use berth_model::network::{Network, Subnet, *};
use berth_model::page::{Meta, Pagination};
use berth_model::people::*;
use berth_model::placement_group::*;
use berth_model::pricing::*;
use berth_model::quota::*;
use berth_model::server::*;
use berth_model::server_type::*;
use berth_model::ssh_key::*;
use berth_model::webhook::*;
use berth_model::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// `value` is written as in `tests/golden/{name}.json`, and that file reads back as `value`.
fn golden<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, value: &T) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.json"));
    let written = serde_json::to_string_pretty(value).unwrap() + "\n";
    if std::env::var("BERTH_GOLDEN").is_ok_and(|v| v == "write") {
        std::fs::write(&path, &written).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(written, kept, "{name}: the wire form changed");
    assert_eq!(&serde_json::from_str::<T>(&kept).unwrap(), value, "{name}: the file reads back differently");
}

fn at(text: &str) -> Timestamp {
    serde_json::from_value(serde_json::Value::String(text.into())).unwrap()
}

fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([("env".to_owned(), "prod".to_owned()), ("example.com/role".to_owned(), "web".to_owned())])
}

fn location() -> Location {
    Location {
        id: LocationId(1),
        name: "rtm1".into(),
        description: "Rotterdam".into(),
        country: "NL".into(),
        city: "Rotterdam".into(),
        latitude: 51.92,
        longitude: 4.48,
        network_zone: "eu-west".into(),
    }
}

fn meta() -> Meta {
    Meta { pagination: Pagination::new(1, 25, 1) }
}

fn server_type() -> ServerType {
    let eur = |micros| Price::untaxed(Money::micros(micros, Currency::EUR));
    ServerType {
        id: ServerTypeId(2),
        name: "s2".into(),
        description: "2 vCPU, 4 GB, 60 GB".into(),
        category: "Shared CPU".into(),
        cores: 2,
        memory: 4.0,
        disk: 60,
        cpu_type: CpuKind::Shared,
        storage_type: "local".into(),
        architecture: "x86".into(),
        prices: vec![LocationPrice {
            location: "rtm1".into(),
            price_hourly: eur(10_100),
            price_monthly: eur(6_800_000),
            included_traffic: 20_000_000_000_000,
            price_per_tb_traffic: eur(1_000_000),
        }],
        locations: vec![ServerTypeLocation {
            id: LocationId(1),
            name: "rtm1".into(),
            deprecation: None,
            available: true,
            recommended: true,
        }],
        deprecated: false,
        deprecation: None,
        included_traffic: 20_000_000_000_000,
    }
}

fn image() -> Image {
    Image {
        id: ImageId(3),
        kind: ImageKind::System,
        status: ImageStatus::Available,
        name: Some("debian-12".into()),
        description: "Debian 12".into(),
        image_size: Some(0.15),
        disk_size: 2.0,
        created: at("2026-11-01T00:00:00Z"),
        created_from: None,
        bound_to: None,
        os_flavor: "debian".into(),
        os_version: Some("12".into()),
        architecture: "x86".into(),
        rapid_deploy: true,
        protection: ImageProtection::default(),
        deprecated: None,
        deleted: None,
        labels: BTreeMap::new(),
    }
}

fn action() -> Action {
    Action {
        id: ActionId(40),
        command: "create_server".into(),
        status: ActionStatus::Error,
        progress: 40,
        started: at("2026-11-20T02:14:00Z"),
        finished: Some(at("2026-11-20T02:14:09.5Z")),
        resources: vec![ActionResource { id: 7, kind: ResourceKind::Server }],
        error: Some(ActionError {
            code: ErrorCode::PlacementError,
            message: "No node in rtm1 has room.".into(),
        }),
        steps: vec![
            ActionStep { title: "Choose a node".into(), state: StepState::Failed, took_ms: Some(120) },
            ActionStep { title: "Reserve an address".into(), state: StepState::Waiting, took_ms: None },
        ],
    }
}

fn server() -> Server {
    Server {
        id: ServerId(7),
        name: "web-1".into(),
        status: ServerStatus::Running,
        created: at("2026-11-20T02:14:00Z"),
        public_net: PublicNet {
            ipv4: Some(PublicIpv4 {
                id: PrimaryIpId(5),
                ip: "203.0.113.24".parse().unwrap(),
                blocked: false,
                dns_ptr: None,
            }),
            ..PublicNet::default()
        },
        private_net: vec![PrivateNet {
            network: NetworkId(4),
            ip: "10.0.1.2".parse().unwrap(),
            alias_ips: vec!["10.0.1.3".parse().unwrap()],
            mac_address: "86:00:00:aa:bb:cc".into(),
        }],
        server_type: server_type(),
        datacenter: Datacenter::of(&location()),
        location: location(),
        image: Some(image()),
        iso: None,
        rescue_enabled: false,
        locked: false,
        backup_window: None,
        outgoing_traffic: Some(0),
        ingoing_traffic: Some(0),
        included_traffic: 20_000_000_000_000,
        protection: ServerProtection::default(),
        labels: labels(),
        volumes: vec![],
        load_balancers: vec![],
        primary_disk_size: 60,
        placement_group: None,
    }
}

fn sample() -> LoadSample {
    LoadSample {
        at: at("2026-11-20T02:14:02Z"),
        cpu_millicores: 460,
        memory_used_bytes: 268_435_456,
        disk_read_bytes_per_s: 4096,
        disk_write_bytes_per_s: 8192,
        disk_read_ops_per_s: 41,
        disk_write_ops_per_s: 212,
        net_in_bytes_per_s: 525_000,
        net_out_bytes_per_s: 2_325_000,
        net_in_packets_per_s: 310,
        net_out_packets_per_s: 1_650,
    }
}

#[test]
fn resources_keep_their_wire_form() {
    golden("server", &ServerReply { server: server() });
    golden("server_list", &ServerList { servers: vec![server()], meta: meta() });
    golden(
        "server_created",
        &ServerCreated {
            server: server(),
            action: action(),
            next_actions: vec![],
            root_password: Some("…".into()),
        },
    );
    golden("action", &ActionReply { action: action() });
    golden("action_list", &ActionList { actions: vec![action()], meta: meta() });
    golden("image", &ImageReply { image: image() });
    golden("image_list", &ImageList { images: vec![image()], meta: meta() });
    golden("server_type", &ServerTypeReply { server_type: server_type() });
    golden("server_type_list", &ServerTypeList { server_types: vec![server_type()], meta: meta() });
    golden("location", &LocationReply { location: location() });
    golden("location_list", &LocationList { locations: vec![location()], meta: meta() });
    let key = SshKey {
        id: SshKeyId(4),
        name: "laptop".into(),
        fingerprint: "b7:2f:30:a0:2f:6c:58:6c:21:04:58:61:ba:06:3b:2f".into(),
        public_key: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== mara@laptop".into(),
        labels: labels(),
        created: at("2026-11-20T02:14:00Z"),
    };
    golden("ssh_key", &SshKeyReply { ssh_key: key.clone() });
    golden("ssh_key_list", &SshKeyList { ssh_keys: vec![key], meta: meta() });
    let volume = berth_model::volume::Volume {
        id: VolumeId(5),
        name: "data".into(),
        size: 42,
        server: Some(ServerId(7)),
        status: berth_model::volume::VolumeStatus::Available,
        location: location(),
        linux_device: berth_model::volume::Volume::linux_device_of(VolumeId(5)),
        format: Some(FileSystem::Ext4),
        protection: berth_model::volume::VolumeProtection { delete: true },
        labels: labels(),
        created: at("2026-11-20T02:14:00Z"),
    };
    let group = PlacementGroup {
        id: PlacementGroupId(3),
        name: "web".into(),
        kind: PlacementGroupType::Spread,
        servers: vec![ServerId(7)],
        labels: labels(),
        created: at("2026-11-20T02:14:00Z"),
    };
    golden("placement_group", &PlacementGroupCreated { placement_group: group.clone(), action: None });
    golden("placement_group_list", &PlacementGroupList { placement_groups: vec![group], meta: meta() });
    let certificate = berth_model::certificate::Certificate {
        id: CertificateId(2),
        name: "web".into(),
        kind: berth_model::certificate::CertificateType::Uploaded,
        certificate: "-----BEGIN CERTIFICATE-----\n…".into(),
        fingerprint: "03:c7:55:9b".into(),
        not_valid_before: at("2026-11-20T02:14:00Z"),
        not_valid_after: at("2027-02-18T02:14:00Z"),
        domain_names: vec!["example.org".into()],
        status: None,
        used_by: Vec::new(),
        labels: labels(),
        created: at("2026-11-20T02:14:00Z"),
    };
    golden(
        "uploaded_certificate",
        &berth_model::certificate::CertificateCreated { certificate: certificate.clone(), action: None },
    );
    golden(
        "uploaded_certificate_list",
        &berth_model::certificate::CertificateList { certificates: vec![certificate], meta: meta() },
    );
    golden("volume", &berth_model::volume::VolumeReply { volume: volume.clone() });
    golden("volume_list", &berth_model::volume::VolumeList { volumes: vec![volume], meta: meta() });
    golden(
        "load",
        &LoadReply {
            server: ServerId(7),
            from: at("2026-11-20T02:04:02Z"),
            to: at("2026-11-20T02:14:02Z"),
            step_s: 2,
            samples: vec![sample()],
        },
    );
}

#[test]
fn addresses_keep_their_wire_form() {
    let name = |ip: &str| DnsPtr { ip: ip.parse().unwrap(), dns_ptr: "mail.example.org".into() };
    let primary_ip = PrimaryIp {
        id: PrimaryIpId(5),
        name: "web".into(),
        ip: "203.0.113.24".into(),
        family: IpFamily::Ipv4,
        assignee_id: Some(ServerId(7)),
        assignee_type: AssigneeType::Server,
        auto_delete: true,
        blocked: false,
        created: at("2026-11-20T02:14:00Z"),
        location: location(),
        datacenter: Datacenter::of(&location()),
        dns_ptr: vec![name("203.0.113.24")],
        labels: labels(),
        protection: IpProtection { delete: true },
    };
    golden("primary_ip", &PrimaryIpReply { primary_ip });
    let floating_ip = FloatingIp {
        id: FloatingIpId(6),
        name: "vip".into(),
        description: "Web".into(),
        ip: "2001:db8:7:1::/64".into(),
        family: IpFamily::Ipv6,
        server: None,
        dns_ptr: vec![name("2001:db8:7:1::9")],
        home_location: location(),
        blocked: false,
        protection: IpProtection::default(),
        labels: labels(),
        created: at("2026-11-20T02:14:00Z"),
    };
    golden("floating_ip", &FloatingIpCreated { floating_ip, action: None });
}

#[test]
fn requests_keep_their_wire_form() {
    golden(
        "server_create",
        &ServerCreate {
            name: "web-1".into(),
            server_type: "s2".into(),
            image: NameOrId::Id(3),
            location: Some("rtm1".into()),
            datacenter: None,
            ssh_keys: vec![NameOrId::Id(4), "laptop".into()],
            user_data: Some("#cloud-config\n".into()),
            labels: labels(),
            start_after_create: Some(true),
            volumes: vec![VolumeId(5)],
            placement_group: Some(PlacementGroupId(3)),
            automount: Some(true),
            public_net: Some(PublicNetCreate {
                enable_ipv6: false,
                ipv4: Some(PrimaryIpId(5)),
                ..PublicNetCreate::default()
            }),
            firewalls: vec![FirewallNumber { firewall: FirewallId(6) }],
            networks: vec![NetworkId(7)],
        },
    );
    golden(
        "primary_ip_create",
        &PrimaryIpCreate {
            name: "web".into(),
            family: IpFamily::Ipv4,
            assignee_id: None,
            assignee_type: Some(AssigneeType::Server),
            location: None,
            datacenter: Some("rtm1-dc1".into()),
            auto_delete: Some(false),
            labels: Some(labels()),
        },
    );
    golden(
        "primary_ip_assign",
        &PrimaryIpAssign { assignee_id: ServerId(7), assignee_type: AssigneeType::Server },
    );
    golden("primary_ip_update", &PrimaryIpUpdate { auto_delete: Some(true), ..PrimaryIpUpdate::default() });
    golden(
        "floating_ip_create",
        &FloatingIpCreate {
            family: IpFamily::Ipv6,
            name: Some("vip".into()),
            description: Some("Web".into()),
            home_location: Some("rtm1".into()),
            server: None,
            labels: None,
        },
    );
    golden("floating_ip_assign", &FloatingIpAssign { server: ServerId(7) });
    golden(
        "floating_ip_update",
        &FloatingIpUpdate { description: Some("".into()), ..FloatingIpUpdate::default() },
    );
    golden("change_dns_ptr", &ChangeDnsPtr { ip: "203.0.113.24".parse().unwrap(), dns_ptr: None });
    golden("change_ip_protection", &ChangeIpProtection { delete: Some(true) });
    golden(
        "volume_create",
        &berth_model::volume::VolumeCreate {
            name: "data".into(),
            size: 42,
            location: Some("rtm1".into()),
            server: None,
            format: Some(FileSystem::Xfs),
            automount: Some(false),
            labels: Some(labels()),
        },
    );
    let attach = berth_model::volume::VolumeAttach { server: ServerId(7), automount: Some(true) };
    golden("volume_attach", &attach);
    golden(
        "placement_group_create",
        &PlacementGroupCreate {
            name: "web".into(),
            kind: PlacementGroupType::Spread,
            labels: Some(labels()),
        },
    );
    golden("add_to_placement_group", &AddToPlacementGroup { placement_group: PlacementGroupId(3) });
    golden(
        "uploaded_certificate_create",
        &berth_model::certificate::CertificateCreate {
            name: "web".into(),
            kind: Some(berth_model::certificate::CertificateType::Uploaded),
            certificate: Some("-----BEGIN CERTIFICATE-----\n…".into()),
            private_key: Some("-----BEGIN PRIVATE KEY-----\n…".into()),
            domain_names: None,
            labels: Some(labels()),
        },
    );
    golden("volume_resize", &berth_model::volume::VolumeResize { size: 50 });
    golden("change_volume_protection", &berth_model::volume::ChangeVolumeProtection { delete: Some(true) });
    golden("server_update", &ServerUpdate { name: Some("web-2".into()), labels: None });
    golden(
        "ssh_key_create",
        &SshKeyCreate { name: "laptop".into(), public_key: "ssh-ed25519 …".into(), labels: labels() },
    );
    golden("ssh_key_update", &SshKeyUpdate { name: None, labels: Some(labels()) });
    golden("sign_in", &SignIn { email: "mara@larkspur.example".into(), password: "correct horse".into() });
    golden(
        "sign_up",
        &SignUp {
            email: "mara@larkspur.example".into(),
            name: "Mara Lindqvist".into(),
            password: "correct horse".into(),
        },
    );
    golden("password_change", &PasswordChange { current_password: "a".into(), new_password: "b".into() });
    golden("token_create", &TokenCreate { name: "ci".into(), access: TokenAccess::ReadWrite, expires: None });
}

#[test]
fn people_keep_their_wire_form() {
    let user = User {
        id: UserId(9),
        email: "mara@larkspur.example".into(),
        name: "Mara Lindqvist".into(),
        role: Role::Customer,
        created: at("2026-11-20T02:14:00Z"),
    };
    let account = Account { id: AccountId(8), name: "Larkspur Labs".into(), suspended: None };
    let project = Project { id: ProjectId(6), name: "production".into(), account };
    golden("session", &Session { user, projects: vec![project], expires: at("2026-12-20T02:14:00Z") });
    let token = Token {
        id: TokenId(1),
        name: "ci".into(),
        access: TokenAccess::Read,
        created: at("2026-11-20T02:14:00Z"),
        last_used: None,
        expires: Some(at("2027-11-20T02:14:00Z")),
    };
    golden("token_list", &TokenList { tokens: vec![token.clone()] });
    golden("token_created", &TokenCreated { token, secret: "x".repeat(64) });
}

#[test]
fn errors_keep_their_wire_form() {
    golden("error", &ErrorBody { error: ApiError::new(ErrorCode::NotFound, "There is no such server.") });
    golden("error_fields", &ErrorBody { error: ApiError::field("labels.env", "A label's value is a text.") });
}

#[test]
fn live_messages_keep_their_wire_form() {
    golden("live_hello", &LiveHello { last_seq: Some(41) });
    golden("live_watch", &LiveCommand::Watch { servers: vec![ServerId(7)] });
    let event = |change| LiveMessage::Event(Event { seq: 42, at: at("2026-11-20T02:14:00Z"), change });
    golden(
        "live",
        &vec![
            LiveMessage::Welcome { seq: 44 },
            LiveMessage::Reset { seq: 44 },
            event(Change::Server { server: Box::new(server()) }),
            event(Change::ServerGone { id: ServerId(7) }),
            event(Change::Action { action: Box::new(action()) }),
            LiveMessage::Load { server: ServerId(7), sample: sample() },
        ],
    );
}

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

#[test]
fn fields_that_nobody_knows_are_refused() {
    let unknown = r#"{"name":"a","server_type":"s1","image":"tiny","color":"red"}"#;
    let error = serde_json::from_str::<ServerCreate>(unknown).unwrap_err().to_string();
    assert!(error.contains("color"), "{error}");
}

#[test]
fn limits_keep_their_wire_form() {
    let limit =
        Limit { kind: QuotaKind::MemoryMib, used: 512, limit: 1024, account_used: 1024, account_limit: 4096 };
    golden("limit_list", &LimitList { limits: vec![limit] });
    golden(
        "limit_request_create",
        &LimitRequestCreate { kind: QuotaKind::Servers, limit: 200, reason: "A cluster.".into() },
    );
    let request = LimitRequest {
        id: LimitRequestId(3),
        project: ProjectId(6),
        account: AccountId(8),
        kind: QuotaKind::Servers,
        limit: 200,
        reason: "A cluster.".into(),
        status: LimitRequestStatus::Granted,
        note: Some("Enjoy.".into()),
        created: at("2026-11-20T02:14:00Z"),
        answered: Some(at("2026-11-20T03:14:00Z")),
    };
    golden("limit_request", &LimitRequestReply { limit_request: request });
}

#[test]
fn webhooks_keep_their_wire_form() {
    let webhook = Webhook {
        id: WebhookId(4),
        name: "pager".into(),
        url: "https://example.org/hook".into(),
        kinds: vec!["action.error".into()],
        enabled: true,
        note: None,
        failing_since: None,
        created: at("2026-11-20T02:14:00Z"),
    };
    golden("webhook_created", &WebhookCreated { webhook, secret: "x".repeat(40) });
    let delivery = WebhookDelivery {
        id: WebhookDeliveryId(5),
        event: 41,
        kind: "server.deleted".into(),
        body: "{}".into(),
        status: DeliveryStatus::Pending,
        attempts: 1,
        next_attempt: Some(at("2026-11-20T02:14:05Z")),
        http_status: Some(502),
        error: Some("It answered 502; 2xx is expected.".into()),
        created: at("2026-11-20T02:14:00Z"),
        finished: None,
    };
    golden("webhook_delivery", &WebhookDeliveryReply { delivery });
}

#[test]
fn metrics_keep_their_wire_form() {
    let values = vec![(1_763_604_840.5, "150.5".to_owned())];
    let metrics = Metrics {
        start: at("2026-11-20T02:14:00Z"),
        end: at("2026-11-20T02:15:00Z"),
        step: 30.0,
        time_series: [("cpu".to_owned(), TimeSeries { values })].into(),
    };
    golden("metrics", &MetricsReply { metrics });
}

#[test]
fn prices_keep_their_wire_form() {
    let price = || Price::untaxed(Money::micros(11_900, Currency::EUR));
    let prices = vec![LocationPrice {
        location: "rtm1".into(),
        price_hourly: price(),
        price_monthly: price(),
        included_traffic: 20_000_000_000_000,
        price_per_tb_traffic: price(),
    }];
    let floating_ip = FloatingIpPrice { location: "rtm1".into(), price_monthly: price() };
    let primary_ip = PrimaryIpPrice {
        location: "rtm1".into(),
        datacenter: "rtm1-dc1".into(),
        price_hourly: price(),
        price_monthly: price(),
    };
    let pricing = Pricing {
        currency: "EUR".into(),
        vat_rate: "0.0000000000".into(),
        image: GbPrice { price_per_gb_month: price() },
        volume: GbPrice { price_per_gb_month: price() },
        floating_ip: MonthlyPrice { price_monthly: price() },
        floating_ips: vec![FloatingIpPrices { family: IpFamily::Ipv4, prices: vec![floating_ip] }],
        primary_ips: vec![PrimaryIpPrices { family: IpFamily::Ipv4, prices: vec![primary_ip] }],
        traffic: TrafficPrice { price_per_tb: price() },
        server_backup: BackupPrice { percentage: "20.0000000000".into() },
        server_types: vec![ServerTypePrices { id: ServerTypeId(1), name: "s1".into(), prices }],
        load_balancer_types: Vec::new(),
    };
    golden("pricing", &PricingReply { pricing });
}

#[test]
fn firewalls_keep_their_wire_form() {
    use berth_model::firewall::{Firewall, FirewallRule, *};
    let rule = FirewallRule {
        direction: FirewallDirection::In,
        source_ips: vec!["0.0.0.0/0".into(), "::/0".into()],
        destination_ips: vec![],
        protocol: FirewallProtocol::Tcp,
        port: Some("80-443".into()),
        description: None,
    };
    let server = FirewallTarget::from(ServerId(7));
    let fitting = FirewallTarget {
        kind: FirewallTargetKind::LabelSelector,
        server: None,
        label_selector: Some(SelectorText { selector: "env=prod".into() }),
    };
    let firewall = Firewall {
        id: FirewallId(3),
        name: "web".into(),
        labels: labels(),
        rules: vec![rule.clone()],
        applied_to: vec![
            FirewallResource {
                kind: server.kind,
                server: server.server,
                label_selector: None,
                applied_to_resources: None,
            },
            FirewallResource {
                kind: fitting.kind,
                server: None,
                label_selector: fitting.label_selector.clone(),
                applied_to_resources: Some(vec![server.clone()]),
            },
        ],
        created: at("2026-11-20T02:14:00Z"),
    };
    golden("firewall", &FirewallReply { firewall });
    golden(
        "firewall_create",
        &FirewallCreate {
            name: "web".into(),
            labels: Some(labels()),
            rules: vec![rule.clone()],
            apply_to: vec![server.clone()],
        },
    );
    golden("firewall_update", &FirewallUpdate { name: Some("front".into()), labels: None });
    golden("firewall_set_rules", &FirewallSetRules { rules: vec![rule] });
    golden("firewall_apply", &FirewallApply { apply_to: vec![fitting] });
    golden("firewall_remove", &FirewallRemove { remove_from: vec![server] });
}

#[test]
fn networks_keep_their_wire_form() {
    let route = Route { destination: "10.100.1.0/24".into(), gateway: "10.0.1.2".into() };
    let network = Network {
        id: NetworkId(4),
        name: "inner".into(),
        ip_range: "10.0.0.0/16".into(),
        subnets: vec![Subnet {
            kind: SubnetKind::Cloud,
            ip_range: "10.0.1.0/24".into(),
            network_zone: "eu-west".into(),
            gateway: "10.0.0.1".parse().unwrap(),
            vswitch_id: None,
        }],
        routes: vec![route.clone()],
        servers: vec![ServerId(7)],
        load_balancers: vec![],
        expose_routes_to_vswitch: false,
        protection: NetworkProtection { delete: true },
        labels: labels(),
        created: at("2026-11-20T02:14:00Z"),
    };
    golden("network", &NetworkReply { network });
    let subnet = SubnetCreate {
        kind: SubnetKind::Cloud,
        ip_range: Some("10.0.1.0/24".into()),
        network_zone: "eu-west".into(),
        ..SubnetCreate::default()
    };
    golden(
        "network_create",
        &NetworkCreate {
            name: "inner".into(),
            ip_range: "10.0.0.0/16".into(),
            subnets: vec![subnet.clone()],
            routes: vec![route.clone()],
            labels: Some(labels()),
            expose_routes_to_vswitch: Some(false),
        },
    );
    golden("network_add_subnet", &subnet);
    golden("network_add_route", &route);
    golden("network_change_ip_range", &IpRange { ip_range: "10.0.0.0/8".into() });
    golden("network_change_protection", &ChangeNetworkProtection { delete: Some(true) });
    let attach = AttachToNetwork {
        network: NetworkId(4),
        ip: Some("10.0.1.2".parse().unwrap()),
        alias_ips: vec!["10.0.1.3".parse().unwrap()],
        ip_range: None,
    };
    golden("attach_to_network", &attach);
    golden("detach_from_network", &DetachFromNetwork { network: NetworkId(4) });
    golden(
        "change_alias_ips",
        &ChangeAliasIps { network: NetworkId(4), alias_ips: vec!["10.0.1.3".parse().unwrap()] },
    );
}
