//! Whole machines with real guests, seen from inside them.
//!
//! Beside the tiny image they want the rescue image, where `cargo xtask images` leaves it or at
//! `BERTH_TEST_RESCUE_IMAGE`.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod libvirt_common;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use berth_agent::backups::disk::Restoring;
use berth_agent::config::Gateway;
use berth_agent::hypervisor::libvirt::GuestNetwork;
use berth_agent::hypervisor::{Hypervisor, Machines};
use berth_agent::runs::Cx;
use berth_agent::{entropy, faults, proof};
use berth_model::agent::{
    BootDevice, DisksAfter, Firmware, Hardware, Name, NicAddress, PowerVerb, Rescue, Vm, VmDelete, VmImage,
    VmRebuild, VmSpec, VmState, WantedPower, Watchdog,
};
use berth_model::{ByteSize, VmId};
use libvirt_common::guest::{domain, inside, put_file};
use libvirt_common::{
    EMPTY_IMAGE, Nat, Node, QEMU, READY, TINY, image_path, run, spec, text, tiny, wait_for,
};

const ID: VmId = VmId(7);
/// The tiny image under another name.
const OTHER: &str = "72727272727272727272727272727272727272727272727272727272727272aa";
/// The rescue image.
const RESCUE: &str = "73737373737373737373737373737373737373737373737373737373737373aa";
/// An ISO that boots, and one that does not.
const ISOS: [&str; 2] = [
    "74747474747474747474747474747474747474747474747474747474747474aa",
    "75757575757575757575757575757575757575757575757575757575757575aa",
];

fn cx() -> Cx {
    Cx::unwatched()
}

fn change(node: &Node, change: impl FnOnce(&mut VmSpec)) -> Vm {
    let mut spec = node.libvirt.get(ID).unwrap().spec.unwrap();
    spec.power = WantedPower::Keep;
    change(&mut spec);
    node.libvirt.put(ID, &spec).unwrap()
}

fn rescue_file(name: &str) -> PathBuf {
    let image = tiny("BERTH_TEST_RESCUE_IMAGE", "rescue.qcow2");
    image.with_file_name(name)
}

fn uptime(node: &Node) -> f64 {
    inside(node, ID, "cut -d ' ' -f 1 /proc/uptime").parse().unwrap()
}

