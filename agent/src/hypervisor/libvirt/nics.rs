//! Network cards: of a running guest, and of the node's network for them.

use std::time::{Duration, Instant};

use berth_model::PrivateNetworkId;
use berth_model::VmId;
use berth_model::agent::{LeaseList, NetworkState, Nic, PrivateNetwork, TrafficList, VmSpec};
use quick_xml::events::{BytesStart, Event};
use virt::domain::Domain;
use virt::error::ErrorNumber;
use virt::sys;

use super::domain::{self, Plan};
use super::ops::{is, refused};
use super::{GuestNetwork, Libvirt};
use crate::hypervisor::{Hypervisor, HypervisorError};
use crate::network::{Mode, Plane};

/// How long a guest may take to let go of a card.
const DETACH_PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked whether it did.
const DETACH_STEP: Duration = Duration::from_millis(50);

type Done = Result<(), HypervisorError>;

/// How the network filters, if it does.
pub fn mode(network: &GuestNetwork, is_test_driver: bool) -> Option<Mode> {
    match network {
        _ if is_test_driver => None,
        GuestNetwork::Nat { bridge, .. } | GuestNetwork::Bridge { bridge } => {
            Some(Mode::Bridged { bridge: bridge.clone() })
        }
        GuestNetwork::Routed => Some(Mode::Routed),
        GuestNetwork::User => None,
    }
}

/// A card that a running domain has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Live {
    mac: String,
    bridge: Option<String>,
}

/// The cards in a domain's definition.
fn live_of(xml: &str) -> Result<Vec<Live>, String> {
    let mut reader = quick_xml::Reader::from_str(xml);
    let mut cards = Vec::new();
    let mut card: Option<Live> = None;
    loop {
        let event = reader.read_event().map_err(|e| e.to_string())?;
        match &event {
            Event::Start(start) if start.name().as_ref() == "interface" => card = Some(Live::default()),
            Event::Start(start) | Event::Empty(start) => {
                let Some(card) = &mut card else { continue };
                match start.name().as_ref() {
                    "mac" => card.mac = attribute(start, "address").unwrap_or_default(),
                    "source" => card.bridge = attribute(start, "bridge"),
                    _ => {}
                }
            }
            Event::End(end) if end.name().as_ref() == "interface" => cards.extend(card.take()),
            Event::Eof => return Ok(cards),
            _ => {}
        }
    }
}

fn attribute(element: &BytesStart<'_>, name: &str) -> Option<String> {
    Some(element.try_get_attribute(name).ok()??.value.into_owned())
}

/// Brings a running guest's cards to the plan's: plugs in what is new, takes out what is gone.
pub fn converge_live(domain: &Domain, plan: &Plan<'_>) -> Done {
    let live = live(domain)?;
    let wanted = &plan.spec.nics;
    for card in live.iter().filter(|card| wanted.iter().all(|nic| nic.mac != card.mac)) {
        if !take_out(domain, &card.mac)? {
            return Ok(());
        }
    }
    for nic in wanted {
        let xml = domain::interface_xml(nic, plan);
        match live.iter().find(|card| card.mac == nic.mac) {
            None => {
                let plugged = domain.attach_device_flags(&xml, sys::VIR_DOMAIN_AFFECT_LIVE);
                match plugged {
                    // libvirt's test driver plugs nothing into a guest that runs.
                    Err(e) if is(&e, ErrorNumber::NoSupport) => return Ok(()),
                    plugged => plugged.map_err(|e| refused("plug the network card in", &e))?,
                }
            }
            Some(card) if card.bridge != domain::bridge_of(nic, plan) => domain
                .update_device_flags(&xml, sys::VIR_DOMAIN_AFFECT_LIVE)
                .map_err(|e| refused("move the network card to its network", &e))?,
            Some(_) => {}
        }
    }
    Ok(())
}

fn live(domain: &Domain) -> Result<Vec<Live>, HypervisorError> {
    let xml = domain.xml_desc(0).map_err(|e| refused("show the VM", &e))?;
    live_of(&xml).map_err(|e| HypervisorError::Failed(format!("libvirt's own definition is no XML: {e}")))
}

