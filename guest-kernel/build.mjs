#!/usr/bin/env node
// Builds the guest kernel: Debian's kernel source, our patches, tinyconfig and our fragments. See docs/guest-kernel.md.
//
// It runs before `npm install`, so it uses nothing but Node and the tools that `npm run setup` installs.

import { spawn, spawnSync } from 'node:child_process';
import {
  appendFileSync,
  copyFileSync,
  constants,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  chmodSync,
  writeFileSync,
} from 'node:fs';
import { availableParallelism, homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { findLost, loadFragments, renderConfig, symbolsFor, VERSIONS } from './fragments.mjs';
import {
  compilerVersion,
  hashArchive,
  hashInputs,
  KernelBuildError,
  listPatches,
  requirePackages,
  sourceArchive,
} from './inputs.mjs';
import { packKernel } from './pack.mjs';
import { createProgress } from './progress.mjs';
import { settleKernel } from './settle.mjs';
import { BUILD_ENVIRONMENT, RECIPE_FILES, RESULTS, STEPS } from './recipe.mjs';

/** Decided by measurement: docs/decisions/guest-kernel-version.md. */
export const DEFAULT_VERSION = '6.1';

const HERE = dirname(fileURLToPath(import.meta.url));
const OUTPUT = join(HERE, '..', 'build', 'guest', 'vmlinux');
// Objects that make names in a whole build; for the progress bar only.
const EXPECTED_OBJECTS = { 6.1: 1150, 6.12: 1250 };

const USAGE = `Builds the guest kernel into build/guest/vmlinux, or takes it from the cache.

Usage: node guest-kernel/build.mjs [options]

  --version V     kernel version: ${VERSIONS.join(' or ')} (default: ${DEFAULT_VERSION})
  --source FILE   the kernel's source archive (default: ${sourceArchive('V')})
  --check         check the fragments, the patches and the resulting configuration, and build nothing
  --print-path    print the path of vmlinux in the cache on stdout
  --rebuild       build even if the cache has it
  --help          print this text

Cache: \${XDG_CACHE_HOME:-$HOME/.cache}/clearvm/kernel
`;

const say = (text) => process.stderr.write(`${text}\n`);

/** Where built kernels are kept, each in a folder named by the hash of its inputs. */
function cacheDirectory() {
  const base = process.env.XDG_CACHE_HOME || join(homedir(), '.cache');
  return join(base, 'clearvm', 'kernel');
}

// Only what the tools need: KCFLAGS, MAKEFLAGS, CC and the like of the caller's must not get into the kernel.
function buildEnvironment() {
  const { PATH, HOME, TMPDIR } = process.env;
  return { PATH, HOME, ...(TMPDIR ? { TMPDIR } : {}), ...BUILD_ENVIRONMENT };
}

let running; // the command that run() waits for

/** Runs a command in the source tree; on failure the error holds the end of what it printed. */
function run(tree, command, onLine = () => {}) {
  return new Promise((resolve, reject) => {
    // A process group of its own, so that an interrupted build can end make with all that make has started.
    const child = spawn(command[0], command.slice(1), {
      cwd: tree,
      env: buildEnvironment(),
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    });
    running = child;
    const last = [];
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on('line', (line) => {
        last.push(line);
        if (last.length > 40) last.shift();
        onLine(line);
      });
    }
    child.on('error', reject);
    child.on('close', (code, signal) => {
      running = undefined;
      if (code === 0) resolve();
      else {
        reject(
          new KernelBuildError(
            'ERR_KERNEL_BUILD',
            `${command.join(' ')} failed (${signal ?? `exit status ${code}`}) in ${tree}:\n${last.join('\n')}`,
          ),
        );
      }
    });
  });
}

