//! Pools, and the volumes and disks in them.
//!
//! ```text
//! create: record ─► data ─► record says whole        attach: record says whose ─► domain
//! delete: record says not whole ─► data ─► record    detach: domain ─► record says nobody's
//! ```
//!
//! What a volume is stands in its record, `{data_dir}/volumes/{id}/volume.json`; what is on it stands in
//! its pool. The record comes first and goes last, so whoever lists records finds all volumes, also
//! half-made ones. A volume's record says which VM has it, so two VMs can never have one volume, and it
//! is written before the VM's definition names the volume and after it does so no more.
//!
//! A VM's own disk that lies in another pool than `default` is kept in the same way, with its record in the VM's
//! folder ([`disks`]).

mod checks;
mod directory;
pub mod disks;
pub mod fetching;
mod formatted;
mod left;
mod lvm;
pub mod moving;
pub mod pool;
mod rbd;
mod records;
pub mod shared;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_model::agent::function::TargetValue as _;
use berth_model::agent::{
    CloneMode, FileSystem, Name, Pool as PoolInfo, Volume, VolumeAttachment, VolumeClone, VolumeCreate,
    VolumeFormat,
};
use berth_model::{ByteSize, FieldError, VmId, VolumeId};
use serde::{Deserialize, Serialize};

use self::directory::Directory;
use self::lvm::LvmThin;
use self::moving::Coming;
use self::pool::{Data, From, Item, Pool, Simulated, Source, Sums};
use self::rbd::Rbd;
use self::records::Records;
use crate::config::{PoolPlace, PoolSection, StorageSection};
use crate::hypervisor::HypervisorError;
use crate::runs::Cx;
use crate::{faults, qcow2, spec};

/// What records of volumes are called.
const VOLUME: &str = "volume";
/// What records of VMs' disks are called.
const DISK: &str = "disk";

/// The pool that is always there.
pub const DEFAULT_POOL: &str = "default";

/// Sizes of the disks beside the volumes in the pool `default`: promised, and taken up now.
type OtherDisks = dyn Fn() -> std::io::Result<(u64, u64)> + Send + Sync;

/// All pools and volumes of a node.
pub struct Storage {
    pools: Vec<Arc<dyn Pool>>,
    records: Records<VolumeId>,
    disks: Records<VmId>,
    images: Option<PathBuf>,
    /// Where file systems are made before they are copied to volumes; nowhere if nothing is stored.
    scratch: Option<PathBuf>,
    promise_percent: u64,
    reserve: ByteSize,
    other_disks: Box<OtherDisks>,
    /// Whoever decides by what is promised, or by who has a volume, holds this until it is written down.
    deciding: Mutex<()>,
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage").field("pools", &self.pools).finish_non_exhaustive()
    }
}

/// All there is to know of a volume, or of a VM's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pool: Name,
    format: VolumeFormat,
    size: ByteSize,
    #[serde(default)]
    from: Option<ClonedFrom>,
    #[serde(default)]
    file_system: Option<FileSystem>,
    #[serde(default)]
    attached_to: Option<VmId>,
    whole: bool,
    /// It comes with its VM from another node.
    #[serde(default)]
    coming: Option<Coming>,
}

/// The image a volume was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ClonedFrom {
    image: String,
    mode: CloneMode,
}

impl Record {
    fn data(&self, item: Item) -> Data {
        Data { item, format: self.format, size: self.size }
    }

    /// Is it what somebody asks for? It may have grown since.
    fn is_as(&self, wanted: &Self) -> bool {
        self.pool == wanted.pool
            && self.format == wanted.format
            && self.from == wanted.from
            && self.file_system == wanted.file_system
            && self.size >= wanted.size
    }
}

impl Storage {
    /// The storage of a real node. `other_disks` tells of what else lies in the pool `default`.
    pub fn open(
        section: &StorageSection,
        pools: &[PoolSection],
        data_dir: &Path,
        images: &Path,
        other_disks: Box<OtherDisks>,
    ) -> Result<Self, HypervisorError> {
        let mut all: Vec<Arc<dyn Pool>> = vec![Arc::new(Directory::open(default_pool(), data_dir, false)?)];
        for pool in pools {
            all.push(match &pool.place {
                PoolPlace::Directory { path, shared } => {
                    Arc::new(Directory::open(pool.name.clone(), path, *shared)?)
                }
                PoolPlace::LvmThin { group, thin_pool } => {
                    Arc::new(LvmThin::new(pool.name.clone(), group, thin_pool))
                }
                PoolPlace::CephRbd(ceph) => {
                    Arc::new(Rbd::open(pool.name.clone(), ceph, &data_dir.join("pools"))?)
                }
            });
        }
        Ok(Self {
            pools: all,
            records: Records::in_folder(data_dir.join("volumes"), VOLUME)?,
            disks: Records::in_folder(data_dir.join("vms"), DISK)?,
            images: Some(images.to_owned()),
            scratch: Some(data_dir.to_owned()),
            promise_percent: section.promise_percent,
            reserve: ByteSize::mib(section.reserve_mib),
            other_disks,
            deciding: Mutex::default(),
        })
    }

