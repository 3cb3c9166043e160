// Images to and from a real registry (Debian's docker-registry), beside skopeo and podman: the digests must stay what they
// are, and the commands say what docker's say.
import fs from 'node:fs';
import path from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { failure, sha256, temporary } from '../unit/image/fixtures.js';
import { PASSWORD, RealRegistry, USER, type RegistryKind } from './registry/real.js';
import {
  CLI,
  LAYERS,
  at,
  isolate,
  newStore,
  skopeoBlobs,
  skopeoDigest,
  skopeoPush,
  tool,
  trust,
} from './registry/support.js';

describe.each<[string, RegistryKind]>([
  ['open', { login: 'none', tls: false }],
  ['with basic authentication and TLS', { login: 'basic', tls: true }],
  ['with basic authentication', { login: 'basic', tls: false }],
  ['with tokens and TLS', { login: 'token', tls: true }],
])('a registry, %s', (_, kind) => {
  let registry: RealRegistry;
  let directory: string;
  beforeAll(async () => {
    directory = fs.mkdtempSync('/tmp/clearvm-registry-');
    registry = await RealRegistry.start(kind, directory);
    await skopeoPush(registry, at('gzip'), 'gzip');
    if (kind.login === 'none') {
      await skopeoPush(registry, at('zstd'), 'zstd');
      await skopeoPush(registry, at('plain'), 'plain');
      await skopeoPush(registry, at('gzip'), 'docker', '--format', 'v2s2');
    }
    await skopeoPush(registry, at('index'), 'index');
  });
  afterAll(async () => {
    await registry?.stop();
    fs.rmSync(directory, { recursive: true, force: true });
  });
  beforeEach(async () => {
    isolate();
    if (kind.tls) trust(registry);
    if (kind.login !== 'none') {
      await newStore().login({ registry: registry.host, username: USER, password: PASSWORD });
    }
  });

  // What is in a layer does not depend on how one gets in.
  test.each(kind.login === 'none' ? ['gzip', 'zstd', 'plain', 'docker'] : ['gzip'])(
    'skopeo → %s → pull → push → skopeo: the same bytes',
    async (name) => {
      const store = newStore();
      const from = `${registry.host}/${name}:1`;
      const { digest, image } = await store.pull(from);
      expect(digest).toBe(await skopeoDigest(registry, `${name}:1`));
      expect(image.digest).toBe(digest);
      const { layersDir, lower } = await store.resolve(from);
      expect(lower.map((layer) => fs.readdirSync(path.join(layersDir, layer)).sort())).toEqual([
        ['base', 'top'],
        ['dir'],
        ['base', 'dir'],
      ]);
      // Into another repository (mounted), and into one of a registry that has nothing yet (uploaded).
      await store.tag(from, `${registry.host}/back/${name}:2`);
      const steps: string[] = [];
      const onProgress = ({ step }: { step: string }) => steps.push(step);
      const pushed = await store.push(`${registry.host}/back/${name}:2`, { onProgress });
      expect(pushed.digest).toBe(digest);
      expect(steps.filter((step) => step === 'mount')).not.toEqual([]);
      expect(await skopeoDigest(registry, `back/${name}:2`)).toBe(digest);
      const blobs = await skopeoBlobs(registry, `${name}:1`);
      expect(blobs).toHaveLength(4);
      expect(await skopeoBlobs(registry, `back/${name}:2`)).toEqual(blobs);

      const fresh = newStore();
      const archive = path.join(temporary(), 'saved.tar');
      await store.save([from], archive);
      await fresh.load(archive);
      await fresh.tag(from, `${registry.host}/fresh/${name}:3`);
      expect((await fresh.push(`${registry.host}/fresh/${name}:3`)).digest).toBe(digest);
      expect(await skopeoBlobs(registry, `fresh/${name}:3`)).toEqual(blobs);
    },
  );

  test('of an index the image for linux/amd64 is pulled, under the index’s digest', async () => {
    const store = newStore();
    const { digest, image } = await store.pull(`${registry.host}/index:1`);
    expect(digest).toBe(await skopeoDigest(registry, 'index:1'));
    expect(image.digest).toBe(await skopeoDigest(registry, 'gzip:1'));
    const byDigest = await newStore().pull(`${registry.host}/index@${digest}`);
    expect(byDigest).toMatchObject({ digest, image: { id: image.id } });
  });

  test('podman pulls what we have pushed', async () => {
    const store = newStore();
    await store.load(at('gzip'), { name: `${registry.host}/ours:1` });
    const { digest } = await store.push(`${registry.host}/ours:1`);
    const storage = temporary();
    const podman = (...args: string[]) =>
      tool(
        ...(['podman', '--root', `${storage}/root`, '--runroot', `${storage}/run`] as const),
        ...['--storage-driver', 'vfs', ...args],
      );
    const name = `${registry.host}/ours:1`;
    await podman('pull', '-q', ...registry.flags(), name);
    const digestThere = await podman('image', 'inspect', '--format', '{{.Digest}}', name);
    expect(digestThere.trim()).toBe(digest);
  });

  test('pushing again uploads nothing', async () => {
    const store = newStore();
    const name = `${registry.host}/again:1`;
    await store.load(at('gzip'), { name });
    await store.push(name);
    const steps: string[] = [];
    await store.push(name, { onProgress: ({ step, finished }) => finished && steps.push(step) });
    expect(steps).toEqual(['exists', 'exists', 'exists']);
  });

  if (kind.login !== 'none') {
    test('without a login, or with a wrong one, there is nothing to be had', async () => {
      await newStore().logout(registry.host);
      const store = newStore();
      await failure(store.pull(`${registry.host}/gzip:1`), 'ERR_REGISTRY_UNAUTHORIZED');
      expect(fs.existsSync(store.root)).toBe(false);
      await failure(
        store.login({ registry: registry.host, username: USER, password: 'wrong' }),
        'ERR_REGISTRY_UNAUTHORIZED',
      );
      const config = path.join(process.env['DOCKER_CONFIG'] ?? '', 'config.json');
      expect(fs.readFileSync(config, 'utf8')).not.toContain('auth"');
      await failure(store.pull(`${registry.host}/gzip:1`), 'ERR_REGISTRY_UNAUTHORIZED');
    });

    test('skopeo uses our login', async () => {
      const auth = path.join(process.env['DOCKER_CONFIG'] ?? '', 'config.json');
      const flags = registry.flags().slice(0, kind.tls ? 2 : 1);
      await tool(
        'skopeo',
        'inspect',
        '--authfile',
        auth,
        ...flags,
        `docker://${registry.host}/gzip:1`,
      );
    });
  }

  if (kind.tls) {
    test('a certificate that nobody vouches for is refused, unless the registry is insecure', async () => {
      const file = path.join(process.env['XDG_CONFIG_HOME'] ?? '', 'clearvm/registries.json');
      const settings = (insecure: boolean) =>
        JSON.stringify({ version: 1, registries: { [registry.host]: { insecure } } });
      fs.writeFileSync(file, settings(false));
      const store = newStore();
      await failure(store.pull(`${registry.host}/gzip:1`), 'ERR_REGISTRY_TLS');
      expect(fs.existsSync(store.root)).toBe(false);
      fs.writeFileSync(file, settings(true));
      await store.pull(`${registry.host}/gzip:1`);
    });
  }
});

