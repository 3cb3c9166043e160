/** The engine: images in, running containers out. */
import { randomBytes } from 'node:crypto';
import { closeSync, openSync } from 'node:fs';
import path from 'node:path';

import { ClearVMError, errnoOf, messageOf } from '../errors.js';
import { ImageStore, type ResolvedImage } from '../image/index.js';
import { noNetworkFiles } from '../network/none.js';
import type { Addon } from '../vm/addon-types.js';
import { checkVmConfig, type VmConfig } from '../vm/config.js';
import {
  DEFAULT_INITRD_PATH,
  DEFAULT_KERNEL_PATH,
  DEFAULT_VMM_PATH,
  loadAddon,
} from '../vm/native.js';
import { checkOciSpec, encodeSpec, type BindShare, type OciSpec } from '../vm/spec.js';
import { StdioFds } from '../vm/stdio.js';
import { TimelineRecorder } from '../vm/timings.js';
import { Vmm, type ExitStatus } from '../vm/vmm.js';
import { RunningContainer } from './container.js';
import type { Finding } from './doctor.js';
import { readEnvironmentFile } from './environment.js';
import { processStartTime } from './host.js';
import { requireKvm } from './kvm-check.js';
import { checkRunOptions, type RunOptions } from './options.js';
import { mergeProcess } from './process.js';
import { buildRuntimeSpec } from './runtime-spec.js';
import { parseCpus, parseMemory } from './size.js';
import { StateStore, type ContainerState } from './state.js';
import { parseVolume, resolveVolumes, type Volume } from './volumes.js';

export const DEFAULT_ROOT = '/var/lib/clearvm';
export const DEFAULT_RUNTIME_DIRECTORY = '/run/clearvm';
export const DEFAULT_MEMORY = '512m';
export const DEFAULT_CPUS = 1;

/** How long a VMM that has told its container's exit may take to end, ms. */
const END_GRACE = 5000;

export interface EngineOptions {
  /** Images and writable layers: $CLEARVM_ROOT, or /var/lib/clearvm. Without commas and colons. */
  root?: string;
  /** State of running containers: $CLEARVM_RUN, or /run/clearvm. */
  runtimeDir?: string;
  /** clearvm-vmm: $CLEARVM_VMM, or the one that was built with this package. */
  vmmPath?: string;
  /** The guest kernel (vmlinux): $CLEARVM_KERNEL, or this package's. */
  kernelPath?: string;
  /** The initramfs: $CLEARVM_INITRD, or this package's. */
  initrdPath?: string;
}

/** Everything that is decided before anything is made on the host. */
interface Plan {
  config: VmConfig;
  spec: OciSpec;
  payload: Buffer;
}

export class Engine {
  readonly root: string;
  readonly runtimeDir: string;
  readonly vmmPath: string;
  readonly kernelPath: string;
  readonly initrdPath: string;
  /** The images on this host. */
  readonly images: ImageStore;
  readonly #state: StateStore;
  #staleRemoved: Promise<unknown> | undefined;

  constructor(options: EngineOptions = {}) {
    const { env } = process;
    const pick = (given: string | undefined, name: string, fallback: string): string =>
      path.resolve(given || env[name] || fallback);
    this.root = pick(options.root, 'CLEARVM_ROOT', DEFAULT_ROOT);
    this.runtimeDir = pick(options.runtimeDir, 'CLEARVM_RUN', DEFAULT_RUNTIME_DIRECTORY);
    this.vmmPath = pick(options.vmmPath, 'CLEARVM_VMM', DEFAULT_VMM_PATH);
    this.kernelPath = pick(options.kernelPath, 'CLEARVM_KERNEL', DEFAULT_KERNEL_PATH);
    this.initrdPath = pick(options.initrdPath, 'CLEARVM_INITRD', DEFAULT_INITRD_PATH);
    this.images = new ImageStore({ root: path.join(this.root, 'images') });
    this.#state = new StateStore(this.root, this.runtimeDir);
  }

