//! The node's network for its guests: what they may say, what reaches them, where it goes, how much.
//!
//! ```text
//!           ┌ bridged: tap ─ bridge ─ the operator's network, or libvirt's behind the node
//! card ─ tap┤ routed:  tap ─ a route for each address, the node itself as gateway
//!           └ private: tap ─ bridge ─ VXLAN ─ other nodes
//! ```
//!
//! A [`Plane`] knows the cards of all VMs and brings the kernel to them: before a guest starts, the filter
//! stands for its cards' names ([`Plane::converge`]); when its cards are there, routes and limits are set
//! ([`Plane::plug`]). It is whole again when the agent comes anew, from what the VMs' specs say.
//!
//! On a bridge, connection tracking needs the kernel's `br_netfilter`. Routed and private cards do not.

mod links;
mod names;
mod nft;
mod program;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_model::agent::function::Mac;
use berth_model::agent::{
    CardLeases, Firewall, Limits, NetworkState, Nic, NicAddress, NicRoute, NicState, PrivateNetwork,
    PrivateNetworkState, TrafficList, VmSpec,
};
use berth_model::{FieldError, PrivateNetworkId, VmId};
use ipnet::IpNet;

pub use self::links::{GATEWAY_V4, PRIVATE_MTU};
pub use self::names::Names;
pub use self::nft::{Card, GATEWAY_V6, Plan, script};
use crate::clock;
use crate::hypervisor::HypervisorError;
use crate::services::Services;

/// Most rules of a firewall, in each direction.
pub const RULES_MAX: usize = 250;
/// Most peers of a rule.
pub const RULE_PEERS_MAX: usize = 100;
/// Most networks that are routed to a card.
pub const NETWORKS_MAX: usize = 128;
/// Most routes of a card.
pub const ROUTES_MAX: usize = 100;
/// Least bandwidth, in bits per second.
pub const BITS_PER_SECOND_MIN: u64 = 64_000;
/// Most bandwidth: 1 Tbit/s.
pub const BITS_PER_SECOND_MAX: u64 = 1_000_000_000_000;
/// Most nodes of a private network, and most cards of one node in it.
pub const PEERS_MAX: usize = 1000;

/// How public cards reach the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// On a bridge.
    Bridged {
        /// Its name.
        bridge: String,
    },
    /// By a route for each address.
    Routed,
}

/// The node's network.
pub struct Plane {
    names: Names,
    mode: Mode,
    folder: PathBuf,
    known: Mutex<Known>,
    /// One change of the kernel at a time; which `version` it has.
    applied: Mutex<u64>,
    book: Mutex<traffic::Book>,
    services: Option<Services>,
}

#[derive(Default)]
struct Known {
    /// Cards of all VMs; `None` until they were listed.
    nics: Option<BTreeMap<VmId, Vec<Nic>>>,
    networks: BTreeMap<PrivateNetworkId, PrivateNetwork>,
    /// Counts changes.
    version: u64,
    fault: Option<String>,
}

