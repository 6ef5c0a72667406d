//! The control plane's own certificate authority. It is made once, kept in the database with its
//! key sealed, and shared by all control planes of an installation.
//!
//! It signs two kinds of certificates and no others: those of agents (they serve), and those of
//! control planes (they ask). Names are always ours to give; what a request asks for is ignored.

use anyhow::{Context as _, bail};
use berth_model::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};

use crate::agents::{AgentAddress, agent_name};
use crate::entropy;

/// The name in a control plane's certificate; agents speak to nobody else.
pub const CONTROL_PLANE_NAME: &str = "control-plane.berth.internal";
/// Life of a control plane's certificate. It stands in memory only and is made anew at start.
pub const CONTROL_PLANE_DAYS: i64 = 1;
/// Life of an agent's certificate. It is changed when under a third of this is left.
pub const AGENT_DAYS: i64 = 90;
/// Life of the CA itself.
const AUTHORITY_DAYS: i64 = 3650;
/// How far a clock elsewhere may be behind ours for a new certificate to be valid there.
const CLOCK_SKEW_S: i64 = 600;
/// Longest request that is looked at.
const CSR_LENGTH_MAX_BYTES: usize = 16 * 1024;

const DAY_S: i64 = 86_400;

/// The CA, able to sign.
pub struct Authority {
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// What is kept of a new CA.
pub struct NewAuthority {
    /// Its certificate, PEM.
    pub certificate_pem: String,
    /// Its key, PKCS #8, to be sealed.
    pub key_pkcs8: Vec<u8>,
}

/// A certificate made for an agent.
#[derive(Debug, Clone)]
pub struct AgentCertificate {
    /// PEM.
    pub pem: String,
    /// When it ends.
    pub expires: Timestamp,
}

/// Why a request for a certificate was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The request is wrong; a sentence for the operator of the agent.
    #[error("{0}")]
    Request(String),
    /// We failed.
    #[error("{0:#}")]
    Ours(#[from] anyhow::Error),
}

impl Authority {
    /// Makes a new CA.
    pub fn generate(now: Timestamp) -> anyhow::Result<NewAuthority> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params("Berth CA", now, AUTHORITY_DAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate_pem = params.self_signed(&key)?.pem();
        Ok(NewAuthority { certificate_pem, key_pkcs8: key.serialize_der() })
    }

    /// A CA that was made before. Refuses a key that is not its certificate's.
    pub fn load(certificate_pem: String, key_pkcs8: &[u8]) -> anyhow::Result<Self> {
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .context("the CA's certificate in the database is not PEM")?;
        let pkcs8 = PrivatePkcs8KeyDer::from(key_pkcs8);
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ECDSA_P256_SHA256)
            .context("the CA's key in the database is not a P-256 key")?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).context("the CA's certificate")?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            bail!("the CA's certificate and key in the database do not belong together");
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).context("the CA's certificate")?;
        Ok(Self { certificate: certificate.clone(), certificate_pem, issuer })
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// SHA-256 of its certificate, 64 hex digits: an enrolment token carries it, so that a new agent
    /// knows whom to trust.
    pub fn fingerprint(&self) -> String {
        hex::encode(Sha256::digest(&self.certificate))
    }

    /// A certificate and key for this control plane.
    pub fn issue_control_plane(
        &self,
        now: Timestamp,
    ) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivatePkcs8KeyDer<'static>)> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(CONTROL_PLANE_NAME, now, CONTROL_PLANE_DAYS);
        params.subject_alt_names = vec![SanType::DnsName(CONTROL_PLANE_NAME.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der())))
    }

    /// Signs an agent's request. The agent shows by the request's signature that it has the key;
    /// everything else in the certificate is set here.
    pub fn sign_agent(
        &self,
        csr_pem: &str,
        address: &AgentAddress,
        now: Timestamp,
    ) -> Result<AgentCertificate, SignError> {
        if csr_pem.len() > CSR_LENGTH_MAX_BYTES {
            return Err(SignError::Request(format!("longer than {CSR_LENGTH_MAX_BYTES} bytes")));
        }
        let request = CertificateSigningRequestParams::from_pem(csr_pem).map_err(|error| {
            SignError::Request(format!("not a signed request for a certificate: {error}"))
        })?;
        let name = agent_name(address.node);
        let mut params = params(&name, now, AGENT_DAYS);
        params.subject_alt_names = agent_names(&name, address)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate =
            params.signed_by(&request.public_key, &self.issuer).context("signing an agent's certificate")?;
        Ok(AgentCertificate { pem: certificate.pem(), expires: now.plus_seconds(AGENT_DAYS * DAY_S) })
    }
}

fn agent_names(name: &str, address: &AgentAddress) -> Result<Vec<SanType>, SignError> {
    let own = SanType::DnsName(name.try_into().context("our own name is ASCII")?);
    let host =
        match address.ip() {
            Some(ip) => SanType::IpAddress(ip),
            None => SanType::DnsName(address.host.as_str().try_into().map_err(|_| {
                SignError::Request(format!("“{}” cannot stand in a certificate", address.host))
            })?),
        };
    Ok(vec![own, host])
}

