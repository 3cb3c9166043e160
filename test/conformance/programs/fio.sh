#!/bin/sh
# fio writes at random, and verifies every block, by each way of doing it.
set -eu
for folder in "$@"; do
  cd "$folder"
  for engine in psync libaio io_uring mmap; do
    for direct in 0 1; do
      test "$engine$direct" = mmap1 && continue
      code=0
      fio --name=verify --filename=fio.data --size=8M --rw=randwrite --bs=4k-64k --ioengine=$engine --direct=$direct \
        --iodepth=8 --verify=crc32c --verify_fatal=1 --verify_state_save=0 --do_verify=1 --randseed=1 --allrandrepeat=1 --end_fsync=1 \
        --output-format=terse --terse-version=3 > log 2> errors || code=$?
      # Of terse version 3: the error, KiB read (by verification), KiB written.
      echo "$folder $engine direct=$direct: status $code, $(awk -F ';' '/^3;/ { print "error " $5 ", read " $6 " KiB, wrote " $47 " KiB" }' log)"
      cat errors
      rm -f fio.data
    done
  done
  rm -f log errors
  ls -A
done
