"""A server's whole life, lived by the library `hcloud` as it is published.

HCLOUD_ENDPOINT and HCLOUD_TOKEN say where; guests are reached from the network namespace `outside`. Prints what was
measured, line by line.
"""

import os
import subprocess
import time
from datetime import datetime, timedelta, timezone

from hcloud import APIException, Client
from hcloud.firewalls import FirewallResource, FirewallRule
from hcloud.images import Image
from hcloud.locations import Location
from hcloud.networks import NetworkSubnet
from hcloud.server_types import ServerType
from hcloud.servers import ServerCreatePublicNetwork

PATIENCE_S = 120
OUTSIDE = ("ip", "netns", "exec", "outside")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMLbQkzCIQ3qXwL1Ze1Vf6Sj3GkD1n4L6m2w1Yk7w8bV laptop"
ANYBODY = ["0.0.0.0/0", "::/0"]

client = Client(
    token=os.environ["HCLOUD_TOKEN"],
    api_endpoint=os.environ["HCLOUD_ENDPOINT"],
    poll_interval=0.2,
    poll_max_retries=PATIENCE_S * 5,
)


def done(*actions):
    for action in actions:
        action.wait_until_finished()


def until(what, condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {PATIENCE_S} s"
        time.sleep(0.05)


def outside(*words):
    return subprocess.run([*OUTSIDE, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def pings(ip):
    return outside("ping", "-c1", "-W1", ip).returncode == 0


def answers(ip, port=80):
    return outside("timeout", "1", "bash", "-c", f"exec 3<>/dev/tcp/{ip}/{port}").returncode == 0


def refused(code, call):
    try:
        call()
    except APIException as error:
        assert error.code == code, f"{error.code} instead of {code}: {error}"
    else:
        raise AssertionError(f"it was not refused with {code}")


def fresh(server):
    return client.servers.get_by_id(server.id)


def order(name, **more):
    created = client.servers.create(
        name=name, server_type=ServerType(name="t1"), image=Image(name="tiny"), location=Location(name="rtm1"), **more
    )
    done(created.action, *created.next_actions)
    return fresh(created.server), created


# What there is.
assert {"t1", "t2"} <= {kind.name for kind in client.server_types.get_all()}
assert [place.name for place in client.locations.get_all()] == ["rtm1"]
assert client.images.get_by_name_and_architecture("tiny", "x86").status == "available"

# Created, with a key, in a network, behind a firewall.
key = client.ssh_keys.create(name="laptop", public_key=KEY)
network = client.networks.create(
    name="inner",
    ip_range="10.99.0.0/16",
    subnets=[NetworkSubnet(type="cloud", network_zone="eu-west", ip_range="10.99.1.0/24")],
)
def opened(protocol, **more):
    return FirewallRule(direction="in", protocol=protocol, source_ips=ANYBODY, **more)


firewall = client.firewalls.create(name="front", rules=[opened("tcp", port="80")]).firewall
refused("uniqueness_error", lambda: client.ssh_keys.create(name="again", public_key=KEY))
# What a guest wants of a floating address it has itself to say, as everywhere.
floating = client.floating_ips.create(type="ipv4", home_location=Location(name="rtm1"), name="service")
done(*([floating.action] if floating.action else []))
floating = floating.floating_ip
takes_floating = f"#!/bin/sh\nip addr add {floating.ip}/32 dev eth0\n"
server, created = order(
    "web-1", ssh_keys=[key], networks=[network], firewalls=[firewall], labels={"role": "web"}, user_data=takes_floating
)
assert created.root_password is None, "who has a key gets no password"
assert server.status == "running" and server.labels == {"role": "web"}
assert server.private_net[0].network.id == network.id and server.private_net[0].ip.startswith("10.99.1.")
ip = server.public_net.ipv4.ip
until("the guest answers", lambda: answers(ip))
assert [found.id for found in client.servers.get_all(label_selector="role=web")] == [server.id]

# Its firewall filters, and changes while the guest runs.
assert not pings(ip), "nobody allowed this"
done(*firewall.set_rules([opened("icmp")]))
until("the guest is heard", lambda: pings(ip))
assert not answers(ip), "nobody allowed this any more"
done(*firewall.remove_from_resources([FirewallResource(type="server", server=server)]))
until("everything is open", lambda: answers(ip))

# Power.
done(server.power_off())
assert fresh(server).status == "off" and not pings(ip)
done(server.power_on())
until("it is back", lambda: pings(ip))
done(server.reboot())
done(server.reset())
until("it is back again", lambda: pings(ip))

# Size.
done(server.power_off())
done(server.change_type(ServerType(name="t2"), upgrade_disk=False))
assert fresh(server).server_type.name == "t2"
done(server.power_on())

# A snapshot, a second server of it, and a rebuild that keeps the address.
snapshot = server.create_image(description="before", type="snapshot")
done(snapshot.action)
assert client.images.get_by_id(snapshot.image.id).status == "available"
second = client.servers.create(
    name="web-2", server_type=ServerType(name="t2"), image=Image(id=snapshot.image.id), user_data=takes_floating
)
done(second.action, *second.next_actions)
second, password = fresh(second.server), second.root_password
assert password, "who has no key gets a password"
until("the second one answers", lambda: pings(second.public_net.ipv4.ip))
rebuilt = server.rebuild(Image(name="tiny"))
done(rebuilt.action)
assert fresh(server).public_net.ipv4.ip == ip
until("it is back as new", lambda: pings(ip))

# A floating address, moved while somebody looks.
done(floating.assign(server))
until("the first one has the address", lambda: pings(floating.ip))
watch = subprocess.Popen([*OUTSIDE, "ping", "-i", "0.05", "-D", "-n", floating.ip], stdout=subprocess.PIPE, text=True)
time.sleep(0.5)
done(floating.assign(second))
assert client.floating_ips.get_by_id(floating.id).server.id == second.id
until("the second one has the address", lambda: pings(floating.ip))
done(server.power_off())
assert pings(floating.ip), "it is the second one that answers"
watch.terminate()
heard = [float(line[1 : line.index("]")]) for line in watch.stdout if line.startswith("[") and "bytes from" in line]
silence = max(after - before for before, after in zip(heard, heard[1:]))
print(f"measured: a floating address was silent for {silence:.3f} s as it moved")
done(server.power_on())

# A volume, plugged in while the guest runs, and grown.
volume = client.volumes.create(size=10, name="data", server=second, format="ext4", automount=False)
done(volume.action, *volume.next_actions)
volume = client.volumes.get_by_id(volume.volume.id)
assert volume.server.id == second.id and volume.linux_device, volume.linux_device
done(volume.detach())
done(volume.resize(12))
done(volume.attach(server, automount=False))
assert [found.id for found in fresh(server).volumes] == [volume.id]
assert client.volumes.get_by_id(volume.id).size == 12

# Into the network and out of it.
done(second.attach_to_network(network=network, ip="10.99.1.9"))
assert fresh(second).private_net[0].ip == "10.99.1.9"
done(second.detach_from_network(network=network))
assert fresh(second).private_net == []

# Figures.
def has_figures():
    now = datetime.now(timezone.utc)
    metrics = server.get_metrics(type=["cpu", "disk", "network"], start=now - timedelta(minutes=5), end=now).metrics
    return all(metrics.time_series[series]["values"] for series in ("cpu", "disk.0.iops.read", "network.0.pps.in"))


until("the server has figures", has_figures)

# Password, console, rescue, protection, names, groups, backups.
reset = second.reset_password()
done(reset.action)
assert reset.root_password not in (None, password), "the guest's agent has set another one"
console = second.request_console()
done(console.action)
assert console.wss_url.startswith(("ws://", "wss://")) and console.password
rescue = server.enable_rescue(type="linux64", ssh_keys=[key.id])
done(rescue.action)
assert fresh(server).rescue_enabled and rescue.root_password
done(server.disable_rescue())
done(server.change_protection(delete=True, rebuild=True))
refused("protected", server.delete)
done(server.change_protection(delete=False, rebuild=False))
done(server.change_dns_ptr(ip, "web.example.com"))
assert fresh(server).public_net.ipv4.dns_ptr == "web.example.com"
assert server.update(name="web", labels={"role": "db"}).name == "web"
done(server.enable_backup())
assert fresh(server).backup_window
done(server.disable_backup())
group = client.placement_groups.create(name="apart", type="spread").placement_group
done(second.power_off())
done(second.add_to_placement_group(group))
assert fresh(second).placement_group.id == group.id
done(second.remove_from_placement_group())

# And gone.
done(volume.detach())
assert volume.delete()
done(server.delete(), second.delete())
for what in (client.servers, client.volumes):
    assert what.get_all() == []
for what in (floating, firewall, network, group, key, client.images.get_by_id(snapshot.image.id)):
    what.delete()
assert client.floating_ips.get_all() == client.networks.get_all() == client.firewalls.get_all() == []
refused("not_found", lambda: fresh(server))
print("lived")
