import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';

import { dispatch } from '../../../src/cli/dispatch.js';

let base: string;
let out: string;
let err: string;
beforeEach(() => {
  base = mkdtempSync(path.join(tmpdir(), 'clearvm-cli-'));
  vi.stubEnv('CLEARVM_RUN', `${base}/run`);
  vi.stubEnv('CLEARVM_ROOT', `${base}/root`);
  out = '';
  err = '';
  vi.spyOn(process.stdout, 'write').mockImplementation((chunk) => {
    out += String(chunk);
    return true;
  });
  vi.spyOn(process.stderr, 'write').mockImplementation((chunk) => {
    err += String(chunk);
    return true;
  });
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
  rmSync(base, { recursive: true, force: true });
});

describe('run refuses bad input with 125, one line, and nothing left', () => {
  test.each([
    ['no image', [], /something is missing/],
    ['no such image', ['nosuch'], /no image "nosuch"/],
    ['no such image id', ['sha256:' + 'a'.repeat(64)], /sha256:a/],
    ['a reference that is none', ['A B'], /"A B"/],
    ['too little memory', ['--memory', '1m', 'x'], /1m is too little: .* at least 64m/],
    ['no memory size', ['-m', 'lots', 'x'], /"lots" is no size/],
    ['no CPU', ['--cpus', '0', 'x'], /0 is out of range: a VM can have 1 to 32/],
    ['a fraction of a CPU', ['--cpus', '1.5', 'x'], /whole processors/],
    ['a named volume', ['-v', 'data:/d', 'x'], /named volumes/],
    ['a volume without a target', ['-v', '/d', 'x'], /anonymous volumes/],
    ['a variable without a name', ['-e', '=1', 'x'], /"=1"|no image "x"/],
    ['an environment file that is missing', ['--env-file', '/no/file', 'x'], /\/no\/file/],
    ['a relative working directory', ['-w', 'tmp', 'x'], /workdir must be an absolute path/],
    ['a bad name', ['--name', '../x', 'x'], /name must be letters/],
    ['a bad host name', ['-h', 'a/b', 'x'], /hostname must be letters/],
    ['a bad user', ['-u', 'a:b:c', 'x'], /user must be/],
    ['docker’s -t', ['-t', 'x'], /-t \(--tty\) is not supported/],
    ['an unknown option', ['--frobnicate', 'x'], /unknown option --frobnicate/],
  ])('%s', async (_, argv, message) => {
    expect(await dispatch(['run', ...argv])).toBe(125);
    expect(err).toMatch(message);
    expect(err).toMatch(/^clearvm: [^\n]+\n$/);
    expect(out).toBe('');
    expect(readdirSync(base)).toEqual([]);
  });
});

describe('other commands fail with 1, those that take images in with 125', () => {
  test.each([
    [['frobnicate'], /there is no command "frobnicate"/],
    [['constructor'], /there is no command "constructor"/],
    [['--frob', 'images'], /unknown option --frob before the command/],
    [['--root'], /--root needs a directory/],
    [['images', '--format', 'xml'], /json or table/],
    [['images', '--frob'], /Unknown argument: frob/],
    [['images', 'a', 'b'], /"b" is one too many/],
    [['load', 'x'], /"x" is one too many/],
    [['load', '-i'], /.+/],
    [['load', '-i', '/no/such/archive'], /\/no\/such\/archive/],
    [['import'], /something is missing/],
    [['import', '/no/such/tar'], /\/no\/such\/tar/],
    [['rmi'], /something is missing/],
    [['rmi', 'nosuch'], /no image "nosuch"/],
  ])('%j', async (argv, message) => {
    expect(await dispatch(argv)).toBe(/^(load|import)$/.test(argv[0] ?? '') ? 125 : 1);
    expect(err).toMatch(message);
    expect(err).toMatch(/^clearvm: [^\n]+\n$/);
    expect(out).toBe('');
  });

  test('inspect tells of those that are there nevertheless', async () => {
    expect(await dispatch(['inspect', 'nosuch'])).toBe(1);
    expect(out).toBe('[]\n');
    expect(err).toMatch(/^clearvm: no image "nosuch"[^\n]*\n$/);
  });
});

describe('load', () => {
  test('of a damaged archive leaves nothing', async () => {
    writeFileSync(`${base}/bad.tar`, 'this is no archive');
    expect(await dispatch(['load', '-q', '-i', `${base}/bad.tar`])).toBe(125);
    expect(err).toMatch(/^clearvm: [^\n]*bad\.tar[^\n]*\n$/);
    err = '';
    expect(await dispatch(['images', '-q'])).toBe(0);
    expect(out + err).toBe('');
  });
});

describe('help', () => {
  const commands = ['run', 'load', 'import', 'images', 'rmi', 'inspect', 'doctor', 'version'];

  test('names every command', async () => {
    expect(await dispatch(['--help'])).toBe(0);
    for (const name of commands) expect(out).toMatch(new RegExp(`clearvm ${name}\\b`));
    expect(out).toContain('Examples:');
  });

  test.each(commands)('%s --help has a usage line, options and examples', async (name) => {
    expect(await dispatch([name, '--help'])).toBe(0);
    expect(out).toMatch(new RegExp(`^clearvm ${name}\\b`));
    expect(out).toContain('Examples:');
    expect(out).toContain(`clearvm ${name}`);
    const first = out;
    out = '';
    expect(await dispatch(['help', name])).toBe(0);
    expect(out).toBe(first);
  });

  test('without a command it goes to stderr and fails', async () => {
    expect(await dispatch([])).toBe(1);
    expect(out).toBe('');
    expect(err).toContain('Commands:');
  });
});

test('--root before the command says where the store is', async () => {
  expect(await dispatch(['--root', `${base}/elsewhere`, 'images', '--format', 'json'])).toBe(0);
  expect(out).toBe('');
  expect(existsSync(`${base}/root`)).toBe(false);
});

test.each([['version'], ['--version'], ['-v']])('%s says versions', async (flag) => {
  expect(await dispatch([flag])).toBe(0);
  expect(out).toMatch(/^clearvm: +\d+\.\d+\.\d+\n/);
});

test('version --json is JSON', async () => {
  expect(await dispatch(['version', '--json'])).toBe(0);
  expect(JSON.parse(out)).toMatchObject({ node: process.versions.node });
});
