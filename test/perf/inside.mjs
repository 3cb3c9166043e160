// What runs in the lab on the instruction clock: measures ClearVM and its peers, and prints a JSON object a line.
// scripts/perf.mjs starts it, and knows the limits.

import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { Engine } from '../../dist/index.js';
import { emit, IDLE, median, round } from './figures.mjs';
import { crowd, growth } from './growth.mjs';

const config = JSON.parse(process.argv[2]);
const {
  rootArchive,
  filesArchive,
  node,
  ready,
  p9bench,
  kernel,
  peerInitramfs,
  p9Initramfs,
  data,
  only,
} = config;
const RUNS = 5;

/** One run of `command`, from just before its fork to the first line that it prints, in milliseconds. */
function timeToFirstLine(command, args, signal = 'SIGKILL') {
  return new Promise((resolve, reject) => {
    const start = process.hrtime.bigint();
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let errors = '';
    let took;
    child.stderr.on('data', (chunk) => (errors += chunk));
    child.stdout.on('data', (chunk) => {
      if (took !== undefined || !chunk.includes('ready')) return;
      took = Number(process.hrtime.bigint() - start) / 1e6;
      if (signal) child.kill(signal);
    });
    child.on('error', reject);
    child.on('close', () =>
      took === undefined
        ? reject(new Error(`${command} ended without a line: ${errors.slice(-500)}`))
        : resolve(took),
    );
  });
}

async function peer(name, command, args, signal) {
  const times = [];
  for (let run = 0; run <= RUNS; run++) {
    const time = await timeToFirstLine(command, args(run), signal);
    if (run > 0) times.push(time); // the first one warms up
  }
  emit(`peer.${name}.total`, round(median(times)), 'icount-ms');
}

/** The kernel frees a VM after its container has ended: the next start must not pay for that. */
const quiet = () => new Promise((resolve) => setTimeout(resolve, 100));

/** Start-up times by the container's own sign of life, and by the timeline. */
async function cold(engine) {
  const samples = [];
  for (let run = 0; run <= RUNS; run++) {
    const container = await engine.run('bench:latest', {
      cmd: ['/ready'],
      memory: '128m',
      cpus: 1,
      stdout: 'pipe',
      template: false,
    });
    container.stdout.resume();
    container.stderr.resume();
    await container.wait();
    await quiet();
    if (run > 0) samples.push(Object.fromEntries(container.timings.map((t) => [t.point, t.at])));
  }
  const between = (from, to) => round(median(samples.map((s) => s[to] - s[from])));
  emit('cold.total', between('request', 'first.output'), 'icount-ms');
  emit('cold.spawn', between('prepared', 'guest.entry'), 'icount-ms');
  emit('cold.kernel', between('guest.entry', 'init'), 'icount-ms');
  const points = Object.keys(samples[0]);
  for (let i = 1; i < points.length; i++) {
    emit(`part.${points[i]}`, between(points[i - 1], points[i]), 'icount-ms');
  }
}

/** The same for a VM that is forked from a template, when it is asked for or (`from` is `spare`) before. */
async function fork(engine, name = 'fork', from = 'template') {
  const options = { cmd: ['/ready'], memory: '128m', cpus: 1, stdout: 'pipe' };
  await engine.prepare({ ...options, spares: from === 'spare' ? 1 : 0 });
  await quiet();
  const samples = [];
  for (let run = 0; run <= RUNS; run++) {
    const container = await engine.run('bench:latest', options);
    container.stdout.resume();
    container.stderr.resume();
    await container.wait();
    if (container.startedFrom !== from) throw new Error(`started from ${container.startedFrom}`);
    // The kernel frees the VM now; the next one must not pay for it.
    await new Promise((resolve) => setTimeout(resolve, 200));
    if (run > 0) samples.push(Object.fromEntries(container.timings.map((t) => [t.point, t.at])));
  }
  if (from === 'spare') emit('spare.pss', round(pssOf(spareProcess())), 'MiB');
  await engine.prepare({ ...options, spares: 0 });
  const between = (from, to) => round(median(samples.map((s) => s[to] - s[from])));
  emit(`${name}.total`, between('request', 'first.output'), 'icount-ms');
  emit(`${name}.restore`, between('vmm.jailed', 'guest.entry'), 'icount-ms');
  const points = Object.keys(samples[0]);
  for (let i = 1; i < points.length; i++) {
    emit(`${name}.${points[i]}`, between(points[i - 1], points[i]), 'icount-ms');
  }
}

