/** What `Engine.run` takes, and its check. */
import { ClearVMError } from '../errors.js';
import { validate } from '../generated/validators/run-options.js';
import { describeSchemaError } from '../vm/config.js';
import type { Stdio } from '../vm/stdio.js';
import type { VolumeOptions } from './volumes.js';

export interface RunOptions {
  /** The command and its arguments, in place of the image's. */
  cmd?: string[];
  /** In place of the image's entrypoint; the image's command is dropped with it. An empty string stands for none. */
  entrypoint?: string | string[];
  /** Variables over the image's: `{NAME: 'value'}`, or `NAME=value`, or `NAME` for this process's value. */
  env?: readonly string[] | Readonly<Record<string, string>>;
  /** Files of `NAME=value` lines, as docker's --env-file; `env` goes over them. */
  envFile?: string | string[];
  /** The working directory: absolute; made where it is missing. */
  workdir?: string;
  /** `name`, `uid`, `name:group`, `uid:gid` or a mixture, looked up in the image's /etc/passwd and /etc/group. */
  user?: string;
  /** The first 12 digits of the id unless given; at most 64 characters. */
  hostname?: string;
  /** `source:target[:ro]`, or the same as an object. */
  volumes?: (string | VolumeOptions)[];
  /** Guest memory: bytes, or a size as docker writes it; 64m to 1024g, `512m` unless given. */
  memory?: string | number;
  /** Virtual CPUs: 1 to 32, 1 unless given. */
  cpus?: string | number;
  /** Unique among running containers; made up unless given. */
  name?: string;
  /** `ignore` unless given. */
  stdin?: Stdio;
  /** `pipe` unless given; then it must be read, or the container will wait for its reader. */
  stdout?: Stdio;
  stderr?: Stdio;
  /** The guest kernel logs everything, to this process's stderr. */
  debug?: boolean;
  /** Have KVM's exit counters taken at init's first instruction (`RunningContainer.metrics`). */
  statistics?: boolean;
  /** Ends the VM; `run` or `wait` reject with the signal's reason. */
  signal?: AbortSignal;
}

/** Errors: ERR_RUN_OPTIONS, naming the first field that is wrong. */
export function checkRunOptions(options: unknown): asserts options is RunOptions {
  if (validate(options)) return;
  const { field, text } = describeSchemaError(validate.errors, options);
  const name = field.replace(/^\//, '') || 'the options';
  const hint = Object.hasOwn(HINTS, name) ? HINTS[name] : undefined;
  throw new ClearVMError('ERR_RUN_OPTIONS', `${name} ${hint ?? text}`, { field: name });
}

/** What to say in place of a pattern that nobody wants to read. */
const HINTS: Readonly<Record<string, string>> = {
  workdir: 'must be an absolute path',
  name: 'must be letters, digits and . _ -, beginning with a letter or digit, at most 128 of them',
  hostname:
    'must be letters, digits and . _ -, beginning and ending with a letter or digit, at most 64 of them',
  user: 'must be NAME or UID, with :GROUP or :GID behind it or not',
};
