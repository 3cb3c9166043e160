import { describe, expect, test } from 'vitest';

import { REFUSED_OPTIONS } from '../../../src/cli/run-refused.js';
import { command } from '../../../src/cli/run.js';
import { toRunOptions } from '../../../src/cli/run-options.js';
import type { ParsedArguments } from '../../../src/cli/options.js';
import { checkRunOptions } from '../../../src/engine/options.js';

function parse(...argv: string[]): ParsedArguments {
  const parsed = command.parse?.(argv);
  if (!parsed) throw new Error('run has a parser of its own');
  return parsed;
}

describe('where options end', () => {
  test.each([
    [['img'], ['img']],
    [
      ['img', '-i', '--rm', '-x'],
      ['img', '-i', '--rm', '-x'],
    ],
    [
      ['--rm', 'img', 'sh', '-c', 'echo --help'],
      ['img', 'sh', '-c', 'echo --help'],
    ],
    [
      ['--rm', 'img', '--', 'x'],
      ['img', '--', 'x'],
    ],
    [
      ['--', 'img', '-i'],
      ['img', '-i'],
    ],
    [['-i', '--', 'img'], ['img']],
    [
      ['-e', 'A=1', 'img', '-e', 'B=2'],
      ['img', '-e', 'B=2'],
    ],
    [[], []],
  ])('%j', (argv, operands) => {
    expect(parse(...argv).operands).toEqual(operands);
  });

  test('options behind the image are not taken', () => {
    const { options } = parse('img', '-i', '-e', 'A=1', '--name', 'x');
    expect(options.flag('interactive')).toBe(false);
    expect(options.list('env')).toEqual([]);
    expect(options.text('name')).toBeUndefined();
  });
});

describe('forms of options', () => {
  test.each([
    [['-e', 'A=1'], ['A=1']],
    [['-eA=1'], ['A=1']],
    [['-e=A=1'], ['A=1']],
    [['--env', 'A=1'], ['A=1']],
    [['--env=A=1'], ['A=1']],
    [['-ie', 'A=1'], ['A=1']],
    [
      ['-e', 'A=1', '--env=B', '-eC=3'],
      ['A=1', 'B', 'C=3'],
    ],
    [['-e', '-X=1'], ['-X=1']],
    [['-e', 'A="q"'], ['A="q"']],
    [['-e', '"A=1"'], ['"A=1"']],
    [['-e', 'A='], ['A=']],
    [['-e', 'N=01e3'], ['N=01e3']],
  ])('%j', (argv, env) => {
    expect(parse(...argv, 'img')).toMatchObject({ operands: ['img'] });
    expect(parse(...argv, 'img').options.list('env')).toEqual(env);
  });

  test('the last of a single one counts, as in docker', () => {
    expect(parse('--name', 'a', '--name=b', 'img').options.text('name')).toBe('b');
  });

  test.each([
    [['--rm'], true],
    [['--rm=true'], true],
    [['--rm=false'], false],
    [['--rm', '--rm=0'], false],
  ])('%j is %s', (argv, on) => {
    expect(parse(...argv, 'img').options.flag('rm')).toBe(on);
  });

  test('values stay text, numbers too', async () => {
    const { options } = parse('-m512m', '--cpus', '2', '-u', '0010', '--entrypoint', '', 'img');
    expect(await toRunOptions(options, [])).toMatchObject({
      memory: '512m',
      cpus: '2',
      user: '0010',
      entrypoint: '',
    });
  });

  test('-h is the host name, as in docker; --help is help', () => {
    expect(parse('-h', 'box', 'img').options.text('hostname')).toBe('box');
    expect(parse('--help').help).toBe(true);
    expect(parse('img', '--help').help).toBe(false);
  });
});

