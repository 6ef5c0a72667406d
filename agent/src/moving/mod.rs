//! Moving a VM, or a volume that no VM has, from one node to another: the way between two agents.
//!
//! ```text
//!       source node                                             target node
//! libvirt ── driver ──┐                                    ┌── libvirt's own socket
//! QEMU ───── memory ──┤ agent ══ one TLS port, mutual ══ agent ── memory ──── QEMU
//! QEMU ───── disks ───┘ (socket files)        (socket files) └── disks ───── QEMU
//!               disk of a VM that is off ══════════════════════ a file
//! ```
//!
//! A volume goes the same way in the other direction: the node that has it offers it, and the one that wants it comes.
//!
//! libvirt and QEMU speak to socket files on their own node, and the agents carry the bytes between them.
//! So neither libvirt nor QEMU listens on the network or has a key: certificates are renewed in one
//! place, and a guest that breaks out of its QEMU finds no key of the node. The port is open only while
//! a VM is awaited, or a volume offered. Who comes in shows a certificate of the control plane's CA and the move's secret, which
//! the control plane got from the target and handed to the source; the source in turn asks for the
//! certificate of the node it was told.
//!
//! A connection whose other end is gone without a word ends after 20 seconds of silence, by TCP. libvirt's own
//! keepalive would measure how busy a node is instead.
//!
//! A room in which no VM arrives is removed when its time is over ([`expiry`]).
//!
//! As long as a VM is awaited, its source speaks to the target's libvirt as the agent does: nodes of one
//! control plane trust each other that far, and not longer.

mod expiry;
mod receive;
mod send;
mod sockets;
mod tls;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use berth_model::agent::{
    DomainType, MOVE_KEEP_MAX_S, MovePlace, MovePrepare, MoveRoom, MoveSend, Volume, VolumeFetch, VolumeOffer,
};
use berth_model::{FieldError, Timestamp, VmId, VolumeId};
use rustix::net::sockopt;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::send::Way;
pub use self::sockets::{Sockets, SocketsFolder};

use crate::clock::Ends;
use crate::error::Refusal;
use crate::hypervisor::Hypervisor;
use crate::tls::Tls;
use crate::{entropy, spec, storage};

/// Longest line with which a channel begins, and its answer.
const LINE_MAX_BYTES: usize = 4096;
/// Longest that nothing is heard of the other node's kernel.
const SILENCE: Duration = Duration::from_secs(20);
/// How long a volume is offered.
const OFFER_KEEP: Duration = Duration::from_secs(3600);
/// Bytes that are carried at once.
const BUFFER_BYTES: usize = 128 * 1024;

/// What is asked for through the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Thing {
    /// A VM that is awaited.
    Vm(VmId),
    /// A volume that is offered.
    Volume(VolumeId),
}

/// What a connection carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Channel {
    /// Nothing: has the VM arrived?
    Ask,
    /// The disk of a VM that is off, or a volume.
    Disk,
    /// To libvirt.
    Driver,
    /// To the QEMU that takes memory.
    Memory,
    /// To the QEMU that takes disks.
    Disks,
}

/// The first line of a connection.
#[derive(Serialize, Deserialize)]
struct Hello {
    thing: Thing,
    secret: String,
    channel: Channel,
}

/// The line that answers it.
#[derive(Debug, Serialize, Deserialize)]
struct Welcome {
    error: Option<String>,
    arrived: bool,
}

/// The moves of a node.
pub struct Moves {
    tls: Arc<Tls>,
    /// Where to listen.
    address: SocketAddr,
    hypervisor: Arc<dyn Hypervisor>,
    state: Mutex<State>,
    /// There is a new room.
    prepared: Notify,
    /// Until when each is kept.
    ends: Ends,
}

#[derive(Default)]
struct State {
    door: Option<Door>,
    awaited: HashMap<VmId, (Arc<Awaited>, Option<SocketsFolder>)>,
    offered: HashMap<VolumeId, Offered>,
}

/// A volume that is offered.
struct Offered {
    secret: String,
    until: Instant,
}

/// The open port; shut when it is dropped.
struct Door {
    port: u16,
    _stop: DropGuard,
}

/// A VM that is awaited.
struct Awaited {
    secret: String,
    sockets: Option<Sockets>,
    cut: CancellationToken,
}

impl Moves {
    /// No VM is awaited yet. `address` is where the port opens, 0 for any.
    pub fn new(tls: Arc<Tls>, address: SocketAddr, hypervisor: Arc<dyn Hypervisor>) -> Self {
        let ends = Ends::within(Duration::from_secs(MOVE_KEEP_MAX_S.into()));
        Self { tls, address, hypervisor, state: Mutex::default(), prepared: Notify::new(), ends }
    }

    /// Awaits a VM for which there is room. To be called within the async runtime, on a thread that may block.
    pub fn await_vm(
        self: &Arc<Self>,
        id: VmId,
        room: MoveRoom,
        until: Timestamp,
    ) -> Result<MovePlace, Refusal> {
        let identity = self.tls.identity()?;
        let port = self.open()?;
        let mut state = self.state();
        let secret = match state.awaited.get(&id) {
            Some((awaited, _)) => awaited.secret.clone(),
            None => {
                let live = matches!(room.domain_type, DomainType::Kvm | DomainType::Qemu);
                let folder = live.then(|| SocketsFolder::make(&room.domain)).transpose();
                let folder = folder.map_err(|e| Refusal::own("The move's sockets could not be made", &e))?;
                let (secret, sockets) = (entropy::ticket(), folder.as_deref().cloned());
                let cut = CancellationToken::new();
                let awaited = Awaited { secret: secret.clone(), sockets, cut };
                state.awaited.insert(id, (Arc::new(awaited), folder));
                secret
            }
        };
        drop(state);
        self.ends.of(id, until);
        self.prepared.notify_one();
        Ok(MovePlace { node: identity.node, port, secret, until, room })
    }

