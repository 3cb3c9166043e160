// Databases whose VM is killed while they write, and whose disk loses its power: what they have acknowledged is there afterwards.
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';

import { ServiceHost } from './service-host.js';
import { LONG, PROJECT } from './support.js';

const DISK = '/tmp/disk';
/** `power`: with the host's disk, which has then what was written to it by fsync, and what else by chance. */
type Death = 'kill' | 'power';
/** How often each way of dying is tried, and after how many acknowledged writes. */
const ROUNDS = LONG ? 10 : 1;
/** Recovery takes PostgreSQL longer than all else here: in the short run it dies once, in the worse way. */
const DEATHS: Record<'postgres' | 'redis', readonly Death[]> = {
  postgres: LONG ? ['kill', 'power'] : ['power'],
  redis: ['kill', 'power'],
};
const WRITES = LONG ? 1000 : 150;
const PGBENCH_SECONDS = LONG ? 60 : 8;
const CLIENTS = 3;
const LIMIT_MS = (LONG ? 240 : 20) * 60_000;

let host: ServiceHost;
beforeAll(async () => {
  host = await ServiceHost.start();
  await host.ok(`
    modprobe -a loop ext4; mkdir ${DISK}
    truncate -s 1G ${DISK}.img; mkfs.ext4 -q ${DISK}.img; mount -o loop ${DISK}.img ${DISK}`);
});
afterAll(() => host?.close());
beforeEach(() =>
  host.ok(
    `clearvm rm -f $(clearvm ps -aq) 2> /dev/null || :; rm -rf ${DISK}/data; mkdir ${DISK}/data`,
  ),
);

/** Ends a container's VM at once, and perhaps the host's disk. Returns when both can be used again. */
async function die(name: string, how: Death): Promise<void> {
  const vmm = await host.vmmOf(name);
  const powerOff = `python3 ${PROJECT}/test/lab/drivers/power_off.py ${DISK} ${vmm}`;
  await host.ok(`
    ${how === 'power' ? powerOff : `kill -9 ${vmm}`}
    until [ "$(clearvm inspect -f '{{.State.Running}}' ${name})" = false ]; do sleep 0.1; done
    clearvm inspect -f '{{.State.ExitCode}}' ${name} | grep -qx 137`);
  if (how === 'power') {
    await host.ok(
      `until umount ${DISK} 2> /dev/null; do sleep 0.1; done; mount -o loop ${DISK}.img ${DISK}`,
    );
  }
}

/** Starts CLIENTS writers, each with its lines of acknowledgement in /tmp/told-N, out here; returns after WRITES of each. */
async function writeUntilTold(name: string, client: string): Promise<void> {
  const vmm = await host.vmmOf(name);
  await host.ok(`
    rm -f /tmp/told-*
    for i in $(seq ${CLIENTS}); do
      : > /tmp/told-$i
      (${client}) > /tmp/told-$i 2> /tmp/told-$i.err < /dev/null &
    done
    for i in $(seq ${CLIENTS}); do
      until [ $(wc -l < /tmp/told-$i) -ge ${WRITES} ]; do
        kill -0 ${vmm}; sleep 0.2
      done
    done`);
}

const PG = '/usr/lib/postgresql/15/bin';
const psql = (sql: string): Promise<string> =>
  host.ok(`clearvm exec -u postgres db psql -qAtc "${sql}"`);

