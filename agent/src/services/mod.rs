//! What servers ask the network for, answered by the agent on each card's own end: DHCP, DHCPv6, router
//! advertisements, and the metadata service on 169.254.169.254.
//!
//! ```text
//! card ─ tap ─┬─ bridge or route, through the filter, which lets none of these questions pass
//!             └─ ear (packet socket) ─► frame ─► dhcp, dhcpv6, router ─► answer, into this tap alone
//!                                           └──► web ─► metadata
//! ```
//!
//! The node needs no address for it, and it is the same on a bridge and on a route. What a card is told
//! follows from its VM's spec alone; there is no pool, and nothing is remembered but what was asked last. A
//! card is answered on its own tap and by its own MAC address, so nobody else hears it, or can answer in the
//! agent's place.
//!
//! One thread listens at all cards. It sleeps while they are silent, but for an advertisement to each once
//! an [hour](ADVERTISE_EVERY).

mod dhcp;
mod dhcpv6;
mod frame;
pub mod metadata;
mod offer;
mod port;
mod router;
mod socket;
mod web;

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use berth_model::VmId;
use berth_model::agent::{CardLeases, VmSpec};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use smoltcp::wire::EthernetAddress;

pub use self::offer::Offer;
use self::port::{Port, Turn};
use crate::network::Names;

/// The address of the metadata service; DHCP's server bears it, too.
pub const SERVICE_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The link-local address under which DHCPv6 answers, and routers where there is no other.
pub const SERVICE_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe);
/// The MAC address of all of them. It is nobody's, and seen by the guest alone.
pub const SERVICE_MAC: EthernetAddress = EthernetAddress([0x02, 0xbe, 0xa9, 0xfe, 0xa9, 0xfe]);

/// Says to all neighbours on a bridge that a card has these addresses now.
///
/// # Errors
/// When the bridge is not there, or cannot be used.
pub fn announce(bridge: &str, mac: [u8; 6], addresses: impl IntoIterator<Item = IpAddr>) -> io::Result<()> {
    let ear = socket::Ear::open(bridge)?.ok_or(io::ErrorKind::NotFound)?;
    for ip in addresses {
        ear.say(&frame::announcement(EthernetAddress(mac), ip));
    }
    Ok(())
}

/// How long a lease holds: 30 days. A VM runs on while its agent is down, with its address.
pub const LEASE_S: u32 = 30 * 24 * 3600;
/// When it is renewed: after an hour, so that what changes is learnt.
pub const RENEW_S: u32 = 3600;
/// When any server is asked to renew it.
pub const REBIND_S: u32 = LEASE_S / 2;
/// How often a router is told of without being asked.
pub const ADVERTISE_EVERY: Duration = Duration::from_secs(3600);

/// What wakes the thread that is no card.
const WAKE: u64 = 0;
/// Events that are taken at once.
const EVENTS: usize = 64;
/// Bytes of the thread's stack.
const STACK_BYTES: usize = 1024 * 1024;

/// The services of a node.
pub struct Services {
    names: Names,
    routed: bool,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    epoll: OwnedFd,
    wake: OwnedFd,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    ports: BTreeMap<u64, Port>,
    last: u64,
    is_over: bool,
}

impl Services {
    /// Begins to serve nobody yet. `routed` says that public cards' frames go no further than the node.
    pub fn start(names: Names, routed: bool) -> io::Result<Self> {
        raise_limit_of_files();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        let shared = Arc::new(Shared { epoll, wake, table: Mutex::default() });
        let inner = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("services".to_owned()).stack_size(STACK_BYTES);
        let thread = Some(thread.spawn(move || inner.run())?);
        Ok(Self { names, routed, shared, thread })
    }

