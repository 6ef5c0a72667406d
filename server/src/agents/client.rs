use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use berth_model::agent::function::{self, Kind, certificate, image, vm};
use berth_model::agent::{
    CONSOLE_PROTOCOL, CONSOLE_TICKET_PROTOCOL, Certificate, CertificateRequest, ConsoleKind,
    ConsoleTicketRequest, Function, ImageFile, Node, Nothing, PowerVerb, Sha256, Vm, VmDelete, VmShutdown,
    VmSpec,
};
use berth_model::{ErrorBody, NodeId, Timestamp, VmId};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;

use super::{AgentAddress, AgentError, AgentSocket, Agents, Channel, agent_name, dial};
use crate::nodes::ca::SignError;
use crate::{clock, entropy, nodes};

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a change may take: a VM's disk is made from an image, and libvirt starts it.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a function that may take hours is waited for before it is asked for again. Short, since a request under way
/// takes one of the node's places.
const LONG_PATIENCE: Duration = Duration::from_secs(5);
/// How long an image may take to travel; 20 GB at 100 Mbit/s.
const IMAGE_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// How long to wait for one of the node's places when all are taken.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest message of a console.
const CONSOLE_MESSAGE_MAX_BYTES: usize = 256 * 1024;
/// Largest answer that is read.
const ANSWER_SIZE_MAX_BYTES: usize = 64 * 1024 * 1024;

/// The agent of one node, with one method per request of the protocol.
#[derive(Clone)]
pub struct AgentClient {
    agents: Arc<Agents>,
    node: NodeId,
    /// Where it is, when the caller knows; else it is looked up.
    address: Option<AgentAddress>,
    request_id: Option<String>,
}

impl AgentClient {
    pub(super) fn new(agents: Arc<Agents>, node: NodeId, address: Option<AgentAddress>) -> Self {
        Self { agents, node, address, request_id: None }
    }

    /// The same, with the id of the request or job behind it, for the agent's log. Without one it is
    /// the id of the request under way, if any.
    #[must_use]
    pub fn with_request_id(mut self, id: impl Into<String>) -> Self {
        self.request_id = Some(id.into());
        self
    }

    /// Asks for a function. One that may take hours is asked for until it is done: while it is under way, asking in
    /// the same words begins nothing new.
    ///
    /// # Errors
    /// When the agent refuses, is not reached, or answers nonsense.
    pub async fn call<F: Function>(
        &self,
        target: &F::Target,
        request: &F::Request,
    ) -> Result<F::Answer, AgentError> {
        let method = match F::METHOD {
            function::Method::Get => Method::GET,
            function::Method::Put => Method::PUT,
            function::Method::Post => Method::POST,
            function::Method::Delete => Method::DELETE,
        };
        let timeout = if F::KIND == Kind::Read { ANSWER_TIMEOUT } else { CHANGE_TIMEOUT };
        let patience = format!("wait={}", LONG_PATIENCE.as_secs());
        loop {
            let fill = |builder: RequestBuilder| match F::KIND {
                Kind::Long => Ok(builder.json(request).header("prefer", &patience)),
                Kind::Read | Kind::Change => Ok(builder.json(request)),
            };
            let response = self.send(method.clone(), &F::path(target), timeout, fill).await?;
            if response.status() != StatusCode::ACCEPTED {
                return json(response).await;
            }
        }
    }

    /// What the node is, and can it work?
    pub async fn node(&self) -> Result<Node, AgentError> {
        self.call::<function::node::Get>(&(), &Nothing {}).await
    }

    /// All its VMs.
    pub async fn list_vms(&self) -> Result<Vec<Vm>, AgentError> {
        Ok(self.call::<vm::List>(&(), &Nothing {}).await?.vms)
    }

