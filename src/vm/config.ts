/** What one VM is made of: schemas/vm-config.schema.json as a type, its check, and the VMM's options made of it. */
import type { ErrorObject } from 'ajv';

import { ClearVMError } from '../errors.js';
import { validate } from '../generated/validators/vm-config.js';

/** Virtual CPUs that one VM may have: what the MP table that the guest gets is tested with. */
export const MAX_CPUS = 32;
/** Bytes. Below it the guest kernel boots, but leaves nothing worth having to a container. */
export const MIN_MEMORY = 64 * 1024 * 1024;
/** Bytes. */
export const MAX_MEMORY = 1024 ** 4;

export interface ShareConfig {
  /** The 9p mount tag. */
  tag: string;
  /** Absolute path of a directory or a regular file on the host. */
  path: string;
  readOnly?: boolean;
  /** How owners of files reach the guest; `host` needs a privileged VMM. */
  ownership?: 'host' | 'xattrs';
}

export interface GuestFile {
  /** Absolute path in the container. */
  path: string;
  /** Permission bits. */
  mode: number;
  content: string;
}

export interface VmConfig {
  version: 1;
  /** 64 hex digits. */
  id: string;
  name?: string;
  cpus: number;
  /** Bytes, whole MiB. */
  memory: number;
  memoryBacking?: 'auto' | 'memfd' | 'anonymous';
  /** Absolute path of a vmlinux. */
  kernel: string;
  /** Absolute path of a newc cpio that holds /init. */
  initrd: string;
  /** Appended to the kernel's command line. */
  cmdline?: string;
  debug?: boolean;
  /** KVM's exit counters as they stand at init's first instruction go into the metrics. */
  statistics?: boolean;
  image?: { reference: string; id: string };
  root: {
    /** Absolute path of the directory of unpacked layers. */
    layers: string;
    /** Names in it, topmost first. */
    lower: string[];
    /** Absolute path of a directory that holds `upper` and `work`. */
    state: string;
    readOnly?: boolean;
  };
  shares: ShareConfig[];
  files: GuestFile[];
  vmm?: { pid: number; startTime: string };
}

/** ajv's first error as a sentence: what is wrong with which field, and what its value is. */
export function describeSchemaError(
  errors: ErrorObject[] | null | undefined,
  value: unknown,
): { field: string; text: string } {
  const error = errors?.[0];
  if (!error) return { field: '/', text: 'is not valid' };
  let field = error.instancePath;
  let at: unknown = value;
  for (const step of field.split('/').slice(1)) {
    at = (at as Record<string, unknown> | undefined)?.[
      step.replaceAll('~1', '/').replaceAll('~0', '~')
    ];
  }
  const params = error.params as Record<string, unknown>;
  if (error.keyword === 'required') {
    return { field: `${field}/${String(params['missingProperty'])}`, text: 'is missing' };
  }
  if (error.keyword === 'additionalProperties') {
    return {
      field: `${field}/${String(params['additionalProperty'])}`,
      text: 'is not a known field',
    };
  }
  if (error.keyword === 'enum') {
    return { field, text: `must be one of ${(params['allowedValues'] as unknown[]).join(', ')}` };
  }
  field ||= '/';
  const shown = at === undefined ? '' : ` (it is ${JSON.stringify(at)?.slice(0, 80)})`;
  return { field, text: `${error.message ?? 'is not valid'}${shown}` };
}

/** Errors: ERR_VM_CONFIG, naming the first field that is wrong. */
export function checkVmConfig(config: unknown): asserts config is VmConfig {
  if (validate(config)) return;
  const { field, text } = describeSchemaError(validate.errors, config);
  throw new ClearVMError('ERR_VM_CONFIG', `VM config: ${field} ${text}`, { field });
}

/** The VMM's command line for a checked config; file descriptors come from the caller. */
export function vmmArguments(config: VmConfig): string[] {
  const args = ['--cpus', String(config.cpus), '--memory', String(config.memory)];
  if (config.memoryBacking) args.push('--memory-backing', config.memoryBacking);
  if (config.cmdline) args.push('--cmdline', config.cmdline);
  if (config.debug) args.push('--debug');
  if (config.statistics) args.push('--statistics');
  const { layers, lower, state, readOnly } = config.root;
  args.push(
    '--overlay',
    `tag=root${readOnly ? ',ro' : ''},layers=${layers},lower=${lower.join(':')},state=${state}`,
  );
  for (const share of config.shares) {
    const flags =
      (share.readOnly ? ',ro' : '') + (share.ownership ? `,ownership=${share.ownership}` : '');
    args.push('--share', `tag=${share.tag}${flags},path=${share.path}`);
  }
  return args;
}
