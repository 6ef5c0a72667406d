//! Mutual TLS: who may speak, and what this side shows.
//!
//! ```text
//! not enrolled ──identity.json appears──► enrolled ──request: next key──► waiting
//!   no listener                            listening ◄──certificate: swap──┘
//! ```
//!
//! Only a peer with a certificate of the control plane's CA *and* the name
//! `control-plane.berth.internal` gets through the handshake: agents of other nodes have certificates
//! of the same CA. A new identity counts from the next connection on; open ones are not dropped.

pub(crate) mod guard;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum_server::tls_rustls::RustlsConfig;
use berth_model::agent::{Certificate, CertificateRequest};
use berth_model::{ErrorCode, Timestamp};
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::watch;

use self::guard::Guard;
use crate::clock;
use crate::error::Refusal;
use crate::identity::{Identity, IdentityError, NewKey};
use crate::node::Life;

/// The name that a control plane's certificate bears.
pub const PEER_NAME: &str = "control-plane.berth.internal";

/// The agent's side of TLS.
pub struct Tls {
    folder: PathBuf,
    node_name: String,
    provider: Arc<CryptoProvider>,
    current: Mutex<Option<Current>>,
    config: watch::Sender<Option<RustlsConfig>>,
    problem: Mutex<Option<String>>,
}

/// The identity in use.
struct Current {
    identity: Identity,
    life: Life,
}

impl Tls {
    /// Opens the tls folder; the agent may be enrolled or not. An identity that cannot be used makes
    /// the node unhealthy, and leaves the command line working.
    pub fn open(folder: PathBuf, node_name: &str) -> Self {
        let tls = Self {
            folder,
            node_name: node_name.to_owned(),
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            current: Mutex::default(),
            config: watch::Sender::new(None),
            problem: Mutex::default(),
        };
        tls.reload_or_tell();
        tls
    }

    /// The configuration of the listener, once there is an identity.
    pub async fn enrolled(&self) -> RustlsConfig {
        let mut config = self.config.subscribe();
        let enrolled = config.wait_for(Option::is_some).await.expect("the sender is ours and lives");
        enrolled.clone().expect("it was waited for")
    }

    /// The life of the certificate in use.
    pub fn life(&self) -> Option<Life> {
        self.current().as_ref().map(|current| current.life)
    }

    /// The identity in use.
    pub fn identity(&self) -> Result<Identity, Refusal> {
        self.current().as_ref().map(|current| current.identity.clone()).ok_or_else(not_enrolled)
    }

    /// Takes over what another process wrote into the folder, for as long as this is polled.
    pub async fn watch(&self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            self.reload_or_tell();
        }
    }

    /// What is wrong with the identity in the folder; a sentence.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn reload_or_tell(&self) {
        let found = self.reload().err().map(|e| format!("The agent's identity cannot be used: {e}"));
        let mut problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = found.as_ref().filter(|_| found != *problem) {
            tracing::error!("{found}");
        }
        *problem = found;
    }

    /// `POST /v1/certificate/request`: a new key, kept aside, and a request for its certificate.
    pub fn request(&self) -> Result<CertificateRequest, Refusal> {
        if self.current().is_none() {
            return Err(not_enrolled());
        }
        let new = NewKey::draw(&self.node_name)?;
        new.keep(&self.folder)?;
        Ok(CertificateRequest { csr_pem: new.csr_pem })
    }

    /// `PUT /v1/certificate`: the certificate for the key kept aside.
    pub fn accept(&self, certificate: Certificate) -> Result<(), Refusal> {
        let old = self.current().as_ref().map(|current| current.identity.clone()).ok_or_else(not_enrolled)?;
        if certificate.certificate_pem == old.certificate_pem {
            return Ok(());
        }
        let Some(key_pem) = NewKey::kept(&self.folder)? else {
            return Err(Refusal::conflict("No key waits for a certificate; request one first."));
        };
        let new = Identity { key_pem, certificate_pem: certificate.certificate_pem, ..old };
        let wrong = |e: IdentityError| Refusal::field("certificate_pem", e.to_string());
        let config = self.server_config(&new, clock::now()).map_err(wrong)?;
        let life = new.life().map_err(wrong)?;
        new.store(&self.folder)?;
        self.swap(Current { identity: new, life }, config);
        tracing::info!(until = %life.not_after, "a new certificate is in use");
        Ok(())
    }

    fn reload(&self) -> Result<(), IdentityError> {
        let Some(identity) = Identity::load(&self.folder)? else { return Ok(()) };
        if self.current().as_ref().is_some_and(|current| current.identity == identity) {
            return Ok(());
        }
        let life = identity.life()?;
        // An agent whose certificate ended, or whose clock is wrong, keeps its listener: the control
        // plane decides, and may still replace the certificate.
        let config = self.server_config(&identity, clock::now().clamp(life.not_before, life.not_after))?;
        tracing::info!(node = %identity.node, until = %life.not_after, "enrolled");
        self.swap(Current { identity, life }, config);
        Ok(())
    }

    fn swap(&self, current: Current, config: ServerConfig) {
        let config = Arc::new(config);
        *self.current() = Some(current);
        self.config.send_modify(|shown| match shown {
            Some(shown) => shown.reload_from_config(config),
            None => *shown = Some(RustlsConfig::from_config(config)),
        });
    }

    fn server_config(&self, identity: &Identity, at: Timestamp) -> Result<ServerConfig, IdentityError> {
        let unfit =
            |e: &dyn std::error::Error| IdentityError::Unfit(format!("TLS refuses the identity: {e}."));
        let key = identity.certified_key(&self.provider, at)?;
        let control_plane = control_plane_only(identity.roots()?, &self.provider).map_err(|e| unfit(&e))?;
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| unfit(&e))?
            .with_client_cert_verifier(control_plane)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn current(&self) -> MutexGuard<'_, Option<Current>> {
        // Replaced as a whole: fine after any panic.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<IdentityError> for Refusal {
    fn from(error: IdentityError) -> Self {
        Self::own("The agent's key or certificate could not be kept", &error)
    }
}

fn not_enrolled() -> Refusal {
    Refusal::new(ErrorCode::Conflict, "This agent is not enrolled; run berth-agent enrol.")
}

/// Lets in who has a certificate of the CA, and the control plane's name on it.
fn control_plane_only(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, VerifierBuilderError> {
    let hints = roots.subjects();
    let ca = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build()?;
    let rule = move |end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], now| {
        let name = ServerName::try_from(PEER_NAME).expect("the name is a DNS name");
        let named = ca
            .verify_client_cert(end_entity, intermediates, now)
            .and_then(|_| verify_server_name(&ParsedCertificate::try_from(end_entity)?, &name));
        named.inspect_err(|e| {
            tracing::warn!(error = %e, "a peer was refused: only the control plane may speak to this agent");
        })
    };
    Ok(Arc::new(Guard::new(Arc::clone(provider), hints, rule)))
}
