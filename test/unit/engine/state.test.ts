import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Writable } from 'node:stream';
import { promisify } from 'node:util';

import { afterEach, beforeEach, describe, expect, test } from 'vitest';

import { currentBootId, processStartTime, selfStartTime } from '../../../src/engine/host.js';
import { ownStatus } from '../../../src/engine/record.js';
import { StateStore } from '../../../src/engine/state.js';

const IMAGE = 'sha256:' + 'b'.repeat(64);
const newId = (): string => randomBytes(32).toString('hex');

let base: string;
let root: string;
let run: string;
let store: StateStore;
beforeEach(() => {
  base = mkdtempSync(path.join(tmpdir(), 'clearvm-state-'));
  root = `${base}/root`;
  run = `${base}/run`;
  store = new StateStore(root, run);
});
afterEach(() => {
  rmSync(base, { recursive: true, force: true });
});

/** What a killed engine has left: the same as a live one, under another owner. */
function abandon(id: string, owner: string): void {
  for (const directory of [`${run}/${id}`, `${root}/containers/${id}`]) {
    rmSync(`${directory}/owner`, { force: true });
    symlinkSync(owner, `${directory}/owner`);
  }
}

describe('a container’s directories', () => {
  test('are made with the right modes, whatever the umask, and removed without a rest', async () => {
    const topLayer = `${base}/layer`;
    mkdirSync(topLayer);
    if (process.getuid?.() === 0) chownSync(topLayer, 12, 34);
    chmodSync(topLayer, 0o1750);
    const old = process.umask(0o077);
    let state;
    try {
      state = store.create(newId(), 'web', IMAGE, topLayer);
    } finally {
      process.umask(old);
    }
    const upper = statSync(`${state.dataDirectory}/upper`);
    expect(upper.mode & 0o7777).toBe(0o1750);
    if (process.getuid?.() === 0) expect([upper.uid, upper.gid]).toEqual([12, 34]);
    expect(existsSync(`${state.dataDirectory}/work`)).toBe(true);
    expect(readlinkSync(`${root}/names/web`)).toBe(state.id);
    store.write(state, 'vm.json', { a: 1 });
    expect(JSON.parse(readFileSync(`${state.dataDirectory}/vm.json`, 'utf8'))).toEqual({ a: 1 });
    await store.remove(state);
    expect(readdirSync(run)).toEqual([]);
    expect(readdirSync(`${root}/names`)).toEqual([]);
    expect(readdirSync(`${root}/containers`)).toEqual([]);
  });

  test('are removed whatever the container has made in them', async () => {
    const state = store.create(newId(), undefined, IMAGE, base);
    const upper = Buffer.from(`${state.dataDirectory}/upper/`);
    writeFileSync(Buffer.concat([upper, Buffer.from([0xff, 0xfe, 0x0a])]), 'no UTF-8');
    mkdirSync(`${state.dataDirectory}/work/work`, { mode: 0 });
    await store.remove(state);
    expect(existsSync(state.dataDirectory)).toBe(false);
  });

  test('are removed although no path reaches their bottom', async () => {
    const state = store.create(newId(), undefined, IMAGE, base);
    await promisify(execFile)('sh', [
      '-c',
      'cd "$1" && i=0 && while [ $i -lt 100 ]; do mkdir -p "$2" && cd -P "$2" && i=$((i+1)); done',
      ...['sh', `${state.dataDirectory}/upper`, `${'x'.repeat(50)}/${'y'.repeat(50)}`],
    ]);
    await store.remove(state);
    expect(existsSync(state.dataDirectory)).toBe(false);
  });

  test('that cannot be made leave nothing and say where', () => {
    writeFileSync(root, 'a file is in the way');
    expect(() => store.create(newId(), 'web', IMAGE, base)).toThrow(
      expect.objectContaining({ code: 'ERR_STATE', exitCode: 125 }),
    );
    expect(readdirSync(run)).toEqual([]);
  });
});

describe('names', () => {
  test('are unique among running containers', async () => {
    const first = store.create(newId(), 'web', IMAGE, base);
    const second = newId();
    expect(() => store.create(second, 'web', IMAGE, base)).toThrow(
      expect.objectContaining({
        code: 'ERR_NAME_IN_USE',
        message: expect.stringContaining(first.id.slice(0, 12)) as unknown,
      }),
    );
    expect(existsSync(`${run}/${second}`)).toBe(false);
    await store.remove(first);
    expect(store.create(second, 'web', IMAGE, base).name).toBe('web');
  });

  test('are made up, one for each', () => {
    const names = Array.from(
      { length: 20 },
      () => store.create(newId(), undefined, IMAGE, base).name,
    );
    expect(new Set(names).size).toBe(20);
    for (const name of names) expect(name).toMatch(/^[a-z]+_[a-z]+(_\d+)?$/);
  });

  test('of dead containers are free again', () => {
    const dead = store.create(newId(), 'web', IMAGE, base);
    abandon(dead.id, `${process.pid}:1:${currentBootId()}:${IMAGE}`);
    expect(store.create(newId(), 'web', IMAGE, base).name).toBe('web');
  });
});

