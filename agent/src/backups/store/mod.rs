//! Where backups lie: names and what is under them, in a directory or a bucket.

mod directory;
mod s3;

use berth_model::agent::BackupStore;
use berth_model::{ErrorCode, FieldError};

use self::directory::Directory;
use self::s3::S3;
use crate::error::Refusal;

/// Largest object that is read: an index of 16 TiB of pieces, and far more than any piece.
const OBJECT_MAX_BYTES: u64 = 128 << 20;

/// Something in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The last part of its name.
    pub name: String,
    /// How large it is.
    pub bytes: u64,
}

/// Why a store did not do what it was told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("{0} is missing.")]
    Missing(String),
    /// No room is left.
    #[error("The store of backups is full.")]
    Full,
    /// It does not answer, or not to us.
    #[error("The store of backups does not answer: {0}")]
    Silent(String),
    /// It cannot be used as it is described.
    #[error("The store of backups cannot be used: {0}")]
    Wrong(String),
}

impl From<StoreError> for Refusal {
    fn from(e: StoreError) -> Self {
        let code = match &e {
            StoreError::Missing(_) => ErrorCode::Conflict,
            StoreError::Full => ErrorCode::ResourceUnavailable,
            StoreError::Silent(_) => ErrorCode::Unavailable,
            StoreError::Wrong(_) => ErrorCode::ServiceError,
        };
        Self::new(code, e.to_string())
    }
}

/// Names with slashes, and bytes under them. An object is there whole or not at all.
pub trait Store: Send + Sync {
    /// Puts an object, in place of what has its name.
    fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), StoreError>;
    /// Everything that was put outlives a power cut then.
    fn settle(&self) -> Result<(), StoreError>;
    /// Reads an object.
    fn get(&self, name: &str) -> Result<Vec<u8>, StoreError>;
    /// Reads several small objects, in their order.
    fn get_all(&self, names: &[String]) -> Vec<Result<Vec<u8>, StoreError>> {
        names.iter().map(|name| self.get(name)).collect()
    }
    /// The objects right in a folder, by name.
    fn objects(&self, folder: &str) -> Result<Vec<Object>, StoreError>;
    /// The folders right in a folder, by name.
    fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError>;
    /// Deletes an object; fine if there is none.
    fn delete(&self, name: &str) -> Result<(), StoreError>;
    /// Deletes all that is in a folder, also what was cut off while it was put; fine if there is nothing.
    fn delete_folder(&self, folder: &str) -> Result<(), StoreError>;
}

/// Opens a store.
pub fn open(store: &BackupStore) -> Result<Box<dyn Store>, StoreError> {
    Ok(match store {
        BackupStore::Directory { path } => Box::new(Directory::open(path.as_ref())?),
        BackupStore::S3 { .. } => Box::new(S3::open(store)?),
    })
}

