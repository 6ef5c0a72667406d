//! What stands beside the pieces of a backup.
//!
//! ```text
//! manifests/vm-7/NAME.json       the manifest, written last: without one there is no backup
//! pieces/vm-7/NAME/00000000 …    the pieces
//! pieces/vm-7/NAME/index         SHA-256 and length of each piece, 36 bytes each
//! damaged/vm-7/NAME              what a verification found, until one finds nothing
//! ```

use berth_model::agent::{Backup, BackupKind, Name};
use berth_model::{ByteSize, Timestamp, VmId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::seal::{AccountKey, BackupKeys};

/// The format's number.
pub const FORMAT: u32 = 1;

/// Bytes of an entry of the index.
const ENTRY_BYTES: usize = 36;

/// What a backup is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Whose.
    pub vm: VmId,
    /// Its name.
    pub name: Name,
    /// What its keys are derived with, 64 hex digits; it tells it from every other backup.
    pub salt: String,
    /// The id of the account's key.
    pub key: String,
    /// The moment.
    pub taken: Timestamp,
    /// What it builds on.
    pub builds_on: Option<Base>,
    /// Why it builds on nothing.
    pub full_because: Option<String>,
    /// The mark in the disk since which changes are known, if there is one.
    pub mark: Option<String>,
    /// The image that the disk stood on.
    pub image: String,
    /// The disk's size.
    pub disk_bytes: u64,
    /// How much was read.
    pub read_bytes: u64,
    /// Was the guest frozen?
    pub frozen: bool,
    /// How many pieces there are.
    pub pieces: u32,
    /// Their length in all.
    pub stored_bytes: u64,
    /// SHA-256 of the index.
    pub index_sha256: String,
}

/// Another backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// Its name.
    pub name: Name,
    /// Its salt: a later one of the same name is another.
    pub salt: String,
}

/// A manifest as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    manifest: Manifest,
    /// Over the manifest's JSON.
    seal: String,
}

/// A manifest, and its seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it says.
    pub manifest: Manifest,
    seal: String,
}

impl Manifest {
    /// As it is stored.
    pub fn sealed(&self, keys: &BackupKeys) -> serde_json::Result<Vec<u8>> {
        let seal = keys.sign(&serde_json::to_vec(self)?);
        serde_json::to_vec(&Sealed { manifest: self.clone(), seal })
    }

    /// Its salt.
    pub fn salt(&self) -> Option<[u8; 32]> {
        let mut salt = [0; 32];
        hex::decode_to_slice(&self.salt, &mut salt).ok()?;
        Some(salt)
    }

    /// As callers see it.
    pub fn shown(&self, problem: Option<String>) -> Backup {
        Backup {
            vm: self.vm,
            name: self.name.clone(),
            taken: self.taken,
            kind: if self.builds_on.is_some() { BackupKind::Incremental } else { BackupKind::Full },
            builds_on: self.builds_on.as_ref().map(|base| base.name.clone()),
            full_because: self.full_because.clone(),
            image: self.image.clone(),
            disk: ByteSize(self.disk_bytes),
            read: ByteSize(self.read_bytes),
            stored: ByteSize(self.stored_bytes),
            frozen: self.frozen,
            problem,
        }
    }
}

impl Found {
    /// Reads what is stored as the manifest of a VM's backup. The error is a sentence.
    pub fn parse(vm: VmId, name: &Name, text: &[u8]) -> Result<Self, String> {
        let Sealed { manifest, seal } =
            serde_json::from_slice(text).map_err(|_| "Its manifest cannot be read.".to_owned())?;
        if manifest.format != FORMAT {
            return Err(format!("It has format {}, which this agent does not know.", manifest.format));
        }
        if manifest.vm != vm || manifest.name != *name || manifest.salt().is_none() {
            return Err("Its manifest belongs to another backup.".to_owned());
        }
        Ok(Self { manifest, seal })
    }

    /// Its keys, if it was made with this account's key and is as it was sealed. The error is a sentence.
    pub fn keys(&self, account: &AccountKey) -> Result<BackupKeys, Locked> {
        if self.manifest.key != account.id() {
            return Err(Locked::OtherKey);
        }
        let salt = self.manifest.salt().ok_or(Locked::Forged)?;
        let keys = account.of_backup(&salt);
        let text = serde_json::to_vec(&self.manifest).map_err(|_| Locked::Forged)?;
        keys.check(&text, &self.seal).map_err(|_| Locked::Forged)?;
        Ok(keys)
    }
}

/// Why a manifest gives no keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    /// It was made with another key.
    OtherKey,
    /// It is not as it was sealed.
    Forged,
}

/// Checksums of all pieces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index(Vec<u8>);

/// What an index says of a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry([u8; ENTRY_BYTES]);

impl Entry {
    /// Of a piece as it is stored.
    pub fn of(piece: &[u8]) -> Self {
        let mut entry = [0; ENTRY_BYTES];
        let (sum, length) = entry.split_at_mut(32);
        sum.copy_from_slice(&Sha256::digest(piece));
        length.copy_from_slice(&(piece.len() as u32).to_le_bytes());
        Self(entry)
    }
}

