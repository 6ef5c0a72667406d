//! What a pool must do, and the simulator's, which stores nothing.

use std::fmt::Debug;
use std::path::PathBuf;

use berth_model::agent::{CloneMode, Name, PoolKind, VolumeFormat};
use berth_model::{ByteSize, VolumeId};

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

/// What of a volume a pool knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// Which.
    pub id: VolumeId,
    /// How it lies there.
    pub format: VolumeFormat,
    /// Its size for the guest.
    pub size: ByteSize,
}

/// An image that a volume is made from: a qcow2 file that stands alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// The file.
    pub file: PathBuf,
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
}

/// A place for volumes. Every function ends the same when it is told twice or was cut off.
pub trait Pool: Send + Sync + Debug {
    /// Its name.
    fn name(&self) -> &Name;
    /// What it is made of.
    fn kind(&self) -> PoolKind;
    /// The forms it knows, its usual one first.
    fn formats(&self) -> &'static [VolumeFormat];
    /// Can a volume stand on an image's file?
    fn can_stand_on_image(&self) -> bool;
    /// The name of the storage below it, where several nodes share that.
    fn shared(&self) -> Option<&str> {
        None
    }
    /// How much room there is.
    fn space(&self) -> Result<Space, HypervisorError>;
    /// Makes a volume's data; fine if it is there. What fails leaves nothing.
    fn create(&self, cx: &Cx, data: &Data, from: Option<&From>) -> Result<(), HypervisorError>;
    /// Grows what no guest has open to `data.size`.
    fn grow(&self, data: &Data) -> Result<(), HypervisorError>;
    /// Removes a volume's data; fine if there is none.
    fn remove(&self, data: &Data) -> Result<(), HypervisorError>;
    /// What a volume takes up now; nothing if it has no data.
    fn allocated(&self, data: &Data) -> Result<Option<ByteSize>, HypervisorError>;
    /// Where QEMU finds it.
    fn source(&self, data: &Data) -> Source;
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
    fn can_stand_on_image(&self) -> bool {
        true
    }
    fn space(&self) -> Result<Space, HypervisorError> {
        // As much as any installation asks of it.
        Ok(Space { size: ByteSize::gib(1 << 20), free: ByteSize::gib(1 << 20) })
    }
    fn create(&self, _: &Cx, _: &Data, _: Option<&From>) -> Result<(), HypervisorError> {
        Ok(())
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
        Source::File(PathBuf::from(format!("/simulated/{}", data.id)))
    }
}
