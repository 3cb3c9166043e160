#!/bin/bash
# A WAL database, which lives on shared mappings and byte-range locks, under two writers and a reader.
set -eu
cd "$1"
sqlite3 test.db << 'END'
PRAGMA journal_mode = WAL;
CREATE TABLE entry (id INTEGER PRIMARY KEY, writer INTEGER NOT NULL, n INTEGER NOT NULL, text TEXT);
CREATE INDEX entry_writer ON entry (writer, n);
END
write() { # WRITER
  echo '.timeout 120000'
  echo 'PRAGMA synchronous = NORMAL;'
  for n in $(seq 60); do
    echo "BEGIN IMMEDIATE; INSERT INTO entry (writer, n, text) VALUES ($1, $n, hex(zeroblob(200))); COMMIT;"
  done
}
write 1 | sqlite3 -bail test.db & first=$!
write 2 | sqlite3 -bail test.db & second=$!
before=0
for _ in $(seq 10); do
  now=$(sqlite3 -cmd '.timeout 120000' test.db 'SELECT count(*) FROM entry;')
  test "$now" -ge "$before" || echo "the reader has seen time go back: $before, $now"
  before=$now
done
wait $first; echo "first writer: $?"
wait $second; echo "second writer: $?"
sqlite3 test.db << 'END'
.timeout 120000
PRAGMA integrity_check;
SELECT writer, count(*), min(n), max(n), sum(n) FROM entry GROUP BY writer;
PRAGMA wal_checkpoint(TRUNCATE);
DELETE FROM entry WHERE n % 2;
VACUUM;
PRAGMA integrity_check;
SELECT count(*) FROM entry;
END
ls
# A writer that is killed in the middle leaves a database that is whole.
mkfifo orders
sqlite3 test.db < orders & killed=$!
exec 9> orders
echo 'BEGIN; UPDATE entry SET n = 0;' >&9
echo '.shell touch begun' >&9
while ! test -e begun; do sleep 0.1; done
# In one group: bash may say "Killed" as soon as it has noticed.
{ kill -9 $killed; wait $killed; } 2> /dev/null || echo "killed: $?"
exec 9>&-
rm orders begun
sqlite3 test.db 'PRAGMA integrity_check; SELECT count(*) FROM entry WHERE n = 0; PRAGMA journal_mode = DELETE;'
sqlite3 test.db 'INSERT INTO entry (writer, n) VALUES (3, 3); PRAGMA integrity_check; SELECT count(*) FROM entry;'
ls
