#!/bin/sh
# First process of a test's node: $1 is the node's folder, $2 its name, $3 where its agent has its data. Everything that libvirt keeps
# stands below the folder, and the node's part of the cgroups is its own.
set -e
base=$1 name=$2 data=$3
hostname "$name"
mount --make-rprivate /
mkdir -p "$base/cgroup"
mount --rbind /sys/fs/cgroup "$base/cgroup"
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /sys/fs/cgroup
for controller in "$base"/cgroup/*/; do
	controller=$(basename "$controller")
	[ -d "$base/cgroup/$controller/$name" ] || continue
	mkdir -p "/sys/fs/cgroup/$controller"
	mount --bind "$base/cgroup/$controller/$name" "/sys/fs/cgroup/$controller"
done
umount -l "$base/cgroup"
mount --bind "$base/run" /run
mkdir -p /run/libvirt /run/lock "$data"
mount --bind "$base/data" "$data"
mount --bind "$base/etc" /etc/libvirt
mount --bind "$base/lib" /var/lib/libvirt
mount --bind "$base/log" /var/log/libvirt
mount --bind "$base/cache" /var/cache/libvirt
virtlogd -d
virtlockd -d
libvirtd -d -p /run/libvirtd.pid
: >"$base/up"
# Children that lost their parents are waited for here.
while :; do
	sleep 3600 &
	wait $!
done
