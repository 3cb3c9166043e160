/** A container's OCI runtime spec (1.0.2): what every container gets, as docker gives it, and what this one asked for. */
import type { ImageConfig } from '../image/index.js';
import { GROUPS_ANNOTATION, USER_ANNOTATION, type OciMount, type OciSpec } from '../vm/spec.js';
import type { TerminalSize } from './exec.js';
import type { RunOptions } from './options.js';
import type { ContainerProcess } from './process.js';
import {
  UNLIMITED,
  capabilities as mergeCapabilities,
  mergeRlimits,
  parseTmpfs,
  parseUlimit,
  shmMount,
} from './resources.js';
import type { Volume } from './volumes.js';

/** docker's default set: enough for packages to be installed and services to drop their privileges. */
export const DEFAULT_CAPABILITIES: readonly string[] = Object.freeze([
  'CAP_CHOWN',
  'CAP_DAC_OVERRIDE',
  'CAP_FSETID',
  'CAP_FOWNER',
  'CAP_MKNOD',
  'CAP_NET_RAW',
  'CAP_SETGID',
  'CAP_SETUID',
  'CAP_SETFCAP',
  'CAP_SETPCAP',
  'CAP_NET_BIND_SERVICE',
  'CAP_SYS_CHROOT',
  'CAP_KILL',
  'CAP_AUDIT_WRITE',
]);

/**
 * The soft limit on open files is the one that select(2) and programs which close every possible descriptor can live
 * with; servers raise it themselves. The kernel derives the number of processes from the VM's memory, which is the real limit.
 */
const DEFAULT_RLIMITS = Object.freeze([
  { type: 'RLIMIT_NOFILE', soft: 1024, hard: 524288 },
  { type: 'RLIMIT_NPROC', soft: UNLIMITED, hard: UNLIMITED },
  { type: 'RLIMIT_CORE', soft: 0, hard: UNLIMITED },
]);

