import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

import { afterEach, beforeEach, describe, expect, test } from 'vitest';

import { eventJson, formatEvent } from '../../../src/cli/events.js';
import { journalOf, noteEvents, readEvents, type EngineEvent } from '../../../src/engine/events.js';

let root: string;
beforeEach(() => {
  root = fs.mkdtempSync(path.join(tmpdir(), 'clearvm-events-'));
});
afterEach(() => fs.rmSync(root, { recursive: true, force: true }));

const PAST = '2000-01-01T00:00:00.000000000Z';
const container = (action: string, name: string, more: Record<string, string> = {}) => ({
  ...{ type: 'container' as const, action, id: `${name}0123`.padEnd(64, '0') },
  attributes: { image: 'busybox:1', name, ...more },
});

async function collect(options: Parameters<typeof readEvents>[1]): Promise<string[]> {
  const found: string[] = [];
  for await (const { action, attributes } of readEvents(root, {
    since: PAST,
    until: '2999',
    ...options,
  })) {
    found.push(`${action} ${attributes['name']}`);
  }
  return found;
}

describe('the journal', () => {
  const until = (): string => new Date().toISOString().replace('Z', '999999Z');

  test('is read in its order, without what a crash has left of a line', async () => {
    noteEvents(root, container('create', 'a'), container('start', 'a'));
    fs.appendFileSync(`${journalOf(root)}/journal`, '{"time":"2026-\nnull\n{}\n');
    noteEvents(root, container('die', 'a', { exitCode: '1' }));
    expect(await collect({ until: until() })).toEqual(['create a', 'start a', 'die a']);
    expect(await collect({ since: until(), until: until() })).toEqual([]);
  });

  test('what comes is told as it comes, from the file that took the place of a full one, too', async () => {
    const aborter = new AbortController();
    const found: string[] = [];
    const reading = (async () => {
      for await (const { action } of readEvents(root, { since: PAST, signal: aborter.signal })) {
        found.push(action);
        if (action === 'last') aborter.abort();
      }
    })();
    noteEvents(root, container('first', 'a'));
    await expect.poll(() => found).toEqual(['first']);
    fs.renameSync(`${journalOf(root)}/journal`, `${journalOf(root)}/journal.1`);
    noteEvents(root, container('second', 'a'), container('last', 'a'));
    await reading;
    expect(found).toEqual(['first', 'second', 'last']);
  });

  test.each([
    [['container=a'], ['start a', 'die a']],
    [['container=a0123'], ['start a', 'die a']],
    [['event=die', 'event=start', 'container=b'], ['start b']],
    [['event=health_status'], ['health_status: healthy b']],
    [['image=busybox'], ['start a', 'die a', 'start b', 'health_status: healthy b']],
    [['label=k'], ['die a']],
    [['label=k=other'], []],
    [['type=volume'], ['create undefined']],
    [['volume=v', 'scope=local'], ['create undefined']],
  ])('filters %j', async (filters, expected) => {
    noteEvents(
      root,
      container('start', 'a'),
      container('die', 'a', { k: 'v' }),
      container('start', 'b'),
    );
    noteEvents(root, container('health_status: healthy', 'b'));
    noteEvents(root, { type: 'volume', action: 'create', id: 'v', attributes: {} });
    expect(await collect({ filters, until: until() })).toEqual(expected);
  });

  test.each(['nothing', 'name=a'])('refuses the filter %j', async (filter) => {
    await expect(collect({ filters: [filter] })).rejects.toMatchObject({ code: 'ERR_FILTER' });
  });

  test('a journal that cannot be written is no reason to fail', () => {
    fs.writeFileSync(journalOf(root), 'a file');
    expect(() => noteEvents(root, container('start', 'a'))).not.toThrow();
  });
});

test('events are written as docker writes them', () => {
  const event: EngineEvent = {
    ...{ time: '2026-01-31T12:00:00.000000001Z', type: 'container', action: 'die', id: 'abc' },
    attributes: { name: 'web', exitCode: '1', image: 'nginx' },
  };
  expect(formatEvent(event)).toBe(
    '2026-01-31T12:00:00.000000001Z container die abc (exitCode=1, image=nginx, name=web)',
  );
  expect(eventJson(event)).toBe(
    '{"status":"die","id":"abc","from":"nginx","Type":"container","Action":"die","Actor":{"ID":"abc","Attributes":' +
      '{"name":"web","exitCode":"1","image":"nginx"}},"scope":"local","time":1769860800,"timeNano":1769860800000000001}',
  );
});
