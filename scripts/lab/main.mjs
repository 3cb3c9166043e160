// npm run lab -- [OPTIONS] [--] CMD…: runs a command on an emulated host with hardware virtualization.
// docs/lab.md is the manual.

import { constants } from 'node:os';
import { existsSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { LabError, note } from './cache.mjs';
import { defaultFiles } from './files.mjs';
import { Lab } from './machine.mjs';
import { runOnVtx } from './vtx.mjs';

const LAB_FAILED = 125;
const TIMED_OUT = 124;
/** How long a command that was sent our own SIGINT or SIGTERM may take to end. */
const GRACE_MS = 5000;

const USAGE = `Usage: npm run lab -- [OPTIONS] [--] CMD [ARG…]

Runs CMD on an emulated host that has hardware virtualization. Its exit status is CMD's,
124 after a timeout, 125 if the lab itself fails.

  --host amd|vtx     AMD-V by QEMU (default), or Intel VT-x by Bochs (static programs only)
  --memory MIB       the host's memory (default 4096; vtx: 1024)
  --cpus N           its CPUs (default 1)
  --env K[=V]        a variable for CMD; without =V the caller's. Repeat as needed
  --stdin            pass stdin on (amd)
  --share DIR        a further directory that CMD may write to, at the same path (amd). Repeat as needed
  --timeout SECONDS  end the lab after that time, with status 124
  --icount           the clock counts instructions; everything lies in the lab's memory (amd)
  --file PATH[:LABPATH]  put a file, and its shared libraries, into the lab's memory (--icount, vtx)
  --tree DIR[:LABDIR]    the same for a directory
  --no-ept           without nested page tables (vtx)
  --cpu MODEL        a CPU model of Bochs, such as core2_penryn_t9600 (vtx)
  --debug            show the lab's kernel log on stderr

Example: npm run lab -- --cpus 2 sh -c 'uname -a; ls -l /dev/kvm'
`;

const OPTIONS = {
  host: { type: 'string', default: 'amd' },
  memory: { type: 'string' },
  cpus: { type: 'string', default: '1' },
  env: { type: 'string', multiple: true, default: [] },
  stdin: { type: 'boolean', default: false },
  share: { type: 'string', multiple: true, default: [] },
  timeout: { type: 'string' },
  icount: { type: 'boolean', default: false },
  file: { type: 'string', multiple: true, default: [] },
  tree: { type: 'string', multiple: true, default: [] },
  'no-ept': { type: 'boolean', default: false },
  cpu: { type: 'string' },
  debug: { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
};

/** Separates our options from the command, whose own options are none of our business. */
function parse(args) {
  const { tokens } = parseArgs({ args, options: OPTIONS, strict: false, tokens: true });
  const first = tokens.find(({ kind }) => kind === 'positional' || kind === 'option-terminator');
  const end = first?.index ?? args.length;
  const command = args.slice(first?.kind === 'option-terminator' ? end + 1 : end);
  let values;
  try {
    ({ values } = parseArgs({ args: args.slice(0, end), options: OPTIONS }));
  } catch (error) {
    throw new LabError('ERR_LAB_ARGUMENT', `${error.message}. See: npm run lab -- --help`);
  }
  if (values.help) return { help: true };
  if (command.length === 0) throw argumentError('no command is given');
  if (!['amd', 'vtx'].includes(values.host)) throw argumentError('--host must be amd or vtx');
  const vtx = values.host === 'vtx';
  const inMemory = vtx || values.icount;
  const misplaced = [
    [vtx && values.icount, '--icount is for --host amd'],
    [vtx && values.stdin, '--stdin is for --host amd'],
    [
      inMemory && values.share.length > 0,
      '--share needs a lab that sees the file system of this machine',
    ],
    [
      !inMemory && values.file.length + values.tree.length > 0,
      '--file and --tree are for --icount and --host vtx',
    ],
    [!vtx && (values['no-ept'] || values.cpu), '--no-ept and --cpu are for --host vtx'],
    [inMemory && values.cpus !== '1', '--icount and --host vtx have one CPU'],
  ].find(([wrong]) => wrong);
  if (misplaced) throw argumentError(misplaced[1]);
  return {
    command,
    vtx,
    memory: number('--memory', values.memory ?? (vtx ? '1024' : '4096'), 256, 1 << 20),
    cpus: number('--cpus', values.cpus, 1, 64),
    timeout:
      values.timeout === undefined ? undefined : number('--timeout', values.timeout, 1, 1 << 20),
    env: Object.fromEntries(values.env.map(variable).filter(([, value]) => value !== undefined)),
    stdin: values.stdin,
    icount: values.icount,
    shares: values.share.map((path) => resolve(path)),
    files: values.file,
    trees: values.tree,
    ept: !values['no-ept'],
    cpu: values.cpu,
    onConsole: values.debug ? (text) => process.stderr.write(text) : undefined,
  };
}

function argumentError(message) {
  return new LabError('ERR_LAB_ARGUMENT', `${message}. See: npm run lab -- --help`);
}

function number(name, text, min, max) {
  const value = Number(text);
  if (!Number.isInteger(value) || value < min || value > max) {
    throw argumentError(`${name} must be a whole number from ${min} to ${max}, not ${text}`);
  }
  return value;
}

function variable(text) {
  const equals = text.indexOf('=');
  return equals === -1
    ? [text, process.env[text]]
    : [text.slice(0, equals), text.slice(equals + 1)];
}

/** The directory that is writable inside: the git checkout around `directory`, else `directory`. */
function projectOf(directory) {
  for (let at = directory; ; at = dirname(at)) {
    if (existsSync(join(at, '.git'))) return at;
    if (at === '/') return directory;
  }
}

async function runOnAmd(options, interrupted) {
  const project = projectOf(process.cwd());
  const own = options.icount ? defaultFiles(project) : { files: [], trees: [] };
  const lab = await Lab.start({
    memory: options.memory,
    cpus: options.cpus,
    icount: options.icount,
    shares: [project, ...options.shares],
    files: [...own.files, ...options.files],
    trees: [...own.trees, ...options.trees],
    onConsole: options.onConsole,
  });
  try {
    const command = lab.spawn(options.command, {
      env: options.env,
      stdin: options.stdin ? process.stdin : undefined,
      stdout: process.stdout,
      stderr: process.stderr,
    });
    interrupted((signal) => command.kill(signal));
    return (await command.result).status;
  } finally {
    await lab.close();
  }
}

async function main() {
  const options = parse(process.argv.slice(2));
  if (options.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  // npm runs scripts in the package's directory, and says where it was called.
  const underNpm = process.env.npm_lifecycle_event === 'lab';
  if (underNpm && process.env.INIT_CWD) process.chdir(process.env.INIT_CWD);

  let passOn;
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    const signal = constants.signals[name];
    process.on(name, () => {
      if (!passOn) process.exit(128 + signal);
      passOn(signal);
      setTimeout(() => process.exit(128 + signal), GRACE_MS).unref();
    });
  }
  if (underNpm) {
    // Nobody tells us when npm is killed; without it nobody waits for us.
    const parent = process.ppid;
    setInterval(() => process.ppid === parent || process.exit(LAB_FAILED), 500).unref();
  }
  process.stdout.on('error', () => process.exit(128 + constants.signals.SIGPIPE));
  if (options.timeout !== undefined) {
    setTimeout(() => {
      note(`the command has not ended in ${options.timeout} s: the lab was ended`);
      process.exit(TIMED_OUT);
    }, options.timeout * 1000).unref();
  }
  if (options.vtx) {
    // It takes no input; a signal ends it, by its handler's process.exit.
    return runOnVtx({ ...options, stdout: process.stdout, stderr: process.stderr });
  }
  return runOnAmd(options, (handler) => (passOn = handler));
}

// process.exit, and not a natural end: stdin may still be open. Every emulator ends with us (emulator.mjs).
main().then(
  async (status) => {
    // A full pipe makes Node's writes wait for its reader.
    await new Promise((resolve) => process.stdout.write('', resolve));
    process.exit(status);
  },
  (error) => {
    note(error instanceof LabError ? `${error.message} (${error.code})` : error.stack);
    process.exit(LAB_FAILED);
  },
);
