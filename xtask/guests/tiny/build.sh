#!/bin/sh
# Builds the tiny guest from Debian's packages into the folder $1:
#   tiny.vmlinuz, tiny.initrd   Debian's cloud kernel, and everything else in a few megabytes of memory
#   tiny.qcow2                  a disk that boots the two by itself
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
begin "$1"
# The rescue system is this one with more in it; its recipe says what.
name=${NAME:-tiny}
kernel_package=${KERNEL_PACKAGE:-linux-image-cloud-amd64}

# Unpacked, not installed: no maintainer script runs, and nothing of this machine gets in.
packages=$work/packages
debootstrap_into "$packages" extract \
	"busybox-static,dropbear-bin,e2fsprogs,kmod,$kernel_package,qemu-guest-agent${MORE_PACKAGES:+,$MORE_PACKAGES}"
kernel=$(basename "$(echo "$packages"/lib/modules/*)")

root=$work/root
mkdir -p "$root"/bin "$root"/sbin "$root"/usr/bin "$root"/usr/sbin "$root"/lib64 "$root"/dev "$root"/proc "$root"/sys \
	"$root"/run "$root"/tmp "$root"/mnt "$root"/disk "$root"/root "$root"/var/log "$root"/www "$root"/etc/dropbear \
	"$root"/lib/x86_64-linux-gnu
ln -s ../run "$root/var/run"
cp -R "$here/root/." "$root/"
[ -z "${MORE_ROOT:-}" ] || cp -R "$MORE_ROOT/." "$root/"
chmod 755 "$root/init" "$root"/sbin/* "$root"/lib/berth/* "$root"/etc/acpi/PWRF/*

cp "$packages/bin/busybox" "$root/bin/busybox"
for applet in $("$root/bin/busybox" --list); do
	[ -e "$root/bin/$applet" ] || [ -e "$root/sbin/$applet" ] || ln -s busybox "$root/bin/$applet"
done

# Where the kernel looks for it.
ln -s ../bin/busybox "$root/sbin/modprobe"

# A program with the libraries it loads, all of the same packages.
libraries=$packages/lib/x86_64-linux-gnu:$packages/usr/lib/x86_64-linux-gnu
loader=$packages/lib64/ld-linux-x86-64.so.2
program() {
	cp "$1" "$2"
	"$loader" --library-path "$libraries" --list "$1" | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p' | while read -r library; do
		cp -Ln "$library" "$root/lib/x86_64-linux-gnu/"
	done
}
cp -L "$loader" "$root/lib64/"
program "$packages/usr/sbin/dropbear" "$root/sbin/dropbear"
program "$packages/usr/bin/dropbearkey" "$root/bin/dropbearkey"
program "$packages/usr/sbin/qemu-ga" "$root/sbin/qemu-ga"
program "$packages/sbin/resize2fs" "$root/sbin/resize2fs"
for path in ${MORE_PROGRAMS:-}; do
	rm -f "$root/bin/${path##*/}" "$root/sbin/${path##*/}"
	program "$packages/$path" "$root/sbin/${path##*/}"
done

# Only the drivers of a virtual machine, with what they need in turn.
depmod -b "$packages" "$kernel"
for module in virtio_pci virtio_blk virtio_net virtio_console virtio_rng virtio_balloon virtio_scsi sd_mod sr_mod \
	ata_piix isofs button evdev ${MORE_MODULES:-}; do
	modprobe -d "$packages" -S "$kernel" --show-depends "$module" || true
done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | sort -u | while read -r module; do
	place=$root${module#"$packages"}
	mkdir -p "$(dirname "$place")"
	cp "$module" "$place"
done
cp "$packages/lib/modules/$kernel"/modules.builtin* "$packages/lib/modules/$kernel/modules.order" \
	"$root/lib/modules/$kernel/"
depmod -b "$root" "$kernel"

cp "$packages/boot/vmlinuz-$kernel" "$result/$name.vmlinuz"
(cd "$root" && find . -print0 | LC_ALL=C sort -z | cpio --quiet --null --owner=0:0 -o -H newc) |
	zstd -q -T0 -15 -f -o "$result/$name.initrd"

# The disk holds the boot files, and keeps /root and the SSH host key of a server.
tree=$work/tree
mkdir -p "$tree/boot" "$tree/root"
chmod 700 "$tree/root"
cp "$result/$name.vmlinuz" "$tree/boot/vmlinuz"
cp "$result/$name.initrd" "$tree/boot/initrd"
cp "$here/extlinux.conf" "$tree/boot/"
bootable_disk "$tree" "${DISK_SIZE:-64M}" "$result/$name.qcow2"
