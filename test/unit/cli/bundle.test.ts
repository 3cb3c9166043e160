import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { afterAll, beforeAll, expect, test } from 'vitest';

const TOP = fileURLToPath(new URL('../../..', import.meta.url));
/** In the package, four levels below its top: it has to find its way. */
let out: string;
beforeAll(() => {
  mkdirSync(path.join(TOP, 'build/bundle'), { recursive: true });
  out = path.join(mkdtempSync(path.join(TOP, 'build/bundle/test-')), 'cli');
  const script = `import(${JSON.stringify(path.join(TOP, 'scripts/bundle-cli.mjs'))}).then((m) => m.bundleCli(${JSON.stringify(out)}))`;
  execFileSync(process.execPath, ['-e', script], { cwd: TOP });
});
afterAll(() => rmSync(path.dirname(out), { recursive: true, force: true }));

function clearvm(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const env = { ...process.env, CLEARVM_ROOT: `${out}/none`, CLEARVM_RUN: `${out}/none` };
  const main = path.join(out, 'main.js');
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--', main, ...args], {
    encoding: 'utf8',
    env,
  });
  return { status, stdout, stderr };
}
const cached = (): string[] => readdirSync(path.join(out, 'cache')).sort();

test('the bundled command works, and keeps the code of commands that end well', () => {
  const { version } = JSON.parse(readFileSync(path.join(TOP, 'package.json'), 'utf8')) as {
    version: string;
  };
  const first = clearvm('version');
  expect(first).toMatchObject({ status: 0, stderr: '' });
  expect(first.stdout).toContain(`clearvm:          ${version}\n`);
  const names = ['first.js', 'later.js'].map((name) => `${name}-version-${process.version}`);
  expect(cached()).toEqual(names);
  expect(clearvm('version')).toEqual(first);

  // A cache of another V8, and one that is damaged: not used, and replaced.
  for (const name of names) writeFileSync(path.join(out, 'cache', name), 'of another V8');
  expect(clearvm('version')).toEqual(first);
  expect(cached()).toEqual(names);
  for (const name of names)
    expect(readFileSync(path.join(out, 'cache', name)).length).toBeGreaterThan(1000);
});

test('errors are the same in both bundles', () => {
  expect(clearvm('run', 'nosuch')).toMatchObject({ status: 125, stdout: '' });
  const { status, stderr } = clearvm('load', '-i', '/no/such.tar');
  expect(stderr).toMatch(/^clearvm: cannot open \/no\/such\.tar: [^\n]+\n$/);
  expect(status).toBe(125);
  expect(cached().filter((name) => /-(run|load)-/.test(name))).toEqual([]);
});

test('help has its columns', () => {
  const { status, stdout } = clearvm('--help');
  expect(status).toBe(0);
  expect(stdout).toMatch(/^ {2}clearvm version +Show versions$/m);
});

test('a load that is told to end leaves nothing, and exits with 128 + n', async () => {
  const root = path.join(path.dirname(out), 'root');
  const main = path.join(out, 'main.js');
  const child = spawn(process.execPath, ['--', main, '--root', root, 'load'], { stdio: 'pipe' });
  const entries = (directory: string): string[] =>
    existsSync(directory) ? readdirSync(directory) : [];
  child.stdin.write(Buffer.alloc(1000));
  const temporary = path.join(root, 'images/tmp');
  while (entries(temporary).length === 0) await new Promise((resolve) => setTimeout(resolve, 20));
  child.kill('SIGTERM');
  expect(await once(child, 'exit')).toEqual([143, null]);
  expect(child.stderr.read()).toBeNull();
  expect(entries(temporary)).toEqual([]);
});
