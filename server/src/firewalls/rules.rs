//! What is a good firewall, and what several let through together. Pure.

use berth_model::FieldError;
use berth_model::agent::{self, FirewallProtocol, PortRange};
use berth_model::firewall::{
    FirewallCreate, FirewallDirection, FirewallRule, FirewallTarget, FirewallTargetKind,
};
use berth_model::label::Selector;
use ipnet::IpNet;

use crate::labels;
use crate::servers::rules::fault;

/// Most rules of one firewall.
pub const RULES_MAX: usize = 50;
/// Most networks that a rule names.
pub const NETWORKS_MAX: usize = 100;
/// Longest description of a rule, in characters.
pub const DESCRIPTION_MAX: usize = 255;
/// Most firewalls of one server. A node takes as many rules for a network card as they have together.
pub const OF_SERVER_MAX: usize = 5;
/// Most servers and selectors that one request names.
pub const TARGETS_MAX: usize = 100;
/// Most servers and selectors that one firewall is applied to.
pub const APPLIED_MAX: i64 = 500;
/// Most selectors among them: each is held against the labels of every server that is shown.
pub const SELECTORS_MAX: i64 = 50;

/// What to say of a server with more than [`OF_SERVER_MAX`].
pub fn too_many() -> String {
    format!("A server has at most {OF_SERVER_MAX} firewalls.")
}

/// What is wrong with a firewall that is applied to so many.
pub fn applied_fault(servers: i64, selectors: i64) -> Option<String> {
    let is_too_much = selectors > SELECTORS_MAX || servers + selectors > APPLIED_MAX;
    is_too_much.then(|| {
        format!("A firewall is applied to at most {APPLIED_MAX} servers and label selectors, and to {SELECTORS_MAX} selectors.")
    })
}

/// Everything that is wrong with the order of a firewall by itself.
pub fn create_faults(create: &FirewallCreate) -> Vec<FieldError> {
    let mut faults = labels::named_faults(Some(&create.name), create.labels.as_ref());
    faults.extend(rules_faults(&create.rules));
    faults
}

/// Everything that is wrong with rules.
pub fn rules_faults(rules: &[FirewallRule]) -> Vec<FieldError> {
    if rules.len() > RULES_MAX {
        return vec![fault("rules", format!("A firewall has at most {RULES_MAX} rules."))];
    }
    rules.iter().enumerate().flat_map(|(at, rule)| rule_faults(rule, &format!("rules[{at}]"))).collect()
}

fn rule_faults(rule: &FirewallRule, field: &str) -> Vec<FieldError> {
    let mut faults = Vec::new();
    let (used, peers, unused, others) = match rule.direction {
        FirewallDirection::In => ("source_ips", &rule.source_ips, "destination_ips", &rule.destination_ips),
        FirewallDirection::Out => ("destination_ips", &rule.destination_ips, "source_ips", &rule.source_ips),
    };
    if peers.is_empty() || peers.len() > NETWORKS_MAX {
        let message = format!("Name 1 to {NETWORKS_MAX} networks; 0.0.0.0/0 and ::/0 are all there are.");
        faults.push(fault(format!("{field}.{used}"), message));
    }
    if !others.is_empty() {
        let message = format!("A rule for this direction has {used} only.");
        faults.push(fault(format!("{field}.{unused}"), message));
    }
    for (at, peer) in peers.iter().enumerate().take(NETWORKS_MAX) {
        faults.extend(network(peer).err().map(|message| fault(format!("{field}.{used}[{at}]"), message)));
    }
    faults.extend(port_fault(rule).map(|message| fault(format!("{field}.port"), message)));
    if rule.description.as_ref().is_some_and(|text| text.chars().count() > DESCRIPTION_MAX) {
        let message = format!("A description has at most {DESCRIPTION_MAX} characters.");
        faults.push(fault(format!("{field}.description"), message));
    }
    faults
}

fn port_fault(rule: &FirewallRule) -> Option<&'static str> {
    let has_ports = matches!(rule.protocol, FirewallProtocol::Tcp | FirewallProtocol::Udp);
    match &rule.port {
        None => has_ports.then_some("Name a port or a range of ports: 80, or 8000-8999."),
        Some(_) if !has_ports => Some("Only tcp and udp have ports."),
        Some(port) => PortRange::try_from(port.clone()).err(),
    }
}

