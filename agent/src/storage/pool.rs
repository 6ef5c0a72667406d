//! What a pool must do, and the simulator's, which stores nothing.

use std::fmt::{self, Debug, Display};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_model::agent::{CloneMode, Name, PoolKind, VolumeFormat};
use berth_model::{ByteSize, Timestamp, VmId, VolumeId};

use crate::hypervisor::HypervisorError;
use crate::runs::Cx;

/// Room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// In all.
    pub size: ByteSize,
    /// Not used by anything.
    pub free: ByteSize,
}

/// What lies in pools. Its text is a part of names there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// A volume.
    Volume(VolumeId),
    /// A VM's own disk.
    Disk(VmId),
}

impl Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(id) => write!(f, "volume-{id}"),
            Self::Disk(id) => write!(f, "vm-{id}"),
        }
    }
}

/// What of a volume or a disk a pool knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// Which.
    pub item: Item,
    /// How it lies there.
    pub format: VolumeFormat,
    /// Its size for the guest.
    pub size: ByteSize,
}

/// What a volume is made from: a file that stands alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// The file.
    pub file: PathBuf,
    /// Of an image qcow2; raw can only be copied.
    pub format: VolumeFormat,
    /// On it, or a copy of it.
    pub mode: CloneMode,
}

impl From {
    /// What the file takes up: a copy takes that or more.
    pub fn file_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(&self.file).map_or(0, |file| file.blocks() * 512)
    }
}

/// Where QEMU finds a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// A block device.
    Block(PathBuf),
    /// An image in Ceph.
    Rbd(RbdSource),
}

impl Source {
    /// The path of a file or a device, `POOL/IMAGE` in Ceph.
    pub fn place(&self) -> PathBuf {
        match self {
            Self::File(path) | Self::Block(path) => path.clone(),
            Self::Rbd(rbd) => PathBuf::from(&rbd.image),
        }
    }
}

/// An image in Ceph, and how QEMU comes to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RbdSource {
    /// Hosts, and ports where they are not the usual ones.
    pub monitors: Vec<(String, Option<u16>)>,
    /// `POOL/IMAGE`.
    pub image: String,
    /// Who asks.
    pub user: String,
    /// The UUID under which libvirt knows the user's key.
    pub key: String,
}

/// A key that libvirt must know before a guest can come to its disks.
pub struct Key {
    /// Its UUID, the same for all pools of this user.
    pub uuid: String,
    /// The key itself.
    pub value: Vec<u8>,
}

/// What a pool has promised and what of that is taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sums {
    /// Sizes of volumes and disks, in bytes.
    pub promised: u64,
    /// What they take up, in bytes.
    pub allocated: u64,
}

/// A snapshot of what lies in a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shot {
    /// How the pool calls it.
    pub name: String,
    /// When it was taken.
    pub created: Timestamp,
}

/// Snapshots that a pool takes of what lies in it, also while a guest has it, and what is done by them.
pub trait Shots {
    /// All of them, in the order in which they were taken.
    fn all(&self, data: &Data) -> Result<Vec<Shot>, HypervisorError>;
    /// Takes one.
    fn take(&self, data: &Data, name: &str) -> Result<(), HypervisorError>;
    /// Drops one.
    fn drop_one(&self, data: &Data, name: &str) -> Result<(), HypervisorError>;
    /// Brings what no guest has open back to one; its size, too.
    fn rewind(&self, data: &Data, name: &str) -> Result<(), HypervisorError>;
    /// What QEMU's tools call it, or one of its snapshots: a raw disk.
    fn readable(&self, data: &Data, name: Option<&str>) -> Result<String, HypervisorError>;
    /// What tells it from another of its name that comes later; nothing if there is none.
    fn birth(&self, data: &Data) -> Result<Option<String>, HypervisorError>;
    /// Begins a disk that will take its place, and says what QEMU's tools call it. What an earlier one left goes.
    fn begin_new(&self, cx: &Cx, data: &Data, from: Option<&From>) -> Result<String, HypervisorError>;
    /// Puts that in its place; all its snapshots go.
    fn put_new(&self, data: &Data) -> Result<(), HypervisorError>;
    /// Leaves nothing of that; fine if there is none.
    fn drop_new(&self, data: &Data) -> Result<(), HypervisorError>;
}

/// A disk in a pool that takes snapshots.
#[derive(Debug, Clone)]
pub struct InPool {
    /// The pool, which does.
    pub pool: Arc<dyn Pool>,
    /// What lies there.
    pub data: Data,
    /// The image that it was made from.
    pub image: String,
}

impl InPool {
    /// Its snapshots.
    pub fn shots(&self) -> &dyn Shots {
        self.pool.shots().expect("a pool that takes snapshots goes on to")
    }
}

/// A form, as QEMU's tools call it.
pub fn word(format: VolumeFormat) -> &'static str {
    match format {
        VolumeFormat::Qcow2 => "qcow2",
        VolumeFormat::Raw => "raw",
    }
}

/// Writes a volume's data to a file.
pub type Fill<'a> = dyn FnMut(&Path) -> Result<(), HypervisorError> + 'a;

