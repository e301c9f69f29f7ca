#!/bin/sh
# Checks that no C files call each other in a circle.
# usage: cycles.sh OBJECT...
set -eu
loops=$(for object in "$@"; do
  nm -g --defined-only "$object" | awk -v object="$object" '{ print "defined", $3, object }'
  nm -u "$object" | awk -v object="$object" '{ print "used", $2, object }'
done | awk '
  $1 == "defined" { home[$2] = $3 }
  $1 == "used" { users[$2] = users[$2] " " $3 }
  END {
    for (symbol in users)
      if (symbol in home) {
        count = split(users[symbol], list, " ")
        for (i = 1; i <= count; i++) print list[i], home[symbol]
      }
  }' | tsort 2>&1 >/dev/null) || true
if [ -n "$loops" ]; then
  echo "C files that call each other:" >&2
  echo "$loops" >&2
  exit 1
fi
echo "C files: no cycles"
