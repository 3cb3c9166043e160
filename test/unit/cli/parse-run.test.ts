import { describe, expect, test } from 'vitest';

import { REFUSED_OPTIONS } from '../../../src/cli/run-refused.js';
import { command, toRunOptions } from '../../../src/cli/run.js';
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

  test('values stay text, numbers too', () => {
    const { options } = parse('-m512m', '--cpus', '2', '-u', '0010', '--entrypoint', '', 'img');
    expect(toRunOptions(options, [])).toMatchObject({
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
    [['--foo', 'img'], /unknown option --foo/],
    [['-X', 'img'], /unknown option -X/],
    [['-e'], /-e needs a value/],
    [['--name'], /--name needs a value/],
    [['--rm=maybe', 'img'], /--rm is on or off/],
    [['--no-rm', 'img'], /unknown option --no-rm/],
    [['--constructor', 'img'], /unknown option --constructor/],
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
    expect(() => parse('-it', 'img')).toThrow(/-t \(--tty\) is not supported/);
    expect(() => parse('-d', 'img')).toThrow(/-d \(--detach\) is not supported/);
    expect(() => parse('-p', '80:80', 'img')).toThrow(/-p \(--publish\) is not supported/);
  });

  test('no option is both there and refused', () => {
    expect(Object.keys(command.options).filter((name) => name in REFUSED_OPTIONS)).toEqual([]);
  });
});

test('what the library gets of it', () => {
  const { options, operands } = parse(
    ...['--rm', '-i', '--name', 'web', '-e', 'A=1', '--env-file', 'f', '-w', '/w', '-u', 'app'],
    ...['-v', '/a:/b:ro', '-h', 'box', '--debug', '--timings', 'img', 'ls', '-l'],
  );
  const result = toRunOptions(options, operands.slice(1));
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
    hostname: 'box',
    debug: true,
  });
  expect(() => checkRunOptions(result)).not.toThrow();
  expect(toRunOptions(parse('img').options, [])).toMatchObject({ stdin: 'ignore' });
});
