#!/bin/sh
# Starts a mirror of a registry for a fleet: docker-registry in proxy mode, and behind it nginx with a cache of blobs.
# usage: fleet.sh start FOLDER ORIGIN MIRROR-PORT BLOBS-PORT | fleet.sh stop FOLDER
#   ORIGIN is a URL such as http://127.0.0.1:5000. Hosts use the mirror with theaterref.conf.lua.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 2 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
command=$1 folder=$2
if [ "$command" = stop ]; then
  for name in mirror nginx; do
    if [ -f "$folder/$name.pid" ]; then kill "$(cat "$folder/$name.pid")" 2>/dev/null || true; fi
  done
  exit 0
fi
[ $# -eq 5 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
mkdir -p "$folder/t"
folder=$(cd "$folder" && pwd)
for file in mirror.yml nginx.conf; do
  sed "s|FOLDER|$folder|g; s|ORIGIN|$3|g; s|MIRROR|$4|g; s|BLOBS|$5|g; s|USER|$(id -un)|g; s|GROUP|$(id -gn)|g" "$here/$file" > "$folder/$file"
done
nginx -c "$folder/nginx.conf" -e "$folder/nginx.log" 2>/dev/null # which warns of a user, unless root starts it
docker-registry serve "$folder/mirror.yml" > "$folder/mirror.log" 2>&1 &
echo $! > "$folder/mirror.pid"
for _ in $(seq 100); do
  if curl -s -o /dev/null "http://127.0.0.1:$4/v2/"; then exit 0; fi
  sleep 0.1
done
echo "the mirror did not come up: see $folder/mirror.log" >&2
exit 1
