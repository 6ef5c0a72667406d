//! Keys and seals of backups.
//!
//! ```text
//! account's key ──HKDF-SHA256, salt of the backup──► key of its pieces (ChaCha20-Poly1305)
//!       │                                      └───► key of its manifest (HMAC-SHA256)
//!       └──HKDF-SHA256, no salt──► the key's id, which stands in manifests: it tells keys apart
//! ```
//!
//! A piece is sealed under its number, with a key that no other backup has: a piece that was damaged,
//! swapped with another, or put under another backup does not open.

use std::fmt;

use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use sha2::Sha256;

/// What a key must be, a sentence.
pub const KEY_RULE: &str = "A key has 64 digits of 0-9 and a-f.";

/// What a seal adds to a piece, in bytes.
pub const SEAL_BYTES: usize = 16;

/// Bound into every seal, so that a later format never takes one of this for its own.
const FORMAT: &[u8] = b"berth-backup-1";

/// The key of an account.
#[derive(Clone)]
pub struct AccountKey([u8; 32]);

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(key)")
    }
}

impl AccountKey {
    /// From 64 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut key = [0; 32];
        hex::decode_to_slice(text, &mut key).ok()?;
        Some(Self(key))
    }

    /// Tells keys apart, and says nothing else of them: 16 hex digits.
    pub fn id(&self) -> String {
        hex::encode(&self.derive(None, b"id")[..8])
    }

    /// The keys of the backup with this salt.
    pub fn of_backup(&self, salt: &[u8; 32]) -> BackupKeys {
        let pieces = self.derive(Some(salt), b"pieces");
        let pieces = UnboundKey::new(&CHACHA20_POLY1305, &pieces).expect("the key has 32 bytes");
        BackupKeys { pieces: LessSafeKey::new(pieces), manifest: self.derive(Some(salt), b"manifest") }
    }

    fn derive(&self, salt: Option<&[u8]>, what: &[u8]) -> [u8; 32] {
        let mut key = [0; 32];
        let expanded = Hkdf::<Sha256>::new(salt, &self.0).expand_multi_info(&[FORMAT, b" ", what], &mut key);
        expanded.expect("32 bytes are not too many");
        key
    }
}

/// The keys of one backup.
pub struct BackupKeys {
    pieces: LessSafeKey,
    manifest: [u8; 32],
}

/// Something is not as it was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

impl BackupKeys {
    /// Seals piece `number`, in its place; it becomes [`SEAL_BYTES`] longer.
    pub fn seal(&self, number: u32, mut piece: Vec<u8>) -> Vec<u8> {
        let sealed = self.pieces.seal_in_place_append_tag(nonce(number), Aad::from(FORMAT), &mut piece);
        sealed.expect("a piece is far shorter than the cipher's limit");
        piece
    }

    /// Opens piece `number`, in its place.
    pub fn open(&self, number: u32, mut sealed: Vec<u8>) -> Result<Vec<u8>, Broken> {
        let opened = self.pieces.open_in_place(nonce(number), Aad::from(FORMAT), &mut sealed);
        let length = opened.map_err(|_| Broken)?.len();
        sealed.truncate(length);
        Ok(sealed)
    }

    /// The seal of a manifest's text: 64 hex digits.
    pub fn sign(&self, text: &[u8]) -> String {
        hex::encode(self.mac(text).finalize().into_bytes())
    }

    /// Is it the seal of this text?
    pub fn check(&self, text: &[u8], seal: &str) -> Result<(), Broken> {
        let seal = hex::decode(seal).map_err(|_| Broken)?;
        self.mac(text).verify_slice(&seal).map_err(|_| Broken)
    }

    fn mac(&self, text: &[u8]) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as hmac::digest::KeyInit>::new_from_slice(&self.manifest)
            .expect("HMAC takes keys of any length");
        mac.update(FORMAT);
        mac.update(text);
        mac
    }
}

/// No key seals two pieces of one number.
fn nonce(number: u32) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(key: &str, salt: u8) -> BackupKeys {
        AccountKey::parse(&key.repeat(32)).unwrap().of_backup(&[salt; 32])
    }

    #[test]
    fn a_piece_opens_only_as_what_it_was_sealed_as() {
        let sealed = keys("0a", 1).seal(7, b"a piece".to_vec());
        assert_eq!(sealed.len(), b"a piece".len() + SEAL_BYTES);
        assert_eq!(keys("0a", 1).open(7, sealed.clone()), Ok(b"a piece".to_vec()));
        for (keys, number) in [(keys("0b", 1), 7), (keys("0a", 2), 7), (keys("0a", 1), 8)] {
            assert_eq!(keys.open(number, sealed.clone()), Err(Broken));
        }
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(keys("0a", 1).open(7, damaged), Err(Broken));
            assert_eq!(keys("0a", 1).open(7, sealed[..at].to_vec()), Err(Broken));
        }
    }

    #[test]
    fn a_manifest_is_sealed_to_the_letter() {
        let seal = keys("0a", 1).sign(b"text");
        assert_eq!(keys("0a", 1).check(b"text", &seal), Ok(()));
        assert_eq!(keys("0a", 1).check(b"tex", &seal), Err(Broken));
        assert_eq!(keys("0b", 1).check(b"text", &seal), Err(Broken));
        assert_eq!(keys("0a", 1).check(b"text", "zz"), Err(Broken));
    }

    #[test]
    fn a_key_is_told_apart_and_never_printed() {
        let (a, b) =
            (AccountKey::parse(&"0a".repeat(32)).unwrap(), AccountKey::parse(&"0b".repeat(32)).unwrap());
        assert_ne!(a.id(), b.id());
        assert_eq!(a.id().len(), 16);
        assert_eq!(format!("{a:?}"), "(key)");
        for bad in ["", "0a", &"0g".repeat(32), &"0a".repeat(33)] {
            assert!(AccountKey::parse(bad).is_none(), "{bad}");
        }
    }
}
