#!/usr/bin/env bash
# Android's adbd for this machine, from the sources that Debian 12 builds its adb from: tests/lab/adbd.sh FOLDER
# It leaves FOLDER/adbd and FOLDER/lib, the libraries that it runs with. It asks nobody for a key and listens on all
# interfaces: it belongs into a network namespace of its own.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/debian.sh"
mkdir -p "$1"
out=$(realpath "$1")
have clang++ clang
have patch patch
have adb adb

work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
archive "$work/apt" bookworm "$(dpkg --print-architecture)"
cd "$work"
root=$work/root
unpack "$root" android-libboringssl android-libboringssl-dev android-libbase android-libcutils android-liblog libcap-dev
apt-get source -qq --download-only android-platform-tools 2>/dev/null
tar -xf android-platform-tools_*.debian.tar.xz
tar -xf android-platform-tools_*.orig.tar.gz --strip-components=1 --wildcards '*/system/core' \
  '*/frameworks/native/libs/adbd_auth'
grep '^system/core/' debian/patches/series | while read -r patch; do
  patch --batch --silent -p1 <"debian/patches/$patch"
done
# The network namespace does not hold back what listens on a virtual machine's own sockets: not there, then.
grep -q '"vsock:%d", port' system/core/adb/daemon/main.cpp || {
  echo "make lab: these sources of adbd are not those that adbd.sh is for, 29.0.6" >&2
  exit 1
}
sed -i '/push_back.*"vsock:%d", port/d' system/core/adb/daemon/main.cpp

# On a phone this gives system files their owners; nothing here has one.
cat >no_owners.h <<'C'
#pragma once
#include <stdint.h>
#include <sys/types.h>
static inline void fs_config(const char *, int, const char *, uid_t *, gid_t *, unsigned *, uint64_t *) {}
C

core=system/core adb=system/core/adb
defines=(_GNU_SOURCE _FILE_OFFSET_BITS=64 ADB_HOST=0 ALLOW_ADBD_NO_AUTH ALLOW_ADBD_ROOT=1 ALLOW_ADBD_DISABLE_VERITY
  ANDROID_BASE_UNIQUE_FD_DISABLE_IMPLICIT_CONVERSION=1 'ADB_VERSION="29.0.6"' 'PLATFORM_TOOLS_VERSION="29.0.6"')
headers=("$adb" $adb/{daemon/include,adbconnection/include} $core/{,base/,diagnose_usb/,libasyncio/}include
  $core/{libcrypto_utils,libcutils}/include frameworks/native/libs/adbd_auth/include "$root"/usr/include{/android,})
flags=(-O1 -fPIC -w "${defines[@]/#/-D}" "${headers[@]/#/-I}")
# What the sources took for granted of Android's own C++ library.
cxxflags=(-std=gnu++2a "${flags[@]}" -include no_owners.h -include optional -include atomic -include memory -include string)

files=($adb/{adb,adb_io,adb_listeners,adb_trace,adb_unique_fd,adb_utils,services,shell_service_protocol,socket_spec,sockets}.cpp
  $adb/{sysdeps_unix,transport,transport_fd,transport_local,transport_usb,types}.cpp
  $adb/fdevent/fdevent{,_epoll,_poll}.cpp $adb/sysdeps/{errno,posix/network}.cpp
  $adb/daemon/{auth,file_sync_service,jdwp_service,main,services,shell_service,usb_dummy}.cpp
  $adb/adbconnection/adbconnection_server.cpp $core/diagnose_usb/diagnose_usb.cpp
  frameworks/native/libs/adbd_auth/adbd_auth.cpp)
echo "make lab: compiling adbd, ${#files[@]} files"
export CXX_LINE="${cxxflags[*]@Q}"
printf '%s\0' "${files[@]}" | xargs -0 -P "$(nproc)" -I{} bash -c \
  'eval "flags=($CXX_LINE)"; file=$1; clang++ "${flags[@]}" -c "$file" -o "${file//\//_}.o"' bash {}
clang "${flags[@]}" -c $core/libcrypto_utils/android_pubkey.c -o android_pubkey.o

libraries=$root/usr/lib/$(uname -m)-linux-gnu/android
mkdir -p "$out/lib"
for name in base cutils log crypto; do cp "$libraries/lib$name.so.0" "$out/lib"; done
clang++ -o adbd ./*.o -L"$out/lib" -l:lib{base,cutils,log,crypto}.so.0 -Wl,-rpath,'$ORIGIN/lib' -lpthread -lresolv -lutil
mv adbd "$out/adbd.new"
if ldd "$out/adbd.new" | grep 'not found' >&2; then exit 1; fi
mv "$out/adbd.new" "$out/adbd"
