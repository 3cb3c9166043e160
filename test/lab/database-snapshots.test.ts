// PostgreSQL under pgbench, snapshotted while it works: what is restored goes on, and its books balance.
import { afterAll, beforeAll, expect, test } from 'vitest';

import { ServiceHost } from './service-host.js';

const ROUNDS = Number(process.env.CLEARVM_ROUNDS ?? 100);
const AT_A_TIME = 5;
const CLIENTS = 4;
/** Transactions a second: two such VMs fill an emulated processor. */
const RATE = 25;
/** Those that are later than this are left out, or both VMs would make up for the time that they stood still. */
const LATE_MS = 2000;
const PG = '/usr/lib/postgresql/15/bin';

let host: ServiceHost;
beforeAll(async () => {
  host = await ServiceHost.start();
});
afterAll(() => host?.close());

test(`PostgreSQL under pgbench, snapshotted and restored, ${ROUNDS} times`, async () => {
  await host.service(
    'db',
    '-m 512m --shm-size 256m',
    `install -d -o postgres -m 700 /pg
     runuser -u postgres -- ${PG}/initdb -D /pg > /dev/null
     chown -R postgres /var/run/postgresql
     exec runuser -u postgres -- ${PG}/postgres -D /pg`,
    'pg_isready -q',
  );
  await host.ok(`
    clearvm exec -u postgres db ${PG}/pgbench -i -q postgres 2> /dev/null
    clearvm exec -d -u postgres db ${PG}/pgbench -n -c ${CLIENTS} -R ${RATE} -L ${LATE_MS} -T 1000000 postgres`);
  let transactions = 0;
  for (let done = 0; done < ROUNDS; done += AT_A_TIME) {
    const rounds = Math.min(AT_A_TIME, ROUNDS - done);
    transactions = await host.drive('database-snapshots.mjs', [String(rounds)]);
    console.log(`${done + rounds} snapshots while ${transactions} transactions were made`);
  }
  expect(transactions).toBeGreaterThan(0);
  expect(
    await host.ok('clearvm exec db pkill -INT pgbench; clearvm stop -t 60 db; clearvm rm db'),
  ).toBe('db\ndb');
});
