use berth_model::agent::{PoolKind, VmSpec};

use super::*;

fn info(size: u64, free: u64, promised: u64, percent: u64) -> PoolInfo {
    PoolInfo {
        name: default_pool(),
        kind: PoolKind::Directory,
        size: ByteSize::gib(size),
        free: ByteSize::gib(free),
        allocated: ByteSize::gib(size - free),
        promised: ByteSize::gib(promised),
        promise_max: promise_max(ByteSize::gib(size), percent),
        volumes: 1,
        problem: None,
    }
}

/// A node's storage in a folder, without limits.
fn storage(home: &Path) -> Storage {
    storage_with(home, &StorageSection { promise_percent: 0, reserve_mib: 0, disks: None })
}

fn storage_with(home: &Path, section: &StorageSection) -> Storage {
    let large = PoolSection {
        name: Name::new("large").unwrap(),
        place: PoolPlace::Directory { path: home.join("large"), shared: false },
    };
    Storage::open(section, &[large], home, &home.join("images"), Box::new(|| Ok((0, 0)))).unwrap()
}

fn empty(size: ByteSize) -> VolumeCreate {
    VolumeCreate { size, pool: None, format: None, file_system: None }
}

/// An image of 8 MiB with a pattern in it.
fn image(home: &Path) -> String {
    let sha256 = "ab".repeat(32);
    std::fs::create_dir_all(home.join("images")).unwrap();
    let raw = home.join("pattern.raw");
    std::fs::write(&raw, vec![0x5a; 8 << 20]).unwrap();
    let image = home.join("images").join(format!("{sha256}.qcow2"));
    crate::program::Program::qemu_img(["convert", "-f", "raw", "-O", "qcow2"])
        .args([&raw, &image])
        .run()
        .unwrap();
    sha256
}

fn attachment(volume: i64) -> VolumeAttachment {
    VolumeAttachment { volume: VolumeId(volume), read_only: false }
}

#[test]
fn a_pool_promises_so_much_and_keeps_a_reserve() {
    let _proof = crate::proof::pure(&["pool.list", "pool.get", "volume.create", "volume.resize"]);
    let gib = ByteSize::gib;
    let none = ByteSize(0);
    assert!(room(&info(100, 50, 150, 200), gib(50), none, gib(1)).is_ok());
    let too_much = room(&info(100, 50, 150, 200), gib(51), none, gib(1)).unwrap_err();
    assert!(too_much.to_string().contains("may promise"), "{too_much}");
    assert!(room(&info(100, 50, 5000, 0), gib(51), none, gib(1)).is_ok(), "no limit is set");
    let full = room(&info(100, 0, 0, 0), gib(1), none, gib(1)).unwrap_err();
    assert!(full.to_string().contains("nearly full"), "{full}");
    assert!(room(&info(100, 3, 0, 0), gib(9), gib(2), gib(1)).is_ok());
    assert!(room(&info(100, 3, 0, 0), gib(9), gib(3), gib(1)).is_err(), "a copy is written at once");
    assert!(room(&info(100, 0, 900, 100), none, none, gib(1)).is_ok(), "nothing more is asked for");
}

