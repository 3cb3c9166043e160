#!/bin/sh
# Many threads and processes at once, by counts and not by times; each stressor verifies what it does.
set -eu
cd "$1"
status=0
for stressor in "$@"; do
  test "$stressor" = "$1" && continue
  name=${stressor%=*}
  ops=${stressor#*=}
  code=0
  stress-ng --temp-path . --verify --no-rand-seed --oomable "--$name" 2 "--$name-ops" "$ops" \
    --timeout 300 > log 2>&1 || code=$?
  echo "$name: $code"
  # Its metrics say how much was done in a time: nobody counts on a time here.
  grep -E ' (fail|error|warn):' log | grep -v metrics-check | sed 's/\[[0-9]*\]//' || true
  test $code -eq 0 || status=1
done
rm -f log
ls -A
exit $status