test('the commands say what docker says', async () => {
  isolate();
  const directory = temporary();
  const registry = await RealRegistry.start({ login: 'basic', tls: false }, directory);
  const env = { ...process.env, CLEARVM_ROOT: path.join(temporary(), 'store') };
  const clearvm = async (args: string, input = '') => {
    const argv = ['--', CLI, ...args.split(' ')];
    const options = { env, input, reject: false, stripFinalNewline: false };
    const { exitCode, stdout, stderr } = await execa(process.execPath, argv, options);
    return { exitCode, stdout, stderr };
  };
  const success = (stdout: string) => ({ exitCode: 0, stdout, stderr: '' });
  const { host } = registry;
  try {
    await skopeoPush(registry, at('gzip'), 'app');
    const digest = await skopeoDigest(registry, 'app:1');
    const file = path.join(process.env['DOCKER_CONFIG'] ?? '', 'config.json');

    expect(await clearvm(`pull ${host}/app:1`)).toMatchObject({ exitCode: 1, stdout: '' });
    expect(await clearvm(`login -u ${USER} --password-stdin ${host}`, 'wrong\n')).toMatchObject({
      exitCode: 1,
      stdout: '',
      stderr: expect.stringMatching(/^clearvm: unauthorized: [^\n]*\n$/) as string,
    });
    expect(await clearvm(`login -u ${USER} --password-stdin ${host}`, `${PASSWORD}\n`)).toEqual({
      exitCode: 0,
      stdout: 'Login Succeeded\n',
      stderr: expect.stringContaining(`stored unencrypted in ${file}.\n`) as string,
    });
    const absent = await clearvm(`pull ${host}/app`);
    expect(absent).toMatchObject({ exitCode: 1, stdout: 'Using default tag: latest\n' });
    expect(absent.stderr).toBe(
      `clearvm: manifest for ${host}/app:latest not found: manifest unknown: manifest unknown\n`,
    );

    const pulled = await clearvm(`pull ${host}/app:1`);
    expect(pulled).toMatchObject({ exitCode: 0, stderr: '' });
    const lines = pulled.stdout.trimEnd().split('\n');
    const said = (what: string) => lines.filter((line) => line.endsWith(`: ${what}`));
    for (const what of ['Pulling fs layer', 'Download complete', 'Pull complete']) {
      expect(said(what).map((line) => line.slice(0, 12))).toHaveLength(3);
    }
    expect(lines[0]).toBe('1: Pulling from app');
    expect(lines.slice(-3)).toEqual([
      `Digest: ${digest}`,
      `Status: Downloaded newer image for ${host}/app:1`,
      `${host}/app:1`,
    ]);
    expect(await clearvm(`pull ${host}/app:1`)).toEqual(
      success(
        `1: Pulling from app\nDigest: ${digest}\nStatus: Image is up to date for ${host}/app:1\n${host}/app:1\n`,
      ),
    );
    expect(await clearvm(`pull -q ${host}/app:1`)).toEqual(success(`${host}/app:1\n`));

    expect(await clearvm(`tag ${host}/app:1 ${host}/copy`)).toEqual(success(''));
    const pushed = await clearvm(`push ${host}/copy`);
    expect(pushed).toMatchObject({ exitCode: 0, stderr: '' });
    expect(pushed.stdout).toMatch(
      new RegExp(
        `^Using default tag: latest\nThe push refers to repository \\[${host}/copy\\]\n(\\w{12}: (Preparing|Mounted from app)\n){6}latest: digest: ${digest} size: \\d+\n$`,
      ),
    );
    expect(await clearvm('push nosuch:1')).toEqual({
      exitCode: 1,
      stdout: 'The push refers to repository [docker.io/library/nosuch]\n',
      stderr: expect.stringContaining(
        'An image does not exist locally with the tag: nosuch:1',
      ) as string,
    });

    const { stdout: inspected } = await clearvm(`image inspect ${host}/app:1`);
    expect(JSON.parse(inspected)).toMatchObject([
      {
        RepoTags: [`${host}/app:1`, `${host}/copy:latest`],
        RepoDigests: [`${host}/app@${digest}`, `${host}/copy@${digest}`],
        Config: { Cmd: ['/bin/sh'], Env: ['PATH=/bin'] },
        RootFS: { Type: 'layers', Layers: LAYERS.map(sha256) },
      },
    ]);
    expect((await clearvm(`history -q ${host}/app:1`)).stdout).toMatch(
      /^[0-9a-f]{12}\n<missing>\n<missing>\n$/,
    );
    expect((await clearvm('system df')).stdout).toMatch(/^TYPE .*\nImages +1 +0 +[\d.]+MB +/);
    expect((await clearvm(`rmi ${host}/copy`)).stdout).toBe(`Untagged: ${host}/copy:latest\n`);
    expect((await clearvm('image prune', 'n\n')).stdout).toMatch(
      /\[y\/N\] .*reclaimed space: 0B\n$/,
    );
    expect((await clearvm('image prune -a', 'y\n')).stdout).toMatch(
      /\[y\/N\] Deleted Images:\nuntagged: .*\ndeleted: sha256:\w{64}\n\nTotal reclaimed space: [\d.]+MB\n$/,
    );
    // On a terminal, with bars.
    const line = `${process.execPath} -- ${CLI} pull ${host}/app:1`;
    const { stdout: screen } = await execa('script', ['-qec', line, '/dev/null'], { env });
    expect(screen.match(/\w{12}: Pull complete\r\n/g)).toHaveLength(3);
    expect(screen).toContain(`Status: Downloaded newer image for ${host}/app:1`);

    expect(await clearvm(`logout ${host}`)).toEqual(
      success(`Removing login credentials for ${host}\n`),
    );
    expect(await clearvm(`logout ${host}`)).toEqual(success(`Not logged in to ${host}\n`));
  } finally {
    await registry.stop();
  }
});
