/** VMMs that are started in advance: `Engine.prepare({ spares })`. They belong to this process, and end with it. */
import { closeSync, openSync } from 'node:fs';

import type { TemplateUse, VmConfig } from '../vm/config.js';
import { loadAddon } from '../vm/native.js';
import { Spare } from '../vm/spare.js';
import type { EngineContext } from './context.js';
import { GuestFiles } from './guest-files.js';
import type { TemplateShape } from './templates.js';

/** Used ones are replaced when nothing has been started for so long, ms: who starts many at once has the processors first. */
const QUIET_MS = 20;
/** One that has ended sooner, ms, would do so again: it is replaced when the next container has been started. */
const SOON_MS = 1000;

interface Kept {
  shape: TemplateShape;
  count: number;
  spares: Set<Spare>;
}

export class Spares {
  readonly #context: EngineContext;
  readonly #kept = new Map<string, Kept>();
  #mounts = -1;
  #timer: NodeJS.Timeout | undefined;

  constructor(context: EngineContext) {
    this.#context = context;
  }

  /** From now on there are to be `count` for VMs of that shape. Errors: as of `Engine.prepare`. */
  keep(shape: TemplateShape, template: TemplateUse, count: number): void {
    const key = keyOf(template, shape.memory);
    const kept = this.#kept.get(key) ?? { shape, count, spares: new Set() };
    kept.count = count;
    this.#kept.set(key, kept);
    this.#fill(kept);
    if (count === 0) this.#kept.delete(key);
    if (this.#kept.size > 0 || this.#mounts < 0) return;
    closeSync(this.#mounts);
    this.#mounts = -1;
  }

  /** One for that VM, where there is one; its place is filled later. */
  take(template: TemplateUse, config: VmConfig): Spare | undefined {
    if (this.#kept.size === 0) return undefined;
    const kept = this.#kept.get(keyOf(template, config.memory));
    // Its threads run already, wherever they like.
    if (!kept || config.cpusetCpus) return undefined;
    this.#refillSoon();
    this.#closeStale();
    // The eldest: it is ready the soonest.
    const [spare] = kept.spares;
    if (spare) kept.spares.delete(spare);
    return spare;
  }

  #refillSoon(): void {
    this.#timer ??= setTimeout(() => this.#refill(), QUIET_MS).unref();
    this.#timer.refresh();
  }

  #refill(): void {
    for (const kept of this.#kept.values()) {
      try {
        this.#fill(kept);
      } catch {
        // Whoever starts the next container without one hears what is wrong.
      }
    }
  }

  /** They have mount namespaces of their own since they were started: what a volume is on may not be there. */
  #closeStale(): void {
    if (!loadAddon().mountsChanged(this.#mounts)) return;
    for (const { spares } of this.#kept.values()) {
      for (const spare of spares) spare.close();
      spares.clear();
    }
  }

  #fill({ shape, count, spares }: Kept): void {
    for (const spare of [...spares].slice(count)) {
      spares.delete(spare);
      spare.close();
    }
    if (spares.size === count) return;
    const { vmmPath: file, templates } = this.#context;
    const addon = loadAddon();
    const template = templates.find(shape);
    const netns = this.#context.network(addon);
    // Behind those two, which mount something the first time.
    if (this.#mounts < 0) this.#mounts = openSync('/proc/self/mountinfo', 'r');
    this.#closeStale();
    const files = new GuestFiles(this.#context);
    try {
      const guest = files.open();
      while (template && spares.size < count) {
        const options = { addon, file, template, guest };
        const born = performance.now();
        const spare: Spare = new Spare(
          { ...options, ...(netns === undefined ? {} : { netns }), ...shape },
          () => {
            spares.delete(spare);
            if (performance.now() - born > SOON_MS) this.#refillSoon();
          },
        );
        spares.add(spare);
      }
    } finally {
      files.close();
    }
  }
}

function keyOf(template: TemplateUse, memory: number): string {
  return `${template.path}:${memory}`;
}