/** How far a forked VM's wall clock can be from the host's: it is read between the execve and the first output of a command. */
async function clock(engine) {
  const options = { cmd: ['/ready'], memory: '128m', cpus: 1, stdout: 'pipe' };
  await engine.prepare(options);
  const bounds = [];
  for (let run = 0; run <= RUNS; run++) {
    const request = performance.timeOrigin + performance.now();
    const container = await engine.run('bench:latest', options);
    let output = '';
    container.stdout.on('data', (chunk) => (output += chunk));
    container.stderr.resume();
    await container.wait();
    const [, seconds, nanoseconds] = output.split(' ').map((digits) => Number.parseInt(digits, 16));
    const guest = seconds * 1000 + nanoseconds / 1e6;
    const at = (point) => request + container.timings.find((t) => t.point === point).at;
    const bound = Math.max(Math.abs(guest - at('exec')), Math.abs(guest - at('first.output')));
    if (run > 0) bounds.push(bound);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  emit('fork.clock', round(Math.max(...bounds)), 'icount-ms');
}

function spareProcess() {
  return readdirSync('/proc').find(
    (name) =>
      /^\d+$/.test(name) && readFileSync(`/proc/${name}/comm`, 'utf8') === 'clearvm-spare\n',
  );
}

function pssOf(pid) {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1');
  return Number(/^Pss:\s+(\d+) kB/m.exec(text)[1]) / 1024;
}

/** All host memory that ten idle forked containers cost, in proportion, each. */
async function idle(engine) {
  const COUNT = 10;
  await engine.prepare(IDLE);
  const containers = [];
  for (let i = 0; i < COUNT; i++) containers.push(await engine.run('bench:latest', IDLE));
  await new Promise((resolve) => setTimeout(resolve, 1000));
  emit('idle.pss', round(median(containers.map(({ vmmPid }) => pssOf(vmmPid)))), 'MiB');
  // What a start leaves to be done later is over by then.
  await new Promise((resolve) => setTimeout(resolve, 10_000));
  const SECONDS = 20;
  const switches = ({ vmmPid }) =>
    readdirSync(`/proc/${vmmPid}/task`)
      .map((thread) => readFileSync(`/proc/${vmmPid}/task/${thread}/status`, 'latin1'))
      .reduce((sum, text) => sum + Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(text)[1]), 0);
  const before = containers.map(switches);
  await new Promise((resolve) => setTimeout(resolve, SECONDS * 1000));
  const wakeups = containers.map((container, at) => switches(container) - before[at]);
  emit('idle.wakeups', round(median(wakeups) / SECONDS), 'a second');
  for (const container of containers) await container.stop();
}

/**
 * What ten VMs that use the same files of one image cost each, in proportion: what the guest has of them, and its share of what the host shows them.
 * And how long the second of them takes, on a host that has them cached.
 */
async function files(engine) {
  await engine.images.import(filesArchive, { name: 'files:latest' });
  const uses = {
    map: ['/files', 'map', '/data'],
    read: ['/files', 'read', '/data'],
    node: [node, '-e', 'console.log(performance.now() * 1000); setTimeout(() => {}, 1e9)'],
  };
  for (const [name, cmd] of Object.entries(uses)) {
    for (const privateFiles of [false, true]) {
      const options = { cmd, memory: '512m', cpus: 1, stdout: 'pipe', privateFiles };
      await engine.prepare(options);
      const containers = [];
      const times = [];
      for (let i = 0; i < 10; i++) {
        const container = await engine.run('files:latest', options);
        container.stderr.resume();
        containers.push(container);
        const [line] = await once(container.stdout, 'data');
        times.push(Number(line) / 1000);
      }
      await new Promise((resolve) => setTimeout(resolve, 5000));
      const part = `files.${name}${privateFiles ? '.private' : ''}`;
      emit(`${part}.pss`, round(median(containers.map(({ vmmPid }) => pssOf(vmmPid)))), 'MiB');
      emit(`${part}.time`, round(median(times)), 'icount-ms');
      for (const container of containers) await container.stop({ timeout: 0 });
    }
  }
}

