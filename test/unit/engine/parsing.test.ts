import { mkdtempSync, mkdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

import { afterEach, beforeEach, describe, expect, test } from 'vitest';

import {
  applyChanges,
  parseEnvironmentFile,
  parseVariable,
  readEnvironmentFile,
} from '../../../src/engine/environment.js';
import { checkRunOptions } from '../../../src/engine/options.js';
import {
  formatSize,
  parseCpus,
  parseMemory,
  checkHugePages,
  parseMemoryReservation,
  parseSize,
} from '../../../src/engine/size.js';
import { parseVolume, resolveVolumes } from '../../../src/engine/volumes.js';

const MIB = 1024 * 1024;

describe('sizes, as docker writes them', () => {
  test.each([
    ['512', 512],
    ['512b', 512],
    ['1k', 1024],
    ['1kb', 1024],
    ['1KiB', 1024],
    ['32 m', 32 * MIB],
    ['1.5g', 1.5 * 1024 * MIB],
    ['2T', 2 * 1024 ** 4],
  ])('%s', (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });

  test.each(['', 'm', '-1m', '1x', '1 2', '0x10', '1mm', '1e3', 'NaN'])('not %j', (text) => {
    expect(parseSize(text)).toBeUndefined();
  });

  test.each([
    [64 * MIB, '64m'],
    [1024 ** 3, '1g'],
    [1536, '1536'],
    [3 * 1024, '3k'],
  ])('%i is written %s', (bytes, text) => {
    expect(formatSize(bytes)).toBe(text);
  });
});

describe('memory', () => {
  test.each([
    ['64m', 64 * MIB],
    [128 * MIB, 128 * MIB],
    ['100000k', 98 * MIB],
    ['1024g', 1024 ** 4],
  ])('%s', (value, bytes) => {
    expect(parseMemory(value)).toBe(bytes);
  });

  test.each([
    ['1m', /1m is too little: .* at least 64m/],
    ['0', /at least 64m/],
    [63.9 * MIB, /at least 64m/],
    ['1025g', /at most 1024g/],
    ['lots', /invalid size: 'lots'/],
    [Number.NaN, /invalid size/],
    ['-512m', /invalid size/],
  ])('not %s', (value, message) => {
    expect(() => parseMemory(value)).toThrow(message);
    expect(() => parseMemory(value)).toThrow(
      expect.objectContaining({ code: 'ERR_MEMORY', exitCode: 125 }),
    );
  });

  test('a reservation is a part of it, or none', () => {
    expect(parseMemoryReservation('100m', 512 * MIB)).toBe(100 * MIB);
    expect(parseMemoryReservation('512m', 512 * MIB)).toBe(512 * MIB);
    expect(parseMemoryReservation(undefined, 512 * MIB)).toBeUndefined();
    expect(parseMemoryReservation('0', 512 * MIB)).toBeUndefined();
    expect(() => parseMemoryReservation('513m', 512 * MIB)).toThrow(
      "memoryReservation: 513m is more than the VM's memory, 512m",
    );
    expect(() => parseMemoryReservation('8m', 512 * MIB)).toThrow(/too little/);
  });

  test('huge pages are whole, and set aside', () => {
    expect(() => checkHugePages(66 * MIB)).not.toThrow();
    expect(() => checkHugePages(65 * MIB)).toThrow(/memory of 65m is no whole number of pages/);
    expect(() => checkHugePages(66 * MIB, '64m')).toThrow(/no memoryReservation beside it/);
  });
});

describe('cpus', () => {
  test.each([
    ['1', { cpus: 1 }],
    [32, { cpus: 32 }],
    ['4.0', { cpus: 4 }],
    ['.5', { cpus: 1, cpuLimit: 500 }],
    [1.25, { cpus: 2, cpuLimit: 1250 }],
    ['0.01', { cpus: 1, cpuLimit: 10 }],
    ['31.999', { cpus: 32, cpuLimit: 31999 }],
  ])('%s', (value, processors) => {
    expect(parseCpus(value)).toEqual(processors);
  });

  test.each([
    ['0', /out of range: a VM can have 0.01 to 32/],
    ['33', /out of range/],
    ['0.009', /out of range/],
    ['.', /is no number/],
    ['two', /is no number/],
    ['', /is no number/],
    ['-1', /is no number/],
    [Number.POSITIVE_INFINITY, /is no number/],
  ])('not %j', (value, message) => {
    expect(() => parseCpus(value)).toThrow(message);
    expect(() => parseCpus(value)).toThrow(expect.objectContaining({ code: 'ERR_CPUS' }));
  });
});

describe('environment', () => {
  const host = { HOME: '/h', EMPTY: '' };

  test.each([
    ['A=1', { name: 'A', value: '1' }],
    ['A=', { name: 'A', value: '' }],
    ['A=b=c', { name: 'A', value: 'b=c' }],
    ['HOME', { name: 'HOME', value: '/h' }],
    ['EMPTY', { name: 'EMPTY', value: '' }],
    ['NOT_THERE', { name: 'NOT_THERE', value: undefined }],
  ])('-e %s', (text, change) => {
    expect(parseVariable(text, host)).toEqual(change);
  });

  test.each(['', '=x', 'A\0=1'])('-e refuses %j', (text) => {
    expect(() => parseVariable(text, host)).toThrow(expect.objectContaining({ code: 'ERR_ENV' }));
  });

  test('a file: comments, blanks, quotes as they stand, names of the host', () => {
    const text = '\ufeff# no\n\nA=1\r\n  B= two  \nC="q"\n#D=1\nHOME\nNOT_THERE\nE=a#b\nF=';
    expect(parseEnvironmentFile(text, 'f', host)).toEqual([
      { name: 'A', value: '1' },
      { name: 'B', value: ' two  ' },
      { name: 'C', value: '"q"' },
      { name: 'HOME', value: '/h' },
      { name: 'E', value: 'a#b' },
      { name: 'F', value: '' },
    ]);
  });

  test.each([
    ['A=1\n=x', /f, line 2: no variable name/],
    ['A B=1', /f, line 1: .*"A B" contains blanks/],
    ['A =1', /line 1: .*contains blanks/],
    ['\tA B', /contains blanks/],
    ['A=\0', /line 1: a NUL byte/],
  ])('a file refuses %j', (text, message) => {
    expect(() => parseEnvironmentFile(text, 'f', host)).toThrow(message);
  });

  test('a file that is not there is named', async () => {
    await expect(readEnvironmentFile('/no/such/file', host)).rejects.toMatchObject({
      code: 'ERR_ENV_FILE',
      message: expect.stringContaining('/no/such/file') as unknown,
    });
  });

  test('a file that is no text is refused', async () => {
    await expect(readEnvironmentFile('/proc/self/exe', host)).rejects.toMatchObject({
      code: 'ERR_ENV_FILE',
    });
  });

  test('changes keep the place of a variable, append new ones and drop unset ones', () => {
    expect(
      applyChanges(
        ['PATH=/bin', 'A=1', 'B=2', 'A=3'],
        [
          { name: 'PATH', value: '/x' },
          { name: 'C', value: '' },
          { name: 'B', value: undefined },
        ],
      ),
    ).toEqual(['PATH=/x', 'A=3', 'C=']);
  });
});

describe('volumes', () => {
  test.each([
    ['/a:/b', { source: '/a', target: '/b', readOnly: false }],
    ['./a:/b:ro', { source: './a', target: '/b', readOnly: true }],
    ['../a:/b:rw', { source: '../a', target: '/b', readOnly: false }],
    ['/a:/b:ro,Z', { source: '/a', target: '/b', readOnly: true }],
    ['data:/b', { type: 'volume', source: 'data', target: '/b', readOnly: false }],
    ['/b', { type: 'volume', source: '', target: '/b', readOnly: false }],
  ])('%s', (text, volume) => {
    expect(parseVolume(text)).toEqual(volume);
  });

  test.each([
    ['a/b:/c', /write \.\/a\/b:\/c/],
    ['data', /the form is/],
    [':/b', /the source is empty/],
    ['/a:/b:ro:x', /too many colons/],
    ['/a:/b:nocopy', /invalid mode: nocopy/],
    ['/a:/b:', /invalid mode: /],
  ])('refuses %s', (text, message) => {
    expect(() => parseVolume(text)).toThrow(message);
    expect(() => parseVolume(text)).toThrow(expect.objectContaining({ code: 'ERR_VOLUME' }));
  });

  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(path.join(tmpdir(), 'clearvm-volumes-'));
  });
  afterEach(() => {
    rmSync(directory, { recursive: true });
  });

  test('sources: relative, through links, files, and missing ones are made', () => {
    mkdirSync(`${directory}/real`);
    symlinkSync('real', `${directory}/link`);
    writeFileSync(`${directory}/file`, '');
    const volumes = resolveVolumes(
      [
        { source: './link', target: '/a/', readOnly: true },
        { source: 'file', target: '/b/../c' },
        { source: `${directory}/new/deep`, target: '/d//e' },
      ],
      directory,
    );
    expect(volumes).toEqual([
      { type: 'bind', source: `${directory}/real`, target: '/a', readOnly: true, file: false },
      { type: 'bind', source: `${directory}/file`, target: '/c', readOnly: false, file: true },
      {
        type: 'bind',
        source: `${directory}/new/deep`,
        target: '/d/e',
        readOnly: false,
        file: false,
      },
    ]);
    expect(statSync(`${directory}/new/deep`).isDirectory()).toBe(true);
  });

  test.each([
    ['a relative target', [{ source: '.', target: 'b' }], /absolute path in the container/],
    ['the root as target', [{ source: '.', target: '/x/..' }], /cannot be \//],
    [
      'one target twice',
      [
        { source: '.', target: '/b' },
        { source: '.', target: '/b/' },
      ],
      /Duplicate mount point: \/b/,
    ],
    ['a device', [{ source: '/dev/null', target: '/b' }], /neither a directory nor a regular file/],
    [
      'a source below a file',
      [{ source: '/proc/version/x', target: '/b' }],
      /cannot use the source/,
    ],
  ])('refuses %s', (_, volumes, message) => {
    expect(() => resolveVolumes(volumes, directory)).toThrow(message);
  });
});