#[test]
fn a_guest_that_is_held_or_saved_lives_on_where_it_was_and_stops_in_order() {
    let _proof = proof::guest(&[
        "vm.pause",
        "vm.resume",
        "vm.save",
        "vm.start",
        "vm.rename",
        "vm.shutdown",
        "vm.power_off",
    ]);
    let node = Node::tiny(GuestNetwork::User);
    node.libvirt.put(ID, &spec(TINY)).unwrap();
    node.wait_for_boot(ID, 1);

    // While it is held, its clock stands.
    let (began, first) = (Instant::now(), uptime(&node));
    let held = Duration::from_secs(2);
    assert_eq!(node.libvirt.power(ID, PowerVerb::Pause).unwrap().state, VmState::Paused);
    let paused = Instant::now();
    wait_for("the time to pass", || (paused.elapsed() > held).then_some(()));
    assert_eq!(node.libvirt.power(ID, PowerVerb::Resume).unwrap().state, VmState::Running);
    let passed = uptime(&node) - first;
    assert!(passed < (began.elapsed() - held).as_secs_f64() + 0.1, "{passed} s passed in the guest");

    // What is in its memory is there again after it was saved, and its programs run on.
    let process = inside(&node, ID, "echo kept >/run/marker; sleep 10000 >/dev/null 2>&1 & echo $!");
    let saved = node.libvirt.save(ID, &cx()).unwrap();
    assert_eq!((saved.state, saved.saved), (VmState::Off, true));
    let renamed = change(&node, |spec| {
        spec.seed.hostname = "quay-8".to_owned();
        spec.title = Some("Mara's web server".to_owned());
        spec.autostart = true;
    });
    assert!(renamed.saved, "{renamed:?}");
    // What its memory knows of must stay as it is: its disk, its volumes, its cards.
    let mut without_cards = renamed.spec.clone().unwrap();
    without_cards.nics.clear();
    let refused = node.libvirt.put(ID, &without_cards).unwrap_err().to_string();
    assert!(refused.contains("saved memory"), "{refused}");
    let restoring = Restoring { size: without_cards.disk, image: TINY.to_owned() };
    let refused = node.libvirt.restore_begin(ID, &restoring).map(drop).unwrap_err().to_string();
    assert!(refused.contains("saved memory"), "{refused}");
    let running = node.libvirt.power(ID, PowerVerb::Start).unwrap();
    assert_eq!((running.state, running.saved), (VmState::Running, false));
    let lives = format!("cat /run/marker; kill -0 {process} && echo and lives; hostname");
    assert_eq!(inside(&node, ID, &lives), "kept\nand lives\nquay-7");
    assert_eq!(node.console(ID).matches(READY).count(), 1, "it did not boot again");
    assert_eq!(node.libvirt.get(ID).unwrap().pending, ["seed"]);

    // It stops when it is asked to, and comes back with its new name.
    let off = node.libvirt.shutdown(ID, Duration::from_secs(100), &cx()).unwrap();
    assert_eq!(off.state, VmState::Off);
    assert_eq!(node.libvirt.power(ID, PowerVerb::Start).unwrap().pending, Vec::<String>::new());
    node.wait_for_boot(ID, 2);
    assert_eq!(inside(&node, ID, "hostname; cat /run/marker 2>/dev/null || echo anew"), "quay-8\nanew");
    let virsh = |arguments: &[&str]| run("virsh", &[&["-q", "-c", QEMU], arguments].concat());
    let name = format!("{}{ID}", node.config.prefix);
    assert_eq!(virsh(&["desc", "--title", &name]).trim(), "Mara's web server");

    // The node is booted: it starts, once its network cards are filtered.
    node.libvirt.power(ID, PowerVerb::PowerOff).unwrap();
    std::fs::write(node.config.data_dir.join("boot"), "an earlier boot").unwrap();
    node.libvirt.tend().unwrap();
    assert_eq!(node.libvirt.get(ID).unwrap().state, VmState::Running);
    node.wait_for_boot(ID, 3);

    // A system that hears nothing loses its power when the time is over.
    inside(&node, ID, "killall acpid; (sleep 0.2; killall qemu-ga) >/dev/null 2>&1 &");
    let agent_is_gone = || domain(&node, ID).xml_desc(0).unwrap().contains("state='disconnected'");
    wait_for("the guest agent to be gone", || agent_is_gone().then_some(()));
    let began = Instant::now();
    let off = node.libvirt.shutdown(ID, Duration::from_secs(2), &cx()).unwrap();
    assert_eq!(off.state, VmState::Off);
    assert!(began.elapsed() >= Duration::from_secs(2));
    node.libvirt.remove(ID, &VmDelete::default(), &cx()).unwrap();
    node.assert_nothing_left(ID);
}

