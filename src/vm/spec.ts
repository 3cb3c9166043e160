/** From an OCI runtime spec to the TLVs that init reads (native/protocol/agent.h). */
import { ClearVMError } from '../errors.js';
import { validate } from '../generated/validators/oci-runtime-spec.js';
import { describeSchemaError, type GuestFile } from './config.js';
import { CAPABILITIES, MOUNT_OPTIONS, RLIMITS, RLIM_INFINITY } from './constants.js';
import { FRAME_MAX, MOUNT_FILE, SpecFlag, SpecTag, TlvWriter } from './protocol.js';

export type CapabilitySet = 'bounding' | 'effective' | 'permitted' | 'inheritable' | 'ambient';

export interface OciMount {
  destination: string;
  type?: string;
  source?: string;
  options?: string[];
}

/** The members of an OCI runtime spec (1.0.2) that ClearVM writes and reads. */
export interface OciSpec {
  ociVersion: string;
  hostname?: string;
  process: {
    terminal?: boolean;
    consoleSize?: { height: number; width: number };
    args: string[];
    env?: string[];
    cwd: string;
    user: { uid: number; gid: number; additionalGids?: number[] };
    capabilities?: Partial<Record<CapabilitySet, string[]>>;
    rlimits?: { type: string; soft: number; hard: number }[];
    noNewPrivileges?: boolean;
  };
  root: { path: string; readonly?: boolean };
  mounts?: OciMount[];
  annotations?: Record<string, string>;
  linux?: { sysctl?: Record<string, string>; [other: string]: unknown };
}

/** The user as the image or the caller wrote it ("app:staff"): only the guest's init can look names up. */
export const USER_ANNOTATION = 'dev.clearvm.user';

/** What init mounts by itself in every container, so that a spec's mounts of them say nothing new. */
const BUILT_IN_MOUNTS = new Set([
  '/proc',
  '/sys',
  '/sys/fs/cgroup',
  '/dev',
  '/dev/pts',
  '/dev/shm',
  '/dev/mqueue',
]);

const P9_DATA = 'trans=virtio,version=9p2000.L,msize=512000,access=client';
/** Only this VM writes its root, so the guest may keep whatever it has read. */
const ROOT_DATA = `${P9_DATA},cache=loose`;
/** A volume has other writers: nothing is kept in the guest but what is mapped. */
const SHARE_DATA = `${P9_DATA},cache=mmap`;

export interface BindShare {
  /** The 9p tag that serves the mount's source. */
  tag: string;
  /** The source is one file. */
  file: boolean;
}

export interface SpecContext {
  /** Of each bind mount's destination: the share that serves its source. */
  shares: ReadonlyMap<string, BindShare>;
  files: readonly GuestFile[];
  /** The container's stdin is connected; otherwise it reads /dev/null. */
  stdin: boolean;
}

/** Errors: ERR_OCI_SPEC, naming the first field that is wrong. */
export function checkOciSpec(spec: unknown): asserts spec is OciSpec {
  if (validate(spec)) return;
  const { field, text } = describeSchemaError(validate.errors, spec);
  throw new ClearVMError('ERR_OCI_SPEC', `OCI runtime spec: ${field} ${text}`, { field });
}

/**
 * The payload of a START frame for a checked spec.
 * Errors: ERR_OCI_SPEC (a name that has no number on Linux, a mount that no share serves),
 * ERR_SPEC_TOO_LARGE (arguments and environment beyond the protocol's limit of 1 MiB).
 */
export function encodeSpec(spec: OciSpec, context: SpecContext): Buffer {
  const tlvs = new TlvWriter();
  const { process } = spec;
  tlvs.add(SpecTag.ROOT, '9p\0root\0', ROOT_DATA, '\0');
  for (const argument of process.args) tlvs.add(SpecTag.ARG, argument);
  for (const variable of process.env ?? []) tlvs.add(SpecTag.ENV, variable);
  tlvs.add(SpecTag.CWD, process.cwd);
  tlvs.add(
    SpecTag.USER,
    spec.annotations?.[USER_ANNOTATION] ?? `${process.user.uid}:${process.user.gid}`,
  );
  for (const gid of process.user.additionalGids ?? []) tlvs.add(SpecTag.GROUP, String(gid));
  if (spec.hostname !== undefined) tlvs.add(SpecTag.HOSTNAME, spec.hostname);
  for (const mount of spec.mounts ?? []) addMount(tlvs, mount, context.shares);
  for (const limit of process.rlimits ?? []) addRlimit(tlvs, limit);
  if (process.capabilities) tlvs.add(SpecTag.CAPS, encodeCapabilities(process.capabilities));
  for (const file of context.files) {
    tlvs.add(SpecTag.FILE, uint32(file.mode), file.path, '\0', file.content);
  }
  for (const [name, value] of Object.entries(spec.linux?.sysctl ?? {})) {
    tlvs.add(SpecTag.SYSCTL, `${name}=${value}`);
  }
  if (process.terminal && process.consoleSize) {
    const size = Buffer.allocUnsafe(4);
    size.writeUInt16LE(process.consoleSize.height, 0);
    size.writeUInt16LE(process.consoleSize.width, 2);
    tlvs.add(SpecTag.WINSIZE, size);
  }
  const flags =
    (process.terminal ? SpecFlag.TERMINAL : 0) |
    (context.stdin ? SpecFlag.STDIN : 0) |
    (process.noNewPrivileges ? SpecFlag.NO_NEW_PRIVS : 0) |
    (spec.root.readonly ? SpecFlag.READONLY_ROOT : 0);
  tlvs.add(SpecTag.FLAGS, uint32(flags));

  const payload = tlvs.finish();
  if (payload.length > FRAME_MAX) {
    throw new ClearVMError(
      'ERR_SPEC_TOO_LARGE',
      `the command, its environment and its files take ${payload.length} bytes; a container can be given ${FRAME_MAX}: pass large values through a volume`,
    );
  }
  return payload;
}

