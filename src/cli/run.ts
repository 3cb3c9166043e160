/** clearvm run */
import type { RunOptions } from '../engine/options.js';
import type { RunningContainer } from '../engine/container.js';
import type { Command } from './command.js';
import { usageError, type OptionTable, type OptionValues } from './options.js';
import { parseRunArguments } from './parse-run.js';
import { REFUSED_OPTIONS } from './run-refused.js';

const options: OptionTable = {
  rm: {
    type: 'boolean',
    describe: 'Remove the container at its end (it always is; for command lines made for docker)',
  },
  name: { type: 'string', value: 'NAME', describe: 'Its name, unique among running containers' },
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
    describe: 'Mount a directory or file of the host',
  },
  memory: {
    type: 'string',
    short: 'm',
    value: 'SIZE',
    describe: 'Guest memory, 64m to 1024g (512m)',
  },
  cpus: { type: 'string', value: 'COUNT', describe: 'Virtual CPUs, 1 to 32 (1)' },
  hostname: { type: 'string', short: 'h', value: 'NAME', describe: "The container's host name" },
  timings: { type: 'boolean', describe: 'Print when the run reached which point, on stderr' },
  debug: { type: 'boolean', describe: "Print the guest kernel's log on stderr" },
};

/** Signals that reach the command; those that Node or the terminal need stay here. */
const FORWARDED = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const;

export const command: Command = {
  usage: 'run [OPTIONS] IMAGE [COMMAND] [ARG...]',
  summary: 'Run an image as a virtual machine of its own, and exit as its command does',
  options,
  operands: [1, Number.POSITIVE_INFINITY],
  failureStatus: 125,
  examples: [
    ['clearvm run --rm debian:12 cat /etc/os-release', 'run one command'],
    ['echo hello | clearvm run -i --rm debian:12 tr a-z A-Z', 'feed it standard input'],
    [
      'clearvm run -v "$PWD":/src:ro -w /src --cpus 4 -m 2g gcc make -C /src',
      'work on a directory',
    ],
    ['clearvm run -e TZ=UTC --timings busybox date', 'set a variable, and see where time goes'],
  ],
  parse: (argv) => parseRunArguments(argv, options, REFUSED_OPTIONS),

  async run({ options: given, operands }, context) {
    const [image, ...cmd] = operands;
    if (image === undefined) throw usageError('which image?', 'run');
    const engine = await context.engine();
    const signals = new SignalForwarder();
    const nodeMs = performance.now();
    try {
      const container = await engine.run(image, {
        ...toRunOptions(given, cmd),
        signal: signals.aborted,
      });
      signals.forwardTo(container);
      const { exitCode } = await container.wait();
      if (given.flag('timings')) {
        const { formatTimings } = await import('./timings.js');
        process.stderr.write(formatTimings(container.timings, nodeMs));
      }
      return exitCode;
    } catch (error) {
      if (signals.exitCode !== undefined) return signals.exitCode;
      throw error;
    } finally {
      signals.close();
    }
  },
};

/** Passes this process's signals on to the command; before there is one, they end the run. */
class SignalForwarder {
  readonly #aborter = new AbortController();
  #container: RunningContainer | undefined;
  /** What to exit with when a signal came before the command ran. */
  exitCode: number | undefined;

  constructor() {
    for (const signal of FORWARDED) process.on(signal, this.#receive);
  }

  get aborted(): AbortSignal {
    return this.#aborter.signal;
  }

  forwardTo(container: RunningContainer): void {
    this.#container = container;
  }

  close(): void {
    for (const signal of FORWARDED) process.off(signal, this.#receive);
  }

  readonly #receive = (name: NodeJS.Signals, number: number): void => {
    if (this.#container) {
      // It fails only when the container ends just now.
      this.#container.kill(name).catch(() => {});
      return;
    }
    this.exitCode ??= 128 + number;
    this.#aborter.abort(new Error(`${name} came before the command ran`));
  };
}

/** The library's options of the command line's. */
export function toRunOptions(given: OptionValues, cmd: string[]): RunOptions {
  const texts = ['name', 'workdir', 'user', 'entrypoint', 'memory', 'cpus', 'hostname'] as const;
  const result: RunOptions = {
    stdin: given.flag('interactive') ? 'inherit' : 'ignore',
    stdout: 'inherit',
    stderr: 'inherit',
    env: given.list('env'),
    envFile: given.list('env-file'),
    volumes: given.list('volume'),
  };
  if (cmd.length > 0) result.cmd = cmd;
  if (given.flag('debug')) result.debug = true;
  for (const name of texts) {
    const value = given.text(name);
    if (value !== undefined) result[name] = value;
  }
  return result;
}
