//! Backups of VMs' disks: where they lie, what they hold, which of them stay.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::function::Name;
use crate::{ByteSize, Timestamp, VmId};

/// A word that nobody else may read. It is never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(format = "password"))]
#[serde(transparent)]
pub struct StoreSecret(pub String);

impl fmt::Debug for StoreSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// The key of an account's backups: 64 hex digits (256 bits), drawn at random by the caller. Without it
/// a backup cannot be read again. It is never printed, and never written to a disk of the node.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(format = "password"))]
#[serde(transparent)]
pub struct BackupKey(pub String);

impl fmt::Debug for BackupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(key)")
    }
}

/// Where backups lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum BackupStore {
    /// A directory of the node, as a rule one that another machine shares.
    Directory {
        /// Its absolute path; made if it is not there, but not what it stands in: a share that is not
        /// mounted must not be taken for an empty one.
        path: String,
    },
    /// A bucket that speaks S3.
    S3 {
        /// `https://s3.eu-central-1.example.com`; with `http://` everything but the backups' content can
        /// be read on the way.
        endpoint: String,
        /// `eu-central-1`.
        region: String,
        /// The bucket; it must be there.
        bucket: String,
        /// Names of objects begin with it and a slash; empty for none.
        #[serde(default)]
        prefix: String,
        /// Who asks.
        access_key_id: String,
        /// And proves it.
        secret_access_key: StoreSecret,
    },
}

/// `backup.create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BackupCreate {
    /// Where to.
    pub store: BackupStore,
    /// The account's key.
    pub key: BackupKey,
    /// Take all of the disk, also when the changes since the last backup are known.
    #[serde(default)]
    pub full: bool,
    /// How many backups may build on a full one until the next full one; 0 to 365, 30 if not set.
    #[serde(default)]
    pub incrementals_max: Option<u32>,
}

/// `backup.list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BackupWhere {
    /// Where.
    pub store: BackupStore,
    /// Of this VM alone.
    #[serde(default)]
    pub vm: Option<VmId>,
    /// Of this VM and those with higher numbers: where the last answer ended.
    #[serde(default)]
    pub from: Option<VmId>,
}

/// `backup.verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BackupVerify {
    /// Where.
    pub store: BackupStore,
    /// The account's key.
    pub key: BackupKey,
    /// Whose backup.
    pub vm: VmId,
}

/// `backup.restore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BackupRestore {
    /// Where from.
    pub store: BackupStore,
    /// The account's key.
    pub key: BackupKey,
    /// Which backup.
    pub backup: Name,
    /// Of which VM, if not of the one that gets the disk.
    #[serde(default)]
    pub of_vm: Option<VmId>,
}

/// `backup.prune`: how many stay. A backup stays when any rule keeps it, or when one that stays builds on
/// it. Days, weeks (from Monday) and months are UTC's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BackupPrune {
    /// Where.
    pub store: BackupStore,
    /// The rules; at least one must keep something.
    pub keep: BackupKeep,
    /// Say what would go, and keep all.
    #[serde(default)]
    pub dry_run: bool,
}

/// Which backups stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct BackupKeep {
    /// So many of the newest.
    pub last: u32,
    /// The newest of each of the last so many days that have one.
    pub daily: u32,
    /// The newest of each of the last so many weeks that have one.
    pub weekly: u32,
    /// The newest of each of the last so many months that have one.
    pub monthly: u32,
}

/// `backup.delete`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BackupDelete {
    /// Where.
    pub store: BackupStore,
    /// Delete also those that build on it; without it, such a backup is refused.
    #[serde(default)]
    pub with_dependents: bool,
}

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum BackupKind {
    /// All of the disk.
    Full,
    /// What changed since another backup.
    Incremental,
}

/// A backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Backup {
    /// Whose.
    pub vm: VmId,
    /// Its name.
    pub name: Name,
    /// The disk is as it was at this moment.
    pub taken: Timestamp,
    /// What it holds.
    pub kind: BackupKind,
    /// The backup it builds on.
    pub builds_on: Option<Name>,
    /// Why it is a full one although an incremental one was to be expected.
    pub full_because: Option<String>,
    /// SHA-256 of the image that the disk stood on; it must be on the node where this is restored.
    pub image: String,
    /// Size of the disk for the guest.
    pub disk: ByteSize,
    /// How much was read from the disk.
    pub read: ByteSize,
    /// How much it takes where it lies.
    pub stored: ByteSize,
    /// Were the guest's file systems frozen for the moment?
    pub frozen: bool,
    /// What is wrong with it or with one it builds on, as far as that is known without reading it all.
    pub problem: Option<String>,
}

/// `backup.list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BackupList {
    /// By VM, the oldest first; always all of a VM.
    pub backups: Vec<Backup>,
    /// The store is large, and there are more: ask again, `from` this VM on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<VmId>,
}

/// `backup.verify`: all was read back, and is as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BackupVerified {
    /// The backup and those it builds on, the full one first.
    pub chain: Vec<Name>,
    /// Pieces that were read.
    pub pieces: u64,
    /// How much was read.
    pub stored: ByteSize,
}

/// `backup.restore`: the disk that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RestoredDisk {
    /// Its size: the least that a `vm.put` for it may ask for.
    pub disk: ByteSize,
    /// The image that a `vm.put` for it must name.
    pub image: String,
    /// How much was written.
    pub written: ByteSize,
}

/// `backup.prune`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BackupPruned {
    /// What went, or would go.
    pub gone: Vec<Name>,
    /// What stays.
    pub kept: Vec<Name>,
}