/** Exits until init's first instruction. */
async function exits(engine) {
  const container = await engine.run('bench:latest', { ...IDLE, statistics: true });
  const metrics = await container.metrics();
  emit('cold.exits', metrics['kvm.exits'], 'exits');
  const user = ['port', 'mmio', 'eoi'].reduce(
    (sum, kind) => sum + metrics[`init.exits.${kind}`],
    0,
  );
  emit('cold.exits.user', user, 'exits');
  for (const [name, value] of Object.entries(metrics)) emit(`exits.${name}`, value, '');
  await container.stop();
}

/** Proportional set size of the VMM at the container's start, guest memory apart. */
async function memory(engine) {
  const container = await engine.run('bench:latest', { ...IDLE, template: false });
  let guest = 0;
  let vmm = 0;
  let isGuest = false;
  for (const line of readFileSync(`/proc/${container.vmmPid}/smaps`, 'utf8').split('\n')) {
    const range = /^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+\s*(.*)$/.exec(line);
    if (range) {
      const size = parseInt(range[2], 16) - parseInt(range[1], 16);
      isGuest = range[3].startsWith('/memfd') || size >= 100 << 20;
    }
    const pss = /^Pss:\s+(\d+) kB/.exec(line);
    if (pss && isGuest) guest += Number(pss[1]);
    else if (pss) vmm += Number(pss[1]);
  }
  emit('vmm.pss', round(vmm / 1024), 'MiB');
  emit('guest.touched', round(guest / 1024), 'MiB');
  await container.stop();
}

/** What p9bench has printed: nanoseconds, and bytes or entries. */
function p9Figure(output) {
  const match = /p9bench \w+ (\d+) (\d+)/.exec(output);
  if (!match) throw new Error(`p9bench failed: ${output.slice(-500)}`);
  return { ms: Number(match[1]) / 1e6, amount: Number(match[2]) };
}

async function p9InContainer(engine, what) {
  const container = await engine.run('bench:latest', {
    cmd: ['/p9bench', what, '/data'],
    memory: '512m',
    cpus: 1,
    template: false, // none is to be made meanwhile
    volumes: [`${data}:/data:ro`, `${p9bench}:/p9bench:ro`],
  });
  let output = '';
  container.stdout.on('data', (chunk) => (output += chunk));
  container.stderr.on('data', (chunk) => (output += chunk));
  await container.wait();
  return output;
}

function p9InQemu(_engine, what) {
  return execFileSync(
    'qemu-system-x86_64',
    [
      ...microvm(p9Initramfs, '512'),
      '-append',
      `console=hvc0 quiet panic=-1 reboot=t p9bench=/data p9what=${what}`,
      '-fsdev',
      `local,id=data,path=${data},security_model=none,readonly=on,multidevs=remap`,
      '-device',
      'virtio-9p-device,fsdev=data,mount_tag=data',
    ],
    { encoding: 'utf8' },
  );
}

/** A guest starts with nothing in its cache; its host has all in its own. */
async function p9(engine) {
  const { side, what } = config.p9;
  execFileSync('sh', [
    '-c',
    `cat ${config.data}/big | wc -c; find ${config.data}/tree -ls | wc -l`,
  ]);
  const run = side === 'qemu' ? p9InQemu : p9InContainer;
  const { ms, amount } = p9Figure(await run(engine, what));
  emit(`${side === 'qemu' ? 'peer.microvm.' : ''}p9.${what}`, round(ms), 'icount-ms', { amount });
}