/// A place for volumes. Every function ends the same when it is told twice or was cut off.
pub trait Pool: Send + Sync + Debug {
    /// Its name.
    fn name(&self) -> &Name;
    /// What it is made of.
    fn kind(&self) -> PoolKind;
    /// The forms it knows, its usual one first.
    fn formats(&self) -> &'static [VolumeFormat];
    /// Can a volume of this form stand on an image?
    fn can_stand_on_image(&self, format: VolumeFormat) -> bool;
    /// Has it its own copies of images, so that their files on the node may go?
    fn keeps_images(&self) -> bool {
        false
    }
    /// The name of the storage below it, where several nodes share that: the same on all of them, and on no others.
    fn shared(&self) -> Result<Option<String>, HypervisorError> {
        Ok(None)
    }
    /// The snapshots that it takes by itself.
    fn shots(&self) -> Option<&dyn Shots> {
        None
    }
    /// How much room there is.
    fn space(&self) -> Result<Space, HypervisorError>;
    /// Makes a volume's data; fine if it is there. What fails leaves nothing.
    fn create(&self, cx: &Cx, data: &Data, from: Option<&From>) -> Result<(), HypervisorError>;
    /// Makes a volume's data by `fill`, which writes it to an empty file as it was elsewhere; fine if it is there. What
    /// fails leaves nothing.
    fn take(&self, _data: &Data, _fill: &mut Fill<'_>) -> Result<(), HypervisorError> {
        Err(HypervisorError::Conflict(format!(
            "A volume can be fetched to a pool that is a folder, and {} is none.",
            self.name()
        )))
    }
    /// Grows what no guest has open to `data.size`.
    fn grow(&self, data: &Data) -> Result<(), HypervisorError>;
    /// Removes a volume's data; fine if there is none.
    fn remove(&self, data: &Data) -> Result<(), HypervisorError>;
    /// What a volume takes up now; nothing if it has no data.
    fn allocated(&self, data: &Data) -> Result<Option<ByteSize>, HypervisorError>;
    /// Its folder, if other nodes have it, too.
    fn shared_folder(&self) -> Option<&Path> {
        None
    }
    /// Where QEMU finds it.
    fn source(&self, data: &Data) -> Source;
    /// The sums of what lies in it; `own` is what this node knows of.
    fn sums(&self, own: &[Data]) -> Result<Sums, HypervisorError> {
        let mut sums = Sums::default();
        for data in own {
            sums.promised += data.size.bytes();
            sums.allocated += self.allocated(data)?.unwrap_or_default().bytes();
        }
        Ok(sums)
    }
    /// What lies in it, has not been touched for a while, and is none of `known`. Nothing where other nodes' data
    /// lie in it, too.
    fn strays(&self, _known: &[Item]) -> Result<Vec<Data>, HypervisorError> {
        Ok(Vec::new())
    }
    /// The key that guests need to come to their disks.
    fn key(&self) -> Result<Option<Key>, HypervisorError> {
        Ok(None)
    }
    /// Its own copies of images that nothing stands on: their SHA-256.
    fn unused_images(&self) -> Result<Vec<String>, HypervisorError> {
        Ok(Vec::new())
    }
    /// Drops its own copy of an image, if it has one and nothing stands on it.
    fn forget_image(&self, _sha256: &str) -> Result<(), HypervisorError> {
        Ok(())
    }
}

/// The simulator's pool.
#[derive(Debug)]
pub struct Simulated(Name);

impl Simulated {
    /// A pool that stores nothing.
    pub fn new(name: Name) -> Self {
        Self(name)
    }
}

impl Pool for Simulated {
    fn name(&self) -> &Name {
        &self.0
    }
    fn kind(&self) -> PoolKind {
        PoolKind::Simulator
    }
    fn formats(&self) -> &'static [VolumeFormat] {
        &[VolumeFormat::Qcow2, VolumeFormat::Raw]
    }
    fn can_stand_on_image(&self, format: VolumeFormat) -> bool {
        format == VolumeFormat::Qcow2
    }
    fn space(&self) -> Result<Space, HypervisorError> {
        // As much as any installation asks of it.
        Ok(Space { size: ByteSize::gib(1 << 20), free: ByteSize::gib(1 << 20) })
    }
    fn create(&self, _: &Cx, _: &Data, _: Option<&From>) -> Result<(), HypervisorError> {
        Ok(())
    }
    fn take(&self, _: &Data, fill: &mut Fill<'_>) -> Result<(), HypervisorError> {
        fill(Path::new("/dev/null"))
    }
    fn grow(&self, _: &Data) -> Result<(), HypervisorError> {
        Ok(())
    }
    fn remove(&self, _: &Data) -> Result<(), HypervisorError> {
        Ok(())
    }
    fn allocated(&self, _: &Data) -> Result<Option<ByteSize>, HypervisorError> {
        Ok(Some(ByteSize(0)))
    }
    fn source(&self, data: &Data) -> Source {
        Source::File(PathBuf::from(format!("/simulated/{}", data.item)))
    }
}
