// Runs and removes containers, AT_ONCE at a time: `churn.mjs COUNT AT_ONCE`, with --expose-gc, in the lab. Prints JSON: what the
// host had before and has afterwards of everything that a container takes.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { text } from 'node:stream/consumers';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const DIST = fileURLToPath(new URL('../../../dist/', import.meta.url));
const { Engine } = await import(`${DIST}index.js`);
const [count, atOnce] = process.argv.slice(2).map(Number);
const IMAGE = 'busybox';
const RUNTIME = '/run/clearvm';

const engine = new Engine();
const wrong = [];
const expectEqual = (what, is, should) => {
  if (is !== should) wrong.push(`${what}: ${JSON.stringify(is)}, not ${JSON.stringify(should)}`);
};

/** One command line; most containers here are the library's, because a Node of its own takes longer than a VM. */
async function clearvm(...args) {
  const child = spawn(process.execPath, ['--', `${DIST}cli/main.js`, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [output] = await Promise.all([text(child.stdout), once(child, 'close')]);
  return output;
}

/** Ways to live. Each leaves nothing. */
const LIVES = [
  async function runAndRemove(i) {
    const container = await engine.run(IMAGE, { cmd: ['echo', `out ${i}`], stdout: 'pipe' });
    // Read after its end: it is still there.
    const { exitCode } = await container.wait();
    const output = await text(container.stdout);
    expectEqual('run', `${exitCode} ${output}`, `0 out ${i}\n`);
  },
  async function createStartLogsRemove(i) {
    const container = await engine.create(IMAGE, {
      ...{ cmd: ['sh', '-c', `echo log ${i} | tee /file; exit 3`], name: `kept-${i}` },
    });
    await container.start();
    expectEqual('wait', (await container.wait()).exitCode, 3);
    let log = '';
    for await (const entry of container.logs()) log += entry.log;
    expectEqual('log', log, `log ${i}\n`);
    await container.remove();
  },
  async function volumeExecKill(i) {
    const options = { cmd: ['sleep', '1000'], volumes: ['/data'] };
    const container = await engine.create(IMAGE, options);
    await container.start();
    const command = ['sh', '-c', `echo ${i} > /data/file; cat /data/file`];
    const { stdout, ...exec } = await container.exec(command).then((each) => ({
      ...{ stdout: each.stdout, wait: () => each.wait() },
    }));
    const [output, { exitCode }] = await Promise.all([text(stdout), exec.wait()]);
    expectEqual('exec', `${exitCode} ${output}`, `0 ${i}\n`);
    await container.remove({ force: true, volumes: true });
  },
  async function stop(i) {
    const cmd = ['sh', '-c', `trap 'exit ${i % 100}' TERM; while :; do sleep 0.1; done`];
    const container = await engine.run(IMAGE, { cmd });
    await container.exec(['true']).then((process) => process.wait());
    await container.kill('SIGTERM');
    // A signal before the trap is set ends it as well.
    const { exitCode } = await container.wait();
    if (exitCode !== i % 100) expectEqual('stop', exitCode, 143);
  },
  async function commandLine(i) {
    if (i % 2)
      expectEqual('run --rm', await clearvm('run', '--rm', IMAGE, 'echo', `${i}`), `${i}\n`);
    else {
      await clearvm('run', '-d', '--rm', '--name', `brief-${i}`, IMAGE, 'true');
      while (fs.existsSync(`${engine.root}/names/brief-${i}`)) await pause(100);
    }
  },
];

const processes = () =>
  fs.readdirSync('/proc').flatMap((pid) => {
    if (!/^\d+$/.test(pid)) return [];
    try {
      // The kernel's own come and go; they have no command line.
      return fs.readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0')[0] || [];
    } catch {
      return [];
    }
  });

/** This process's, by what they are of. */
function descriptors() {
  const counts = {};
  for (const fd of fs.readdirSync('/proc/self/fd')) {
    try {
      const kind = fs.readlinkSync(`/proc/self/fd/${fd}`).replace(/\d+|[0-9a-f]{64}/g, 'N');
      counts[kind] = (counts[kind] ?? 0) + 1;
    } catch {
      // The directory's own.
    }
  }
  return Object.entries(counts).map(([kind, number]) => `${number} ${kind}`);
}

const shell = (script) => spawnSync('sh', ['-c', script], { encoding: 'utf8' }).stdout;
const inMeminfo = (name) =>
  Number(new RegExp(`^${name}: +(\\d+)`, 'm').exec(fs.readFileSync('/proc/meminfo', 'utf8'))[1]);

async function state() {
  while (processes().some((name) => /clearvm-(vmm|monitor)$/.test(name))) await pause(100);
  // What the kernel frees when it has time: mount namespaces, control blocks, slabs.
  for (let i = 0; i < 5; i++) {
    globalThis.gc();
    fs.writeFileSync('/proc/sys/vm/drop_caches', '3');
    await pause(1000);
  }
  const files = shell(
    `find ${engine.root} ${RUNTIME} -not -name kvm-verdict.json -not -path '*/templates*' -not -path '*/events/*' | sort`,
  );
  const { bavail, ffree, bsize } = fs.statfsSync(engine.root);
  const journals = shell(`cat ${engine.root}/events/* | wc -c`);
  const journalFiles = fs.readdirSync(`${engine.root}/events`).length;
  return {
    same: {
      processes: processes().sort(),
      mounts: fs.readFileSync('/proc/mounts', 'utf8').split('\n'),
      sockets: shell(`awk 'NR > 1 && $8 != "" { print $8 }' /proc/net/unix | sort`).split('\n'),
      devices: fs.readdirSync('/sys/class/net'),
      cgroups: shell('find /sys/fs/cgroup -type d').split('\n'),
      files: files.split('\n'),
      descriptors: descriptors(),
    },
    inodes: ffree + journalFiles,
    /** KiB from here on. The journals of events are a ring of at most 2 MiB. */
    disk: (bavail * bsize) / 1024 + Number(journals) / 1024,
    memory: inMeminfo('MemFree') + Number(journals) / 1024,
    slab: inMeminfo('SUnreclaim'),
    heap: process.memoryUsage().heapUsed / 1024,
    openFiles: Number(fs.readFileSync('/proc/sys/fs/file-nr', 'utf8').split('\t')[0]),
  };
}

async function churn(from, to) {
  let next = from;
  const lane = async () => {
    while (next < to) {
      const i = next++;
      const life = LIVES[i % LIVES.length];
      if (i % 20 === 0) console.log(`${i} of ${to}`);
      await life(i).catch((error) =>
        wrong.push(`${i}, ${life.name}: ${error.code} ${error.message}`),
      );
    }
  };
  await Promise.all(Array.from({ length: atOnce }, lane));
}

// What the first ones make for those that follow (templates, caches, the library's own modules) is no leak.
await churn(0, 2 * atOnce);
const before = await state();
const began = performance.now();
await churn(0, count);
const seconds = (performance.now() - began) / 1000;
const after = await state();
const difference = {};
for (const [name, value] of Object.entries(before.same)) {
  const now = after.same[name];
  if (JSON.stringify(value) === JSON.stringify(now)) continue;
  difference[name] = Array.isArray(value)
    ? { more: now.filter((x) => !value.includes(x)), less: value.filter((x) => !now.includes(x)) }
    : [value, now];
}
const grown = Object.fromEntries(
  ['inodes', 'disk', 'memory', 'slab', 'heap', 'openFiles'].map((name) => [
    name,
    Math.round(after[name] - before[name]),
  ]),
);
console.log(JSON.stringify({ count, seconds, wrong, difference, grown }));
