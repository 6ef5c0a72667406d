//! A pool of Ceph: each volume is an RBD image `berth-volume-5`, a VM's own disk is `berth-vm-7`, raw.
//!
//! ```text
//! image's file ─► berth-image-SHA.new-NODE ─► @base, protected ─► berth-image-SHA ─► clones
//! ```
//!
//! Nodes share the pool. Numbers of volumes and VMs are the control plane's, so no two nodes use one name; the
//! copy of an image is made by whoever needs it first, under a name of that node's, and gets its own as it is whole.
//!
//! Ceph's own tools do the work, with a configuration of ours that names the monitors and the keyring. The key
//! itself is on no command line: the tools read the keyring, and QEMU gets it from libvirt.

mod shots;

use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use berth_model::ByteSize;
use berth_model::agent::{CloneMode, Name, PoolKind, VolumeFormat};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::pool::{Data, From, Key, Pool, RbdSource, Shots, Source, Space, Sums, word};
use crate::config::CephPool;
use crate::faults;
use crate::hypervisor::HypervisorError;
use crate::program::Program;
use crate::runs::Cx;

const PACKAGE: &str = "ceph-common";
/// Patience with what only looks.
const LOOK: Duration = Duration::from_secs(8);
/// Patience with what changes something and copies nothing.
const CHANGE: Duration = Duration::from_secs(60);
/// How long Ceph may still count a client that was killed among those who have an image open. It says 30 s.
const WATCHERS: Duration = Duration::from_secs(45);
/// How often that is looked at.
const STEP: Duration = Duration::from_millis(500);
/// Longest keyring.
const KEYRING_MAX_BYTES: u64 = 16 * 1024;
/// What all our images' names begin with.
const PREFIX: &str = "berth-";
/// And those of images.
const IMAGE_PREFIX: &str = "berth-image-";
/// The snapshot of an image's copy that clones stand on.
const BASE: &str = "base";
/// In the name of what is not whole yet.
const UNFINISHED: &str = ".new";
/// Under which UUIDs of keys are made; any fixed number would do.
const KEY_NAMESPACE: Uuid = Uuid::from_u128(0x1d0a_9c3e_77b5_4e0f_a2c4_90e6_3b18_d5f7);

/// A pool of Ceph.
#[derive(Debug)]
pub struct Rbd {
    name: Name,
    ceph: CephPool,
    conf: PathBuf,
    /// Two that need the same image's copy must not both make it.
    copying: Mutex<()>,
}

/// A row of `rbd ls -l`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Row {
    image: String,
    size: u64,
    #[serde(default)]
    snapshot: Option<String>,
}

/// What `ceph df detail` says of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
struct Stats {
    stored: u64,
    max_avail: u64,
    #[serde(default)]
    quota_bytes: u64,
}

impl Stats {
    /// A quota is room as well as the disks are; 0 is none.
    fn space(self) -> Space {
        let size = self.stored.saturating_add(self.max_avail);
        if self.quota_bytes == 0 || self.quota_bytes >= size {
            return Space { size: ByteSize(size), free: ByteSize(self.max_avail) };
        }
        let free = self.quota_bytes.saturating_sub(self.stored).min(self.max_avail);
        Space { size: ByteSize(self.quota_bytes), free: ByteSize(free) }
    }
}

impl Rbd {
    /// Patience with what copies within Ceph.
    const COPY: Duration = Duration::from_secs(24 * 3600);

    /// The pool `ceph`. What its tools read is written to `folder`; the cluster need not answer yet.
    pub fn open(name: Name, ceph: &CephPool, folder: &Path) -> Result<Self, HypervisorError> {
        super::directory::make_folder(folder)?;
        let conf = folder.canonicalize()?.join(format!("{name}.ceph.conf"));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(configuration(ceph).as_bytes())?;
        file.persist(&conf).map_err(|e| e.error)?;
        Ok(Self { name, ceph: ceph.clone(), conf, copying: Mutex::default() })
    }

    fn image(data: &Data) -> String {
        format!("{PREFIX}{}", data.item)
    }

