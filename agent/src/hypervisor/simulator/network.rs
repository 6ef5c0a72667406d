//! The simulator's network: it keeps what it was told, and filters nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::PoisonError;

use berth_model::agent::{
    CardAsked, CardLeases, LeaseList, NetworkState, NicState, PrivateNetwork, PrivateNetworkState, Traffic,
    TrafficList, VmSpec,
};
use berth_model::{PrivateNetworkId, VmId};
use ipnet::IpNet;

use super::{Simulator, counters, failed};
use crate::clock;
use crate::hypervisor::HypervisorError;
use crate::network::{Names, network_faults};
use crate::services::Offer;

/// Where the networks stand, in the simulator's folder.
pub const FILE: &str = "networks.json";
/// Bytes of a simulated packet.
const PACKET_BYTES: u64 = 1000;

/// The private networks, by number.
pub type Networks = BTreeMap<PrivateNetworkId, PrivateNetwork>;

/// Reads the networks of a folder.
pub fn read(folder: Option<&Path>) -> std::io::Result<Networks> {
    let Some(folder) = folder else { return Ok(Networks::new()) };
    match fs::read(folder.join(FILE)) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Networks::new()),
        Err(e) => Err(e),
    }
}

impl Simulator {
    fn networks(&self) -> Networks {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep_networks(&self, change: impl FnOnce(&mut Networks)) -> Result<(), HypervisorError> {
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut networks);
        let Some(folder) = &self.config.folder else { return Ok(()) };
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(&serde_json::to_vec(&*networks)?)?;
            file.persist(folder.join(FILE))?;
            std::io::Result::Ok(())
        };
        write().map_err(|e| failed("could not write its networks", &e))
    }

    pub(super) fn check_private(&self, spec: &VmSpec) -> Result<(), HypervisorError> {
        let networks = self.networks();
        let unknown = spec.nics.iter().filter_map(|nic| nic.private).find(|id| !networks.contains_key(id));
        match unknown {
            Some(id) => Err(HypervisorError::Lacking(format!(
                "The private network {id} is not on this node; put it first."
            ))),
            None => Ok(()),
        }
    }

    pub(super) fn put_private(
        &self,
        id: PrivateNetworkId,
        network: &PrivateNetwork,
    ) -> Result<(), HypervisorError> {
        if let Some(fault) = network_faults(network).into_iter().next() {
            return Err(HypervisorError::Invalid(fault));
        }
        self.keep_networks(|networks| drop(networks.insert(id, network.clone())))
    }

    pub(super) fn delete_private(&self, id: PrivateNetworkId) -> Result<(), HypervisorError> {
        let user = self.vms().iter().find_map(|(vm, record)| {
            record.spec.nics.iter().any(|nic| nic.private == Some(id)).then_some(*vm)
        });
        if let Some(vm) = user {
            return Err(HypervisorError::Conflict(format!("A card of VM {vm} is in this network.")));
        }
        self.keep_networks(|networks| drop(networks.remove(&id)))
    }

    pub(super) fn network_state(&self) -> NetworkState {
        let names = Names::new("simulator-");
        let vms = self.vms();
        let nics = vms.iter().flat_map(|(vm, record)| record.spec.nics.iter().map(move |nic| (*vm, nic)));
        let nics = nics
            .map(|(vm, nic)| NicState { vm, mac: nic.mac.clone(), interface: names.tap(vm, &nic.mac) })
            .collect();
        let network = |(id, network): (PrivateNetworkId, PrivateNetwork)| PrivateNetworkState {
            id,
            bridge: names.bridge(id),
            network,
        };
        let networks = self.networks().into_iter().map(network).collect();
        NetworkState { nics, networks, ..NetworkState::default() }
    }

    /// A guest asks for everything once, as it comes up.
    pub(super) fn simulate_leases(&self, id: VmId) -> Result<LeaseList, HypervisorError> {
        let record = self.record(id)?.ok_or(HypervisorError::NotFound(id))?;
        let names = Names::new("simulator-");
        let mut cards: Vec<_> = record
            .spec
            .nics
            .iter()
            .map(|nic| {
                let asked = |asked: &str, answered: &str, address: Option<IpAddr>| CardAsked {
                    at: record.started.unwrap_or_else(clock::now),
                    asked: asked.to_owned(),
                    answered: Some(answered.to_owned()),
                    address,
                    count: 1,
                };
                let offer = record.started.and_then(|_| Offer::new(&record.spec, nic, false));
                let (v4, v6) = offer.map_or((None, None), |offer| (offer.v4, offer.v6));
                CardLeases {
                    mac: nic.mac.clone(),
                    interface: names.tap(id, &nic.mac),
                    listening: record.started.is_some(),
                    dhcp: v4.map(|v4| asked("request", "ack", Some(v4.address.addr().into()))),
                    router: v6.map(|v6| asked("solicitation", "advertisement", v6.gateway.map(IpAddr::from))),
                    ..CardLeases::default()
                }
            })
            .collect();
        cards.sort_by(|a, b| a.mac.cmp(&b.mac));
        Ok(LeaseList { cards })
    }

    /// Each public address carries what its VM does.
    pub(super) fn traffic_list(&self) -> TrafficList {
        let now = clock::now();
        let mut list = TrafficList::default();
        for (vm, record) in self.vms().iter() {
            let sample = counters(*vm, record, now);
            let public = record.spec.nics.iter().filter(|nic| nic.private.is_none());
            list.traffic.extend(public.flat_map(|nic| &nic.addresses).map(|address| Traffic {
                vm: *vm,
                network: IpNet::from(address.ip),
                in_bytes: sample.net_in_bytes,
                out_bytes: sample.net_out_bytes,
                in_packets: sample.net_in_bytes / PACKET_BYTES,
                out_packets: sample.net_out_bytes / PACKET_BYTES,
                gone: None,
            }));
        }
        list
    }
}
