use berth_model::ByteSize;
use berth_model::agent::{NicAddress, VmImage, WantedPower};

use proptest::strategy::{Strategy, ValueTree};
use serde_json::{Value, json};

use super::*;
use crate::hypervisor::libvirt::folder::Folders;

fn spec() -> VmSpec {
    let nic = |mac: &str, addresses: &[(&str, u8, Option<&str>)]| Nic {
        mac: mac.to_owned(),
        addresses: addresses
            .iter()
            .map(|(ip, prefix, gateway)| NicAddress {
                ip: ip.parse().unwrap(),
                prefix: *prefix,
                gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            })
            .collect(),
        ..Nic::default()
    };
    VmSpec {
        vcpus: 1,
        memory: ByteSize::mib(128),
        disk: ByteSize::gib(1),
        image: VmImage { sha256: "0123456789abcdef".repeat(4) },
        disk_mode: Default::default(),
        volumes: Vec::new(),
        nics: vec![
            nic(
                "52:54:00:12:34:56",
                &[
                    ("10.77.0.5", 24, Some("10.77.0.1")),
                    ("10.77.0.6", 24, Some("10.77.0.1")),
                    ("fd00::5", 64, Some("fe80::1")),
                ],
            ),
            nic("52:54:00:12:34:57", &[]),
        ],
        seed: VmSeed {
            hostname: "web-1.example.org".to_owned(),
            ssh_keys: vec![
                "ssh-ed25519 AAAAC3Nz+/= me@home".to_owned(),
                "ssh-rsa AAAA a: #b \"c\"".to_owned(),
            ],
            root_password_hash: Some("$6$salt$hash./".to_owned()),
            user_data: None,
            mounts: Vec::new(),
            name_servers: vec!["9.9.9.9".parse().unwrap(), "2620:fe::fe".parse().unwrap()],
        },
        power: WantedPower::On,
        ..VmSpec::default()
    }
}

fn file(seed: &Seed, name: &str) -> Option<String> {
    seed.files.iter().find(|(n, _)| *n == name).map(|(_, content)| content.clone())
}