    /// A storage that stores nothing; its records are kept in `folder`, or in memory.
    pub fn simulated(folder: Option<&Path>, images: Option<&Path>) -> Result<Self, HypervisorError> {
        Ok(Self {
            pools: vec![Arc::new(Simulated::new(default_pool()))],
            records: match folder {
                Some(folder) => Records::in_folder(folder.join("volumes"), VOLUME)?,
                None => Records::in_memory(),
            },
            disks: match folder {
                Some(folder) => Records::in_folder(folder.join("disks"), DISK)?,
                None => Records::in_memory(),
            },
            images: images.map(Path::to_owned),
            scratch: None,
            promise_percent: 0,
            reserve: ByteSize(0),
            other_disks: Box::new(|| Ok((0, 0))),
            deciding: Mutex::default(),
        })
    }

    /// All pools; of one that does not answer, why.
    pub fn pools(&self) -> Result<Vec<PoolInfo>, HypervisorError> {
        let shown = |pool: &dyn Pool| self.info(pool).or_else(|e| self.silent(pool, &e.to_string()));
        self.pools.iter().map(|pool| shown(pool.as_ref())).collect()
    }

    /// A pool of which nothing is known but why.
    fn silent(&self, pool: &dyn Pool, problem: &str) -> Result<PoolInfo, HypervisorError> {
        let none = ByteSize(0);
        Ok(PoolInfo {
            name: pool.name().clone(),
            kind: pool.kind(),
            size: none,
            free: none,
            allocated: none,
            promised: none,
            promise_max: None,
            volumes: self.own(pool)?.len() as u64,
            problem: Some(problem.to_owned()),
        })
    }

    /// One pool.
    pub fn pool_info(&self, name: &Name) -> Result<PoolInfo, HypervisorError> {
        let pool = self.pools.iter().find(|pool| pool.name() == name);
        let pool =
            pool.ok_or_else(|| HypervisorError::Unknown(format!("There is no pool {name} on this node.")))?;
        self.info(pool.as_ref())
    }

    fn info(&self, pool: &dyn Pool) -> Result<PoolInfo, HypervisorError> {
        let space = pool.space()?;
        let mut own = self.own(pool)?;
        let volumes = own.len() as u64;
        own.extend(self.own_disks(pool)?);
        let Sums { mut promised, mut allocated } = pool.sums(&own)?;
        if pool.name().as_str() == DEFAULT_POOL {
            let (more_promised, more_allocated) = (self.other_disks)()?;
            promised += more_promised;
            allocated += more_allocated;
        }
        Ok(PoolInfo {
            name: pool.name().clone(),
            kind: pool.kind(),
            size: space.size,
            free: space.free,
            allocated: ByteSize(allocated),
            promised: ByteSize(promised),
            promise_max: promise_max(space.size, self.promise_percent),
            volumes,
            problem: None,
        })
    }

    /// This node's volumes in a pool.
    fn own(&self, pool: &dyn Pool) -> Result<Vec<Data>, HypervisorError> {
        let all = self.records.all()?.into_iter().filter(|(_, record)| record.pool == *pool.name());
        Ok(all.map(|(id, record)| record.data(Item::Volume(id))).collect())
    }

    /// Folders of pools that other nodes have, too.
    pub fn shared_folders(&self) -> Vec<&Path> {
        self.pools.iter().filter_map(|pool| pool.shared_folder()).collect()
    }

    /// Does a volume lie in a pool that other nodes have, too?
    pub fn is_shared(&self, id: VolumeId) -> bool {
        let record = self.records.get(id).ok().flatten();
        let pool = record.and_then(|record| self.pool(&record.pool).ok());
        pool.is_some_and(|pool| pool.shared_folder().is_some())
    }