    /// `POOL/IMAGE`.
    fn spec(&self, image: &str) -> String {
        format!("{}/{image}", self.ceph.pool)
    }

    fn ceph(&self, program: &str, patience: Duration, words: &[&str]) -> Result<String, HypervisorError> {
        self.check_keyring()?;
        let conf = self.conf.to_string_lossy();
        let who = ["--conf", &conf, "--id", &self.ceph.user];
        let said = Program::new(program, PACKAGE).args(who).args(words).patience(patience).run();
        said.map_err(|e| match e {
            HypervisorError::Failed(why) => {
                HypervisorError::Failed(format!("Ceph, in the pool {}: {why}", self.name))
            }
            e => e,
        })
    }

    fn look<T: DeserializeOwned>(&self, words: &[&str]) -> Result<T, HypervisorError> {
        let words: Vec<&str> = words.iter().copied().chain(["--format", "json"]).collect();
        parse(&self.ceph("rbd", LOOK, &words)?)
    }

    fn change(&self, words: &[&str]) -> Result<(), HypervisorError> {
        self.ceph("rbd", CHANGE, words).map(drop)
    }

    fn images(&self) -> Result<Vec<String>, HypervisorError> {
        self.look(&["ls", &self.ceph.pool])
    }

    fn has(&self, image: &str) -> Result<bool, HypervisorError> {
        Ok(self.images()?.iter().any(|name| name == image))
    }

    fn size(&self, image: &str) -> Result<u64, HypervisorError> {
        #[derive(Deserialize)]
        struct Info {
            size: u64,
        }
        Ok(self.look::<Info>(&["info", &self.spec(image)])?.size)
    }

    fn grow_image(&self, image: &str, size: ByteSize) -> Result<(), HypervisorError> {
        if self.size(image)? >= size.bytes() {
            return Ok(());
        }
        self.change(&["resize", "--no-progress", "--size", &bytes(size), &self.spec(image)])
    }

    /// Leaves nothing of an image; fine if there is none.
    fn discard(&self, image: &str) -> Result<(), HypervisorError> {
        if !self.has(image)? {
            return Ok(());
        }
        self.change(&["snap", "purge", "--no-progress", &self.spec(image)])?;
        let until = Instant::now() + WATCHERS;
        loop {
            match self.change(&["rm", "--no-progress", &self.spec(image)]) {
                Err(e) if e.to_string().contains("still has watchers") && Instant::now() < until => {
                    std::thread::sleep(STEP);
                }
                Err(e) if is_absent(&e) => return Ok(()),
                removed => return removed,
            }
        }
    }

    /// The same for the copy of an image, which is protected; refused by Ceph while something stands on it.
    fn discard_copy(&self, image: &str) -> Result<(), HypervisorError> {
        let base = format!("{}@{BASE}", self.spec(image));
        match self.change(&["snap", "unprotect", &base]) {
            // It was not made so far, or this was cut off before.
            Err(e) if is_absent(&e) || e.to_string().contains("already unprotected") => {}
            unprotected => unprotected?,
        }
        self.discard(image)
    }

    /// Sees that the pool has its own copy of an image, and names it.
    fn copy_of(&self, cx: &Cx, file: &Path) -> Result<String, HypervisorError> {
        let sha256 = file.file_stem().unwrap_or_default().to_string_lossy();
        let image = format!("{IMAGE_PREFIX}{sha256}");
        let _one_at_a_time = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        if self.has(&image)? {
            return Ok(image);
        }
        let new = format!("{image}{UNFINISHED}-{}", node());
        self.discard_copy(&new)?;
        let made = self.fill(cx, file, VolumeFormat::Qcow2, &new).and_then(|()| {
            let base = format!("{}@{BASE}", self.spec(&new));
            self.change(&["snap", "create", "--no-progress", &base])?;
            self.change(&["snap", "protect", &base])?;
            faults::point("volume.after_fill")?;
            self.change(&["rename", &self.spec(&new), &self.spec(&image)])
        });
        if let Err(e) = made {
            self.discard_copy(&new)?;
            // Another node was faster.
            return if self.has(&image)? { Ok(image) } else { Err(e) };
        }
        Ok(image)
    }

