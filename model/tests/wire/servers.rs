//! Servers, their actions, and what is measured of them.

use berth_model::action::*;
use berth_model::load::*;
use berth_model::metrics::*;
use berth_model::server::*;
use berth_model::*;

use crate::golden;
use crate::samples::{action, at, labels, meta, sample, server};

#[test]
fn servers_keep_their_wire_form() {
    golden("server", &ServerReply { server: server() });
    golden("server_list", &ServerList { servers: vec![server()], meta: meta() });
    golden(
        "server_created",
        &ServerCreated {
            server: server(),
            action: action(),
            next_actions: vec![],
            root_password: Some("…".into()),
        },
    );
    golden("action", &ActionReply { action: action() });
    golden("action_list", &ActionList { actions: vec![action()], meta: meta() });
    golden(
        "load",
        &LoadReply {
            server: ServerId(7),
            from: at("2026-11-20T02:04:02Z"),
            to: at("2026-11-20T02:14:02Z"),
            step_s: 2,
            samples: vec![sample()],
        },
    );
}

#[test]
fn requests_for_servers_keep_their_wire_form() {
    golden(
        "server_create",
        &ServerCreate {
            name: "web-1".into(),
            server_type: "s2".into(),
            image: NameOrId::Id(3),
            location: Some("rtm1".into()),
            datacenter: None,
            ssh_keys: vec![NameOrId::Id(4), "laptop".into()],
            user_data: Some("#cloud-config\n".into()),
            labels: labels(),
            start_after_create: Some(true),
            volumes: vec![VolumeId(5)],
            placement_group: Some(PlacementGroupId(3)),
            automount: Some(true),
            public_net: Some(PublicNetCreate {
                enable_ipv6: false,
                ipv4: Some(PrimaryIpId(5)),
                ..PublicNetCreate::default()
            }),
            firewalls: vec![FirewallNumber { firewall: FirewallId(6) }],
            networks: vec![NetworkId(7)],
        },
    );
    golden("server_update", &ServerUpdate { name: Some("web-2".into()), labels: None });
}

#[test]
fn fields_that_nobody_knows_are_refused() {
    let unknown = r#"{"name":"a","server_type":"s1","image":"tiny","color":"red"}"#;
    let error = serde_json::from_str::<ServerCreate>(unknown).unwrap_err().to_string();
    assert!(error.contains("color"), "{error}");
}

#[test]
fn metrics_keep_their_wire_form() {
    let values = vec![(1_763_604_840.5, "150.5".to_owned())];
    let metrics = Metrics {
        start: at("2026-11-20T02:14:00Z"),
        end: at("2026-11-20T02:15:00Z"),
        step: 30.0,
        time_series: [("cpu".to_owned(), TimeSeries { values })].into(),
    };
    golden("metrics", &MetricsReply { metrics });
}
