# Grows what is mounted from the disk $1 to the disk's end: the partition first, then the file system.
disk=/dev/$1 seen= status=3
while read -r source target kind rest; do
	case $source in "$disk" | "$disk"[0-9]*) ;; *) continue ;; esac
	case " $seen " in *" $source "*) continue ;; esac
	case $kind in ext2 | ext3 | ext4 | xfs | btrfs) ;; *) continue ;; esac
	seen="$seen $source"
	[ "$status" != 3 ] || status=0
	part=${source#"$disk"}
	if [ -n "$part" ]; then
		# 1: it reaches the end already, or another one stands behind it.
		growpart "$disk" "$part" || [ $? = 1 ] || { status=1 && continue; }
	fi
	case $kind in
	ext*) resize2fs "$source" ;;
	xfs) xfs_growfs "$target" ;;
	btrfs) btrfs filesystem resize max "$target" ;;
	esac || status=1
done </proc/self/mounts
[ "$status" != 3 ] || echo "nothing is mounted from $disk" >&2
exit "$status"
