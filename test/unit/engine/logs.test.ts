import { appendFileSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';

import { afterEach, beforeEach, expect, test } from 'vitest';

import { readLog, type LogOptions } from '../../../src/engine/logs.js';

let directory: string;
let active: boolean;
beforeEach(() => {
  directory = mkdtempSync(`${tmpdir()}/clearvm-logs-`);
  active = false;
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const time = (n: number): string => `2026-01-01T00:00:${String(n).padStart(2, '0')}.000000000Z`;
const line = (n: number, text = `line ${n}\n`): string =>
  `${JSON.stringify({ log: text, stream: 'stdout', time: time(n) })}\n`;
const lines = (from: number, to: number): string =>
  Array.from({ length: to - from + 1 }, (_, i) => line(from + i)).join('');

async function read(options: LogOptions = {}): Promise<string> {
  let text = '';
  for await (const { log } of readLog(
    { directory, name: 'log', isActive: () => active },
    options,
  )) {
    text += log;
  }
  return text.replaceAll('line ', '').trim().replaceAll('\n', ' ');
}

test('all of it, rotated files first', async () => {
  writeFileSync(`${directory}/log.2`, lines(1, 2));
  writeFileSync(`${directory}/log.1`, lines(3, 4));
  writeFileSync(`${directory}/log`, lines(5, 6));
  expect(await read()).toBe('1 2 3 4 5 6');
});

test.each([
  [0, ''],
  [1, '6'],
  [2, '5 6'],
  [3, '4 5 6'],
  [100, '1 2 3 4 5 6'],
])('the last %i', async (tail, text) => {
  writeFileSync(`${directory}/log.1`, lines(1, 4));
  writeFileSync(`${directory}/log`, lines(5, 6));
  expect(await read({ tail })).toBe(text);
});

test('the last lines of a file that is larger than what is read at once', async () => {
  const long = 'x'.repeat(16 * 1024);
  const all = Array.from({ length: 40 }, (_, n) => line(n, `${long}\n`)).join('');
  writeFileSync(`${directory}/log`, all);
  const text = await read({ tail: 30 });
  expect(text.split(' ')).toHaveLength(30);
  expect(text).toHaveLength(30 * (long.length + 1) - 1);
});

test('between two times', async () => {
  writeFileSync(`${directory}/log`, lines(1, 9));
  expect(await read({ since: time(3), until: time(5) })).toBe('3 4 5');
});

test('none at all, and what a crash has left of a line', async () => {
  expect(await read()).toBe('');
  writeFileSync(`${directory}/log`, `${line(1)}{"log":"ha\n${line(2)}{"log":"hal`);
  expect(await read()).toBe('1 2');
});

test('followed over a rotation, to the end of the container', async () => {
  writeFileSync(`${directory}/log`, lines(1, 2));
  active = true;
  const seen: string[] = [];
  const next: Record<string, () => void> = {
    '2': () => appendFileSync(`${directory}/log`, line(3)),
    '3': () => {
      appendFileSync(`${directory}/log`, line(4));
      renameSync(`${directory}/log`, `${directory}/log.1`);
      writeFileSync(`${directory}/log`, line(5));
    },
    '5': () => {
      appendFileSync(`${directory}/log`, line(6));
      active = false;
    },
  };
  const log = readLog({ directory, name: 'log', isActive: () => active }, { follow: true });
  for await (const entry of log) {
    const number = entry.log.replace('line ', '').trim();
    seen.push(number);
    next[number]?.();
  }
  expect(seen).toEqual(['1', '2', '3', '4', '5', '6']);
});
