# What the recipes share. Sourced by each build.sh, which runs as root with the folder for its results as $1.

release=bookworm
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# Only Debian's own archives, as this machine's apt knows them (its mirror, its suites): a third party's
# packages have no business in a guest.
apt_sources() {
	apt-get indextargets --format "deb [signed-by=$keyring] \$(REPO_URI) \$(RELEASE) \$(COMPONENT)" \
		'Identifier: Packages' 'Origin: Debian' "Architecture: amd64" |
		grep -E " $release(-updates|-security)? " | sort -u
}

# How this machine reaches its archives (proxy, retries, clock checks): mmdebstrap starts from empty settings.
apt_settings() {
	apt-config dump Acquire | grep -E '^Acquire::(Check-[A-Za-z-]+|Retries|https?::[A-Za-z:.-]+) ' || true
}

# debootstrap_into ROOT VARIANT PACKAGES [OPTION…]
debootstrap_into() {
	local root=$1 variant=$2 packages=$3
	shift 3
	apt_sources >"$work/sources.list"
	apt_settings >"$work/apt.conf"
	[ -s "$work/sources.list" ] || {
		echo "apt knows no archive of Debian $release; run apt-get update, or add one to /etc/apt/sources.list" >&2
		return 1
	}
	TMPDIR=$work mmdebstrap --mode=root --variant="$variant" --aptopt="$work/apt.conf" \
		--aptopt='APT::Install-Recommends "false"' \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' --include="$packages" "$@" \
		"$release" "$root" "$work/sources.list"
}

# bootable_disk TREE SIZE RESULT: a disk that boots by itself under a BIOS: ext4 without a partition table, and
# extlinux in TREE/boot. extlinux reads neither 64-bit nor checksummed metadata, and fails on 1 KiB blocks.
bootable_disk() {
	local tree=$1 size=$2 result=$3
	local disk=$work/disk.raw
	mkdir -p "$work/mount"
	truncate -s "$size" "$disk"
	mke2fs -q -t ext4 -b 4096 -O '^64bit,^metadata_csum' -L root -d "$tree" "$disk"
	mount -o loop "$disk" "$work/mount"
	extlinux --install "$work/mount/boot" 2>&1 | grep -vE 'device geometry|usually harmless|is device' >&2 || true
	umount "$work/mount"
	qemu-img convert -c -O qcow2 -o compression_type=zstd "$disk" "$result"
	rm "$disk"
}

# Work beside the result, so that it is on a disk with room; leave nothing behind.
begin() {
	result=$1
	work=$(mktemp -d "$result/.work.XXXXXX")
	trap 'mountpoint -q "$work/mount" && umount "$work/mount"; rm -rf "$work"' EXIT
	trap 'exit 130' INT TERM HUP
}
