// npm test: sets up, builds, and runs every suite. The last line is "N passed, N failed" (", N skipped" may
// follow); the exit status is 1 if anything has failed.
//
//   npm test -- --suite unit --suite native       only these; see SUITES
//   npm test -- --suite fuzz --fuzz-seconds 300   longer than the few seconds each fuzzer gets here
//   npm test -- --suite lab test/lab/run.test.ts  further arguments go to vitest
//   npm test -- --suite behaviour                 command lines through Docker and clearvm: long; only when it is named
//   npm test -- --suite soak                      the long forms of some of lab's tests: hours; only when it is named
//   npm test -- --no-build                        with what is there already
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';

import { build } from './build.mjs';
import { command, main, seconds, step, TOP } from './lib/steps.mjs';
import { setUp } from './setup.mjs';

const REPORTS = path.join(TOP, 'build', 'test');
const FUZZ_SECONDS = 5;
const FUZZ_MEMORY_MB = 2048;
const JOBS = String(os.availableParallelism());

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    suite: { type: 'string', multiple: true },
    'no-build': { type: 'boolean', default: false },
    'fuzz-seconds': { type: 'string', default: String(FUZZ_SECONDS) },
  },
});

/** Runs a program with our output. Resolves to whether it succeeded. */
function run(file, args) {
  return new Promise((resolve) => {
    const child = spawn(file, args, { cwd: TOP, stdio: ['ignore', 'inherit', 'inherit'] });
    child.on('error', (error) => {
      console.error(`${file} cannot be started: ${error.message}`);
      resolve(false);
    });
    child.on('close', (code) => resolve(code === 0));
  });
}

function readReport(name) {
  try {
    return JSON.parse(fs.readFileSync(path.join(REPORTS, name), 'utf8'));
  } catch {
    return undefined; // the runner died before it could write one
  }
}

const failure = { passed: 0, failed: 1, skipped: 0 };

async function runVitest(project) {
  const report = `${project}.json`;
  fs.rmSync(path.join(REPORTS, report), { force: true });
  const ok = await run(path.join(TOP, 'node_modules', '.bin', 'vitest'), [
    ...['run', '--project', project, '--passWithNoTests', '--reporter=default', '--reporter=json'],
    ...[`--outputFile.json=${path.join('build', 'test', report)}`, ...positionals],
  ]);
  const result = readReport(report);
  if (!result) return ok ? { passed: 0, failed: 0, skipped: 0 } : failure;
  // A file that could not even be loaded has no tests that could have failed.
  const broken = result.testResults.filter(
    (file) =>
      file.status === 'failed' && !file.assertionResults.some((test) => test.status === 'failed'),
  ).length;
  const failed = result.numFailedTests + broken;
  return {
    passed: result.numPassedTests,
    failed: failed === 0 && !ok ? 1 : failed,
    skipped: result.numPendingTests + (result.numTodoTests ?? 0),
  };
}

async function runNative() {
  if (!(await run('make', ['-s', '-j', JOBS, '-C', 'test/native']))) return failure;
  const report = path.join(REPORTS, 'native.json');
  fs.rmSync(report, { force: true });
  const ok = await run('test/native/out/native_tests', [
    `--gtest_output=json:${report}`,
    '--gtest_brief=1',
  ]);
  const result = readReport('native.json');
  if (!result) return failure;
  const skipped = result.testsuites
    .flatMap((suite) => suite.testsuite)
    .filter((test) => test.result === 'SKIPPED').length;
  return {
    passed: result.tests - result.failures - result.disabled - skipped,
    failed: result.failures === 0 && !ok ? 1 : result.failures,
    skipped: skipped + result.disabled,
  };
}

async function runFuzzers() {
  if (!(await run('make', ['-s', '-j', JOBS, '-C', 'test/native', 'fuzzers']))) return failure;
  const counts = { passed: 0, failed: 0, skipped: 0 };
  const names = fs
    .readdirSync(path.join(TOP, 'test', 'fuzz'))
    .filter((name) => name.endsWith('_fuzz.cc'))
    .map((name) => name.replace(/_fuzz\.cc$/, ''));
  for (const name of names) {
    // New inputs go to the first folder, which is thrown away; the kept corpus is only read.
    const found = path.join(REPORTS, 'fuzz', name);
    fs.rmSync(found, { recursive: true, force: true });
    fs.mkdirSync(path.join(found, 'corpus'), { recursive: true });
    const kept = path.join('test', 'fuzz', 'corpus', name);
    const ok = await step(`fuzz ${name}`, async (update) => {
      const limits = [
        `-max_total_time=${options['fuzz-seconds']}`,
        `-rss_limit_mb=${FUZZ_MEMORY_MB}`,
        '-timeout=10',
        '-print_final_stats=1',
        `-artifact_prefix=${found}/`,
      ];
      const folders = [
        path.join(found, 'corpus'),
        ...(fs.existsSync(path.join(TOP, kept)) ? [kept] : []),
      ];
      let inputs = '';
      await command(path.join('test/native/out/fuzz', name), [...limits, ...folders], {
        log: `fuzz-${name}`,
        onLine(line) {
          inputs = /number_of_executed_units: (\d+)/.exec(line)?.[1] ?? inputs;
          update(line);
        },
      });
      return `${inputs} inputs`;
    }).then(
      () => true,
      (error) => {
        console.error(
          `${error.message}\nThe input that failed is in ${path.relative(TOP, found)}.`,
        );
        return false;
      },
    );
    counts[ok ? 'passed' : 'failed']++;
  }
  return counts;
}

async function runLint() {
  const { lint } = await import('./lint.mjs');
  return lint();
}

const SUITES = {
  lint: runLint,
  unit: () => runVitest('unit'),
  native: runNative,
  kvm: () => runVitest('kvm'),
  fuzz: runFuzzers,
  lab: () => runVitest('lab'),
  conformance: () => runVitest('conformance'),
  behaviour: () => runVitest('behaviour'),
  soak: () => runVitest('soak'),
};
const DEFAULT_SUITES = Object.keys(SUITES).filter((name) => !['behaviour', 'soak'].includes(name));

await main(async () => {
  const names = options.suite ?? DEFAULT_SUITES;
  const unknown = names.filter((name) => !(name in SUITES));
  if (unknown.length > 0) {
    throw Object.assign(
      new Error(
        `There is no suite ${unknown.join(', ')}. Suites: ${Object.keys(SUITES).join(', ')}.`,
      ),
      { code: 'ERR_USAGE' },
    );
  }
  try {
    if (!options['no-build']) {
      await setUp();
      await build();
    }
  } catch (error) {
    console.error(
      `${error.code ? error.message : error.stack}\n\nSetting up or building failed; no test has run.\n0 passed, 1 failed`,
    );
    process.exitCode = 1;
    return;
  }
  fs.mkdirSync(REPORTS, { recursive: true });
  const total = { passed: 0, failed: 0, skipped: 0 };
  const summary = [];
  for (const name of names) {
    console.log(`\n== ${name}`);
    const start = performance.now();
    const counts = await SUITES[name]();
    for (const key of Object.keys(total)) total[key] += counts[key];
    const took = seconds(performance.now() - start);
    summary.push(`${name.padEnd(12)} ${format(counts)} in ${took}`);
  }
  console.log(`\n${summary.join('\n')}\n${format(total)}`);
  if (total.failed > 0) process.exitCode = 1;
});

function format({ passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`;
}