impl Index {
    /// Adds the next piece.
    pub fn push(&mut self, piece: &Entry) {
        self.0.extend_from_slice(&piece.0);
    }

    /// How many there are.
    pub fn pieces(&self) -> u32 {
        (self.0.len() / ENTRY_BYTES) as u32
    }

    /// As it is stored.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its own checksum.
    pub fn sha256(&self) -> String {
        hex::encode(Sha256::digest(&self.0))
    }

    /// From what is stored, if that is what the manifest says.
    pub fn parse(bytes: Vec<u8>, manifest: &Manifest) -> Option<Self> {
        let index = Self(bytes);
        let fits = index.0.len() == manifest.pieces as usize * ENTRY_BYTES;
        (fits && index.sha256() == manifest.index_sha256).then_some(index)
    }

    /// Is it piece `number`?
    pub fn is(&self, number: u32, piece: &[u8]) -> bool {
        let at = number as usize * ENTRY_BYTES;
        self.0.get(at..at + ENTRY_BYTES) == Some(&Entry::of(piece).0)
    }
}

/// Names in a store.
pub mod names {
    use berth_model::VmId;
    use berth_model::agent::Name;

    /// All manifests.
    pub const MANIFESTS: &str = "manifests";
    /// The index of a backup's pieces, beside them.
    pub const INDEX: &str = "index";

    /// The manifests of a VM.
    pub fn manifests(vm: VmId) -> String {
        format!("{MANIFESTS}/{}", folder(vm))
    }

    /// A manifest.
    pub fn manifest(vm: VmId, name: &Name) -> String {
        format!("{}/{name}.json", manifests(vm))
    }

    /// The pieces of all backups of a VM.
    pub fn all_pieces(vm: VmId) -> String {
        format!("pieces/{}", folder(vm))
    }

    /// The pieces of a backup.
    pub fn pieces(vm: VmId, name: &Name) -> String {
        format!("{}/{name}", all_pieces(vm))
    }

    /// One piece.
    pub fn piece(vm: VmId, name: &Name, number: u32) -> String {
        format!("{}/{number:08}", pieces(vm, name))
    }

    /// The index.
    pub fn index(vm: VmId, name: &Name) -> String {
        format!("{}/{INDEX}", pieces(vm, name))
    }

    /// The notes on damaged backups of a VM.
    pub fn all_damaged(vm: VmId) -> String {
        format!("damaged/{}", folder(vm))
    }

    /// The note on a damaged backup.
    pub fn damaged(vm: VmId, name: &Name) -> String {
        format!("{}/{name}", all_damaged(vm))
    }

    /// The VM of a folder.
    pub fn vm(folder: &str) -> Option<VmId> {
        let id: VmId = folder.strip_prefix("vm-")?.parse().ok()?;
        (id.0 > 0 && self::folder(id) == folder).then_some(id)
    }

    fn folder(vm: VmId) -> String {
        format!("vm-{vm}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn manifest() -> Manifest {
        let name = |text| Name::new(text).unwrap();
        Manifest {
            format: FORMAT,
            vm: VmId(7),
            name: name("tuesday"),
            salt: "ab".repeat(32),
            key: "cd".repeat(8),
            taken: Timestamp::from_unix_ms(1_800_000_000_000).unwrap(),
            builds_on: Some(Base { name: name("monday"), salt: "ef".repeat(32) }),
            full_because: None,
            mark: Some("berth-1".to_owned()),
            image: "12".repeat(32),
            disk_bytes: 1 << 30,
            read_bytes: 1 << 20,
            frozen: true,
            pieces: 2,
            stored_bytes: 1 << 19,
            index_sha256: "34".repeat(32),
        }
    }

    fn stored() -> String {
        serde_json::to_string(&Sealed { manifest: manifest(), seal: "56".repeat(32) }).unwrap()
    }

    proptest! {
        /// What is read is what was written or says so; what is forged, the seal finds (see the store's tests).
        #[test]
        fn no_manifest_breaks_the_agent(text in crate::fuzz::mangled(vec![stored()]), bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let (vm, name) = (VmId(7), Name::new("tuesday").unwrap());
            prop_assert_eq!(Found::parse(vm, &name, stored().as_bytes()).unwrap().manifest, manifest());
            prop_assert!(Found::parse(vm, &name, &bytes).is_err());
            match Found::parse(vm, &name, text.as_bytes()) {
                Ok(found) => {
                    let Manifest { format, salt, .. } = &found.manifest;
                    prop_assert!(*format == FORMAT && salt.len() == 64 && found.manifest.name == name);
                    let _shown = found.manifest.shown(None);
                }
                Err(problem) => prop_assert!(problem.ends_with('.'), "{}", problem),
            }
            let index = Index::parse(bytes, &manifest());
            prop_assert_eq!(index, None);
        }

        #[test]
        fn no_folder_of_a_store_is_taken_for_a_vm_that_it_is_not(text in "(vm-)?[0-9-]{0,22}|\\PC{0,8}") {
            if let Some(vm) = names::vm(&text) {
                prop_assert_eq!(text, format!("vm-{vm}"));
            }
        }
    }
}