/// Asks a guest for a card, and waits until it let go. `false` where nothing can be taken out.
fn take_out(domain: &Domain, mac: &str) -> Result<bool, HypervisorError> {
    // libvirt finds the card by its MAC address; of all types, this one asks for nothing else.
    let xml = format!("<interface type='user'><mac address='{mac}'/></interface>");
    let until = Instant::now() + DETACH_PATIENCE;
    match domain.detach_device_flags(&xml, sys::VIR_DOMAIN_AFFECT_LIVE) {
        Err(e) if is(&e, ErrorNumber::NoSupport) => return Ok(false),
        // Asked before, and still at it.
        Err(e) if is(&e, ErrorNumber::DeviceMissing) || is(&e, ErrorNumber::OperationFailed) => {}
        asked => asked.map_err(|e| refused("take the network card out", &e))?,
    }
    while live(domain)?.iter().any(|card| card.mac == mac) {
        if Instant::now() >= until {
            return Err(HypervisorError::Conflict(format!(
                "The guest does not let go of the card {mac}; it goes at its next start."
            )));
        }
        std::thread::sleep(DETACH_STEP);
    }
    Ok(true)
}

impl Libvirt {
    /// The network, knowing the cards of all VMs.
    pub(super) fn plane(&self) -> Result<Option<&Plane>, HypervisorError> {
        let Some(plane) = self.plane.as_deref() else { return Ok(None) };
        if plane.is_blank() {
            let vms = self.list()?;
            let coming = self.notes.coming(vms.iter().map(|vm| vm.id))?;
            let here = vms.into_iter().filter_map(|vm| Some((vm.id, vm.spec?.nics)));
            plane.fill(here.chain(coming));
        }
        Ok(Some(plane))
    }

    fn plane_or_refuse(&self) -> Result<&Plane, HypervisorError> {
        self.plane()?.ok_or_else(|| {
            HypervisorError::Conflict(
                "This node's guests use QEMU's own network, which has no private networks.".to_owned(),
            )
        })
    }

    /// Refuses cards that this node cannot have.
    pub(super) fn check_nics(&self, id: VmId, nics: &[Nic]) -> Done {
        if let Some(plane) = self.plane()? {
            return plane.check(id, nics);
        }
        match nics.iter().any(|nic| nic.private.is_some()) {
            true => self.plane_or_refuse().map(drop),
            false => Ok(()),
        }
    }

    /// After a VM is defined anew: brings the filter to its cards, and a running guest to them.
    pub(super) fn put_nics(&self, domain: &Domain, plan: &Plan<'_>, before: &[Nic], on: bool) -> Done {
        let Plan { id, spec, .. } = *plan;
        let plane = self.plane()?;
        if let Some(plane) = plane {
            // What goes is filtered until it is gone.
            let gone = before.iter().filter(|old| spec.nics.iter().all(|nic| nic.mac != old.mac));
            let both: Vec<Nic> = spec.nics.iter().chain(gone).cloned().collect();
            plane.tell(id, Some(&both));
            plane.converge()?;
        }
        if on {
            if spec.nics.iter().all(|nic| nic.private.is_none()) || plane.is_some() {
                converge_live(domain, plan)?;
            }
            if let Some(plane) = plane {
                plane.plug(id, &spec.nics)?;
            }
        }
        if let Some(plane) = plane {
            let gone: Vec<Nic> =
                before.iter().filter(|old| spec.nics.iter().all(|nic| nic.mac != old.mac)).cloned().collect();
            plane.unplug(id, &gone)?;
            plane.tell(id, Some(&spec.nics));
            plane.converge()?;
            plane.serve(id, spec);
            if on {
                plane.announce(id, before, &spec.nics);
            }
        }
        Ok(())
    }

    /// Creates a domain whose cards are filtered from their first packet on; a card that also needs a route or
    /// a limit has it before the guest's first instruction.
    pub(super) fn create_filtered(&self, id: VmId, domain: &Domain) -> Result<(), HypervisorError> {
        let create = |flags| domain.create_with_flags(flags).map_err(|e| self.could_not_start(&e));
        let Some(plane) = self.plane()? else { return create(0) };
        plane.converge()?;
        plane.prepare()?;
        let spec = self.spec_of(domain)?.unwrap_or_default();
        if !plane.needs_plug(&spec.nics) {
            create(0)?;
            plane.serve(id, &spec);
            return Ok(());
        }
        create(sys::VIR_DOMAIN_START_PAUSED)?;
        let plugged = plane.plug(id, &spec.nics);
        plane.serve(id, &spec);
        let resumed = plugged.and_then(|()| domain.resume().map_err(|e| refused("resume the VM", &e)));
        resumed.inspect_err(|_| drop(domain.destroy()))
    }

