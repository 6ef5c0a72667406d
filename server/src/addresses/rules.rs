//! What is a good request. Pure.

use std::net::IpAddr;

use berth_model::FieldError;
use berth_model::address::{FloatingIpCreate, FloatingIpUpdate, PrimaryIpCreate, PrimaryIpUpdate};
use berth_model::label::Labels;
use berth_model::name::host_name_fault;
use ipnet::IpNet;

use crate::labels;
use crate::servers::rules::fault;

/// Longest description, in characters.
pub const DESCRIPTION_MAX: usize = 200;
/// Most reverse names in one IPv6 network.
pub const REVERSE_NAMES_MAX: i64 = 1000;
/// Most floating IPs of one server: its network card takes 16 networks, one of which is its own.
pub const FLOATING_IPS_OF_SERVER_MAX: i64 = 15;

fn description_fault(description: &str) -> Option<String> {
    if description.chars().count() > DESCRIPTION_MAX {
        return Some(format!("A description has at most {DESCRIPTION_MAX} characters."));
    }
    description.contains('\0').then(|| "A description is text: it has no NUL characters.".to_owned())
}

fn faults(name: Option<&str>, description: Option<&str>, marks: Option<&Labels>) -> Vec<FieldError> {
    let mut faults = labels::named_faults(name, marks);
    faults.extend(description.and_then(description_fault).map(|message| fault("description", message)));
    faults
}

/// Everything that is wrong with the order of a primary IP by itself.
pub fn primary_create_faults(create: &PrimaryIpCreate) -> Vec<FieldError> {
    let mut faults = faults(Some(&create.name), None, create.labels.as_ref());
    let places = [create.assignee_id.is_some(), create.location.is_some(), create.datacenter.is_some()];
    match places.iter().filter(|named| **named).count() {
        0 => faults.push(fault("location", "Name a location, or a server that gets it.")),
        1 => {}
        _ => faults.push(fault("location", "Name one: a location, a datacenter or a server.")),
    }
    faults
}

/// Everything that is wrong with a change of a primary IP.
pub fn primary_update_faults(update: &PrimaryIpUpdate) -> Vec<FieldError> {
    faults(update.name.as_deref(), None, update.labels.as_ref())
}

/// Everything that is wrong with the order of a floating IP by itself.
pub fn floating_create_faults(create: &FloatingIpCreate) -> Vec<FieldError> {
    let mut faults = faults(create.name.as_deref(), create.description.as_deref(), create.labels.as_ref());
    if create.home_location.is_none() && create.server.is_none() {
        faults.push(fault("home_location", "Name a location, or a server that gets it."));
    }
    faults
}

/// Everything that is wrong with a change of a floating IP.
pub fn floating_update_faults(update: &FloatingIpUpdate) -> Vec<FieldError> {
    faults(update.name.as_deref(), update.description.as_deref(), update.labels.as_ref())
}

/// A reverse name as it is kept: in lower case, without the dot at its end.
///
/// # Errors
/// The field that is wrong: the address is not of this network, or the name is no host name.
pub fn reverse_name(net: IpNet, ip: IpAddr, name: Option<&str>) -> Result<Option<String>, FieldError> {
    if !net.contains(&ip) {
        return Err(fault("ip", format!("{ip} is not an address of {}.", shown(net))));
    }
    let Some(name) = name else { return Ok(None) };
    let name = name.strip_suffix('.').unwrap_or(name);
    match host_name_fault(name) {
        Some(message) => Err(fault("dns_ptr", message)),
        None => Ok(Some(name.to_ascii_lowercase())),
    }
}

fn shown(net: IpNet) -> String {
    if net.addr().is_ipv4() { net.addr().to_string() } else { net.to_string() }
}

#[cfg(test)]
mod tests {
    use berth_model::ServerId;
    use berth_model::address::IpFamily;

    use super::*;

    fn names(faults: &[FieldError]) -> Vec<&str> {
        faults.iter().map(|fault| fault.name.as_str()).collect()
    }

    #[test]
    fn a_primary_ip_is_ordered_for_one_place() {
        let create = PrimaryIpCreate {
            name: "a".into(),
            family: IpFamily::Ipv4,
            assignee_id: None,
            assignee_type: None,
            location: Some("rtm1".into()),
            datacenter: None,
            auto_delete: None,
            labels: None,
        };
        assert!(primary_create_faults(&create).is_empty());
        let both = PrimaryIpCreate { assignee_id: Some(ServerId(1)), name: " ".into(), ..create.clone() };
        assert_eq!(names(&primary_create_faults(&both)), ["name", "location"]);
        let nowhere = PrimaryIpCreate { location: None, ..create };
        assert_eq!(names(&primary_create_faults(&nowhere)), ["location"]);
    }

    #[test]
    fn a_change_of_nothing_is_good_and_a_bad_one_hears_all_at_once() {
        assert!(floating_update_faults(&FloatingIpUpdate::default()).is_empty());
        let bad = FloatingIpUpdate {
            name: Some("x".repeat(65)),
            description: Some("x".repeat(201)),
            labels: Some([("-".to_owned(), String::new())].into()),
        };
        assert_eq!(names(&floating_update_faults(&bad)), ["name", "labels.-", "description"]);
    }

    #[test]
    fn a_reverse_name_belongs_to_an_address_of_the_network() {
        let net: IpNet = "2001:db8:7:1::/64".parse().unwrap();
        let ip: IpAddr = "2001:db8:7:1::9".parse().unwrap();
        let kept = reverse_name(net, ip, Some("Mail.Example.org.")).unwrap();
        assert_eq!(kept.as_deref(), Some("mail.example.org"));
        assert_eq!(reverse_name(net, ip, None).unwrap(), None);
        assert_eq!(reverse_name(net, ip, Some("a b")).unwrap_err().name, "dns_ptr");
        let beside = "2001:db8:7:2::9".parse().unwrap();
        assert_eq!(reverse_name(net, beside, None).unwrap_err().name, "ip");
    }
}