#[test]
fn a_rebuilt_guest_has_its_card_and_address_and_nothing_of_its_disk_and_a_kept_disk_has_all() {
    let _proof = proof::guest(&["vm.rebuild", "vm.delete", "kept.list", "kept.delete"]);
    let node = Node::tiny(GuestNetwork::User);
    put_file(&image_path(&node.config, TINY), &image_path(&node.config, OTHER));
    let mut spec = spec(TINY);
    let address = NicAddress { ip: "10.0.2.77".parse().unwrap(), prefix: 24, gateway: None };
    spec.nics[0].addresses = vec![address];
    node.libvirt.put(ID, &spec).unwrap();
    node.wait_for_boot(ID, 1);
    let card = "cat /sys/class/net/eth0/address; ip -o -4 addr show eth0 | grep -o '10.0.2.77/24'";
    let before = inside(&node, ID, card);
    assert_eq!(before, "52:54:00:be:00:01\n10.0.2.77/24");
    inside(&node, ID, "echo mine >/root/file; sync");

    let rebuild = VmRebuild { image: OTHER.to_owned(), seed: None, power: WantedPower::On };
    for point in ["rebuild.after_power_off", "rebuild.after_disk"] {
        let cut = faults::with(&format!("{point}=error"), || node.libvirt.rebuild(ID, &rebuild, &cx()));
        assert!(cut.is_err(), "{point}");
    }
    let rebuilt = node.libvirt.rebuild(ID, &rebuild, &cx()).unwrap();
    assert_eq!((rebuilt.id, rebuilt.state), (ID, VmState::Running));
    node.wait_for_boot(ID, 2);
    assert_eq!(inside(&node, ID, "ls /root/file 2>/dev/null || echo none"), "none");
    assert_eq!(inside(&node, ID, card), before);
    let disk = run("qemu-img", &["info", "-U", text(&node.folder(ID).join("disk.qcow2"))]);
    assert!(disk.contains(OTHER) && !disk.contains(TINY), "{disk}");

    // Deleted with its disk kept: that is whole without the image, and boots with all that was on it.
    inside(&node, ID, "echo 'a word to find again' >/root/file; sync");
    let keep = VmDelete { disks: DisksAfter::Keep, keep_as: Name::new("maras-disk") };
    let cut = faults::with("keep.after_copy=error", || node.libvirt.remove(ID, &keep, &cx()));
    assert!(cut.is_err());
    node.libvirt.remove(ID, &keep, &cx()).unwrap();
    node.assert_nothing_left(ID);
    let kept = node.libvirt.kept().unwrap();
    assert_eq!(
        (kept.len(), kept[0].name.as_str(), kept[0].vm, kept[0].size),
        (1, "maras-disk", ID, spec.disk)
    );
    let whole = run("qemu-img", &["info", &kept[0].path]);
    assert!(!whole.contains("backing file"), "{whole}");
    let again = image_path(&node.config, RESCUE);
    put_file(Path::new(&kept[0].path), &again);
    node.libvirt.put(ID, &VmSpec { image: VmImage { sha256: RESCUE.to_owned() }, ..spec }).unwrap();
    node.wait_for_boot(ID, 1);
    assert_eq!(inside(&node, ID, "cat /root/file"), "a word to find again");
    node.libvirt.delete_kept(&kept[0].name).unwrap();
    assert!(!PathBuf::from(&kept[0].path).exists() && node.libvirt.kept().unwrap().is_empty());

    // Deleted with its disk wiped: what the guest wrote stands nowhere in the file any more.
    inside(&node, ID, "echo 'a word never to be found' >/root/secret; sync");
    let wipe = VmDelete { disks: DisksAfter::Wipe, keep_as: None };
    let cut = |point: &str| faults::with(&format!("{point}=error"), || node.libvirt.remove(ID, &wipe, &cx()));
    let holds_it = || {
        let bytes = std::fs::read(node.folder(ID).join("disk.wipe")).unwrap();
        bytes.windows(27).any(|window| window == b"a word never to be found\n\0\0")
    };
    assert!(cut("wipe.after_rename").is_err());
    assert!(holds_it(), "the word is in the disk before");
    assert!(cut("wipe.after_wipe").is_err());
    assert!(!holds_it());
    node.libvirt.remove(ID, &wipe, &cx()).unwrap();
    node.assert_nothing_left(ID);
}

/// Signs in by SSH with a password, and runs a script.
fn ssh(home: &Path, address: Ipv4Addr, password: &str, script: &str) -> Option<String> {
    let ask = home.join("askpass");
    std::fs::write(&ask, "#!/bin/sh\nprintf '%s\\n' \"$ASKED\"\n").unwrap();
    run("chmod", &["700", text(&ask)]);
    let options =
        ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=5"];
    let mut command = Command::new("ssh");
    command.args(options.iter().flat_map(|option| ["-o", option])).arg("-F/dev/null");
    command.args(["-o", "PreferredAuthentications=password", "-o", "NumberOfPasswordPrompts=1"]);
    command.arg(format!("root@{address}")).arg(script).stdin(Stdio::null());
    command.env("SSH_ASKPASS", &ask).env("SSH_ASKPASS_REQUIRE", "force").env("ASKED", password);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(said)
}

