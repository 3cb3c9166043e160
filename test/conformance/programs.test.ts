// Real programs in a Debian image, as `clearvm run` and under runc on the same root, in the lab: they must end with the
// same status and say the same.
//
// CLEARVM_CONFORMANCE=full runs all of CPython's tests that are named here; without it, those of PYTHON_PART.

import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { debianToolsImage } from '../../scripts/images.mjs';
import { Lab } from '../../scripts/lab/machine.mjs';
import { DEFAULT_CAPABILITIES } from '../../src/engine/runtime-spec.js';
import { ImageStore } from '../../src/image/index.js';

const PROJECT = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');
const PROGRAMS = join(PROJECT, 'test/conformance/programs');
const FULL = process.env.CLEARVM_CONFORMANCE === 'full';
const MINUTE = 60_000;
/** For one program on one side. A guess: no run of the whole has been timed yet. */
const PATIENCE = (FULL ? 60 : 10) * MINUTE;

const PYTHON_MODULES = [
  ...['test_os', 'test_shutil', 'test_tempfile', 'test_mmap', 'test_socket', 'test_subprocess'],
];
/** The classes of them that meet the file system, memory mappings, sockets and processes most. */
const PYTHON_PART = [
  ...['FileTests', 'StatAttributeTests', 'UtimeTests', 'LinkTests', 'WalkTests', 'FwalkTests'],
  ...['MakedirTests', 'TestScandir', 'ExtendedAttributeTests', 'TestSendfile', 'MemfdCreateTests'],
  ...['TestRmTree', 'TestCopyTree', 'TestMove', 'TestMkstemp', 'TestNamedTemporaryFile'],
  ...['TestTemporaryDirectory', 'MmapTests', 'BasicTCPTest', 'BasicUDPTest', 'TestUnixDomain'],
  ...['SendmsgUnixStreamTest', 'RecvmsgSCMRightsStreamTest', 'POSIXProcessTestCase'],
];
const STRESSORS = [
  ...['cpu=20', 'futex=2000', 'pipe=5000', 'mmap=5', 'hdd=500', 'pthread=200', 'switch=2000'],
  ...['sem=2000', 'fork=100', 'epoll=1000', 'dentry=500', 'rename=500', 'flock=1000'],
];

interface Outcome {
  status: number;
  stdout: string;
  stderr: string;
}

let lab: Lab;
let image: string;
let scratch: string;
let serial = 0;
/** In the lab's memory: overlays can have their upper directories there. */
const BASE = '/tmp/programs';
const ENVIRONMENT = { CLEARVM_ROOT: `${BASE}/store`, CLEARVM_RUN: `${BASE}/run` };

beforeAll(async () => {
  const made = await debianToolsImage();
  image = made.name;
  // Loaded out here and carried into the lab's memory: what is emulated should be what is tested.
  scratch = mkdtempSync(join(PROJECT, 'build/programs-test-'));
  mkdirSync(join(scratch, 'store/images'), { recursive: true });
  const store = new ImageStore({ root: join(scratch, 'store/images') });
  await store.load(made.archive);
  await execa('tar', [
    ...['-C', scratch, '-cf', join(scratch, 'store.tar'), '--xattrs', '--xattrs-include=*'],
    'store',
  ]);
  lab = await Lab.start({ shares: [PROJECT], cpus: 2, memory: 6144 });
  await shell(`
    mkdir -p ${BASE}
    tar -C ${BASE} --xattrs --xattrs-include='*' -xf ${scratch}/store.tar`);
  rmSync(join(scratch, 'store'), { recursive: true });
  rmSync(join(scratch, 'store.tar'));
});

afterAll(async () => {
  await lab?.close();
  if (scratch) rmSync(scratch, { recursive: true, force: true });
});

async function shell(script: string): Promise<string> {
  const { status, stdout, stderr } = await lab.run(['sh', '-euc', script]);
  expect(status, stderr.toString()).toBe(0);
  return stdout.toString();
}

async function lookAt(command: string[], env: Record<string, string>): Promise<Outcome> {
  const { status, stdout, stderr } = await lab.run(command, { env, cwd: PROJECT });
  return { status, stdout: stdout.toString(), stderr: stderr.toString() };
}

/** As a container of ours. Its volume is empty at first. */
async function underClearVM(command: string[]): Promise<Outcome> {
  const volume = `${BASE}/volume-${++serial}`;
  await shell(`mkdir ${volume}`);
  const outcome = await lookAt(
    [
      ...[process.execPath, join(PROJECT, 'dist/cli/main.js'), 'run', '--rm', '--cpus', '2'],
      ...['--memory', '1g', '-v', `${PROGRAMS}:/programs:ro`, '-v', `${volume}:/volume`, image],
      ...command,
    ],
    ENVIRONMENT,
  );
  await shell(`rm -rf ${volume}`);
  return outcome;
}

