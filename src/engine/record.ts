/**
 * The two files that say what a container is and what it does (docs/compatibility.md): `container.json`, written by the engine,
 * and `state.json`, written by whoever runs it: its monitor (native/monitor/state_file.h), or the process that it belongs to.
 */
import {
  closeSync,
  fsyncSync,
  openSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeSync,
} from 'node:fs';

import { ClearVMError, messageOf } from '../errors.js';
import { currentBootId, processStartTime, selfStartTime } from './host.js';

/** When a container is started again, in docker's words. */
export type RestartPolicyName = 'no' | 'on-failure' | 'always' | 'unless-stopped';

/** When a container that has ended is started again. */
export interface RestartPolicy {
  name: RestartPolicyName;
  /** With `on-failure`; 0: any number. */
  maximumRetryCount: number;
}

/** How a container's output is kept. */
export interface LogConfig {
  driver: 'json-file' | 'none';
  /** Bytes before the file is rotated; 0: never. */
  maxSize: number;
  /** Files, the current one included. */
  maxFile: number;
}

/** A health check as it is run. Times are milliseconds. */
export interface HealthConfig {
  /** As in an image: `CMD` and the command's words, or `CMD-SHELL` and a line for the shell. */
  test: string[];
  interval: number;
  timeout: number;
  startPeriod: number;
  startInterval: number;
  /** Failures in a row that make it unhealthy. */
  retries: number;
}

/** What the health check has found: health.json, in docker's words. */
export interface ContainerHealth {
  Status: 'starting' | 'healthy' | 'unhealthy';
  FailingStreak: number;
  /** The last ones. */
  Log: { Start: string; End: string; ExitCode: number; Output: string }[];
}

/** A mount of a container, resolved. */
export interface MountRecord {
  type: 'bind' | 'volume';
  /** A volume's. */
  name?: string;
  /** Absolute path on the host. */
  source: string;
  /** Absolute path in the container. */
  target: string;
  readOnly: boolean;
  /** The source is a regular file. */
  file: boolean;
  /** It goes with the container, when that is removed with its volumes. */
  anonymous?: boolean;
}

/** container.json. What its VM is made of is in vm.json, what runs in it in config.json. */
export interface ContainerRecord {
  version: 1;
  /** 64 hex digits. */
  id: string;
  name: string;
  /** RFC 3339. */
  created: string;
  image: { reference: string; id: string };
  /** The command and its arguments. */
  args: string[];
  /** How many of them are the entrypoint; 0 if absent. */
  entrypointLength?: number;
  /** As the image or the caller has it; "" if absent. */
  workdir?: string;
  labels: Record<string, string>;
  tty: boolean;
  openStdin: boolean;
  /** stdin ends with the first client that was attached to it. */
  stdinOnce: boolean;
  stopSignal?: string;
  /** Seconds. */
  stopTimeout?: number;
  autoRemove: boolean;
  restart: RestartPolicy;
  log: LogConfig;
  mounts: MountRecord[];
  health?: HealthConfig;
}

/** What a container does, in a word of docker’s. */
export type ContainerStatus = 'created' | 'running' | 'paused' | 'restarting' | 'exited';

/** What a container does, as its monitor has last written it down. */
export interface ContainerState {
  status: ContainerStatus;
  /** The VMM's process id; 0 when there is none. */
  pid: number;
  /** RFC 3339; `0001-01-01T00:00:00Z`: never. */
  startedAt: string;
  finishedAt: string;
  exitCode: number;
  /** Whether the kernel of its last run has killed a process for want of memory. */
  oomKilled?: boolean;
  /** Why it could not be started, or ended otherwise than by its command's exit. */
  error: string;
  /** How often its restart policy has started it again. */
  restarts: number;
  /** Of its last run, if it has a health check. */
  health?: ContainerHealth;
}

/** Whether there is, or will soon be again, a VM. */
export function isActive(status: ContainerStatus): boolean {
  return status === 'running' || status === 'paused' || status === 'restarting';
}

interface Process {
  pid: number;
  startTime: string;
}

/** state.json as it is written. */
export interface StatusFile {
  version: 1;
  status: ContainerStatus;
  bootId: string;
  /** Who runs it. */
  monitor: Process;
  vmm?: Process;
  startedAt: string;
  finishedAt: string;
  exitCode: number;
  signal: number;
  oomKilled?: boolean;
  restarts: number;
  stopped: boolean;
  error: string;
}

export const NEVER = '0001-01-01T00:00:00Z';
const ID = /^[0-9a-f]{64}$/;

function readJson(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch {
    return undefined;
  }
}

