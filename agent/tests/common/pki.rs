//! A CA of a test's own, and certificates of it.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::Path;

use berth_agent::identity::{Identity, NewKey};
use berth_model::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};

/// A CA.
pub struct Pki {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, PEM.
pub struct Pair {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl Pki {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a test's CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub fn ca_pem(&self) -> String {
        self.issuer.pem()
    }

    /// Writes an identity into an agent's data folder, as `berth-agent enrol` would.
    pub fn enrol(&self, data: &Path) {
        let key = NewKey::draw("a-node").unwrap();
        let identity = Identity {
            node: NodeId(7),
            address: "https://127.0.0.1:1".to_owned(),
            ca_pem: self.ca_pem(),
            certificate_pem: self.sign(&key.csr_pem),
            key_pem: key.key_pem,
        };
        identity.store(&data.join("tls")).unwrap();
    }

    /// Signs an agent's request, as the control plane does.
    pub fn sign(&self, csr_pem: &str) -> String {
        self.sign_node(csr_pem, 7, [127, 0, 0, 1].into())
    }

    /// The same for node `id` at `address`.
    pub fn sign_node(&self, csr_pem: &str, id: i64, address: std::net::IpAddr) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(csr_pem).unwrap();
        request.params.subject_alt_names = vec![
            SanType::IpAddress(address),
            SanType::DnsName(format!("node-{id}.berth.internal").try_into().unwrap()),
        ];
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        request.signed_by(&self.issuer).unwrap().pem()
    }

    /// A certificate for somebody who calls, by the name they bear.
    pub fn client(&self, name: &str) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }
}