    /// Refuses `more` bytes of promises in the pool `default`, for a VM's own disk.
    pub fn check_room_for_disk(&self, more: ByteSize) -> Result<(), HypervisorError> {
        if more.bytes() == 0 {
            return Ok(());
        }
        self.check_room(self.pools[0].as_ref(), more, ByteSize(0))
    }

    /// Refuses before the pool is full: `more` is promised in addition, and `now` is written at once.
    fn check_room(&self, pool: &dyn Pool, more: ByteSize, now: ByteSize) -> Result<(), HypervisorError> {
        room(&self.info(pool)?, more, now, self.reserve)
    }

    /// All volumes, by number.
    pub fn volumes(&self) -> Result<Vec<Volume>, HypervisorError> {
        self.records.all()?.iter().map(|(id, record)| self.show(*id, record)).collect()
    }

    /// One volume.
    pub fn volume(&self, id: VolumeId) -> Result<Volume, HypervisorError> {
        self.show(id, &self.record(id)?)
    }

    fn record(&self, id: VolumeId) -> Result<Record, HypervisorError> {
        self.records.get(id)?.ok_or_else(|| unknown(id))
    }

    fn show(&self, id: VolumeId, record: &Record) -> Result<Volume, HypervisorError> {
        let pool = self.pool(&record.pool)?;
        Ok(Volume {
            id,
            pool: record.pool.clone(),
            format: record.format,
            size: record.size,
            allocated: pool.allocated(&record.data(Item::Volume(id)))?.unwrap_or_default(),
            image: record.from.as_ref().map(|from| from.image.clone()),
            stands_on_image: !pool.keeps_images()
                && record.from.as_ref().is_some_and(|from| from.mode == CloneMode::Backing),
            serial: serial(id),
            file_system: record.file_system,
            attached_to: record.attached_to,
            whole: record.whole,
        })
    }

    fn pool(&self, name: &Name) -> Result<&dyn Pool, HypervisorError> {
        let pool = self.pools.iter().find(|pool| pool.name() == name).map(AsRef::as_ref);
        pool.ok_or_else(|| invalid("pool", format!("There is no pool {name} on this node.")))
    }

    /// Makes a volume with nothing on it but a file system, if that is wanted.
    pub fn create(&self, id: VolumeId, wanted: &VolumeCreate) -> Result<Volume, HypervisorError> {
        first(create_faults(wanted))?;
        let name = wanted.pool.clone().unwrap_or_else(default_pool);
        let pool = self.pool(&name)?;
        let format = pool_format(pool, wanted.format, None)?;
        let record = Record {
            pool: name,
            format,
            size: wanted.size,
            from: None,
            file_system: wanted.file_system,
            attached_to: None,
            whole: false,
            coming: None,
        };
        let record = self.make(&Cx::unwatched(), Item::Volume(id), pool, record)?;
        self.show(id, &record)
    }

    /// Makes a volume from an image.
    pub fn clone_from_image(
        &self,
        cx: &Cx,
        id: VolumeId,
        wanted: &VolumeClone,
    ) -> Result<Volume, HypervisorError> {
        first(clone_faults(wanted))?;
        let name = wanted.pool.clone().unwrap_or_else(default_pool);
        let pool = self.pool(&name)?;
        let mode = mode_in(pool, wanted.mode);
        let format = pool_format(pool, wanted.format, Some(mode))?;
        let from = Some(ClonedFrom { image: wanted.image.clone(), mode });
        let record = Record {
            pool: name,
            format,
            size: wanted.size,
            from,
            file_system: None,
            attached_to: None,
            whole: false,
            coming: None,
        };
        let record = self.make(cx, Item::Volume(id), pool, record)?;
        self.show(id, &record)
    }

    fn read(&self, item: Item) -> Result<Option<Record>, HypervisorError> {
        match item {
            Item::Volume(id) => self.records.get(id),
            Item::Disk(id) => self.disks.get(id),
        }
    }

    fn write(&self, item: Item, record: &Record) -> Result<(), HypervisorError> {
        match item {
            Item::Volume(id) => self.records.put(id, record),
            Item::Disk(id) => self.disks.put(id, record),
        }
    }

    fn erase(&self, item: Item) -> Result<(), HypervisorError> {
        match item {
            Item::Volume(id) => self.records.remove(id),
            Item::Disk(id) => self.disks.remove(id),
        }
    }

