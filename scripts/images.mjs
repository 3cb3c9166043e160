// The images that the demo and the tests run: made here, because there is no registry to rely on. Each is a root file
// system and the real OCI archive of it, kept in ${XDG_CACHE_HOME:-~/.cache}/clearvm/images by the hash of its recipe.
//
//   node scripts/images.mjs busybox|debian|debian-tools|services     makes one and prints where it is, as JSON
import { spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

import { command, main } from './lib/steps.mjs';

/**
 * @typedef {object} MadeImage
 * @property {string} archive the OCI archive (a tar of an OCI layout), with one image tagged `name`
 * @property {string} name "clearvm-test/debian:bookworm", ...
 * @property {string} root the same as a directory, for runc and for comparisons. Do not write to it: copy it.
 */

const SUITE = 'bookworm';
const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** What the conformance tests run in the Debian image. */
export const TOOLS = [
  ...['ca-certificates', 'fio', 'git', 'perl', 'procps', 'python3', 'libpython3.11-testsuite'],
  ...['sqlite3', 'stress-ng'],
];

/** What the tests of real services run in the Debian image. */
export const SERVICES = [
  ...['curl', 'nginx-light', 'nodejs', 'postgresql-15', 'procps', 'python3', 'redis-server'],
];

/** What a mirror in that image offers: a package with two dependencies, and one with none. */
export const OFFERED = ['hello', 'jq', 'libjq1', 'libonig5'];

function cacheDirectory() {
  return path.join(
    process.env.XDG_CACHE_HOME || path.join(os.homedir(), '.cache'),
    'clearvm',
    'images',
  );
}

/** The mirror that this machine's apt uses for Debian itself. */
function mirror() {
  const { stdout } = spawnSync(
    'apt-get',
    ['indextargets', '--format', '$(REPO_URI)', 'Created-By: Packages', `Codename: ${SUITE}`],
    { encoding: 'utf8' },
  );
  return (stdout ?? '').split('\n').find(Boolean);
}

/** The environment of debootstrap, which does not read apt's configuration. */
function proxyEnvironment() {
  const { stdout } = spawnSync('apt-config', ['shell', 'PROXY', 'Acquire::http::Proxy'], {
    encoding: 'utf8',
  });
  const proxy = /PROXY='([^']+)'/.exec(stdout ?? '')?.[1];
  return proxy && !process.env.http_proxy ? { ...process.env, http_proxy: proxy } : process.env;
}

/** Each: which recipe (its text is hashed, with this version), and how to fill a root file system. */
const RECIPES = {
  busybox: {
    name: 'clearvm-test/busybox:latest',
    config: ['--config.cmd=sh', `--config.env=PATH=${DEFAULT_PATH}`],
    recipe: '2',
    async fill(root) {
      for (const folder of [
        'bin',
        'etc',
        'home',
        'root',
        'tmp',
        'usr/bin',
        'var',
        'dev',
        'proc',
        'sys',
      ]) {
        fs.mkdirSync(path.join(root, folder), { recursive: true });
      }
      fs.chmodSync(path.join(root, 'tmp'), 0o1777);
      const busybox = '/bin/busybox';
      fs.copyFileSync(busybox, path.join(root, 'bin', 'busybox'));
      const { stdout } = spawnSync(busybox, ['--list'], { encoding: 'utf8' });
      for (const applet of stdout.split('\n').filter((name) => name && name !== 'busybox')) {
        fs.symlinkSync('busybox', path.join(root, 'bin', applet));
      }
      fs.writeFileSync(
        path.join(root, 'etc', 'passwd'),
        'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n',
      );
      fs.writeFileSync(path.join(root, 'etc', 'group'), 'root:x:0:\ntty:x:5:\nnogroup:x:65534:\n');
      fs.writeFileSync(path.join(root, 'etc', 'os-release'), 'NAME="busybox"\nID=busybox\n');
    },
  },
  debian: debian('clearvm-test/debian:bookworm', []),
  'debian-tools': debian('clearvm-test/debian:tools', TOOLS),
  services: services('clearvm-test/debian:services'),
};

/** Debian with services that are installed and do not run, and packages in /srv/mirror. */
function services(name) {
  const base = debian(name, SERVICES);
  return {
    ...base,
    recipe: `1 ${base.recipe} ${OFFERED.join(',')}`,
    async fill(root, update) {
      await base.fill(root, update);
      // Each test makes its own database.
      empty(root, ['var/lib/postgresql', 'etc/postgresql']);
      const pool = path.join(root, 'srv', 'mirror', 'pool');
      fs.mkdirSync(pool, { recursive: true });
      fs.chmodSync(pool, 0o777); // apt downloads as a user of its own
      await command('apt-get', ['download', ...OFFERED], {
        ...{ log: 'apt-download', cwd: pool, onLine: update },
      });
      fs.chmodSync(pool, 0o755);
    },
  };
}