/** QEMU's smallest machine, with our guest kernel entered by PVH, and hvc0 on stdout. */
function microvm(initramfs, memoryMiB) {
  return (
    '-M microvm,acpi=off,x-option-roms=off,pic=off,pit=off,rtc=off,isa-serial=off -accel kvm -cpu host -nodefaults -no-user-config ' +
    `-display none -no-reboot -smp 1 -m ${memoryMiB} -kernel ${kernel} -initrd ${initramfs} ` +
    '-chardev stdio,id=console,signal=off -device virtio-serial-device -device virtconsole,chardev=console'
  ).split(' ');
}

function bundle(directory) {
  mkdirSync(`${directory}/rootfs`, { recursive: true });
  for (const name of ['proc', 'dev', 'sys']) mkdirSync(`${directory}/rootfs/${name}`);
  writeFileSync(`${directory}/rootfs/ready`, readFileSync(ready), { mode: 0o755 });
  execFileSync('runc', ['spec', '--bundle', directory]);
  const file = `${directory}/config.json`;
  const config = JSON.parse(readFileSync(file, 'utf8'));
  config.process.terminal = false;
  config.process.args = ['/ready'];
  writeFileSync(file, JSON.stringify(config));
}

/** Whole processes of the command, from just before the fork to the end, beside a Node that does nothing. */
async function cli() {
  const main = new URL('../../dist/cli/main.js', import.meta.url).pathname;
  for (const name of ['one', 'two', 'three'])
    await engine.create('bench:latest', { name, cmd: ['/bin/busybox', 'true'] });
  const commands = {
    node: ['-e', '0'],
    version: ['--', main, 'version'],
    help: ['--', main, '--help'],
    images: ['--', main, 'images'],
    ps: ['--', main, 'ps', '--all'],
    run: ['--', main, 'run', '--rm', '--no-template', 'bench', '/bin/busybox', 'true'],
    fork: ['--', main, 'run', '--rm', 'bench', '/bin/busybox', 'true'],
  };
  for (const [name, args] of Object.entries(commands)) {
    const times = [];
    for (let run = 0; run <= RUNS; run++) {
      const start = process.hrtime.bigint();
      const child = spawn(process.execPath, args, { stdio: 'ignore' });
      const [status] = await once(child, 'exit');
      const took = Number(process.hrtime.bigint() - start) / 1e6;
      if (status !== 0) throw new Error(`clearvm ${name} ended with status ${status}`);
      if (run > 0) times.push(took); // the first one fills the code cache, and has the template made
      await quiet();
    }
    emit(`cli.${name}`, round(median(times)), 'icount-ms');
  }
}

const engine = new Engine();
await engine.images.import(rootArchive, { name: 'bench:latest' });
const parts = {
  cold: () => cold(engine),
  cli,
  fork: () => fork(engine),
  spare: () => fork(engine, 'spare', 'spare'),
  clock: () => clock(engine),
  idle: () => idle(engine),
  exits: () => exits(engine),
  memory: () => memory(engine),
  files: () => files(engine),
  growth: () => growth(engine),
  crowd: () => crowd(engine),
  p9: () => p9(engine),
  crun: () => peer('crun', 'crun', (n) => ['run', '--bundle', '/tmp/bundle', `c${n}`], null),
  runc: () => peer('runc', 'runc', (n) => ['run', '--bundle', '/tmp/bundle', `r${n}`], null),
  microvm: () =>
    peer('microvm', 'qemu-system-x86_64', () => [
      ...microvm(peerInitramfs, '128'),
      '-append',
      'console=hvc0 quiet panic=-1 reboot=t percpu_alloc=page noreplace-smp no_timer_check',
    ]),
};
if (!only.includes('p9')) bundle('/tmp/bundle');
for (const [name, measure] of Object.entries(parts)) {
  if (!only.includes(name)) continue;
  try {
    await measure();
  } catch (error) {
    emit(`${name}.error`, null, '', { message: String(error?.message ?? error) });
    process.exitCode = 1;
  }
}
