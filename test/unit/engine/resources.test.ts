import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';

import { afterEach, beforeEach, describe, expect, test } from 'vitest';

import { findImageDirectory } from '../../../src/engine/image-path.js';
import {
  capabilities,
  hostLines,
  mergeRlimits,
  parseTmpfs,
  parseUlimit,
  shmMount,
} from '../../../src/engine/resources.js';
import { VolumeStore } from '../../../src/engine/volume-store.js';
import { parseMount } from '../../../src/engine/volumes.js';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(`${tmpdir()}/clearvm-resources-`);
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

test('capabilities: added, dropped, all', () => {
  const defaults = ['CAP_CHOWN', 'CAP_KILL'];
  expect(capabilities(defaults, [], [])).toEqual(defaults);
  expect(capabilities(defaults, ['sys_time', 'CAP_KILL'], ['chown'])).toEqual([
    'CAP_KILL',
    'CAP_SYS_TIME',
  ]);
  expect(capabilities(defaults, ['NET_ADMIN'], ['ALL'])).toEqual(['CAP_NET_ADMIN']);
  const all = capabilities(defaults, ['ALL'], ['SYS_ADMIN']);
  expect(all).toContain('CAP_BPF');
  expect(all).not.toContain('CAP_SYS_ADMIN');
  expect(() => capabilities(defaults, ['FLY'], [])).toThrow(/unknown capability: "CAP_FLY"/);
});

test('limits: soft and hard, over the defaults', () => {
  expect(parseUlimit('nofile=10:20')).toEqual({ type: 'RLIMIT_NOFILE', soft: 10, hard: 20 });
  expect(parseUlimit('core=0')).toEqual({ type: 'RLIMIT_CORE', soft: 0, hard: 0 });
  expect(parseUlimit('memlock=-1').hard).toBeGreaterThan(2 ** 63);
  for (const bad of ['nofile', 'nofile=', 'nofile=x', 'nofile=2:1', 'colour=1', 'toString=1']) {
    expect(() => parseUlimit(bad)).toThrow(expect.objectContaining({ code: 'ERR_ULIMIT' }));
  }
  const core = { type: 'RLIMIT_CORE', soft: 0, hard: 0 };
  expect(mergeRlimits([core], [{ ...core, soft: 1, hard: 1 }])).toEqual([
    { ...core, soft: 1, hard: 1 },
  ]);
});

test('memory file systems', () => {
  expect(parseTmpfs('/run:size=64m,mode=1777')).toMatchObject({
    ...{ destination: '/run', type: 'tmpfs' },
    options: ['noexec', 'nosuid', 'nodev', 'size=64m', 'mode=1777'],
  });
  for (const bad of ['run', '/', '/run:size=big', '/run:user=x', '/a/../b']) {
    expect(() => parseTmpfs(bad)).toThrow(expect.objectContaining({ code: 'ERR_TMPFS' }));
  }
  expect(shmMount('1m').options).toContain('size=1048576');
  expect(() => shmMount('much')).toThrow(expect.objectContaining({ code: 'ERR_SHM_SIZE' }));
});

test('hosts', () => {
  expect(hostLines(['db:10.0.0.1', 'six:[::1]', 'seven:::1'])).toBe(
    '10.0.0.1\tdb\n::1\tsix\n::1\tseven\n',
  );
  for (const bad of ['db', 'db:', 'db:host', 'a b:1.2.3.4', 'db:1.2.3.4\n5.6.7.8\tx']) {
    expect(() => hostLines([bad])).toThrow(expect.objectContaining({ code: 'ERR_ADD_HOST' }));
  }
});

test('--mount', () => {
  expect(parseMount('type=bind,source=/a,target=/b,readonly')).toEqual({
    ...{ type: 'bind', source: '/a', target: '/b', readOnly: true, mustExist: true },
  });
  expect(parseMount('src=data,dst=/b')).toMatchObject({ type: 'volume', source: 'data' });
  expect(parseMount('type=volume,target=/b')).toMatchObject({ type: 'volume', source: '' });
  expect(parseMount('type=tmpfs,target=/t,tmpfs-size=1m,ro')).toEqual({ tmpfs: '/t:size=1m,ro' });
  for (const bad of [
    'type=bind,target=/b',
    'type=bind,source=/a',
    'type=npipe,target=/x',
    'type=bind,source=/a,target=/b,colour=red',
  ]) {
    expect(() => parseMount(bad)).toThrow(expect.objectContaining({ code: 'ERR_VOLUME' }));
  }
});

describe('a directory of an image', () => {
  test('is found through the links of any layer, and never outside of it', () => {
    const [top, low] = [`${directory}/top`, `${directory}/low`];
    mkdirSync(`${low}/var/lib/data`, { recursive: true });
    mkdirSync(`${low}/srv`);
    mkdirSync(`${top}/etc`, { recursive: true });
    symlinkSync('/var/lib', `${top}/lib`);
    symlinkSync('../../..', `${top}/etc/up`);
    symlinkSync('loop', `${top}/loop`);
    symlinkSync(directory, `${top}/host`);
    writeFileSync(`${top}/srv`, 'a file hides the directory');
    const find = (path: string): string | undefined => findImageDirectory([top, low], path);
    expect(find('/var/lib/data')).toBe('var/lib/data');
    expect(find('/lib/data/')).toBe('var/lib/data');
    expect(find('/etc/up/lib/data')).toBe('var/lib/data');
    expect(find('/etc/../../etc')).toBe('etc');
    for (const none of ['/srv', '/loop', '/host', '/host/low', '/nothing', '/lib/data/none']) {
      expect(find(none)).toBeUndefined();
    }
  });
});

describe('volumes', () => {
  test('are made once, listed, and refused to go while they are in use', async () => {
    const store = new VolumeStore(directory);
    const { mountpoint } = store.create('data', { labels: { a: '1' } });
    writeFileSync(`${mountpoint}/file`, '');
    expect(store.create('data').labels).toEqual({ a: '1' });
    const anonymous = store.create();
    expect(anonymous).toMatchObject({ anonymous: true });
    expect(
      store
        .list()
        .map(({ name }) => name)
        .sort(),
    ).toEqual(['data', anonymous.name].sort());
    const container = `${directory}/containers/${'a'.repeat(64)}`;
    mkdirSync(container, { recursive: true });
    const record = { version: 1, id: 'a'.repeat(64), mounts: [{ name: 'data' }] };
    writeFileSync(`${container}/container.json`, JSON.stringify(record));
    await expect(store.remove('data')).rejects.toThrow(/volume is in use - \[a+\]/);
    rmSync(container, { recursive: true });
    await store.remove('data');
    expect(store.find('data')).toBeUndefined();
    await expect(store.remove('data')).rejects.toThrow('get data: no such volume');
    for (const bad of ['../x', '.', '', 'a/b']) {
      expect(() => store.create(bad)).toThrow(expect.objectContaining({ code: 'ERR_VOLUME_NAME' }));
    }
  });
});
