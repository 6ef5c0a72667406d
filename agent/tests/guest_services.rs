//! What a real guest learns of its network from the agent alone, seen from inside it: the tiny image on QEMU,
//! routed, with all that its seed had set taken away again.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod libvirt_common;

use std::net::{Ipv4Addr, Ipv6Addr};

use berth_agent::hypervisor::Hypervisor;
use berth_agent::hypervisor::libvirt::GuestNetwork;
use berth_agent::network::{GATEWAY_V4, GATEWAY_V6};
use berth_agent::proof;
use berth_model::VmId;
use berth_model::agent::{NicAddress, VmPlace, VmSpec, WantedPower};
use libvirt_common::guest::inside;
use libvirt_common::{Node, TINY, spec, wait_for};

const ID: VmId = VmId(7);

/// Forgets what was set, asks DHCP, sets what it says and tells it.
const LEASE: &str = "
cat >/tmp/tell <<'END'
#!/bin/sh
[ $1 = bound ] || exit 0
ip addr add $ip/$mask dev eth0
echo \"$ip/$mask dns=$dns mtu=$mtu name=$hostname\"
set -- $staticroutes
while [ $# -gt 1 ]; do
    if [ $2 = 0.0.0.0 ]; then ip route add $1 dev eth0; else ip route add $1 via $2 dev eth0; fi
    echo \"$1 via $2\"
    shift 2
done
END
chmod 755 /tmp/tell
ip addr flush dev eth0
udhcpc -i eth0 -f -q -n -t 60 -T 1 -O mtu -O staticroutes -s /tmp/tell 2>/dev/null
";

/// Addresses of this run, so that no two meet.
fn addresses() -> (Ipv4Addr, Ipv4Addr, Ipv6Addr) {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let v4 = |last| Ipv4Addr::new(10, 64 | (high & 0x3f), low, last);
    let v6 = Ipv6Addr::new(0xfd00, 0xbe, u16::from(high), u16::from(low), 0, 0, 0, 2);
    (v4(2), v4(3), v6)
}

fn with_addresses(spec: &mut VmSpec, v4: Ipv4Addr, v6: Ipv6Addr) {
    spec.nics[0].addresses = vec![
        NicAddress { ip: v4.into(), prefix: 32, gateway: Some(GATEWAY_V4.into()) },
        NicAddress { ip: v6.into(), prefix: 128, gateway: Some(GATEWAY_V6.into()) },
    ];
}

#[test]
fn a_guest_learns_its_network_and_reads_its_metadata_from_the_agent() {
    let _proof = proof::guest(&["nic.leases"]);
    let node = Node::tiny(GuestNetwork::Routed);
    let (own, next, v6) = addresses();
    let mut spec = spec(TINY);
    with_addresses(&mut spec, own, v6);
    spec.seed.name_servers = vec!["9.9.9.9".parse().unwrap()];
    spec.seed.user_data = Some("#!/bin/sh\necho the customer was here >/root/proof\n".to_owned());
    spec.place = Some(VmPlace { region: "north".to_owned(), availability_zone: "north-1".to_owned() });
    node.libvirt.put(ID, &spec).unwrap();
    node.wait_for_boot(ID, 1);

    let said = inside(&node, ID, LEASE);
    let expected = format!(
        "{own}/32 dns=9.9.9.9 mtu=1500 name=quay-7\n169.254.169.254/32 via 0.0.0.0\n{GATEWAY_V4}/32 via \
         0.0.0.0\n0.0.0.0/0 via {GATEWAY_V4}"
    );
    assert_eq!(said, expected);
    // With that it reaches its gateway, and the node reaches it.
    inside(&node, ID, &format!("ping -c 1 -W 30 {GATEWAY_V4}"));
    let ask = |path: &str| inside(&node, ID, &format!("wget -q -O - http://169.254.169.254{path}"));
    let metadata = ask("/hetzner/v1/metadata");
    for line in [
        "instance-id: berth-7-717171717171".to_owned(),
        "hostname: \"quay-7\"".to_owned(),
        format!("public-ipv4: \"{own}\""),
        "region: \"north\"".to_owned(),
    ] {
        assert!(metadata.lines().any(|l| l == line), "{line}\n{metadata}");
    }
    assert_eq!(ask("/hetzner/v1/userdata"), spec.seed.user_data.clone().unwrap().trim());
    assert_eq!(ask("/latest/meta-data/public-keys/0/openssh-key"), spec.seed.ssh_keys[0]);
    let refused = "wget -O - --header 'X-Forwarded-For: 198.51.100.7' http://169.254.169.254/latest/user-data \
                   2>&1 || echo refused";
    let refused = inside(&node, ID, refused);
    assert!(refused.contains("403") && refused.ends_with("refused"), "{refused}");

    // Its way out by IPv6, from a router advertisement alone: with the link all that was set went.
    inside(&node, ID, "ip link set eth0 down; ip -6 addr flush dev eth0; ip link set eth0 up");
    wait_for("a default route", || {
        let routes = inside(&node, ID, "ip -6 route show");
        routes.contains(&format!("default via {GATEWAY_V6} dev eth0")).then_some(())
    });

    // Another address while it runs, told twice: it is what the next lease says.
    let mut changed = VmSpec { power: WantedPower::Keep, ..spec.clone() };
    with_addresses(&mut changed, next, v6);
    node.libvirt.put(ID, &changed).unwrap();
    node.libvirt.put(ID, &changed).unwrap();
    assert!(inside(&node, ID, LEASE).starts_with(&format!("{next}/32 ")));
    assert_eq!(ask("/latest/meta-data/public-ipv4"), next.to_string());

    let card = node.libvirt.leases(ID).unwrap().cards.remove(0);
    assert!(card.listening && card.mac == spec.nics[0].mac, "{card:?}");
    assert_eq!(card.dhcp.unwrap().address, Some(next.into()));
    assert_eq!(card.router.unwrap().address, Some(GATEWAY_V6.into()));
    assert_eq!(card.metadata.unwrap().answered.as_deref(), Some("200"));
    // An agent that comes anew listens, too.
    let again = node.reopened();
    again.tend().unwrap();
    assert!(again.leases(ID).unwrap().cards[0].listening);
    drop(again);

    node.libvirt.delete(ID).unwrap();
    node.assert_nothing_left(ID);
    assert!(node.libvirt.leases(ID).is_err());
}
