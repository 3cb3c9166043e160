/** ClearVM itself: booted, forked from a template when it is asked for or before, and as a command. */
import path from 'node:path';

import { Engine } from '../../engine/engine.js';
import { isHealthy } from '../../engine/doctor.js';
import type { RunningContainer } from '../../engine/container.js';
import { messageOf } from '../../errors.js';
import { PACKAGE_ROOT } from '../../vm/native.js';
import type { Timing } from '../../vm/timings.js';
import { CommandInstance, READY, unavailable, workloadError } from '../command.js';
import { withDescendants } from '../processes.js';
import type { Instance, Place, Runtime, Workload } from '../types.js';

const IMAGE = 'clearvm-bench:latest';
/** A VM is given so long to be forked, ms. */
const SPARE_MS = 200;

/** One engine for all of them, with a store of its own in the benchmark's directory. */
export class ClearVMHost {
  readonly engine: Engine;
  readonly #place: Place;
  #imported: Promise<unknown> | undefined;

  constructor(place: Place) {
    this.#place = place;
    this.engine = new Engine({
      root: path.join(place.directory, 'clearvm'),
      runtimeDir: path.join(place.runtimeDirectory, 'clearvm'),
      kernelPath: place.kernel,
    });
  }

  async version(): Promise<string> {
    const findings = await this.engine.diagnose();
    if (isHealthy(findings)) return 'this one';
    throw unavailable(findings.find(({ level }) => level === 'error')?.message ?? 'see doctor');
  }

  import(): Promise<unknown> {
    return (this.#imported ??= this.engine.images.import(this.#place.rootArchive, {
      name: IMAGE,
      config: { Entrypoint: ['/bench'] },
    }));
  }
}

function options({ words, memoryMiB, volume }: Workload) {
  return {
    cmd: [...words],
    memory: `${memoryMiB}m`,
    cpus: 1,
    ...(volume === undefined ? {} : { volumes: [`${volume}:/volume`] }),
  };
}

abstract class ClearVMRuntime implements Runtime {
  abstract readonly id: string;
  abstract readonly label: string;
  readonly kind = 'vm';
  readonly hasMemorySize = true;
  protected readonly host: ClearVMHost;

  constructor(host: ClearVMHost) {
    this.host = host;
  }

  detect(): Promise<string> {
    return this.host.version();
  }

  async prepare(workloads: readonly Workload[]): Promise<void> {
    await this.host.import();
    for (const workload of workloads) await this.prepareShape(workload);
  }

  /** Makes the template, where forks are what is measured. */
  protected async prepareShape(workload: Workload): Promise<void> {
    await this.host.engine.prepare(options(workload));
  }

  refuses(): string | undefined {
    return undefined;
  }

  abstract start(workload: Workload, signal: AbortSignal): Promise<Instance>;

  async close(): Promise<void> {
    // All of it lies in the benchmark's directories.
  }
}

/** Calls of the library by this process. */
export class ClearVMLibrary extends ClearVMRuntime {
  readonly id: string;
  readonly label: string;
  readonly #from: 'template' | 'spare' | 'kernel';

  constructor(host: ClearVMHost, from: 'template' | 'spare' | 'kernel') {
    super(host);
    this.#from = from;
    this.id = { template: 'clearvm', spare: 'clearvm-spare', kernel: 'clearvm-cold' }[from];
    this.label = {
      template: 'clearvm (forked)',
      spare: 'clearvm (forked in advance)',
      kernel: 'clearvm (cold)',
    }[from];
  }

  protected override async prepareShape(workload: Workload): Promise<void> {
    if (this.#from !== 'kernel') await super.prepareShape(workload);
  }

  async start(workload: Workload, signal: AbortSignal): Promise<Instance> {
    const { engine } = this.host;
    const shape = options(workload);
    if (this.#from === 'spare') {
      await engine.prepare({ ...shape, spares: 1 });
      await new Promise((resolve) => setTimeout(resolve, SPARE_MS));
    }
    const start = performance.now();
    const container = await engine.run(IMAGE, {
      ...shape,
      ...(this.#from === 'kernel' ? { template: false } : {}),
      signal,
    });
    if (container.startedFrom !== this.#from) {
      await container.stop();
      throw workloadError(
        `the VM was started from: ${container.startedFrom}, and not: ${this.#from}`,
      );
    }
    // None is to be made while the next one is measured.
    const tidy = () => engine.prepare({ ...shape, spares: 0 });
    return new LibraryInstance(container, start, this.#from === 'spare' ? tidy : undefined);
  }
}

class LibraryInstance implements Instance {
  readonly ready: Promise<number>;
  readonly ended: Promise<string>;
  goneMs = Number.NaN;
  readonly #container: RunningContainer;
  #stopped = false;

  constructor(container: RunningContainer, start: number, tidy?: () => Promise<void>) {
    this.#container = container;
    const { stdout, stderr } = container;
    let output = '';
    let errors = '';
    stderr?.on('data', (chunk: Buffer) => (errors += chunk.toString('latin1')));
    const drained = new Promise<void>((resolve) => stdout?.on('close', resolve));
    this.ready = new Promise((resolve, reject) => {
      let known = false;
      stdout?.on('data', (chunk: Buffer) => {
        output += chunk.toString('latin1');
        if (known || !output.includes(READY)) return;
        known = true;
        resolve(performance.now() - start);
      });
      void drained.then(() => reject(workloadError(`the workload said nothing: ${errors}`)));
    });
    this.ended = this.#end(start, drained, () => output + errors).finally(tidy);
    this.ready.catch(() => {});
    this.ended.catch(() => {});
  }

  async #end(start: number, drained: Promise<void>, output: () => string): Promise<string> {
    let failed: unknown;
    try {
      const { exitCode } = await this.#container.wait();
      if (exitCode !== 0) failed = `status ${exitCode}`;
    } catch (error) {
      failed = messageOf(error);
    }
    this.goneMs = performance.now() - start;
    await drained;
    if (this.#stopped || (failed === undefined && !output().includes('clearvm-bench error'))) {
      return output();
    }
    throw workloadError(`the workload failed (${String(failed)}): ${output().slice(-500)}`);
  }

  async pids(): Promise<number[]> {
    return withDescendants([this.#container.vmmPid]);
  }

  timings(): Timing[] {
    return this.#container.timings;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#container.stop();
    await this.ended;
  }
}

/** Whole `clearvm run` processes, forked: what a shell sees, Node's own start included. */
export class ClearVMCommand extends ClearVMRuntime {
  readonly id = 'clearvm-cli';
  readonly label = 'clearvm run (command)';

  async start(workload: Workload): Promise<Instance> {
    const { engine } = this.host;
    const { cmd, memory, volumes = [] } = options(workload);
    const main = path.join(PACKAGE_ROOT, 'dist/cli/main.js');
    return new CommandInstance({
      file: process.execPath,
      args: [
        ...['--', main, '--root', engine.root, 'run', '--rm', '-m', memory],
        ...volumes.flatMap((volume) => ['-v', volume]),
        ...[IMAGE, ...cmd],
      ],
      env: {
        CLEARVM_RUN: engine.runtimeDir,
        CLEARVM_KERNEL: engine.kernelPath,
        CLEARVM_INITRD: engine.initrdPath,
        CLEARVM_VMM: engine.vmmPath,
      },
    });
  }
}