#[test]
fn a_volume_is_made_grown_and_removed_and_told_twice_is_fine() {
    let _proof = crate::proof::pure(&[
        "volume.create",
        "volume.get",
        "volume.list",
        "volume.resize",
        "volume.delete",
        "pool.get",
    ]);
    let home = tempfile::tempdir().unwrap();
    let storage = storage(home.path());
    let id = VolumeId(5);
    for (pool, format) in [(None, VolumeFormat::Qcow2), (Name::new("large"), VolumeFormat::Raw)] {
        let wanted = VolumeCreate { pool: pool.clone(), format: Some(format), ..empty(ByteSize::mib(64)) };
        let made = storage.create(id, &wanted).unwrap();
        assert_eq!((made.size, made.format, made.whole), (ByteSize::mib(64), format, true));
        assert_eq!(storage.create(id, &wanted).unwrap(), made);
        let other = VolumeCreate { size: ByteSize::mib(65), ..wanted.clone() };
        assert!(matches!(storage.create(id, &other), Err(HypervisorError::Conflict(_))));
        let live = |_| -> Result<bool, HypervisorError> { panic!("no VM has it") };
        let grown = storage.resize(id, ByteSize::mib(96), live).unwrap();
        assert_eq!(storage.resize(id, ByteSize::mib(96), live).unwrap(), grown);
        assert!(
            matches!(storage.resize(id, ByteSize::mib(95), live), Err(HypervisorError::Invalid(f)) if f.name == "size")
        );
        let pool = storage.pool_info(&pool.unwrap_or_else(default_pool)).unwrap();
        assert_eq!((pool.promised, pool.volumes), (ByteSize::mib(96), 1));
        assert!(pool.allocated < ByteSize::mib(8) && pool.free <= pool.size, "{pool:?}");
        storage.delete(id).unwrap();
        storage.delete(id).unwrap();
        assert!(storage.volumes().unwrap().is_empty());
        for folder in ["volumes", "large/volumes"] {
            assert_eq!(std::fs::read_dir(home.path().join(folder)).unwrap().count(), 0, "{folder}");
        }
    }
}

#[test]
fn a_volume_comes_with_the_file_system_that_is_wanted() {
    let _proof = crate::proof::pure(&["volume.create"]);
    let home = tempfile::tempdir().unwrap();
    let storage = storage(home.path());
    let wanted = |file_system, format, mib| VolumeCreate {
        file_system: Some(file_system),
        format: Some(format),
        ..empty(ByteSize::mib(mib))
    };
    let raw = home.path().join("raw");
    for (n, format) in (1..).zip([VolumeFormat::Qcow2, VolumeFormat::Raw]) {
        for (id, file_system) in [(n, FileSystem::Ext4), (n + 10, FileSystem::Xfs)] {
            let made = storage.create(VolumeId(id), &wanted(file_system, format, 512)).unwrap();
            assert_eq!(storage.create(VolumeId(id), &wanted(file_system, format, 512)).unwrap(), made);
            assert!(made.allocated < ByteSize::mib(128), "{made:?}");
            let data = storage.record(VolumeId(id)).unwrap().data(Item::Volume(VolumeId(id)));
            let Source::File(file) = storage.pools[0].source(&data) else { panic!() };
            let args = ["convert", "-f", pool::word(format), "-O", "raw"];
            crate::program::Program::qemu_img(args).args([&file, &raw]).run().unwrap();
            let judge = match file_system {
                FileSystem::Ext4 => ["e2fsck", "-fn"],
                FileSystem::Xfs => ["xfs_repair", "-fn"],
            };
            crate::program::Program::new(judge[0], "").args([judge[1]]).args([&raw]).run().unwrap();
        }
    }
    let other = VolumeCreate { file_system: None, ..wanted(FileSystem::Ext4, VolumeFormat::Qcow2, 512) };
    assert!(matches!(storage.create(VolumeId(1), &other), Err(HypervisorError::Conflict(_))));
    let small = storage.create(VolumeId(3), &wanted(FileSystem::Xfs, VolumeFormat::Raw, 299));
    assert!(matches!(small, Err(HypervisorError::Invalid(f)) if f.name == "file_system"));
}