    /// Makes the image `new` with all that an image's file holds.
    fn fill(&self, cx: &Cx, file: &Path, format: VolumeFormat, new: &str) -> Result<(), HypervisorError> {
        self.check_keyring()?;
        cx.phase("Copy the image", fs::metadata(file).map_or(0, |file| file.len()));
        Program::qemu_img(["convert", "-p", "-f", word(format), "-O", "raw"])
            .args([file.as_os_str(), self.for_qemu_img(new).as_ref()])
            .run_in(cx)
            .map(drop)
    }

    fn for_qemu_img(&self, image: &str) -> String {
        let escaped: String = self.conf.to_string_lossy().chars().fold(String::new(), |mut text, c| {
            if ":=@\\".contains(c) {
                text.push('\\');
            }
            text.push(c);
            text
        });
        format!("rbd:{}:id={}:conf={escaped}", self.spec(image), self.ceph.user)
    }

    fn make(&self, cx: &Cx, image: &str, size: ByteSize, from: Option<&From>) -> Result<(), HypervisorError> {
        let is_there = self.has(image)?;
        match from {
            _ if is_there => {}
            None => self.change(&["create", "--size", &bytes(size), &self.spec(image)])?,
            Some(From { file, mode: CloneMode::Backing, .. }) => {
                let base = self.copy_of(cx, file)?;
                self.change(&["clone", &format!("{}@{BASE}", self.spec(&base)), &self.spec(image)])?;
            }
            Some(From { file, format, mode: CloneMode::Copy }) => {
                let new = format!("{image}{UNFINISHED}");
                self.discard(&new)?;
                self.fill(cx, file, *format, &new)?;
                self.change(&["rename", &self.spec(&new), &self.spec(image)])?;
            }
        }
        self.grow_image(image, size)
    }

    /// Whoever may read the keyring may read and write all disks.
    fn check_keyring(&self) -> Result<(), HypervisorError> {
        let keyring = &self.ceph.keyring;
        let shown = keyring.display();
        let file = fs::metadata(keyring)
            .map_err(|e| HypervisorError::Failed(format!("The keyring {shown} cannot be read: {e}.")))?;
        if file.mode() & 0o077 != 0 {
            let message =
                format!("The keyring {shown} can be read by others than its owner: chmod 600 {shown}.");
            return Err(HypervisorError::Failed(message));
        }
        Ok(())
    }
}

impl Pool for Rbd {
    fn name(&self) -> &Name {
        &self.name
    }

    fn kind(&self) -> PoolKind {
        PoolKind::CephRbd
    }

