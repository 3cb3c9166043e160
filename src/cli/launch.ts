#!/usr/bin/env -S node --
/**
 * dist/cli/main.js: runs the bundles beside it (scripts/bundle-cli.mjs), from V8's code cache where there is one. A command
 * that ends well leaves the code that it used there, so that the next one of its kind need not compile it. The cache
 * lies with the bundles: who may write there owns the code anyway. Who may not has one of their own. V8 refuses a cache of another
 * version, but not one of another text of the same length: in the user's, the name says what it was made of.
 */
import fs from 'node:fs';
import vm from 'node:vm';

const DIRECTORY = `${__dirname}/cache`;
const OWN_DIRECTORY = ownDirectory();
const argv = process.argv.slice(2);
const command = /^[a-z]+$/.exec(argv[0] ?? '')?.[0] ?? 'clearvm';

/** Of a user but root, who has their own HOME also in a user namespace. */
function ownDirectory(): string | undefined {
  if (process.getuid?.() === 0 && !process.env['CLEARVM_USERNS']) return undefined;
  const { XDG_CACHE_HOME: cache, HOME: home } = process.env;
  return cache || home ? `${cache || `${home}/.cache`}/clearvm/code` : undefined;
}

function read(file: string): Buffer | undefined {
  try {
    return fs.readFileSync(file);
  } catch {
    return undefined; // The first command of its kind.
  }
}

function write(directory: string, name: string, data: Buffer): boolean {
  const temporary = `${directory}/${name}.${process.pid}`;
  try {
    fs.mkdirSync(directory, { recursive: true });
    fs.writeFileSync(temporary, data);
    fs.renameSync(temporary, `${directory}/${name}`);
    return true;
  } catch {
    return false;
  }
}

class Bundle {
  readonly exports: Partial<typeof import('./main.js')> = {};
  readonly #script: vm.Script;
  /** Of the cache beside the bundles, and of the user's own. */
  readonly #name: string;
  readonly #ownName: string;
  readonly #isCached: boolean;

  constructor(name: string) {
    const filename = `${__dirname}/${name}`;
    this.#name = `${name}-${command}-${process.version}`;
    let cachedData = read(`${DIRECTORY}/${this.#name}`);
    this.#ownName = this.#name;
    if (!cachedData && OWN_DIRECTORY !== undefined) {
      const { size, mtimeMs } = fs.statSync(filename);
      this.#ownName = `${this.#name}-${size}-${mtimeMs}`;
      cachedData = read(`${OWN_DIRECTORY}/${this.#ownName}`);
    }
    const text = fs.readFileSync(filename, 'latin1');
    const source = `(function(exports,require,module,__filename,__dirname){${text}\n})`;
    this.#script = new vm.Script(source, { filename, ...(cachedData ? { cachedData } : {}) });
    this.#isCached = cachedData !== undefined && this.#script.cachedDataRejected === false;
    // In place before it runs: the bundles import each other.
    bundles.set(name, this);
    const run = this.#script.runInThisContext() as (...args: unknown[]) => void;
    run(this.exports, requireBundle, this, filename, __dirname);
  }

  /** Leaves the code that was used for the next command of this kind. */
  keep(): void {
    if (this.#isCached) return;
    const data = this.#script.createCachedData();
    // An installation that this user may not write to goes without.
    if (write(DIRECTORY, this.#name, data) || OWN_DIRECTORY === undefined) return;
    if (write(OWN_DIRECTORY, this.#ownName, data)) this.#removeOthers(OWN_DIRECTORY);
  }

  /** What installations that have been replaced have left. */
  #removeOthers(directory: string): void {
    for (const name of fs.readdirSync(directory)) {
      if (name.startsWith(this.#name) && name !== this.#ownName) {
        fs.rmSync(`${directory}/${name}`, { force: true });
      }
    }
  }
}

const nodeRequire = require;
const bundles = new Map<string, Bundle>();

function requireBundle(name: string): unknown {
  if (!name.startsWith('./')) return nodeRequire(name);
  const file = name.slice(2);
  return (bundles.get(file) ?? new Bundle(file)).exports;
}

// It returns only where that has been done, or need not be.
if (process.getuid?.() !== 0)
  (nodeRequire('./enter.js') as typeof import('./enter.js')).enter(argv);

void new Bundle('first.js').exports.main?.(argv, (status) => {
  if (status === 0) for (const bundle of bundles.values()) bundle.keep();
});
