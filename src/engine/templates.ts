/**
 * Templates: VMs that wait for their orders, kept on disk and forked by the VMM (docs/decisions/templates.md).
 *
 *   <root>/templates/<name>.vm    one template (native/vmm/template.h)
 *   <runtime>/templates/<name>.*  what is kept of it while the host is up: its memory, checked, in RAM
 *
 * What is forked must be what would have been booted. A name tells shape, kernel, initramfs and VMM apart; the VMM itself checks
 * these and the host when it opens a template, boots where one does not fit, and says so. It makes templates, too, one
 * process at a time, and under another name first.
 */
import {
  closeSync,
  mkdirSync,
  openSync,
  readSync,
  readdirSync,
  rmSync,
  statSync,
  statfsSync,
} from 'node:fs';
import path from 'node:path';

import { ClearVMError, messageOf } from '../errors.js';
import { shareTag, type TemplateUse } from '../vm/config.js';
import { DEFAULT_KERNEL_PATH, loadAddon } from '../vm/native.js';
import { randomBytes } from './host.js';

/** How many 9p devices a template has, the root's included: a VM takes the next that is enough. */
const DEVICE_STEPS = [1, 2, 4, 8, 16, 32];
/**
 * How much memory a template has, bytes: a VM with less is forked from the next, and tells its kernel (vm.late_memory_end). What
 * a fork costs hardly depends on it up to 4 GiB.
 */
const MEMORY_STEPS = [0.5, 4, 16, 64].map((gibibytes) => gibibytes * 2 ** 30);
/** What our kernel has from the start, bytes, and cannot do without. */
const FIRST_MEMORY = 64 * 2 ** 20;
/** Templates that are kept; those that were made first go. */
const KEPT = 16;
/** What the disk must have left for one that nobody has asked for, bytes: what containers write comes first. */
const ROOM = 256 * 1024 * 1024;

export interface TemplateShape {
  cpus: number;
  /** Bytes. */
  memory: number;
  /** 9p devices that the container needs, the root's included. */
  exports: number;
}

interface Files {
  vmm: string;
  kernel: string;
  initrd: string;
}

export class TemplateStore {
  readonly #directory: string;
  readonly #cache: string;
  readonly #files: Files;
  readonly #known = new Map<string, TemplateUse>();
  readonly #building = new Set<string>();
  #ready = false;

  constructor(root: string, runtimeDirectory: string, files: Files) {
    this.#directory = `${root}/templates`;
    this.#cache = `${runtimeDirectory}/templates`;
    this.#files = files;
  }

