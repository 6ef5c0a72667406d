//! Who this agent is: its key, its certificate, and the CA of its control plane.
//!
//! The three stand in one file, so that replacing them is a single rename and no crash leaves a key
//! beside another key's certificate.

use std::fmt;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_model::{NodeId, Timestamp};
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::node::Life;

/// The file in the tls folder.
const FILE: &str = "identity.json";
/// A key whose certificate has not come yet.
const NEXT_KEY: &str = "next-key.pem";

/// What is wrong with a key or a certificate.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Its file.
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
    /// The thing itself; a sentence.
    #[error("{0}")]
    Unfit(String),
}

/// Key, certificate and CA.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The node's number in the control plane.
    pub node: NodeId,
    /// Where the control plane reaches the agent.
    pub address: String,
    /// The CA, PEM.
    pub ca_pem: String,
    /// The certificate, and what stands between it and the CA, PEM.
    pub certificate_pem: String,
    /// The key, PKCS #8 in PEM. Secret.
    pub key_pem: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("node", &self.node)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// The identity in a tls folder, if the agent is enrolled.
    pub fn load(folder: &Path) -> Result<Option<Self>, IdentityError> {
        let path = folder.join(FILE);
        match fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map(Some).map_err(|e| IdentityError::File(path, e.into()))
            }
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(IdentityError::File(path, e)),
        }
    }

    /// Replaces the identity in a tls folder.
    pub fn store(&self, folder: &Path) -> Result<(), IdentityError> {
        let text = serde_json::to_vec_pretty(self).expect("an identity is plain data");
        write_secret(folder, FILE, &text)?;
        remove(&folder.join(NEXT_KEY))
    }

    /// Key and certificate for rustls, once the certificate is found to fit the key, to come from the
    /// CA and to be valid at `now`.
    pub fn certified_key(
        &self,
        provider: &CryptoProvider,
        now: Timestamp,
    ) -> Result<Arc<CertifiedKey>, IdentityError> {
        let chain = certificates("certificate", &self.certificate_pem)?;
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|e| unfit("The key", &e))?;
        let certified = CertifiedKey::from_der(chain, key, provider)
            .map_err(|e| unfit("The certificate does not fit the key", &e))?;
        let (leaf, between) = certified.cert.split_first().expect("a chain that was read has a certificate");
        let parsed = ParsedCertificate::try_from(leaf).map_err(|e| unfit("The certificate", &e))?;
        let seconds = u64::try_from(now.unix_ms() / 1000).unwrap_or(0);
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots()?,
            between,
            UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)),
            provider.signature_verification_algorithms.all,
        )
        .map_err(|e| unfit("The certificate is not a valid one of the control plane's CA", &e))?;
        Ok(Arc::new(certified))
    }

    /// The CA as a root of trust.
    pub fn roots(&self) -> Result<RootCertStore, IdentityError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates("CA", &self.ca_pem)? {
            roots.add(certificate).map_err(|e| unfit("The CA's certificate", &e))?;
        }
        Ok(roots)
    }

    /// The certificate's life.
    pub fn life(&self) -> Result<Life, IdentityError> {
        let chain = certificates("certificate", &self.certificate_pem)?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&chain[0]).map_err(|e| unfit("The certificate", &e))?;
        let validity = parsed.validity();
        let life = Timestamp::from_unix_ms(validity.not_before.timestamp() * 1000)
            .zip(Timestamp::from_unix_ms(validity.not_after.timestamp() * 1000));
        let (not_before, not_after) =
            life.ok_or_else(|| IdentityError::Unfit("The certificate's dates make no sense.".to_owned()))?;
        Ok(Life { not_before, not_after })
    }
}

/// SHA-256 of the only certificate of `ca_pem`, in hex: how a token names its CA.
pub fn ca_fingerprint(ca_pem: &str) -> Result<String, IdentityError> {
    match &certificates("CA", ca_pem)?[..] {
        [ca] => Ok(hex::encode(Sha256::digest(ca))),
        several => {
            Err(IdentityError::Unfit(format!("There are {} CA certificates instead of one.", several.len())))
        }
    }
}

/// A new key, made here, and a request for its certificate.
pub struct NewKey {
    /// PKCS #8, PEM. Secret.
    pub key_pem: String,
    /// PKCS #10, PEM.
    pub csr_pem: String,
}

impl NewKey {
    /// Draws an ECDSA P-256 key; the request names the node, and the CA gives it the names it knows.
    pub fn draw(node_name: &str) -> Result<Self, IdentityError> {
        let make = || -> Result<Self, rcgen::Error> {
            let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(rcgen::DnType::CommonName, node_name);
            Ok(Self { key_pem: key.serialize_pem(), csr_pem: params.serialize_request(&key)?.pem()? })
        };
        make().map_err(|e| unfit("A key could not be made", &e))
    }

    /// Keeps the key in a tls folder until its certificate comes; the one kept before is forgotten.
    pub fn keep(&self, folder: &Path) -> Result<(), IdentityError> {
        write_secret(folder, NEXT_KEY, self.key_pem.as_bytes())
    }

    /// The kept key, PEM.
    pub fn kept(folder: &Path) -> Result<Option<String>, IdentityError> {
        let path = folder.join(NEXT_KEY);
        match fs::read_to_string(&path) {
            Ok(key) => Ok(Some(key)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(IdentityError::File(path, e)),
        }
    }
}

fn certificates(what: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(IdentityError::Unfit(format!("The {what} is not a certificate in PEM."))),
        Err(e) => Err(unfit(&format!("The {what} is not a certificate in PEM"), &e)),
    }
}

fn unfit(what: &str, error: &dyn fmt::Display) -> IdentityError {
    IdentityError::Unfit(format!("{what}: {error}."))
}

/// Replaces a file that only this user may read, so that it survives a power cut whole.
fn write_secret(folder: &Path, name: &str, content: &[u8]) -> Result<(), IdentityError> {
    let write = || -> std::io::Result<()> {
        if !folder.exists() {
            if let Some(data_dir) = folder.parent() {
                // Guests' disks stand below it too, and QEMU's user must be able to pass through.
                fs::DirBuilder::new().recursive(true).mode(0o711).create(data_dir)?;
            }
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(folder.join(name))?;
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(|e| IdentityError::File(folder.join(name), e))
}

fn remove(path: &Path) -> Result<(), IdentityError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(IdentityError::File(path.to_owned(), e)),
        _ => Ok(()),
    }
}
