//! Certificates.

use berth_model::certificate::*;
use berth_model::*;

use crate::golden;
use crate::samples::{at, labels, meta};

#[test]
fn certificates_keep_their_wire_form() {
    let certificate = Certificate {
        id: CertificateId(2),
        name: "web".into(),
        kind: CertificateType::Uploaded,
        certificate: "-----BEGIN CERTIFICATE-----\n…".into(),
        fingerprint: "03:c7:55:9b".into(),
        not_valid_before: at("2026-11-20T02:14:00Z"),
        not_valid_after: at("2027-02-18T02:14:00Z"),
        domain_names: vec!["example.org".into()],
        status: None,
        used_by: Vec::new(),
        labels: labels(),
        created: at("2026-11-20T02:14:00Z"),
    };
    golden("uploaded_certificate", &CertificateCreated { certificate: certificate.clone(), action: None });
    golden("uploaded_certificate_list", &CertificateList { certificates: vec![certificate], meta: meta() });
    golden(
        "uploaded_certificate_create",
        &CertificateCreate {
            name: "web".into(),
            kind: Some(CertificateType::Uploaded),
            certificate: Some("-----BEGIN CERTIFICATE-----\n…".into()),
            private_key: Some("-----BEGIN PRIVATE KEY-----\n…".into()),
            domain_names: None,
            labels: Some(labels()),
        },
    );
}
