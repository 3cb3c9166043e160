// npm run perf: measures start-up, exits, memory and 9p on the lab's instruction clock, beside runc, crun and QEMU.
// Prints a JSON object a line, then a table; exits with 1 if a figure exceeds its limit. docs/benchmarks/ tells how to read them.
//
//   npm run perf -- [--only cold,fork,spare,clock,idle,exits,memory,files,growth,crowd,p9,crun,runc,microvm,cli]

import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  copyFileSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  existsSync,
  openSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Writable } from 'node:stream';
import { parseArgs } from 'node:util';
import { debianImage } from './images.mjs';
import { defaultFiles } from './lab/files.mjs';
import { Lab } from './lab/machine.mjs';

const PROJECT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const LAB_MEMORY_MIB = 6144;
const BIG_FILE_BYTES = 256 << 20;
const SHARED_FILE_BYTES = 20 << 20;
// Of test/perf/inside.mjs, in its order; and p9, in a process for each figure.
const PARTS =
  'cold,cli,fork,spare,clock,idle,exits,memory,files,growth,crowd,crun,runc,microvm'.split(',');
const P9_LIMIT_MS = 120_000;
const P9_TRIES = 12;
/** Of this machine's clock, without a figure. */
const FIGURE_LIMIT_MS = 360_000;
// Where a guest spins, all else is slow: nothing that takes Node to start.
const KILL_MONITORS = `
  for file in /proc/[0-9]*/comm; do
    read -r name < $file
    case $name in qemu-system*|clearvm-vmm|clearvm-spare) pid=\${file%/comm}; kill -9 \${pid#/proc/};; esac
  done`;

/** The promised figures. A string names the figure of the same run that is not to be exceeded. */
const LIMITS = {
  'cold.total': 35,
  'cold.spawn': 8,
  'cold.kernel': 20,
  'cold.exits': 500,
  'cold.exits.user': 60,
  'cli.run': 200,
  'cli.fork': 160,
  'cli.ps': 150,
  'fork.total': 8,
  'fork.restore': 2,
  'fork.clock': 1,
  'spare.total': 8,
  'spare.restore': 2,
  'spare.pss': 6,
  'idle.pss': 6,
  'vmm.pss': 4,
  'guest.touched': 24,
  'p9.read': 'peer.microvm.p9.read',
  'p9.find': 'peer.microvm.p9.find',
};

/** Of all figures whose name begins so. */
const PREFIX_LIMITS = { 'growth.': 1.5 };

function limitOf(name) {
  const prefix = Object.keys(PREFIX_LIMITS).find((start) => name.startsWith(start));
  return prefix === undefined ? LIMITS[name] : PREFIX_LIMITS[prefix];
}