    /// Brings what the cards of a VM are told to its spec, and listens at those that are there. Told twice,
    /// it ends the same.
    pub fn serve(&self, vm: VmId, spec: &VmSpec) -> io::Result<()> {
        let spec = Arc::new(spec.clone());
        let mut table = self.shared.table();
        table.ports.retain(|_, port| port.vm != vm || spec.nics.iter().any(|nic| nic.mac == port.mac));
        for nic in &spec.nics {
            let Some(offer) = Offer::new(&spec, nic, self.routed) else { continue };
            let known = table.ports.iter().find(|(_, port)| port.vm == vm && port.mac == nic.mac);
            let id = match known.map(|(id, _)| *id) {
                Some(id) => id,
                None => {
                    table.last += 1;
                    let id = table.last;
                    let tap = self.names.tap(vm, &nic.mac);
                    table
                        .ports
                        .insert(id, Port::new(vm, nic.mac.clone(), tap, offer.clone(), Arc::clone(&spec)));
                    id
                }
            };
            let Some(port) = table.ports.get_mut(&id) else { continue };
            port.tell(offer, Arc::clone(&spec), Instant::now());
            port.listen(&self.shared.epoll, id)?;
        }
        drop(table);
        self.shared.wake();
        Ok(())
    }

    /// Serves a VM no more, and forgets what it asked.
    pub fn forget(&self, vm: VmId) {
        self.shared.table().ports.retain(|_, port| port.vm != vm);
    }

    /// Listens again at cards that came back without a word.
    pub fn keep(&self) -> io::Result<()> {
        let mut table = self.shared.table();
        table.ports.iter_mut().try_for_each(|(id, port)| port.listen(&self.shared.epoll, *id))?;
        drop(table);
        self.shared.wake();
        Ok(())
    }

    /// What the cards of a VM asked for last, and got; in the order of their MAC addresses.
    pub fn leases(&self, vm: VmId) -> Vec<CardLeases> {
        let table = self.shared.table();
        let mut leases: Vec<_> =
            table.ports.values().filter(|port| port.vm == vm).map(Port::leases).collect();
        leases.sort_by(|a, b| a.mac.cmp(&b.mac));
        leases
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.shared.table().is_over = true;
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // A port is whole after any panic, or it is closed.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // It fails only when the thread is to be woken already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn run(&self) {
        let mut events = [const { MaybeUninit::uninit() }; EVENTS];
        loop {
            let Some(due) = self.tick() else { return };
            let pause = due.map(|due| due.saturating_duration_since(Instant::now()));
            // A moment more, or it would wake just before it is time.
            let pause = pause.map(|pause| pause + Duration::from_millis(1));
            let pause = pause.and_then(|pause| Timespec::try_from(pause).ok());
            match epoll::wait(&self.epoll, &mut events, pause.as_ref()) {
                Ok((ready, _)) => ready.iter().for_each(|event| self.turn(event.data.u64())),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => {
                    tracing::error!(error = %e, "the services cannot listen any more");
                    return;
                }
            }
        }
    }

    /// Does what is due, and says when the next is. Nothing when all is over.
    fn tick(&self) -> Option<Option<Instant>> {
        let mut table = self.table();
        if table.is_over {
            return None;
        }
        let now = Instant::now();
        for (id, port) in &mut table.ports {
            if port.due().is_some_and(|due| due <= now) {
                guarded(port, |port| port.tick(&self.epoll, *id, now));
            }
        }
        Some(table.ports.values().filter_map(Port::due).min())
    }

    /// Hears a card out.
    fn turn(&self, id: u64) {
        if id == WAKE {
            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
            return;
        }
        let mut table = self.table();
        // It may be gone since.
        let Some(port) = table.ports.get_mut(&id) else { return };
        let turn = guarded(port, |port| port.turn(&self.epoll, id, Instant::now()));
        if turn == Some(Turn::Gone) {
            port.close();
        }
    }
}

/// Each card is an open file, and by default a process may have a thousand.
fn raise_limit_of_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(error = %e, "the number of open files stays limited");
    }
}

/// What a guest says must not end the service for the others, whatever it is.
fn guarded<T>(port: &mut Port, work: impl FnOnce(&mut Port) -> T) -> Option<T> {
    let done = catch_unwind(AssertUnwindSafe(|| work(port)));
    if done.is_err() {
        tracing::error!(vm = port.vm.0, mac = port.mac, "a frame broke the services of a card; it is let go");
        port.close();
    }
    done.ok()
}

#[cfg(test)]
mod tests;