    /// A VM; `None` if nothing of it is there.
    pub async fn get_vm(&self, vm: VmId) -> Result<Option<Vm>, AgentError> {
        match self.call::<vm::Get>(&vm, &Nothing {}).await {
            Ok(vm) => Ok(Some(vm)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Brings a VM to `spec`; told twice it ends the same.
    pub async fn put_vm(&self, vm: VmId, spec: &VmSpec) -> Result<Vm, AgentError> {
        self.call::<vm::Put>(&vm, spec).await
    }

    /// Leaves nothing of a VM; fine if there is none.
    pub async fn delete_vm(&self, vm: VmId) -> Result<(), AgentError> {
        self.call::<vm::Delete>(&vm, &VmDelete::default()).await.map(drop)
    }

    /// Changes a VM's power.
    pub async fn power(&self, vm: VmId, verb: PowerVerb) -> Result<Vm, AgentError> {
        match verb {
            PowerVerb::Start => self.call::<vm::Start>(&vm, &Nothing {}).await,
            PowerVerb::Shutdown => self.call::<vm::Shutdown>(&vm, &VmShutdown::default()).await,
            PowerVerb::Reboot => self.call::<vm::Reboot>(&vm, &Nothing {}).await,
            PowerVerb::Reset => self.call::<vm::Reset>(&vm, &Nothing {}).await,
            PowerVerb::PowerOff => self.call::<vm::PowerOff>(&vm, &Nothing {}).await,
            PowerVerb::Pause => self.call::<vm::Pause>(&vm, &Nothing {}).await,
            PowerVerb::Resume => self.call::<vm::Resume>(&vm, &Nothing {}).await,
        }
    }

    /// All its image files.
    pub async fn images(&self) -> Result<Vec<ImageFile>, AgentError> {
        Ok(self.call::<image::List>(&(), &Nothing {}).await?.images)
    }

    /// Sends an image file; the agent refuses it when its checksum is another.
    pub async fn put_image(&self, sha256: &str, file: &Path) -> Result<ImageFile, AgentError> {
        let open = tokio::fs::File::open(file).await;
        let open = open.with_context(|| format!("the image file {}", file.display()))?;
        let length = open.metadata().await.with_context(|| format!("{}", file.display()))?.len();
        let body = reqwest::Body::wrap_stream(tokio_util::io::ReaderStream::with_capacity(open, 256 * 1024));
        let path = format!("/v1/images/{sha256}");
        let fill =
            |request: RequestBuilder| Ok(request.header(reqwest::header::CONTENT_LENGTH, length).body(body));
        json(self.send(Method::PUT, &path, IMAGE_TIMEOUT, fill).await?).await
    }

    /// The file of an image on the node, as it comes.
    pub async fn image_file(
        &self,
        sha256: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, AgentError>> + use<>, AgentError> {
        let path = format!("/v1/images/{sha256}/file");
        let response = self.send(Method::GET, &path, IMAGE_TIMEOUT, Ok).await?;
        Ok(response.bytes_stream().map_err(|error| AgentError::Unreachable(chain(&error))))
    }

    /// Removes an image file; `conflict` while a disk stands on it.
    pub async fn delete_image(&self, sha256: &str) -> Result<(), AgentError> {
        self.call::<image::Delete>(&Sha256(sha256.to_owned()), &Nothing {}).await.map(drop)
    }

    /// Asks for a request for a new certificate.
    pub async fn request_certificate(&self) -> Result<CertificateRequest, AgentError> {
        self.call::<certificate::Request>(&(), &Nothing {}).await
    }

    /// Hands the certificate for that request over.
    pub async fn put_certificate(&self, certificate_pem: String) -> Result<(), AgentError> {
        self.call::<certificate::Put>(&(), &Certificate { certificate_pem }).await.map(drop)
    }

    /// Changes the agent's certificate for a new one, for a key it makes now. When that ends.
    pub(crate) async fn change_certificate(&self, now: Timestamp) -> Result<Timestamp, AgentError> {
        let address = self.address().await?;
        let request = self.request_certificate().await?;
        let signed = self.agents.authority().sign_agent(&request.csr_pem, &address, now);
        let certificate = signed.map_err(|error| match error {
            SignError::Request(why) => {
                AgentError::Nonsense(format!("its request for a certificate is {why}"))
            }
            SignError::Ours(error) => AgentError::Ours(error),
        })?;
        self.put_certificate(certificate.pem).await?;
        Ok(certificate.expires)
    }

    /// Opens a console of a VM.
    ///
    /// # Errors
    /// When the agent refuses, or is not reached.
    pub async fn console(&self, vm: VmId, kind: ConsoleKind) -> Result<AgentSocket, AgentError> {
        let request = ConsoleTicketRequest { kind, seconds: None };
        let ticket = self.call::<function::console::Ticket>(&vm, &request).await?;
        let protocols = format!("{CONSOLE_PROTOCOL}, {CONSOLE_TICKET_PROTOCOL}{}", ticket.ticket);
        let (credentials, address) = (self.agents.credentials(), self.address().await?);
        let opened = dial(credentials, &address, &ticket.path, Some(&protocols), CONSOLE_MESSAGE_MAX_BYTES);
        opened.await.map_err(|error| AgentError::Unreachable(format!("{error:#}")))
    }

    /// Sends a request when the node has a place for it, and tells its circuit how it went.
    async fn send(
        &self,
        method: Method,
        path: &str,
        timeout: Duration,
        fill: impl FnOnce(RequestBuilder) -> Result<RequestBuilder, AgentError>,
    ) -> Result<Response, AgentError> {
        let address = self.address().await?;
        let channel = self.agents.channel(self.node, &address)?;
        let permit = tokio::time::timeout(PERMIT_TIMEOUT, channel.permits.acquire()).await;
        let _permit = permit
            .map_err(|_| AgentError::Unreachable("it has too many requests under way".to_owned()))?
            .context("the bound of requests is never closed")?;
        // Who knows where it is has just reached it.
        if self.address.is_none() && !channel.circuit().admit(clock::now()) {
            return Err(AgentError::Unreachable("it failed several times just now".to_owned()));
        }

        let url = format!("https://{}:{}{path}", agent_name(self.node), address.port);
        let id = self.request_id.clone().or_else(crate::http::request_id);
        let id = id.unwrap_or_else(|| entropy::uuid().simple().to_string());
        tracing::debug!(node = %self.node, %method, path, request_id = %id, "asking an agent");
        let request = channel.http.request(method, url).timeout(timeout).header("x-request-id", id);
        match fill(request)?.send().await {
            Ok(response) => {
                channel.circuit().answered();
                refuse(response).await
            }
            Err(error) => {
                channel.circuit().failed(clock::now());
                Err(AgentError::Unreachable(chain(&error)))
            }
        }
    }

    /// The name or address under which the node is reached, by other nodes as well.
    ///
    /// # Errors
    /// When the node is down, or has not enrolled.
    pub async fn host(&self) -> Result<String, AgentError> {
        Ok(self.address().await?.host)
    }

    async fn address(&self) -> Result<AgentAddress, AgentError> {
        if let Some(address) = &self.address {
            return Ok(address.clone());
        }
        let mut conn = self.agents.db.acquire().await?;
        let Some(contact) = nodes::queries::contact(&mut conn, self.node).await? else {
            return Err(AgentError::Unreachable("the node has not enrolled yet".to_owned()));
        };
        if contact.down {
            return Err(AgentError::Unreachable("the node is down".to_owned()));
        }
        AgentAddress::parse(self.node, &contact.address).map_err(AgentError::Nonsense)
    }
}

impl Channel {
    fn circuit(&self) -> std::sync::MutexGuard<'_, super::Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Turns an answer that is not a success into the error it carries.
async fn refuse(response: Response) -> Result<Response, AgentError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = bounded(response).await?;
    match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(body) => Err(AgentError::Refused(body.error)),
        Err(_) if status == StatusCode::GATEWAY_TIMEOUT || status == StatusCode::BAD_GATEWAY => {
            Err(AgentError::Unreachable(format!("something between us answered {status}")))
        }
        Err(_) => Err(AgentError::Nonsense(format!("{status} without the protocol's error"))),
    }
}

async fn json<T: DeserializeOwned>(response: Response) -> Result<T, AgentError> {
    let empty = response.status() == StatusCode::NO_CONTENT;
    let body = if empty { b"{}".to_vec() } else { bounded(response).await? };
    serde_json::from_slice(&body).map_err(|error| AgentError::Nonsense(error.to_string()))
}

/// The whole answer, unless it is too large.
async fn bounded(mut response: Response) -> Result<Vec<u8>, AgentError> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > ANSWER_SIZE_MAX_BYTES => {
                return Err(AgentError::Nonsense(format!("longer than {ANSWER_SIZE_MAX_BYTES} bytes")));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body),
            Err(error) => return Err(AgentError::Unreachable(chain(&error))),
        }
    }
}

/// An error with its causes: reqwest's own message does not say why.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    std::iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
}
