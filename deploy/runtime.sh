#!/bin/sh
# Collects in FOLDER what our images hold beside their program: the libraries that it loads, the authorities of the well-known world where
# this machine has them, and folders to write to. Runs in the Dockerfile's stage `collect`, which is of some glibc system.
#
# usage: runtime.sh FOLDER
set -eu
root=$1
mkdir -p "$root/etc"

# The loader and the libraries under the very paths where the loader looks. No libnss and no libresolv: this glibc (2.34 or newer) has in
# itself what finds hosts.
found=
for file in /lib64/ld-linux-*.so.* /lib/ld-linux-*.so.* /lib/*-linux-gnu*/libc.so.6 /lib/*-linux-gnu*/libm.so.6 /lib/*-linux-gnu*/libgcc_s.so.1; do
    [ -e "$file" ] || continue
    mkdir -p "$root${file%/*}"
    cp -L "$file" "$root$file"
    found="$found ${file##*/}"
done
for name in ld-linux libc.so.6 libm.so.6 libgcc_s.so.1; do
    case $found in
        *" $name"*) ;;
        *) echo "runtime.sh: this base image has no $name; name one of a glibc system by --build-arg RUNTIME_IMAGE=" >&2; exit 1 ;;
    esac
done

authorities=/etc/ssl/certs/ca-certificates.crt
if [ -e "$authorities" ]; then
    mkdir -p "$root/etc/ssl/certs"
    cp -L "$authorities" "$root$authorities"
fi
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
# The number has a name, for programs that ask.
printf 'root:x:0:0:root:/:/\nfedbasin:x:65532:65532:fedbasin:/var/lib/fedbasin:/\n' >"$root/etc/passwd"
printf 'root:x:0:\nfedbasin:x:65532:\n' >"$root/etc/group"

mkdir -p "$root/tmp"
chmod 1777 "$root/tmp"
# Volumes take their owner and mode from here when they are mounted for the first time.
for folder in /var/lib/fedbasin /srv/fedbasin; do
    mkdir -p "$root$folder"
    chmod 0750 "$root$folder"
    chown 65532:65532 "$root$folder"
done
