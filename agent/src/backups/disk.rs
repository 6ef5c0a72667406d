//! What backups are taken from and restored to, as hypervisors offer it.

use berth_model::ByteSize;

use crate::hypervisor::HypervisorError;

/// A stretch of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// What is in it.
    pub content: Content,
}

/// What a stretch of a disk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// What it held at the backup that this one builds on.
    Unchanged,
    /// Zeros alone.
    Zeros,
    /// Anything.
    Data,
}

/// A disk as it was at one moment.
pub trait Source: Send {
    /// Its size in bytes.
    fn size(&self) -> u64;
    /// The extent at `offset`, of at most `length` bytes; never empty.
    fn extent(&mut self, offset: u64, length: u64) -> Result<Extent, HypervisorError>;
    /// Reads what is at `offset`.
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), HypervisorError>;
}

/// A disk that is being made.
pub trait Target: Source {
    /// Writes at `offset`.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), HypervisorError>;
    /// Writes zeros at `offset`, where it can be without using room.
    fn zero(&mut self, offset: u64, length: u64) -> Result<(), HypervisorError>;
}

/// What a backup is asked of a hypervisor with.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// Marks of backups that this one may build on, the best first.
    pub since: &'a [String],
    /// How its own mark is to be called, by which a later one builds on it.
    pub mark: &'a str,
}

/// A backup under way. Dropped before it is kept, it never happened: what was marked before is still marked.
pub trait Taking: Send {
    /// The disk.
    fn source(&mut self) -> &mut dyn Source;
    /// What is known of it.
    fn taken(&self) -> &Taken;
    /// The disk need no longer be read.
    fn close(&mut self) -> Result<(), HypervisorError>;
    /// The backup is there for good: keeps its mark, and lets go of the others.
    fn keep(self: Box<Self>) -> Result<(), HypervisorError>;
}

/// How a disk is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The mark it builds on; none for all of the disk.
    pub since: Option<String>,
    /// Its own mark, if later ones can build on it.
    pub mark: Option<String>,
    /// Why it builds on none of the marks that were asked for.
    pub full_because: Option<String>,
    /// Were the guest's file systems frozen for the moment?
    pub frozen: bool,
    /// The image that the disk stands on.
    pub image: String,
}

/// What is to be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restoring {
    /// The disk's least size.
    pub size: ByteSize,
    /// The image it stands on.
    pub image: String,
}

/// A restored disk that is being written. Dropped before it is finished, all is as it was.
pub trait Making: Send {
    /// The disk: what its image holds, until it is written.
    fn target(&mut self) -> &mut dyn Target;
    /// Puts it in the place of the VM's disk.
    fn finish(self: Box<Self>) -> Result<(), HypervisorError>;
}
