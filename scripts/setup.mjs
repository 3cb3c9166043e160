// npm run setup: installs what the project needs and the machine lacks: Debian packages (as root), and the npm
// packages of the lock file. Does nothing, quickly, where all is there.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

import { command, fingerprint, main, step, TOP, unlessUnchanged } from './lib/steps.mjs';

/** The packages of packages.txt that dpkg does not know as installed. */
export function missingPackages() {
  const wanted = fs
    .readFileSync(path.join(TOP, 'scripts', 'packages.txt'), 'utf8')
    .split('\n')
    .map((line) => line.replace(/#.*/, '').trim())
    .filter(Boolean);
  const query = spawnSync(
    'dpkg-query',
    ['-W', '-f', '${binary:Package} ${db:Status-Status}\n', ...wanted],
    {
      encoding: 'utf8',
    },
  );
  if (query.error) {
    throw Object.assign(
      new Error(
        'dpkg-query cannot be run: setting up needs Debian 12. Elsewhere, install what scripts/packages.txt lists.',
      ),
      { code: 'ERR_NOT_DEBIAN' },
    );
  }
  const installed = new Set(
    query.stdout
      .split('\n')
      .filter((line) => line.endsWith(' installed'))
      .map((line) => line.split(/[ :]/)[0]),
  );
  return wanted.filter((name) => !installed.has(name));
}

const hasPackageLists = () =>
  fs.existsSync('/var/lib/apt/lists') &&
  fs.readdirSync('/var/lib/apt/lists').some((name) => name.includes('_Packages'));

async function installPackages(update) {
  const missing = missingPackages();
  const aptEnvironment = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const apt = (log, ...args) =>
    command('apt-get', ['-q', '-y', ...args], { log, env: aptEnvironment, onLine: update });
  if (missing.length === 0 && hasPackageLists()) return 'all there';
  if (process.getuid() !== 0) {
    throw Object.assign(
      new Error(
        missing.length === 0
          ? 'apt has no package lists, which the lab looks its kernel up in. Run as root: apt-get update'
          : `Debian packages are missing. Run as root: apt-get update && apt-get install ${missing.join(' ')}`,
      ),
      { code: 'ERR_PACKAGES' },
    );
  }
  await apt('apt-update', 'update');
  if (missing.length > 0)
    await apt('apt-install', 'install', '--no-install-recommends', ...missing);
  return missing.length > 0 ? `${missing.length} installed` : 'lists fetched';
}

async function installModules(update) {
  const ran = await unlessUnchanged(
    'node_modules',
    fingerprint(['package.json', 'package-lock.json'], process.version),
    ['node_modules/.package-lock.json'],
    // Their install scripts are not run: ours would build the native code, which build.mjs does.
    () =>
      command('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], {
        log: 'npm-ci',
        onLine: update,
      }),
  );
  return ran ? '' : 'all there';
}

/** Installs whatever is missing. */
export async function setUp() {
  await step('Debian packages', installPackages);
  await step('npm packages', installModules);
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) await main(setUp);