  /**
   * Runs an image as a VM, and returns when its command runs. Options and image are checked before anything is made;
   * whatever fails, nothing stays behind.
   *
   * Errors (each a ClearVMError with a `code`): ERR_RUN_OPTIONS and the codes of single options; the image store's;
   * ERR_KVM_MISSING, ERR_KVM_PERMISSION, ERR_KVM_SOFTWARE; ERR_KERNEL_MISSING, ERR_INITRD_MISSING, ERR_VMM_SPAWN,
   * ERR_STATE; what the VMM reports (ERR_KVM, ERR_KERNEL_IMAGE, ERR_GUEST_PANIC, ...); and ERR_PROCESS_START with the
   * `exitCode` 126 or 127 for a command that cannot be executed or found.
   */
  async run(image: string, options: RunOptions = {}): Promise<RunningContainer> {
    const timeline = new TimelineRecorder();
    timeline.mark('request');
    checkRunOptions(options);
    options.signal?.throwIfAborted();
    const memory = parseMemory(options.memory ?? DEFAULT_MEMORY);
    const cpus = parseCpus(options.cpus ?? DEFAULT_CPUS);
    const wanted = (options.volumes ?? []).map((volume) =>
      typeof volume === 'string' ? parseVolume(volume) : volume,
    );
    const fileChanges = [];
    for (const file of options.envFile === undefined ? [] : [options.envFile].flat()) {
      fileChanges.push(...(await readEnvironmentFile(file, process.env)));
    }
    const resolved = await this.images.resolve(image);
    timeline.mark('image.resolved');

    requireKvm(this.runtimeDir);
    const addon = loadAddon();
    const id = randomBytes(32).toString('hex');
    const hostname = options.hostname ?? id.slice(0, 12);
    const runConfig = resolved.config.config ?? {};
    const merged = mergeProcess(runConfig, options, hostname, fileChanges, process.env);
    const volumes = resolveVolumes(wanted, process.cwd());
    const spec = buildRuntimeSpec({
      process: merged,
      hostname,
      image: resolved.config,
      volumes,
      rootPath: `${this.root}/containers/${id}/merged`,
    });
    const config = this.#vmConfig(
      id,
      image,
      resolved,
      volumes,
      { memory, cpus, hostname },
      options,
    );
    const plan = makePlan(config, spec, volumes, (options.stdin ?? 'ignore') !== 'ignore');
    return this.#start(addon, plan, options, resolved, timeline);
  }

  /** Ids of the images of running containers: what `images.remove` must leave alone. */
  imagesInUse(): Promise<string[]> {
    return this.#state.imagesInUse();
  }

  /** Removes what engines that were killed have left behind; `run` does so by itself. Returns the containers' ids. */
  removeStale(): Promise<string[]> {
    return this.#state.removeStale();
  }

  /** What this host lacks for running containers, and what to do about it. */
  async diagnose(): Promise<Finding[]> {
    const { diagnose } = await import('./doctor.js');
    return diagnose(this);
  }

  #vmConfig(
    id: string,
    reference: string,
    image: ResolvedImage,
    volumes: Volume[],
    chosen: { memory: number; cpus: number; hostname: string },
    options: RunOptions,
  ): VmConfig {
    return {
      version: 1,
      id,
      cpus: chosen.cpus,
      memory: chosen.memory,
      kernel: this.kernelPath,
      initrd: this.initrdPath,
      ...(options.debug ? { debug: true } : {}),
      ...(options.statistics ? { statistics: true } : {}),
      image: { reference, id: image.id },
      root: {
        layers: image.layersDir,
        lower: image.lower,
        state: `${this.root}/containers/${id}`,
      },
      shares: volumes.map((volume, index) => ({
        tag: `vol${index}`,
        path: volume.source,
        ...(volume.readOnly ? { readOnly: true } : {}),
      })),
      files: noNetworkFiles(chosen.hostname),
    };
  }

  async #start(
    addon: Addon,
    { config, spec, payload }: Plan,
    options: RunOptions,
    image: ResolvedImage,
    timeline: TimelineRecorder,
  ): Promise<RunningContainer> {
    const kernelFd = openGuestFile(this.kernelPath, 'ERR_KERNEL_MISSING', 'guest kernel');
    let initrdFd = -1;
    let stdio: StdioFds | undefined;
    let state: ContainerState | undefined;
    let vmm: Vmm;
    try {
      initrdFd = openGuestFile(this.initrdPath, 'ERR_INITRD_MISSING', 'initramfs');
      state = this.#state.create(config.id, options.name, image.id);
      config.name = state.name;
      stdio = new StdioFds(addon, {
        stdin: options.stdin ?? 'ignore',
        stdout: options.stdout ?? 'pipe',
        stderr: options.stderr ?? 'pipe',
      });
      timeline.mark('prepared');
      vmm = new Vmm({
        addon,
        file: this.vmmPath,
        config,
        kernelFd,
        initrdFd,
        spec: payload,
        stdio: stdio.vmm,
        ...(options.debug ? { consoleFd: 2 } : {}),
        timeline,
      });
    } catch (error) {
      stdio?.closeAll();
      if (state) await this.#state.remove(state);
      throw error;
    } finally {
      for (const fd of [kernelFd, initrdFd]) if (fd >= 0) closeSync(fd);
    }
    stdio.closeVmmEnds();
    return this.#accompany(vmm, state, config, spec, stdio, options.signal, timeline);
  }

  /** From the spawned VMM to the running command, and on to the end. */
  async #accompany(
    vmm: Vmm,
    state: ContainerState,
    config: VmConfig,
    spec: OciSpec,
    stdio: StdioFds,
    signal: AbortSignal | undefined,
    timeline: TimelineRecorder,
  ): Promise<RunningContainer> {
    const abort = (): void => vmm.destroy(toError(signal?.reason));
    signal?.addEventListener('abort', abort, { once: true });
    if (signal?.aborted) abort();
    const streams = stdio.streams();
    // A command that ends without reading its input is no error of this process; pipelines still hear of it.
    streams.stdin?.on('error', () => {});

    // Behind the spawn: while the VM boots, nobody waits for these files.
    this.#writeState(state, config, spec, vmm);
    const ended = this.#finish(vmm, state, timeline).finally(() =>
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
    this.#staleRemoved ??= this.#state.removeStale();
    return new RunningContainer(state.id, state.name, streams, vmm, timeline, ended);
  }

  #writeState(state: ContainerState, config: VmConfig, spec: OciSpec, vmm: Vmm): void {
    const startTime = processStartTime(vmm.pid);
    if (startTime !== undefined) config.vmm = { pid: vmm.pid, startTime };
    try {
      this.#state.write(state, 'vm.json', config);
      this.#state.write(state, 'config.json', spec);
    } catch (error) {
      vmm.destroy(toError(error));
    }
  }

  async #finish(vmm: Vmm, state: ContainerState, timeline: TimelineRecorder): Promise<ExitStatus> {
    try {
      return await vmm.exited;
    } finally {
      const timer = setTimeout(() => vmm.destroy(), END_GRACE);
      await vmm.gone;
      clearTimeout(timer);
      await this.#state.remove(state);
      await this.#staleRemoved;
      timeline.mark('cleaned');
    }
  }
}

/** Checks everything, and encodes the spec. Errors: ERR_VM_CONFIG, ERR_OCI_SPEC, ERR_SPEC_TOO_LARGE. */
function makePlan(config: VmConfig, spec: OciSpec, volumes: Volume[], stdin: boolean): Plan {
  checkVmConfig(config);
  checkOciSpec(spec);
  const shares = new Map<string, BindShare>();
  volumes.forEach((volume, index) =>
    shares.set(volume.target, { tag: `vol${index}`, file: volume.file }),
  );
  return { config, spec, payload: encodeSpec(spec, { shares, files: config.files, stdin }) };
}

function openGuestFile(file: string, code: string, what: string): number {
  try {
    return openSync(file, 'r');
  } catch (cause) {
    throw new ClearVMError(
      code,
      errnoOf(cause) === 'ENOENT'
        ? `the ${what} ${file} does not exist: build it with \`npm run build\``
        : `the ${what} cannot be opened: ${messageOf(cause)}`,
      { cause },
    );
  }
}

function toError(reason: unknown): Error {
  return reason instanceof Error ? reason : new ClearVMError('ERR_ABORTED', String(reason));
}
