//! Firewalls.

use berth_model::agent::FirewallProtocol;
use berth_model::firewall::{Firewall, FirewallRule, *};
use berth_model::*;

use crate::golden;
use crate::samples::{at, labels};

#[test]
fn firewalls_keep_their_wire_form() {
    let rule = FirewallRule {
        direction: FirewallDirection::In,
        source_ips: vec!["0.0.0.0/0".into(), "::/0".into()],
        destination_ips: vec![],
        protocol: FirewallProtocol::Tcp,
        port: Some("80-443".into()),
        description: None,
    };
    let server = FirewallTarget::from(ServerId(7));
    let fitting = FirewallTarget {
        kind: FirewallTargetKind::LabelSelector,
        server: None,
        label_selector: Some(SelectorText { selector: "env=prod".into() }),
    };
    let firewall = Firewall {
        id: FirewallId(3),
        name: "web".into(),
        labels: labels(),
        rules: vec![rule.clone()],
        applied_to: vec![
            FirewallResource {
                kind: server.kind,
                server: server.server,
                label_selector: None,
                applied_to_resources: None,
            },
            FirewallResource {
                kind: fitting.kind,
                server: None,
                label_selector: fitting.label_selector.clone(),
                applied_to_resources: Some(vec![server.clone()]),
            },
        ],
        created: at("2026-11-20T02:14:00Z"),
    };
    golden("firewall", &FirewallReply { firewall });
    golden(
        "firewall_create",
        &FirewallCreate {
            name: "web".into(),
            labels: Some(labels()),
            rules: vec![rule.clone()],
            apply_to: vec![server.clone()],
        },
    );
    golden("firewall_update", &FirewallUpdate { name: Some("front".into()), labels: None });
    golden("firewall_set_rules", &FirewallSetRules { rules: vec![rule] });
    golden("firewall_apply", &FirewallApply { apply_to: vec![fitting] });
    golden("firewall_remove", &FirewallRemove { remove_from: vec![server] });
}
