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

/** A directory of the host's that the VM's 9p server exports. */
export interface ShareConfig {
  /** The 9p mount tag. */
  tag: string;
  /** Absolute path of a directory or a regular file on the host. */
  path: string;
  readOnly?: boolean;
  /** How owners of files reach the guest; `host` needs a privileged VMM. */
  ownership?: 'host' | 'xattrs';
}

/** A file that init makes in the guest's memory and mounts over the root's. */
export interface GuestFile {
  /** Absolute path in the container. */
  path: string;
  /** Permission bits. */
  mode: number;
  content: string;
}

/** What a VM is made of: the content of vm.json (docs/compatibility.md). */
export interface VmConfig {
  version: 1;
  /** 64 hex digits. */
  id: string;
  name?: string;
  cpus: number;
  /** Bytes, whole MiB. */
  memory: number;
  /** Bytes of it, whole MiB, that the guest uses while that will do. */
  memoryReservation?: number;
  /** Thousandths of a processor that the VM uses at most, VMM included. */
  cpuLimit?: number;
  /** Of the host's processors, those that the VM runs on: "0-3,7". */
  cpusetCpus?: string;
  memoryBacking?: 'auto' | 'memfd' | 'anonymous' | 'hugepages';
  /** Absolute path of a vmlinux. */
  kernel: string;
  /** Absolute path of a newc cpio that holds /init. */
  initrd: string;
  /** Appended to the kernel's command line. */
  cmdline?: string;
  debug?: boolean;
  /** `false`: booted even where a template is there to fork it from. */
  template?: false;
  /** KVM's exit counters as they stand at init's first instruction go into the metrics. */
  statistics?: boolean;
  image?: { reference: string; id: string };
  root: {
    /** Absolute path of the directory of unpacked layers. */
    layers: string;
    /** Names in it, topmost first. */
    lower: string[];
    /** Absolute path of a directory below all of them: mount points that every container has. */
    base?: string;
    /** Absolute path of a directory that holds `upper` and `work`. */
    state: string;
    readOnly?: boolean;
    /** The overlay's own attributes are user.overlay.*, as in a user namespace they have to be. */
    userXattrs?: boolean;
    /** The guest has copies of the layers' files: it maps none of the host's, which other VMs map too. */
    privateFiles?: boolean;
  };
  shares: ShareConfig[];
  files: GuestFile[];
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

/** The template that a VM is forked from, where it is there and good. */
export interface TemplateUse {
  /** Absolute path of the template. */
  path: string;
  /** What the names of files begin with that are kept of it while the host is up. */
  cache: string;
  /** 9p devices that it has. */
  devices: number;
}

/** The mount tag of 9p device `index`: the root's, then the volumes'. */
export function shareTag(index: number): string {
  return index === 0 ? 'root' : `vol${index - 1}`;
}

/** The VMM's command line for a checked config; file descriptors come from the caller. */
export function vmmArguments(config: VmConfig, template?: TemplateUse): string[] {
  const args = ['--cpus', String(config.cpus), '--memory', String(config.memory)];
  if (config.memoryReservation && config.memoryReservation < config.memory) {
    args.push('--balloon', String(config.memory - config.memoryReservation));
  }
  if (config.cpuLimit) args.push('--cpu-limit', String(config.cpuLimit));
  if (config.cpusetCpus) args.push('--cpuset-cpus', config.cpusetCpus);
  if (config.memoryBacking) args.push('--memory-backing', config.memoryBacking);
  if (config.cmdline) args.push('--cmdline', config.cmdline);
  if (config.debug) args.push('--debug');
  if (config.statistics) args.push('--statistics');
  const { layers, lower, base, state, readOnly, userXattrs, privateFiles } = config.root;
  args.push(
    '--overlay',
    `tag=root${readOnly ? ',ro' : ''}${userXattrs ? ',userxattr' : ''}${privateFiles ? ',private' : ''},layers=${layers},lower=${lower.join(':')}${base ? `,base=${base}` : ''},state=${state}`,
  );
  for (const share of config.shares) {
    const flags =
      (share.readOnly ? ',ro' : '') + (share.ownership ? `,ownership=${share.ownership}` : '');
    args.push('--share', `tag=${share.tag}${flags},path=${share.path}`);
  }
  if (template) {
    args.push('--template', template.path, '--template-cache', template.cache);
    // The template's guest has found these devices; this one's has no use for them.
    for (let i = 1 + config.shares.length; i < template.devices; i++) {
      args.push('--unserved', shareTag(i));
    }
  }
  return args;
}