describe('a container that is kept', () => {
  const record = (id: string, more: object = {}): object => ({
    ...{ version: 1, id, name: 'web', created: '2026-01-01T00:00:00Z', autoRemove: false },
    image: { reference: 'x', id: IMAGE },
    ...more,
  });

  test('stays, with its name and image, whoever has made it', async () => {
    const state = store.create(newId(), 'web', IMAGE, base);
    store.write(state, 'container.json', record(state.id));
    store.keep(state);
    expect(await store.removeStale()).toEqual([]);
    expect(await store.imagesInUse()).toEqual([IMAGE]);
    expect(() => store.create(newId(), 'web', IMAGE, base)).toThrow(/already in use/);
    await store.remove(state);
    expect(store.create(newId(), 'web', IMAGE, base).name).toBe('web');
  });

  test('goes if its monitor was to remove it, and was killed', async () => {
    const state = store.create(newId(), 'web', IMAGE, base);
    store.write(state, 'container.json', record(state.id, { autoRemove: true }));
    store.keep(state);
    // Not started yet.
    expect(await store.removeStale()).toEqual([]);
    const running = ownStatus(4194305, new Date());
    store.write(state, 'state.json', running);
    expect(await store.removeStale()).toEqual([]);
    store.write(state, 'state.json', { ...running, monitor: { pid: 4194305, startTime: '1' } });
    expect(await store.removeStale()).toEqual([state.id]);
    expect(store.names.idOf('web')).toBeUndefined();
  });
});

describe('what dead engines have left', () => {
  test('is removed: another boot, a pid of somebody else, a pid of nobody', async () => {
    const owners = [
      `${process.pid}:${selfStartTime()}:${'0'.repeat(8)}:${IMAGE}`,
      `${process.pid}:1:${currentBootId()}:${IMAGE}`,
      `4194305:1:${currentBootId()}:${IMAGE}`,
      'rubbish',
    ];
    const dead = owners.map((owner, index) => {
      const { id } = store.create(newId(), `dead${index}`, IMAGE, base);
      abandon(id, owner);
      return id;
    });
    const alive = store.create(newId(), 'alive', IMAGE, base);
    expect((await store.removeStale()).sort()).toEqual(dead.sort());
    expect(readdirSync(run)).toEqual([alive.id]);
    expect(readdirSync(`${root}/containers`)).toEqual([alive.id]);
    expect(readdirSync(`${root}/names`)).toEqual(['alive']);
  });

  test('stays while its VMM runs, and goes when that has gone too', async () => {
    const vmm = spawn('sleep', ['60']);
    const exited = once(vmm, 'exit');
    await once(vmm, 'spawn');
    const pid = vmm.pid as number;
    const state = store.create(newId(), 'web', IMAGE, base);
    store.write(state, 'state.json', ownStatus(pid, new Date()));
    abandon(state.id, `4194305:1:${currentBootId()}:${IMAGE}`);
    expect(await store.removeStale()).toEqual([]);
    vmm.kill('SIGKILL');
    await exited;
    expect(await store.removeStale()).toEqual([state.id]);
  });

  test('stays for a minute when it has no owner yet: it may be in the making', async () => {
    const id = newId();
    store.create(newId(), undefined, IMAGE, base);
    mkdirSync(`${run}/${id}`);
    expect(await store.removeStale()).toEqual([]);
    const past = Date.now() / 1000 - 61;
    utimesSync(`${run}/${id}`, past, past);
    expect(await store.removeStale()).toEqual([id]);
  });

  test('nothing but containers is touched', async () => {
    mkdirSync(run, { recursive: true });
    writeFileSync(`${run}/kvm-verdict.json`, '{}');
    mkdirSync(`${root}/containers/not-an-id`, { recursive: true });
    const past = Date.now() / 1000 - 600;
    utimesSync(`${root}/containers/not-an-id`, past, past);
    expect(await store.removeStale()).toEqual([]);
    expect(existsSync(`${run}/kvm-verdict.json`)).toBe(true);
    expect(existsSync(`${root}/containers/not-an-id`)).toBe(true);
  });

  test('there may be nothing at all', async () => {
    expect(await store.removeStale()).toEqual([]);
    expect(await store.imagesInUse()).toEqual([]);
  });
});

test('images in use are those of live containers', async () => {
  store.create(newId(), undefined, IMAGE, base);
  const dead = store.create(newId(), undefined, 'sha256:' + 'c'.repeat(64), base);
  abandon(dead.id, `4194305:1:${currentBootId()}:sha256:${'c'.repeat(64)}`);
  expect(await store.imagesInUse()).toEqual([IMAGE]);
});

test('start times tell processes apart, and zombies are gone', async () => {
  expect(processStartTime(process.pid)).toBe(selfStartTime());
  expect(processStartTime(4194305)).toBeUndefined();
  const child = spawn('sh', ['-c', 'cat <&3 & echo $!; exec sleep 60'], {
    stdio: ['ignore', 'pipe', 'inherit', 'pipe'],
  });
  const [chunk] = (await once(child.stdout!, 'data')) as [Buffer];
  const zombie = Number(chunk.toString());
  const until = async (file: string, text: string): Promise<void> => {
    while (!readFileSync(file, 'latin1').includes(text)) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  };
  // The shell might wait for the child that it has; sleep(1) never waits for what it has inherited.
  await until(`/proc/${child.pid}/comm`, 'sleep');
  (child.stdio[3] as Writable).end();
  await until(`/proc/${zombie}/stat`, ') Z ');
  expect(processStartTime(zombie)).toBeUndefined();
  child.kill('SIGKILL');
  await once(child, 'exit');
});