    fn make(&self, cx: &Cx, item: Item, pool: &dyn Pool, record: Record) -> Result<Record, HypervisorError> {
        let from = self.source_of(&record)?;
        let now = from.as_ref().filter(|from| from.mode == CloneMode::Copy).map_or(0, From::file_bytes);
        let file_system = record.file_system;
        self.make_by(item, pool, record, ByteSize(now), |data| match (file_system, &self.scratch) {
            (Some(file_system), Some(scratch)) => formatted::make(cx, file_system, data.size, scratch)
                .and_then(|made| pool.create(cx, data, Some(&made.from()))),
            _ => pool.create(cx, data, from.as_ref()),
        })
    }

    /// Makes what the record says by `fill`, which takes up `now` at once.
    fn make_by(
        &self,
        item: Item,
        pool: &dyn Pool,
        record: Record,
        now: ByteSize,
        fill: impl FnOnce(&Data) -> Result<(), HypervisorError>,
    ) -> Result<Record, HypervisorError> {
        let data = record.data(item);
        let is_new = {
            let _deciding = self.decide();
            match self.read(item)? {
                Some(Record { coming: Some(_), attached_to: Some(vm), .. }) => {
                    return Err(HypervisorError::Conflict(format!(
                        "{} comes from another node with VM {vm}: finish its move first, or abort it.",
                        called(item)
                    )));
                }
                Some(known) if !known.is_as(&record) => {
                    return Err(HypervisorError::Conflict(format!(
                        "{} is there already, and is another one: {} in the pool {}.",
                        called(item),
                        known.size,
                        known.pool
                    )));
                }
                Some(known) if known.whole => return Ok(known),
                known => {
                    let more = if known.is_some() { ByteSize(0) } else { record.size };
                    self.check_room(pool, more, now)?;
                    self.write(item, &record)?;
                    known.is_none()
                }
            }
        };
        faults::point("volume.after_record")?;
        if let Err(e) = fill(&data) {
            // What a caller was refused is not there; what was cut off before stays to be found.
            if is_new {
                pool.remove(&data)?;
                self.erase(item)?;
            }
            return Err(e);
        }
        faults::point("volume.after_data")?;
        let record = Record { whole: true, ..record };
        self.write(item, &record)?;
        Ok(record)
    }

