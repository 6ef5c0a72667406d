//! Images that come from elsewhere, and pools that run full: without a guest, with real files.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

#[path = "common/web.rs"]
mod web;

use std::path::{Path, PathBuf};
use std::process::Command;

use berth_agent::config::{ImagesSection, StorageSection};
use berth_agent::error::Refusal;
use berth_agent::images::Images;
use berth_agent::limits::Limits;
use berth_agent::runs::Cx;
use berth_agent::storage::Storage;
use berth_agent::{faults, orphans, proof};
use berth_model::agent::{
    Checksum, CloneMode, ImageFetch, ImageFile, ImageFormat, VolumeClone, VolumeFormat,
};
use berth_model::{ByteSize, ErrorCode, VolumeId};
use sha2::{Digest, Sha256, Sha512};
use tempfile::TempDir;
use web::{Manner, Web};

/// An image store, and a runtime for its fetches.
struct Store {
    home: TempDir,
    images: Images,
    runtime: tokio::runtime::Runtime,
}

impl Store {
    fn open() -> Self {
        Self::open_with(ImagesSection { fetch_private: true, max_gib: 1 })
    }

    fn open_with(settings: ImagesSection) -> Self {
        let home = tempfile::Builder::new().prefix("berth-storage-").tempdir_in("/var/tmp").unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        let images = Images::open(home.path().join("images"), &Limits::default(), settings).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { home, images, runtime }
    }

    fn fetch(&self, checksum: &str, url: &str, format: ImageFormat) -> Result<ImageFile, Refusal> {
        let _in = self.runtime.enter();
        let wanted = ImageFetch { url: url.to_owned(), format };
        self.images.fetch(&Cx::unwatched(), &Checksum(checksum.to_owned()), &wanted)
    }

