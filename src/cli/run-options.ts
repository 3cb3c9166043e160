/** The options that `run` and `create` share. */
import type { HealthOptions, PullPolicy, PullReport, RunOptions } from '../engine/options.js';
import {
  invalidArgument,
  OptionError,
  usageError,
  wholeNumber,
  type OptionTable,
  type OptionValues,
} from './options.js';

export const RUN_OPTIONS: OptionTable = {
  rm: { type: 'boolean', describe: 'Remove the container at its end' },
  name: { type: 'string', value: 'NAME', describe: 'Its name, unique among containers' },
  tty: { type: 'boolean', short: 't', describe: 'Give the command a terminal' },
  interactive: { type: 'boolean', short: 'i', describe: 'Connect standard input' },
  env: {
    type: 'list',
    short: 'e',
    value: 'NAME[=VALUE]',
    describe: "Set a variable; without a value, to this shell's",
  },
  'env-file': { type: 'list', value: 'FILE', describe: 'Set the variables of a file' },
  workdir: { type: 'string', short: 'w', value: 'DIR', describe: 'Working directory' },
  user: { type: 'string', short: 'u', value: 'USER[:GROUP]', describe: 'Names or numbers' },
  entrypoint: {
    type: 'string',
    value: 'COMMAND',
    describe: "In place of the image's; '' for none",
  },
  volume: {
    type: 'list',
    short: 'v',
    value: 'SOURCE:TARGET[:ro]',
    describe: 'Mount a directory or file of the host, or a named volume',
  },
  mount: {
    type: 'list',
    value: 'type=bind|volume|tmpfs,source=…,target=…',
    describe: 'The same in other words',
  },
  tmpfs: { type: 'list', value: 'DIR[:OPTIONS]', describe: 'Mount a memory file system' },
  'shm-size': { type: 'string', value: 'SIZE', describe: 'Of /dev/shm (64m)' },
  'read-only': { type: 'boolean', describe: 'Have the root file system read-only' },
  'cap-add': { type: 'list', value: 'NAME', describe: 'Add a capability' },
  'cap-drop': { type: 'list', value: 'NAME', describe: 'Drop a capability' },
  'group-add': { type: 'list', value: 'GROUP', describe: "Beside the user's own groups" },
  ulimit: { type: 'list', value: 'TYPE=SOFT[:HARD]', describe: 'Set a resource limit' },
  'add-host': { type: 'list', value: 'NAME:ADDRESS', describe: 'Add a line to /etc/hosts' },
  memory: {
    type: 'string',
    short: 'm',
    value: 'SIZE',
    describe: 'Guest memory, 64m to 1024g (512m)',
  },
  'memory-reservation': {
    type: 'string',
    value: 'SIZE',
    describe: 'What the guest makes do with as long as it can',
  },
  hugepages: { type: 'boolean', describe: "Memory in pages of 2 MiB of the host's pool" },
  'private-files': {
    type: 'boolean',
    describe: "Copies of the image's files in the VM, instead of the host's pages",
  },
  cpus: { type: 'string', value: 'COUNT', describe: 'Virtual CPUs, 0.01 to 32 (1)' },
  'cpuset-cpus': {
    type: 'string',
    value: 'LIST',
    describe: "Of the host's processors, those to run on, as in 0-3,7",
  },
  'oom-score-adj': {
    type: 'string',
    value: 'NUMBER',
    describe: 'From -1000, never, to 1000: what its kernel ends first for memory',
  },
  'pids-limit': {
    type: 'string',
    value: 'COUNT',
    describe: 'How many threads it may have; -1 for any number',
  },
  sysctl: { type: 'list', value: 'NAME=VALUE', describe: "Set a parameter of the VM's kernel" },
  hostname: { type: 'string', short: 'h', value: 'NAME', describe: "The container's host name" },
  label: { type: 'list', short: 'l', value: 'NAME=VALUE', describe: 'Give it a label' },
  'label-file': { type: 'list', value: 'FILE', describe: 'Give it the labels of a file' },
  cidfile: { type: 'string', value: 'FILE', describe: "Write the container's id into a new file" },
  restart: {
    type: 'string',
    value: 'POLICY',
    describe: 'When to start it again: no, on-failure[:N], always, unless-stopped (no)',
  },
  'stop-signal': { type: 'string', value: 'SIGNAL', describe: 'What `stop` sends (TERM)' },
  'stop-timeout': {
    type: 'string',
    value: 'SECONDS',
    describe: 'How long `stop` waits before it ends the VM (10)',
  },
  'health-cmd': {
    type: 'string',
    value: 'COMMAND',
    describe: 'Run again and again, to see if it is well',
  },
  'health-interval': { type: 'string', value: 'TIME', describe: 'Between two of them (30s)' },
  'health-timeout': { type: 'string', value: 'TIME', describe: 'How long one may take (30s)' },
  'health-retries': { type: 'string', value: 'N', describe: 'Failures that make it unhealthy (3)' },
  'health-start-period': {
    type: 'string',
    value: 'TIME',
    describe: 'After the start, in which failures do not count (0s)',
  },
  'health-start-interval': {
    type: 'string',
    value: 'TIME',
    describe: 'The interval in that time (5s)',
  },
  'no-healthcheck': { type: 'boolean', describe: "Do not run the image's" },
  'log-driver': { type: 'string', value: 'json-file|none', describe: 'Where output is kept' },
  'log-opt': {
    type: 'list',
    value: 'max-size=SIZE|max-file=N',
    describe: 'When the log is rotated, and how many files there are',
  },
  pull: {
    type: 'string',
    value: 'always|missing|never',
    describe: 'When to get the image from its registry (missing)',
  },
  quiet: { type: 'boolean', short: 'q', describe: 'Say nothing of a pull' },
  attach: {
    type: 'list',
    short: 'a',
    value: 'stdin|stdout|stderr',
    describe: 'Connect these streams alone',
  },
  'sig-proxy': { type: 'boolean', describe: 'Pass signals on (true)' },
  'volumes-from': {
    type: 'list',
    value: 'CONTAINER[:ro]',
    describe: 'Mount what another container has mounted',
  },
  domainname: { type: 'string', value: 'NAME', describe: 'The NIS domain name' },
  'security-opt': {
    type: 'list',
    value: 'no-new-privileges',
    describe: 'Programs get no privileges from set-user-id bits',
  },
  network: { type: 'string', value: 'none', describe: 'There is no other yet' },
  net: { type: 'string', value: 'none', describe: 'The same' },
  platform: { type: 'string', value: 'linux/amd64', describe: 'There is no other' },
  init: { type: 'boolean', describe: 'For command lines made for docker: there is always an init' },
  'disable-content-trust': {
    type: 'boolean',
    describe: 'For command lines made for docker: signatures are not looked at',
  },
  'no-template': { type: 'boolean', describe: 'Boot the VM, even if it could be forked' },
  debug: {
    type: 'boolean',
    describe: "Print the guest kernel's log on stderr; --rm goes with it",
  },
};