#[test]
fn a_guest_is_rescued_by_ssh_and_boots_its_own_disk_again() {
    let _proof = proof::guest(&["vm.rescue_on", "vm.rescue_off"]);
    // A network of this run, so that two runs do not meet.
    let pid = std::process::id();
    let [_, _, high, low] = pid.to_be_bytes();
    let [gateway, address] = [1, 2].map(|last| Ipv4Addr::new(10, high & 0x7f, low, last));
    let bridge = format!("br{pid}");
    let node = Node::tiny(GuestNetwork::Nat { bridge, gateway: Gateway { ip: gateway, prefix: 24 } });
    let _nat = Nat::of(&node);
    put_file(&rescue_file("rescue.qcow2"), &image_path(&node.config, RESCUE));
    let mut spec = VmSpec { memory: ByteSize::mib(256), ..spec(TINY) };
    spec.nics[0].addresses =
        vec![NicAddress { ip: address.into(), prefix: 24, gateway: Some(gateway.into()) }];
    node.libvirt.put(ID, &spec).unwrap();
    node.wait_for_boot(ID, 1);
    inside(&node, ID, "echo broken >/root/state; sync");

    let password = entropy::password();
    let rescue = Rescue {
        image: RESCUE.to_owned(),
        root_password_hash: entropy::crypt(&password),
        ..Rescue::default()
    };
    let cut = faults::with("rescue_on.after_power_off=error", || node.libvirt.rescue_on(ID, &rescue));
    assert!(cut.is_err());
    let rescued = node.libvirt.rescue_on(ID, &rescue).unwrap();
    assert_eq!((rescued.state, rescued.spec.unwrap().rescue), (VmState::Running, Some(rescue)));
    let file = std::fs::read(node.folder(ID).join("rescue-seed.iso")).unwrap();
    assert!(!file.windows(password.len()).any(|window| window == password.as_bytes()), "only its hash");
    node.wait_for_boot(ID, 2);
    let ssh = |password: &str, script: &str| ssh(node.home(), address, password, script);
    let system = "hostname; . /etc/os-release; echo $ID";
    let said = wait_for("the rescue system's SSH", || ssh(&password, system));
    assert_eq!(said, "quay-7\nrescue");
    assert_eq!(ssh("another password", "true"), None);
    let tools = "for tool in 'mdadm --version' 'e2fsck -V' 'xfs_repair -V' 'lvm version' 'parted -v' 'sfdisk -v' \
                 'btrfs --version' 'cryptsetup --version'; do $tool >/dev/null 2>&1 || echo \"$tool: $?\"; done";
    assert_eq!(ssh(&password, tools).unwrap(), "");
    let repair = "e2fsck -fp /dev/vdb >/dev/null; mount -t ext4 /dev/vdb /mnt && cat /mnt/root/state && \
                  echo repaired >/mnt/root/state && umount /mnt";
    assert_eq!(ssh(&password, repair).unwrap(), "broken");

    for point in ["rescue_off.after_power_off", "put.after_define"] {
        assert!(faults::with(&format!("{point}=error"), || node.libvirt.rescue_off(ID)).is_err(), "{point}");
    }
    assert_eq!(node.libvirt.rescue_off(ID).unwrap().state, VmState::Running);
    node.wait_for_boot(ID, 3);
    assert_eq!(inside(&node, ID, ". /etc/os-release; echo $ID; cat /root/state"), "tiny\nrepaired");
    let mut files: Vec<_> =
        std::fs::read_dir(node.folder(ID)).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["console.log", "disk.qcow2", "seed.iso", "serial.sock"]);
    node.libvirt.delete(ID).unwrap();
    node.assert_nothing_left(ID);
}

