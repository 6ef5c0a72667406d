//! Both ends of a way show the agent's certificate.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};

use crate::clock;
use crate::identity::{Identity, IdentityError};

/// The target's end.
pub fn server(identity: &Identity) -> Result<Arc<ServerConfig>, IdentityError> {
    let (provider, key) = begin(identity)?;
    let agents = Agents { roots: identity.roots()?, provider: Arc::clone(&provider) };
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| unfit(&e))?
        .with_client_cert_verifier(Arc::new(agents))
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
#[derive(Debug)]
struct Agents {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for Agents {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
