#!/bin/sh
# Makes a Debian package of what 'make install' put into a folder; 'make deb'
# calls it.
#
#   deb.sh ROOT VERSION OUTPUT
#
# dpkg-shlibdeps finds the libraries' dependencies, but not libcurl, which is opened
# at the first fetch.
set -eu
root=$1 version=$2 output=$3
here=$(cd "$(dirname "$0")/.." && pwd)
architecture=$(dpkg --print-architecture)
doc=$root/usr/share/doc/theaterref

find "$root/usr/lib" -name '*.so*' -type f -exec strip --strip-unneeded {} +
find "$root/usr/lib" -name '*.a' -exec strip --strip-debug {} +
find "$root/usr/lib" -name '*.so*' -type f -exec chmod 644 {} +

mkdir -p "$doc"
cp "$here/README.md" "$here/SECURITY.md" "$doc"
cp -r "$here/examples" "$doc/examples"
gzip -9n < "$here/CHANGELOG.md" > "$doc/changelog.gz"
gzip -9nf "$root"/usr/share/man/man1/*.1
cat > "$doc/copyright" <<END
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: theaterref

Files: *
Copyright: the theaterref authors
License: Apache-2.0
 On Debian systems the text of the Apache License, version 2.0, is in
 /usr/share/common-licenses/Apache-2.0.
END

# dpkg-shlibdeps wants a source package around what it looks at.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/debian"
ln -s "$(cd "$root" && pwd)" "$work/debian/theaterref"
printf 'Source: theaterref\n\nPackage: theaterref\nArchitecture: any\n' > "$work/debian/control"
depends=$(cd "$work" && find -L debian/theaterref/usr/lib -name '*.so*' -type f -exec dpkg-shlibdeps -O {} + | sed -n 's/^shlibs:Depends=//p')

mkdir -p "$root/DEBIAN"
echo 'activate-noawait ldconfig' > "$root/DEBIAN/triggers"
(cd "$root" && find usr -type f -exec md5sum {} +) > "$root/DEBIAN/md5sums"
cat > "$root/DEBIAN/control" <<END
Package: theaterref
Version: $version-1
Architecture: $architecture
Maintainer: ${DEBFULLNAME:-The theaterref maintainers} <${DEBEMAIL:-maintainers@localhost}>
Installed-Size: $(du -sk "$root/usr" | cut -f1)
Depends: $depends, libcurl4 (>= 7.83), lua5.4, lua-cjson, lua-lpeg, lua-argparse
Recommends: ca-certificates
Suggests: liblua5.4-dev, libmbedtls-dev, pkg-config
Section: libs
Priority: optional
Description: references to bytes, and manifests to spawn plans
 theaterref turns file paths, store:// and http(s):// references into bytes
 under a policy in Lua, with a cache that the process shares and a
 content-addressed store on disk. It is a Lua 5.4 module with a C core, a
 library for programs in C, and a command.
END
mkdir -p "$(dirname "$output")"
dpkg-deb --build --root-owner-group "$root" "$output" > /dev/null
echo "$output"