  /** The template for VMs of that shape, whether it is there or not. Undefined where one of its files is missing. */
  find(shape: TemplateShape): TemplateUse | undefined {
    const devices = DEVICE_STEPS.find((step) => step >= shape.exports);
    if (devices === undefined) return undefined;
    const memory = this.#memoryFor(shape.memory);
    const shapeName = `${shape.cpus}-${memory}-${devices}`;
    const known = this.#known.get(shapeName);
    if (known) return known;
    const parts = [shapeName];
    try {
      for (const file of Object.values(this.#files)) {
        const { dev, ino, mtimeMs } = statSync(file);
        parts.push(`${dev}:${ino}:${mtimeMs}`);
      }
    } catch {
      return undefined;
    }
    this.#prepare();
    // A dot ends the name.
    const name = parts.join('-').replaceAll('.', '_');
    const found = {
      path: `${this.#directory}/${name}.vm`,
      cache: `${this.#cache}/${name}`,
      devices,
    };
    this.#known.set(shapeName, found);
    return found;
  }

  /**
   * Has it made in the background, by a process that outlives this one. Never fails: the next run boots, as this one has. At
   * once, because the process of a short command ends soon.
   */
  makeSoon(shape: TemplateShape): void {
    // A kernel that has been replaced meanwhile has another name.
    this.#known.clear();
    const template = this.find(shape);
    if (!template || this.#building.has(template.path)) return;
    this.#building.add(template.path);
    this.make(template, shape, true).then(
      () => this.#building.delete(template.path),
      // What has failed once is not tried again by this process.
      () => {},
    );
  }

  /** Makes it, unless it is there. Errors: ERR_TEMPLATE_BUILD. */
  make(template: TemplateUse, shape: TemplateShape, background = false): Promise<void> {
    const args = [
      ...['--kernel', this.#files.kernel, '--initrd', this.#files.initrd, '--jail', 'spawned'],
      ...['--cpus', String(shape.cpus), '--memory', String(this.#memoryFor(shape.memory))],
      ...['--template-save', template.path],
    ];
    for (let i = 0; i < template.devices; i++) args.push('--unserved', shareTag(i));
    return new Promise((resolve, reject) => {
      const fail = (cause: unknown, why: string): void =>
        reject(
          new ClearVMError(
            'ERR_TEMPLATE_BUILD',
            `cannot make the template ${template.path}: ${why}`,
            { cause },
          ),
        );
      let logFd = -1;
      try {
        const { bavail, bsize } = statfsSync(this.#directory);
        if (background && bavail * bsize < ROOM) throw new Error('there is little room');
        this.#tidy(template);
        // Without a name: others may be making the same, and this process may end first.
        const log = `${template.path}.${randomBytes(8).toString('hex')}.log`;
        logFd = openSync(log, 'wx+', 0o600);
        rmSync(log);
        const options = {
          file: this.#files.vmm,
          args,
          fds: [-1, -1, logFd],
          namespaces: true,
          background,
        };
        loadAddon().spawnVmm(options, (code, signal) => {
          const said = code === 0 ? '' : contents(logFd);
          closeSync(logFd);
          if (code === 0) resolve();
          else fail(undefined, said || `the VMM ended with ${signal ? `signal ${signal}` : code}`);
        });
      } catch (cause) {
        if (logFd >= 0) closeSync(logFd);
        fail(cause, messageOf(cause));
      }
    });
  }

  #memoryFor(bytes: number): number {
    // Nobody else's kernel can be told.
    if (this.#files.kernel !== DEFAULT_KERNEL_PATH || bytes < FIRST_MEMORY) return bytes;
    return MEMORY_STEPS.find((step) => step >= bytes) ?? bytes;
  }

  #prepare(): void {
    if (this.#ready) return;
    try {
      for (const directory of [this.#directory, this.#cache]) {
        mkdirSync(directory, { recursive: true, mode: 0o700 });
      }
      this.#ready = true;
      // Huge pages hold the kernel's text for all forks of a template: most of their page faults are spared. Where this cannot
      // be mounted, the directory does what it can.
      if (statSync(this.#cache).dev === statSync(path.dirname(this.#cache)).dev) {
        loadAddon().mountTmpfs(this.#cache, 'huge=advise,mode=0700');
      }
    } catch {
      // Whoever cannot make directories cannot make containers either, and is told so there.
    }
  }

  /** Makes room for one more, and removes what is kept of others that are gone. Running VMs keep what they have of them. */
  #tidy(wanted: TemplateUse): void {
    const templates = readdirSync(this.#directory)
      .filter((name) => name.endsWith('.vm'))
      // Another engine may have removed it since.
      .map((name) => {
        const found = statSync(`${this.#directory}/${name}`, { throwIfNoEntry: false });
        return { name, at: found?.mtimeMs ?? 0 };
      })
      .sort((a, b) => b.at - a.at);
    for (const { name } of templates.slice(KEPT - 1)) {
      const file = `${this.#directory}/${name}`;
      if (file !== wanted.path) rmSync(file, { force: true });
    }
    for (const name of readdirSync(this.#cache)) {
      const [template = '', identity] = name.split('.');
      const now = statSync(`${this.#directory}/${template}.vm`, {
        bigint: true,
        throwIfNoEntry: false,
      });
      // As native/vmm/template.cc writes it.
      const good = now && [now.dev, now.ino, now.size, now.mtimeNs, now.ctimeNs].join(':');
      if (identity !== good) rmSync(`${this.#cache}/${name}`, { force: true });
    }
  }
}

/** Of a file of at most 64 KiB, wherever its position is. */
function contents(fd: number): string {
  const bytes = Buffer.alloc(65536);
  return bytes.toString('utf8', 0, readSync(fd, bytes, 0, bytes.length, 0)).trim();
}
