#!/usr/bin/env bash
# Runs the suite on another architecture, in a Debian chroot below build/chroot/. It needs
# root. The chroot is made once; the sources are copied into it each time.
# usage: .ci/chroot.sh ARCHITECTURE [MAKE-ARGUMENT...]     such as: .ci/chroot.sh s390x test SPECS=spec/core/json_spec.lua
#
# Mounts are in a private namespace, and /dev is the chroot's own: what runs there as root
# reaches no device of this machine, and nothing stays mounted.
set -eu
cd "$(dirname "$0")/.."

[ "$(id -u)" = 0 ] || { echo "$0: making a chroot needs root; run it with sudo" >&2; exit 1; }
[ -n "${IN_NAMESPACE:-}" ] || IN_NAMESPACE=1 exec unshare --mount --propagation private "$0" "$@"

architecture=$1; shift
suite=${SUITE:-bookworm}
root=$PWD/build/chroot/$suite-$architecture
emulator=

# Installs packages of this machine that are missing.
need() {
  local package missing=
  for package; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
  done
  [ -z "$missing" ] || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null; }
}

# Has the kernel start programs of a foreign architecture with QEMU, until this script ends.
emulate() {
  local name=theaterref-$architecture binary mount=/proc/sys/fs/binfmt_misc
  binary=$(command -v "qemu-$architecture-static") || { need qemu-user-static; binary=$(command -v "qemu-$architecture-static"); }
  mount -t binfmt_misc binfmt_misc $mount
  emulator=$binary
  if ! grep -qs "interpreter $binary" $mount/*; then
    # ELF, 64 bits, big-endian, for the machine 22. F: the kernel keeps QEMU open, so that the chroot needs no copy.
    echo ":$name:M::\\x7fELF\\x02\\x02\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\x16:\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff:$binary:F" > $mount/register
    trap 'echo -1 > '"$mount/$name" EXIT
  fi
}

case $architecture in
  s390x) emulate ;;
  i386 | amd64) ;; # run natively
  *) echo "$0: unknown architecture '$architecture'; use i386, s390x or amd64" >&2; exit 1 ;;
esac

need debootstrap
if [ ! -e "$root/made" ]; then
  rm -rf "$root" && mkdir -p "$root"
  echo "Making a chroot of $suite for $architecture"
  # The main archive alone: the security suite has versions for i386 that do not fit together.
  debootstrap --arch="$architecture" --variant=minbase --include=make,ca-certificates "$suite" "$root" \
    "${MIRROR:-http://deb.debian.org/debian}" > "$root.log" 2>&1 || { tail -3 "$root.log" >&2; exit 1; }
  touch "$root/made"
fi

# The proxies and certificates of this machine reach the archive.
cp -r /etc/apt/apt.conf.d "$root/etc/apt/"
cp /etc/resolv.conf /etc/hosts "$root/etc/"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"

mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 "$root/dev/${device%:*}" c 1 "${device#*:}"; done
mknod -m 666 "$root/dev/tty" c 5 0
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for stream in stdin:0 stdout:1 stderr:2; do ln -s "/proc/self/fd/${stream#*:}" "$root/dev/${stream%:*}"; done

# The files that git knows, as they are now; what was built before stays, for the next build.
mkdir -p "$root/srv/theaterref"
find "$root/srv/theaterref" -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
git ls-files -z --cached --others --exclude-standard | xargs -0 tar c --ignore-failed-read 2>/dev/null | tar x -C "$root/srv/theaterref" --no-same-owner

proxies=$(env | grep -iE '^(https?_proxy|no_proxy)=' || true)
[ $# -gt 0 ] || set -- test
chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/srv TERM=dumb EMULATED="$emulator" $proxies \
  sh -c 'cd /srv/theaterref && make "$@"' sh "$@"
