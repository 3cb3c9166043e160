// Snapshots the container `db`, PostgreSQL under pgbench, and goes on from each snapshot: `database-snapshots.mjs ROUNDS`, in the lab. By the
// library, because a Node of its own for each step would take longer than the steps. Prints JSON: the transactions made so far.
import { text } from 'node:stream/consumers';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const { Engine } = await import(fileURLToPath(new URL('../../../dist/index.js', import.meta.url)));
const rounds = Number(process.argv[2]);
const PATIENCE_MS = 120_000;

/** Each transaction of pgbench changes three balances, and writes down by how much. */
const BALANCES = `SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history),
  (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history),
  (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history)`;

async function output(container, cmd) {
  const process = await container.exec(cmd, { user: 'postgres' });
  const [stdout, stderr, { exitCode }] = await Promise.all([
    text(process.stdout),
    text(process.stderr),
    process.wait(),
  ]);
  if (exitCode !== 0) throw new Error(`${cmd.join(' ')} exited with ${exitCode}: ${stderr}`);
  return stdout.trim();
}

const psql = (container, sql) => output(container, ['psql', '-qAtc', sql]);
const transactions = async (container) =>
  Number(await psql(container, 'SELECT count(*) FROM pgbench_history'));

async function checkBooks(container) {
  const balances = await psql(container, BALANCES);
  if (balances !== 't|t|t') throw new Error(`the books of ${container.name}: ${balances}`);
}

async function logOf(container) {
  let all = '';
  for await (const { log } of container.logs()) all += log;
  return all;
}

/** None of its processes has died, which PostgreSQL recovers from: the books of that balance, too. */
async function checkLog(container) {
  const bad = /^.*(terminated by signal|PANIC|was not properly shut down|in recovery).*$/m.exec(
    await logOf(container),
  );
  if (bad) throw new Error(`${container.name} has gone through a recovery: ${bad[0]}`);
}

async function untilMoreThan(before, container) {
  const end = performance.now() + PATIENCE_MS;
  for (;;) {
    const now = await transactions(container);
    if (now > before) return now;
    if (performance.now() > end) throw new Error(`${container.name} stands still at ${now}`);
    await pause(100);
  }
}

const engine = new Engine();
const snapshots = await engine.snapshots();
const db = await engine.container('db');
let before = 0;
for (let round = 0; round < rounds; round++) {
  before = await untilMoreThan(before, db);
  await snapshots.create('db', { name: 's', leaveRunning: true });
  const restored = await snapshots.restore('s', { name: 'restored' });
  try {
    // It goes on: its clients have come with it, and write more than it had when it was first asked.
    await untilMoreThan(await transactions(restored), restored);
    await output(restored, [
      'sh',
      '-c',
      'pkill -INT pgbench; while pgrep pgbench; do sleep 0.1; done',
    ]);
    await checkBooks(restored);
    await checkLog(restored);
  } catch (error) {
    process.stderr.write(await logOf(restored));
    throw error;
  }
  await restored.remove({ force: true });
  await snapshots.remove('s');
}
await checkBooks(db);
console.log(JSON.stringify(await transactions(db)));