/** Undefined where there is no container, or one that is being made or removed. */
export function readRecord(dataDirectory: string): ContainerRecord | undefined {
  const record = readJson(`${dataDirectory}/container.json`) as ContainerRecord | undefined;
  return record?.version === 1 ? record : undefined;
}

/** Every container's record, in no order. */
export function readRecords(root: string): ContainerRecord[] {
  let ids: string[];
  try {
    ids = readdirSync(`${root}/containers`).filter((name) => ID.test(name));
  } catch {
    return [];
  }
  return ids.flatMap((id) => readRecord(`${root}/containers/${id}`) ?? []);
}

export function statusFile(dataDirectory: string): StatusFile | undefined {
  const file = readJson(`${dataDirectory}/state.json`) as StatusFile | undefined;
  return file?.version === 1 ? file : undefined;
}

/** Whether the process that runs the container is there; it holds the container's lock as long as it is. */
function isAttended({ bootId, monitor }: StatusFile): boolean {
  return bootId === currentBootId() && processStartTime(monitor.pid) === monitor.startTime;
}

/**
 * What a container does. One that is said to run, by a process that is gone, has died with it (a crash, `kill -9`): it counts
 * as killed.
 */
export function readStatus(dataDirectory: string): ContainerState {
  const file = statusFile(dataDirectory);
  if (!file) {
    return {
      ...{ status: 'created', pid: 0, startedAt: NEVER, finishedAt: NEVER },
      ...{ exitCode: 0, error: '', restarts: 0 },
    };
  }
  const { startedAt, restarts } = file;
  const found = readJson(`${dataDirectory}/health.json`) as ContainerHealth | undefined;
  const health = found ? { health: found } : {};
  if (isActive(file.status) && !isAttended(file)) {
    const finishedAt = statSync(`${dataDirectory}/state.json`).mtime.toISOString();
    const error = 'its monitor was killed, or the host went down';
    return {
      status: 'exited',
      pid: 0,
      startedAt,
      finishedAt,
      exitCode: 137,
      error,
      restarts,
      ...health,
    };
  }
  return {
    status: file.status === 'running' && isPaused(dataDirectory, file.vmm) ? 'paused' : file.status,
    pid: file.vmm?.pid ?? 0,
    startedAt,
    finishedAt: file.finishedAt,
    exitCode: file.exitCode,
    oomKilled: file.oomKilled ?? false,
    error: file.error,
    restarts,
    ...health,
  };
}

/** Whether its VM was paused: a link names the VMM, so that it says nothing about the next one. */
function isPaused(dataDirectory: string, vmm: Process | undefined): boolean {
  try {
    return vmm !== undefined && readlinkSync(`${dataDirectory}/paused`) === vmmName(vmm);
  } catch {
    return false;
  }
}

const vmmName = ({ pid, startTime }: Process): string => `${pid}:${startTime}`;

/** Notes that a running container's VM has been paused, or goes on. */
export function notePaused(dataDirectory: string, paused: boolean): void {
  rmSync(`${dataDirectory}/paused`, { force: true });
  const vmm = statusFile(dataDirectory)?.vmm;
  if (paused && vmm) symlinkSync(vmmName(vmm), `${dataDirectory}/paused`);
}

/** The state of a container that this process runs itself. */
export function ownStatus(vmmPid: number, startedAt: Date): StatusFile {
  const startTime = processStartTime(vmmPid);
  return {
    version: 1,
    status: 'running',
    bootId: currentBootId(),
    monitor: { pid: process.pid, startTime: selfStartTime() },
    ...(startTime === undefined ? {} : { vmm: { pid: vmmPid, startTime } }),
    startedAt: startedAt.toISOString(),
    finishedAt: NEVER,
    ...{ exitCode: 0, signal: 0, restarts: 0, stopped: false, error: '' },
  };
}

/**
 * Replaces a file so that after a crash, or a loss of power, there is the old one or the new one. Errors: ERR_STATE.
 */
export function writeDurably(directory: string, name: string, text: string | Uint8Array): void {
  const temporary = `${directory}/${name}.${process.pid}.new`;
  try {
    sync(temporary, 'w', (fd) => {
      const bytes = Buffer.from(text);
      for (let at = 0; at < bytes.length;) at += writeSync(fd, bytes, at);
    });
    renameSync(temporary, `${directory}/${name}`);
    sync(directory, 'r', () => {});
  } catch (cause) {
    rmSync(temporary, { force: true });
    throw new ClearVMError('ERR_STATE', `cannot write ${directory}/${name}: ${messageOf(cause)}`, {
      cause,
    });
  }
}

function sync(path: string, flags: string, act: (fd: number) => void): void {
  const fd = openSync(path, flags, 0o600);
  try {
    act(fd);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
