#!/bin/sh
# Builds the rescue system into the folder $1: the tiny guest with Debian's ordinary kernel, and what repairs
# disks. It runs from memory (256 MiB do) and takes root's password from the seed, so that SSH opens with it.
#   rescue.vmlinuz, rescue.initrd, rescue.qcow2   as of the tiny guest
set -eu
here=$(cd "$(dirname "$0")" && pwd)
export NAME=rescue KERNEL_PACKAGE=linux-image-amd64 MORE_ROOT="$here/root" DISK_SIZE=96M
export MORE_PACKAGES=btrfs-progs,cryptsetup-bin,dosfstools,fdisk,gdisk,lvm2,mdadm,parted,rsync,util-linux,xfsprogs
export MORE_PROGRAMS="
	sbin/e2fsck sbin/mke2fs sbin/tune2fs sbin/dumpe2fs sbin/debugfs
	sbin/xfs_repair sbin/mkfs.xfs usr/sbin/xfs_growfs usr/sbin/xfs_db usr/sbin/xfs_io
	bin/btrfs sbin/mkfs.fat sbin/fsck.fat
	sbin/lvm sbin/dmsetup sbin/mdadm sbin/cryptsetup
	sbin/parted sbin/fdisk sbin/sfdisk sbin/sgdisk
	sbin/blkid sbin/wipefs bin/lsblk usr/bin/rsync"
export MORE_MODULES="ahci ext4 i6300esb virtio_crypto nvme vfat nls_ascii nls_cp437 nls_utf8 xfs btrfs fuse loop efivarfs
	dm_mod dm_crypt dm_thin_pool dm_snapshot dm_mirror dm_raid raid0 raid1 raid10 raid456 linear"
exec sh "$here/../tiny/build.sh" "$1"