    fn formats(&self) -> &'static [VolumeFormat] {
        &[VolumeFormat::Raw]
    }

    fn can_stand_on_image(&self, _: VolumeFormat) -> bool {
        true
    }

    fn keeps_images(&self) -> bool {
        true
    }

    fn shots(&self) -> Option<&dyn Shots> {
        Some(self)
    }

    /// Cluster and pool, and how guests come there: what runs on one node must find it on another.
    fn shared(&self) -> Result<Option<String>, HypervisorError> {
        let fsid = self.ceph("ceph", LOOK, &["fsid"])?;
        Ok(Some(format!("ceph {}/{} {}", fsid.trim(), self.ceph.pool, key_uuid(&self.ceph))))
    }

    fn space(&self) -> Result<Space, HypervisorError> {
        #[derive(Deserialize)]
        struct Df {
            pools: Vec<OfPool>,
        }
        #[derive(Deserialize)]
        struct OfPool {
            name: String,
            stats: Stats,
        }
        let df: Df = parse(&self.ceph("ceph", LOOK, &["df", "detail", "--format", "json"])?)?;
        let pool = df.pools.into_iter().find(|pool| pool.name == self.ceph.pool);
        pool.map(|pool| pool.stats.space())
            .ok_or_else(|| HypervisorError::Failed(format!("Ceph knows no pool {}.", self.ceph.pool)))
    }

    fn create(&self, cx: &Cx, data: &Data, from: Option<&From>) -> Result<(), HypervisorError> {
        let made = self.make(cx, &Self::image(data), data.size, from);
        if made.is_err() {
            self.discard(&format!("{}{UNFINISHED}", Self::image(data)))?;
        }
        made
    }

    fn grow(&self, data: &Data) -> Result<(), HypervisorError> {
        self.grow_image(&Self::image(data), data.size)
    }

    fn remove(&self, data: &Data) -> Result<(), HypervisorError> {
        let image = Self::image(data);
        self.discard(&format!("{image}{UNFINISHED}"))?;
        self.drop_new(data)?;
        self.discard(&image)
    }

    fn allocated(&self, data: &Data) -> Result<Option<ByteSize>, HypervisorError> {
        match self.look::<Du>(&["du", &self.spec(&Self::image(data))]) {
            Ok(du) => Ok(Some(du.used())),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn source(&self, data: &Data) -> Source {
        Source::Rbd(RbdSource {
            monitors: self.ceph.monitors.iter().map(|monitor| host_and_port(monitor)).collect(),
            image: self.spec(&Self::image(data)),
            user: self.ceph.user.clone(),
            key: key_uuid(&self.ceph),
        })
    }

    fn sums(&self, own: &[Data]) -> Result<Sums, HypervisorError> {
        let rows: Vec<Row> = self.look(&["ls", "--long", &self.ceph.pool])?;
        let Space { size, free } = self.space()?;
        let allocated = size.bytes() - free.bytes().min(size.bytes());
        Ok(Sums { promised: promised(&rows, own), allocated })
    }

    fn key(&self) -> Result<Option<Key>, HypervisorError> {
        self.check_keyring()?;
        let keyring = &self.ceph.keyring;
        let read = || -> std::io::Result<String> {
            let mut text = String::new();
            std::io::Read::read_to_string(
                &mut std::io::Read::take(fs::File::open(keyring)?, KEYRING_MAX_BYTES),
                &mut text,
            )?;
            Ok(text)
        };
        let wrong = |why: &str| {
            HypervisorError::Failed(format!("The keyring {} cannot be used: {why}.", keyring.display()))
        };
        let text = read().map_err(|e| wrong(&e.to_string()))?;
        let value = key_in(&text, &self.ceph.user);
        let value = value.ok_or_else(|| wrong(&format!("it has no key of client.{}", self.ceph.user)))?;
        Ok(Some(Key { uuid: key_uuid(&self.ceph), value }))
    }

    fn unused_images(&self) -> Result<Vec<String>, HypervisorError> {
        let mut unused = Vec::new();
        for image in self.images()? {
            let Some(sha256) = image.strip_prefix(IMAGE_PREFIX).filter(|name| !name.contains('.')) else {
                continue;
            };
            let children: Vec<serde_json::Value> =
                self.look(&["children", &format!("{}@{BASE}", self.spec(&image))])?;
            if children.is_empty() {
                unused.push(sha256.to_owned());
            }
        }
        Ok(unused)
    }

    fn forget_image(&self, sha256: &str) -> Result<(), HypervisorError> {
        let _one_at_a_time = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        match self.discard_copy(&format!("{IMAGE_PREFIX}{sha256}")) {
            Err(e) if e.to_string().contains("resource busy") => Ok(()),
            gone => gone,
        }
    }
}

/// The answer of `rbd du`: a row for the image and one for each of its snapshots.
#[derive(Debug, PartialEq, Deserialize)]
struct Du {
    images: Vec<DuRow>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct DuRow {
    used_size: u64,
}

impl Du {
    fn used(&self) -> ByteSize {
        ByteSize(self.images.iter().fold(0, |sum, row| sum.saturating_add(row.used_size)))
    }
}

/// The sum of the sizes of all disks and volumes in a pool, whichever node's. Of this node's also what is not made
/// or not grown yet.
fn promised(rows: &[Row], own: &[Data]) -> u64 {
    let mine: Vec<String> = own.iter().map(Rbd::image).collect();
    let is_other = |row: &&Row| {
        row.snapshot.is_none()
            && row.image.starts_with(PREFIX)
            && !row.image.starts_with(IMAGE_PREFIX)
            && !row.image.ends_with(UNFINISHED)
            && !mine.contains(&row.image)
    };
    let others = rows.iter().filter(is_other).map(|row| row.size);
    others.chain(own.iter().map(|data| data.size.bytes())).fold(0, u64::saturating_add)
}

/// What Ceph's tools must know. No `ceph.conf` of the node's is asked.
fn configuration(ceph: &CephPool) -> String {
    format!(
        "[global]\nmon_host = {}\nkeyring = {}\nclient_mount_timeout = 5\nrados_mon_op_timeout = 5\n\
         rados_osd_op_timeout = 60\nrbd_default_features = layering,exclusive-lock,object-map,fast-diff,deep-flatten\n\
         log_to_file = false\nlog_file = /dev/null\n",
        ceph.monitors.join(","),
        ceph.keyring.display()
    )
}

/// The key of a user in a keyring, which has a section for each.
fn key_in(keyring: &str, user: &str) -> Option<Vec<u8>> {
    let section = format!("[client.{user}]");
    let mut lines = keyring.lines().map(str::trim).skip_while(|line| *line != section).skip(1);
    let mut keys = lines.by_ref().take_while(|line| !line.starts_with('['));
    let key = keys.find_map(|line| line.strip_prefix("key")?.trim_start().strip_prefix('='))?;
    BASE64.decode(key.trim()).ok().filter(|key| !key.is_empty())
}

/// The same for all pools of a user, whoever asks: it is the same key.
fn key_uuid(ceph: &CephPool) -> String {
    let name = format!("{} {} {}", ceph.user, ceph.keyring.display(), ceph.monitors.join(","));
    Uuid::new_v5(&KEY_NAMESPACE, name.as_bytes()).to_string()
}

fn host_and_port(monitor: &str) -> (String, Option<u16>) {
    if let Ok(address) = monitor.parse::<SocketAddr>() {
        return (address.ip().to_string(), Some(address.port()));
    }
    if let Ok(address) = monitor.trim_matches(['[', ']']).parse::<IpAddr>() {
        return (address.to_string(), None);
    }
    match monitor.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
        Some((host, Ok(port))) => (host.to_owned(), Some(port)),
        _ => (monitor.to_owned(), None),
    }
}

/// This node among those that share a pool.
fn node() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    name.chars().filter(|c| c.is_ascii_alphanumeric() || "-.".contains(*c)).collect()
}