/** Unpacks, patches and configures the source; the result is a tree that make can compile. */
async function prepareTree(tree, { archive, patches, symbols }) {
  say(`Unpacking ${archive}`);
  await run(tree, [
    'tar',
    '-xf',
    archive,
    '--strip-components=1',
    '--exclude=*/Documentation/*.rst',
  ]);
  for (const patch of patches) {
    await run(tree, ['patch', '-p1', '-F0', '--forward', '--silent', '-i', patch]);
  }
  await run(tree, STEPS.configure);
  appendFileSync(join(tree, '.config'), renderConfig(symbols));
  await run(tree, STEPS.settle);
  const lost = findLost(symbols, readFileSync(join(tree, '.config'), 'utf8'));
  if (lost.length > 0) {
    throw new KernelBuildError(
      'ERR_KERNEL_CONFIG',
      `${lost.length} symbols of the fragments did not survive:\n  ${lost.join('\n  ')}`,
    );
  }
}

/** Everything about the build that is known before it starts. */
async function collectInputs(version, source) {
  const { symbols: all, problems } = loadFragments(join(HERE, 'fragments'));
  if (problems.length > 0) {
    throw new KernelBuildError(
      'ERR_KERNEL_FRAGMENT',
      `the fragments have faults:\n  ${problems.join('\n  ')}`,
    );
  }
  const archive = source ?? sourceArchive(version);
  requirePackages(archive, version);
  const symbols = symbolsFor(all, version);
  const patches = listPatches(join(HERE, 'patches'), version);
  const hash = hashInputs({
    archiveHash: await hashArchive(archive, cacheDirectory()),
    compiler: compilerVersion(),
    symbols,
    patches: patches.map((file) => readFileSync(file, 'utf8')),
    recipe: RECIPE_FILES.map((file) => readFileSync(join(HERE, file), 'utf8')).join(''),
  });
  return { version, archive, symbols, patches, hash };
}

/** Gives `use` a scratch directory that is gone afterwards, also when the build is interrupted. */
async function withScratch(name, use) {
  const scratch = join(cacheDirectory(), name);
  rmSync(scratch, { recursive: true, force: true });
  mkdirSync(scratch, { recursive: true });
  const remove = () => rmSync(scratch, { recursive: true, force: true });
  const interrupted = (signal) => {
    if (running?.pid) {
      try {
        process.kill(-running.pid, 'SIGKILL');
      } catch {
        // It has just ended by itself.
      }
    }
    remove();
    process.exit(signal === 'SIGINT' ? 130 : 143);
  };
  process.once('SIGINT', interrupted);
  process.once('SIGTERM', interrupted);
  try {
    return await use(scratch);
  } finally {
    process.off('SIGINT', interrupted);
    process.off('SIGTERM', interrupted);
    remove();
  }
}

// A build that was killed leaves a gigabyte behind, and its kernel may never be asked for again. Whoever holds
// a kernel's lock may remove its scratch directory; nobody waits for one.
function removeLeftovers(hash) {
  for (const name of readdirSync(cacheDirectory())) {
    const other = /^\.build-([0-9a-f]+)$/.exec(name)?.[1];
    if (other === undefined || other === hash) continue;
    const lock = join(cacheDirectory(), `.${other}.lock`);
    spawnSync('flock', ['--nonblock', lock, 'rm', '-rf', join(cacheDirectory(), name)]);
  }
}

/** Builds into a scratch directory of the cache and renames the result into place, whole or not at all. */
async function build(inputs) {
  removeLeftovers(inputs.hash);
  // The lock makes us this scratch directory's only user: what a killed build has left there goes.
  await withScratch(`.build-${inputs.hash}`, async (scratch) => {
    const tree = join(scratch, 'linux');
    const result = join(scratch, 'result');
    mkdirSync(tree);
    mkdirSync(result);
    await prepareTree(tree, inputs);
    const jobs = availableParallelism();
    const progress = createProgress({
      label: `Building Linux ${inputs.version} on ${jobs} CPUs`,
      expected: EXPECTED_OBJECTS[inputs.version],
    });
    try {
      await run(tree, [...STEPS.compile, `-j${jobs}`], (line) => progress.line(line));
    } catch (error) {
      progress.abort();
      throw error;
    }
    progress.finish();
    const linked = readFileSync(join(tree, 'vmlinux'));
    const settled = /^CONFIG_CLEARVM_SETTLED=y$/m.test(readFileSync(join(tree, '.config'), 'utf8'))
      ? settleKernel(linked)
      : linked;
    writeFileSync(join(result, 'vmlinux'), packKernel(settled), { mode: 0o444 });
    for (const [from, to] of RESULTS) {
      copyFileSync(join(tree, from), join(result, to));
      chmodSync(join(result, to), 0o444);
    }
    const target = join(cacheDirectory(), inputs.hash);
    rmSync(target, { recursive: true, force: true });
    renameSync(result, target);
  });
}

