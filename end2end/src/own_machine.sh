# First process of a test that runs on a machine of its own: $1 is that machine's folder; what follows is the test.
# libvirt has its own folders and knows no other guests, and the network begins empty.
set -e
home=$1
shift
mount --make-rprivate /
# Without control groups libvirt does without; two machines would get the same ones otherwise.
if mountpoint -q /sys/fs/cgroup; then umount -R -l /sys/fs/cgroup; fi
mount --bind "$home/etc" /etc/libvirt
mount --bind "$home/lib" /var/lib/libvirt
mount --bind "$home/log" /var/log/libvirt
mount --bind "$home/cache" /var/cache/libvirt
mount --bind "$home/run" /run
mount -t sysfs sysfs /sys
ip link set lo up
# An address of its own: a bridge would take that of its guests' taps, which come and go.
ip link add guests address 02:be:00:00:00:01 type bridge
ip link set guests up
# Who looks at guests from the node itself is not filtered: others stand outside.
ip netns add outside
ip link add outside type veth peer name eth0 netns outside
ip link set outside master guests up
ip -n outside addr add 10.78.0.1/24 dev eth0
ip -n outside link set lo up
ip -n outside link set eth0 up
virtlogd -d -p /run/virtlogd.pid
libvirtd -d -p /run/libvirtd.pid
"$@"