fn params(common_name: &str, now: Timestamp, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = now.plus_seconds(-CLOCK_SKEW_S).0;
    params.not_after = now.plus_seconds(days * DAY_S).0;
    params.use_authority_key_identifier_extension = true;
    // The first bit clear: serial numbers are positive.
    let mut serial = entropy::bytes::<16>();
    serial[0] = serial[0] & 0x7f | 0x01;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use berth_model::NodeId;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::server::WebPkiClientVerifier;

    use super::*;

    const NOW_S: u64 = 1_800_000_000;

    fn now() -> Timestamp {
        Timestamp::from_unix_ms(NOW_S as i64 * 1000).unwrap()
    }

    fn authority() -> Authority {
        let new = Authority::generate(now()).unwrap();
        Authority::load(new.certificate_pem, &new.key_pkcs8).unwrap()
    }

    fn roots(authority: &Authority) -> Arc<rustls::RootCertStore> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.certificate().clone()).unwrap();
        Arc::new(roots)
    }

    fn address(text: &str) -> AgentAddress {
        AgentAddress::parse(NodeId(7), text).unwrap()
    }

    /// Would we speak to a server that shows this certificate, under this name, that many days on?
    fn serves(authority: &Authority, pem: &str, name: &str, days: u64) -> bool {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots(authority), provider).build().unwrap();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW_S + days * 86_400));
        verifier
            .verify_server_cert(&der, &[], &ServerName::try_from(name.to_owned()).unwrap(), &[], at)
            .is_ok()
    }

    fn request(names: &[&str]) -> String {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let names: Vec<_> = names.iter().map(|&n| n.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serialize_request(&key).unwrap().pem().unwrap()
    }

    #[test]
    fn an_agent_gets_its_own_names_whatever_it_asks_for() {
        let authority = authority();
        let csr = request(&[CONTROL_PLANE_NAME, "node-8.berth.internal", "10.9.9.9"]);
        let signed = authority.sign_agent(&csr, &address("https://10.0.0.5:7701"), now()).unwrap();
        let may = |name| serves(&authority, &signed.pem, name, 0);
        assert!(may("node-7.berth.internal") && may("10.0.0.5"));
        assert!(!may(CONTROL_PLANE_NAME) && !may("node-8.berth.internal") && !may("10.9.9.9"));
        let by_name = authority.sign_agent(&csr, &address("https://n1.example.net:7701"), now()).unwrap();
        assert!(serves(&authority, &by_name.pem, "n1.example.net", 0));
    }

    #[test]
    fn an_agent_cannot_speak_as_a_control_plane_nor_sign() {
        let authority = authority();
        let csr = request(&[CONTROL_PLANE_NAME]);
        let signed = authority.sign_agent(&csr, &address("https://10.0.0.5:7701"), now()).unwrap();
        let der = CertificateDer::from_pem_slice(signed.pem.as_bytes()).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert!(!parsed.is_ca());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots(&authority), provider).build().unwrap();
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW_S));
        assert!(verifier.verify_client_cert(&der, &[], at).is_err(), "for servers only");
        let (chain, _) = authority.issue_control_plane(now()).unwrap();
        assert!(verifier.verify_client_cert(&chain[0], &[], at).is_ok());
    }

    #[test]
    fn certificates_end() {
        let authority = authority();
        let signed = authority.sign_agent(&request(&[]), &address("https://10.0.0.5:7701"), now()).unwrap();
        assert_eq!(signed.expires, now().plus_seconds(90 * 86_400));
        assert!(serves(&authority, &signed.pem, "10.0.0.5", 89));
        assert!(!serves(&authority, &signed.pem, "10.0.0.5", 91));
    }

    #[test]
    fn another_ca_is_not_trusted_also_when_it_bears_our_name() {
        let (ours, theirs) = (authority(), authority());
        let signed = theirs.sign_agent(&request(&[]), &address("https://10.0.0.5:7701"), now()).unwrap();
        assert!(serves(&theirs, &signed.pem, "node-7.berth.internal", 0));
        assert!(!serves(&ours, &signed.pem, "node-7.berth.internal", 0));
        assert_ne!(ours.fingerprint(), theirs.fingerprint());
    }

    #[test]
    fn a_request_that_is_not_signed_by_its_key_is_refused() {
        let authority = authority();
        let der =
            rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(request(&[]).as_bytes()).unwrap();
        let mut forged = der.to_vec();
        *forged.last_mut().unwrap() ^= 1;
        let lines = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, forged);
        let pem =
            format!("-----BEGIN CERTIFICATE REQUEST-----\n{lines}\n-----END CERTIFICATE REQUEST-----\n");
        for bad in [pem.as_str(), "", "nonsense", "x".repeat(CSR_LENGTH_MAX_BYTES + 1).as_str()] {
            let refused = authority.sign_agent(bad, &address("https://10.0.0.5:7701"), now());
            assert!(matches!(refused, Err(SignError::Request(_))), "{bad:.40}");
        }
    }

    #[test]
    fn a_key_of_another_ca_is_not_loaded() {
        let (one, other) = (Authority::generate(now()).unwrap(), Authority::generate(now()).unwrap());
        assert!(Authority::load(one.certificate_pem, &other.key_pkcs8).is_err());
    }
}