describe('run options', () => {
  test('take what they should', () => {
    expect(() =>
      checkRunOptions({
        cmd: ['a', ''],
        entrypoint: ['x'],
        env: { A: '1' },
        envFile: ['f'],
        volumes: ['/a:/b', { source: '/a', target: '/c' }],
        cpus: 1,
        memory: '1g',
        stdin: 'inherit',
        stdout: 5,
        signal: new AbortController().signal,
      }),
    ).not.toThrow();
  });

  test.each<[Record<string, unknown>, string, RegExp]>([
    [{ cmd: 'ls' }, 'cmd', /cmd must be array/],
    [{ cmd: ['a\0'] }, 'cmd/0', /cmd\/0 must match/],
    [{ cpu: 1 }, 'cpu', /cpu is not a known field/],
    [{ cpus: true }, 'cpus', /cpus must be string,number/],
    [{ env: { A: 1 } }, 'env/A', /env\/A must be string/],
    [{ workdir: 'tmp' }, 'workdir', /workdir must be an absolute path/],
    [{ name: '-x' }, 'name', /Invalid container name/],
    [{ name: 'x/../y' }, 'name', /Invalid container name/],
    [{ hostname: 'a b' }, 'hostname', /hostname must be letters/],
    [{ hostname: 'x'.repeat(65) }, 'hostname', /at most 64/],
    [{ user: 'a:b:c' }, 'user', /user must be NAME or UID/],
    [{ volumes: [{ source: '/a' }] }, 'volumes/0/target', /is missing/],
    [{ stdout: 'tee' }, 'stdout', /stdout must be/],
    [{ debug: 'yes' }, 'debug', /debug must be boolean/],
  ])('%j: named field', (options, field, message) => {
    expect(() => checkRunOptions(options)).toThrow(message);
    expect(() => checkRunOptions(options)).toThrow(
      expect.objectContaining({ code: 'ERR_RUN_OPTIONS', field, exitCode: 125 }),
    );
  });
});