/** Puts the kernel where the rest of the project looks for it, unless it is there already. */
function install(from) {
  if (existsSync(OUTPUT) && statSync(OUTPUT).size === statSync(from).size) {
    if (readFileSync(OUTPUT).equals(readFileSync(from))) return;
  }
  mkdirSync(dirname(OUTPUT), { recursive: true });
  const temporary = `${OUTPUT}.${process.pid}`;
  copyFileSync(from, temporary, constants.COPYFILE_FICLONE);
  chmodSync(temporary, 0o644);
  renameSync(temporary, OUTPUT);
}

// flock(1) becomes this program with the lock held (--no-fork), and the system gives the lock back however that ends.
function runLocked(hash, argv, options) {
  return new Promise((resolve, reject) => {
    const lock = join(cacheDirectory(), `.${hash}.lock`);
    const self = [process.execPath, fileURLToPath(import.meta.url), ...argv, '--locked'];
    const child = spawn('flock', ['--no-fork', ...options, lock, ...self], { stdio: 'inherit' });
    const forward = (signal) => child.kill(signal);
    process.on('SIGINT', forward).on('SIGTERM', forward);
    child.on('error', reject);
    child.on('close', (code, signal) => {
      process.off('SIGINT', forward).off('SIGTERM', forward);
      resolve(code ?? (signal === 'SIGINT' ? 130 : 143));
    });
  });
}

async function buildUnderLock(hash, argv) {
  const status = await runLocked(hash, argv, ['--nonblock', '--conflict-exit-code', '75']);
  if (status !== 75) return status;
  say('Another build of this kernel is under way; waiting for it.');
  return runLocked(hash, argv, []);
}

async function main(argv) {
  const { values } = parseArgs({
    args: argv,
    options: {
      version: { type: 'string', default: DEFAULT_VERSION },
      source: { type: 'string' },
      check: { type: 'boolean', default: false },
      'print-path': { type: 'boolean', default: false },
      rebuild: { type: 'boolean', default: false },
      locked: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  if (!VERSIONS.includes(values.version)) {
    throw new KernelBuildError(
      'ERR_KERNEL_VERSION',
      `--version ${values.version}: the fragments are kept for ${VERSIONS.join(' and ')}`,
    );
  }
  const inputs = await collectInputs(values.version, values.source);
  if (values.check) {
    await withScratch(`.check-${process.pid}`, (scratch) => prepareTree(scratch, inputs));
    say(
      `Linux ${inputs.version}: the patches apply and all ${inputs.symbols.length} symbols survive.`,
    );
    return 0;
  }
  const vmlinux = join(cacheDirectory(), inputs.hash, 'vmlinux');
  const wanted = () => values.rebuild || !existsSync(vmlinux);
  if (values.locked) {
    if (wanted()) await build(inputs);
    return 0;
  }
  if (wanted()) {
    const status = await buildUnderLock(inputs.hash, argv);
    if (status !== 0) return status;
  }
  install(vmlinux);
  if (values['print-path']) process.stdout.write(`${vmlinux}\n`);
  else
    say(
      `Linux ${inputs.version}: ${OUTPUT} (${(statSync(vmlinux).size / 2 ** 20).toFixed(1)} MiB)`,
    );
  return 0;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    process.exitCode = await main(process.argv.slice(2));
  } catch (error) {
    if (!(error instanceof KernelBuildError) && !error?.code?.startsWith?.('ERR_PARSE_ARGS'))
      throw error;
    say(`guest-kernel: ${error.message}`);
    process.exitCode = 1;
  }
}
