//! What the agent needs of a hypervisor, and nothing more. Two are behind it: libvirt, and a
//! simulator in memory that keeps the same promises without a guest.
//!
//! All functions block; the caller runs them away from the async runtime, with a deadline, and
//! never two on one VM at a time. All state stands in the hypervisor and on disk: an agent that
//! was killed anywhere finds everything again.

pub mod libvirt;
pub mod simulator;

use std::os::unix::net::UnixStream;

use berth_model::agent::{
    CounterSample, DomainType, MoveArrived, MoveRoom, MoveSend, MoveSent, PowerVerb, Versions, Vm, VmEvent,
    VmSpec,
};
use berth_model::{FieldError, VmId};
use tokio::sync::broadcast;

use crate::moving::Way;
use crate::runs::Cx;

/// Why a function was not carried out. Turned into the protocol's codes in one place.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    /// The request makes no sense; nothing was touched. Says which field.
    #[error("{}: {}", .0.name, .0.messages.join(" "))]
    Invalid(FieldError),
    /// There is no such VM.
    #[error("there is no VM {0} on this node")]
    NotFound(VmId),
    /// The VM is in a state that does not allow this.
    #[error("{0}")]
    Conflict(String),
    /// An image that is not on the node, or no space.
    #[error("{0}")]
    Lacking(String),
    /// The hypervisor does not answer.
    #[error("{0}")]
    Unavailable(String),
    /// The hypervisor refused; with its own words, for the operator.
    #[error("{0}")]
    Failed(String),
}

/// What the hypervisor itself says of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HypervisorFacts {
    /// What really boots a guest.
    pub domain_type: DomainType,
    /// libvirt's and QEMU's version; empty where there is none. `agent` and `kernel` stay empty.
    pub versions: Versions,
}

/// The functions. `put`, `delete` and `power` may be cut off anywhere and told again.
pub trait Hypervisor: Send + Sync + 'static {
    /// Answers if the hypervisor does.
    fn ping(&self) -> Result<(), HypervisorError>;

    /// Domain type and versions.
    fn facts(&self) -> Result<HypervisorFacts, HypervisorError>;

    /// All VMs of this agent, by number, also half-made ones.
    fn list(&self) -> Result<Vec<Vm>, HypervisorError>;

    /// One VM; [`HypervisorError::NotFound`] if nothing of it is there.
    fn get(&self, id: VmId) -> Result<Vm, HypervisorError>;

    /// Brings a VM to `spec`, made anew if need be.
    fn put(&self, id: VmId, spec: &VmSpec) -> Result<Vm, HypervisorError>;

    /// Leaves nothing of a VM: no domain, disk, seed, log, socket. Fine if there is none.
    fn delete(&self, id: VmId) -> Result<(), HypervisorError>;

    /// Changes its power, see [`PowerVerb`].
    fn power(&self, id: VmId, verb: PowerVerb) -> Result<Vm, HypervisorError>;

    /// Makes room for a VM that comes from another node: all but its domain. Told again, it makes an empty
    /// disk anew unless the VM is arriving.
    fn move_prepare(&self, id: VmId, spec: &VmSpec) -> Result<MoveRoom, HypervisorError>;

    /// Sends a VM to the room that was made for it, and leaves nothing here.
    fn move_send(&self, id: VmId, order: &MoveSend, way: &Way, cx: &Cx) -> Result<MoveSent, HypervisorError>;

    /// Takes what [`Hypervisor::move_send`] sends of a VM that is off.
    fn move_receive(&self, id: VmId, from: UnixStream) -> Result<(), HypervisorError>;

    /// Is a VM for which room was made here as a whole?
    fn move_has_arrived(&self, id: VmId) -> Result<bool, HypervisorError>;

    /// Makes a VM that has arrived an ordinary one.
    fn move_finish(&self, id: VmId) -> Result<MoveArrived, HypervisorError>;

    /// Leaves nothing of a room in which no VM has arrived. Fine if there is none.
    fn move_abort(&self, id: VmId) -> Result<(), HypervisorError>;

    /// Counters of all running VMs, in one call to the hypervisor.
    fn counters(&self) -> Result<Vec<CounterSample>, HypervisorError>;

    /// Changes of state from now on. A receiver that lags learns so and lists anew.
    fn events(&self) -> broadcast::Receiver<VmEvent>;
}
