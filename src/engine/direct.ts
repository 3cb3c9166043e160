/** Containers that belong to this process: no monitor, no log, streams without a detour, gone with it. */
import { closeSync } from 'node:fs';
import path from 'node:path';

import { ClearVMError } from '../errors.js';
import { loadAddon } from '../vm/native.js';
import { StdioFds } from '../vm/stdio.js';
import type { TimelineRecorder } from '../vm/timings.js';
import { VMM_SOCKET, Vmm, type ExitStatus } from '../vm/vmm.js';
import { RunningContainer } from './container.js';
import type { EngineContext } from './context.js';
import { containerEvent, noteEvents } from './events.js';
import type { AbortSource, RunOptions } from './options.js';
import { GuestFiles } from './guest-files.js';
import { encodePlan, removeAnonymousVolumes, shapeOf, type Plan } from './plan.js';
import { ownStatus, type ContainerRecord } from './record.js';
import type { ContainerDirectories } from './state.js';

export class DirectRuns {
  readonly #context: EngineContext;
  #staleRemoved: Promise<unknown> | undefined;

  constructor(context: EngineContext) {
    this.#context = context;
  }

  /** From the plan to the running command. Errors: those of `Engine.run`. */
  async start(
    plan: Plan,
    options: RunOptions,
    timeline: TimelineRecorder,
  ): Promise<RunningContainer> {
    const { state: store, templates, spares, images, vmmPath } = this.#context;
    const { config, image, record } = plan;
    const payload = encodePlan(plan);
    const addon = loadAddon();
    // Debugging and counting are about the boot.
    const booted = config.template === false || options.debug || options.statistics;
    const shape = shapeOf(config);
    const netns = this.#context.network(addon);
    const template = booted ? undefined : templates.find(shape);
    const spare = template && spares.take(template, config);
    const guest = new GuestFiles(this.#context);
    // What is missing is told before anything is made.
    if (!spare) guest.open();
    let listenFd = -1;
    let stdio: StdioFds | undefined;
    let state: ContainerDirectories | undefined;
    let vmm: Vmm;
    try {
      state = store.create(
        config.id,
        options.name,
        image.id,
        path.join(image.layersDir, image.lower[0] ?? ''),
      );
      record.name = state.name;
      images.confirm(image);
      store.write(state, 'vm.json', config);
      store.write(state, 'config.json', plan.spec);
      stdio = new StdioFds(addon, {
        stdin: options.stdin ?? 'ignore',
        stdout: options.stdout ?? 'pipe',
        stderr: options.tty ? 'ignore' : (options.stderr ?? 'pipe'),
      });
      listenFd = addon.listenUnix(`${state.runDirectory}/${VMM_SOCKET}`);
      timeline.mark('prepared');
      vmm = new Vmm({
        addon,
        file: vmmPath,
        config,
        guest,
        spec: payload,
        stdio: stdio.vmm,
        terminal: record.tty,
        listenFd,
        ...(template ? { template } : {}),
        ...(spare ? { spare } : {}),
        ...(netns === undefined ? {} : { netns }),
        ...(options.debug ? { consoleFd: 2 } : {}),
        timeline,
      });
    } catch (error) {
      spare?.close();
      stdio?.closeAll();
      if (state) await store.remove(state);
      await removeAnonymousVolumes(this.#context.root, record);
      throw error;
    } finally {
      guest.close();
      if (listenFd >= 0) closeSync(listenFd);
    }
    stdio.closeVmmEnds();
    const container = this.#accompany(vmm, state, plan, stdio, options.signal, timeline);
    if (template) {
      container.then(
        () => {
          if (vmm.startedFrom === 'missing' || vmm.startedFrom === 'refused') {
            templates.makeSoon(shape);
          }
        },
        () => {},
      );
    }
    return container;
  }

  /** From the spawned VMM to the running command, and on to the end. */
  async #accompany(
    vmm: Vmm,
    state: ContainerDirectories,
    plan: Plan,
    stdio: StdioFds,
    signal: AbortSource | undefined,
    timeline: TimelineRecorder,
  ): Promise<RunningContainer> {
    const abort = (): void => vmm.destroy(toError(signal?.reason));
    signal?.addEventListener('abort', abort, { once: true });
    if (signal?.aborted) abort();
    const streams = stdio.streams();
    // A command that ends without reading its input is no error of this process; pipelines still hear of it.
    streams.stdin?.on('error', () => {});
    this.#write(state, 'state.json', ownStatus(vmm.pid, new Date()), vmm);
    const ended = this.#finish(vmm, state, plan.record, timeline).finally(() =>
      signal?.removeEventListener('abort', abort),
    );
    // Whoever calls wait() hears of it.
    ended.catch(() => {});
    try {
      await vmm.started;
    } catch (error) {
      for (const stream of Object.values(streams)) stream?.destroy();
      await ended.catch(() => {});
      throw error;
    }
    // With this file it is a container to everybody.
    this.#write(state, 'container.json', plan.record, vmm);
    const { root } = this.#context;
    noteEvents(root, containerEvent('create', plan.record), containerEvent('start', plan.record));
    this.#staleRemoved ??= this.#context.state.removeStale();
    return new RunningContainer(state, streams, vmm, timeline, ended);
  }

  #write(state: ContainerDirectories, file: string, value: unknown, vmm: Vmm): void {
    try {
      this.#context.state.write(state, file, value);
    } catch (error) {
      vmm.destroy(toError(error));
    }
  }

  async #finish(
    vmm: Vmm,
    state: ContainerDirectories,
    record: ContainerRecord,
    timeline: TimelineRecorder,
  ): Promise<ExitStatus> {
    let exitCode = 125;
    let ran = false;
    // Whoever cannot be started has no events.
    vmm.started.then(
      () => {
        ran = true;
      },
      () => {},
    );
    try {
      const status = await vmm.exited;
      exitCode = status.exitCode;
      // It touches no file any more, and ends; the kernel takes its time to free a VM, and nobody has to wait for that
      // (docs/decisions/end-of-run.md).
      vmm.destroy();
      return status;
    } catch (error) {
      await vmm.gone;
      throw error;
    } finally {
      await this.#context.state.remove(state);
      await removeAnonymousVolumes(this.#context.root, record);
      if (ran) {
        const die = containerEvent('die', record, { exitCode: String(exitCode) });
        noteEvents(this.#context.root, die, containerEvent('destroy', record));
      }
      await this.#staleRemoved;
      timeline.mark('cleaned');
    }
  }
}

function toError(reason: unknown): Error {
  return reason instanceof Error ? reason : new ClearVMError('ERR_ABORTED', String(reason));
}
