//! What is a good key. Pure.

use berth_model::FieldError;
use berth_model::ssh_key::{SshKeyCreate, SshKeyUpdate};
use md5::{Digest as _, Md5};
use ssh_key::public::KeyData;
use ssh_key::{Algorithm, PublicKey};

use crate::labels;

/// Longest name of a key, in characters.
pub const NAME_MAX: usize = 100;
/// Longest line, in bytes; RSA of 16384 bits has some 2800.
pub const LINE_MAX_BYTES: usize = 8192;
/// Shortest RSA key that is not broken, in bits.
pub const RSA_MIN_BITS: usize = 2048;

/// A public key, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// MD5 in colon form.
    pub fingerprint: String,
    /// One line of `authorized_keys`.
    pub line: String,
}

/// Reads one line as it stands in `id_ed25519.pub`: kind, key, and a comment if there is one.
///
/// # Errors
/// A sentence for the customer.
pub fn read(text: &str) -> Result<Key, String> {
    let line = text.trim();
    if line.is_empty() {
        return Err("Enter a public key.".to_owned());
    }
    if line.len() > LINE_MAX_BYTES {
        return Err(format!("A public key has at most {LINE_MAX_BYTES} characters."));
    }
    if line.contains("PRIVATE KEY") {
        return Err("This is a private key. Keep it to yourself, and enter the public one.".to_owned());
    }
    if line.chars().any(char::is_control) {
        return Err("A public key is one line.".to_owned());
    }
    let not_a_key = || {
        "This is not an OpenSSH public key. It is one line, like “ssh-ed25519 AAAAC3…”, without options."
            .to_owned()
    };
    let key = PublicKey::from_openssh(line).map_err(|_| not_a_key())?;
    match (key.algorithm(), key.key_data()) {
        (_, KeyData::Rsa(rsa)) => {
            let bits = rsa
                .n
                .as_positive_bytes()
                .map_or(0, |n| n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize));
            if bits < RSA_MIN_BITS {
                return Err(format!("An RSA key has at least {RSA_MIN_BITS} bits; this one has {bits}."));
            }
        }
        (
            Algorithm::Ed25519
            | Algorithm::Ecdsa { .. }
            | Algorithm::SkEd25519
            | Algorithm::SkEcdsaSha2NistP256,
            _,
        ) => {}
        (other, _) => {
            return Err(format!("Keys of the kind “{other}” are not accepted. Make an ed25519 key."));
        }
    }
    let blob = key.to_bytes().map_err(|_| not_a_key())?;
    let pairs: Vec<String> = Md5::digest(&blob).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Key { fingerprint: pairs.join(":"), line: line.to_owned() })
}

/// The key of a request, or everything that is wrong with it.
///
/// # Errors
/// The fields that are wrong.
pub fn check_create(create: &SshKeyCreate) -> Result<Key, Vec<FieldError>> {
    let mut faults = faults(Some(&create.name), Some(&create.labels));
    match read(&create.public_key) {
        Ok(key) if faults.is_empty() => Ok(key),
        Ok(_) => Err(faults),
        Err(message) => {
            faults.push(FieldError { name: "public_key".to_owned(), messages: vec![message] });
            Err(faults)
        }
    }
}

/// Everything that is wrong with a change.
pub fn update_faults(update: &SshKeyUpdate) -> Vec<FieldError> {
    faults(update.name.as_deref(), update.labels.as_ref())
}

fn faults(name: Option<&str>, labels: Option<&berth_model::label::Labels>) -> Vec<FieldError> {
    let fault = |message| FieldError { name: "name".to_owned(), messages: vec![message] };
    let mut faults: Vec<_> =
        name.and_then(|name| labels::name_fault_over(name, NAME_MAX)).map(fault).into_iter().collect();
    faults.extend(labels.iter().flat_map(|labels| labels::faults("labels", labels)));
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

    #[test]
    fn a_fingerprint_is_what_ssh_keygen_says() {
        // `ssh-keygen -l -E md5`
        let key = read(&format!("  {ED25519} me@home \n")).unwrap();
        assert_eq!(key.fingerprint, "65:96:2d:fc:e8:d5:a9:11:64:0c:0f:ea:00:6e:5b:bd");
        assert_eq!(key.line, format!("{ED25519} me@home"));
        assert_eq!(read(ED25519).unwrap().fingerprint, key.fingerprint);
    }

    #[test]
    fn what_is_not_one_public_key_is_refused() {
        for (text, said) in [
            ("", "Enter a public key"),
            ("ssh-ed25519", "not an OpenSSH public key"),
            ("ssh-ed25519 AAAA", "not an OpenSSH public key"),
            ("hello world", "not an OpenSSH public key"),
            (&format!("no-pty {ED25519}"), "not an OpenSSH public key"),
            (&format!("command=\"x\" {ED25519}"), "not an OpenSSH public key"),
            (&format!("{ED25519}\n{ED25519}"), "one line"),
            (&ED25519.replace("ssh-ed25519", "ssh-rsa"), "not an OpenSSH public key"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----", "private key"),
            (&"a".repeat(LINE_MAX_BYTES + 1), "at most"),
        ] {
            let sentence = read(text).unwrap_err();
            assert!(sentence.contains(said), "{text}: {sentence}");
        }
    }

    #[test]
    fn short_rsa_keys_are_refused_and_long_ones_taken() {
        let rsa = |bits: usize| {
            use base64::Engine as _;
            let mut blob = Vec::new();
            let mut n = vec![0u8; bits / 8 + 1];
            n[1] = 0x80;
            *n.last_mut().unwrap() = 1;
            for part in [b"ssh-rsa".as_slice(), &[1, 0, 1], &n] {
                blob.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
                blob.extend(part);
            }
            format!("ssh-rsa {}", base64::engine::general_purpose::STANDARD.encode(blob))
        };
        assert!(read(&rsa(2048)).is_ok());
        assert!(read(&rsa(1024)).unwrap_err().contains("this one has 1024"));
        assert!(read(&rsa(2040)).unwrap_err().contains("this one has 2040"));
    }
}
