/** Containers that are kept: made, started, stopped and removed by any process. */
import { closeSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

import { ClearVMError, messageOf } from '../errors.js';
import type { ImageStore } from '../image/index.js';
import type { Addon } from '../vm/addon-types.js';
import { checkVmConfig, type VmConfig } from '../vm/config.js';
import { encodeFrame } from '../vm/protocol.js';
import { loadAddon } from '../vm/native.js';
import { checkOciSpec, type OciSpec } from '../vm/spec.js';
import type { ExitStatus } from '../vm/vmm.js';
import { Attachment, type AttachOptions } from './attachment.js';
import { ContainerFiles } from './container-files.js';
import type { EngineContext } from './context.js';
import {
  KILL_PATIENCE,
  killContainer,
  stopContainer,
  waitForContainer,
  type StopOptions,
} from './control.js';
import { noteContainer } from './events.js';
import type { ExecOptions, ExecProcess } from './exec.js';
import type { ViewPlace } from './files/view.js';
import { launch } from './launch.js';
import { parseRestartPolicy } from './lifecycle-options.js';
import { readLog, requireLog, type LogEntry, type LogOptions } from './logs.js';
import { NAME } from './lookup.js';
import { MonitorFrame } from './monitor-protocol.js';
import { MonitorConnection, encodeRestartPolicy } from './monitor.js';
import { removeAnonymousVolumes } from './plan.js';
import {
  isActive,
  readRecord,
  readStatus,
  writeDurably,
  type ContainerRecord,
  type ContainerState,
} from './record.js';
import type { Running } from './running.js';
import { signalNumber } from './signals.js';
import { checkHugePages, parseCpus, parseMemory } from './size.js';
import type { ForkOptions } from './snapshots.js';
import type { Readiness, WaitForOptions } from './wait-for.js';
import type { ContainerDirectories } from './state.js';

export type { StopOptions };

/** How long a removal waits for who is starting or removing the container, and how often it looks again; ms. */
const PATIENCE = 30_000;
const LOOK_AGAIN = 50;

/** What can be changed of a container. */
export interface UpdateOptions {
  /** `no`, `on-failure[:N]`, `always` or `unless-stopped`. */
  restart?: string;
  /** Guest memory and virtual CPUs, as of `RunOptions`. */
  memory?: string | number;
  cpus?: string | number;
}

/** What goes with a container. */
export interface RemoveContainerOptions {
  /** A running container is killed; it is no error if there is none. */
  force?: boolean;
  /** Its anonymous volumes, too. */
  volumes?: boolean;
}

/** A container, running or not, whoever has made it. */
export class Container extends ContainerFiles {
  /** 64 hex digits. */
  readonly id: string;
  readonly #context: EngineContext;
  #record: ContainerRecord;

  /** @internal */
  constructor(context: EngineContext, record: ContainerRecord) {
    super();
    this.#context = context;
    this.id = record.id;
    this.#record = record;
  }

  /** Its name now: it can be renamed. */
  get name(): string {
    return this.#record.name;
  }

  /** Whether its command has a terminal. */
  get tty(): boolean {
    return this.#record.tty;
  }

  /** What it was made with, as it stands on the disk now. Errors: ERR_CONTAINER_NOT_FOUND. */
  get record(): ContainerRecord {
    const record = readRecord(this.#places.dataDirectory);
    if (!record) {
      throw new ClearVMError('ERR_CONTAINER_NOT_FOUND', `No such container: ${this.id}`);
    }
    this.#record = record;
    return record;
  }

  /** What it does now. */
  get state(): ContainerState {
    return readStatus(this.#places.dataDirectory);
  }

  get #running(): Running {
    const { id, name, runDirectory, dataDirectory } = this.#places;
    return { id, name, directory: runDirectory, dataDirectory };
  }

  get #places(): ContainerDirectories {
    return this.#context.state.of(this.id, this.#record.name);
  }

  /** <root>/containers/<id>: its writable layer, its log. */
  get directory(): string {
    return this.#places.dataDirectory;
  }

  /** Its OCI runtime spec. Errors: ERR_STATE. */
  override spec(): OciSpec {
    const spec = this.#read('config.json');
    checkOciSpec(spec);
    return spec;
  }

  /** What its VM is made of. Errors: ERR_STATE. */
  vmConfig(): VmConfig {
    const config = this.#read('vm.json');
    checkVmConfig(config);
    return config;
  }

  /**
   * Starts it, and returns when its command runs; nothing happens if it does already. Errors: those of `Engine.run`,
   * ERR_MONITOR_SPAWN.
   */
  async start(): Promise<void> {
    await this.#start(-1);
  }

  /** The same, with its streams connected before its first output. */
  async startAttached(options: AttachOptions = {}): Promise<Attachment> {
    const addon = loadAddon();
    const [ours, theirs] = addon.socketPair();
    try {
      const attachment = new Attachment((events) => {
        const socket = new Socket({ fd: ours });
        const flags = Buffer.alloc(4);
        flags.writeUInt32LE(Attachment.flags(options, true));
        // The monitor takes it before it starts the VM.
        socket.write(encodeFrame(MonitorFrame.DO_ATTACH, 0, flags));
        return new MonitorConnection(socket, events);
      });
      if (await this.#start(theirs)) return attachment;
      attachment.detach();
      return await this.attach(options);
    } finally {
      closeSync(theirs);
    }
  }

  /** Connects to the streams of a running container. Errors: ERR_CONTAINER_NOT_RUNNING. */
  async attach(options: AttachOptions = {}): Promise<Attachment> {
    let open: Promise<void> | undefined;
    const socket = this.#connect();
    if (!socket) throw this.#notRunning('You cannot attach to a stopped container, start it first');
    const attachment = new Attachment((events) => {
      socket.setEvents(events);
      open = socket.request(MonitorFrame.DO_ATTACH, Attachment.flags(options, false));
      return socket;
    });
    await open;
    noteContainer(this.#context.root, 'attach', this.#record);
    return attachment;
  }

  /** Ends it: its stop signal first, and the plug when the time is over. Nothing happens if it does not run. */
  async stop(options: StopOptions = {}): Promise<void> {
    const { record } = this;
    if (!(await stopContainer(this.#running, record, options))) return;
    noteContainer(this.#context.root, 'stop', record);
  }

  /** Errors: ERR_SIGNAL, ERR_CONTAINER_NOT_RUNNING. */
  async kill(signal: string | number = 'SIGKILL'): Promise<void> {
    const { record } = this;
    const number = signalNumber(signal);
    await killContainer(this.#running, record, number);
    noteContainer(this.#context.root, 'kill', record, { signal: String(number) });
  }

  /** What it has printed. Errors: ERR_LOG_DRIVER. */
  logs(options: LogOptions = {}): AsyncGenerator<LogEntry> {
    requireLog(this.record.log.driver);
    const { directory } = this;
    const isActive_ = (): boolean => isActive(readStatus(directory).status);
    return readLog({ directory, name: `${this.id}-json.log`, isActive: isActive_ }, options);
  }

  /**
   * Makes containers that go on from where this one is now, which goes on as well; see `SnapshotStore.fork`. Errors: its.
   */
  async fork(count = 1, options: ForkOptions = {}): Promise<Container[]> {
    const { SnapshotStore } = await import('./snapshots.js');
    return new SnapshotStore(this.#context).fork(this.id, count, options);
  }

  /** Errors: those of `start`. */
  async restart(options: StopOptions = {}): Promise<void> {
    await this.stop(options);
    await this.start();
    noteContainer(this.#context.root, 'restart', this.#record);
  }

  /** The status that it ends with next, or that it has ended with if it does not run. */
  wait(): Promise<ExitStatus> {
    return waitForContainer(this.#running);
  }

  /** Starts a further process in it. Errors: those of `Engine.exec`. */
  async exec(cmd: readonly string[], options: ExecOptions = {}): Promise<ExecProcess> {
    return (await import('./exec.js')).startExec(this.#running, cmd, options);
  }

  /** Waits until it is ready: by a line of its log, its health check, or a command. Errors: those of `waitUntilReady`. */
  async waitUntil(readiness: Readiness, options: WaitForOptions = {}): Promise<void> {
    await (await import('./wait-for.js')).waitUntilReady(this, readiness, options);
  }

  /** Errors: ERR_CONTAINER_RUNNING (without `force`), ERR_STATE. */
  async remove(options: RemoveContainerOptions = {}): Promise<void> {
    const places = this.#places;
    const addon = loadAddon();
    const lock = await this.#lockStopped(addon, options.force ?? false);
    try {
      const record = readRecord(places.dataDirectory);
      // With --rm, its end was its removal.
      if (!record) return rmSync(places.runDirectory, { recursive: true, force: true });
      await this.#context.state.remove({ ...places, name: record.name });
      noteContainer(this.#context.root, 'destroy', record);
      if (options.volumes || record.autoRemove)
        await removeAnonymousVolumes(this.#context.root, record);
    } finally {
      addon.closeFd(lock);
    }
  }

  /** Errors: ERR_NAME, ERR_NAME_IN_USE. */
  rename(name: string): void {
    if (!NAME.test(name)) {
      throw new ClearVMError(
        'ERR_NAME',
        `Invalid container name (${name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed`,
      );
    }
    let oldName = '';
    this.#change((record) => {
      const { names } = this.#context.state;
      if (record.name === name) {
        throw new ClearVMError(
          'ERR_NAME_IN_USE',
          'Renaming a container with the same name as its current name',
        );
      }
      names.claim(this.id, name);
      oldName = record.name;
      return [{ ...record, name }, () => names.release(this.id, record.name)];
    });
    noteContainer(this.#context.root, 'rename', this.#record, { oldName });
  }

  /**
   * Changes its restart policy, at once if it runs; and its memory and processors, for its next start, if it does not. Errors:
   * ERR_RESTART, ERR_MEMORY, ERR_CPUS, ERR_CONTAINER_RUNNING (for what its VM is made of).
   */
  async update(options: UpdateOptions): Promise<void> {
    const { restart, ...size } = options;
    const policy =
      restart === undefined ? undefined : parseRestartPolicy(restart, this.record.autoRemove);
    if (size.memory !== undefined || size.cpus !== undefined) this.#resize(size);
    if (policy) {
      this.#change((record) => [{ ...record, restart: policy }, () => {}]);
      const monitor = this.#connect();
      await monitor?.requestBytes(MonitorFrame.DO_UPDATE, encodeRestartPolicy(policy));
      monitor?.close();
    }
    noteContainer(this.#context.root, 'update', this.#record);
  }

  #resize({ memory, cpus }: Pick<UpdateOptions, 'memory' | 'cpus'>): void {
    const config = this.vmConfig();
    if (memory !== undefined) config.memory = parseMemory(memory);
    if (config.memoryBacking === 'hugepages') checkHugePages(config.memory);
    if (cpus !== undefined) {
      delete config.cpuLimit;
      Object.assign(config, parseCpus(cpus));
    }
    const addon = loadAddon();
    const lock = isActive(this.state.status) ? -1 : this.#lock(addon);
    if (lock < 0) {
      throw new ClearVMError(
        'ERR_CONTAINER_RUNNING',
        `Cannot update container ${this.id}: memory and processors of a VM that runs stay as they are; stop it first`,
      );
    }
    try {
      checkVmConfig(config);
      writeDurably(this.directory, 'vm.json', JSON.stringify(config));
    } finally {
      addon.closeFd(lock);
    }
  }

  /** Whether it was started by this. */
  async #start(client: number): Promise<boolean> {
    if (isActive(this.state.status)) return false;
    const { record } = this;
    const parts = { record, config: this.vmConfig(), spec: this.spec() };
    try {
      await launch(this.#context, this.#places, parts, client);
      return true;
    } catch (error) {
      if (error instanceof ClearVMError && error.code === 'ERR_CONTAINER_RUNNING') {
        if (isActive(this.state.status)) return false;
      } else if (record.autoRemove) {
        await this.remove();
      }
      throw error;
    }
  }

  #connect(): MonitorConnection | undefined {
    return MonitorConnection.connect(this.#places.runDirectory);
  }

  /** The lock that a monitor holds; to be closed. */
  #lock(addon: Addon): number {
    const { runDirectory } = this.#places;
    mkdirSync(runDirectory, { recursive: true, mode: 0o700 });
    const fd = addon.lockFile(`${runDirectory}/lock`, false);
    if (fd >= 0) return fd;
    throw new ClearVMError(
      'ERR_CONTAINER_RUNNING',
      `container ${this.id.slice(0, 12)} is being started or removed by somebody else`,
    );
  }

  /** The same of one that does not run, or no longer; whoever is starting or removing it is waited for. */
  async #lockStopped(addon: Addon, force: boolean): Promise<number> {
    for (const deadline = Date.now() + PATIENCE; ; await sleep(LOOK_AGAIN)) {
      if (isActive(this.state.status)) {
        if (!force) {
          throw new ClearVMError(
            'ERR_CONTAINER_RUNNING',
            `You cannot remove a running container ${this.id}. Stop the container before attempting removal or force remove`,
          );
        }
        // Not by kill(), which one that waits for its restart refuses.
        const now = { signal: 'SIGKILL', timeout: KILL_PATIENCE };
        await stopContainer(this.#running, this.#record, now).catch(() => {});
      }
      try {
        return this.#lock(addon);
      } catch (error) {
        if (Date.now() > deadline) throw error;
      }
    }
  }

  protected override get place(): ViewPlace {
    const spec = this.spec();
    const readOnlyRoot = spec.root.readonly ?? false;
    return { ...this.#running, record: this.record, config: this.vmConfig(), readOnlyRoot };
  }

  protected override get images(): ImageStore {
    return this.#context.images;
  }

  /** Replaces its record, one process at a time; what `change` returns is done when that is so. */
  #change(change: (record: ContainerRecord) => [ContainerRecord, () => void]): void {
    const { dataDirectory } = this.#places;
    const addon = loadAddon();
    const lock = addon.lockFile(`${dataDirectory}/record.lock`, true);
    try {
      const [record, done] = change(this.record);
      writeDurably(dataDirectory, 'container.json', JSON.stringify(record));
      done();
      this.#record = record;
    } finally {
      addon.closeFd(lock);
    }
  }

  #read(file: string): unknown {
    try {
      return JSON.parse(readFileSync(`${this.directory}/${file}`, 'utf8'));
    } catch (cause) {
      throw new ClearVMError(
        'ERR_STATE',
        `cannot read ${this.directory}/${file}: ${messageOf(cause)}`,
        { cause },
      );
    }
  }

  #notRunning(message: string): ClearVMError {
    return new ClearVMError('ERR_CONTAINER_NOT_RUNNING', message);
  }
}