fn bytes(size: ByteSize) -> String {
    format!("{}B", size.bytes())
}

fn is_absent(error: &HypervisorError) -> bool {
    error.to_string().contains("No such file or directory")
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, HypervisorError> {
    serde_json::from_str(text)
        .map_err(|e| HypervisorError::Failed(format!("The answer of Ceph makes no sense: {e}.")))
}

#[cfg(test)]
mod tests {
    use berth_model::{VmId, VolumeId};
    use proptest::prelude::*;

    use super::super::pool::Item;
    use super::*;

    fn ceph(keyring: &Path) -> CephPool {
        CephPool {
            monitors: vec!["192.0.2.1".to_owned(), "[2001:db8::1]:3300".to_owned(), "mon-c:6789".to_owned()],
            pool: "vms".to_owned(),
            user: "berth".to_owned(),
            keyring: keyring.to_owned(),
        }
    }

    fn data(item: Item) -> Data {
        Data { item, format: VolumeFormat::Raw, size: ByteSize::gib(1) }
    }

    #[test]
    fn the_key_is_read_from_a_keyring_of_root_alone_and_shown_nowhere() {
        let _proof = crate::proof::pure(&["volume.create", "volume.attach"]);
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let keyring = home.path().join("keyring");
        fs::write(&keyring, "[client.admin]\n\tkey = YWRtaW4=\n[client.berth]\n\tkey = c2VjcmV0==\n")
            .unwrap();
        fs::set_permissions(&keyring, fs::Permissions::from_mode(0o644)).unwrap();
        let pool =
            Rbd::open(Name::new("ceph").unwrap(), &ceph(&keyring), &home.path().join("pools")).unwrap();
        let open_to_all = pool.space().unwrap_err();
        assert!(open_to_all.to_string().contains("chmod 600"), "{open_to_all}");
        fs::set_permissions(&keyring, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(pool.key().is_err(), "that is no base64");
        fs::write(
            &keyring,
            "[client.admin]\n\tkey = YWRtaW4=\n[client.berth]\n\tkey = c2VjcmV0\n\tcaps = x\n",
        )
        .unwrap();
        let key = pool.key().unwrap().unwrap();
        assert_eq!(key.value, b"secret");
        let conf = fs::read_to_string(home.path().join("pools/ceph.ceph.conf")).unwrap();
        assert!(!conf.contains("c2VjcmV0") && !format!("{pool:?}").contains("c2VjcmV0"));
        assert!(conf.contains("mon_host = 192.0.2.1,[2001:db8::1]:3300,mon-c:6789\n"), "{conf}");
        let Source::Rbd(source) = pool.source(&data(Item::Disk(VmId(7)))) else { panic!() };
        assert_eq!((source.image.as_str(), source.key), ("vms/berth-vm-7", key.uuid));
        let monitors = [("192.0.2.1", None), ("2001:db8::1", Some(3300)), ("mon-c", Some(6789))];
        assert_eq!(source.monitors, monitors.map(|(host, port)| (host.to_owned(), port)));
    }

    #[test]
    fn a_quota_is_room_as_well_as_the_disks_are() {
        let _proof = crate::proof::pure(&["pool.list", "pool.get"]);
        let space = |stored, max_avail, quota_bytes| {
            let Space { size, free } = Stats { stored, max_avail, quota_bytes }.space();
            (size.bytes(), free.bytes())
        };
        assert_eq!(space(30, 70, 0), (100, 70));
        assert_eq!(space(30, 70, 50), (50, 20));
        assert_eq!(space(60, 40, 50), (50, 0), "over its quota");
        assert_eq!(space(30, 70, 500), (100, 70));
    }

    #[test]
    fn what_a_shared_pool_has_promised_is_all_nodes_together() {
        let _proof = crate::proof::pure(&["pool.list", "pool.get", "volume.create"]);
        let text = r#"[{"image":"berth-volume-5","id":"1","size":10,"format":2},
            {"image":"berth-vm-7","id":"2","size":100,"format":2},
            {"image":"berth-vm-7","id":"2","snapshot":"a","snapshot_id":4,"size":100,"format":2,"protected":"false"},
            {"image":"berth-image-ab","id":"3","size":1000,"format":2},
            {"image":"berth-volume-6.new","id":"4","size":10000,"format":2},
            {"image":"somebodys","id":"5","size":100000,"format":2}]"#;
        let rows: Vec<Row> = parse(text).unwrap();
        assert_eq!(promised(&rows, &[]), 110);
        let own = [Item::Disk(VmId(7)), Item::Volume(VolumeId(9))].map(data);
        assert_eq!(promised(&rows, &own), 10 + 2 * ByteSize::gib(1).bytes(), "also what is not made yet");
    }

    proptest! {
        #[test]
        fn no_answer_of_ceph_and_no_keyring_breaks_the_agent(
            text in "(\\[|\\]|\\{|\\}|\"images\":|\"image\":|\"size\":|[0-9]{1,20}|,|\\PC){0,40}",
            keyring in "(\\[client.berth\\]|key|=|\n| |\\PC){0,40}",
        ) {
            let _rows = parse::<Vec<Row>>(&text);
            let _du = parse::<Du>(&text).map(|du| du.used());
            let _key = key_in(&keyring, "berth");
            let _monitor = host_and_port(&text);
        }
    }
}
