//! Both ends of a way show the agent's certificate.

use std::sync::Arc;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::clock;
use crate::identity::{Identity, IdentityError};
use crate::tls::guard::Guard;

/// The target's end.
pub fn server(identity: &Identity) -> Result<Arc<ServerConfig>, IdentityError> {
    let (provider, key) = begin(identity)?;
    let agents = agents(identity.roots()?, &provider);
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| unfit(&e))?
        .with_client_cert_verifier(agents)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    Ok(Arc::new(config))
}

/// The source's end.
pub fn client(identity: &Identity) -> Result<Arc<ClientConfig>, IdentityError> {
    let (provider, key) = begin(identity)?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| unfit(&e))?
        .with_root_certificates(identity.roots()?)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    Ok(Arc::new(config))
}

fn begin(identity: &Identity) -> Result<(Arc<CryptoProvider>, Arc<CertifiedKey>), IdentityError> {
    let provider = Arc::new(ring::default_provider());
    let key = identity.certified_key(&provider, clock::now())?;
    Ok((provider, key))
}

fn unfit(e: &dyn std::error::Error) -> IdentityError {
    IdentityError::Unfit(format!("TLS refuses the identity: {e}."))
}

/// Lets in who has a node's certificate. Those are made for servers, so they are looked at as such.
fn agents(roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Arc<dyn ClientCertVerifier> {
    let algorithms = provider.signature_verification_algorithms.all;
    let rule = move |end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], now| {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&certificate, &roots, intermediates, now, algorithms)
    };
    Arc::new(Guard::new(Arc::clone(provider), Vec::new(), rule))
}
