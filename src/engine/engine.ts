/** The engine: images in, containers out. */
import type { ImageStore } from '../image/index.js';
import { TimelineRecorder } from '../vm/timings.js';
import type { RunningContainer } from './container.js';
import { EngineContext, type EngineOptions } from './context.js';
import { DirectRuns } from './direct.js';
import type { Finding } from './finding.js';
import { noteContainer, readEvents, type EngineEvent, type EventOptions } from './events.js';
import type { ExecOptions, ExecProcess } from './exec.js';
import type { FilterTest } from './filters.js';
import type { ContainerSummary, ListOptions } from './list.js';
import type { Container } from './managed.js';
import { checkGuestFiles } from './guest-files.js';
import { requireKvm } from './kvm-check.js';
import { checkRunOptions, checkSpares, type PrepareOptions, type RunOptions } from './options.js';
import { DEFAULT_CPUS, DEFAULT_MEMORY, planContainer } from './plan.js';
import type { Pruned } from './prune.js';
import { isActive, readRecord } from './record.js';
import type { Running } from './running.js';
import type { ContainerProcessInfo, ContainerSample } from './running-commands.js';
import { parseCpus, parseMemory } from './size.js';
import type { SnapshotStore } from './snapshots.js';
import type { TemplateShape } from './templates.js';
import type { DiskUsage } from './usage.js';
import type { VolumeStore } from './volume-store.js';

export { DEFAULT_ROOT, DEFAULT_RUNTIME_DIRECTORY, type EngineOptions } from './context.js';
export { DEFAULT_CPUS, DEFAULT_MEMORY } from './plan.js';

/** Runs container images as virtual machines. Engines that share a `root` see the same images, containers and volumes, whatever process they are in. */
export class Engine {
  readonly #context: EngineContext;
  readonly #direct: DirectRuns;

  constructor(options: EngineOptions = {}) {
    this.#context = new EngineContext(options);
    this.#direct = new DirectRuns(this.#context);
  }

  /** Where images, containers, templates and volumes are kept: an absolute path. */
  get root(): string {
    return this.#context.root;
  }

  /** Where the sockets of running containers are: an absolute path. */
  get runtimeDir(): string {
    return this.#context.runtimeDir;
  }

  /** The VMM that it starts. */
  get vmmPath(): string {
    return this.#context.vmmPath;
  }

  /** The guest kernel: an ELF vmlinux. */
  get kernelPath(): string {
    return this.#context.kernelPath;
  }

  /** The guest's initramfs, which holds init. */
  get initrdPath(): string {
    return this.#context.initrdPath;
  }

  /** The images on this host. */
  get images(): ImageStore {
    return this.#context.images;
  }

  /**
   * Runs an image as a VM that belongs to this process, and returns when its command runs. Options and image are checked before
   * anything is made; whatever fails, nothing stays behind; nor does anything of the container when it has ended.
   *
   * Errors (each a ClearVMError with a `code`): ERR_RUN_OPTIONS and the codes of single options; the image store's;
   * ERR_KVM_MISSING, ERR_KVM_PERMISSION, ERR_KVM_SOFTWARE; ERR_KERNEL_MISSING, ERR_INITRD_MISSING, ERR_VMM_SPAWN,
   * ERR_STATE; what the VMM reports (ERR_KVM, ERR_KERNEL_IMAGE, ERR_GUEST_PANIC, ...); and ERR_PROCESS_START with the
   * `exitCode` 126 or 127 for a command that cannot be executed or found.
   */
  async run(image: string, options: RunOptions = {}): Promise<RunningContainer> {
    const timeline = new TimelineRecorder();
    timeline.mark('request');
    const plan = await planContainer(
      this.#context,
      image,
      { ...options, autoRemove: true },
      timeline,
    );
    return this.#direct.start(plan, options, timeline);
  }

