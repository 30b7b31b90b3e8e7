#!/usr/bin/env bash
# Emulated AArch64 machines, one with 4 KB and one with 16 KB pages: tests/lab/machine.sh FOLDER
# It leaves FOLDER/{4k,16k}/{kernel,initramfs}: Debian's kernels, busybox and dropbear; and the keys for them, made here:
# FOLDER/user (to log in as root, the only way), FOLDER/host and FOLDER/host.pub (the machines' own).
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
source "$here/debian.sh"
mkdir -p "$1"
out=$(realpath "$1")
have qemu-system-aarch64 qemu-system-arm
have cpio cpio
have xz xz-utils
have ssh-keygen openssh-client

work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
archive "$work/apt" trixie arm64
userland=(busybox-static dropbear-bin libc6 libcrypt1 libgmp10 libtomcrypt1 libtommath1 zlib1g)
echo "make lab: fetching Debian's kernels for AArch64 with 4 KB and 16 KB pages"
unpack "$work/system" "${userland[@]}"
unpack "$work/4k" "$(leads_to linux-image-cloud-arm64)"
unpack "$work/16k" "$(leads_to linux-image-arm64-16k)"

rm -f "$out"/{user,host}{,.pub}
for key in user host; do ssh-keygen -q -t ed25519 -N '' -C "the lab's $key" -f "$out/$key"; done

# What both machines have: root, by key alone.
root=$work/root
mkdir -p "$root"/{bin,etc,proc,sys,dev,root,modules,usr/sbin,lib}
install -m 755 "$here/init" "$root/init"
cp "$work"/system/usr/bin/busybox "$root/bin/"
cp "$work"/system/usr/sbin/dropbear "$work"/system/usr/lib/dropbear/dropbearconvert "$root/usr/sbin/"
for library in ld-linux-aarch64.so.1 libc.so.6 libcrypt.so.1 libgmp.so.10 libtomcrypt.so.1 libtommath.so.1 libz.so.1; do
  found=$(find "$work/system" -name "$library" | head -n 1)
  [ -n "$found" ] || { echo "make lab: Debian's packages have no $library" >&2; exit 1; }
  cp -L "$found" "$root/lib/$library"
done
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
cp "$out/user.pub" "$root/etc/authorized_keys"
install -m 600 "$out/host" "$root/etc/host_key"

for pages in 4k 16k; do
  rm -f "$root"/modules/*
  number=0
  for module in failover net_failover virtio_net; do # each before those that need it
    number=$((number + 1))
    found=$(find "$work/$pages" -name "$module.ko.xz")
    xz -dc "$found" >"$root/modules/$number-$module.ko"
  done
  mkdir -p "$out/$pages"
  (cd "$root" && find . | cpio --quiet -o -H newc -R 0:0 | gzip -1) >"$out/$pages/initramfs"
  cp "$work/$pages"/boot/vmlinuz-* "$out/$pages/kernel"
done
