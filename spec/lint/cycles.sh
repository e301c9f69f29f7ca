#!/bin/sh
# Checks that no C files call each other in a circle.
# usage: cycles.sh OBJECT...
set -eu
[ $# -gt 0 ] || { echo "usage: cycles.sh OBJECT..." >&2; exit 2; }
symbols=$(mktemp)
trap 'rm -f "$symbols"' EXIT
for object in "$@"; do
  [ -r "$object" ] || { echo "cycles.sh: cannot read $object" >&2; exit 2; }
  nm -g --defined-only "$object" | awk -v object="$object" '{ print "defined", $3, object }' >> "$symbols"
  nm -u "$object" | awk -v object="$object" '{ print "used", $2, object }' >> "$symbols"
done
loops=$(awk '
  $1 == "defined" { home[$2] = $3 }
  $1 == "used" { users[$2] = users[$2] " " $3 }
  END {
    for (symbol in users)
      if (symbol in home) {
        count = split(users[symbol], list, " ")
        for (i = 1; i <= count; i++) print list[i], home[symbol]
      }
  }' "$symbols" | tsort 2>&1 >/dev/null) || true
if [ -n "$loops" ]; then
  echo "C files that call each other:" >&2
  echo "$loops" >&2
  exit 1
fi
echo "C files: no cycles"
