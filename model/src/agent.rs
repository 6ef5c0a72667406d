//! The agent protocol: JSON over HTTPS with mutual TLS between the control plane and the agent
//! of one node. The same requests are answered on the agent's unix socket for its command line.
//!
//! The requests are the [functions](function). Beside them:
//!
//! | request | answers |
//! | --- | --- |
//! | `PUT /v1/images/{sha256}` with the file | [`ImageFile`]; refused when the checksum differs |
//! | `GET /v1/stream` | WebSocket: [`StreamMessage`] from the agent, [`StreamCommand`] to it |
//!
//! Errors have the API's form, [`crate::ErrorBody`], with these codes: `invalid_input` (422, names
//! the field), `not_found`, `conflict` (another function works on this VM, or it is in a state
//! that does not allow this), `resource_unavailable` (422: an image that is not on the node, no
//! space), `unavailable` (503: libvirt does not answer), `service_error` (500: libvirt refused).

pub mod function;
mod image;
mod moving;
mod node;
mod run;
mod stream;
mod vm;

pub use function::{Function, Name, Nothing, Sha256};
pub use image::{ImageFile, ImageFileList};
pub use moving::{MoveArrived, MovePlace, MovePrepare, MoveRoom, MoveSend, MoveSent};
pub use node::{
    Certificate, CertificateRequest, DomainType, EnrolReply, EnrolRequest, Health, Node, NodeFacts, Versions,
};
pub use run::{Progress, Run, RunId, RunList};
pub use stream::{CounterSample, StreamCommand, StreamMessage, VmEvent};
pub use vm::{Nic, NicAddress, PowerVerb, Vm, VmImage, VmList, VmSeed, VmSpec, VmState, WantedPower};
