# What runs as process 1 of a private node: its folders in their places, and libvirt's daemons.
# $1 is the node's home, with its own etc, run, lib, log, cache, data; $2 is where data is to be seen.
set -e
mount --make-rprivate /
# Without control groups libvirt does without; two nodes would get the same ones otherwise.
if mountpoint -q /sys/fs/cgroup; then umount -R -l /sys/fs/cgroup; fi
mount --bind "$1/etc" /etc/libvirt
mount --bind "$1/lib" /var/lib/libvirt
mount --bind "$1/log" /var/log/libvirt
mount --bind "$1/cache" /var/cache/libvirt
mount --bind "$1/data" "$2"
mount --bind "$1/run" /run
virtlogd -d -p /run/virtlogd.pid
if [ -e /etc/libvirt/leases ]; then virtlockd -d -p /run/virtlockd.pid; fi
libvirtd -d -p /run/libvirtd.pid
touch "$1/up"
# Whatever loses its parent becomes this one's child; libvirt waits for QEMU to be gone.
while :; do
    sleep 3600 &
    wait $! || true
done