test(
  'PostgreSQL: initdb, pgbench, and no lost commit',
  async () => {
    // Its data directory has to be below a volume, for what initdb does to its owner and mode.
    await host.service(
      'db',
      `-m 1g --shm-size 256m -v ${DISK}/data:/data`,
      `[ -e /data/pg/PG_VERSION ] || {
       install -d -o postgres -m 700 /data/pg
       runuser -u postgres -- ${PG}/initdb -D /data/pg > /dev/null
       chown -R postgres /var/run/postgresql
     }
     exec runuser -u postgres -- ${PG}/postgres -D /data/pg`,
      'pg_isready -q',
    );
    const bench = await host.ok(`
    clearvm exec -u postgres db sh -ec '
      export PATH=$PATH:${PG}; pgbench -i -q -s 2 postgres; pgbench -c 4 -T ${PGBENCH_SECONDS} postgres' 2>&1`);
    expect(bench).toMatch(/number of failed transactions: 0 /);
    const done = Number(/number of transactions actually processed: (\d+)/.exec(bench)?.[1]);
    expect(done).toBeGreaterThan(0);
    console.log(`pgbench, ${PGBENCH_SECONDS} s: ${/^tps.*$/m.exec(bench)?.[0]}`);
    const balances = `SELECT (SELECT count(*) FROM pgbench_history),
    (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history),
    (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history),
    (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history)`;
    expect(await psql(balances)).toBe(`${done}|t|t|t`);

    await psql('CREATE TABLE log (id serial PRIMARY KEY, text text)');
    // Each row is committed before its number is printed: psql prints when the server is ready again.
    const client = `yes "INSERT INTO log (text) VALUES (repeat('x', 500)) RETURNING id;" |
    clearvm exec -i -u postgres db stdbuf -oL psql -qAt postgres`;
    const kept: string[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      for (const how of DEATHS.postgres) {
        await writeUntilTold('db', client);
        await die('db', how);
        await host.ok('clearvm start db');
        await host.untilIn('db', 'pg_isready -q');
        const { told, lost } = JSON.parse(
          await host.ok(`
          clearvm exec -u postgres db psql -qAtc 'SELECT id FROM log' | sort > /tmp/ids
          for i in $(seq ${CLIENTS}); do grep -x '[0-9]*' /tmp/told-$i || :; done | sort > /tmp/told
          echo "{\\"told\\": $(wc -l < /tmp/told), \\"lost\\": $(comm -23 /tmp/told /tmp/ids | wc -l)}"`),
        ) as { told: number; lost: number };
        expect(told).toBeGreaterThanOrEqual(CLIENTS * WRITES);
        expect({ how, lost }).toEqual({ how, lost: 0 });
        kept.push(`${how} ${told}`);
        expect(await psql(balances)).toBe(`${done}|t|t|t`);
      }
    }
    console.log(`commits told of before the VM died, all of them kept: ${kept.join(', ')}`);
    expect(await host.ok('clearvm stop -t 60 db; clearvm rm db')).toBe('db\ndb');
  },
  LIMIT_MS,
);

test('Redis: nothing acknowledged is lost with appendfsync always', async () => {
  await host.service(
    'cache',
    `-v ${DISK}/data:/data`,
    'exec redis-server --dir /data --appendonly yes --appendfsync always --save "" --loglevel warning',
    '[ "$(redis-cli ping)" = PONG ]',
  );
  const client = `seq 1000000 | sed "s/^/RPUSH log-$i /" | clearvm exec -i cache stdbuf -oL redis-cli`;
  const kept: string[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    for (const how of DEATHS.redis) {
      await host.ok('clearvm exec cache redis-cli flushall');
      await writeUntilTold('cache', client);
      await die('cache', how);
      await host.ok('clearvm start cache');
      await host.untilIn('cache', '[ "$(redis-cli ping)" = PONG ]');
      for (let i = 1; i <= CLIENTS; i++) {
        // It is told how many there are, each time.
        const told = Number(await host.ok(`grep -x '[0-9]*' /tmp/told-${i} | sort -n | tail -n 1`));
        expect(told).toBeGreaterThanOrEqual(WRITES);
        const list = (await host.ok(`clearvm exec cache redis-cli lrange log-${i} 0 -1`)).split(
          '\n',
        );
        expect(list.length, `${how}, ${told} told`).toBeGreaterThanOrEqual(told);
        expect(list).toEqual(list.map((_, index) => String(index + 1)));
        kept.push(`${how} ${told}`);
      }
    }
  }
  console.log(`writes told of before the VM died, all of them kept: ${kept.join(', ')}`);
  expect(await host.ok('clearvm stop -t 60 cache; clearvm rm cache')).toBe('cache\ncache');
});