#[test]
fn any_character_of_a_keys_comment_survives_yaml() {
    let text = "ssh-ed25519 AAAA \u{e9}\u{1f6a2} \"me\\you\"";
    assert_eq!(quoted(text), r#""ssh-ed25519 AAAA \u00e9\U0001f6a2 \"me\\you\"""#);
}

#[test]
fn volumes_are_mounted_by_name_at_the_first_boot() {
    let mut spec = spec();
    spec.seed.mounts = vec![VolumeId(5), VolumeId(16)];
    let config = cloud_config(&spec.seed);
    let mounts = "\nmounts:
  - [/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_volume-5, /mnt/volume-5, auto, \"discard,nofail,defaults\"]
  - [/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_volume-16, /mnt/volume-16, auto, \"discard,nofail,defaults\"]\n";
    assert!(config.contains(mounts), "{config}");
}

#[test]
fn without_user_data_ours_is_the_user_data() {
    let seed = Seed::new(VmId(7), &spec());
    assert_eq!(file(&seed, "vendor-data"), None);
    let expected = r#"#cloud-config
hostname: "web-1.example.org"
manage_etc_hosts: localhost
disable_root: false
locale: false
ssh_authorized_keys:
  - ssh-ed25519 AAAAC3Nz+/= me@home
  - "ssh-rsa AAAA a: #b \"c\""
chpasswd:
  expire: false
  users:
    - name: root
      type: hash
      password: "$6$salt$hash./"
"#;
    assert_eq!(file(&seed, "user-data").unwrap(), expected);
    let expected = r#"instance-id: berth-7-0123456789ab
local-hostname: "web-1.example.org"
public-keys:
  - ssh-ed25519 AAAAC3Nz+/= me@home
  - "ssh-rsa AAAA a: #b \"c\""
"#;
    assert_eq!(file(&seed, "meta-data").unwrap(), expected);
}

#[test]
fn the_customers_user_data_is_passed_on_as_it_is_beside_ours() {
    let _proof = crate::proof::pure(&["vm.put"]);
    let mut spec = spec();
    let ours = file(&Seed::new(VmId(7), &spec), "user-data");
    let theirs = "#!/bin/sh\r\necho '<&>' é \u{1}\n\n";
    spec.seed.user_data = Some(theirs.to_owned());
    let seed = Seed::new(VmId(7), &spec);
    assert_eq!(file(&seed, "user-data").as_deref(), Some(theirs));
    assert_eq!(file(&seed, "vendor-data"), ours);
}

#[test]
fn addresses_are_written_by_mac_and_a_card_without_one_asks_dhcp() {
    let expected = r#"version: 2
ethernets:
  nic0:
    match:
      macaddress: "52:54:00:12:34:56"
    dhcp4: false
    addresses:
      - 10.77.0.5/24
      - 10.77.0.6/24
      - "fd00::5/64"
    routes:
      - to: 0.0.0.0/0
        via: 10.77.0.1
      - to: "::/0"
        via: "fe80::1"
        on-link: true
    nameservers:
      addresses:
        - 9.9.9.9
        - "2620:fe::fe"
  nic1:
    match:
      macaddress: "52:54:00:12:34:57"
    dhcp4: true
"#;
    assert_eq!(file(&Seed::new(VmId(7), &spec()), "network-config").unwrap(), expected);
}

#[test]
fn a_changed_seed_is_no_new_instance_and_a_new_image_is_one() {
    let instance = |spec: &VmSpec| {
        let meta_data = file(&Seed::new(VmId(7), spec), "meta-data").unwrap();
        meta_data.lines().next().unwrap().to_owned()
    };
    let (before, mut spec) = (instance(&spec()), spec());
    spec.seed.ssh_keys.clear();
    spec.seed.user_data = Some("#cloud-config".to_owned());
    spec.nics.clear();
    assert_eq!(instance(&spec), before);
    spec.image.sha256 = "f".repeat(64);
    assert_ne!(instance(&spec), before);
}

#[test]
fn a_password_alone_opens_ssh() {
    let mut spec = spec();
    assert!(!cloud_config(&spec.seed).contains("PermitRootLogin"));
    spec.seed.ssh_keys.clear();
    assert!(cloud_config(&spec.seed).contains("PermitRootLogin yes"));
}

#[test]
fn the_image_reads_back_and_is_the_same_each_time() {
    let data = tempfile::tempdir().unwrap();
    let folders = Folders::open(data.path(), None).unwrap();
    let mut spec = spec();
    spec.seed.user_data = Some("#cloud-config\nruncmd: [ls]\n".to_owned());
    let seed = Seed::new(VmId(7), &spec);
    let images = [1, 2].map(|id| {
        let folder = folders.of(VmId(id));
        folder.create().unwrap();
        seed.put(&folder).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::read(folder.seed()).unwrap()
    });
    assert!(images[0] == images[1]);
    assert_eq!(&images[0][32808..32814], b"cidata");
    let seed_path = folders.of(VmId(1)).seed();
    for (name, content) in &seed.files {
        let out = data.path().join(name);
        let args = ["-osirrox", "on", "-indev", seed_path.to_str().unwrap(), "-extract", &format!("/{name}")];
        tool::run("xorriso", "xorriso", args.into_iter().chain([out.to_str().unwrap()])).unwrap();
        assert_eq!(fs::read_to_string(out).unwrap(), *content, "{name}");
    }
}

#[test]
fn a_seed_told_twice_is_left_as_it_is() {
    use std::os::unix::fs::MetadataExt;
    let data = tempfile::tempdir().unwrap();
    let folder = Folders::open(data.path(), None).unwrap().of(VmId(1));
    folder.create().unwrap();
    let inode = |seed: Seed| {
        seed.put(&folder).unwrap();
        fs::metadata(folder.seed()).unwrap().ino()
    };
    let mut spec = spec();
    let before = inode(Seed::new(VmId(7), &spec));
    assert_eq!(inode(Seed::new(VmId(7), &spec)), before);
    spec.seed.hostname = "web-2".to_owned();
    assert_ne!(inode(Seed::new(VmId(7), &spec)), before);
}

/// What PyYAML, which cloud-init reads with, makes of texts.
fn read_by_others(texts: &[String]) -> Vec<Value> {
    let script =
        "import json, sys, yaml\njson.dump([yaml.safe_load(t) for t in json.load(sys.stdin)], sys.stdout)";
    let mut python = std::process::Command::new("python3")
        .args(["-c", script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("python3 and its yaml are there (Debian's python3-yaml)");
    let input = serde_json::to_vec(texts).unwrap();
    let mut stdin = python.stdin.take().unwrap();
    let writing = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &input));
    let output = python.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    serde_json::from_slice(&output.stdout).expect("each text is YAML")
}

/// What the network configuration of a card should say.
fn wanted_of_card(nic: &Nic, seed: &VmSeed) -> Value {
    let mut card = json!({"match": {"macaddress": nic.mac}, "dhcp4": nic.addresses.is_empty()});
    if nic.addresses.is_empty() {
        return card;
    }
    card["addresses"] = nic.addresses.iter().map(|a| format!("{}/{}", a.ip, a.prefix)).collect();
    let mut gateways: Vec<String> =
        nic.addresses.iter().filter_map(|a| Some(a.gateway?.to_string())).collect();
    gateways.sort();
    gateways.dedup();
    card["gateways"] = gateways.into();
    if !seed.name_servers.is_empty() {
        let servers: Vec<_> = seed.name_servers.iter().map(ToString::to_string).collect();
        card["nameservers"] = json!({ "addresses": servers });
    }
    card
}

#[test]
fn whatever_a_seed_holds_others_read_it_as_it_was_meant() {
    let _proof = crate::proof::pure(&["vm.put"]);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let specs: Vec<VmSpec> =
        (0..200).map(|_| crate::fuzz::specs().new_tree(&mut runner).unwrap().current()).collect();
    let mut texts = Vec::new();
    for spec in &specs {
        let seed = Seed::new(VmId(7), spec);
        let ours = if spec.seed.user_data.is_some() { "vendor-data" } else { "user-data" };
        texts.extend(["meta-data", ours, "network-config"].map(|name| file(&seed, name).unwrap()));
        assert!(texts.iter().all(|text| text.is_ascii()));
        assert_eq!(
            spec.seed.user_data.as_ref().map(|_| file(&seed, "user-data")),
            spec.seed.user_data.clone().map(Some)
        );
    }
    let read = read_by_others(&texts);
    for (spec, read) in specs.iter().zip(read.chunks(3)) {
        let seed = &spec.seed;
        let [meta, ours, network] = read else { panic!() };
        let keys: Vec<&str> = seed.ssh_keys.iter().map(|key| key.trim()).collect();
        assert_eq!(meta["local-hostname"], json!(seed.hostname));
        assert_eq!(meta["instance-id"], "berth-7-0123456789ab");
        assert_eq!(ours["hostname"], json!(seed.hostname));
        for listed in [&meta["public-keys"], &ours["ssh_authorized_keys"]] {
            assert_eq!(*listed, if keys.is_empty() { Value::Null } else { json!(keys) }, "{spec:?}");
        }
        let user = &ours["chpasswd"]["users"][0];
        assert_eq!(user["password"], json!(seed.root_password_hash));
        let known = [
            "hostname",
            "manage_etc_hosts",
            "disable_root",
            "locale",
            "ssh_authorized_keys",
            "chpasswd",
            "ssh_pwauth",
            "write_files",
        ];
        assert!(ours.as_object().unwrap().keys().all(|key| known.contains(&key.as_str())), "{ours}");
        assert_eq!(meta.as_object().unwrap().len(), if keys.is_empty() { 2 } else { 3 }, "{meta}");
        for (n, nic) in spec.nics.iter().enumerate() {
            let mut card = network["ethernets"][format!("nic{n}")].clone();
            if let Some(routes) = card.as_object_mut().unwrap().remove("routes") {
                let mut via: Vec<String> = routes
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|route| route["via"].as_str().unwrap().to_owned())
                    .collect();
                via.sort();
                via.dedup();
                card["gateways"] = via.into();
            } else if !nic.addresses.is_empty() {
                card["gateways"] = json!([]);
            }
            assert_eq!(card, wanted_of_card(nic, seed), "{nic:?}");
        }
        assert_eq!(network["ethernets"].as_object().unwrap().len(), spec.nics.len());
    }
}

#[test]
fn the_image_holds_each_file_as_it_is() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let data = tempfile::tempdir().unwrap();
    let folder = Folders::open(data.path(), None).unwrap().of(VmId(1));
    folder.create().unwrap();
    for _ in 0..6 {
        let seed = Seed::new(VmId(7), &crate::fuzz::specs().new_tree(&mut runner).unwrap().current());
        seed.put(&folder).unwrap();
        let image = fs::read(folder.seed()).unwrap();
        for (name, content) in seed.files.iter().filter(|(_, content)| !content.is_empty()) {
            // A file begins with a sector.
            assert!(
                image
                    .chunks(2048)
                    .enumerate()
                    .any(|(n, _)| image[n * 2048..].starts_with(content.as_bytes())),
                "{name}"
            );
        }
    }
}
