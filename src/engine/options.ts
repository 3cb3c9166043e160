/** What `Engine.run` takes, and its check. */
import { ClearVMError } from '../errors.js';
import { validate } from '../generated/validators/run-options.js';
import { describeSchemaError } from '../vm/config.js';
import type { ProgressListener, PulledImage } from '../image/index.js';
import type { Stdio } from '../vm/stdio.js';
import type { TerminalSize } from './exec.js';
import type { VolumeOptions } from './volumes.js';

/** Times: as docker writes them (`1m30s`), or milliseconds. What is not given is the image's, or docker's. */
export interface HealthOptions {
  /** A line for the shell, or the words of a command. */
  cmd?: string | string[];
  /** Between two of them; 30s. */
  interval?: string | number;
  /** Of one, which fails then; 30s. */
  timeout?: string | number;
  /** Failures in a row; 3. */
  retries?: number;
  /** After the start, in which failures do not count; 0s. */
  startPeriod?: string | number;
  /** The interval in that time; 5s. */
  startInterval?: string | number;
}

/** When an image is pulled before it is run. */
export type PullPolicy = 'always' | 'missing' | 'never';

/** Who hears of a pull that `run` makes. */
export interface PullReport {
  onProgress?: ProgressListener;
  /** Called once, if an image was pulled. */
  onPulled?: (pulled: PulledImage) => void;
  /** The pull is over, however it went. */
  stop?: () => void;
}

/** An AbortSignal, or what does as much: Node takes longer to load its own than a command takes to read its options. */
export type AbortSource = Pick<
  AbortSignal,
  'aborted' | 'reason' | 'throwIfAborted' | 'addEventListener' | 'removeEventListener'
>;

/** What a container is run with. What is not given is the image's, or docker's default. */
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
  /** `container[:ro|rw]` each: its mounts are this one's, too. */
  volumesFrom?: string[];
  /** Programs get no privileges from set-user-id bits and file capabilities. */
  noNewPrivileges?: boolean;
  /** The NIS domain name; none unless given. */
  domainname?: string;
  /** Memory file systems: `/path[:size=64m,mode=1777,...]`. */
  tmpfs?: string[];
  /** Bytes of /dev/shm, or a size; 64m unless given. */
  shmSize?: string | number;
  /** The root file system cannot be written to; volumes and memory file systems can. */
  readOnly?: boolean;
  /** Capabilities to add to docker's default set and to take from it, with CAP_ or without; `ALL`. */
  capAdd?: string[];
  capDrop?: string[];
  /** Groups beside the user's, by name or number. */
  groupAdd?: string[];
  /** `type=soft[:hard]` each, as docker's --ulimit. */
  ulimits?: string[];
  /** How many threads its processes may have together; 0 or -1, as without it: any number. */
  pidsLimit?: number;
  /** -1000 to 1000: how soon the guest's kernel ends its processes when memory runs out, as proc(5) has it. */
  oomScoreAdj?: number;
  /** `name:address` each: lines of /etc/hosts. */
  addHosts?: string[];
  /** `name=value` each: parameters of the guest's kernel, under /proc/sys, dots for slashes. */
  sysctls?: string[];
  /** Guest memory: bytes, or a size as docker writes it; 64m to 1024g, `512m` unless given. */
  memory?: string | number;
  /**
   * What the guest is to make do with, as long as its programs do not need more: the rest stays the host's. A size up to
   * `memory`, from 64m; all of `memory` unless given.
   */
  memoryReservation?: string | number;
  /** Its memory is huge pages of 2 MiB of the host's pool, all of them set aside when it starts. It is booted, not forked. */
  hugepages?: boolean;
  /**
   * Its VM has copies of what it reads of the image, instead of mapping the host's pages, which all containers of the image share: more
   * memory, but no VM can find out by its caches what of the image another one uses.
   */
  privateFiles?: boolean;
  /** Virtual CPUs: 0.01 to 32, 1 unless given. A fraction is rounded up, and the VM uses no more of the host than was given. */
  cpus?: string | number;
  /** Of the host's processors, those that the VM runs on: `0-3,7`. Any unless given. */
  cpusetCpus?: string;
  /** Unique among containers; made up unless given. */
  name?: string;
  /** Over the image's labels. */
  labels?: Readonly<Record<string, string>>;
  /** `no`, `on-failure[:N]`, `always` or `unless-stopped`; `no` unless given. Only with `Engine.create`. */
  restart?: string;
  /** Remove the container when it has ended: `Engine.run` always does. */
  autoRemove?: boolean;
  /** What `stop` sends: the image's, or SIGTERM. */
  stopSignal?: string;
  /** Seconds until `stop` ends the VM; 10 unless given, -1: never. */
  stopTimeout?: number;
  /** `json-file` unless given; `none`. Only with `Engine.create`. */
  logDriver?: string;
  /** `max-size` and `max-file` of docker's json-file driver. */
  logOptions?: Readonly<Record<string, string>>;
  /** The command gets a terminal: its output is all `stdout`. */
  tty?: boolean;
  /** The terminal's size at first. */
  size?: TerminalSize;
  /** `ignore` unless given. */
  stdin?: Stdio;
  /**
   * A command that is run in the container again and again, in place of the image's HEALTHCHECK or of parts of it; false: none. Only
   * with `Engine.create`: it is the monitor that runs it.
   */
  healthcheck?: false | HealthOptions;
  /** `pipe` unless given; then it must be read, or the container will wait for its reader. */
  stdout?: Stdio;
  stderr?: Stdio;
  /** The guest kernel logs everything, to this process's stderr. */
  debug?: boolean;
  /** Have KVM's exit counters taken at init's first instruction (`RunningContainer.metrics`). */
  statistics?: boolean;
  /** When to get the image from its registry: `missing` (from the store) unless given. */
  pull?: PullPolicy;
  /** Called when a pull begins, with the image's name as it was given, and whether it was missing. */
  reportPull?: (name: string, missing: boolean) => PullReport | Promise<PullReport>;
  /** `false`: boot the VM even where a template is there to fork it from. Forked unless given. */
  template?: boolean;
  /** Ends the VM; `run` or `wait` reject with the signal's reason. */
  signal?: AbortSource;
}

