//! The agent protocol: JSON over HTTPS with mutual TLS between the control plane and the agent
//! of one node. The same requests are answered on the agent's unix socket for its command line.
//!
//! The requests are the [functions](function). Beside them:
//!
//! | request | answers |
//! | --- | --- |
//! | `GET /v1/images/{sha256}/file` | the file |
//! | `PUT /v1/images/{sha256}` with the file | [`ImageFile`]; refused when the checksum differs. A qcow2 or ISO file; `?format=raw` (vmdk, vdi) for one to be converted |
//! | `GET /v1/stream` | WebSocket: [`StreamMessage`] from the agent, [`StreamCommand`] to it |
//! | `GET /v1/vms/{vm}/console/{kind}` | WebSocket: a console, with a [`ConsoleTicket`] |
//!
//! Errors have the API's form, [`crate::ErrorBody`], with these codes: `invalid_input` (422, names
//! the field), `not_found`, `conflict` (another function works on this VM, or it is in a state
//! that does not allow this), `resource_unavailable` (422: an image that is not on the node, no
//! space), `unavailable` (503: libvirt does not answer), `service_error` (500: libvirt refused).

mod backup;
mod console;
pub mod function;
mod guest;
mod hardware;
mod image;
mod keeping;
mod lease;
mod machine;
mod moving;
mod network;
mod node;
mod run;
mod sample;
mod services;
mod size;
mod storage;
mod stream;
mod vm;

pub use backup::{
    Backup, BackupCreate, BackupDelete, BackupKeep, BackupKey, BackupKind, BackupList, BackupPrune,
    BackupPruned, BackupRestore, BackupStore, BackupVerified, BackupVerify, BackupWhere, RestoredDisk,
    StoreSecret,
};
pub use console::{
    CONSOLE_PROTOCOL, CONSOLE_TICKET_PROTOCOL, ConsoleKind, ConsoleLog, ConsoleLogRequest, ConsoleTicket,
    ConsoleTicketRequest, Screenshot, SendKeys,
};
pub use function::{Checksum, Function, Mac, Name, Nothing, Sha256};
pub use guest::{
    Frozen, GuestAddress, GuestFileSystem, GuestFreeze, GuestHostname, GuestInfo, GuestInterface, GuestOs,
    GuestPassword, GuestSshKeys, GuestUser, HoldsFrom, HostnameSet, Thawed, TimeSynced, Trimmed,
    TrimmedFileSystem,
};
pub use hardware::{
    BootDevice, Firmware, FirmwareChange, Hardware, HardwareChange, Rescue, VmAutostart, VmBootOrder, VmIso,
    VmRename, Watchdog,
};
pub use image::{ImageFetch, ImageFile, ImageFileList, ImageFormat, ImageVerdict};
pub use keeping::{
    Capacity, Maintenance, MaintenanceRequest, NodeCheck, NodeChecks, Orphan, OrphanList, OrphansRequest,
    RoomShare, Share, UpdateRequest, UpdateState, UpdateStatus,
};
pub use lease::{FENCING_S, LEASE_MAX_S, LeaseGrant, LeaseState, NodeLease, NodeMoment};
pub use machine::{
    DisksAfter, KeptDisk, KeptDiskList, Rescued, SHUTDOWN_WAIT_MAX_S, VmDelete, VmRebuild, VmRescue,
    VmShutdown,
};
pub use moving::{
    MOVE_KEEP_MAX_S, MOVE_KEEP_S, MoveArrived, MovePlace, MovePrepare, MoveRoom, MoveSend, MoveSent,
    MoveVolume,
};
pub use network::{
    Firewall, FirewallProtocol, FirewallRule, Limits, NetworkState, NicState, Peer, PortRange,
    PrivateNetwork, PrivateNetworkState, Traffic, TrafficList,
};
pub use node::{
    Certificate, CertificateRequest, DomainType, EnrolReply, EnrolRequest, Health, Node, NodeFacts, Versions,
};
pub use run::{Progress, Run, RunId, RunList};
pub use sample::{DiskSample, MemorySample, NicSample, SampleList, SamplesRequest};
pub use services::{CardAsked, CardLeases, LeaseList};
pub use size::{VmLimits, VmResize};
pub use storage::{
    CloneMode, FileSystem, Pool, PoolKind, PoolList, Snapshot, SnapshotList, Volume, VolumeAttach,
    VolumeAttachment, VolumeClone, VolumeCreate, VolumeFetch, VolumeFormat, VolumeList, VolumeOffer,
    VolumeResize,
};
pub use stream::{CounterSample, StreamCommand, StreamMessage, VmEvent};
pub use vm::{
    Nic, NicAddress, NicRoute, PowerVerb, Vm, VmImage, VmList, VmPlace, VmSeed, VmSpec, VmState, WantedPower,
};
