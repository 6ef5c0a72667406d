#!/bin/sh
# Builds a Debian 12 for servers into the folder $1, from the archives this machine's apt knows:
#   debian-12.qcow2   a disk that boots by itself and is set up by cloud-init from a NoCloud seed
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
begin "$1"

system=$work/system
debootstrap_into "$system" minbase "$(paste -sd, "$here/packages")"
cp -R "$here/root/." "$system/"
chmod 755 "$system"/var/lib/cloud/scripts/per-boot/*

# How the archives were reached from here is no business of the guest's.
rm -f "$system"/etc/apt/apt.conf.d/99mmdebstrap "$system"/etc/dpkg/dpkg.cfg.d/99mmdebstrap
sed -i 's/ \[signed-by=[^]]*\]//' "$system"/etc/apt/sources.list "$system"/etc/apt/sources.list.d/*.list 2>/dev/null || true

chroot "$system" systemctl -q enable ssh systemd-networkd systemd-resolved serial-getty@ttyS0
# They look for LVM, and for network cards plugged in while it runs: seconds of a boot, for nothing.
for unit in e2scrub_reap.service e2scrub_all.timer cloud-init-hotplugd.socket; do
	ln -sf /dev/null "$system/etc/systemd/system/$unit"
done

# What must differ between two servers is made at their first boot.
rm -f "$system"/etc/ssh/ssh_host_* "$system"/var/lib/dbus/machine-id "$system"/var/lib/systemd/random-seed
echo uninitialized >"$system/etc/machine-id"
echo localhost >"$system/etc/hostname"

bootable_disk "$system" 2G "$result/debian-12.qcow2"
