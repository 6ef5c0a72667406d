//! Certificates for TLS (Hetzner Cloud API v1, `/certificates`).

use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::label::Labels;
use crate::page::Meta;
use crate::server::NoSuchThing;
use crate::{CertificateId, Timestamp};

/// Where a certificate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum CertificateType {
    /// The customer gave it, with its key.
    #[default]
    Uploaded,
    /// It is asked for and renewed by itself.
    Managed,
}

/// A certificate. Its private key is told to nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Certificate {
    /// Stable for life.
    pub id: CertificateId,
    /// Unique among the project's certificates.
    pub name: String,
    /// Where it comes from.
    #[serde(rename = "type")]
    pub kind: CertificateType,
    /// PEM: the certificate, then those that sign it, in order.
    pub certificate: String,
    /// SHA-256 of the certificate, in colon form.
    pub fingerprint: String,
    /// From then on it is good.
    pub not_valid_before: Timestamp,
    /// Until then it is good.
    pub not_valid_after: Timestamp,
    /// What it is for.
    pub domain_names: Vec<String>,
    /// How the asking for a managed one went; none of an uploaded one.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub status: Option<NoSuchThing>,
    /// What uses it; empty until load balancers exist.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<Object>))]
    pub used_by: Vec<NoSuchThing>,
    /// The customer's own marks.
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub labels: Labels,
    /// When it was uploaded.
    pub created: Timestamp,
}

/// `POST /v1/certificates`.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CertificateCreate {
    /// 1 to 64 characters, unique among the project's certificates.
    pub name: String,
    /// `uploaded` unless said otherwise; `managed` is not supported yet.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<CertificateType>,
    /// PEM: the certificate, then those that sign it, in order. At most 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Its private key, PEM: RSA of 2048 bits and more, ECDSA P-256 or P-384, or Ed25519; not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<String>,
    /// What a managed one is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain_names: Option<Vec<String>>,
    /// The customer's own marks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<std::collections::BTreeMap<String, String>>))]
    pub labels: Option<Labels>,
}

/// Without the key.
impl core::fmt::Debug for CertificateCreate {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CertificateCreate").field("name", &self.name).finish_non_exhaustive()
    }
}

/// `PUT /v1/certificates/{id}`: what is left out stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CertificateUpdate {
    /// The new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// All labels anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<std::collections::BTreeMap<String, String>>))]
    pub labels: Option<Labels>,
}

/// `GET /v1/certificates`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CertificateList {
    /// This page's certificates.
    pub certificates: Vec<Certificate>,
    /// The page.
    pub meta: Meta,
}

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CertificateReply {
    /// The certificate.
    pub certificate: Certificate,
}

/// The answer to `POST /v1/certificates`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CertificateCreated {
    /// The certificate.
    pub certificate: Certificate,
    /// None: an uploaded one is there at once.
    pub action: Option<Action>,
}