/** What init mounts in every VM, written down for whoever reads the spec. */
const DEFAULT_MOUNTS: readonly OciMount[] = [
  { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
  { destination: '/dev', type: 'devtmpfs', source: 'devtmpfs', options: ['nosuid'] },
  { destination: '/dev/pts', type: 'devpts', source: 'devpts', options: ['nosuid', 'noexec'] },
  { destination: '/dev/shm', type: 'tmpfs', source: 'shm', options: ['nosuid', 'noexec', 'nodev'] },
  {
    destination: '/dev/mqueue',
    type: 'mqueue',
    source: 'mqueue',
    options: ['nosuid', 'noexec', 'nodev'],
  },
  {
    destination: '/sys',
    type: 'sysfs',
    source: 'sysfs',
    options: ['nosuid', 'noexec', 'nodev', 'ro'],
  },
];

/** docker's (oci/defaults.go). Inside a VM they show its own kernel, but programs expect what docker shows. */
const MASKED_PATHS = Object.freeze([
  '/proc/asound',
  '/proc/acpi',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/proc/sched_debug',
  '/proc/scsi',
  '/sys/firmware',
]);
const READONLY_PATHS = Object.freeze([
  '/proc/bus',
  '/proc/fs',
  '/proc/irq',
  '/proc/sys',
  '/proc/sysrq-trigger',
]);

export interface RuntimeSpecInput {
  process: ContainerProcess;
  hostname: string;
  /** The process gets a terminal, of that size at first. */
  tty: boolean;
  size?: TerminalSize;
  image: ImageConfig;
  volumes: readonly Volume[];
  /** What else was asked for. */
  options: Pick<
    RunOptions,
    | 'sysctls'
    | 'tmpfs'
    | 'shmSize'
    | 'readOnly'
    | 'capAdd'
    | 'capDrop'
    | 'groupAdd'
    | 'ulimits'
    | 'pidsLimit'
    | 'oomScoreAdj'
    | 'noNewPrivileges'
    | 'domainname'
  >;
  /** Where the overlay would be mounted; it exists in the VMM's mount namespace only. */
  rootPath: string;
}

/** Builds the spec. The user is an annotation, because only the guest can look its name up. */
export function buildRuntimeSpec(input: RuntimeSpecInput): OciSpec {
  const { process, image, options } = input;
  const numeric = /^(\d+)(?::(\d+))?$/.exec(process.user);
  const annotations: Record<string, string> = { [USER_ANNOTATION]: process.user };
  // image-spec, conversion.md: what a runtime spec has no member for.
  const stopSignal = image.config?.StopSignal;
  if (stopSignal) annotations['org.opencontainers.image.stopSignal'] = stopSignal;
  const ports = Object.keys(image.config?.ExposedPorts ?? {});
  if (ports.length > 0) annotations['org.opencontainers.image.exposedPorts'] = ports.join(',');
  const { capAdd = [], capDrop = [], groupAdd = [] } = options;
  if (groupAdd.length > 0) annotations[GROUPS_ANNOTATION] = groupAdd.join(',');
  const capabilities = mergeCapabilities(DEFAULT_CAPABILITIES, capAdd, capDrop);
  const shm = options.shmSize === undefined ? [] : [shmMount(options.shmSize)];
  return {
    ociVersion: '1.0.2',
    hostname: input.hostname,
    process: {
      terminal: input.tty,
      ...(input.size
        ? { consoleSize: { height: input.size.rows, width: input.size.columns } }
        : {}),
      args: process.args,
      env: process.env,
      cwd: process.cwd,
      user: { uid: Number(numeric?.[1] ?? 0), gid: Number(numeric?.[2] ?? 0) },
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
      rlimits: mergeRlimits(DEFAULT_RLIMITS, (options.ulimits ?? []).map(parseUlimit)),
      noNewPrivileges: options.noNewPrivileges ?? false,
      ...(options.oomScoreAdj === undefined ? {} : { oomScoreAdj: options.oomScoreAdj }),
    },
    root: { path: input.rootPath, readonly: options.readOnly ?? false },
    mounts: [
      ...(shm[0]
        ? DEFAULT_MOUNTS.filter(({ destination }) => destination !== '/dev/shm')
        : DEFAULT_MOUNTS),
      ...shm,
      ...(options.tmpfs ?? []).map(parseTmpfs),
      ...input.volumes.map(volumeMount),
    ],
    annotations,
    linux: {
      sysctl: Object.fromEntries(
        [
          ...(options.domainname === undefined ? [] : [`kernel.domainname=${options.domainname}`]),
          ...(options.sysctls ?? []),
        ].map((text) => {
          const equals = text.indexOf('=');
          return [text.slice(0, equals), text.slice(equals + 1)];
        }),
      ),
      ...(options.pidsLimit === undefined
        ? {}
        : { resources: { pids: { limit: options.pidsLimit } } }),
      maskedPaths: MASKED_PATHS,
      readonlyPaths: READONLY_PATHS,
    },
  };
}

/**
 * The spec without what is the same in every container, for its check on the way to each: a unit test checks the rest. A mount
 * or a list that is not ours stays in it.
 */
export function variablePart(spec: OciSpec): OciSpec {
  const { capabilities, rlimits, ...process } = spec.process;
  return {
    ...spec,
    process: {
      ...process,
      ...(capabilities?.bounding === DEFAULT_CAPABILITIES ? {} : { capabilities }),
      ...(rlimits === DEFAULT_RLIMITS ? {} : { rlimits }),
    },
    mounts: (spec.mounts ?? []).slice(
      DEFAULT_MOUNTS.every((mount, i) => spec.mounts?.[i] === mount) ? DEFAULT_MOUNTS.length : 0,
    ),
    linux: {
      sysctl: spec.linux?.sysctl ?? {},
      ...(spec.linux?.resources ? { resources: spec.linux.resources } : {}),
    },
  };
}

function volumeMount(volume: Volume): OciMount {
  return {
    destination: volume.target,
    type: 'bind',
    source: volume.source,
    options: ['rbind', volume.readOnly ? 'ro' : 'rw'],
  };
}
