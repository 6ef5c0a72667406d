//! A bucket as a store, through the `object_store` crate.

use std::time::Duration;

use berth_model::agent::BackupStore;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{ClientOptions, Error, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig};
use tokio::runtime::{Builder, Runtime};

use super::{OBJECT_MAX_BYTES, Object, Store, StoreError};

/// How long one request may take: a piece over a slow line.
const REQUEST_PATIENCE: Duration = Duration::from_secs(120);
/// How long to reach the server.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// How long a request is tried again.
const RETRY_PATIENCE: Duration = Duration::from_secs(60);
/// How often.
const RETRIES: usize = 5;
/// Small objects that are fetched at once.
const FETCHES_AT_ONCE: usize = 16;

/// A bucket.
pub struct S3 {
    bucket: AmazonS3,
    prefix: Path,
    /// Backups are made on blocking threads; each store drives its own requests.
    runtime: Runtime,
}

impl S3 {
    /// Describes the bucket; nothing is asked yet.
    pub fn open(store: &BackupStore) -> Result<Self, StoreError> {
        let BackupStore::S3 { endpoint, region, bucket, prefix, access_key_id, secret_access_key } = store
        else {
            return Err(StoreError::Wrong("it is no bucket.".to_owned()));
        };
        // There may be one already, as in the agent.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let options = ClientOptions::new()
            .with_allow_http(endpoint.starts_with("http://"))
            .with_timeout(REQUEST_PATIENCE)
            .with_connect_timeout(CONNECT_PATIENCE);
        let retry =
            RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_PATIENCE, ..RetryConfig::default() };
        let bucket = AmazonS3Builder::new()
            .with_client_options(options)
            .with_retry(retry)
            .with_endpoint(endpoint)
            .with_region(region)
            .with_bucket_name(bucket)
            .with_access_key_id(access_key_id)
            .with_secret_access_key(&secret_access_key.0)
            .build()
            .map_err(|e| StoreError::Wrong(format!("{e}.")))?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| StoreError::Wrong(format!("{e}.")))?;
        Ok(Self { bucket, prefix: Path::from(prefix.as_str()), runtime })
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    async fn fetch(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let found = self.bucket.get(&self.path(name)).await.map_err(|e| wrong(name, &e))?;
        if found.meta.size > OBJECT_MAX_BYTES {
            return Err(StoreError::Wrong(format!("{name} is larger than anything that belongs there.")));
        }
        found.bytes().await.map(Vec::from).map_err(|e| wrong(name, &e))
    }

    fn list(&self, folder: &str) -> Result<object_store::ListResult, StoreError> {
        let folder = self.path(folder);
        let listed = self.runtime.block_on(self.bucket.list_with_delimiter(Some(&folder)));
        listed.map_err(|e| wrong(folder.as_ref(), &e))
    }
}

impl Store for S3 {
    fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), StoreError> {
        let path = self.path(name);
        let put = self.runtime.block_on(self.bucket.put(&path, PutPayload::from(bytes)));
        put.map(drop).map_err(|e| wrong(name, &e))
    }

    fn settle(&self) -> Result<(), StoreError> {
        // What S3 has taken, it keeps.
        Ok(())
    }

    fn get(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        self.runtime.block_on(self.fetch(name))
    }

    fn get_all(&self, names: &[String]) -> Vec<Result<Vec<u8>, StoreError>> {
        let all = stream::iter(names).map(|name| self.fetch(name)).buffered(FETCHES_AT_ONCE);
        self.runtime.block_on(all.collect())
    }

    fn objects(&self, folder: &str) -> Result<Vec<Object>, StoreError> {
        let listed = self.list(folder)?;
        let object = |meta: &object_store::ObjectMeta| {
            Some(Object { name: meta.location.filename()?.to_owned(), bytes: meta.size })
        };
        let mut objects: Vec<_> = listed.objects.iter().filter_map(object).collect();
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(objects)
    }

    fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let listed = self.list(folder)?;
        let mut folders: Vec<_> =
            listed.common_prefixes.iter().filter_map(|path| Some(path.filename()?.to_owned())).collect();
        folders.sort();
        Ok(folders)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        match self.runtime.block_on(self.bucket.delete(&self.path(name))) {
            Err(Error::NotFound { .. }) => Ok(()),
            deleted => deleted.map_err(|e| wrong(name, &e)),
        }
    }

    fn delete_folder(&self, folder: &str) -> Result<(), StoreError> {
        let path = self.path(folder);
        let deleted = self.runtime.block_on(async {
            let found: Vec<Path> =
                self.bucket.list(Some(&path)).map_ok(|meta| meta.location).try_collect().await?;
            for object in found {
                match self.bucket.delete(&object).await {
                    Err(Error::NotFound { .. }) => {}
                    deleted => deleted?,
                }
            }
            Ok(())
        });
        deleted.map_err(|e: Error| wrong(folder, &e))
    }
}

fn wrong(name: &str, e: &Error) -> StoreError {
    // The sources say what happened, and none of them a secret: requests are signed, not accompanied by it.
    let mut words = e.to_string();
    let mut source = std::error::Error::source(e);
    while let Some(inner) = source {
        let text = inner.to_string();
        if !words.contains(&text) {
            words = format!("{words}: {text}");
        }
        source = inner.source();
    }
    match e {
        // A list of no bucket is no missing object.
        _ if words.contains("NoSuchBucket") => StoreError::Wrong("there is no such bucket.".to_owned()),
        Error::NotFound { .. } => StoreError::Missing(name.to_owned()),
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            StoreError::Wrong("it does not take these access keys.".to_owned())
        }
        _ if words.contains("QuotaExceeded") || words.contains("StorageFull") => StoreError::Full,
        _ => StoreError::Silent(words),
    }
}

#[cfg(test)]
mod tests {
    use berth_model::agent::StoreSecret;

    use super::*;

    fn bucket(endpoint: &str) -> S3 {
        S3::open(&BackupStore::S3 {
            endpoint: endpoint.to_owned(),
            region: "eu".to_owned(),
            bucket: "a-bucket".to_owned(),
            prefix: "some/place".to_owned(),
            access_key_id: "me".to_owned(),
            secret_access_key: StoreSecret("a-secret-word".to_owned()),
        })
        .unwrap()
    }

    #[test]
    fn names_stand_under_the_prefix() {
        let s3 = bucket("http://127.0.0.1:1");
        assert_eq!(s3.path("pieces/vm-1/a").as_ref(), "some/place/pieces/vm-1/a");
    }
}