    fn source_of(&self, record: &Record) -> Result<Option<From>, HypervisorError> {
        let Some(cloned) = &record.from else { return Ok(None) };
        let Some(images) = &self.images else {
            return Ok(Some(From { file: PathBuf::new(), format: VolumeFormat::Qcow2, mode: cloned.mode }));
        };
        let sha256 = &cloned.image;
        let images = images.canonicalize().unwrap_or_else(|_| images.clone());
        let file = images.join(format!("{sha256}.qcow2"));
        let lacking = |why: &str| HypervisorError::Lacking(format!("The image {sha256} {why}"));
        let head = std::fs::File::open(&file).and_then(qcow2::read_head).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => lacking("is not on this node."),
            _ => lacking(&format!("cannot be read: {e}")),
        })?;
        let size = qcow2::disk_size(&head).map_err(|e| lacking(&format!("cannot be used: {e}")))?;
        if record.size < size {
            return Err(invalid("size", format!("The image needs a volume of at least {size}.")));
        }
        Ok(Some(From { file, format: VolumeFormat::Qcow2, mode: cloned.mode }))
    }

    /// Grows a volume. `grow_live` grows it in the VM that has it, and says whether that runs with it.
    pub fn resize(
        &self,
        id: VolumeId,
        size: ByteSize,
        grow_live: impl FnOnce(VmId) -> Result<bool, HypervisorError>,
    ) -> Result<Volume, HypervisorError> {
        first(volume_faults(size))?;
        let record = self.whole(id)?;
        if size < record.size {
            let message = format!("The volume has {} already, and never shrinks.", record.size);
            return Err(invalid("size", message));
        }
        self.grow(Item::Volume(id), &record, size, grow_live)?;
        self.volume(id)
    }

    fn grow(
        &self,
        item: Item,
        record: &Record,
        size: ByteSize,
        grow_live: impl FnOnce(VmId) -> Result<bool, HypervisorError>,
    ) -> Result<(), HypervisorError> {
        let pool = self.pool(&record.pool)?;
        {
            let _deciding = self.decide();
            self.check_room(pool, ByteSize(size.bytes() - record.size.bytes()), ByteSize(0))?;
            // Promised from now on; growing it to what is written down is what is done again after a cut.
            let record = self.read(item)?.unwrap_or_else(|| record.clone());
            self.write(item, &Record { size, ..record })?;
        }
        faults::point("volume.after_promise")?;
        let data = Data { item, format: record.format, size };
        let grown = match record.attached_to {
            Some(vm) => grow_live(vm)?,
            None => false,
        };
        if grown { Ok(()) } else { pool.grow(&data) }
    }

    /// Leaves nothing of a volume; fine if there is none.
    pub fn delete(&self, id: VolumeId) -> Result<(), HypervisorError> {
        let record = {
            let _deciding = self.decide();
            let Some(record) = self.records.get(id)? else { return Ok(()) };
            if let Some(vm) = record.attached_to {
                return Err(HypervisorError::Conflict(format!("VM {vm} has volume {id}; detach it first.")));
            }
            self.doom(Item::Volume(id), record)?
        };
        self.remove(Item::Volume(id), &record)
    }

    /// From here on it is no whole one any more.
    fn doom(&self, item: Item, record: Record) -> Result<Record, HypervisorError> {
        let record = Record { whole: false, ..record };
        self.write(item, &record)?;
        Ok(record)
    }

    fn remove(&self, item: Item, record: &Record) -> Result<(), HypervisorError> {
        faults::point("volume.after_doom")?;
        self.pool(&record.pool)?.remove(&record.data(item))?;
        faults::point("volume.after_removal")?;
        self.erase(item)
    }

    /// Refuses volumes that `vm` cannot have, without touching anything.
    pub fn check_claims(&self, vm: VmId, wanted: &[VolumeAttachment]) -> Result<(), HypervisorError> {
        wanted.iter().try_for_each(|attachment| self.claimable(vm, attachment.volume).map(drop))
    }

    fn claimable(&self, vm: VmId, id: VolumeId) -> Result<Record, HypervisorError> {
        let record = self.records.get(id)?;
        let record = record
            .ok_or_else(|| HypervisorError::Lacking(format!("There is no volume {id} on this node.")))?;
        if !record.whole {
            return Err(half_made(id));
        }
        match record.attached_to {
            Some(other) if other != vm => {
                Err(HypervisorError::Conflict(format!("VM {other} has volume {id}; detach it there first.")))
            }
            _ => Ok(record),
        }
    }

    /// Gives volumes to `vm`, all or none, and says where each lies.
    pub fn claim(
        &self,
        vm: VmId,
        wanted: &[VolumeAttachment],
    ) -> Result<BTreeMap<VolumeId, (Source, VolumeFormat)>, HypervisorError> {
        let _deciding = self.decide();
        let mut sources = BTreeMap::new();
        let mut records = Vec::new();
        for VolumeAttachment { volume: id, .. } in wanted {
            let record = self.claimable(vm, *id)?;
            let source = self.pool(&record.pool)?.source(&record.data(Item::Volume(*id)));
            sources.insert(*id, (source, record.format));
            records.push((*id, record));
        }
        for (id, record) in records {
            if record.attached_to.is_none() {
                self.records.put(id, &Record { attached_to: Some(vm), ..record })?;
            }
        }
        Ok(sources)
    }

    /// Takes from `vm` what it has and is not `kept`.
    pub fn release(&self, vm: VmId, kept: &[VolumeAttachment]) -> Result<(), HypervisorError> {
        let _deciding = self.decide();
        let is_kept = |id: &VolumeId| kept.iter().any(|attachment| attachment.volume == *id);
        for (id, record) in self.records.all()? {
            if record.attached_to == Some(vm) && !is_kept(&id) {
                self.records.put(id, &Record { attached_to: None, ..record })?;
            }
        }
        Ok(())
    }

    fn whole(&self, id: VolumeId) -> Result<Record, HypervisorError> {
        let record = self.record(id)?;
        if record.whole { Ok(record) } else { Err(half_made(id)) }
    }

    fn decide(&self) -> MutexGuard<'_, ()> {
        self.deciding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A storage, shared.
pub type Shared = Arc<Storage>;

/// A volume's serial number in a guest: at most 20 characters.
pub fn serial(id: VolumeId) -> String {
    format!("volume-{id}")
}

/// The volume of a serial number.
pub fn volume_of_serial(serial: &str) -> Option<VolumeId> {
    VolumeId::read(serial.strip_prefix("volume-")?)
}