/** By runc on an overlay of the same layers, with the same capabilities, limits and volumes. */
async function underRunc(command: string[]): Promise<Outcome> {
  const bundle = `${BASE}/bundle-${++serial}`;
  const base = await shell(`
    mkdir -p ${bundle}/rootfs ${bundle}/upper ${bundle}/work ${bundle}/volume
    runc spec --bundle ${bundle}
    dirname "$(find ${BASE}/store/images/layers -maxdepth 4 -type d -name usr | head -n 1)"`);
  const spec = JSON.parse(await shell(`cat ${bundle}/config.json`));
  const capabilities = DEFAULT_CAPABILITIES;
  spec.process = {
    ...spec.process,
    terminal: false,
    noNewPrivileges: false,
    // Not as PID 1, which the kernel treats as no other process: a container of ours is not PID 1 either.
    args: ['sh', '-c', '"$@"; exit $?', 'sh', ...command],
    capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
    rlimits: [
      { type: 'RLIMIT_NOFILE', soft: 1024, hard: 524288 },
      { type: 'RLIMIT_CORE', soft: 0, hard: 0 },
    ],
  };
  spec.root.readonly = false;
  spec.mounts.push(
    { destination: '/programs', type: 'bind', source: PROGRAMS, options: ['bind', 'ro'] },
    { destination: '/volume', type: 'bind', source: `${bundle}/volume`, options: ['bind', 'rw'] },
  );
  const written = await lab.run(['sh', '-c', `cat > ${bundle}/config.json`], {
    stdin: JSON.stringify(spec),
  });
  expect(written.status).toBe(0);
  const overlay = `lowerdir=${base.trim()},upperdir=${bundle}/upper,workdir=${bundle}/work`;
  await shell(`mount -t overlay -o ${overlay} overlay ${bundle}/rootfs`);
  const outcome = await lookAt(['runc', 'run', '--bundle', bundle, `programs-${serial}`], {});
  await shell(`umount ${bundle}/rootfs; rm -rf ${bundle}`);
  return outcome;
}

async function onBothSides(command: string[]): Promise<{ ours: Outcome; theirs: Outcome }> {
  const theirs = await underRunc(command);
  const ours = await underClearVM(command);
  return { ours, theirs };
}

/** Without what is random, or a time, or a rate. */
function normalize(text: string): string {
  return text
    .replace(/\r/g, '\n')
    .replace(/\b(\d+(\.\d+)?) ?([kMG]i?B\/s|kB|B\/s|bytes\/s)/g, 'N $3')
    .replace(/(Reading database \.\.\. )(\d+%)?\s*/g, '$1');
}

test.each([
  ['apt-get installs, upgrades and purges a local package', ['apt.sh']],
  ['tar of a tree while it is unlinked', ['tar.sh', '/var/tmp']],
  ['the same on a volume', ['tar.sh', '/volume']],
  ['git init, add, commit, merge, gc, clone, fsck', ['git.sh', '/var/tmp']],
  ['perl', ['perl.pl', '/var/tmp']],
  ['sqlite3 with a WAL database and two writers', ['sqlite.sh', '/var/tmp']],
  ['the same on a volume', ['sqlite.sh', '/volume']],
  ['stress-ng', ['stress.sh', '/var/tmp', ...STRESSORS]],
  ['fio verifies what it writes, on the root and on a volume', ['fio.sh', '/var/tmp', '/volume']],
])(
  '%s',
  async (_, [program, ...args]) => {
    const { ours, theirs } = await onBothSides([`/programs/${program}`, ...args]);
    expect(theirs.status, theirs.stdout + theirs.stderr).toBe(0);
    expect(theirs.stdout).not.toMatch(/^not ok/m);
    expect(normalize(ours.stdout)).toBe(normalize(theirs.stdout));
    expect(ours.stderr).toBe(theirs.stderr);
    expect(ours.status).toBe(theirs.status);
  },
  2 * PATIENCE,
);

/** Of the output of python.sh: the outcome of each test. */
function outcomes(text: string): Map<string, string> {
  return new Map(
    text
      .split('\n')
      .filter(Boolean)
      .map((line) => {
        const [outcome = '', ...name] = line.split(' ');
        return [name.join(' '), outcome];
      }),
  );
}

test(
  `CPython's own tests${FULL ? '' : ' (a part)'}`,
  async () => {
    const selection = FULL
      ? PYTHON_MODULES
      : [...PYTHON_PART.flatMap((pattern) => ['-m', pattern]), ...PYTHON_MODULES];
    const { ours, theirs } = await onBothSides(['/programs/python.sh', '/var/tmp', ...selection]);
    const [here, there] = [outcomes(ours.stdout), outcomes(theirs.stdout)];
    const count = (all: Map<string, string>, outcome: string) =>
      [...all.values()].filter((value) => value === outcome).length;
    for (const [side, all] of Object.entries({ clearvm: here, runc: there })) {
      console.log(
        `${side}: ${['passed', 'failed', 'skipped'].map((outcome) => `${count(all, outcome)} ${outcome}`).join(', ')}`,
      );
    }
    expect(count(there, 'passed'), theirs.stderr).toBeGreaterThan(FULL ? 1000 : 200);
    const worse = [...there].filter(
      ([name, outcome]) => outcome === 'passed' && here.get(name) !== 'passed',
    );
    expect(
      worse.map(([name]) => `${name}: ${here.get(name) ?? 'not run'}`),
      ours.stderr,
    ).toEqual([]);
  },
  2 * PATIENCE,
);
