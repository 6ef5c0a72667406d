//! What is a good certificate. Pure.

use berth_model::certificate::CertificateCreate;
use berth_model::{FieldError, Timestamp};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::labels;
use crate::servers::rules::fault;

/// Longest certificate with its chain, and longest key, in bytes.
pub const PEM_MAX_BYTES: usize = 64 * 1024;
/// Most certificates in a chain.
pub const CHAIN_MAX: usize = 10;

/// A certificate and its key, read.
#[derive(Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// PEM, as it was given, without what stands around it.
    pub certificate: String,
    /// PEM.
    pub private_key: String,
    /// SHA-256, in colon form.
    pub fingerprint: String,
    /// From then on it is good.
    pub not_valid_before: Timestamp,
    /// Until then it is good.
    pub not_valid_after: Timestamp,
    /// What it is for.
    pub domain_names: Vec<String>,
}

/// The certificate of a request, or everything that is wrong with it.
///
/// # Errors
/// The fields that are wrong.
pub fn check_create(create: &CertificateCreate) -> Result<Uploaded, Vec<FieldError>> {
    let mut faults = labels::named_faults(Some(&create.name), create.labels.as_ref());
    if create.domain_names.is_some() {
        let message = "The names of an uploaded certificate stand in it. Leave this out.";
        faults.push(fault("domain_names", message));
    }
    let certificate = create.certificate.as_deref().unwrap_or_default();
    let read = read(certificate, create.private_key.as_deref().unwrap_or_default());
    match read {
        Ok(uploaded) if faults.is_empty() => return Ok(uploaded),
        Ok(_) => {}
        Err(wrong) => faults.push(wrong),
    }
    Err(faults)
}

/// Reads a certificate with its chain, and its key.
///
/// # Errors
/// The field that is wrong: no PEM, no certificate, a chain that is none, a key that cannot be used, a key of another
/// certificate.
pub fn read(certificate: &str, private_key: &str) -> Result<Uploaded, FieldError> {
    let chain = chain(certificate.trim()).map_err(|message| fault("certificate", message))?;
    let key = key(private_key.trim()).map_err(|message| fault("private_key", message))?;
    let first = parse(&chain[0]).map_err(|message| fault("certificate", message))?;
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(chain.clone(), key, &provider).map_err(|error| {
        let message = match error {
            rustls::Error::InconsistentKeys(_) => "This is the key of another certificate.",
            _ => {
                "This key cannot be used. RSA of 2048 bits and more, ECDSA P-256 and P-384, and Ed25519 can."
            }
        };
        fault("private_key", message)
    })?;
    let moment = |time: x509_parser::time::ASN1Time| {
        let moment = time.timestamp().checked_mul(1000).and_then(Timestamp::from_unix_ms);
        moment.ok_or_else(|| fault("certificate", "The time in this certificate makes no sense."))
    };
    let validity = first.validity();
    let pairs: Vec<String> = Sha256::digest(&chain[0]).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Uploaded {
        certificate: certificate.trim().to_owned(),
        private_key: private_key.trim().to_owned(),
        fingerprint: pairs.join(":"),
        not_valid_before: moment(validity.not_before)?,
        not_valid_after: moment(validity.not_after)?,
        domain_names: domain_names(&first),
    })
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    let parsed = X509Certificate::from_der(der.as_ref()).map(|(_, certificate)| certificate);
    parsed.map_err(|_| "This is not a certificate.".to_owned())
}

/// The certificates of a PEM text: each signed by the one after it.
fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    if pem.is_empty() {
        return Err("Enter a certificate, as PEM.".to_owned());
    }
    if pem.len() > PEM_MAX_BYTES {
        return Err("A certificate with its chain has at most 64 KiB.".to_owned());
    }
    if pem.contains("PRIVATE KEY") {
        return Err("There is a private key in it. Enter the certificate alone.".to_owned());
    }
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let chain = read.map_err(|_| "This is not PEM.".to_owned())?;
    if chain.is_empty() {
        return Err("This is not a certificate in PEM: “-----BEGIN CERTIFICATE-----”.".to_owned());
    }
    if chain.len() > CHAIN_MAX {
        return Err(format!("A chain has at most {CHAIN_MAX} certificates."));
    }
    for (n, pair) in chain.windows(2).enumerate() {
        let (certificate, signer) = (parse(&pair[0])?, parse(&pair[1])?);
        if certificate.issuer() != signer.subject() || !signs(&signer, &certificate) {
            let (n, next) = (n + 1, n + 2);
            return Err(format!(
                "Certificate {n} of the chain is not signed by certificate {next}, which follows."
            ));
        }
    }
    Ok(chain)
}

fn signs(signer: &X509Certificate<'_>, certificate: &X509Certificate<'_>) -> bool {
    certificate.verify_signature(Some(signer.public_key())).is_ok()
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>, String> {
    if pem.is_empty() {
        return Err("Enter the certificate's private key, as PEM.".to_owned());
    }
    if pem.len() > PEM_MAX_BYTES {
        return Err("A private key has at most 64 KiB.".to_owned());
    }
    if pem.contains("ENCRYPTED") {
        return Err("This key is encrypted. Take its passphrase off first.".to_owned());
    }
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| "This is not a private key in PEM.".to_owned())
}

/// What a certificate is for: its alternative names; its common name, if it has none.
fn domain_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    let names: Vec<String> = names.collect();
    if !names.is_empty() {
        return names;
    }
    let common = certificate.subject().iter_common_name();
    common.filter_map(|name| name.as_str().ok()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    fn names(names: &[&str]) -> CertificateParams {
        CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_certificate_with_its_chain_and_key_is_read() {
        let mut params = names(&[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "A root");
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = names(&["example.org", "*.example.org"]).signed_by(&key, &root).unwrap();
        let pem = format!("\n{}{}", leaf.pem(), root.pem());
        let read = |certificate: &str, key: &str| super::read(certificate, key);
        let uploaded = read(&pem, &key.serialize_pem()).unwrap_or_else(|fault| panic!("{fault:?}"));
        assert_eq!(uploaded.domain_names, ["example.org", "*.example.org"]);
        assert_eq!(uploaded.fingerprint.len(), 32 * 3 - 1);
        assert!(uploaded.not_valid_before < uploaded.not_valid_after);

        let other = KeyPair::generate().unwrap().serialize_pem();
        let swapped = format!("{}{}", root.pem(), leaf.pem());
        let stranger = names(&["example.net"]).self_signed(&key).unwrap().pem();
        for (certificate, key, field, says) in [
            (pem.clone(), other, "private_key", "another certificate"),
            (pem.clone(), String::new(), "private_key", "Enter"),
            (pem.clone(), "hello".to_owned(), "private_key", "not a private key"),
            (pem.clone(), "-----BEGIN ENCRYPTED PRIVATE KEY-----".to_owned(), "private_key", "passphrase"),
            (String::new(), key.serialize_pem(), "certificate", "Enter"),
            ("hello".to_owned(), key.serialize_pem(), "certificate", "not a certificate"),
            (key.serialize_pem(), key.serialize_pem(), "certificate", "private key"),
            (swapped, key.serialize_pem(), "certificate", "not signed"),
            (format!("{}{stranger}", leaf.pem()), key.serialize_pem(), "certificate", "not signed"),
        ] {
            let wrong = read(&certificate, &key).err().unwrap_or_else(|| panic!("{says} was taken"));
            assert_eq!(wrong.name, field, "{wrong:?}");
            assert!(wrong.messages[0].contains(says), "{wrong:?}");
        }
    }
}