/// A network of a rule.
fn network(text: &str) -> Result<IpNet, String> {
    let Ok(net) = text.parse::<IpNet>() else {
        return Err(
            "A network is written like 10.0.0.0/8 or 2001:db8::/32, one address like 10.0.0.1/32.".to_owned()
        );
    };
    if net != net.trunc() {
        return Err(format!("This is an address in the network {}. Name the network.", net.trunc()));
    }
    Ok(net)
}

/// A selector of a firewall.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn selector(text: &str) -> Result<Selector, String> {
    match Selector::parse(text)? {
        Selector(conditions) if conditions.is_empty() => Err("Name a label: env=prod.".to_owned()),
        selector => Ok(selector),
    }
}

/// What is wrong with what a request names, without a look at what exists.
pub fn target_faults(targets: &[FirewallTarget], field: &str) -> Vec<FieldError> {
    if targets.is_empty() || targets.len() > TARGETS_MAX {
        return vec![fault(field, format!("Name 1 to {TARGETS_MAX} servers or label selectors."))];
    }
    targets
        .iter()
        .enumerate()
        .filter_map(|(at, target)| target_fault(target, &format!("{field}[{at}]")))
        .collect()
}

fn target_fault(target: &FirewallTarget, field: &str) -> Option<FieldError> {
    match (target.kind, &target.server, &target.label_selector) {
        (FirewallTargetKind::Server, Some(_), None) => None,
        (FirewallTargetKind::Server, None, _) => Some(fault(format!("{field}.server"), "Name a server.")),
        (FirewallTargetKind::Server, ..) => {
            Some(fault(format!("{field}.label_selector"), "A server is named by its number only."))
        }
        (FirewallTargetKind::LabelSelector, None, Some(asked)) => {
            let wrong = selector(&asked.selector).err();
            wrong.map(|message| fault(format!("{field}.label_selector.selector"), message))
        }
        (FirewallTargetKind::LabelSelector, _, None) => {
            Some(fault(format!("{field}.label_selector"), "Give a label selector."))
        }
        (FirewallTargetKind::LabelSelector, ..) => {
            Some(fault(format!("{field}.server"), "Give a label selector only."))
        }
    }
}

