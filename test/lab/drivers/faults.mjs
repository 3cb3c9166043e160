// Kills what works for the user at random instants: `faults.mjs COUNT SEED`, in the lab. Each time one operation is started as a
// command line of its own, and it, or the VMM or the monitor of its container, gets SIGKILL somewhere between its beginning and
// its end. Then what is shown has to become true, what was told has to be there, and the next command has to work. Prints JSON.
import { spawn, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const DIST = fileURLToPath(new URL('../../../dist/', import.meta.url));
const { Engine } = await import(`${DIST}index.js`);
const [count, seed] = process.argv.slice(2).map(Number);
const IMAGE = 'busybox';
const RUNTIME = '/run/clearvm';
const REGISTRY = '127.0.0.1:5000';
const PULLED = `${REGISTRY}/faults:1`;
/** How long what is shown may differ from what is, on a machine that is busy with other things. */
const PATIENCE_MS = 60_000;
/** Containers that live from one round to the next. */
const POOL = 4;
/** A container's work: it ends when it is told to. */
const WORK = ['sh', '-c', 'trap "exit 0" TERM; while :; do sleep 0.2; done'];

const engine = new Engine();
const problems = [];
const tally = {};
/** What has been told: name → { id, states: those that it may be in, committed: the contents that its file may have }. */
const pool = new Map();
let serial = 0;

/** mulberry32: numbers from 0 to 1 that the seed decides. */
let state = seed >>> 0;
function random() {
  state = (state + 0x6d2b79f5) >>> 0;
  let t = Math.imul(state ^ (state >>> 15), state | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
}
const pick = (list) => list[Math.floor(random() * list.length)];

function processes(name) {
  return fs
    .readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry))
    .filter((pid) => {
      try {
        if (fs.readFileSync(`/proc/${pid}/comm`, 'utf8').trim() !== name) return false;
        return !/^State:\s+[ZX]/m.test(fs.readFileSync(`/proc/${pid}/status`, 'utf8'));
      } catch {
        return false;
      }
    })
    .map(Number)
    .sort((a, b) => a - b);
}

const directory = (id) => `${engine.root}/containers/${id}`;
const statusFile = (id) => {
  try {
    return JSON.parse(fs.readFileSync(`${directory(id)}/state.json`, 'utf8'));
  } catch {
    return undefined;
  }
};

/** What a container's `/committed` is on the host's disk. */
function committedOf(id) {
  try {
    return fs.readFileSync(`${directory(id)}/upper/committed`, 'utf8').trim();
  } catch {
    return undefined;
  }
}

const pidsOf = (containers, who) =>
  containers.flatMap(({ id }) => statusFile(id)?.[who]?.pid ?? []).sort((a, b) => a - b);

/** Why what `ps` shows and what there is differ; '' when they do not. */
async function untruth() {
  const listed = await engine.containers({ all: true });
  const active = listed.filter((each) =>
    ['running', 'paused', 'restarting'].includes(each.state.status),
  );
  const expected = pidsOf(active, 'vmm');
  const monitors = pidsOf(active, 'monitor');
  for (const [what, shown, there] of [
    ['VMMs', expected, processes('clearvm-vmm')],
    ['monitors', monitors, processes('clearvm-monitor')],
  ]) {
    if (`${shown}` !== `${there}`) return `${what}: ps shows [${shown}], there are [${there}]`;
  }
  for (const [name, { id, states }] of pool) {
    const found = listed.find((each) => each.id === id);
    if (!found) return `${name} was told of, and is not there`;
    if (!states.includes(found.state.status)) {
      return `${name} should be ${states.join(' or ')}, and is ${found.state.status}`;
    }
  }
  return '';
}

async function settle(round) {
  const until = Date.now() + PATIENCE_MS;
  for (;;) {
    const why = await untruth();
    if (why === '') break;
    if (Date.now() > until) {
      problems.push(`${round}: ${why}`);
      break;
    }
    await pause(50);
  }
  for (const [name, entry] of pool) {
    const is = committedOf(entry.id);
    if (!entry.committed.includes(is)) {
      problems.push(`${round}: ${name} has lost ${entry.committed.join(' or ')}; it has ${is}`);
    }
    // An exec whose client was killed may still be at work; what is older does not come back.
    entry.committed = entry.committed.slice(Math.max(entry.committed.indexOf(is), 0));
  }
}

async function attempt(round, what, work) {
  try {
    return await work();
  } catch (error) {
    problems.push(`${round}: ${what} afterwards: ${error.code} ${error.message}`);
  }
}

async function newContainer(start) {
  const name = `c${++serial}`;
  const container = await engine.create(IMAGE, { cmd: WORK, name });
  if (start) await container.start();
  pool.set(name, {
    id: container.id,
    states: [start ? 'running' : 'created'],
    committed: [undefined],
  });
  return name;
}

