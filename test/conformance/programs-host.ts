// Real programs in a Debian image, as `clearvm run` and under runc on the same root, in the lab: they must end with the
// same status and say the same. What programs*.test.ts share.
//
// CLEARVM_CONFORMANCE=full runs all of CPython's tests that are named, not a part, and more of the others on a volume.

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
export const FULL = process.env.CLEARVM_CONFORMANCE === 'full';
const MINUTE = 60_000;
/** For one program on one side, on a machine that does other things as well. */
export const PATIENCE = (FULL ? 60 : 10) * MINUTE;

interface Outcome {
  status: number;
  stdout: string;
  stderr: string;
}

let lab: Lab;
let image: string;
let scratch: string;
let serial = 0;
/** Where the image store, the containers and the volumes are: one file system, as on most machines. */
const BASE = '/tmp/programs';
const ENVIRONMENT = { CLEARVM_ROOT: `${BASE}/store`, CLEARVM_RUN: `${BASE}/run` };

beforeAll(async () => {
  const made = await debianToolsImage();
  image = made.name;
  // Loaded out here and carried into the lab's memory: what is emulated should be what is tested.
  scratch = mkdtempSync(join(PROJECT, 'build/programs-test-'));
  const folder = join(scratch, 'root');
  mkdirSync(join(folder, 'store/images'), { recursive: true });
  const store = new ImageStore({ root: join(folder, 'store/images') });
  await store.load(made.archive);
  // Carried into the lab's memory: what is emulated should be what is tested. ext4, because tmpfs lacks O_DIRECT.
  const disk = join(scratch, 'disk');
  await execa('mkfs.ext4', ['-q', '-d', folder, disk, '2G']);
  rmSync(folder, { recursive: true });
  lab = await Lab.start({ shares: [PROJECT], memory: 6144, commandLimitMs: PATIENCE });
  await shell(`
    mkdir ${BASE}
    cp --sparse=always ${disk} ${BASE}.disk
    modprobe -a loop ext4
    mount -o loop ${BASE}.disk ${BASE}`);
  rmSync(disk);
});

afterAll(async () => {
  await lab?.close();
  if (scratch) rmSync(scratch, { recursive: true, force: true });
});

async function shell(script: string, stdin = ''): Promise<string> {
  const { status, stdout, stderr } = await lab.run(['sh', '-euc', script], { stdin });
  expect(status, stderr.toString()).toBe(0);
  return stdout.toString();
}

async function lookAt(command: string[], env: Record<string, string>): Promise<Outcome> {
  const { status, stdout, stderr } = await lab.run(command, { env, cwd: PROJECT });
  return { status, stdout: stdout.toString(), stderr: stderr.toString() };
}

/**
 * Two where that is the point. The lab has one processor, so that each vCPU that waits for another one's answer to an
 * interrupt does so for a time slice of the lab's scheduler.
 */
const cpusFor = ([program]: string[]): string => (program?.endsWith('/stress.sh') ? '2' : '1');

/** As a container of ours. Its volume is empty at first. */
async function underClearVM(command: string[]): Promise<Outcome> {
  const volume = `${BASE}/volume-${++serial}`;
  await shell(`mkdir ${volume}`);
  const outcome = await lookAt(
    [
      ...[
        process.execPath,
        join(PROJECT, 'dist/cli/main.js'),
        'run',
        '--rm',
        '--cpus',
        cpusFor(command),
      ],
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
      { type: 'RLIMIT_CORE', soft: 0, hard: 2 ** 64 - 2048 },
    ],
  };
  spec.root.readonly = false;
  spec.mounts.push(
    { destination: '/programs', type: 'bind', source: PROGRAMS, options: ['bind', 'ro'] },
    { destination: '/etc/hosts', type: 'bind', source: `${bundle}/hosts`, options: ['bind', 'ro'] },
    { destination: '/volume', type: 'bind', source: `${bundle}/volume`, options: ['bind', 'rw'] },
  );
  await shell(
    `printf '127.0.0.1\\tlocalhost\\n' > ${bundle}/hosts; cat > ${bundle}/config.json`,
    JSON.stringify(spec),
  );
  const overlay = `lowerdir=${base.trim()},upperdir=${bundle}/upper,workdir=${bundle}/work`;
  await shell(`mount -t overlay -o ${overlay} overlay ${bundle}/rootfs`);
  const outcome = await lookAt(['runc', 'run', '--bundle', bundle, `programs-${serial}`], {});
  await shell(`umount ${bundle}/rootfs; rm -rf ${bundle}`);
  return outcome;
}

export async function onBothSides(command: string[]): Promise<{ ours: Outcome; theirs: Outcome }> {
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

/** What is known to differ, and why: docs/limitations.md. Of files.py's lines: here it is the second. */
const DIFFERENCES: readonly (readonly [string, string])[] = [
  ['RENAME_EXCHANGE: 2', 'RENAME_EXCHANGE: EINVAL'],
  ['a birth time: True', 'a birth time: False'],
  ['SEEK_HOLE and SEEK_DATA: (0, 5242880)', 'SEEK_HOLE and SEEK_DATA: (10485760, 0)'],
  ['fallocate: 100000', 'fallocate: ENOTSUP'],
  ['punching a hole: 100000', 'punching a hole: ENOTSUP'],
];

const DIFFERENCES_OF_VOLUMES: typeof DIFFERENCES = [
  ['O_TMPFILE: (1, 0)', 'O_TMPFILE: ENOTSUP'],
  ["a FIFO by two names: (b'through', '0o10640')", 'a FIFO by two names: ENXIO'],
];

/** What must come out here, where runc's container has said that. */
function expected(theirs: string, onVolume: boolean): string {
  const lines = normalize(theirs).split('\n');
  const differences = new Map([...DIFFERENCES, ...(onVolume ? DIFFERENCES_OF_VOLUMES : [])]);
  return lines.map((line) => differences.get(line) ?? line).join('\n');
}

/** A test of a program that says the same on both sides: its name; the program, and its arguments. */
export type Compared = [string, [string, ...string[]]];

export function compare(programs: readonly Compared[]): void {
  test.each(programs)(
    '%s',
    async (_, [program, ...args]) => {
      const { ours, theirs } = await onBothSides([`/programs/${program}`, ...args]);
      expect(theirs.status, theirs.stdout + theirs.stderr).toBe(0);
      expect(theirs.stdout).not.toMatch(/^not ok/m);
      expect(normalize(ours.stdout)).toBe(expected(theirs.stdout, args.includes('/volume')));
      expect(ours.stderr).toBe(theirs.stderr);
      expect(ours.status).toBe(theirs.status);
    },
    2 * PATIENCE,
  );
}
