// A real registry behind a proxy that breaks things, and pulls that are killed: never a bad layer, never a damaged store.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ImageError, ImageStore } from '../../src/image/index.js';
import { expectEmptyStore, layout, tar, temporary } from '../unit/image/fixtures.js';
import { FaultyProxy, randomNumbers, type Fault } from './registry/proxy.js';
import { RealRegistry } from './registry/real.js';
import {
  CLI,
  asPlain,
  at,
  base,
  expectWhole,
  isolate,
  layersOf,
  newStore,
  noise,
  skopeoBlobs,
  skopeoDigest,
  skopeoPush,
} from './registry/support.js';

/** CLEARVM_KILLS=200 for a long run. */
const KILLS = Number(process.env.CLEARVM_KILLS ?? 12);

describe('behind a proxy that breaks things', () => {
  let registry: RealRegistry;
  let proxy: FaultyProxy;
  let directory: string;
  /** What each layer looks like when all goes well. */
  let reference: Record<string, string>;
  beforeAll(async () => {
    directory = fs.mkdtempSync('/tmp/clearvm-registry-');
    registry = await RealRegistry.start({ login: 'none', tls: false }, directory);
    await skopeoPush(registry, at('gzip'), 'gzip');
    const store = newStore();
    await store.pull(`${registry.host}/gzip:1`);
    reference = layersOf(store.root);
  });
  afterAll(async () => {
    await registry?.stop();
    fs.rmSync(directory, { recursive: true, force: true });
  });
  beforeEach(async () => {
    isolate();
    proxy = await FaultyProxy.start(registry.host);
    return () => proxy.stop();
  });

  /** One request in two meets with something. */
  function faults(seed: number): FaultyProxy['plan'] {
    const random = randomNumbers(seed);
    return () => {
      if (random(2) > 0) return undefined;
      const where = random(3) === 0 ? random(300) : random(1_300_000);
      const kinds: Fault[] = [
        { kind: 'cut', at: where },
        { kind: 'truncate', at: where },
        { kind: 'corrupt', at: where },
        { kind: 'stall', at: where },
        { kind: 'delay', at: where, ms: 100 },
        { kind: 'refuse', status: [500, 502, 503, 429][random(4)] ?? 500 },
      ];
      return kinds[random(kinds.length)];
    };
  }

  test('a pull brings the right image, or says what is wrong; never a bad layer', async () => {
    const outcomes: string[] = [];
    for (let seed = 1; seed <= 12; seed++) {
      const store = newStore();
      proxy.plan = faults(seed);
      const name = `${proxy.host}/gzip:1`;
      const options = { pause: 1, stallTimeout: 200, retries: seed % 3 };
      outcomes.push(
        await store.pull(name, options).then(
          () => 'pulled',
          (error: unknown) => (error instanceof ImageError ? error.code : String(error)),
        ),
      );
      await expectWhole(store.root, reference);
      proxy.plan = () => undefined;
      await store.pull(name);
      expect(layersOf(store.root)).toEqual(reference);
      await expectWhole(store.root, reference);
      expect(fs.readdirSync(path.join(store.root, 'pulls'))).toEqual([]);
      expect(fs.readdirSync(path.join(store.root, 'tmp'))).toEqual([]);
    }
    console.log(
      `12 pulls: ${[...new Set(outcomes)].map((each) => `${outcomes.filter((o) => o === each).length} ${each}`).join(', ')}`,
    );
    const allowed = /^(pulled|ERR_REGISTRY_[A-Z_]+|ERR_IMAGE_DIGEST_MISMATCH|ERR_IMAGE_MANIFEST)$/;
    for (const outcome of outcomes) expect(outcome).toMatch(allowed);
    expect(outcomes).toContain('pulled');
    expect(new Set(outcomes).size).toBeGreaterThan(1);
  });

  test('a push arrives as it is, or not at all', async () => {
    const store = newStore();
    // More than one piece of an upload.
    const large = tar([{ name: 'large', data: noise(40 << 20, 9) }]);
    const source = layout(path.join(temporary(), 'large'), [large, base], {
      name: '1',
      compress: (layer) => layer,
      manifest: asPlain,
    });
    const random = randomNumbers(7);
    let left = 6;
    let pieces = 0;
    proxy.plan = (request) => {
      // The second piece fails once, and the upload has to go on from what has arrived.
      if (request.method === 'PATCH') {
        return ++pieces === 2 ? { kind: 'refuse', status: 503 } : undefined;
      }
      if (left === 0 || random(3) > 0) return undefined;
      left--;
      const kinds: Fault[] = [
        { kind: 'cut-upload', at: random(400_000) },
        { kind: 'corrupt-upload', at: random(400_000) },
        { kind: 'refuse', status: 503 },
        { kind: 'cut', at: 0 },
      ];
      return kinds[random(kinds.length)];
    };
    const name = `${proxy.host}/pushed:1`;
    await store.load(source, { name });
    const { digest } = await store.push(name, { pause: 1, retries: 20 });
    const uploads = proxy.requests.filter((line) => line.includes('/blobs/uploads/'));
    expect(uploads.map((line) => line.split(' ')[0]).join(' ')).toMatch(
      /PATCH.* GET.* PATCH.* PUT/,
    );
    expect(proxy.uploadBytes).toBeLessThan(large.length + (8 << 20));
    expect(left).toBeLessThan(6);
    expect(await skopeoDigest(registry, 'pushed:1')).toBe(digest);
    expect(await skopeoBlobs(registry, 'pushed:1')).toHaveLength(3);
  });

  test('two processes that pull one image fetch it once', async () => {
    const root = path.join(temporary(), 'store');
    proxy.rate = 2_000_000;
    const env = { ...process.env, CLEARVM_ROOT: root };
    const pulls = [0, 1, 2].map(() => {
      const child = spawn(process.execPath, ['--', CLI, 'pull', `${proxy.host}/gzip:1`], { env });
      let text = '';
      for (const stream of [child.stdout, child.stderr])
        stream.on('data', (chunk) => (text += chunk));
      return once(child, 'close').then(([status]) => ({ status: status as unknown, text }));
    });
    for (const { status, text } of await Promise.all(pulls)) {
      expect({ status, text }).toMatchObject({ status: 0 });
      expect(text).toContain(`Status: Downloaded newer image for ${proxy.host}/gzip:1`);
    }
    expect(proxy.requests.filter((line) => line.includes('/blobs/'))).toHaveLength(4);
    await expectWhole(path.join(root, 'images'), reference);
  });

  test(
    'kill -9 at any instant: the store is whole, and what was verified is kept',
    { timeout: 45_000 + KILLS * 4000 },
    async () => {
      const root = path.join(temporary(), 'store');
      const images = path.join(root, 'images');
      const store = new ImageStore({ root: images });
      const env = { ...process.env, CLEARVM_ROOT: root };
      const name = `${proxy.host}/gzip:1`;
      // Not synchronously: the proxy is in this process.
      const clearvm = async (...args: string[]) => {
        const { stdout, stderr } = await execa(process.execPath, ['--', CLI, ...args], { env });
        expect(stderr).toBe('');
        return stdout;
      };
      const start = () =>
        spawn(process.execPath, ['--', CLI, 'pull', name], { env, stdio: 'ignore' });
      proxy.rate = 3_000_000;

      const began = performance.now();
      await once(start(), 'exit');
      const whole = performance.now() - began;
      const fetched = proxy.blobBytes;
      expect(layersOf(images)).toEqual(reference);
      await clearvm('rmi', name);

      const random = randomNumbers(11);
      let finished = 0;
      let partial = 0;
      for (let i = 0; i < KILLS; i++) {
        const child = start();
        // Later and later within the run, so that layers are kept from one to the next.
        const instant = whole * (0.1 + random(900) / 1000);
        const timer = setTimeout(() => child.kill('SIGKILL'), instant);
        const [status] = (await once(child, 'exit')) as [number | null];
        clearTimeout(timer);
        await expectWhole(images, reference);
        if (fs.existsSync(path.join(images, 'pulls'))) {
          partial += fs.readdirSync(path.join(images, 'pulls')).length;
        }
        const [listed] = await store.list();
        if (status === 0) {
          finished++;
          expect(listed).toBeDefined();
        }
        if (listed) await store.remove(name);
      }
      console.log(
        `${KILLS} kills within ${Math.round(whole)} ms: ${finished} came too late, ${partial} left part of a pull`,
      );
      expect(partial).toBeGreaterThan(0);

      // What is left of killed pulls makes the next one shorter.
      proxy.blobBytes = 0;
      const child = start();
      setTimeout(() => child.kill('SIGKILL'), whole * 0.8);
      await once(child, 'exit');
      const output = await clearvm('pull', name);
      expect(output).toContain('Status: ');
      expect(proxy.blobBytes).toBeLessThan(1.7 * fetched);
      expect(layersOf(images)).toEqual(reference);
      await clearvm('rmi', name);
      await clearvm('image', 'prune', '-f');
      fs.rmSync(path.join(images, 'locks'), { recursive: true });
      expectEmptyStore(images);
    },
  );
});
