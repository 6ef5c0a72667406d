//! The agent protocol: JSON over HTTPS with mutual TLS between the control plane and the agent
//! of one node. The same requests are answered on the agent's unix socket for its command line.
//!
//! | request | answers |
//! | --- | --- |
//! | `GET /v1/node` | [`Node`] |
//! | `GET /v1/vms` | [`VmList`] |
//! | `GET /v1/vms/{id}` | [`Vm`] |
//! | `PUT /v1/vms/{id}` with [`VmSpec`] | [`Vm`]; converges: told twice, or cut off and told again, it ends the same |
//! | `DELETE /v1/vms/{id}` | 204, also when there is none: nothing of it is left |
//! | `POST /v1/vms/{id}/power` with [`PowerRequest`] | [`Vm`] |
//! | `GET /v1/images` | [`ImageFileList`] |
//! | `PUT /v1/images/{sha256}` with the file | [`ImageFile`]; refused when the checksum differs |
//! | `DELETE /v1/images/{sha256}` | 204; `conflict` while a disk stands on it |
//! | `POST /v1/certificate/request` | [`CertificateRequest`]: a new key, made on the node |
//! | `PUT /v1/certificate` with [`Certificate`] | 204; used from the next connection on |
//! | `GET /v1/stream` | WebSocket: [`StreamMessage`] from the agent, [`StreamCommand`] to it |
//!
//! Errors have the API's form, [`crate::ErrorBody`], with these codes: `invalid_input` (422, names
//! the field), `not_found`, `conflict` (another function works on this VM, or it is in a state
//! that does not allow this), `resource_unavailable` (422: an image that is not on the node, no
//! space), `unavailable` (503: libvirt does not answer), `service_error` (500: libvirt refused).

mod image;
mod node;
mod stream;
mod vm;

pub use image::{ImageFile, ImageFileList};
pub use node::{
    Certificate, CertificateRequest, DomainType, EnrolReply, EnrolRequest, Health, Node, NodeFacts, Versions,
};
pub use stream::{CounterSample, StreamCommand, StreamMessage, VmEvent};
pub use vm::{
    Nic, NicAddress, PowerRequest, PowerVerb, Vm, VmImage, VmList, VmSeed, VmSpec, VmState, WantedPower,
};