impl Plane {
    /// The network of the agent whose domains' names begin with `prefix`; what must not be lost stands in
    /// `folder`.
    pub fn open(prefix: &str, mode: Mode, folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder.join("networks"))?;
        let networks = read_networks(&folder.join("networks"))?;
        let book = traffic::Book::open(&folder.join("traffic.json"))?;
        Ok(Self {
            names: Names::new(prefix),
            mode,
            folder: folder.to_owned(),
            known: Mutex::new(Known { networks, version: 1, ..Known::default() }),
            applied: Mutex::new(0),
            book: Mutex::new(book),
            services: None,
        })
    }

    /// The same, and guests are served what they ask the network for.
    pub fn with_services(mut self) -> io::Result<Self> {
        self.services = Some(Services::start(self.names.clone(), self.routed())?);
        Ok(self)
    }

    /// What is called how.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Are public cards routed?
    pub fn routed(&self) -> bool {
        self.mode == Mode::Routed
    }

    /// Does a guest with these cards have to wait for [`Plane::plug`] before it may run?
    pub fn needs_plug(&self, nics: &[Nic]) -> bool {
        nics.iter().any(|nic| nic.limits.is_some() || (self.routed() && nic.private.is_none()))
    }

    /// Must all VMs be told first, by [`Plane::fill`]?
    pub fn is_blank(&self) -> bool {
        lock(&self.known).nics.is_none()
    }

    /// Tells the cards of all VMs. What was told of single ones meanwhile holds.
    pub fn fill(&self, all: impl IntoIterator<Item = (VmId, Vec<Nic>)>) {
        let mut known = lock(&self.known);
        known.nics.get_or_insert_with(|| all.into_iter().collect());
        known.version += 1;
    }

    /// Tells the cards of one VM; `None` when it is gone.
    pub fn tell(&self, vm: VmId, nics: Option<&[Nic]>) {
        let mut known = lock(&self.known);
        let all = known.nics.get_or_insert_default();
        let before = match nics {
            Some(nics) => all.insert(vm, nics.to_vec()),
            None => all.remove(&vm),
        };
        if before.as_deref() != nics {
            known.version += 1;
        }
    }

    /// Refuses cards that would take what another VM has, or that are in a network that is not here.
    pub fn check(&self, vm: VmId, nics: &[Nic]) -> Result<(), HypervisorError> {
        let known = lock(&self.known);
        for (n, nic) in nics.iter().enumerate() {
            if let Some(id) = nic.private
                && !known.networks.contains_key(&id)
            {
                return Err(HypervisorError::Lacking(format!(
                    "nics[{n}]: the private network {id} is not on this node; put it first."
                )));
            }
        }
        let mine: Vec<_> = nics.iter().filter_map(|nic| Card::new(&self.names, vm, nic)).collect();
        for (other, theirs) in known.nics.iter().flatten().filter(|(other, _)| **other != vm) {
            for their in theirs.iter().filter_map(|nic| Card::new(&self.names, *other, nic)) {
                for my in mine.iter().filter(|my| my.private == their.private) {
                    let meets =
                        |net: &&IpNet| their.own().iter().any(|o| o.contains(*net) || net.contains(o));
                    if let Some(net) = my.own().iter().find(meets) {
                        return Err(HypervisorError::Conflict(format!("VM {other} has {net} already.")));
                    }
                }
            }
        }
        Ok(())
    }

    /// Brings the filter to what was told. Fine when it is there already.
    pub fn converge(&self) -> Result<(), HypervisorError> {
        let wanted = lock(&self.known).version;
        let mut applied = lock(&self.applied);
        // Whoever waited finds that another has done its work, too.
        if *applied >= wanted {
            return Ok(());
        }
        self.apply(&mut applied)
    }

    fn apply(&self, applied: &mut u64) -> Result<(), HypervisorError> {
        let (plan, networks, version) = self.plan();
        let done = self.apply_plan(&plan, &networks);
        lock(&self.known).fault = done.as_ref().err().map(ToString::to_string);
        done?;
        *applied = version;
        // Counters of what is gone are read a last time, then removed; the filter stands, whatever comes of it.
        if let Err(e) = self.sweep_counters(&plan) {
            tracing::warn!(error = %e, "counters that are not used could not be removed");
        }
        Ok(())
    }

    fn apply_plan(
        &self,
        plan: &Plan,
        networks: &BTreeMap<PrivateNetworkId, PrivateNetwork>,
    ) -> Result<(), HypervisorError> {
        if plan.routed {
            links::forward_packets()?;
        }
        // First the filter: a network's frames are not to be let in before it is known from whom.
        program::run(&["nft", "-f", "-"], &script(&self.names, plan, &self.chains()?))?;
        networks.iter().try_for_each(|(id, network)| links::private(&self.names, *id, network))
    }

    /// Our chains that are in the kernel: family, name.
    fn chains(&self) -> Result<Vec<(String, String)>, HypervisorError> {
        let listed = program::ask(&["nft", "-j", "list", "chains"])?;
        let chains = listed["nftables"].as_array().into_iter().flatten().map(|object| &object["chain"]);
        let ours = chains.filter(|chain| chain["table"] == self.names.table());
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        Ok(ours.filter_map(|chain| Some((text(&chain["family"])?, text(&chain["name"])?))).collect())
    }

    fn plan(&self) -> (Plan, BTreeMap<PrivateNetworkId, PrivateNetwork>, u64) {
        let known = lock(&self.known);
        let cards = known.nics.iter().flatten();
        let cards = cards.flat_map(|(vm, nics)| nics.iter().map(|nic| (*vm, nic)));
        let cards = cards.filter_map(|(vm, nic)| Card::new(&self.names, vm, nic)).collect();
        let network = |(id, network): (&PrivateNetworkId, &PrivateNetwork)| {
            (*id, (self.names.bridge(*id), network.peers.iter().map(|peer| peer.node).collect()))
        };
        let networks = known.networks.iter().map(network).collect();
        let serves = self.services.is_some();
        (Plan { routed: self.routed(), serves, cards, networks }, known.networks.clone(), known.version)
    }

    /// Prepares the bridge that public cards are plugged into.
    pub fn prepare(&self) -> Result<(), HypervisorError> {
        match &self.mode {
            Mode::Bridged { bridge } => links::track_on_bridge(bridge),
            Mode::Routed => Ok(()),
        }
    }

    /// Sets what is set on the interfaces of a VM's cards, which are there now.
    pub fn plug(&self, vm: VmId, nics: &[Nic]) -> Result<(), HypervisorError> {
        for nic in nics {
            let Some(card) = Card::new(&self.names, vm, nic) else { continue };
            if self.routed() && nic.private.is_none() {
                links::route(&card, nic)?;
            }
            let limits = nic.limits.unwrap_or_default();
            links::limit(&card.tap, &self.names.shaper(vm, &nic.mac), limits, &self.names)?;
        }
        Ok(())
    }

    /// Tells the neighbours which addresses a VM's public cards have that it had not before. Otherwise they would send
    /// to whoever had them, until they ask anew by themselves. A VM runs without that, too.
    pub fn announce(&self, vm: VmId, before: &[Nic], nics: &[Nic]) {
        let Mode::Bridged { bridge } = &self.mode else { return };
        let cards = |nics: &[Nic]| -> Vec<Card> {
            let public = nics.iter().filter(|nic| nic.private.is_none());
            public.filter_map(|nic| Card::new(&self.names, vm, nic)).collect()
        };
        let had: BTreeSet<IpNet> = cards(before).iter().flat_map(|card| card.own().to_vec()).collect();
        for card in cards(nics) {
            let fresh: Vec<IpNet> = card.own().iter().copied().filter(|net| !had.contains(net)).collect();
            if let Err(e) = links::announce(bridge, card.hardware(), &fresh) {
                tracing::warn!(vm = vm.0, error = %e, "a VM's new addresses could not be announced");
            }
        }
    }

    /// Brings what a VM's cards are told to its spec, and listens at those that are there. A VM runs without
    /// that, too: what fails is tried again by [`Plane::keep`].
    pub fn serve(&self, vm: VmId, spec: &VmSpec) {
        let served = self.services.as_ref().map_or(Ok(()), |services| services.serve(vm, spec));
        if let Err(e) = served {
            tracing::warn!(vm = vm.0, error = %e, "a VM's cards are not listened to yet");
        }
    }

    /// Serves a VM no more.
    pub fn forget(&self, vm: VmId) {
        self.services.iter().for_each(|services| services.forget(vm));
    }

    /// What a VM's cards asked for last, and got.
    pub fn leases(&self, vm: VmId) -> Vec<CardLeases> {
        self.services.as_ref().map(|services| services.leases(vm)).unwrap_or_default()
    }

    /// Removes what stays when a card's interface goes.
    pub fn unplug(&self, vm: VmId, nics: &[Nic]) -> Result<(), HypervisorError> {
        nics.iter().try_for_each(|nic| links::remove(&self.names.shaper(vm, &nic.mac)))
    }

    /// What each address has carried.
    pub fn traffic(&self) -> Result<TrafficList, HypervisorError> {
        self.look().map(|(_, list)| list)
    }

    /// Looks at the counters and notes what they grew by. Nobody else looks meanwhile: what is seen later must
    /// be noted later.
    fn look(&self) -> Result<(Vec<traffic::Shown>, TrafficList), HypervisorError> {
        let mut book = lock(&self.book);
        let Some(shown) = self.shown()? else { return Ok((Vec::new(), book.list())) };
        let mut new = book.clone();
        new.add(&shown);
        new.note(&shown.iter().map(|shown| shown.name.clone()).collect(), clock::now());
        if new != *book {
            new.write(&self.folder.join("traffic.json"))?;
            *book = new;
        }
        Ok((shown, book.list()))
    }

    /// What the kernel's counters show; nothing when there are none.
    fn shown(&self) -> Result<Option<Vec<traffic::Shown>>, HypervisorError> {
        let table = format!("{}_count", self.names.table());
        let tables = program::ask(&["nft", "-j", "list", "tables", "inet"])?;
        let mut tables = tables["nftables"].as_array().into_iter().flatten().map(|object| &object["table"]);
        let Some(ours) = tables.find(|object| object["name"] == table) else { return Ok(None) };
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let epoch = format!("{}/{}", boot.trim(), ours["handle"]);
        let counters = program::ask(&["nft", "-j", "list", "counters", "table", "inet", &table])?;
        Ok(Some(traffic::read(&counters, &epoch)))
    }

    fn sweep_counters(&self, plan: &Plan) -> Result<(), HypervisorError> {
        let used: BTreeSet<_> = nft::counters(plan).collect();
        let (shown, _) = self.look()?;
        let unused: Vec<_> = shown.iter().filter(|shown| !used.contains(&shown.name)).collect();
        if unused.is_empty() {
            return Ok(());
        }
        let table = self.names.table();
        let script: String = unused
            .iter()
            .map(|shown| format!("delete counter inet {table}_count {}\n", shown.name))
            .collect();
        program::run(&["nft", "-f", "-"], &script)?;
        Ok(())
    }

    /// What the node does, and what is left over.
    pub fn state(&self) -> Result<NetworkState, HypervisorError> {
        let (_, networks, _) = self.plan();
        let known = lock(&self.known);
        let mut nics = Vec::new();
        for (vm, cards) in known.nics.iter().flatten() {
            nics.extend(cards.iter().map(|nic| NicState {
                vm: *vm,
                mac: nic.mac.clone(),
                interface: self.names.tap(*vm, &nic.mac),
            }));
        }
        let mut fault = known.fault.clone();
        drop(known);
        if fault.is_none() && !self.stands()? {
            fault = Some("The filter is not in the kernel: somebody removed it.".to_owned());
        }
        let mut used: BTreeSet<String> = BTreeSet::new();
        for id in networks.keys() {
            used.extend([self.names.bridge(*id), self.names.vxlan(*id)]);
        }
        used.extend(nics.iter().map(|nic| self.names.shaper(nic.vm, &nic.mac)));
        let orphans = links::ours(&self.names)?.into_iter().filter(|name| !used.contains(name)).collect();
        let networks = networks.into_iter().map(|(id, network)| PrivateNetworkState {
            id,
            bridge: self.names.bridge(id),
            network,
        });
        Ok(NetworkState { filtered: true, fault, nics, networks: networks.collect(), orphans })
    }

    /// Removes an interface that belongs to nothing; what has come to use meanwhile stays.
    pub fn remove_orphan(&self, interface: &str) -> Result<(), HypervisorError> {
        let is_orphan = self.state()?.orphans.iter().any(|orphan| orphan == interface);
        if is_orphan { links::remove(interface) } else { Ok(()) }
    }

    /// Is our table in the kernel?
    fn stands(&self) -> Result<bool, HypervisorError> {
        let tables = program::ask(&["nft", "-j", "list", "tables", "inet"])?;
        let mut tables = tables["nftables"].as_array().into_iter().flatten().map(|object| &object["table"]);
        Ok(tables.any(|object| object["name"] == self.names.table()))
    }

    /// Puts back what somebody else removed, and counts.
    pub fn keep(&self) -> Result<(), HypervisorError> {
        if self.is_blank() {
            return Ok(());
        }
        {
            let mut applied = lock(&self.applied);
            if *applied > 0 && !self.stands()? {
                tracing::warn!("the filter was removed from the kernel; it is put back");
                self.apply(&mut applied)?;
            }
        }
        self.services.as_ref().map_or(Ok(()), Services::keep)?;
        self.traffic().map(drop)
    }

    /// Brings a private network to what it should be.
    pub fn put_network(&self, id: PrivateNetworkId, network: &PrivateNetwork) -> Result<(), HypervisorError> {
        if let Some(fault) = network_faults(network).into_iter().next() {
            return Err(HypervisorError::Invalid(fault));
        }
        // Written first: an agent that comes anew must know whose interfaces these are.
        write_network(&self.folder.join("networks"), id, network)?;
        {
            let mut known = lock(&self.known);
            known.networks.insert(id, network.clone());
            known.version += 1;
        }
        self.converge()
    }

    /// Leaves nothing of a private network; refused while a card is plugged into it.
    pub fn delete_network(&self, id: PrivateNetworkId) -> Result<(), HypervisorError> {
        {
            let mut known = lock(&self.known);
            let user =
                known.nics.iter().flatten().find(|(_, nics)| nics.iter().any(|n| n.private == Some(id)));
            if let Some((vm, _)) = user {
                return Err(HypervisorError::Conflict(format!("A card of VM {vm} is in this network.")));
            }
            known.networks.remove(&id);
            known.version += 1;
        }
        links::no_private(&self.names, id)?;
        self.converge()?;
        match fs::remove_file(network_path(&self.folder.join("networks"), id)) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Leaves nothing of this agent in the kernel's network.
    pub fn tear_down(&self) -> Result<(), HypervisorError> {
        program::run(&["nft", "-f", "-"], &nft::nothing(&self.names))?;
        links::ours(&self.names)?.iter().try_for_each(|name| links::remove(name))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind them is replaced as a whole, so it is whole after any panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is wrong with a card, beside its MAC and its addresses; `field` is its name in the request.
pub fn nic_faults(nic: &Nic, field: &str) -> Vec<FieldError> {
    let mut faults = Vec::new();
    if nic.networks.len() > NETWORKS_MAX {
        faults.push(fault(&format!("{field}.networks"), "At most 128 networks are routed to a card."));
    }
    for (n, net) in nic.networks.iter().enumerate().take(NETWORKS_MAX) {
        // In a private network, the way out to everywhere may be a neighbour.
        let least = match (nic.private.is_some(), net.addr().is_ipv4()) {
            (true, _) => 1,
            (false, true) => 8,
            (false, false) => 16,
        };
        let ip = net.network();
        if net.prefix_len() < least || *net != net.trunc() || ip.is_multicast() || ip.is_loopback() {
            let rule = "A network is written like 2001:db8:7::/64, is no larger than a /8 or an IPv6 /16 (than a /1 \
                        in a private network), and can be routed.";
            faults.push(fault(&format!("{field}.networks[{n}]"), rule));
        }
    }
    if nic.routes.len() > ROUTES_MAX {
        faults.push(fault(&format!("{field}.routes"), "A card has at most 100 routes."));
    }
    for (n, NicRoute { to, via }) in nic.routes.iter().enumerate().take(ROUTES_MAX) {
        let is_neighbour = |address: &NicAddress| {
            IpNet::new(address.ip, address.prefix).is_ok_and(|net| net.contains(&IpAddr::V4(*via)))
        };
        if *to != to.trunc() || !nic.addresses.iter().any(is_neighbour) {
            let rule = "A route leads to a network like 10.100.1.0/24, by a neighbour of one of the card's addresses.";
            faults.push(fault(&format!("{field}.routes[{n}]"), rule));
        }
    }
    for (n, address) in nic.addresses.iter().enumerate() {
        let NicAddress { ip, .. } = address;
        if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
            faults.push(fault(&format!("{field}.addresses[{n}].ip"), "No card can have this address."));
        }
    }
    if nic.private.is_some() && nic.firewall.is_some() {
        faults.push(fault(&format!("{field}.firewall"), "A card in a private network has no firewall."));
    }
    if nic.private.is_some_and(|id| !(1..1 << 24).contains(&id.0)) {
        faults.push(fault(&format!("{field}.private"), "A private network's number is 1 to 16777215."));
    }
    if let Some(firewall) = &nic.firewall {
        faults.extend(firewall_faults(firewall, &format!("{field}.firewall.")));
    }
    if let Some(Limits { in_bits_per_second, out_bits_per_second }) = nic.limits {
        for rate in [in_bits_per_second, out_bits_per_second].into_iter().flatten() {
            if !(BITS_PER_SECOND_MIN..=BITS_PER_SECOND_MAX).contains(&rate) {
                let rule = "A limit is 64000 to 1000000000000 bits per second.";
                faults.push(fault(&format!("{field}.limits"), rule));
            }
        }
    }
    faults
}

/// What is wrong with a firewall; `before` stands before its fields' names.
pub fn firewall_faults(firewall: &Firewall, before: &str) -> Vec<FieldError> {
    use berth_model::agent::FirewallProtocol::{Tcp, Udp};
    let mut faults = Vec::new();
    let directions = [("inbound", Some(&firewall.inbound)), ("outbound", firewall.outbound.as_ref())];
    for (direction, rules) in directions.into_iter().filter_map(|(name, rules)| Some((name, rules?))) {
        if rules.len() > RULES_MAX {
            faults.push(fault(&format!("{before}{direction}"), "A firewall has at most 250 rules each way."));
        }
        for (n, rule) in rules.iter().enumerate().take(RULES_MAX) {
            if rule.ports.is_some() && !matches!(rule.protocol, Tcp | Udp) {
                let name = format!("{before}{direction}[{n}].ports");
                faults.push(fault(&name, "Only tcp and udp have ports."));
            }
            if rule.peers.len() > RULE_PEERS_MAX {
                let name = format!("{before}{direction}[{n}].peers");
                faults.push(fault(&name, "A rule has at most 100 peers."));
            }
        }
    }
    faults
}

/// What is wrong with a private network.
pub fn network_faults(network: &PrivateNetwork) -> Vec<FieldError> {
    let mut faults = Vec::new();
    if network.local.is_unspecified() || network.local.is_multicast() {
        faults.push(fault("local", "This is no node's address."));
    }
    if network.peers.len() > PEERS_MAX {
        faults.push(fault("peers", "A private network has at most 1000 other nodes."));
    }
    let mut seen = BTreeSet::new();
    for (n, peer) in network.peers.iter().enumerate().take(PEERS_MAX) {
        let node = format!("peers[{n}].node");
        if peer.node.is_ipv4() != network.local.is_ipv4() {
            faults.push(fault(&node, "A peer's address is of the same family as ours."));
        }
        if peer.node == network.local || peer.node.is_unspecified() || peer.node.is_multicast() {
            faults.push(fault(&node, "A peer is another node."));
        }
        if peer.macs.len() > PEERS_MAX {
            faults.push(fault(&format!("peers[{n}].macs"), "A node has at most 1000 cards in a network."));
        }
        for (m, mac) in peer.macs.iter().enumerate().take(PEERS_MAX) {
            let name = format!("peers[{n}].macs[{m}]");
            if Mac::new(mac).is_none() {
                faults.push(fault(&name, "A MAC address looks like 52:54:00:aa:bb:cc, in lower case."));
            }
            if !seen.insert(mac) {
                faults.push(fault(&name, "Two cards of a network have the same MAC address."));
            }
        }
    }
    faults
}

fn fault(name: &str, message: &str) -> FieldError {
    FieldError { name: name.to_owned(), messages: vec![message.to_owned()] }
}

fn network_path(folder: &Path, id: PrivateNetworkId) -> PathBuf {
    folder.join(format!("{id}.json"))
}

fn read_networks(folder: &Path) -> io::Result<BTreeMap<PrivateNetworkId, PrivateNetwork>> {
    let mut networks = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let id = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        match (id, path.extension().and_then(|e| e.to_str())) {
            (Some(id), Some("json")) => {
                networks.insert(PrivateNetworkId(id), serde_json::from_slice(&fs::read(&path)?)?);
            }
            // A write that was cut off.
            _ => fs::remove_file(&path)?,
        }
    }
    Ok(networks)
}

fn write_network(folder: &Path, id: PrivateNetworkId, network: &PrivateNetwork) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&serde_json::to_vec(network)?)?;
    file.as_file().sync_all()?;
    file.persist(network_path(folder, id))?;
    Ok(())
}