    /// Does something of it come in at the moment?
    pub fn is_coming(&self, id: VmId) -> bool {
        // Whoever carries something of it holds it, too.
        self.state().awaited.get(&id).is_some_and(|(awaited, _)| Arc::strong_count(awaited) > 1)
    }

    /// Awaits it no more; with the last one the port is shut.
    pub fn forget(&self, id: VmId) {
        self.ends.forget(id);
        let mut state = self.state();
        if let Some((awaited, _sockets)) = state.awaited.remove(&id) {
            awaited.cut.cancel();
        }
        state.shut_if_idle();
    }

    /// Offers a volume for an hour. To be called within the async runtime, on a thread that may block.
    pub fn offer(self: &Arc<Self>, volume: Volume) -> Result<VolumeOffer, Refusal> {
        let node = self.tls.identity()?.node;
        let port = self.open()?;
        let until = Instant::now() + OFFER_KEEP;
        let mut state = self.state();
        let offered = state.offered.entry(volume.id);
        let offered = offered.or_insert_with(|| Offered { secret: entropy::ticket(), until });
        offered.until = until;
        let secret = offered.secret.clone();
        Ok(VolumeOffer { node, port, secret, volume })
    }

    /// Offers no more what was offered for long enough.
    fn withdraw_old_offers(&self) {
        let mut state = self.state();
        state.offered.retain(|_, offered| offered.until > Instant::now());
        state.shut_if_idle();
    }

    /// The way to where a volume is offered.
    pub fn way_to(&self, from: &VolumeFetch) -> Result<Way, Refusal> {
        let VolumeOffer { node, port, secret, volume, .. } = &from.from;
        let place = (from.host.as_str(), *port, *node);
        Ok(Way::new(Thing::Volume(volume.id), place, secret, tls::client(&self.tls.identity()?)?))
    }

    /// The way to where `order` sends a VM.
    pub fn way(&self, id: VmId, order: &MoveSend) -> Result<Way, Refusal> {
        let place = (order.host.as_str(), order.to.port, order.to.node);
        Ok(Way::new(Thing::Vm(id), place, &order.to.secret, tls::client(&self.tls.identity()?)?))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Changed by single inserts and removes: whole after any panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// With the last that comes or goes the port is shut.
    fn shut_if_idle(&mut self) {
        if self.awaited.is_empty() && self.offered.is_empty() {
            self.door = None;
        }
    }
}

/// Finds a connection dead whose other end went without a word: within 20 seconds.
fn guard(tcp: &TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, SILENCE / 2)?;
    sockopt::set_tcp_keepintvl(tcp, SILENCE / 5)?;
    sockopt::set_tcp_keepcnt(tcp, 3)?;
    let silence_ms = u32::try_from(SILENCE.as_millis()).unwrap_or(u32::MAX);
    Ok(sockopt::set_tcp_user_timeout(tcp, silence_ms)?)
}

fn fault(name: &str, message: &str) -> FieldError {
    FieldError { name: name.to_owned(), messages: vec![message.to_owned()] }
}

/// What is wrong with a wish for room.
pub fn room_faults(asked: &MovePrepare) -> Vec<FieldError> {
    let mut faults = spec::faults_of("spec.", &asked.spec);
    if !(1..=MOVE_KEEP_MAX_S).contains(&asked.keep_s) {
        faults.push(fault("keep_s", "A room is kept for 1 to 604,800 seconds."));
    }
    let named = |id| asked.volumes.iter().any(|volume| volume.id == id);
    for forgotten in asked.spec.volumes.iter().filter(|attachment| !named(attachment.volume)) {
        faults.push(fault("volumes", &format!("The VM has volume {}: what is it?", forgotten.volume)));
    }
    for volume in &asked.volumes {
        faults.extend(
            storage::volume_faults(volume.size)
                .into_iter()
                .map(|fault| FieldError { name: format!("volumes.{}", fault.name), ..fault }),
        );
    }
    faults
}

/// What is wrong with the other node's address, and the port there.
fn place_faults(host: &str, (port_name, port): (&str, u16)) -> Vec<FieldError> {
    let mut faults = Vec::new();
    let named = (1..=253).contains(&host.len())
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    if !named && host.parse::<std::net::IpAddr>().is_err() {
        faults.push(fault("host", "The other node is an IP address or a name, without a port."));
    }
    if port == 0 {
        faults.push(fault(port_name, "A port is 1 to 65535."));
    }
    faults
}

/// What is wrong with the wish for a volume.
pub fn fetch_faults(wanted: &VolumeFetch) -> Vec<FieldError> {
    let mut faults = place_faults(&wanted.host, ("from.port", wanted.from.port));
    if !storage::volume_faults(wanted.from.volume.size).is_empty() {
        faults.push(fault("from.volume", "This is not what a node answered to volume.offer."));
    }
    faults
}

/// What is wrong with an order to send.
pub fn faults(order: &MoveSend) -> Vec<FieldError> {
    let mut faults = place_faults(&order.host, ("to.port", order.to.port));
    if order.bandwidth_mib_s == Some(0) {
        faults.push(fault("bandwidth_mib_s", "At least 1 MiB a second is sent."));
    }
    let room = &order.to.room;
    // A disk that lies in a pool already need be no file.
    let disk = if room.shared.is_some() { &room.folder } else { &room.disk };
    if [&room.folder, &room.images, disk].iter().any(|path| !path.starts_with('/')) {
        faults.push(fault("to.room", "This is not what a node answered to moving.prepare."));
    }
    faults
}