/** Errors: ERR_RUN_OPTIONS, naming the first field that is wrong. */
export function checkRunOptions(options: unknown): asserts options is RunOptions {
  if (validate(options)) return;
  const { field, text } = describeSchemaError(validate.errors, options);
  const name = field.replace(/^\//, '') || 'the options';
  if (name === 'name') {
    const given = String((options as RunOptions).name);
    const message = `Invalid container name (${given}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed`;
    throw new ClearVMError('ERR_RUN_OPTIONS', message, { field: name });
  }
  const hint = Object.hasOwn(HINTS, name) ? HINTS[name] : undefined;
  throw new ClearVMError('ERR_RUN_OPTIONS', `${name} ${hint ?? text}`, { field: name });
}

/** What `Engine.prepare` is to make, and for which containers. */
export interface PrepareOptions extends Pick<RunOptions, 'memory' | 'cpus' | 'volumes'> {
  /** How many VMs of that shape are to be kept forked in advance: 0 to 1000. Unless given, as many as before. */
  spares?: number;
}

const MAX_SPARES = 1000;

/** Errors: ERR_RUN_OPTIONS. */
export function checkSpares(spares: number): void {
  if (Number.isInteger(spares) && spares >= 0 && spares <= MAX_SPARES) return;
  const message = `spares must be a whole number from 0 to ${MAX_SPARES} (it is ${spares})`;
  throw new ClearVMError('ERR_RUN_OPTIONS', message, { field: 'spares' });
}

/** What to say in place of a pattern that nobody wants to read. */
const HINTS: Readonly<Record<string, string>> = {
  pull: 'must be always, missing or never',
  workdir: 'must be an absolute path',
  hostname:
    'must be letters, digits and . _ -, beginning and ending with a letter or digit, at most 64 of them',
  domainname: 'must be letters, digits and . _ -, at most 64 of them',
  user: 'must be NAME or UID, with :GROUP or :GID behind it or not',
};
