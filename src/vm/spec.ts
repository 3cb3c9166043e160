/** From an OCI runtime spec to the TLVs that init reads (native/protocol/agent.h). */
import { ClearVMError } from '../errors.js';
import { validate } from '../generated/validators/oci-runtime-spec.js';
import { describeSchemaError, type GuestFile } from './config.js';
import { CAPABILITIES, MOUNT_OPTIONS, RLIMITS, RLIM_INFINITY } from './constants.js';
import { FRAME_MAX, MOUNT_FILE, SpecFlag, SpecTag, TlvWriter } from './protocol.js';

/** A set of capabilities, as the OCI runtime spec names them. */
export type CapabilitySet = 'bounding' | 'effective' | 'permitted' | 'inheritable' | 'ambient';

/** A mount, as the OCI runtime spec has it. */
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
    capabilities?: Partial<Record<CapabilitySet, readonly string[]>>;
    rlimits?: readonly { type: string; soft: number; hard: number }[];
    noNewPrivileges?: boolean;
    oomScoreAdj?: number;
  };
  root: { path: string; readonly?: boolean };
  mounts?: readonly OciMount[];
  annotations?: Record<string, string>;
  linux?: {
    sysctl?: Record<string, string>;
    /** At most so many threads; 0 or less: any number. */
    resources?: { pids?: { limit: number } };
    maskedPaths?: readonly string[];
    readonlyPaths?: readonly string[];
    [other: string]: unknown;
  };
}

/** The user as the image or the caller wrote it ("app:staff"): only the guest's init can look names up. */
export const USER_ANNOTATION = 'dev.clearvm.user';
/** Groups beside the user's own, by name or number, with commas between them. */
export const GROUPS_ANNOTATION = 'dev.clearvm.groups';

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

/** What a frame holds beside the header of an EXEC, or what the VMM adds to a spec (where memory ends), bytes. */
const SPEC_MAX = FRAME_MAX - 64;

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
  tlvs.add(SpecTag.ROOT, '9p\0root\0', ROOT_DATA, '\0');
  addProcess(tlvs, spec, context.stdin, spec.root.readonly ? SpecFlag.READONLY_ROOT : 0);
  if (spec.hostname !== undefined) tlvs.add(SpecTag.HOSTNAME, spec.hostname);
  for (const mount of spec.mounts ?? []) addMount(tlvs, mount, context.shares);
  for (const file of context.files) {
    tlvs.add(SpecTag.FILE, uint32(file.mode), `${file.path}\0${file.content}`);
  }
  for (const [name, value] of Object.entries(spec.linux?.sysctl ?? {})) {
    tlvs.add(SpecTag.SYSCTL, `${name}=${value}`);
  }
  const threads = spec.linux?.resources?.pids?.limit ?? 0;
  if (threads > 0) tlvs.add(SpecTag.PIDS, uint32(threads));
  const oomScore = spec.process.oomScoreAdj ?? 0;
  if (oomScore !== 0) tlvs.add(SpecTag.OOM_SCORE, uint32(oomScore >>> 0));
  addList(tlvs, spec.linux?.maskedPaths, addMask);
  addList(tlvs, spec.linux?.readonlyPaths, addReadonly);
  return finish(tlvs);
}

/**
 * The spec of an EXEC frame: one more process in the container of a checked spec, whose `process` it is.
 * Errors: as of encodeSpec.
 */
export function encodeExec(spec: Pick<OciSpec, 'process' | 'annotations'>, stdin: boolean): Buffer {
  const tlvs = new TlvWriter();
  addProcess(tlvs, spec, stdin, 0);
  return finish(tlvs);
}

/** The spec of an EXEC frame for a program of init's own (rootfs/builtin.h). */
export function encodeBuiltin(name: string): Buffer {
  return new TlvWriter()
    .add(SpecTag.ARG, name)
    .add(SpecTag.FLAGS, uint32(SpecFlag.BUILTIN))
    .finish();
}