/** One of the pool that runs, or does not; made when there is none. */
async function aContainer(running) {
  const suitable = [...pool].filter(([, { states }]) => states.includes('running') === running);
  return suitable.length > 0 ? pick(suitable)[0] : newContainer(running);
}

/** Each: how an operation is prepared; its arguments, and what is known when it has been told that it is done, or not. */
const OPERATIONS = {
  async pull() {
    await engine.images.remove(PULLED).catch((error) => {
      if (error.code !== 'ERR_IMAGE_NOT_FOUND') throw error;
    });
    const check = async (round) => {
      await engine.images.pull(PULLED);
      const { layersDir, lower } = await engine.images.resolve(PULLED);
      const sums = lower.flatMap((layer) => {
        const file = `${layersDir}/${layer}/large`;
        return fs.existsSync(file) ? [sumOf(file)] : [];
      });
      if (`${sums}` !== pulledSum) problems.push(`${round}: the pulled image's file is ${sums}`);
    };
    return {
      args: ['pull', '-q', PULLED],
      async told(round) {
        await engine.images.resolve(PULLED);
        await check(round);
      },
      untold: check,
    };
  },
  async create() {
    const name = `c${++serial}`;
    const id = (text) => /^[0-9a-f]{64}\n$/.test(text) && text.trim();
    return {
      args: ['create', '--name', name, IMAGE, ...WORK],
      told: (round, text) =>
        pool.set(name, { id: id(text), states: ['created'], committed: [undefined] }),
      untold: (round) => orphan(round, name),
      toldBy: id,
    };
  },
  async run() {
    const { args, ...rest } = await this.create();
    const name = args[2];
    return {
      ...rest,
      args: ['run', '-d', ...args.slice(1)],
      told: (round, text) =>
        pool.set(name, { id: text.trim(), states: ['running'], committed: [undefined] }),
    };
  },
  async start() {
    const name = await aContainer(false);
    const entry = pool.get(name);
    return {
      ...{ args: ['start', name], victim: entry.id },
      told: () => (entry.states = ['running']),
      untold: () => (entry.states = [...entry.states, 'running', 'exited']),
    };
  },
  async exec() {
    const name = await aContainer(true);
    const entry = pool.get(name);
    const value = `value-${++serial}`;
    const script = `echo ${value} > /new && sync && mv /new /committed && sync`;
    return {
      ...{ args: ['exec', name, 'sh', '-c', script], victim: entry.id },
      told: () => (entry.committed = [value]),
      untold: () => (entry.committed = [...entry.committed, value]),
    };
  },
  async stop() {
    const name = await aContainer(true);
    const entry = pool.get(name);
    return {
      ...{ args: ['stop', name], victim: entry.id },
      told: () => (entry.states = ['exited']),
      untold: () => (entry.states = ['running', 'exited']),
    };
  },
  async rm() {
    const name = await aContainer(random() < 0.5);
    const { id } = pool.get(name);
    pool.delete(name);
    return {
      ...{ args: ['rm', '-f', name], victim: id },
      async told(round) {
        if ((await engine.containers({ all: true })).some((each) => each.id === id)) {
          problems.push(`${round}: ${name} was removed, and is there`);
        }
      },
      untold: (round) => orphan(round, name),
    };
  },
  async 'run --rm'() {
    const name = `c${++serial}`;
    return {
      ...{ args: ['run', '--rm', '--name', name, IMAGE, 'sleep', '0.3'], told() {} },
      untold: (round) => orphan(round, name),
    };
  },
};

/** A container of which nothing was told may be there or not. If it is, it can be removed; then its name is free. */
async function orphan(round, name) {
  for (const { id } of (await engine.containers({ all: true })).filter(
    (each) => each.name === name,
  )) {
    await attempt(round, `rm -f ${name}`, async () =>
      (await engine.container(id)).remove({ force: true }).catch((error) => {
        // Its own `--rm`, or what the killed command has begun, may come first.
        if (error.code !== 'ERR_CONTAINER_NOT_FOUND') throw error;
      }),
    );
  }
}

