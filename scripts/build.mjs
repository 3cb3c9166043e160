// npm run build [-- PART…]: builds what has changed. Parts: ts, native, init, kernel; all by default.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

import { command, fingerprint, listFiles, main, step, TOP, unlessUnchanged } from './lib/steps.mjs';

const UNCHANGED = 'unchanged';
const bin = (name) => path.join(TOP, 'node_modules', '.bin', name);

async function buildTypeScript(update) {
  const inputs = [
    ...listFiles('src', (name) => !name.startsWith(path.join('src', 'generated'))),
    ...[
      'scripts/build-schemas.mjs',
      'scripts/bundle-cli.mjs',
      'tsconfig.json',
      'package-lock.json',
    ],
  ];
  const ran = await unlessUnchanged(
    'ts',
    fingerprint(inputs),
    ['dist/index.js', 'dist/cli/main.js'],
    async () => {
      await command(process.execPath, ['scripts/build-schemas.mjs'], {
        log: 'schemas',
        onLine: update,
      });
      fs.rmSync(path.join(TOP, 'dist'), { recursive: true, force: true });
      await command(bin('tsc'), ['-p', 'tsconfig.json'], { log: 'tsc', onLine: update });
      await command(process.execPath, ['scripts/bundle-cli.mjs'], {
        log: 'bundle',
        onLine: update,
      });
    },
  );
  return ran ? '' : UNCHANGED;
}

/** node-gyp would fetch Node's headers; distributions put them next to Node. */
function headerOptions() {
  const prefix = path.dirname(path.dirname(fs.realpathSync(process.execPath)));
  return fs.existsSync(path.join(prefix, 'include', 'node', 'node_api.h'))
    ? [`--nodedir=${prefix}`]
    : [];
}

async function buildNative(update) {
  const inputs = listFiles('native', (name) => /\.(cc|h)$/.test(name));
  const gyp = (...args) =>
    command(bin('node-gyp'), [...args, ...headerOptions()], {
      log: `node-gyp-${args[0]}`,
      onLine: update,
    });
  const outputs = ['build/Release/clearvm-vmm', 'build/Release/clearvm_addon.node'];
  const print = fingerprint(['binding.gyp', 'package-lock.json', ...inputs], process.version);
  const ran = await unlessUnchanged('native', print, outputs, async () => {
    // binding.gyp lists the sources by a glob, which is looked at when it is configured.
    const names = fingerprint(
      ['binding.gyp', 'package-lock.json'],
      inputs.join('\n') + process.version,
    );
    await unlessUnchanged('native-configure', names, ['build/Makefile'], () => gyp('configure'));
    await gyp('build', '--jobs', String(os.availableParallelism()));
  });
  return ran ? '' : UNCHANGED;
}

async function buildInit(update) {
  const output = await command('make', ['-C', 'rootfs'], { log: 'init', onLine: update });
  return output.includes('Nothing to be done') ? UNCHANGED : '';
}

async function buildKernel(update) {
  await command(process.execPath, ['guest-kernel/build.mjs'], { log: 'kernel', onLine: update });
}

const PARTS = { ts: buildTypeScript, native: buildNative, init: buildInit, kernel: buildKernel };

/** Builds the named parts, in this file's order. */
export async function build(names = Object.keys(PARTS)) {
  const unknown = names.filter((name) => !(name in PARTS));
  if (unknown.length > 0) {
    throw Object.assign(
      new Error(
        `There is no part ${unknown.join(', ')} to build. Parts: ${Object.keys(PARTS).join(', ')}.`,
      ),
      { code: 'ERR_USAGE' },
    );
  }
  for (const [name, task] of Object.entries(PARTS))
    if (names.includes(name)) await step(name, task);
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const names = process.argv.slice(2);
  await main(() => build(names.length > 0 ? names : undefined));
}
