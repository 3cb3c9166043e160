// What runs in the lab on the instruction clock: measures ClearVM and its peers, and prints a JSON object a line.
// scripts/perf.mjs starts it, and knows the limits.

import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { Engine } from '../../dist/index.js';

const { rootArchive, ready, p9bench, kernel, peerInitramfs, p9Initramfs, data, only } = JSON.parse(
  process.argv[2],
);
const RUNS = 5;
const IDLE = { cmd: ['/bin/busybox', 'sleep', '1000'], memory: '128m', cpus: 1 };

function emit(name, value, unit, more = {}) {
  process.stdout.write(`${JSON.stringify({ name, value, unit, ...more })}\n`);
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

const round = (value) => Math.round(value * 1000) / 1000;

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

/** Start-up times by the container's own sign of life, and by the timeline. */
async function cold(engine) {
  const samples = [];
  for (let run = 0; run <= RUNS; run++) {
    const container = await engine.run('bench:latest', {
      cmd: ['/ready'],
      memory: '128m',
      cpus: 1,
      stdout: 'pipe',
    });
    container.stdout.resume();
    container.stderr.resume();
    await container.wait();
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
  const container = await engine.run('bench:latest', IDLE);
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

function p9Figures(output) {
  const figure = (what) => {
    const match = new RegExp(`p9bench ${what} (\\d+) (\\d+)`).exec(output);
    if (!match) throw new Error(`p9bench failed: ${output.slice(-500)}`);
    return { ms: Number(match[1]) / 1e6, amount: Number(match[2]) };
  };
  return { read: figure('read'), find: figure('find') };
}

async function p9(engine) {
  const container = await engine.run('bench:latest', {
    cmd: ['/p9bench', '/data'],
    memory: '512m',
    cpus: 1,
    volumes: [`${data}:/data:ro`, `${p9bench}:/p9bench:ro`],
  });
  let output = '';
  container.stdout.on('data', (chunk) => (output += chunk));
  container.stderr.on('data', (chunk) => (output += chunk));
  await container.wait();
  const ours = p9Figures(output);
  const qemu = p9Figures(
    execFileSync(
      'qemu-system-x86_64',
      [
        ...microvm(p9Initramfs, '512'),
        '-append',
        'console=hvc0 quiet panic=-1 reboot=t rdinit=/p9bench -- init /data',
        '-fsdev',
        `local,id=data,path=${data},security_model=none,readonly=on,multidevs=remap`,
        '-device',
        'virtio-9p-device,fsdev=data,mount_tag=data',
      ],
      { encoding: 'utf8', timeout: 60_000 },
    ),
  );
  for (const what of ['read', 'find']) {
    for (const [prefix, figures] of [
      ['peer.microvm.', qemu],
      ['', ours],
    ]) {
      emit(`${prefix}p9.${what}`, round(figures[what].ms), 'icount-ms', {
        amount: figures[what].amount,
      });
    }
  }
}

/** QEMU's smallest machine, with our guest kernel entered by PVH, and hvc0 on stdout. */
function microvm(initramfs, memoryMiB) {
  return (
    '-M microvm,x-option-roms=off,pic=off,pit=off,rtc=off,isa-serial=off -accel kvm -cpu host -nodefaults -no-user-config ' +
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

const engine = new Engine();
await engine.images.import(rootArchive, { name: 'bench:latest' });
const parts = {
  cold: () => cold(engine),
  exits: () => exits(engine),
  memory: () => memory(engine),
  p9: () => p9(engine),
  crun: () => peer('crun', 'crun', (n) => ['run', '--bundle', '/tmp/bundle', `c${n}`], null),
  runc: () => peer('runc', 'runc', (n) => ['run', '--bundle', '/tmp/bundle', `r${n}`], null),
  microvm: () =>
    peer('microvm', 'qemu-system-x86_64', () => [
      ...microvm(peerInitramfs, '128'),
      '-append',
      'console=hvc0 quiet panic=-1 reboot=t percpu_alloc=page noreplace-smp no_timer_check rdinit=/ready',
    ]),
};
bundle('/tmp/bundle');
for (const [name, measure] of Object.entries(parts)) {
  if (only && !only.includes(name)) continue;
  try {
    await measure();
  } catch (error) {
    emit(`${name}.error`, null, '', { message: String(error?.message ?? error) });
    process.exitCode = 1;
  }
}