  /**
   * Makes a container that is kept until it is removed, and that any process can start, stop and look at. It runs beside a
   * monitor of its own, and outlives this process. `stdin` is `pipe` or `ignore`; the other streams are the log's.
   * Errors: those of `run`.
   */
  async create(image: string, options: RunOptions = {}): Promise<Container> {
    await this.#context.state.removeStale();
    const { createContainer } = await import('./create.js');
    return createContainer(this.#context, image, options);
  }

  /** A container by its id, the beginning of its id, or its name. Errors: ERR_CONTAINER_NOT_FOUND, ERR_CONTAINER_AMBIGUOUS. */
  async container(reference: string): Promise<Container> {
    const { openContainer } = await import('./create.js');
    return openContainer(this.#context, reference);
  }

  /** The newest first. Errors: ERR_FILTER. */
  async containers(options: ListOptions = {}): Promise<ContainerSummary[]> {
    const { listContainers } = await import('./list.js');
    return listContainers(this.root, options);
  }

  /** The named volumes on this host. */
  async volumes(): Promise<VolumeStore> {
    const { VolumeStore } = await import('./volume-store.js');
    return new VolumeStore(this.root);
  }

  /** The snapshots on this host. */
  async snapshots(): Promise<SnapshotStore> {
    const { SnapshotStore } = await import('./snapshots.js');
    return new SnapshotStore(this.#context);
  }

  /** Removes containers that do not run, `filter` permitting. One that somebody starts or removes meanwhile is let be. */
  async pruneContainers(filter: FilterTest<ContainerSummary> = () => true): Promise<Pruned> {
    const { prune } = await import('./prune.js');
    const stopped = (await this.containers({ all: true })).filter(
      (each) => !isActive(each.state.status) && filter(each),
    );
    return prune(
      stopped.map(({ id }) => id),
      (id) => `${this.root}/containers/${id}/upper`,
      async (id) => (await this.container(id)).remove(),
    );
  }

  /**
   * Makes the template from which containers of that shape are forked, and waits for it. `run` has it made by itself, in the
   * background, when it has booted for want of one. With `spares`, that many VMs of exactly this shape are kept forked in
   * advance, for `run` to take: its start takes a third less then. Each costs some 3 MiB, is used once, and is replaced a moment
   * later; all end with this process, or by `spares: 0`. Errors: ERR_MEMORY, ERR_CPUS, the files' and KVM's as of `run`, ERR_TEMPLATE_BUILD;
   * ERR_RUN_OPTIONS (`spares` is no whole number from 0 to 1000).
   */
  async prepare({ spares, ...options }: PrepareOptions = {}): Promise<void> {
    checkRunOptions(options);
    if (spares !== undefined) checkSpares(spares);
    const shape: TemplateShape = {
      memory: parseMemory(options.memory ?? DEFAULT_MEMORY),
      cpus: parseCpus(options.cpus ?? DEFAULT_CPUS).cpus,
      exports: 1 + (options.volumes?.length ?? 0),
    };
    requireKvm(this.runtimeDir);
    checkGuestFiles(this.#context);
    const { templates } = this.#context;
    const template = templates.find(shape);
    if (!template) return;
    await templates.make(template, shape);
    if (spares !== undefined) this.#context.spares.keep(shape, template, spares);
  }

  /**
   * Starts a command in a container that runs, by its id, its name or the beginning of its id, and returns when it runs.
   * Errors: ERR_CONTAINER_NOT_FOUND, ERR_CONTAINER_AMBIGUOUS, ERR_CONTAINER_NOT_RUNNING, ERR_CONTAINER_PAUSED; ERR_EXEC_OPTIONS,
   * ERR_ENV, ERR_ENV_FILE, ERR_SPEC_TOO_LARGE; ERR_VMM_BUSY; ERR_PROCESS_START with the `exitCode` 126 or 127 for a command that
   * cannot be executed or found.
   */
  async exec(
    container: string,
    cmd: readonly string[],
    options: ExecOptions = {},
  ): Promise<ExecProcess> {
    const { startExec } = await import('./exec.js');
    return startExec(await this.#find(container), cmd, options);
  }

  /** Stops the processors of a running container's VM. Errors: of `exec` those about the container; ERR_ALREADY. */
  async pause(container: string): Promise<void> {
    await this.#setPaused(container, true);
  }

  /** Lets them go on. Errors: as of `pause`. */
  async unpause(container: string): Promise<void> {
    await this.#setPaused(container, false);
  }

  /** The processes in a running container. Errors: of `exec` those about the container. */
  async top(container: string): Promise<ContainerProcessInfo[]> {
    return (await commands()).listProcesses(await this.#find(container));
  }

  /** What a running container uses now. Errors: as of `top`. */
  async sample(container: string): Promise<ContainerSample> {
    return (await commands()).takeSample(await this.#find(container));
  }

  /** Id and name of a container. Errors: of `exec` those about the container. */
  async identify(container: string): Promise<{ id: string; name: string }> {
    const { id, name } = await this.#find(container);
    return { id, name };
  }

  /** Ids and names of the containers that run. */
  async running(): Promise<{ id: string; name: string }[]> {
    return (await this.containers()).map(({ id, name }) => ({ id, name }));
  }

  async #setPaused(reference: string, paused: boolean): Promise<void> {
    const container = await this.#find(reference);
    await (await commands()).setPaused(container, paused);
    const record = readRecord(container.dataDirectory);
    if (record) noteContainer(this.root, paused ? 'pause' : 'unpause', record);
  }

  /**
   * What happens to containers, images and volumes from now on, or since a time; it ends at `until` or by `signal`. Errors: ERR_FILTER.
   */
  events(options: EventOptions = {}): AsyncGenerator<EngineEvent> {
    return readEvents(this.root, options);
  }

  async #find(container: string): Promise<Running> {
    const { findRunning } = await import('./running.js');
    return findRunning(this.root, this.runtimeDir, container);
  }

  /** Ids of the images of all containers and snapshots: what `images.remove` must leave alone. */
  async imagesInUse(): Promise<string[]> {
    const kept = (await this.snapshots()).list().map(({ image }) => image.id);
    return [...new Set([...(await this.#context.state.imagesInUse()), ...kept])];
  }

  /** What images, containers and volumes take on the disk. */
  async diskUsage(): Promise<DiskUsage> {
    const { containerUsage, volumeUsage } = await import('./usage.js');
    const images = await this.images.usage(await this.imagesInUse());
    const containers = await containerUsage(this.root);
    return { images, containers, volumes: await volumeUsage(this.root) };
  }

  /** Removes what engines that were killed have left behind; `run` does so by itself. Returns the containers' ids. */
  removeStale(): Promise<string[]> {
    return this.#context.state.removeStale();
  }

  /** What this host lacks for running containers, and what to do about it. */
  async diagnose(): Promise<Finding[]> {
    const { diagnose } = await import('./doctor.js');
    return diagnose(this.#context);
  }
}

const commands = () => import('./running-commands.js');