    /// Before a held domain runs on: one whose start was cut off has its cards, and not yet what is set on them.
    pub(super) fn plug_again(&self, id: VmId, domain: &Domain) -> Done {
        let Some(plane) = self.plane()? else { return Ok(()) };
        plane.converge()?;
        let spec = self.spec_of(domain)?.unwrap_or_default();
        plane.plug(id, &spec.nics)?;
        plane.serve(id, &spec);
        Ok(())
    }

    fn spec_of(&self, domain: &Domain) -> Result<Option<VmSpec>, HypervisorError> {
        let text = super::metadata(domain, domain::METADATA_URI, sys::VIR_DOMAIN_AFFECT_CONFIG)?;
        Ok(text.and_then(|text| domain::spec_of_metadata(&text).ok()))
    }

    /// After a VM is gone.
    pub(super) fn delete_nics(&self, id: VmId, nics: &[Nic]) -> Done {
        let Some(plane) = self.plane()? else { return Ok(()) };
        plane.forget(id);
        plane.unplug(id, nics)?;
        plane.tell(id, None);
        plane.converge()
    }

    /// Cards of a VM, as it was told to be.
    pub(super) fn nics_of(&self, domain: Option<&Domain>) -> Result<Vec<Nic>, HypervisorError> {
        let Some(domain) = domain else { return Ok(Vec::new()) };
        Ok(self.spec_of(domain)?.map(|spec| spec.nics).unwrap_or_default())
    }

    pub(super) fn tend_network(&self) -> Done {
        let Some(plane) = self.plane.as_deref() else { return Ok(()) };
        if plane.is_blank() {
            // A new agent: the filter first, then what stands on the interfaces of those that run.
            let vms = self.list()?;
            self.plane()?;
            plane.converge()?;
            for (vm, spec) in vms.iter().filter_map(|vm| Some((vm, vm.spec.as_ref()?))) {
                let plugged = if vm.started.is_some() { plane.plug(vm.id, &spec.nics) } else { Ok(()) };
                if let Err(e) = plugged {
                    tracing::warn!(vm = vm.id.0, error = %e, "a VM's network cards could not be set");
                }
                plane.serve(vm.id, spec);
            }
        }
        plane.converge()?;
        plane.keep()
    }

    pub(super) fn network_state(&self) -> Result<NetworkState, HypervisorError> {
        self.plane()?.map_or_else(|| Ok(NetworkState::default()), Plane::state)
    }

    pub(super) fn traffic_list(&self) -> Result<TrafficList, HypervisorError> {
        self.plane()?.map_or_else(|| Ok(TrafficList::default()), Plane::traffic)
    }

    pub(super) fn leases_of(&self, id: VmId) -> Result<LeaseList, HypervisorError> {
        self.get(id)?;
        Ok(LeaseList { cards: self.plane()?.map(|plane| plane.leases(id)).unwrap_or_default() })
    }

    pub(super) fn put_private(&self, id: PrivateNetworkId, network: &PrivateNetwork) -> Done {
        self.plane_or_refuse()?.put_network(id, network)
    }

    pub(super) fn delete_private(&self, id: PrivateNetworkId) -> Done {
        self.plane()?.map_or(Ok(()), |plane| plane.delete_network(id))
    }
}

/// The cards in a definition, by MAC address.
#[cfg(test)]
pub fn macs_of(xml: &str) -> Result<Vec<String>, String> {
    Ok(live_of(xml)?.into_iter().map(|card| card.mac).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_found_in_libvirts_definition() {
        let _proof = crate::proof::pure(&["nic.attach", "nic.detach"]);
        let xml = "<domain><devices><disk><source file='x'/></disk>\
            <interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/>\
            <target dev='t1_abc'/></interface><interface type='ethernet'>\
            <mac address='52:54:00:00:00:02'/></interface></devices></domain>";
        let card =
            |mac: &str, bridge: Option<&str>| Live { mac: mac.to_owned(), bridge: bridge.map(str::to_owned) };
        let cards = live_of(xml).unwrap();
        assert_eq!(cards, [card("52:54:00:00:00:01", Some("br0")), card("52:54:00:00:00:02", None)]);
        assert!(live_of("<a></b>").is_err());
    }
}