const CACHES = ['var/cache/apt/archives', 'var/lib/apt/lists', 'var/log'];

function empty(root, folders) {
  for (const folder of folders) {
    for (const entry of fs.readdirSync(path.join(root, folder))) {
      fs.rmSync(path.join(root, folder, entry), { recursive: true, force: true });
    }
  }
}

function debian(name, include) {
  return {
    name,
    config: ['--config.cmd=bash', `--config.env=PATH=${DEFAULT_PATH}`],
    recipe: `1 ${SUITE} minbase ${include.join(',')}`,
    async fill(root, update) {
      if (process.getuid() !== 0) {
        throw Object.assign(
          new Error('The Debian image is made by debootstrap, which needs root.'),
          {
            code: 'ERR_NOT_ROOT',
          },
        );
      }
      const from = mirror();
      await command(
        'debootstrap',
        [
          ...[
            '--variant=minbase',
            ...(include.length > 0 ? [`--include=${include.join(',')}`] : []),
          ],
          ...[SUITE, root, ...(from ? [from] : [])],
        ],
        { log: 'debootstrap', env: proxyEnvironment(), onLine: update },
      );
      empty(root, CACHES);
    },
  };
}

/**
 * Makes an image, or takes it from the cache.
 *
 * @param {'busybox' | 'debian' | 'debian-tools' | 'services'} kind
 * @param {(text: string) => void} [update] told what is being done
 * @returns {Promise<MadeImage>}
 */
export async function makeImage(kind, update = () => {}) {
  const { name, config, recipe, fill } = RECIPES[kind];
  const key = createHash('sha256')
    .update(JSON.stringify([kind, name, config, recipe]))
    .digest('hex')
    .slice(0, 16);
  const place = path.join(cacheDirectory(), `${kind}-${key}`);
  const made = { archive: path.join(place, 'image.tar'), name, root: path.join(place, 'root') };
  if (fs.existsSync(made.archive)) return made;

  const work = `${place}.${randomBytes(4).toString('hex')}.new`;
  const layout = path.join(work, 'layout');
  const bundle = path.join(work, 'bundle');
  const root = path.join(bundle, 'rootfs');
  const tag = name.split(':')[1];
  const umoci = (...args) => command('umoci', args, { log: `umoci-${args[0]}`, onLine: update });
  try {
    fs.mkdirSync(work, { recursive: true });
    await umoci('init', '--layout', layout);
    await umoci('new', '--image', `${layout}:${tag}`);
    await umoci('unpack', '--image', `${layout}:${tag}`, bundle);
    await fill(root, update);
    update('packing its layer');
    await umoci('repack', '--image', `${layout}:${tag}`, bundle);
    await umoci('config', '--image', `${layout}:${tag}`, ...config);
    await umoci('gc', '--layout', layout);
    const to = `oci-archive:${path.join(work, 'image.tar')}:${name}`;
    await command('skopeo', ['copy', '--quiet', `oci:${layout}:${tag}`, to], {
      log: 'skopeo',
      onLine: update,
    });
    fs.renameSync(root, path.join(work, 'root'));
    fs.rmSync(layout, { recursive: true });
    fs.rmSync(bundle, { recursive: true });
    fs.rmSync(place, { recursive: true, force: true });
    fs.renameSync(work, place);
  } catch (error) {
    fs.rmSync(work, { recursive: true, force: true });
    throw error;
  }
  return made;
}

export const busyboxImage = (update) => makeImage('busybox', update);
export const debianImage = (update) => makeImage('debian', update);
/** Debian with the programs that the conformance tests run. */
export const debianToolsImage = (update) => makeImage('debian-tools', update);
/** Debian with services that are not running, and a mirror of `OFFERED` that has no index yet. */
export const servicesImage = (update) => makeImage('services', update);

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  await main(async () => {
    const kind = process.argv[2];
    if (!(kind in RECIPES)) {
      throw Object.assign(new Error(`Which image? One of: ${Object.keys(RECIPES).join(', ')}.`), {
        code: 'ERR_USAGE',
      });
    }
    console.log(JSON.stringify(await makeImage(kind, (line) => console.error(line))));
  });
}