function command(args) {
  const child = spawn(process.execPath, ['--', `${DIST}cli/main.js`, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [text, errors] = ['', ''];
  child.stdout.on('data', (chunk) => (text += chunk));
  child.stderr.on('data', (chunk) => (errors += chunk));
  const ended = once(child, 'close').then(([status]) => ({ status, text, errors }));
  return { child, ended };
}

/** Milliseconds that each operation takes. */
const durations = {};

async function round(number, kind, kill) {
  const operation = await OPERATIONS[kind]();
  const began = performance.now();
  const { child, ended } = command(operation.args);
  let [who, instant] = ['nobody', 0];
  if (kill) {
    instant = random() * durations[kind] * 1.1;
    who = operation.victim === undefined || random() < 0.7 ? 'client' : pick(['vmm', 'monitor']);
    await Promise.race([pause(instant), ended]);
    const pid = who === 'client' ? child.pid : statusFile(operation.victim)?.[who]?.pid;
    try {
      if (who === 'client') child.kill('SIGKILL');
      else if (pid) process.kill(pid, 'SIGKILL');
    } catch {
      // It has ended.
    }
  }
  const { status, text, errors } = await ended;
  durations[kind] ??= performance.now() - began;
  const name = `round ${number}, ${kind}, ${who} killed after ${Math.round(instant)} ms`;
  console.log(`${name}: ${status}`);
  const told = status === 0 && (operation.toldBy?.(text) ?? true);
  if (!kill && !told) throw new Error(`${kind} fails without being killed: ${status} ${errors}`);
  const key = `${kind}: ${told ? 'done' : 'not done'}`;
  if (kill) tally[key] = (tally[key] ?? 0) + 1;
  // Whoever has no VMM any more has ended, whatever was told before.
  const entry = [...pool.values()].find(({ id }) => id === operation.victim);
  await attempt(name, 'the check', () => (told ? operation.told : operation.untold)(name, text));
  if (entry && (who === 'vmm' || who === 'monitor')) entry.states.push('exited');
  await settle(name);
  // A stop that nobody was told of may still be at work.
  const pending = kind === 'stop' && who === 'client' && !told;
  if (entry && !pending) entry.states = [(await summary(entry.id))?.state.status ?? 'gone'];
  while (pool.size > POOL) {
    const oldest = pool.keys().next().value;
    const { id } = pool.get(oldest);
    pool.delete(oldest);
    await attempt(name, `rm -f ${oldest}`, async () =>
      (await engine.container(id)).remove({ force: true }),
    );
  }
}

const summary = async (id) =>
  (await engine.containers({ all: true })).find((each) => each.id === id);
const sumOf = (file) => createHash('sha256').update(fs.readFileSync(file)).digest('hex');

async function clear() {
  for (const { id } of await engine.containers({ all: true })) {
    await attempt('at the end', `rm -f ${id}`, async () =>
      (await engine.container(id)).remove({ force: true }),
    );
  }
  pool.clear();
  await settle('at the end');
  // What has no owner is removed after a minute; here it is old enough at once.
  for (const folder of [`${engine.root}/containers`, RUNTIME]) {
    for (const entry of fs.readdirSync(folder)) {
      if (/^[0-9a-f]{64}$/.test(entry)) fs.utimesSync(`${folder}/${entry}`, 0, 0);
    }
  }
  await engine.removeStale();
  await engine.images.remove(PULLED).catch(() => {});
  await engine.images.prune();
}

/** Everything that may be left: processes, mounts, sockets, network devices, files. */
function traces() {
  const { stdout } = spawnSync(
    'sh',
    [
      '-c',
      `cat /proc/mounts; ls /sys/class/net; awk 'NR > 1 && $8 != "" { print $8 }' /proc/net/unix | sort
       find ${engine.root} ${RUNTIME} -not -name kvm-verdict.json -not -path '*/templates*' -not -path '*/images/locks*' \
         -not -path '*/events/*' | sort`,
    ],
    { encoding: 'utf8' },
  );
  return [...processes('clearvm-vmm'), ...processes('clearvm-monitor'), ...stdout.split('\n')];
}

// A registry with an image that this host has not.
fs.writeFileSync(
  '/tmp/registry.yml',
  JSON.stringify({
    version: '0.1',
    log: { level: 'error' },
    http: { addr: REGISTRY },
    storage: { filesystem: { rootdirectory: '/tmp/registry' } },
  }),
);
const registry = spawn('docker-registry', ['serve', '/tmp/registry.yml'], { stdio: 'ignore' });
fs.mkdirSync('/tmp/large');
fs.writeFileSync('/tmp/large/large', randomBytes(6_000_000));
const pulledSum = sumOf('/tmp/large/large');
spawnSync('tar', ['-C', '/tmp/large', '-cf', '/tmp/large.tar', 'large']);
await engine.images.import('/tmp/large.tar', { name: PULLED });
await engine.images.push(PULLED, { retries: 100, pause: 100 });

for (const kind of Object.keys(OPERATIONS)) await round(0, kind, false);
await clear();
const before = traces();
for (let i = 1; i <= count; i++) await round(i, pick(Object.keys(OPERATIONS)), true);
await clear();
const after = traces();
registry.kill('SIGKILL');
console.log(
  JSON.stringify({
    seed,
    rounds: count,
    tally,
    durations,
    problems,
    left: after.filter((line) => !before.includes(line)),
    lost: before.filter((line) => !after.includes(line)),
  }),
);
process.exit();
