import { describe, expect, test } from 'vitest';

import { DetachFilter, parseDetachKeys } from '../../../src/cli/detach-keys.js';

describe('parseDetachKeys', () => {
  test.each([
    ['ctrl-p,ctrl-q', [0x10, 0x11]],
    ['a', [0x61]],
    ['ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_', [0, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f]],
    ['CTRL-Z,~', [0x1a, 0x7e]],
  ])('%s', (text, bytes) => {
    expect([...parseDetachKeys(text)]).toEqual(bytes);
  });

  test.each(['', 'ctrl-', 'ctrl-1', 'ab', 'a,', 'ctrl-p ctrl-q', 'é'])('refuses %j', (text) => {
    expect(() => parseDetachKeys(text)).toThrow(`invalid detach keys (${text})`);
  });
});

describe('DetachFilter', () => {
  /** What comes out of pieces that are typed one after the other; "!" when the keys have come. */
  function typed(keys: string, pieces: string[]): string {
    const filter = new DetachFilter(Buffer.from(keys));
    return pieces
      .map((piece) => filter.push(Buffer.from(piece, 'latin1'))?.toString('latin1') ?? '!')
      .join('|');
  }

  test.each([
    ['pq', ['hello'], 'hello'],
    ['pq', ['pq'], '!'],
    ['pq', ['xp', 'q'], 'x|!'],
    ['pq', ['p', 'x'], '|px'],
    ['pq', ['pp', 'q'], 'p|!'],
    ['pq', ['qp', 'p', 'x'], 'q|p|px'],
    ['p', ['ap'], '!'],
    ['aab', ['aaab'], '!'],
    ['pq', ['\x00\xff\x80'], '\x00\xff\x80'],
  ])('%s: %j gives %s', (keys, pieces, out) => {
    expect(typed(keys, pieces)).toBe(out);
  });
});