    /// Names of all files in the store and in its quarantine.
    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = [self.home.path().join("images"), self.home.path().join("quarantine")]
            .iter()
            .flat_map(|folder| std::fs::read_dir(folder).unwrap())
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn qemu_img(args: &[&str]) {
    let output = Command::new("qemu-img").args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A disk of 4 MiB with a pattern, in a format.
fn disk(folder: &Path, format: &str) -> PathBuf {
    let raw = folder.join("pattern.raw");
    let pattern: Vec<u8> = (0..4_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&raw, pattern).unwrap();
    let path = folder.join(format!("pattern-made.{format}"));
    qemu_img(&["convert", "-f", "raw", "-O", format, text(&raw), text(&path)]);
    path
}

fn sha256(file: &[u8]) -> String {
    hex::encode(Sha256::digest(file))
}

fn manner(file: Vec<u8>) -> Manner {
    Manner { file, cut_after: None, cuts: 0, ranges: true }
}

#[test]
fn what_a_fetch_left_long_ago_is_an_orphan() {
    let _proof = proof::driver(&["node.orphans"]);
    let store = Store::open();
    let part = store.home.path().join("quarantine").join(format!("{}.part", "ab".repeat(32)));
    std::fs::write(&part, "half an image").unwrap();
    let find = |remove| orphans::list(store.images.orphans().unwrap(), remove, |_| Some(())).orphans;
    assert!(find(false).is_empty(), "it may be under way");
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    std::fs::File::open(&part).unwrap().set_modified(long_ago).unwrap();
    assert_eq!((find(false)[0].kind.as_str(), part.exists()), ("quarantined file", true));
    assert!(find(true)[0].removed && !part.exists() && find(true).is_empty());
}

#[test]
fn a_fetch_goes_on_after_the_server_cut_the_connection() {
    let _proof = proof::driver(&["image.fetch"]);
    let store = Store::open();
    let file = std::fs::read(disk(store.home.path(), "qcow2")).unwrap();
    let (name, third) = (sha256(&file), file.len() / 3);
    let web = Web::open(Manner { cut_after: Some(third), cuts: 2, ..manner(file.clone()) });
    let fetched = store.fetch(&name, &web.url("/a"), ImageFormat::Qcow2).unwrap();
    assert_eq!((fetched.sha256.as_str(), fetched.disk_size), (name.as_str(), ByteSize::mib(4)));
    assert_eq!(web.begins(), [0, third, 2 * third]);
    // Told twice, nothing is fetched.
    assert_eq!(store.fetch(&name, &web.url("/a"), ImageFormat::Qcow2).unwrap(), fetched);
    assert_eq!(web.begins().len(), 3);
    assert_eq!(store.files(), [format!("{name}.qcow2")]);
    // A server that knows no ranges sends all of it again.
    store.images.delete(&name, || Ok((vec![], vec![]))).unwrap();
    web.change(|manner| *manner = Manner { cuts: 1, ranges: false, ..manner.clone() });
    store.fetch(&name, &web.url("/a"), ImageFormat::Qcow2).unwrap();
    assert_eq!(web.begins()[3..], [0, third]);
}

#[test]
fn a_fetch_that_was_given_up_goes_on_when_it_is_told_again() {
    let _proof = proof::driver(&["image.fetch"]);
    let store = Store::open();
    let file = std::fs::read(disk(store.home.path(), "qcow2")).unwrap();
    let half = file.len() / 2;
    let checksum = hex::encode(Sha512::digest(&file));
    let web = Web::open(Manner { cut_after: Some(half), cuts: 1, ..manner(file.clone()) });
    // After the first half, every connection is cut at once.
    let refused = faults::with("image.after_chunk=error", || {
        web.change(|manner| manner.cuts = 100);
        web.change(|manner| manner.cut_after = Some(0));
        store.fetch(&checksum, &web.url("/a"), ImageFormat::Qcow2).unwrap_err()
    });
    assert_eq!(refused.0.code, ErrorCode::Unavailable);
    web.change(|manner| (manner.cut_after, manner.cuts) = (Some(half), 1));
    assert!(
        faults::with("image.after_check=error", || store.fetch(
            &checksum,
            &web.url("/a"),
            ImageFormat::Qcow2
        ))
        .is_err()
    );
    assert!(store.files().is_empty(), "what failed after all had come leaves nothing: {:?}", store.files());
    // The note of the SHA-512 comes before the file, so a cut between the two loses nothing.
    assert!(
        faults::with("image.after_keep=error", || store.fetch(&checksum, &web.url("/a"), ImageFormat::Qcow2))
            .is_err()
    );
    let before = web.begins().len();
    let fetched = store.fetch(&checksum, &web.url("/a"), ImageFormat::Qcow2).unwrap();
    assert_eq!(fetched.sha256, sha256(&file));
    assert_eq!(web.begins().len(), before, "it is here already");
    store.images.delete(&fetched.sha256, || Ok((vec![], vec![]))).unwrap();
    assert!(store.files().is_empty(), "{:?}", store.files());
}

#[test]
fn a_file_that_is_not_what_it_should_be_leaves_nothing() {
    let _proof = proof::driver(&["image.fetch"]);
    let store = Store::open();
    let home = store.home.path();
    let good = std::fs::read(disk(home, "qcow2")).unwrap();
    let evil = home.join("evil.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", "-u", text(&evil), "4M"]);
    let evil = std::fs::read(evil).unwrap();
    // Sound at its head, and nonsense behind it.
    let mut broken = good.clone();
    broken[40..48].copy_from_slice(&0xffff_0000_u64.to_be_bytes());
    let cases: [(&str, &[u8], String, ImageFormat, &str); 5] = [
        ("another checksum", &good, "a".repeat(64), ImageFormat::Qcow2, "checksum"),
        ("a backing file", &evil, sha256(&evil), ImageFormat::Qcow2, "url"),
        ("another format", &good, sha256(&good), ImageFormat::Iso, "url"),
        ("nonsense", b"<html>", sha256(b"<html>"), ImageFormat::Qcow2, "url"),
        ("a table that is nowhere", &broken, sha256(&broken), ImageFormat::Qcow2, "url"),
    ];
    for (what, file, checksum, format, field) in cases {
        let web = Web::open(manner(file.to_vec()));
        let refused = store.fetch(&checksum, &web.url("/a"), format).unwrap_err();
        assert!(refused.0.for_field(field).is_some(), "{what}: {refused:?}");
        assert!(store.files().is_empty(), "{what}: {:?}", store.files());
    }
    let web = Web::open(manner(good.clone()));
    let missing = store.fetch(&sha256(&good), &web.url("/missing"), ImageFormat::Qcow2).unwrap_err();
    assert!(missing.0.for_field("url").unwrap().contains("404"), "{missing:?}");
    let cx = Cx::unwatched();
    cx.cancel();
    let wanted = ImageFetch { url: web.url("/a"), format: ImageFormat::Qcow2 };
    let _in = store.runtime.enter();
    let cancelled = store.images.fetch(&cx, &Checksum(sha256(&good)), &wanted).unwrap_err();
    assert_eq!(cancelled.0.code, ErrorCode::Conflict);
    assert!(store.files().is_empty(), "{:?}", store.files());
}

#[test]
fn private_addresses_are_fetched_from_only_where_that_is_allowed() {
    let _proof = proof::driver(&["image.fetch"]);
    let store = Store::open_with(ImagesSection { fetch_private: false, max_gib: 1 });
    let web = Web::open(manner(b"secret".to_vec()));
    for url in [web.url("/a"), format!("http://localhost:{}/a", web.address.port())] {
        let refused = store.fetch(&sha256(b"secret"), &url, ImageFormat::Raw).unwrap_err();
        assert!(refused.0.for_field("url").unwrap().contains("private"), "{url}: {refused:?}");
    }
    assert!(web.begins().is_empty(), "nothing was asked of it");
    let allowed = Store::open();
    let redirected = web.url(&format!("/to/{}/a", web.address));
    allowed.fetch(&sha256(b"secret"), &redirected, ImageFormat::Raw).unwrap();
    assert!(store.files().is_empty());
}

#[test]
fn disks_of_other_forms_become_images() {
    let _proof = proof::driver(&["image.convert", "image.verify", "image.list", "image.get"]);
    let store = Store::open();
    let cx = Cx::unwatched();
    let mut made = Vec::new();
    for format in [ImageFormat::Raw, ImageFormat::Vmdk, ImageFormat::Vdi, ImageFormat::Qcow2] {
        let file = std::fs::read(disk(store.home.path(), format.word())).unwrap();
        let web = Web::open(manner(file.clone()));
        store.fetch(&sha256(&file), &web.url("/a"), format).unwrap();
        let image = store.images.convert(&cx, &sha256(&file)).unwrap();
        assert_eq!(store.images.convert(&cx, &sha256(&file)).unwrap(), image, "told twice");
        assert_eq!((image.format, image.disk_size), (ImageFormat::Qcow2, ByteSize::mib(4)));
        let verdict = store.images.verify(&cx, &image.sha256).unwrap();
        assert!(verdict.sound, "{verdict:?}");
        made.push(image.sha256);
    }
    made.dedup();
    assert_eq!(made.len(), 1, "what they hold is the same");
    assert!(store.files().iter().all(|name| !name.ends_with(".new")), "{:?}", store.files());
    assert_eq!(store.images.list(&[], &[]).unwrap().len(), 5);

    let path = store.home.path().join(format!("images/{}.qcow2", made[0]));
    let mut damaged = std::fs::read(&path).unwrap();
    // The first table of the disk's clusters points nowhere.
    let table = usize::try_from(u64::from_be_bytes(damaged[40..48].try_into().unwrap())).unwrap();
    damaged[table..table + 8].copy_from_slice(&0x8000_7fff_0000_0000_u64.to_be_bytes());
    std::fs::write(&path, damaged).unwrap();
    let verdict = store.images.verify(&cx, &made[0]).unwrap();
    assert!(!verdict.sound && verdict.problems.len() == 2, "{verdict:?}");
    assert!(
        verdict.problems[0].contains("has changed") && verdict.problems[1].contains("damaged"),
        "{verdict:?}"
    );
}

/// A small file system of its own.
struct SmallDisk {
    home: TempDir,
    mount: PathBuf,
}

impl SmallDisk {
    fn new(mib: u64) -> Self {
        let home = tempfile::tempdir_in("/var/tmp").unwrap();
        let (file, mount) = (home.path().join("disk"), home.path().join("mount"));
        std::fs::File::create(&file).unwrap().set_len(mib << 20).unwrap();
        std::fs::create_dir(&mount).unwrap();
        run("mke2fs", &["-q", "-t", "ext4", "-m", "0", text(&file)]);
        run("mount", &["-o", "loop", text(&file), text(&mount)]);
        Self { home, mount }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.mount).output();
    }
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_pool_that_runs_full_leaves_no_orphan() {
    let _proof = proof::driver(&["volume.clone_from_image", "pool.get", "pool.list"]);
    let small = SmallDisk::new(32);
    let images = small.home.path().join("images");
    std::fs::create_dir(&images).unwrap();
    // A small file that holds much: what it takes is seen only while it is copied.
    let raw = small.home.path().join("raw");
    std::fs::write(&raw, vec![0x5a; 64 << 20]).unwrap();
    let image = "ab".repeat(32);
    let file = images.join(format!("{image}.qcow2"));
    qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", text(&raw), text(&file)]);
    let section = StorageSection { promise_percent: 0, reserve_mib: 0, disks: None };
    let storage = Storage::open(&section, &[], &small.mount, &images, Box::new(|| Ok((0, 0)))).unwrap();
    let wanted = VolumeClone {
        image,
        size: ByteSize::mib(64),
        pool: None,
        format: Some(VolumeFormat::Qcow2),
        mode: CloneMode::Copy,
    };
    let refused = storage.clone_from_image(&Cx::unwatched(), VolumeId(5), &wanted).unwrap_err();
    assert_eq!(Refusal::from(refused).0.code, ErrorCode::ResourceUnavailable);
    assert!(storage.volumes().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(small.mount.join("volumes")).unwrap().count(), 0);
    let pool = storage.pools().unwrap().remove(0);
    assert_eq!((pool.promised, pool.volumes), (ByteSize(0), 0));
    assert!(pool.free > ByteSize::mib(20), "{pool:?}");
    // Thin, it fits.
    let thin = VolumeClone { mode: CloneMode::Backing, ..wanted };
    storage.clone_from_image(&Cx::unwatched(), VolumeId(5), &thin).unwrap();
    let limited = StorageSection { promise_percent: 100, reserve_mib: 0, disks: None };
    let limited = Storage::open(&limited, &[], &small.mount, &images, Box::new(|| Ok((0, 0)))).unwrap();
    let refused = limited.clone_from_image(&Cx::unwatched(), VolumeId(6), &thin).unwrap_err();
    assert!(refused.to_string().contains("may promise"), "{refused}");
}