/// What several firewalls let through together; `None` when there is none. What goes out is filtered when one of
/// them has a rule for it.
pub fn merged(firewalls: &[Vec<FirewallRule>]) -> Option<agent::Firewall> {
    if firewalls.is_empty() {
        return None;
    }
    let of = |direction: FirewallDirection| {
        let mut rules: Vec<agent::FirewallRule> = Vec::new();
        for rule in firewalls.iter().flatten().filter(|rule| rule.direction == direction) {
            let rule = told(rule);
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        rules
    };
    let outbound = of(FirewallDirection::Out);
    Some(agent::Firewall {
        inbound: of(FirewallDirection::In),
        outbound: (!outbound.is_empty()).then_some(outbound),
    })
}

/// A rule as a node is told it. It was found good when it was written.
fn told(rule: &FirewallRule) -> agent::FirewallRule {
    let peers = match rule.direction {
        FirewallDirection::In => &rule.source_ips,
        FirewallDirection::Out => &rule.destination_ips,
    };
    agent::FirewallRule {
        protocol: rule.protocol,
        ports: rule.port.clone().and_then(|port| PortRange::try_from(port).ok()),
        peers: peers.iter().filter_map(|peer| network(peer).ok()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use berth_model::ServerId;
    use berth_model::firewall::{SelectorText, ServerNumber};

    use super::*;

    fn rule(direction: FirewallDirection, port: &str) -> FirewallRule {
        let peers = vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()];
        let (source_ips, destination_ips) = match direction {
            FirewallDirection::In => (peers, vec![]),
            FirewallDirection::Out => (vec![], peers),
        };
        FirewallRule {
            direction,
            source_ips,
            destination_ips,
            protocol: FirewallProtocol::Tcp,
            port: Some(port.to_owned()),
            description: None,
        }
    }

    fn names(faults: Vec<FieldError>) -> Vec<String> {
        faults.into_iter().map(|fault| fault.name).collect()
    }

    #[test]
    fn every_fault_of_a_rule_names_its_field() {
        let good = rule(FirewallDirection::In, "80");
        assert!(rules_faults(&[good.clone(), rule(FirewallDirection::Out, "1-65535")]).is_empty());
        let icmp = FirewallRule { protocol: FirewallProtocol::Icmp, port: None, ..good.clone() };
        assert!(rules_faults(std::slice::from_ref(&icmp)).is_empty());
        for (wrong, field) in [
            (FirewallRule { port: None, ..good.clone() }, "port"),
            (FirewallRule { port: Some("any".into()), ..good.clone() }, "port"),
            (FirewallRule { port: Some("9-8".into()), ..good.clone() }, "port"),
            (FirewallRule { port: Some("80".into()), ..icmp }, "port"),
            (FirewallRule { source_ips: vec![], ..good.clone() }, "source_ips"),
            (FirewallRule { source_ips: vec!["::/0".into(); 101], ..good.clone() }, "source_ips"),
            (FirewallRule { source_ips: vec!["10.0.0.1".into()], ..good.clone() }, "source_ips[0]"),
            (FirewallRule { source_ips: vec!["10.0.0.1/8".into()], ..good.clone() }, "source_ips[0]"),
            (FirewallRule { destination_ips: vec!["::/0".into()], ..good.clone() }, "destination_ips"),
            (FirewallRule { description: Some("x".repeat(256)), ..good.clone() }, "description"),
        ] {
            assert_eq!(names(rules_faults(&[good.clone(), wrong])), [format!("rules[1].{field}")]);
        }
        assert_eq!(names(rules_faults(&vec![good; RULES_MAX + 1])), ["rules"]);
    }

    #[test]
    fn several_firewalls_let_through_what_each_does() {
        assert_eq!(merged(&[]), None);
        let closed = merged(&[vec![]]).expect("a firewall");
        assert_eq!(
            closed,
            agent::Firewall::default(),
            "without rules nothing comes in, and everything goes out"
        );
        let (ssh, web) = (rule(FirewallDirection::In, "22"), rule(FirewallDirection::In, "80-443"));
        let dns = rule(FirewallDirection::Out, "53");
        let both = merged(&[vec![ssh.clone(), web.clone()], vec![ssh, dns]]).expect("a firewall");
        let ports = |rules: &[agent::FirewallRule]| {
            rules.iter().map(|rule| rule.ports.map(String::from).unwrap_or_default()).collect::<Vec<_>>()
        };
        assert_eq!(ports(&both.inbound), ["22", "80-443"]);
        assert_eq!(ports(&both.outbound.expect("rules for what goes out")), ["53"]);
        assert_eq!(both.inbound[0].peers.len(), 2);
    }

    #[test]
    fn a_target_is_a_server_or_a_selector() {
        let (server, kind) = (Some(ServerNumber { id: ServerId(1) }), FirewallTargetKind::LabelSelector);
        let of = |text: &str| Some(SelectorText { selector: text.to_owned() });
        let fits = FirewallTarget { kind, server: None, label_selector: of("env=prod") };
        let good = [FirewallTarget::from(ServerId(1)), fits.clone()];
        assert!(target_faults(&good, "apply_to").is_empty());
        assert_eq!(names(target_faults(&[], "apply_to")), ["apply_to"]);
        for (wrong, field) in [
            (FirewallTarget { server: None, ..FirewallTarget::from(ServerId(1)) }, "server"),
            (
                FirewallTarget { label_selector: of("a"), ..FirewallTarget::from(ServerId(1)) },
                "label_selector",
            ),
            (FirewallTarget { label_selector: None, ..fits.clone() }, "label_selector"),
            (FirewallTarget { label_selector: of(""), ..fits.clone() }, "label_selector.selector"),
            (FirewallTarget { label_selector: of("a in b"), ..fits.clone() }, "label_selector.selector"),
            (FirewallTarget { server, ..fits }, "server"),
        ] {
            assert_eq!(names(target_faults(&[wrong], "x")), [format!("x[0].{field}")]);
        }
    }
}