#[test]
fn a_clone_stands_on_its_image_or_holds_a_copy() {
    let _proof = crate::proof::pure(&["volume.clone_from_image"]);
    let home = tempfile::tempdir().unwrap();
    let storage = storage(home.path());
    let image = image(home.path());
    let cases = [
        (CloneMode::Backing, VolumeFormat::Qcow2),
        (CloneMode::Copy, VolumeFormat::Qcow2),
        (CloneMode::Copy, VolumeFormat::Raw),
    ];
    for (n, (mode, format)) in (1..).zip(cases) {
        let wanted = VolumeClone {
            image: image.clone(),
            size: ByteSize::mib(16),
            pool: None,
            format: Some(format),
            mode,
        };
        let made = storage.clone_from_image(&Cx::unwatched(), VolumeId(n), &wanted).unwrap();
        assert_eq!(made.stands_on_image, mode == CloneMode::Backing);
        assert_eq!(made.allocated > ByteSize::mib(4), mode == CloneMode::Copy, "{made:?}");
        let Source::File(file) =
            storage.pools[0].source(&storage.record(VolumeId(n)).unwrap().data(Item::Volume(VolumeId(n))))
        else {
            panic!()
        };
        let raw = home.path().join("raw");
        let word = if format == VolumeFormat::Raw { "raw" } else { "qcow2" };
        crate::program::Program::qemu_img(["convert", "-f", word, "-O", "raw"])
            .args([&file, &raw])
            .run()
            .unwrap();
        let bytes = std::fs::read(&raw).unwrap();
        assert_eq!((bytes.len(), bytes[(8 << 20) - 1], bytes[8 << 20]), (16 << 20, 0x5a, 0));
    }
    let wanted = |image: &str, size, format| VolumeClone {
        image: image.to_owned(),
        size,
        pool: None,
        format,
        mode: CloneMode::Backing,
    };
    let clone = |wanted| storage.clone_from_image(&Cx::unwatched(), VolumeId(9), &wanted);
    assert!(
        matches!(clone(wanted(&image, ByteSize::mib(4), None)), Err(HypervisorError::Invalid(f)) if f.name == "size")
    );
    assert!(
        matches!(clone(wanted("..", ByteSize::mib(16), None)), Err(HypervisorError::Invalid(f)) if f.name == "image")
    );
    let raw = wanted(&image, ByteSize::mib(16), Some(VolumeFormat::Raw));
    assert!(matches!(clone(raw), Err(HypervisorError::Invalid(f)) if f.name == "format"));
    let missing = wanted(&"c".repeat(64), ByteSize::mib(16), None);
    assert!(matches!(clone(missing), Err(HypervisorError::Lacking(_))));
    assert_eq!(storage.volumes().unwrap().len(), 3, "what was refused is not there");
}

#[test]
fn cut_off_anywhere_and_told_again_it_ends_the_same() {
    let _proof = crate::proof::pure(&["volume.create", "volume.resize", "volume.delete"]);
    let home = tempfile::tempdir().unwrap();
    let storage = storage(home.path());
    let id = VolumeId(5);
    let wanted = empty(ByteSize::mib(64));
    for point in ["volume.after_record", "volume.after_data"] {
        assert!(faults::with(&format!("{point}=error"), || storage.create(id, &wanted)).is_err(), "{point}");
        let half = storage.volume(id).unwrap();
        assert!(!half.whole);
        assert!(matches!(storage.claim(VmId(7), &[attachment(5)]), Err(HypervisorError::Conflict(_))));
    }
    // What a pool refuses leaves nothing, if it was not there before.
    assert!(faults::with("volume.after_fill=error", || storage.create(VolumeId(6), &wanted)).is_err());
    assert!(matches!(storage.volume(VolumeId(6)), Err(HypervisorError::Unknown(_))));
    assert!(storage.create(id, &wanted).unwrap().whole);
    let larger = ByteSize::mib(80);
    assert!(
        faults::with("volume.after_promise=error", || storage.resize(id, larger, |_| Ok(false))).is_err()
    );
    storage.resize(id, larger, |_| Ok(false)).unwrap();
    let file = home.path().join("volumes/5/volume.qcow2");
    assert_eq!(qcow2::disk_size(&std::fs::read(file).unwrap()), Ok(larger));
    for point in ["volume.after_doom", "volume.after_removal"] {
        assert!(faults::with(&format!("{point}=error"), || storage.delete(id)).is_err(), "{point}");
        assert!(!storage.volume(id).unwrap().whole, "{point}");
    }
    storage.delete(id).unwrap();
    assert_eq!(std::fs::read_dir(home.path().join("volumes")).unwrap().count(), 0);
}