describe('wrong command lines', () => {
  test.each([
    [['--foo', 'img'], /unknown flag: --foo/],
    [['-X', 'img'], /unknown shorthand flag: 'X' in -X/],
    [['-e'], /flag needs an argument: 'e' in -e/],
    [['--name'], /flag needs an argument: --name/],
    [['--rm=maybe', 'img'], /invalid argument "maybe" for "--rm" flag: it is on or off/],
    [['--no-rm', 'img'], /unknown flag: --no-rm/],
    [['--constructor', 'img'], /unknown flag: --constructor/],
  ])('%j', (argv, message) => {
    expect(() => parse(...argv)).toThrow(message);
    expect(() => parse(...argv)).toThrow(
      expect.objectContaining({ code: 'ERR_USAGE', exitCode: 125 }),
    );
  });

  test.each(Object.keys(REFUSED_OPTIONS))('docker’s --%s is refused by name', (name) => {
    expect(() => parse(`--${name}=x`, 'img')).toThrow(`--${name} is not supported: `);
  });

  test('docker’s short ones too, also in a group', () => {
    expect(() => parse('-ic', '5', 'img')).toThrow(/-c \(--cpu-shares\) is not supported/);
    expect(() => parse('-p', '80:80', 'img')).toThrow(/-p \(--publish\) is not supported/);
  });

  test('no option is both there and refused', () => {
    expect(Object.keys(command.options).filter((name) => name in REFUSED_OPTIONS)).toEqual([]);
  });
});

describe('options with one value yet, and those that mean nothing', () => {
  const library = async (...argv: string[]) => {
    const { options, operands } = parse(...argv, 'img');
    return toRunOptions(options, operands.slice(1));
  };

  test.each([
    ['--network=none'],
    ['--net', 'none'],
    ['--platform', 'linux/amd64'],
    ['--init'],
    ['--security-opt', 'seccomp=unconfined'],
    ['--sig-proxy=false'],
  ])('%j', async (...argv) => {
    expect(await library('-q', ...argv)).toEqual(await library('-q'));
  });

  test('what can mean something does', async () => {
    expect(await library('-a', 'stdout')).toMatchObject({ stdout: 'inherit', stderr: 'ignore' });
    expect(await library('--attach=STDERR')).toMatchObject({ stdout: 'ignore', stderr: 'inherit' });
    expect(await library('--security-opt', 'no-new-privileges')).toMatchObject({
      noNewPrivileges: true,
    });
    expect(
      await library('--volumes-from', 'a:ro', '--volumes-from', 'b', '--domainname', 'd.org'),
    ).toMatchObject({ volumesFrom: ['a:ro', 'b'], domainname: 'd.org' });
  });

  test.each([
    [['--network', 'host'], /--network host is not supported/],
    [['--platform', 'linux/arm64'], /--platform linux\/arm64 is not supported/],
    [['--security-opt', 'seccomp=x.json'], /--security-opt seccomp=x.json is not supported/],
    [['-a', 'x'], /invalid argument "x" for "-a, --attach" flag: valid streams are/],
    [['--stop-timeout', '1.5'], /invalid argument "1.5" for "--stop-timeout" flag/],
  ])('%j is refused', async (argv, message) => {
    await expect(library(...argv)).rejects.toThrow(message);
  });
});

test('what the library gets of it', async () => {
  const { options, operands } = parse(
    ...['--rm', '-i', '--name', 'web', '-e', 'A=1', '--env-file', 'f', '-w', '/w', '-u', 'app'],
    ...['-v', '/a:/b:ro', '-h', 'box', '--debug', '--timings', 'img', 'ls', '-l'],
  );
  const result = await toRunOptions(options, operands.slice(1));
  expect(result).toEqual({
    cmd: ['ls', '-l'],
    stdin: 'inherit',
    stdout: 'inherit',
    stderr: 'inherit',
    name: 'web',
    env: ['A=1'],
    envFile: ['f'],
    workdir: '/w',
    user: 'app',
    volumes: ['/a:/b:ro'],
    sysctls: [],
    hostname: 'box',
    debug: true,
    autoRemove: true,
    reportPull: expect.any(Function) as unknown,
  });
  expect(() => checkRunOptions(result)).not.toThrow();
  expect(await toRunOptions(parse('img').options, [])).toMatchObject({ stdin: 'ignore' });
});

test('options of a container’s life', async () => {
  const { options } = parse(
    ...['-d', '-l', 'a=1', '-l', 'b', '--restart', 'on-failure:3', '--stop-signal', 'INT'],
    ...['--stop-timeout', '5', '--log-opt', 'max-size=1m', '--log-opt', 'max-file=3', '-q', 'img'],
  );
  const result = await toRunOptions(options, []);
  expect(result).toMatchObject({
    ...{ labels: { a: '1', b: '' }, restart: 'on-failure:3', stopSignal: 'INT', stopTimeout: 5 },
    logOptions: { 'max-size': '1m', 'max-file': '3' },
  });
  expect(() => checkRunOptions(result)).not.toThrow();
});