/** An image's files: Node as it is here, what measures, and a file without holes. */
function prepareFiles(root, program) {
  mkdirSync(root);
  const libraries = execFileSync('ldd', [process.execPath], { encoding: 'utf8' }).matchAll(
    /(\/\S+) \(0x/g,
  );
  for (const file of [process.execPath, ...[...libraries].map(([, library]) => library)]) {
    mkdirSync(path.join(root, path.dirname(file)), { recursive: true });
    copyFileSync(file, path.join(root, file));
  }
  copyFileSync(program, path.join(root, 'files'));
  writeFileSync(path.join(root, 'data'), randomBytes(SHARED_FILE_BYTES));
}

/** Builds the workloads and what is measured on into `directory`. */
function prepare(directory, wants) {
  const source = (name) => path.join(PROJECT, 'test/perf', name);
  const at = (name) => path.join(directory, name);
  const run = (...command) =>
    execFileSync(command[0], command.slice(1), { stdio: ['ignore', 'ignore', 'inherit'] });
  run(
    'gcc',
    '-O2',
    '-static',
    '-nostdlib',
    '-fno-stack-protector',
    source('ready.c'),
    '-o',
    at('ready'),
  );
  run('gcc', '-O2', '-static', source('p9bench.c'), '-o', at('p9bench'));
  if (wants('files')) {
    run('gcc', '-O2', '-static', source('files.c'), '-o', at('files'));
    prepareFiles(at('files-root'), at('files'));
    run('tar', '-C', at('files-root'), '-cf', at('files.tar'), '.');
  }
  for (const name of ['ready', 'p9bench']) {
    run(process.execPath, path.join(PROJECT, 'rootfs/mkcpio.mjs'), at(name), at(`${name}.cpio`));
  }
  mkdirSync(at('root/bin'), { recursive: true });
  copyFileSync('/bin/busybox', at('root/bin/busybox'));
  copyFileSync(at('ready'), at('root/ready'));
  run('tar', '-C', at('root'), '-cf', at('root.tar'), '.');
  const big = openSync(at('big'), 'w');
  ftruncateSync(big, BIG_FILE_BYTES);
  closeSync(big);
  return {
    rootArchive: at('root.tar'),
    filesArchive: at('files.tar'),
    node: process.execPath,
    ready: at('ready'),
    p9bench: at('p9bench'),
    peerInitramfs: at('ready.cpio'),
    p9Initramfs: at('p9bench.cpio'),
    kernel: path.join(PROJECT, 'build/guest/vmlinux'),
    data: '/data',
    big: at('big'),
  };
}

/** Runs the measurements in a lab, calling `onFigure` with each as it comes. */
async function measure(config, wants, onFigure) {
  const own = defaultFiles(PROJECT);
  const files = [
    ...own.files,
    ...['inside', 'figures', 'growth'].map((name) => path.join(PROJECT, `test/perf/${name}.mjs`)),
    ...['rootArchive', 'filesArchive', 'ready', 'p9bench', 'peerInitramfs', 'p9Initramfs'].map(
      (name) => config[name],
    ),
    '/usr/bin/flock',
    '/usr/bin/runc',
    '/usr/sbin/runc',
    '/usr/bin/crun',
    '/usr/bin/qemu-system-x86_64',
  ];
  const trees = [...own.trees, '/usr/share/qemu', '/usr/share/seabios'];
  if (wants('p9')) {
    files.push(`${config.big}:/data/big`);
    trees.push(`${(await debianImage()).root}:/data/tree`);
  }
  const lab = await Lab.start({
    icount: true,
    memory: LAB_MEMORY_MIB,
    files: files.filter((file) => existsSync(file.split(':')[0])),
    trees: trees.filter((tree) => existsSync(tree.split(':')[0])),
  });
  const run = async (config, onFigure) => {
    let rest = '';
    const inside = path.join(PROJECT, 'test/perf/inside.mjs');
    const { status, stderr } = await lab.run(['node', inside, JSON.stringify(config)], {
      stdout: new Writable({
        write(chunk, _encoding, done) {
          const lines = (rest + chunk).split('\n');
          rest = lines.pop();
          for (const line of lines) onFigure(JSON.parse(line));
          done();
        },
      }),
    });
    // A part that failed has said so in a figure without a value.
    if (stderr.length > 0) process.stderr.write(stderr);
    if (status > 1) throw new Error(`the measurements ended with status ${status}`);
  };
  try {
    const parts = PARTS.filter(wants);
    if (parts.length > 0) {
      await watched(lab, (take) => run({ ...config, only: parts }, take), onFigure);
    }
    if (!wants('p9')) return;
    for (const side of ['qemu', 'clearvm']) {
      for (const what of ['read', 'find']) {
        const p9 = { ...config, only: ['p9'], p9: { side, what } };
        onFigure(await measureP9(lab, (take) => run(p9, take)));
      }
    }
  } finally {
    await lab.close();
  }
}

const killMonitors = (lab) => lab.run(['sh', '-c', KILL_MONITORS]);

/** Calls `run`, which calls what it is given with each figure; where none comes for long, ends the VM that hangs: it is given another try inside. */
async function watched(lab, run, onFigure) {
  const limit = setInterval(() => killMonitors(lab), FIGURE_LIMIT_MS);
  try {
    await run((figure) => {
      limit.refresh();
      onFigure(figure);
    });
  } finally {
    clearInterval(limit);
  }
}

/**
 * The lab hangs a guest with many interrupts now and then, whosever it is (docs/lab.md), and its clock then hardly moves: what does not end on this machine's clock is given another try.
 */
async function measureP9(lab, run) {
  for (let tries = 1; ; tries++) {
    let figure;
    const limit = setTimeout(() => killMonitors(lab), P9_LIMIT_MS);
    await run((each) => (figure = each));
    clearTimeout(limit);
    if (figure.value !== null || tries === P9_TRIES) return figure;
    console.error(`perf: p9, try ${tries}: ${figure.message.slice(0, 200)}`);
  }
}

function table(figures) {
  const rows = figures.filter(({ value }) => value !== null);
  const width = Math.max(...rows.map(({ name }) => name.length));
  return rows
    .map(({ name, value, unit, limit }) => {
      const verdict =
        limit === undefined ? '' : value <= limit ? `at most ${limit}` : `OVER ${limit}`;
      return `${name.padEnd(width)}  ${String(value).padStart(12)} ${unit.padEnd(10)} ${verdict}`.trimEnd();
    })
    .join('\n');
}

const { values } = parseArgs({ options: { only: { type: 'string' } } });
const wants = (name) => !values.only || values.only.split(',').includes(name);
const directory = mkdtempSync(path.join(tmpdir(), 'clearvm-perf-'));
const figures = [];
const valueOf = (name) => figures.find((figure) => figure.name === name)?.value;
try {
  await measure(prepare(directory, wants), wants, (figure) => {
    const limit = limitOf(figure.name);
    if (limit !== undefined) figure.limit = typeof limit === 'string' ? valueOf(limit) : limit;
    figures.push(figure);
    console.log(JSON.stringify(figure));
  });
} finally {
  rmSync(directory, { recursive: true });
}
console.log(`\n${table(figures)}`);
const broken = figures.filter(
  ({ value, limit }) => value === null || (limit !== undefined && value > limit),
);
if (broken.length > 0) process.exitCode = 1;