/// What a node sends of a volume, once `meddle` has done something after the first bytes.
fn sent(from: &Storage, id: VolumeId, meddle: impl FnMut()) -> Vec<u8> {
    struct Wire<F>(Vec<u8>, F);
    impl<F: FnMut()> std::io::Write for Wire<F> {
        fn write(&mut self, part: &[u8]) -> std::io::Result<usize> {
            self.0.extend(part);
            (self.1)();
            Ok(part.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut wire = Wire(Vec::new(), meddle);
    from.send(id, &mut wire).unwrap();
    wire.0
}

#[test]
fn a_volume_comes_whole_from_another_node_or_not_at_all() {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};
    let _proof = crate::proof::pure(&["volume.offer", "volume.fetch"]);
    let homes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [here, there] = homes.each_ref().map(|home| storage(home.path()));
    let (id, cx) = (VolumeId(5), Cx::unwatched());
    for format in [VolumeFormat::Raw, VolumeFormat::Qcow2] {
        let wanted = VolumeCreate { format: Some(format), ..empty(ByteSize::mib(64)) };
        let wanted = VolumeCreate { file_system: Some(FileSystem::Ext4), ..wanted };
        let made = here.create(id, &wanted).unwrap();
        let file = |home: &Path| home.join("volumes/5").join(format!("volume.{}", pool::word(format)));
        let [source, target] = homes.each_ref().map(|home| file(home.path()));
        let writable = std::fs::File::options().write(true).open(&source).unwrap();

        let offered = here.offer(id).unwrap();
        assert_eq!(offered, made);
        let whole = sent(&here, id, || {});
        let fetch =
            |bytes: &[u8]| there.fetch(&cx, &offered, None, || Ok(std::io::Cursor::new(bytes.to_vec())));
        // Cut off, by the other node or by a crash of this one.
        for length in [0, 10, whole.len() / 2, whole.len() - 2] {
            let cut = fetch(&whole[..length]).unwrap_err();
            assert!(matches!(cut, HypervisorError::Unavailable(_)), "{length}: {cut}");
            assert!(matches!(there.volume(id), Err(HypervisorError::Unknown(_))) && !target.exists());
        }
        for point in ["volume.after_record", "volume.after_data"] {
            assert!(faults::with(&format!("{point}=error"), || fetch(&whole)).is_err(), "{point}");
            assert!(!there.volume(id).unwrap().whole);
        }
        assert!(faults::with("volume.during_fetch=error", || fetch(&whole)).is_err());
        let cancelled = Cx::unwatched();
        cancelled.cancel();
        assert!(there.fetch(&cancelled, &offered, None, || Ok(&*whole)).is_err());

        // Somebody wrote to it, or it was given to a VM, while it was read.
        let written = sent(&here, id, || drop(writable.write_at(&[0x5a; 512], (1 << 20) - 512)));
        assert!(fetch(&written).unwrap_err().to_string().contains("changed while it was read"));
        let given = sent(&here, id, || drop(here.claim(VmId(7), &[attachment(5)])));
        assert!(fetch(&given).unwrap_err().to_string().contains("changed while it was read"));
        assert!(here.offer(id).unwrap_err().to_string().contains("VM 7 has it"));
        assert!(here.send(id, &mut Vec::new()).is_err());
        here.release(VmId(7), &[]).unwrap();

        // Of what was cut off nothing is taken: this is what it has become.
        let whole = sent(&here, id, || {});
        let came = fetch(&whole).unwrap();
        assert_eq!(Volume { allocated: made.allocated, ..came.clone() }, made);
        assert!(came.allocated < ByteSize::mib(16), "what is zero takes no room: {came:?}");
        assert!(std::fs::read(&source).unwrap() == std::fs::read(&target).unwrap());
        assert_eq!(std::fs::metadata(&target).unwrap().size(), std::fs::metadata(&source).unwrap().size());
        assert_eq!(fetch(b"nobody is asked").unwrap(), came, "it is here");

        // It is another one by now: this one goes, and its own node keeps what it has.
        there.delete(id).unwrap();
        assert!(here.volume(id).unwrap().whole);
        here.delete(id).unwrap();
    }
    let lacking =
        Volume { size: ByteSize::gib(1 << 20), allocated: ByteSize::gib(1 << 20), ..there_is(&here) };
    let refused = there.fetch(&cx, &lacking, None, || Ok(&b""[..]));
    assert!(matches!(refused, Err(HypervisorError::Lacking(_))), "{refused:?}");
    let sha256 = image(homes[0].path());
    let clone = VolumeClone {
        image: sha256,
        size: ByteSize::mib(64),
        pool: None,
        format: None,
        mode: CloneMode::Backing,
    };
    here.clone_from_image(&cx, VolumeId(8), &clone).unwrap();
    assert!(here.offer(VolumeId(8)).unwrap_err().to_string().contains("stands on an image"));
}

fn there_is(storage: &Storage) -> Volume {
    storage.create(VolumeId(9), &empty(ByteSize::mib(1))).unwrap()
}

#[test]
fn two_vms_never_have_one_volume() {
    let _proof = crate::proof::pure(&["volume.attach", "volume.detach", "volume.delete"]);
    let home = tempfile::tempdir().unwrap();
    let storage = storage(home.path());
    for id in [5, 6] {
        storage.create(VolumeId(id), &empty(ByteSize::mib(1))).unwrap();
    }
    storage.claim(VmId(7), &[attachment(5)]).unwrap();
    storage.claim(VmId(7), &[attachment(5)]).unwrap();
    let refused = storage.claim(VmId(8), &[attachment(6), attachment(5)]).unwrap_err();
    assert!(refused.to_string().contains("VM 7 has volume 5"), "{refused}");
    assert_eq!(storage.volume(VolumeId(6)).unwrap().attached_to, None, "all or none");
    assert!(storage.delete(VolumeId(5)).unwrap_err().to_string().contains("VM 7"));
    storage.release(VmId(8), &[]).unwrap();
    assert_eq!(storage.volume(VolumeId(5)).unwrap().attached_to, Some(VmId(7)));
    storage.release(VmId(7), &[]).unwrap();
    storage.delete(VolumeId(5)).unwrap();
    assert!(matches!(storage.claim(VmId(7), &[attachment(5)]), Err(HypervisorError::Lacking(_))));
}

#[test]
fn a_serial_names_its_volume() {
    assert_eq!(volume_of_serial(&serial(VolumeId(5))), Some(VolumeId(5)));
    assert!(serial(VolumeId(999_999_999_999)).len() <= 20);
    for other in ["", "volume-", "volume-05", "volume-x", "vol-5", "volume-1000000000000"] {
        assert_eq!(volume_of_serial(other), None, "{other}");
    }
}

#[test]
fn a_disk_in_a_pool_moves_only_where_ceph_has_it() {
    let _proof = crate::proof::pure(&["moving.prepare"]);
    let home = tempfile::tempdir().unwrap();
    let storage = storage(home.path());
    let in_pool = |pool| VmSpec { disk_pool: Name::new(pool), ..VmSpec::default() };
    assert!(storage.check_disk_place(VmId(7), &in_pool("default")).is_ok(), "a file in its folder");
    let refused = storage.check_disk_place(VmId(7), &in_pool("large")).unwrap_err().to_string();
    assert!(refused.contains("the pool large, which is none of Ceph's"), "{refused}");
    let unknown = storage.check_disk_place(VmId(7), &in_pool("fast")).unwrap_err();
    assert!(matches!(unknown, HypervisorError::Invalid(fault) if fault.name == "disk_pool"));
    storage.place_disk(VmId(7), &in_pool("default")).unwrap();
    assert_eq!(storage.disk_pool(VmId(7)).unwrap(), None);
}
