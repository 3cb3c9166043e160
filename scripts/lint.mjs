// npm run lint: formatters, linters, types and import directions, for TypeScript, C and C++.
// npm run format (lint --fix): puts right what can be put right by itself.
import os from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

import { checkIncludes } from './check-includes.mjs';
import { command, fingerprint, listFiles, main, step, TOP, unlessUnchanged } from './lib/steps.mjs';

const bin = (name) => path.join(TOP, 'node_modules', '.bin', name);
const PRETTIER_FILES = [
  '{src,test,scripts,guest-kernel,rootfs,docs}/**/*.{ts,mjs}',
  '*.{ts,js,json}',
];

function nativeFiles(pattern) {
  return ['native', 'rootfs', 'test/native', 'test/fuzz'].flatMap((folder) =>
    listFiles(folder, (name) => pattern.test(name) && !name.includes(path.join('native', 'out'))),
  );
}

async function prettier(fix, onLine) {
  await command(
    bin('prettier'),
    [fix ? '--write' : '--check', '--no-error-on-unmatched-pattern', ...PRETTIER_FILES],
    { log: 'prettier', onLine },
  );
}

async function eslint(fix, onLine) {
  const cache = [
    '--cache',
    '--cache-strategy',
    'content',
    '--cache-location',
    'build/.made/eslint',
  ];
  await command(bin('eslint'), ['.', '--max-warnings=0', ...cache, ...(fix ? ['--fix'] : [])], {
    log: 'eslint',
    onLine,
  });
}

async function types(_fix, onLine) {
  const incremental = ['--incremental', '--tsBuildInfoFile', 'build/.made/tsc-test'];
  await command(bin('tsc'), ['-p', 'tsconfig.test.json', ...incremental], {
    log: 'tsc-test',
    onLine,
  });
}

/** The reference of the library can be made, and all that is exported has its words. */
async function reference(_fix, onLine) {
  await command(bin('typedoc'), ['--emit', 'none'], { log: 'typedoc', onLine });
}

async function clangFormat(fix, onLine) {
  const mode = fix ? ['-i'] : ['--dry-run', '-Werror'];
  await command('clang-format', [...mode, ...nativeFiles(/\.(cc|c|h)$/)], {
    log: 'clang-format',
    onLine,
  });
}

async function includes() {
  const problems = checkIncludes();
  if (problems.length > 0) {
    throw Object.assign(new Error(problems.join('\n')), { code: 'ERR_INCLUDES' });
  }
}

/** Seconds of compiling for each file: so only those run that have changed since they last passed. */
async function clangTidy(_fix, onLine) {
  const sources = listFiles('native', (name) => name.endsWith('.cc'));
  const shared = fingerprint([
    '.clang-tidy',
    ...listFiles('native', (name) => name.endsWith('.h')),
    ...listFiles('rootfs', (name) => name.endsWith('.h')),
  ]);
  const flags = [
    ...['-std=c++20', '-fno-rtti', '-I.', '-DNAPI_VERSION=9', '-DNAPI_CPP_EXCEPTIONS'],
    ...['-isystem', 'node_modules/node-addon-api', '-isystem', nodeHeaders()],
  ];
  const queue = [...sources];
  const problems = [];
  const worker = async () => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      const name = `tidy-${file.replaceAll(path.sep, '-')}`;
      await unlessUnchanged(name, fingerprint([file], shared), [], async () => {
        onLine(file);
        await command('clang-tidy', ['--quiet', file, '--', ...flags], { log: name });
      }).catch((error) => problems.push(error.message));
    }
  };
  await Promise.all(Array.from({ length: os.availableParallelism() }, worker));
  if (problems.length > 0) {
    throw Object.assign(new Error(problems.join('\n')), { code: 'ERR_TIDY' });
  }
}

function nodeHeaders() {
  return path.join(path.dirname(path.dirname(process.execPath)), 'include', 'node');
}

const CHECKS = {
  prettier,
  eslint,
  types,
  reference,
  'clang-format': clangFormat,
  'C++ import directions': includes,
  'clang-tidy': clangTidy,
};

/** Runs all checks, each to its end, and prints what they find. Returns how many passed and failed. */
export async function lint({ fix = false } = {}) {
  const counts = { passed: 0, failed: 0, skipped: 0 };
  for (const [name, check] of Object.entries(CHECKS)) {
    try {
      await step(name, (update) => check(fix, update));
      counts.passed++;
    } catch (error) {
      console.error(error.message);
      counts.failed++;
    }
  }
  return counts;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  await main(async () => {
    const { failed } = await lint({ fix: process.argv.includes('--fix') });
    if (failed > 0) process.exitCode = 1;
  });
}