const LISTS = [
  ['tmpfs', 'tmpfs'],
  ['cap-add', 'capAdd'],
  ['cap-drop', 'capDrop'],
  ['group-add', 'groupAdd'],
  ['ulimit', 'ulimits'],
  ['add-host', 'addHosts'],
  ['volumes-from', 'volumesFrom'],
] as const;

const HEALTH_OPTIONS = [
  ['cmd', 'cmd'],
  ['interval', 'interval'],
  ['timeout', 'timeout'],
  ['start-period', 'startPeriod'],
  ['start-interval', 'startInterval'],
] as const;

/** The library's options of the command line's. Errors: ERR_USAGE. */
export async function toRunOptions(given: OptionValues, cmd: string[]): Promise<RunOptions> {
  const texts = [
    ...(['name', 'workdir', 'user', 'entrypoint', 'memory', 'cpus', 'hostname'] as const),
    ...(['restart', 'domainname'] as const),
  ];
  const pull = given.text('pull');
  checkFixed(given);
  const attached = attachedStreams(given);
  const result: RunOptions = {
    stdin: given.flag('interactive') ? 'inherit' : 'ignore',
    stdout: attached.stdout ? 'inherit' : 'ignore',
    stderr: attached.stderr ? 'inherit' : 'ignore',
    env: given.list('env'),
    envFile: given.list('env-file'),
    volumes: given.list('volume'),
    sysctls: given.list('sysctl'),
  };
  if (cmd.length > 0) result.cmd = cmd;
  if (pull !== undefined) result.pull = pull as PullPolicy; // the library checks it
  if (given.flag('tty')) result.tty = true;
  if (given.flag('debug')) result.debug = true;
  if (given.flag('no-template')) result.template = false;
  if (given.flag('hugepages')) result.hugepages = true;
  if (given.flag('private-files')) result.privateFiles = true;
  if (given.flag('rm')) result.autoRemove = true;
  if (!given.flag('quiet')) result.reportPull = reportPull;
  for (const name of texts) {
    const value = given.text(name);
    if (value !== undefined) result[name] = value;
  }
  for (const [option, name] of LISTS) {
    const values = given.list(option);
    if (values.length > 0) result[name] = values;
  }
  if (given.flag('read-only')) result.readOnly = true;
  if (noNewPrivileges(given.list('security-opt'))) result.noNewPrivileges = true;
  const memoryReservation = given.text('memory-reservation');
  if (memoryReservation !== undefined) result.memoryReservation = memoryReservation;
  const cpusetCpus = given.text('cpuset-cpus');
  if (cpusetCpus !== undefined) result.cpusetCpus = cpusetCpus;
  const shmSize = given.text('shm-size');
  if (shmSize !== undefined) result.shmSize = shmSize;
  for (const text of given.list('mount')) {
    const { parseMount } = await import('../engine/volumes.js');
    const mount = parseMount(text);
    if ('tmpfs' in mount) (result.tmpfs ??= []).push(mount.tmpfs);
    else (result.volumes ??= []).push(mount);
  }
  const labels = pairs(given.list('label'));
  for (const file of given.list('label-file')) {
    const { readFile } = await import('node:fs/promises');
    const lines = (await readFile(file, 'utf8')).split('\n').filter((line) => /^[^#\s]/.test(line));
    Object.assign(labels, pairs(lines));
  }
  if (Object.keys(labels).length > 0) result.labels = labels;
  const logOptions = pairs(given.list('log-opt'));
  if (Object.keys(logOptions).length > 0) result.logOptions = logOptions;
  const driver = given.text('log-driver');
  if (driver !== undefined) result.logDriver = driver;
  const healthcheck = healthOptions(given);
  if (healthcheck !== undefined) result.healthcheck = healthcheck;
  const stopSignal = given.text('stop-signal');
  if (stopSignal !== undefined) result.stopSignal = stopSignal;
  const oomScore = given.text('oom-score-adj');
  if (oomScore !== undefined) result.oomScoreAdj = wholeNumber(oomScore, '--oom-score-adj');
  const threads = given.text('pids-limit');
  if (threads !== undefined) result.pidsLimit = wholeNumber(threads, '--pids-limit');
  const timeout = given.text('stop-timeout');
  if (timeout !== undefined) {
    result.stopTimeout = wholeNumber(timeout, '--stop-timeout');
  }
  return result;
}

/** Which streams are connected: those of -a; without it stdout and stderr, and stdin with -i. Errors: ERR_USAGE. */
export function attachedStreams(
  given: OptionValues,
): Record<'stdin' | 'stdout' | 'stderr', boolean> {
  const named = given.list('attach').map((text) => text.toLowerCase());
  for (const name of named) {
    if (!['stdin', 'stdout', 'stderr'].includes(name)) {
      const why = 'valid streams are STDIN, STDOUT and STDERR';
      throw invalidArgument(name, '-a, --attach', why, 'run');
    }
  }
  const all = named.length === 0;
  return {
    stdin: given.flag('interactive') && (all || named.includes('stdin')),
    stdout: all || named.includes('stdout'),
    stderr: all || named.includes('stderr'),
  };
}

/** Options that have one value yet. Errors: ERR_USAGE. */
function checkFixed(given: OptionValues): void {
  for (const name of ['network', 'net']) {
    const network = given.text(name);
    if (network === undefined || network === 'none') continue;
    throw new OptionError(
      `--${name} ${network} is not supported: containers have no network yet, but loopback; --${name} none is what they have`,
      'run',
    );
  }
  const platform = given.text('platform');
  if (platform !== undefined && !/^linux(\/(amd64|x86_64))?$/.test(platform)) {
    throw new OptionError(
      `--platform ${platform} is not supported: images are run for linux/amd64`,
      'run',
    );
  }
}

/** `--security-opt`: what lifts a confinement that is not there means nothing. Errors: ERR_USAGE. */
function noNewPrivileges(texts: readonly string[]): boolean {
  let result = false;
  for (const text of texts) {
    const [, value] = /^no-new-privileges(?:[:=](true|false))?$/.exec(text) ?? [];
    if (
      text.startsWith('no-new-privileges') &&
      (value !== undefined || text === 'no-new-privileges')
    ) {
      result = value !== 'false';
    } else if (!/^(seccomp|apparmor)[:=]unconfined$|^label[:=]disable$/.test(text)) {
      throw new OptionError(
        `--security-opt ${text} is not supported: the boundary is the virtual machine; there is no-new-privileges`,
        'run',
      );
    }
  }
  return result;
}

/** Undefined: the image's. Errors: ERR_USAGE. */
function healthOptions(given: OptionValues): false | HealthOptions | undefined {
  const health: HealthOptions = {};
  for (const [option, name] of HEALTH_OPTIONS) {
    const text = given.text(`health-${option}`);
    // An empty command is docker's way to say: the image's.
    if (text !== undefined && text !== '') health[name] = text;
  }
  const retries = given.text('health-retries');
  if (retries !== undefined) {
    health.retries = wholeNumber(retries, '--health-retries');
    if (health.retries < 0) throw usageError('--health-retries cannot be negative');
  }
  const some = Object.keys(health).length > 0;
  if (!given.flag('no-healthcheck')) return some ? health : undefined;
  if (some) throw usageError('--no-healthcheck conflicts with --health-* options');
  return false;
}

/** NAME=VALUE, or NAME alone for an empty value. */
export function pairs(texts: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    texts.map((text) => {
      const equals = text.indexOf('=');
      return equals < 0 ? [text, ''] : [text.slice(0, equals), text.slice(equals + 1)];
    }),
  );
}

/** stdout is the command's. */
async function reportPull(name: string, missing: boolean): Promise<PullReport> {
  if (missing) process.stderr.write(`Unable to find image '${name}' locally\n`);
  const { openPull } = await import('./transfer.js');
  return openPull(process.stderr, name);
}
