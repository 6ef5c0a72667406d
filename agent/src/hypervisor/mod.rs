//! What the agent needs of a hypervisor, and nothing more. Two are behind it: libvirt, and a
//! simulator in memory that keeps the same promises without a guest.
//!
//! All functions block; the caller runs them away from the async runtime, with a deadline, and
//! never two on one VM at a time. All state stands in the hypervisor and on disk: an agent that
//! was killed anywhere finds everything again.

pub mod libvirt;
pub mod machines;
pub mod simulator;

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_model::agent::{
    ConsoleKind, CounterSample, DomainType, LeaseList, MoveArrived, MovePrepare, MoveRoom, MoveSend,
    MoveSent, Name, NetworkState, NodeCheck, PowerVerb, PrivateNetwork, Snapshot, TrafficList, Versions, Vm,
    VmEvent, VmSpec, Volume,
};
use berth_model::{ByteSize, FieldError, PrivateNetworkId, Timestamp, VmId, VolumeId};
use serde_json::Value;
use tokio::sync::broadcast;

pub use self::machines::Machines;
use crate::backups::disk::{Making, Restoring, Taking, Wish};
use crate::lease::Lease;
use crate::moving::Way;
use crate::orphans::Found;
use crate::runs::Cx;
use crate::screenshot::Picture;
use crate::storage::Storage;

/// Why a function was not carried out. Turned into the protocol's codes in one place.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    /// The request makes no sense; nothing was touched. Says which field.
    #[error("{}: {}", .0.name, .0.messages.join(" "))]
    Invalid(FieldError),
    /// There is no such VM.
    #[error("there is no VM {0} on this node")]
    NotFound(VmId),
    /// There is no such volume, snapshot, pool.
    #[error("{0}")]
    Unknown(String),
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
    /// Is each disk that a VM writes to under a lease?
    pub storage_leases: bool,
}

/// The functions. `put`, `delete` and `power` may be cut off anywhere and told again.
pub trait Hypervisor: Machines + Send + Sync + 'static {
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

    /// Lends a VM's disk as it is at one moment, and marks that moment; mends what was cut off before.
    fn backup_begin(&self, id: VmId, wish: &Wish<'_>) -> Result<Box<dyn Taking>, HypervisorError>;

    /// Begins a disk for a VM that is off, or for one that is not there yet.
    fn restore_begin(&self, id: VmId, restoring: &Restoring) -> Result<Box<dyn Making>, HypervisorError>;

    /// Makes room for a VM that comes from another node: all but its domain. Told again, it makes empty
    /// disks anew unless the VM is arriving, and keeps the room until the new moment.
    fn move_prepare(
        &self,
        id: VmId,
        asked: &MovePrepare,
        until: Timestamp,
    ) -> Result<MoveRoom, HypervisorError>;

    /// Rooms in which no VM has arrived, and until when they are kept.
    fn move_rooms(&self) -> Result<Vec<(VmId, Timestamp)>, HypervisorError>;

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

    /// Opens a console of a VM that is on: a connection of its own to its screen (RFB), or to its serial port,
    /// which lets in one at a time. It ends when the VM stops.
    fn console(&self, id: VmId, kind: ConsoleKind) -> Result<UnixStream, HypervisorError>;

    /// The end of what a VM wrote to its serial port.
    fn console_log(&self, id: VmId, max_bytes: usize) -> Result<Vec<u8>, HypervisorError>;

    /// What the screen of a VM that is on shows.
    fn screenshot(&self, id: VmId) -> Result<Picture, HypervisorError>;

    /// Presses keys together, by Linux's codes, of a VM that is on.
    fn send_keys(&self, id: VmId, codes: &[u32], hold: Duration) -> Result<(), HypervisorError>;

    /// What crashes left behind of VMs.
    fn orphans(&self) -> Result<Vec<Found<'_>>, HypervisorError>;

    /// What guests need of the node besides an answer to [`Self::ping`].
    fn checks(&self) -> Vec<NodeCheck>;

    /// Asks a VM's guest agent: `words` is a command of QEMU's guest agent protocol, and the answer is what
    /// stands under `return`. Use [`crate::guest::Guest`] instead.
    ///
    /// `Unavailable` when it does not answer, `Conflict` when the VM does not run, `Lacking` when it does
    /// not know the command.
    fn ask_guest(&self, id: VmId, words: &Value, patience: Duration) -> Result<Value, HypervisorError>;

    /// Counters of all running VMs by number, in one call to the hypervisor.
    fn counters(&self) -> Result<Vec<CounterSample>, HypervisorError>;

    /// Its pools and volumes.
    fn storage(&self) -> &Storage;

    /// Grows a volume, in a running guest, too.
    fn volume_resize(&self, id: VolumeId, size: ByteSize) -> Result<Volume, HypervisorError>;

    /// Snapshots of a VM's disk, the oldest first.
    fn snapshots(&self, id: VmId) -> Result<Vec<Snapshot>, HypervisorError>;

    /// Takes a snapshot; fine if there is one of this name.
    fn snapshot_create(&self, id: VmId, name: &Name) -> Result<Snapshot, HypervisorError>;

    /// Brings the disk back to a snapshot; what runs is powered off for it and started again.
    fn snapshot_revert(&self, id: VmId, name: &Name) -> Result<Vm, HypervisorError>;

    /// Leaves no snapshot of this name.
    fn snapshot_delete(&self, id: VmId, name: &Name) -> Result<(), HypervisorError>;

    /// Writes the disk as it is now to a new file `to`: a compressed qcow2 that stands alone. What fails
    /// leaves no file.
    fn disk_export(&self, cx: &Cx, id: VmId, to: &Path) -> Result<(), HypervisorError>;

    /// Changes of state from now on. A receiver that lags learns so and lists anew.
    fn events(&self) -> broadcast::Receiver<VmEvent>;

    /// Does what is to be done at the agent's start and from time to time: puts back what somebody removed
    /// from the node's network, and counts traffic.
    fn tend(&self) -> Result<(), HypervisorError>;

    /// From now on VMs that are marked for failover start only as this lease admits them.
    fn guard(&self, lease: Arc<Lease>);

    /// VMs that are marked for failover. Answers at once, without the hypervisor and without the disk.
    fn marked(&self) -> Vec<VmId>;

    /// Ends these VMs at once, also when the hypervisor hangs; those that ran, and how that went.
    fn fence(&self, ids: &[VmId]) -> Vec<(VmId, Result<(), HypervisorError>)>;

    /// Mends what functions that were cut off left in VMs that run: to be done at the agent's start and every
    /// few seconds. Leaves alone what a function works on.
    fn mend(&self) -> Result<(), HypervisorError> {
        Ok(())
    }

    /// What the node does for its guests' network cards.
    fn network(&self) -> Result<NetworkState, HypervisorError>;

    /// What each address has carried.
    fn traffic(&self) -> Result<TrafficList, HypervisorError>;

    /// Which VMs' own disks stand on which images, by SHA-256, where their files say so. Blocks.
    fn standing_on(&self) -> Result<Vec<(VmId, String)>, HypervisorError> {
        Ok(Vec::new())
    }

    /// What a VM's cards asked for last of what the node serves them.
    fn leases(&self, id: VmId) -> Result<LeaseList, HypervisorError>;

    /// Brings this node's part of a private network to what it should be.
    fn put_network(&self, id: PrivateNetworkId, network: &PrivateNetwork) -> Result<(), HypervisorError>;

    /// Leaves nothing of a private network on this node; [`HypervisorError::Conflict`] while a card is in it.
    fn delete_network(&self, id: PrivateNetworkId) -> Result<(), HypervisorError>;
}
