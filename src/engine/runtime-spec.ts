/** A container's OCI runtime spec (1.0.2): what every container gets, as docker gives it, and what this one asked for. */
import type { ImageConfig } from '../image/index.js';
import { USER_ANNOTATION, type OciMount, type OciSpec } from '../vm/spec.js';
import type { ContainerProcess } from './process.js';
import type { Volume } from './volumes.js';

/** docker's default set: enough for packages to be installed and services to drop their privileges. */
export const DEFAULT_CAPABILITIES: readonly string[] = [
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
];

/** The largest number that is both a double and a uint64, which is what readers of the JSON take it for. */
const UNLIMITED = 2 ** 64 - 2048;

/**
 * The soft limit on open files is the one that select(2) and programs which close every possible descriptor can live
 * with; servers raise it themselves. The kernel derives the number of processes from the VM's memory, which is the real limit.
 */
const DEFAULT_RLIMITS = [
  { type: 'RLIMIT_NOFILE', soft: 1024, hard: 524288 },
  { type: 'RLIMIT_NPROC', soft: UNLIMITED, hard: UNLIMITED },
  { type: 'RLIMIT_CORE', soft: 0, hard: UNLIMITED },
];

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

export interface RuntimeSpecInput {
  process: ContainerProcess;
  hostname: string;
  image: ImageConfig;
  volumes: readonly Volume[];
  /** Where the overlay would be mounted; it exists in the VMM's mount namespace only. */
  rootPath: string;
}

/** Builds the spec. The user is an annotation, because only the guest can look its name up. */
export function buildRuntimeSpec(input: RuntimeSpecInput): OciSpec {
  const { process, image } = input;
  const numeric = /^(\d+)(?::(\d+))?$/.exec(process.user);
  const annotations: Record<string, string> = { [USER_ANNOTATION]: process.user };
  // image-spec, conversion.md: what a runtime spec has no member for.
  const stopSignal = image.config?.StopSignal;
  if (stopSignal) annotations['org.opencontainers.image.stopSignal'] = stopSignal;
  const ports = Object.keys(image.config?.ExposedPorts ?? {});
  if (ports.length > 0) annotations['org.opencontainers.image.exposedPorts'] = ports.join(',');
  const capabilities = [...DEFAULT_CAPABILITIES];
  return {
    ociVersion: '1.0.2',
    hostname: input.hostname,
    process: {
      terminal: false,
      args: process.args,
      env: process.env,
      cwd: process.cwd,
      user: { uid: Number(numeric?.[1] ?? 0), gid: Number(numeric?.[2] ?? 0) },
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
      rlimits: DEFAULT_RLIMITS,
      noNewPrivileges: false,
    },
    root: { path: input.rootPath, readonly: false },
    mounts: [...DEFAULT_MOUNTS, ...input.volumes.map(volumeMount)],
    annotations,
    linux: {},
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
