#!/bin/sh
# Ceph's S3 gateway on one machine, for `make test-s3`: radosgw.sh start FOLDER PORT | stop FOLDER.
# The ports from PORT to PORT+20 of the loopback address are taken. Objects live in memory, and everything
# else in FOLDER. 'start' returns when the gateway answers, and writes FOLDER/settings: endpoint, access key
# and secret, a line each. It takes half a minute, and 240 MB.
set -eu

folder=$2

stop() {
  for name in radosgw osd mon; do
    [ -f "$folder/$name.pid" ] || continue
    pid=$(cat "$folder/$name.pid")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || true
    rm -f "$folder/$name.pid"
  done
}

if [ "$1" = stop ]; then
  stop
  exit 0
fi

port=$3
modules=$(dirname "$(find /usr/lib -type d -path '*/ceph/erasure-code' | head -n 1)")
cluster=$(cat /proc/sys/kernel/random/uuid)
mkdir -p "$folder/mon" "$folder/osd" "$folder/radosgw" "$folder/logs" "$folder/sockets"
export CEPH_CONF="$folder/ceph.conf"
cat > "$CEPH_CONF" <<END
[global]
fsid = $cluster
mon host = v2:127.0.0.1:$((port + 1))
mon data = $folder/mon
osd data = $folder/osd
rgw data = $folder/radosgw
keyring = $folder/keyring
run dir = $folder/sockets
admin socket = $folder/sockets/\$name
log file = $folder/logs/\$name
crash dir = $folder/logs
public addr = 127.0.0.1
public network = 127.0.0.0/8
ms mon client mode = crc
ms bind port min = $((port + 2))
ms bind port max = $((port + 20))
auth cluster required = none
auth service required = none
auth client required = none
mon allow pool size one = true
mon data avail crit = 1
mon max pg per osd = 1000
osd objectstore = memstore
memstore device bytes = 1073741824
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
plugin dir = $modules
erasure code dir = $modules/erasure-code
osd class dir = $(dirname "$modules")/rados-classes
rgw frontends = beast endpoint=127.0.0.1:$port
END

# Runs a daemon in the background, and notes its process.
daemon() {
  name=$1
  shift
  "$@" -f > "$folder/logs/$name.out" 2>&1 &
  echo $! > "$folder/$name.pid"
}

# Asks until a command succeeds, for a minute at most.
await() {
  for _ in $(seq 120); do
    "$@" > /dev/null 2>&1 && return
    sleep 0.5
  done
  echo "radosgw.sh: '$*' did not succeed within a minute; see $folder/logs" >&2
  stop
  exit 1
}

: > "$folder/keyring"
monmaptool --create --fsid "$cluster" --addv a "v2:127.0.0.1:$((port + 1))" "$folder/monmap" > /dev/null
ceph-mon --mkfs -i a --monmap "$folder/monmap" --keyring "$folder/keyring" > "$folder/logs/mkfs" 2>&1
daemon mon ceph-mon -i a
await timeout 5 ceph -s
ceph osd new "$cluster" > /dev/null 2>&1
ceph-osd -i 0 --mkfs --osd-uuid "$cluster" >> "$folder/logs/mkfs" 2>&1
daemon osd ceph-osd -i 0
# The gateway asks the monitor for encryption, which it does not have, unless the command line forbids that.
daemon radosgw radosgw -n client.rgw.a --ms_mon_client_mode=crc
await curl -s -o /dev/null "http://127.0.0.1:$port/"
radosgw-admin --ms_mon_client_mode=crc user create --uid=spec --display-name=spec --access-key=AKIDSPEC --secret-key=spec-secret-key \
  > "$folder/logs/user" 2>&1 || { cat "$folder/logs/user" >&2; stop; exit 1; }
printf 'http://127.0.0.1:%s\nAKIDSPEC\nspec-secret-key\n' "$port" > "$folder/settings"