/// What is wrong with a volume's size.
pub fn volume_faults(size: ByteSize) -> Vec<FieldError> {
    let fine = (spec::DISK_MIN..=spec::DISK_MAX).contains(&size) && size.bytes().is_multiple_of(512);
    let message = "A volume is a multiple of 512 bytes, from 1 MiB to 64 TiB.";
    if fine { Vec::new() } else { vec![fault("size", message)] }
}

/// What is wrong with the wish for a volume.
pub fn create_faults(wanted: &VolumeCreate) -> Vec<FieldError> {
    let mut faults = volume_faults(wanted.size);
    if wanted.file_system == Some(FileSystem::Xfs) && wanted.size < formatted::XFS_MIN {
        faults.push(fault("file_system", "XFS needs a volume of 300 MiB or more."));
    }
    faults
}

/// What is wrong with the wish for a clone.
pub fn clone_faults(wanted: &VolumeClone) -> Vec<FieldError> {
    let mut faults = volume_faults(wanted.size);
    if !spec::is_sha256(&wanted.image) {
        faults.push(fault("image", spec::SHA256_RULE));
    }
    faults
}

/// How a pool makes what is wanted from an image: a copy where nothing can stand on one.
fn mode_in(pool: &dyn Pool, wanted: CloneMode) -> CloneMode {
    let can = pool.formats().iter().any(|format| pool.can_stand_on_image(*format));
    if can { wanted } else { CloneMode::Copy }
}

fn called(item: Item) -> String {
    match item {
        Item::Volume(id) => format!("Volume {id}"),
        Item::Disk(id) => format!("The disk of VM {id}"),
    }
}

fn pool_format(
    pool: &dyn Pool,
    wanted: Option<VolumeFormat>,
    clone: Option<CloneMode>,
) -> Result<VolumeFormat, HypervisorError> {
    let format = wanted.unwrap_or_else(|| pool.formats()[0]);
    if !pool.formats().contains(&format) {
        return Err(invalid("format", format!("The pool {} holds raw volumes only.", pool.name())));
    }
    if clone == Some(CloneMode::Backing) && !pool.can_stand_on_image(format) {
        let message = "A volume that stands on an image is a qcow2 file; take a copy for raw.";
        return Err(invalid("format", message.to_owned()));
    }
    Ok(format)
}

/// How far promises may go; no limit without a percentage.
fn promise_max(size: ByteSize, percent: u64) -> Option<ByteSize> {
    let max = u128::from(size.bytes()) * u128::from(percent) / 100;
    (percent > 0).then(|| ByteSize(u64::try_from(max).unwrap_or(u64::MAX)))
}

fn room(pool: &PoolInfo, more: ByteSize, now: ByteSize, reserve: ByteSize) -> Result<(), HypervisorError> {
    let name = &pool.name;
    let promised = pool.promised.bytes().saturating_add(more.bytes());
    if more.bytes() > 0
        && let Some(max) = pool.promise_max.filter(|max| promised > max.bytes())
    {
        return Err(HypervisorError::Lacking(format!(
            "The pool {name} has promised {} MiB and may promise {} MiB; {} MiB more are too much.",
            pool.promised.as_mib(),
            max.as_mib(),
            more.as_mib()
        )));
    }
    // A small volume needs no more than itself.
    let needed = now.bytes().saturating_add(reserve.bytes().min(more.bytes()));
    if pool.free.bytes() < needed {
        return Err(HypervisorError::Lacking(format!(
            "The pool {name} is nearly full: {} MiB are free, and {} MiB must be.",
            pool.free.as_mib(),
            ByteSize(needed).as_mib()
        )));
    }
    Ok(())
}

fn default_pool() -> Name {
    Name::new(DEFAULT_POOL).expect("it keeps the rule")
}

fn unknown(id: VolumeId) -> HypervisorError {
    HypervisorError::Unknown(format!("There is no volume {id} on this node."))
}

fn half_made(id: VolumeId) -> HypervisorError {
    HypervisorError::Conflict(format!("Volume {id} is half-made; make it again, or delete it."))
}

fn fault(name: &str, message: &str) -> FieldError {
    FieldError { name: name.to_owned(), messages: vec![message.to_owned()] }
}

fn invalid(name: &str, message: String) -> HypervisorError {
    HypervisorError::Invalid(FieldError { name: name.to_owned(), messages: vec![message] })
}

fn first(faults: Vec<FieldError>) -> Result<(), HypervisorError> {
    faults.into_iter().next().map_or(Ok(()), |fault| Err(HypervisorError::Invalid(fault)))
}

#[cfg(test)]
mod tests;
