//! Secrets: kept out of logs, and sealed where they must be kept.

use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{Key, KeyInit as _, XChaCha20Poly1305, XNonce};
use serde::Deserialize;

use crate::entropy;

/// A value that is not printed. Whoever needs it says so with [`Secret::expose`].
#[derive(Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Hides `value` from logs.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value, for the one place that needs it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// The first byte of what is sealed, so that another way of sealing can stand beside it.
const VERSION: u8 = 1;
const NONCE_BYTES: usize = 24;

/// The installation's key: seals what the database must keep but must not tell.
///
/// Sealed bytes are `1`, a random nonce of 24 bytes, and XChaCha20-Poly1305's output. The purpose
/// is authenticated with it: what was sealed for one purpose does not open for another.
#[derive(Clone)]
pub struct SecretKey(Arc<XChaCha20Poly1305>);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey")
    }
}

/// What does not open: another key, another purpose, or damage.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "this was sealed with another key or for another purpose, or it is damaged; is it the right secret_key_file?"
)]
pub struct Unopenable;

impl SecretKey {
    /// A key of 32 bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Arc::new(XChaCha20Poly1305::new(&Key::from(bytes))))
    }

    /// Reads the key's file (64 hex digits), and makes it, readable by its owner only, when it is
    /// missing. Two processes that start at once end with the same key.
    ///
    /// # Errors
    /// The file cannot be read or made, is no key, or others may read it.
    pub fn load_or_create(path: &Path) -> anyhow::Result<Self> {
        let in_words = || format!("the secret key {}", path.display());
        if !path.exists() {
            Self::create(path).with_context(in_words)?;
        }
        let mode = std::fs::metadata(path).with_context(in_words)?.permissions().mode();
        ensure!(
            mode & 0o077 == 0,
            "{} may be read by others (mode {:o}); run: chmod 600 {}",
            in_words(),
            mode & 0o777,
            path.display()
        );
        let text = std::fs::read_to_string(path).with_context(in_words)?;
        let mut bytes = [0; 32];
        if hex::decode_to_slice(text.trim(), &mut bytes).is_err() {
            bail!("{} must hold 64 hex digits", in_words());
        }
        Ok(Self::new(bytes))
    }

    /// Writes a new key beside its place and links it there, so that it is never half there, and
    /// the first of two wins.
    fn create(path: &Path) -> anyhow::Result<()> {
        let folder = path.parent().context("it has no folder")?;
        std::fs::create_dir_all(folder)?;
        let beside = path.with_extension(format!("{}.new", entropy::alphanumeric(8)));
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        let written = file
            .write_all(format!("{}\n", hex::encode(entropy::bytes::<32>())).as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| match std::fs::hard_link(&beside, path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
                other => other,
            })
            .and_then(|()| std::fs::File::open(folder)?.sync_all());
        std::fs::remove_file(&beside)?;
        Ok(written?)
    }

    /// Seals `plain` for `purpose`, a fixed word of the code: `"certificate authority"`.
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_BYTES] = entropy::bytes();
        let payload = Payload { msg: plain, aad: purpose.as_bytes() };
        let sealed = self
            .0
            .encrypt(&XNonce::from(nonce), payload)
            .expect("only a text of 256 GiB and more cannot be sealed");
        [&[VERSION][..], &nonce, &sealed].concat()
    }

    /// Opens what was sealed for `purpose`.
    ///
    /// # Errors
    /// Another key, another purpose, or damage.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>, Unopenable> {
        let (&version, rest) = sealed.split_first().ok_or(Unopenable)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(Unopenable)?;
        if version != VERSION {
            return Err(Unopenable);
        }
        let payload = Payload { msg: sealed, aad: purpose.as_bytes() };
        self.0.decrypt(&XNonce::from(*nonce), payload).map_err(|_| Unopenable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_for_its_purpose_only() {
        let key = SecretKey::new([7; 32]);
        let sealed = key.seal("a", b"plain");
        assert_eq!(key.open("a", &sealed).as_deref(), Ok(&b"plain"[..]));
        assert_eq!(key.open("b", &sealed), Err(Unopenable));
        assert_eq!(SecretKey::new([8; 32]).open("a", &sealed), Err(Unopenable));
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(key.open("a", &damaged), Err(Unopenable), "byte {at}");
            assert_eq!(key.open("a", &sealed[..at]), Err(Unopenable), "cut at {at}");
        }
        assert_ne!(sealed, key.seal("a", b"plain"), "each sealing has a nonce of its own");
    }

    #[test]
    fn a_missing_key_is_made_once_for_its_owner_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep/secret.key");
        let sealed = SecretKey::load_or_create(&path).expect("made").seal("a", b"x");
        assert!(SecretKey::load_or_create(&path).expect("read").open("a", &sealed).is_ok());
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(path.parent().expect("a folder")).expect("read").count(), 1);
    }

    #[test]
    fn a_key_that_others_may_read_or_that_is_none_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret.key");
        SecretKey::load_or_create(&path).expect("made");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        let error = SecretKey::load_or_create(&path).expect_err("too open");
        assert!(error.to_string().contains("chmod 600"), "{error}");
        std::fs::write(&path, "abc").expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        assert!(SecretKey::load_or_create(&path).expect_err("no key").to_string().contains("64 hex digits"));
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), "Some([secret])");
    }
}