/// Two ISOs: the first boots the rescue system.
fn put_isos(node: &Node) {
    let tree = node.home().join("iso");
    std::fs::create_dir_all(&tree).unwrap();
    let parts = [
        (PathBuf::from("/usr/lib/ISOLINUX/isolinux.bin"), "isolinux.bin"),
        (PathBuf::from("/usr/lib/syslinux/modules/bios/ldlinux.c32"), "ldlinux.c32"),
        (rescue_file("rescue.vmlinuz"), "vmlinuz"),
        (rescue_file("rescue.initrd"), "initrd"),
    ];
    for (from, name) in parts {
        std::fs::copy(&from, tree.join(name)).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
    }
    let config = "DEFAULT one\nPROMPT 0\nTIMEOUT 1\nLABEL one\n KERNEL /vmlinuz\n INITRD /initrd\n \
                  APPEND console=ttyS0 quiet panic=10 berth.iso\n";
    std::fs::write(tree.join("isolinux.cfg"), config).unwrap();
    let boot = "-b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table";
    for (iso, label, boot) in [(ISOS[0], "INSTALLER", boot), (ISOS[1], "DRIVERS", "")] {
        let path = node.config.images_dir.join(format!("{iso}.iso"));
        let mut arguments = vec!["-as", "mkisofs", "-quiet", "-V", label, "-J", "-r"];
        arguments.extend(boot.split_whitespace());
        let from = if boot.is_empty() { tree.join("isolinux.cfg") } else { tree.clone() };
        arguments.extend(["-o", text(&path), text(&from)]);
        run("xorriso", &arguments);
        run("chmod", &["644", text(&path)]);
    }
}

#[test]
fn a_guest_boots_from_an_iso_and_finds_the_hardware_that_was_asked_for() {
    let _proof = proof::guest(&["vm.iso_attach", "vm.iso_eject", "vm.boot_order", "vm.hardware", "vm.put"]);
    let node = Node::tiny(GuestNetwork::User);
    put_isos(&node);
    // Its disk is empty: only the ISO has a system.
    let hardware = Hardware {
        machine: "pc-q35-7.2".to_owned(),
        cpu: "Nehalem".to_owned(),
        rng: false,
        watchdog: Watchdog::Reset,
        tpm: true,
        boot: vec![BootDevice::Disk, BootDevice::Iso],
        ..Hardware::default()
    };
    let spec =
        VmSpec { memory: ByteSize::mib(256), hardware, iso: Some(ISOS[0].to_owned()), ..spec(EMPTY_IMAGE) };
    node.libvirt.put(ID, &spec).unwrap();
    node.wait_for_boot(ID, 1);
    let inside = |script: &str| inside(&node, ID, script);
    assert!(inside("cat /proc/cmdline").contains("berth.iso"));
    assert!(inside("cat /sys/class/dmi/id/product_version").contains("pc-q35-7.2"));
    assert!(inside("grep -m 1 'model name' /proc/cpuinfo").contains("Nehalem"), "the processor");
    assert_eq!(inside("cat /sys/class/tpm/tpm0/tpm_version_major"), "2");
    assert_eq!(inside("grep -l 0x1005 /sys/bus/virtio/devices/*/device 2>/dev/null | wc -l"), "0");
    assert_eq!(inside("grep -l 0x0004 /sys/bus/virtio/devices/*/device 2>/dev/null | wc -l"), "0", "no rng");

    // Out, and another in, while it runs, and while it is mounted.
    let label = "modprobe -a ahci sr_mod; dd if=/dev/sr0 bs=1 skip=32808 count=9 2>/dev/null | tr -d ' '";
    assert_eq!(inside(label), "INSTALLER");
    inside("modprobe isofs; mount -t iso9660 -o ro /dev/sr0 /mnt && test -f /mnt/initrd");
    assert_eq!(change(&node, |spec| spec.iso = None).pending, Vec::<String>::new());
    inside("umount -l /mnt");
    let empty = format!("blockdev --flushbufs /dev/sr0; {label}");
    wait_for("the drive to be empty", || inside(&format!("{empty} || true")).is_empty().then_some(()));
    assert_eq!(change(&node, |spec| spec.iso = Some(ISOS[1].to_owned())).pending, Vec::<String>::new());
    wait_for("the other ISO", || (inside(&format!("{empty} || true")) == "DRIVERS").then_some(()));

    // Nobody feeds the watchdog: it presses the reset button, and the first ISO boots again.
    change(&node, |spec| spec.iso = Some(ISOS[0].to_owned()));
    inside("modprobe i6300esb heartbeat=2; test -c /dev/watchdog && echo >/dev/watchdog");
    node.wait_for_boot(ID, 2);
    let tpm = format!("/var/lib/libvirt/swtpm/{}", domain(&node, ID).uuid_string().unwrap());
    assert!(PathBuf::from(&tpm).exists());
    node.libvirt.delete(ID).unwrap();
    node.assert_nothing_left(ID);
    assert!(!PathBuf::from(&tpm).exists(), "the TPM's secrets are gone");
}