function addMount(tlvs: TlvWriter, mount: OciMount, shares: SpecContext['shares']): void {
  if (mount.type !== 'bind' && BUILT_IN_MOUNTS.has(mount.destination)) return;
  const { flags, data } = parseMountOptions(mount.options ?? []);
  const header = Buffer.alloc(16);
  header.writeBigUInt64LE(BigInt(flags), 0);
  if (mount.type !== 'bind') {
    const source = mount.source ?? mount.type ?? 'none';
    tlvs.add(
      SpecTag.MOUNT,
      header,
      `${mount.type ?? 'none'}\0${source}\0${mount.destination}\0${data.join(',')}\0`,
    );
    return;
  }
  const share = shares.get(mount.destination);
  if (!share) {
    throw new ClearVMError(
      'ERR_OCI_SPEC',
      `OCI runtime spec: the bind mount on ${mount.destination} has the source ${mount.source ?? '(none)'}, which no share of the VM serves`,
      { field: '/mounts' },
    );
  }
  if (share.file) header.writeUInt32LE(MOUNT_FILE, 8);
  tlvs.add(SpecTag.MOUNT, header, `9p\0${share.tag}\0${mount.destination}\0${SHARE_DATA}\0`);
}

function parseMountOptions(options: string[]): { flags: number; data: string[] } {
  let flags = 0;
  const data: string[] = [];
  for (const option of options) {
    const known = Object.hasOwn(MOUNT_OPTIONS, option) ? MOUNT_OPTIONS[option] : undefined;
    if (known) {
      flags = (flags | (known.set ?? 0)) & ~(known.clear ?? 0);
    } else if (!/^r?(bind|private|shared|slave|unbindable)$/.test(option)) {
      // Propagation has nobody to propagate to: the VM's mounts are its own.
      data.push(option);
    }
  }
  return { flags, data };
}

function addRlimit(tlvs: TlvWriter, limit: { type: string; soft: number; hard: number }): void {
  const number = RLIMITS[limit.type];
  if (number === undefined) {
    throw new ClearVMError('ERR_OCI_SPEC', `OCI runtime spec: ${limit.type} is no resource limit`, {
      field: '/process/rlimits',
    });
  }
  const value = Buffer.alloc(24);
  value.writeUInt32LE(number, 0);
  value.writeBigUInt64LE(rlimitValue(limit.soft), 8);
  value.writeBigUInt64LE(rlimitValue(limit.hard), 16);
  tlvs.add(SpecTag.RLIMIT, value);
}

// JSON has no 64-bit integers: what is beyond the exact ones stands for "unlimited".
function rlimitValue(value: number): bigint {
  return value > Number.MAX_SAFE_INTEGER ? RLIM_INFINITY : BigInt(Math.floor(value));
}

function encodeCapabilities(sets: Partial<Record<CapabilitySet, string[]>>): Buffer {
  const masks = Buffer.alloc(40);
  const order = ['bounding', 'effective', 'permitted', 'inheritable', 'ambient'] as const;
  order.forEach((set, index) => {
    let low = 0;
    let high = 0;
    for (const name of sets[set] ?? []) {
      const bit = CAPABILITIES.indexOf(name);
      if (bit < 0) {
        throw new ClearVMError('ERR_OCI_SPEC', `OCI runtime spec: ${name} is no capability`, {
          field: `/process/capabilities/${set}`,
        });
      }
      if (bit < 32) low |= 1 << bit;
      else high |= 1 << (bit - 32);
    }
    masks.writeUInt32LE(low >>> 0, index * 8);
    masks.writeUInt32LE(high >>> 0, index * 8 + 4);
  });
  return masks;
}

function uint32(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(4);
  bytes.writeUInt32LE(value, 0);
  return bytes;
}
