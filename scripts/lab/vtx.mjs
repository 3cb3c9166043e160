// The VT-x lab: Bochs emulating an Intel machine, and one command on it. Slow, and only for what AMD-V cannot show.

import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join, resolve } from 'node:path';
import { findFile, findProgram, LabError, removeAbandoned, runProgram } from './cache.mjs';
import { Emulator } from './emulator.mjs';
import { appendFiles, planFiles } from './files.mjs';
import { prepareInit } from './image.mjs';
import * as protocol from './protocol.mjs';
import { prepareVtxKernel } from './vtx-kernel.mjs';

const ISOLINUX = '/usr/lib/ISOLINUX/isolinux.bin';
const LDLINUX = '/usr/lib/syslinux/modules/bios/ldlinux.c32';
const BIOS = '/usr/share/bochs/BIOS-bochs-latest';
const VGABIOS = '/usr/share/bochs/VGABIOS-lgpl-latest';
const TERM_PLUGIN = '/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so';

/** Has EPT, unrestricted guest, VPID and APICv. */
const DEFAULT_CPU = 'corei7_skylake_x';
const POLL_MS = 50;
/** Followed by our process id: who is killed before Bochs has opened its files leaves them to the next call. */
const TEMPORARY = 'clearvm-lab-vtx-';

/**
 * Runs one command on an emulated VT-x host.
 *
 * @param {object} options
 * @param {string[]} options.command a program of this machine, which is put into the lab, and its arguments
 * @param {string[]} [options.files] further files, HOSTPATH or HOSTPATH:LABPATH, with their shared libraries
 * @param {string[]} [options.trees] directories, the same way
 * @param {Record<string, string>} [options.env]
 * @param {number} [options.memory] MiB, default 1024
 * @param {boolean} [options.ept] false: KVM must do with shadow page tables
 * @param {string} [options.cpu] a CPU model of Bochs
 * @param {NodeJS.WritableStream} options.stdout
 * @param {NodeJS.WritableStream} options.stderr
 * @param {(text: string) => void} [options.onConsole] is given the host kernel's log
 * @returns {Promise<number>} the command's exit status, 128+n after signal n
 * @throws {LabError} ERR_LAB_PROGRAM, ERR_LAB_BUILD, ERR_LAB_FILE, ERR_LAB_DIED
 */
export async function runOnVtx(options) {
  for (const name of ['bochs', 'script', 'xorriso']) findProgram(name);
  findFile(TERM_PLUGIN, 'bochs-term');
  findFile(BIOS, 'bochsbios');
  findFile(VGABIOS, 'vgabios');
  findFile(ISOLINUX, 'isolinux');
  findFile(LDLINUX, 'syslinux-common');
  const kernel = await prepareVtxKernel();
  const init = await prepareInit();
  removeAbandoned(join(tmpdir(), TEMPORARY));
  const directory = mkdtempSync(join(tmpdir(), `${TEMPORARY}${process.pid}-`));
  const remove = () => rmSync(directory, { recursive: true, force: true });
  process.on('exit', remove);
  const opened = [];
  try {
    await writeImage(directory, { ...options, kernel, init });
    writeFileSync(join(directory, 'bochsrc'), bochsConfiguration(directory, options));
    // Debian's Bochs starts in its debugger: this says "continue".
    writeFileSync(join(directory, 'start'), 'c\n');
    const [answers, log] = ['com1', 'com2'].map((name) => {
      const fd = openSync(join(directory, name), 'w+');
      opened.push(fd);
      return fd;
    });
    return await follow(startBochs(directory), answers, log, options, remove);
  } finally {
    opened.forEach((fd) => closeSync(fd));
    remove();
    process.off('exit', remove);
  }
}

async function writeImage(directory, options) {
  const { kernel, init, command, files = [], trees = [], env = {} } = options;
  const program = findCommand(command[0]);
  const plan = await planFiles([program, ...files], trees);
  const requests = Buffer.concat([
    protocol.encodeFrame(
      0,
      protocol.SETUP,
      protocol.encodeStrings([
        'root',
        'memory',
        ...plan.links.flatMap(([from, to]) => ['link', from, to]),
      ]),
    ),
    protocol.encodeExec(1, [program, ...command.slice(1)], {
      cwd: '/',
      env: {
        PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
        HOME: '/root',
        ...env,
      },
      stdin: false,
    }),
  ]);
  mkdirSync(join(directory, 'base/lab'), { recursive: true });
  copyFileSync(init, join(directory, 'base/init'));
  writeFileSync(join(directory, 'base/lab/requests'), requests);
  const iso = join(directory, 'iso');
  mkdirSync(iso);
  const initramfs = openSync(join(iso, 'initramfs'), 'w');
  try {
    await appendFiles(initramfs, join(directory, 'base'), ['init', 'lab', 'lab/requests']);
    await appendFiles(initramfs, '/', plan.paths);
  } finally {
    closeSync(initramfs);
  }
  copyFileSync(kernel, join(iso, 'kernel'));
  copyFileSync(ISOLINUX, join(iso, 'isolinux.bin'));
  copyFileSync(LDLINUX, join(iso, 'ldlinux.c32'));
  writeFileSync(join(iso, 'isolinux.cfg'), bootConfiguration(options));
  const boot = '-b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table'.split(
    ' ',
  );
  await runProgram('xorriso', [
    '-as',
    'mkisofs',
    '-quiet',
    '-o',
    join(directory, 'cd'),
    ...boot,
    iso,
  ]);
  rmSync(iso, { recursive: true });
}