/// What is wrong with a description, by itself.
pub fn faults(store: &BackupStore) -> Vec<FieldError> {
    let mut faults = Vec::new();
    let mut check = |is_fine: bool, name: &str, rule: &str| {
        if !is_fine {
            faults.push(FieldError { name: format!("store.{name}"), messages: vec![rule.to_owned()] });
        }
    };
    match store {
        BackupStore::Directory { path } => {
            let path = std::path::Path::new(path);
            let is_plain = path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
            check(
                path.is_absolute() && is_plain && path.parent().is_some(),
                "path",
                "A directory is named by its absolute path, without “..”.",
            );
        }
        BackupStore::S3 { endpoint, region, bucket, prefix, access_key_id, secret_access_key } => {
            let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
            let is_fine = host.is_some_and(|host| !host.is_empty() && !host.contains(['@', '?', '#', ' ']));
            check(is_fine, "endpoint", "An endpoint is https:// and a host, without a user and a query.");
            check(!region.is_empty(), "region", "A region is needed; “us-east-1” where there are none.");
            let of = |text: &str, more: &[u8]| {
                text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
            };
            check(
                (3..=63).contains(&bucket.len()) && of(bucket, b"-."),
                "bucket",
                "A bucket's name has 3 to 63 letters, digits, hyphens and dots.",
            );
            let is_plain =
                prefix.is_empty() || prefix.split('/').all(|p| !p.is_empty() && p != "." && p != "..");
            check(
                prefix.len() <= 256 && of(prefix, b"-_./") && is_plain,
                "prefix",
                "A prefix has up to 256 letters, digits, hyphens, dots and underscores, with single slashes inside.",
            );
            check(!access_key_id.is_empty(), "access_key_id", "The key's id is needed.");
            check(!secret_access_key.0.is_empty(), "secret_access_key", "The secret is needed.");
        }
    }
    faults
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use berth_model::agent::StoreSecret;

    /// What every store promises.
    pub fn keeps_its_promises(store: &dyn Store) {
        assert_eq!(store.objects("pieces/vm-1/a").unwrap(), []);
        assert!(matches!(store.get("pieces/vm-1/a/0"), Err(StoreError::Missing(_))));
        store.put("pieces/vm-1/a/0", b"zero".to_vec()).unwrap();
        store.put("pieces/vm-1/a/1", vec![7; 300_000]).unwrap();
        store.put("pieces/vm-1/a/0", b"nought".to_vec()).unwrap();
        store.put("pieces/vm-10/b/0", b"b".to_vec()).unwrap();
        store.settle().unwrap();
        assert_eq!(store.get("pieces/vm-1/a/0").unwrap(), b"nought");
        assert_eq!(store.get("pieces/vm-1/a/1").unwrap().len(), 300_000);
        let objects = store.objects("pieces/vm-1/a").unwrap();
        let found: Vec<_> = objects.iter().map(|object| (object.name.as_str(), object.bytes)).collect();
        assert_eq!(found, [("0", 6), ("1", 300_000)]);
        assert_eq!(store.folders("pieces").unwrap(), ["vm-1", "vm-10"]);
        assert_eq!(store.folders("pieces/vm-1").unwrap(), ["a"]);
        assert_eq!(store.folders("pieces/vm-2").unwrap(), [] as [&str; 0]);
        store.delete("pieces/vm-1/a/1").unwrap();
        store.delete("pieces/vm-1/a/1").unwrap();
        store.delete_folder("pieces/vm-1/a").unwrap();
        store.delete_folder("pieces/vm-1/a").unwrap();
        assert_eq!(store.folders("pieces/vm-1").unwrap(), [] as [&str; 0]);
        assert_eq!(store.get("pieces/vm-10/b/0").unwrap(), b"b");
        store.delete_folder("pieces/vm-10/b").unwrap();
    }

    #[test]
    fn a_store_that_cannot_be_meant_is_refused() {
        let named = |store: &BackupStore| faults(store).into_iter().map(|f| f.name).collect::<Vec<_>>();
        let directory = |path: &str| BackupStore::Directory { path: path.to_owned() };
        assert_eq!(named(&directory("/srv/backups")), [] as [&str; 0]);
        for bad in ["", "/", "srv", "/srv/../etc"] {
            assert_eq!(named(&directory(bad)), ["store.path"], "{bad}");
        }
        let s3 = |endpoint: &str, bucket: &str, prefix: &str| BackupStore::S3 {
            endpoint: endpoint.to_owned(),
            region: "eu".to_owned(),
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            access_key_id: "me".to_owned(),
            secret_access_key: StoreSecret("secret".to_owned()),
        };
        assert_eq!(named(&s3("https://s3.example.com:9000", "my-bucket", "a/b")), [] as [&str; 0]);
        assert_eq!(named(&s3("s3.example.com", "my-bucket", "")), ["store.endpoint"]);
        assert_eq!(
            named(&s3("https://me@s3.example.com", "b", "a//b")),
            ["store.endpoint", "store.bucket", "store.prefix"]
        );
        assert!(!format!("{:?}", s3("https://x", "abc", "")).contains("\"secret\""));
    }
}
