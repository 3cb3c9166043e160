// PostgreSQL under pgbench, snapshotted while it works: what is restored goes on, and its books balance.
import { afterAll, beforeAll, expect, test } from 'vitest';

import { ServiceHost } from './service-host.js';

const ROUNDS = Number(process.env.CLEARVM_ROUNDS ?? 100);
const CLIENTS = 4;
const PG = '/usr/lib/postgresql/15/bin';

let host: ServiceHost;
beforeAll(async () => {
  host = await ServiceHost.start();
});
afterAll(() => host?.close());

const psql = (name: string, sql: string): Promise<string> =>
  host.ok(`clearvm exec -u postgres ${name} psql -qAtc "${sql}"`);

/** Each transaction of pgbench changes three balances, and writes down by how much. */
const BALANCES = `SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history),
  (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history),
  (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history)`;

const transactions = async (name: string): Promise<number> =>
  Number(await psql(name, 'SELECT count(*) FROM pgbench_history'));

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
    clearvm exec -d -u postgres db ${PG}/pgbench -n -c ${CLIENTS} -T 1000000 postgres`);
  let before = 0;
  for (let round = 1; round <= ROUNDS; round++) {
    await expect.poll(() => transactions('db'), { timeout: 120_000 }).toBeGreaterThan(before);
    before = await transactions('db');
    await host.ok(`
      clearvm snapshot create --leave-running db s > /dev/null
      clearvm snapshot restore --name restored s > /dev/null`);
    // It goes on: its clients have come with it, and write more than the original had when it was taken.
    await expect.poll(() => transactions('restored'), { timeout: 120_000 }).toBeGreaterThan(before);
    await host.ok(`
      clearvm exec restored pkill -INT pgbench
      clearvm exec restored sh -c 'while pgrep pgbench > /dev/null; do sleep 0.1; done'`);
    expect(await psql('restored', BALANCES), `round ${round}`).toBe('t|t|t');
    await host.ok(`clearvm rm -f restored; clearvm snapshot rm s`);
    if (round % 10 === 0) console.log(`${round} done`);
  }
  await host.ok('clearvm exec db pkill -INT pgbench');
  expect(await psql('db', BALANCES)).toBe('t|t|t');
  console.log(`${ROUNDS} snapshots while ${await transactions('db')} transactions were made`);
  expect(await host.ok('clearvm stop -t 60 db; clearvm rm db')).toBe('db\ndb');
});
