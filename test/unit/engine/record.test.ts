import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';

import { afterEach, beforeEach, describe, expect, test } from 'vitest';

import { parseLogConfig, parseRestartPolicy } from '../../../src/engine/lifecycle-options.js';
import { listContainers } from '../../../src/engine/list.js';
import { findContainer } from '../../../src/engine/lookup.js';
import {
  notePaused,
  ownStatus,
  readRecord,
  readStatus,
  writeDurably,
} from '../../../src/engine/record.js';

const IMAGE = { reference: 'debian:12', id: `sha256:${'c'.repeat(64)}` };
let root: string;
beforeEach(() => {
  root = mkdtempSync(`${tmpdir()}/clearvm-record-`);
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

function add(id: string, name: string, more: object = {}, state?: object): string {
  const whole = id.padEnd(64, '0');
  const directory = `${root}/containers/${whole}`;
  mkdirSync(directory, { recursive: true });
  const record = {
    ...{ version: 1, id: whole, name, created: '2026-01-01T00:00:00.000Z', image: IMAGE },
    ...{ args: ['sh'], labels: {}, mounts: [], autoRemove: false, ...more },
  };
  writeDurably(directory, 'container.json', JSON.stringify(record));
  if (state) writeFileSync(`${directory}/state.json`, JSON.stringify(state));
  return directory;
}

const running = (): object => ownStatus(process.pid, new Date());
const dead = { pid: 4194305, startTime: '1' };

describe('a state', () => {
  test('that is not there says created', () => {
    expect(readStatus(add('a1', 'web'))).toMatchObject({ status: 'created', exitCode: 0, pid: 0 });
  });

  test('is true as long as its monitor lives', () => {
    const directory = add('a1', 'web', {}, running());
    expect(readStatus(directory)).toMatchObject({ status: 'running', pid: process.pid });
    for (const state of [
      { ...running(), monitor: dead },
      { ...running(), bootId: 'another' },
      { ...running(), status: 'restarting', monitor: dead },
    ]) {
      writeFileSync(`${directory}/state.json`, JSON.stringify(state));
      expect(readStatus(directory)).toMatchObject({ status: 'exited', exitCode: 137, pid: 0 });
    }
  });

  test('knows of a pause, but not of another VM’s', () => {
    const directory = add('a1', 'web', {}, running());
    notePaused(directory, true);
    expect(readStatus(directory).status).toBe('paused');
    const vmm = { pid: 1, startTime: '0' };
    writeFileSync(`${directory}/state.json`, JSON.stringify({ ...running(), vmm }));
    expect(readStatus(directory).status).toBe('running');
    notePaused(directory, true);
    notePaused(directory, false);
    expect(readStatus(directory).status).toBe('running');
  });

  test('of an end needs no monitor', () => {
    const state = { ...running(), status: 'exited', exitCode: 3, monitor: dead };
    expect(readStatus(add('a1', 'web', {}, state))).toMatchObject({
      status: 'exited',
      exitCode: 3,
    });
  });
});

test('files are replaced as a whole, and nothing else is left', () => {
  const directory = add('a1', 'web');
  writeDurably(directory, 'container.json', JSON.stringify({ version: 1, name: 'new' }));
  expect(readRecord(directory)).toEqual({ version: 1, name: 'new' });
  expect(readdirSync(directory)).toEqual(['container.json']);
  writeFileSync(`${directory}/container.json`, '{"version":1,"na');
  expect(readRecord(directory)).toBeUndefined();
});

describe('finding', () => {
  test('by id, by name, by the beginning of an id; names first', () => {
    add('ab12', 'web');
    add('ab34', 'db');
    add('cd56', 'ab1');
    const found = (reference: string): string => findContainer(root, reference).name;
    expect(found('ab12'.padEnd(64, '0'))).toBe('web');
    expect(found('ab3')).toBe('db');
    expect(found('db')).toBe('db');
    expect(found('/db')).toBe('db');
    expect(found('ab1')).toBe('ab1');
    expect(() => found('ab')).toThrow(
      expect.objectContaining({
        code: 'ERR_CONTAINER_AMBIGUOUS',
        message: expect.stringContaining('ab') as unknown,
      }),
    );
    for (const none of ['ef', 'w', '', '../ab12', 'f'.repeat(64)]) {
      expect(() => found(none)).toThrow(`No such container: ${none}`);
    }
  });
});

describe('listing', () => {
  beforeEach(() => {
    add('01', 'old', { created: '2026-01-01T00:00:00Z', labels: { tier: 'db' } }, running());
    add('02', 'made', { created: '2026-01-02T00:00:00Z' });
    add(
      '03',
      'over',
      { created: '2026-01-03T00:00:00Z', labels: { tier: 'web', x: '' } },
      {
        ...running(),
        ...{ status: 'exited', exitCode: 2 },
      },
    );
    // Its client has died: the next command removes it.
    add('04', 'gone', { autoRemove: true }, { ...running(), monitor: dead });
  });

  test.each([
    [{}, ['old']],
    [{ all: true }, ['over', 'made', 'old']],
    [{ last: 2 }, ['over', 'made']],
    [{ filters: ['status=exited'] }, ['over']],
    [{ filters: ['status=exited', 'status=created'] }, ['over', 'made']],
    [{ filters: ['exited=2'] }, ['over']],
    [{ all: true, filters: ['exited=0'] }, []],
    [{ all: true, filters: ['name=^o'] }, ['over', 'old']],
    [{ all: true, filters: ['id=02'] }, ['made']],
    [{ all: true, filters: ['label=tier'] }, ['over', 'old']],
    [{ all: true, filters: ['label=tier=web'] }, ['over']],
    [{ all: true, filters: ['label=tier=db', 'label=x'] }, []],
    [{ all: true, filters: ['ancestor=debian'] }, ['over', 'made', 'old']],
    [{ all: true, filters: ['ancestor=alpine'] }, []],
    [{ all: true, filters: ['before=over'] }, ['made', 'old']],
    [{ all: true, filters: ['since=old'] }, ['over', 'made']],
  ])('%j', (options, names) => {
    expect(listContainers(root, options).map(({ name }) => name)).toEqual(names);
  });

  test.each(['name', 'colour=red', 'status=happy'])('no filter: %s', (filter) => {
    expect(() => listContainers(root, { filters: [filter] })).toThrow(
      expect.objectContaining({ code: 'ERR_FILTER' }),
    );
  });
});

describe('options of a container’s life', () => {
  test.each([
    [undefined, 'no', 0],
    ['', 'no', 0],
    ['no', 'no', 0],
    ['always', 'always', 0],
    ['unless-stopped', 'unless-stopped', 0],
    ['on-failure', 'on-failure', 0],
    ['on-failure:5', 'on-failure', 5],
  ])('restart %s', (text, name, maximumRetryCount) => {
    expect(parseRestartPolicy(text, false)).toEqual({ name, maximumRetryCount });
  });

  test.each(['sometimes', 'always:3', 'on-failure:x', 'on-failure:-1'])(
    'no restart: %s',
    (text) => {
      expect(() => parseRestartPolicy(text, false)).toThrow(
        expect.objectContaining({ code: 'ERR_RESTART' }),
      );
    },
  );

  test('--restart and --rm exclude each other', () => {
    expect(() => parseRestartPolicy('always', true)).toThrow(/Conflicting options/);
    expect(parseRestartPolicy('no', true).name).toBe('no');
  });

  test('log options', () => {
    expect(parseLogConfig()).toEqual({ driver: 'json-file', maxSize: 0, maxFile: 1 });
    expect(parseLogConfig('json-file', { 'max-size': '10k', 'max-file': '3' })).toEqual({
      ...{ driver: 'json-file', maxSize: 10240, maxFile: 3 },
    });
    for (const [driver, options] of [
      ['syslog', {}],
      ['json-file', { 'max-size': 'big' }],
      ['json-file', { 'max-file': '0' }],
      ['json-file', { tag: 'x' }],
    ] as const) {
      expect(() => parseLogConfig(driver, options)).toThrow(
        expect.objectContaining({ code: 'ERR_LOG_OPTIONS' }),
      );
    }
  });
});