/** As a shell would find it, here: the lab has no other programs than it is given. */
function findCommand(name) {
  if (name.includes('/')) return resolve(name);
  const found = (process.env.PATH ?? '')
    .split(delimiter)
    .map((directory) => join(directory, name))
    .find((path) => existsSync(path));
  if (!found) throw new LabError('ERR_LAB_FILE', `no such program to put into the lab: ${name}`);
  return resolve(found);
}

function bootConfiguration({ ept = true }) {
  const append = [
    'console=ttyS1,115200',
    'loglevel=4', // each byte is emulated
    'panic=-1',
    'tsc=reliable', // it counts Bochs's instructions; nothing else here could judge it
    ...(ept ? [] : ['kvm_intel.ept=0']),
  ];
  const lines = ['default lab', 'prompt 0', 'label lab', 'kernel /kernel', 'initrd /initramfs'];
  return [...lines, `append ${append.join(' ')}`, ''].join('\n');
}

function bochsConfiguration(directory, { memory = 1024, cpu = DEFAULT_CPU }) {
  return [
    'display_library: term',
    `cpu: model=${cpu}, count=1, ips=100000000, reset_on_triple_fault=0, ignore_bad_msrs=1`,
    `memory: guest=${memory}, host=${memory}`,
    `romimage: file=${BIOS}`,
    `vgaromimage: file=${VGABIOS}`,
    `ata0-master: type=cdrom, path=${join(directory, 'cd')}, status=inserted`,
    'boot: cdrom',
    'clock: sync=none',
    `com1: enabled=1, mode=file, dev=${join(directory, 'com1')}`,
    `com2: enabled=1, mode=file, dev=${join(directory, 'com2')}`,
    'log: /dev/null',
    // It reports each VM exit as an error.
    'error: action=ignore',
    'info: action=ignore',
    'panic: action=fatal',
    '',
  ].join('\n');
}

function startBochs(directory) {
  // Its text display needs a terminal, which script makes. script would survive us if it were not for
  // setpriv, and Bochs, which does not heed SIGTERM or a hang-up, would survive script.
  const quoted = [
    findProgram('setpriv'),
    findProgram('bochs'),
    join(directory, 'bochsrc'),
    join(directory, 'start'),
  ].map((text) => `'${text.replaceAll("'", "'\\''")}'`);
  const bochs = `exec ${quoted[0]} --pdeathsig SIGKILL ${quoted[1]} -q -f ${quoted[2]} -rc ${quoted[3]}`;
  const args = ['--quiet', '--flush', '--return', '--command', bochs, '/dev/null'];
  return new Emulator(findProgram('script'), args, ['ignore', 'pipe', 'pipe']);
}

/** Passes on what the lab says until it ends. */
async function follow(emulator, answers, log, { stdout, stderr, onConsole }, remove) {
  let status;
  let failure;
  let lastWords = '';
  const reader = new protocol.FrameReader();
  const onFrame = ({ type, payload }) => {
    if (type === protocol.STDOUT) stdout.write(payload);
    else if (type === protocol.STDERR) stderr.write(payload);
    else if (type === protocol.EXIT) status = payload.readUInt32LE(0);
    else if (type === protocol.FAILED) failure = payload.toString();
  };
  const onLog = (bytes) => {
    lastWords = (lastWords + bytes.toString('latin1')).slice(-8192);
    onConsole?.(bytes.toString('latin1'));
  };
  const onAnswers = (bytes) => {
    // Bochs opens a serial port's file at its first byte. Now it has all of them open, and they need no names.
    remove();
    for (const frame of reader.read(bytes)) onFrame(frame);
  };
  const tails = [tail(answers, onAnswers), tail(log, onLog)];
  let how;
  emulator.ended.then((text) => (how = text));
  try {
    while (how === undefined && status === undefined) {
      await new Promise((done) => setTimeout(done, POLL_MS));
      tails.forEach((read) => read());
    }
    tails.forEach((read) => read());
  } finally {
    // Its own shutdown would take another second, and the status is known.
    await emulator.kill();
  }
  if (status !== undefined) return status;
  throw new LabError(
    'ERR_LAB_DIED',
    failure
      ? `the lab's init gave up: ${failure}`
      : `the lab's machine ended before its work was done (${how}); its last words:\n${lastWords}\n${emulator.consoleTail()}`,
  );
}

/** Reads what a file has grown by, at each call. */
function tail(fd, onBytes) {
  let position = 0;
  const buffer = Buffer.alloc(1 << 16);
  return () => {
    for (let n; (n = readSync(fd, buffer, 0, buffer.length, position)) > 0; position += n) {
      onBytes(Buffer.from(buffer.subarray(0, n)));
    }
  };
}