function addProcess(
  tlvs: TlvWriter,
  { process, annotations }: Pick<OciSpec, 'process' | 'annotations'>,
  stdin: boolean,
  otherFlags: number,
): void {
  for (const argument of process.args) tlvs.add(SpecTag.ARG, argument);
  for (const variable of process.env ?? []) tlvs.add(SpecTag.ENV, variable);
  tlvs.add(SpecTag.CWD, process.cwd);
  tlvs.add(
    SpecTag.USER,
    annotations?.[USER_ANNOTATION] ?? `${process.user.uid}:${process.user.gid}`,
  );
  const groups = annotations?.[GROUPS_ANNOTATION]?.split(',');
  for (const group of groups ?? process.user.additionalGids ?? []) {
    tlvs.add(SpecTag.GROUP, String(group));
  }
  addList(tlvs, process.rlimits, addRlimit);
  if (process.capabilities) addCapabilities(tlvs, process.capabilities);
  if (process.terminal && process.consoleSize) {
    tlvs.add(SpecTag.WINSIZE, encodeSize(process.consoleSize.height, process.consoleSize.width));
  }
  const flags =
    (process.terminal ? SpecFlag.TERMINAL : 0) |
    (stdin ? SpecFlag.STDIN : 0) |
    (process.noNewPrivileges ? SpecFlag.NO_NEW_PRIVS : 0);
  tlvs.add(SpecTag.FLAGS, uint32(flags | otherFlags));
}

/** A terminal's size, as WINSIZE and RESIZE have it. */
export function encodeSize(rows: number, columns: number): Buffer {
  const size = Buffer.allocUnsafe(4);
  size.writeUInt16LE(rows, 0);
  size.writeUInt16LE(columns, 2);
  return size;
}

function finish(tlvs: TlvWriter): Buffer {
  const payload = tlvs.finish();
  if (payload.length > SPEC_MAX) {
    throw new ClearVMError(
      'ERR_SPEC_TOO_LARGE',
      `the command, its environment and its files take ${payload.length} bytes; a container can be given ${SPEC_MAX}: pass large values through a volume`,
    );
  }
  return payload;
}

function addMount(tlvs: TlvWriter, mount: OciMount, shares: SpecContext['shares']): void {
  // One with a size is not what init makes.
  const sized = mount.options?.some((option) => option.startsWith('size='));
  if (mount.type !== 'bind' && !sized && BUILT_IN_MOUNTS.has(mount.destination)) return;
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

/** What lists that nobody can change have come to: the same few for most containers. */
const encoded = new WeakMap<readonly unknown[], TlvWriter>();

function addList<T>(
  tlvs: TlvWriter,
  list: readonly T[] | undefined,
  add: (tlvs: TlvWriter, item: T) => void,
): void {
  if (!list) return;
  if (!Object.isFrozen(list)) {
    for (const item of list) add(tlvs, item);
    return;
  }
  let tlvsOfList = encoded.get(list);
  if (!tlvsOfList) {
    tlvsOfList = new TlvWriter();
    for (const item of list) add(tlvsOfList, item);
    encoded.set(list, tlvsOfList);
  }
  tlvs.addAll(tlvsOfList);
}

const addMask = (tlvs: TlvWriter, path: string): unknown => tlvs.add(SpecTag.MASK, path);
const addReadonly = (tlvs: TlvWriter, path: string): unknown => tlvs.add(SpecTag.READONLY, path);

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

const CAPABILITY_SETS = [
  'bounding',
  'effective',
  'permitted',
  'inheritable',
  'ambient',
] as const satisfies readonly CapabilitySet[];

function addCapabilities(
  tlvs: TlvWriter,
  sets: Partial<Record<CapabilitySet, readonly string[]>>,
): void {
  const masks = Buffer.alloc(8 * CAPABILITY_SETS.length);
  CAPABILITY_SETS.forEach((set, index) => {
    const names = sets[set];
    if (names) masks.set(capabilityMask(names, set), 8 * index);
  });
  tlvs.add(SpecTag.CAPS, masks);
}

/** As with `encoded`. */
const masksOfLists = new WeakMap<readonly string[], Uint8Array>();

function capabilityMask(names: readonly string[], set: CapabilitySet): Uint8Array {
  const known = masksOfLists.get(names);
  if (known) return known;
  const mask = new Uint8Array(8);
  for (const name of names) {
    const bit = CAPABILITIES.indexOf(name);
    if (bit < 0) {
      throw new ClearVMError('ERR_OCI_SPEC', `OCI runtime spec: ${name} is no capability`, {
        field: `/process/capabilities/${set}`,
      });
    }
    mask[bit >> 3] = (mask[bit >> 3] ?? 0) | (1 << (bit & 7));
  }
  if (Object.isFrozen(names)) masksOfLists.set(names, mask);
  return mask;
}

export function uint32(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(4);
  bytes.writeUInt32LE(value, 0);
  return bytes;
}