/// An image with one file, the tiny guest as a program for UEFI.
fn put_uefi_image(node: &Node, sha256: &str) {
    let home = node.home();
    let path = |name: &str| text(&home.join(name)).to_owned();
    std::fs::write(home.join("cmdline"), "console=ttyS0 quiet panic=10").unwrap();
    let initrd = tiny("BERTH_TINY_INITRD", "tiny.initrd");
    let kernel = tiny("BERTH_TINY_KERNEL", "tiny.vmlinuz");
    let section = |name: &str, file: &str, at: &str| {
        [
            "--add-section".to_owned(),
            format!("{name}={file}"),
            "--change-section-vma".to_owned(),
            format!("{name}={at}"),
        ]
    };
    let mut arguments: Vec<String> = Vec::new();
    arguments.extend(section(".cmdline", &path("cmdline"), "0x30000"));
    arguments.extend(section(".linux", text(&kernel), "0x2000000"));
    arguments.extend(section(".initrd", text(&initrd), "0x4000000"));
    arguments.extend(["/usr/lib/systemd/boot/efi/linuxx64.efi.stub".to_owned(), path("boot.efi")]);
    run("objcopy", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    run("truncate", &["-s", "64M", &path("esp")]);
    run("mformat", &["-i", &path("esp"), "-F", "::"]);
    run("mmd", &["-i", &path("esp"), "::/EFI", "::/EFI/BOOT"]);
    run("mcopy", &["-i", &path("esp"), &path("boot.efi"), "::/EFI/BOOT/BOOTX64.EFI"]);
    let image = image_path(&node.config, sha256);
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &path("esp"), text(&image)]);
    run("chmod", &["644", text(&image)]);
}

#[test]
fn a_guest_boots_by_uefi_and_what_it_remembers_goes_with_it() {
    let _proof = proof::guest(&["vm.firmware"]);
    let node = Node::tiny(GuestNetwork::User);
    put_uefi_image(&node, OTHER);
    let off = VmSpec { power: WantedPower::Off, memory: ByteSize::mib(256), ..spec(OTHER) };
    node.libvirt.put(ID, &off).unwrap();
    change(&node, |spec| spec.hardware.firmware = Firmware::Uefi);
    assert_eq!(node.libvirt.power(ID, PowerVerb::Start).unwrap().state, VmState::Running);
    node.wait_for_boot(ID, 1);
    assert_eq!(
        inside(&node, ID, "test -d /sys/firmware/efi && cat /sys/firmware/efi/fw_platform_size"),
        "64"
    );
    assert!(node.folder(ID).join("nvram.fd").exists());
    assert_eq!(change(&node, |spec| spec.hardware.firmware = Firmware::Bios).pending, ["hardware.firmware"]);
    node.libvirt.delete(ID).unwrap();
    node.assert_nothing_left(ID);
}
