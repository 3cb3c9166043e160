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
    ['no such image', ['--pull', 'never', 'nosuch'], /No such image: nosuch/],
    ['an image that no registry can have', ['sha256:' + 'a'.repeat(64)], /sha256:a/],
    ['a reference that is none', ['A B'], /"A B"/],
    ['too little memory', ['--memory', '1m', 'x'], /1m is too little: .* at least 64m/],
    ['no memory size', ['-m', 'lots', 'x'], /invalid size: 'lots'/],
    ['no CPU', ['--cpus', '0', 'x'], /0 is out of range: a VM can have 0.01 to 32/],
    ['too little of a CPU', ['--cpus', '0.001', 'x'], /out of range/],
    ['a volume without a target', ['-v', 'd', 'x'], /the form is/],
    ['a mount of no kind', ['--mount', 'type=npipe,target=/x', 'x'], /mount type unknown/],
    ['a variable without a name', ['--pull=never', '-e', '=1', 'x'], /"=1"|No such image: x/],
    ['an environment file that is missing', ['--env-file', '/no/file', 'x'], /\/no\/file/],
    ['a relative working directory', ['-w', 'tmp', 'x'], /workdir must be an absolute path/],
    ['a bad name', ['--name', '../x', 'x'], /Invalid container name/],
    ['a bad host name', ['-h', 'a/b', 'x'], /hostname must be letters/],
    ['a bad user', ['-u', 'a:b:c', 'x'], /user must be/],
    ['a bad pull policy', ['--pull', 'often', 'x'], /pull must be always, missing or never/],
    ['docker’s -p', ['-p', '80:80', 'x'], /-p \(--publish\) is not supported/],
    ['an unknown option', ['--frobnicate', 'x'], /unknown flag: --frobnicate/],
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
    [['frobnicate'], /'frobnicate' is not a clearvm command/],
    [['constructor'], /'constructor' is not a clearvm command/],
    [['images', 'a', 'b'], /"clearvm images" requires at most 1 argument/],
    [['images', '--format', '{{.Frob}}'], /there is no \.Frob/],
    [['ps', 'x'], /"clearvm ps" accepts no arguments/],
    [['rename', 'x'], /"clearvm rename" requires exactly 2 arguments/],
    [['exec', 'x'], /"clearvm exec" requires at least 2 arguments/],
    [['load', '-i', '/no/such/archive'], /\/no\/such\/archive/],
    [['import', '/no/such/tar'], /\/no\/such\/tar/],
    [['rmi'], /"clearvm rmi" requires at least 1 argument/],
    [['rmi', 'nosuch'], /No such image: nosuch/],
    [['image'], /clearvm image needs a command: history, import, inspect, .*tag/],
    [['image', 'frobnicate'], /clearvm image needs a command/],
    [['system'], /clearvm system needs a command: df/],
    [['image', 'rm', 'nosuch'], /No such image: nosuch/],
    [['tag', 'nosuch', 'x'], /No such image: nosuch/],
    [['tag', 'nosuch', 'X'], /must be lower case/],
    [['save', '-o', '/no/such/place', 'nosuch'], /No such image: nosuch/],
    [['history', 'nosuch'], /No such image: nosuch/],
    [['pull', '--platform', 'linux/arm64', 'x'], /--platform is linux\/amd64/],
    [['pull', 'A B'], /"A B"/],
    [['login', '--password-stdin'], /Must provide --username/],
    [['login', '-u', 'x', '-p', 'y', '--password-stdin'], /mutually exclusive/],
    [['image', 'prune', '--filter', 'until=x'], /--filter until is a time/],
  ])('%j', async (argv, message) => {
    expect(await dispatch(argv)).toBe(/^(load|import)$/.test(argv[0] ?? '') ? 125 : 1);
    expect(err).toMatch(message);
    expect(err).toMatch(/^clearvm: [^\n]+\n$/);
    expect(out).toBe('');
  });

  test.each([
    [['run'], /"clearvm run" requires at least 1 argument/],
    [['load', 'x'], /"clearvm load" accepts no arguments/],
    [['import'], /"clearvm import" requires at least 1 argument/],
  ])('a wrong number of operands is 1 with any: %j', async (argv, message) => {
    expect(await dispatch(argv)).toBe(1);
    expect(err).toMatch(message);
    expect(out).toBe('');
  });

  test.each([
    [['--frob', 'images'], /unknown flag: --frob/],
    [['-x', 'images'], /unknown shorthand flag: 'x' in -x/],
    [['--root'], /flag needs an argument: --root/],
    [['images', '--frob'], /unknown flag: --frob/],
    [['images', '-qx'], /unknown shorthand flag: 'x' in -qx/],
    [['load', '-i'], /flag needs an argument: 'i' in -i/],
    [['ps', '-n', 'x'], /invalid argument "x" for "-n, --last" flag/],
    [['ps', '--all=x'], /invalid argument "x" for "-a, --all" flag/],
    [['ps', '--filter', 'x'], /invalid argument "x" for "-f, --filter" flag: bad format of filter/],
    [['run', '--stop-timeout', 'x', 'y'], /invalid argument "x" for "--stop-timeout" flag/],
  ])('a wrong option is 125 with any: %j', async (argv, message) => {
    expect(await dispatch(argv)).toBe(125);
    expect(err).toMatch(message);
    expect(err).toMatch(/^clearvm: [^\n]+\n$/);
    expect(out).toBe('');
  });

  test('container inspect looks for nothing else', async () => {
    expect(await dispatch(['container', 'inspect', 'nosuch'])).toBe(1);
    expect(err).toBe('clearvm: No such container: nosuch\n');
  });

  test('inspect tells of those that are there nevertheless', async () => {
    expect(await dispatch(['inspect', 'nosuch'])).toBe(1);
    expect(out).toBe('[]\n');
    expect(err).toBe('clearvm: No such object: nosuch\n');
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
  const commands = [
    ...['run', 'pull', 'push', 'load', 'import', 'images', 'tag', 'rmi', 'save', 'history'],
    ...['image inspect', 'image prune', 'login', 'logout', 'system df', 'system prune'],
    ...['inspect', 'doctor', 'version'],
  ];

  test('names every command', async () => {
    expect(await dispatch(['--help'])).toBe(0);
    for (const name of commands) expect(out).toMatch(new RegExp(`clearvm ${name}\\b`));
    expect(out).toContain('Examples:');
  });

  test.each(commands)('%s --help has a usage line, options and examples', async (name) => {
    expect(await dispatch([...name.split(' '), '--help'])).toBe(0);
    expect(out).toMatch(new RegExp(`^clearvm ${name}\\b`));
    expect(out).toContain('Examples:');
    expect(out).toContain(`clearvm ${name}`);
    const first = out;
    out = '';
    expect(await dispatch(['help', ...name.split(' ')])).toBe(0);
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
