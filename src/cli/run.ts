/** clearvm run */
import { ClearVMError } from '../errors.js';
import type { RunningContainer } from '../engine/container.js';
import type { RunOptions } from '../engine/options.js';
import { releaseStreams } from '../vm/native.js';
import type { Command } from './command.js';
import { usageError, type OptionTable, type OptionValues } from './options.js';
import { parseRunArguments } from './parse-run.js';
import { RUN_OPTIONS, toRunOptions } from './run-options.js';
import { REFUSED_OPTIONS } from './run-refused.js';
import { SignalForwarder } from './signal-forwarder.js';

const options: OptionTable = {
  ...RUN_OPTIONS,
  detach: { type: 'boolean', short: 'd', describe: 'Leave it running, and print its id' },
  'detach-keys': {
    type: 'string',
    value: 'KEYS',
    describe: 'Keys that let go of the terminal (ctrl-p,ctrl-q)',
  },
  timings: {
    type: 'boolean',
    describe: 'Print when the run reached which point, on stderr; --rm goes with it',
  },
};

export const command: Command = {
  usage: 'run [OPTIONS] IMAGE [COMMAND] [ARG...]',
  summary: 'Run an image as a virtual machine of its own, and exit as its command does',
  options,
  operands: [1, Number.POSITIVE_INFINITY],
  failureStatus: 125,
  examples: [
    ['clearvm run --rm debian:12 cat /etc/os-release', 'run one command'],
    ['echo hello | clearvm run -i --rm debian:12 tr a-z A-Z', 'feed it standard input'],
    ['clearvm run -d --name web --restart unless-stopped nginx', 'start a service'],
    [
      'clearvm run --rm -v "$PWD":/src:ro -w /src --cpus 4 -m 2g gcc make -C /src',
      'work on a directory',
    ],
    ['clearvm run -e TZ=UTC --timings busybox date', 'set a variable, and see where time goes'],
  ],
  parse: (argv) => parseRunArguments(argv, options, REFUSED_OPTIONS),

  async run({ options: given, operands }, context) {
    const [image, ...cmd] = operands;
    if (image === undefined) throw usageError('which image?', 'run');
    if (given.flag('detach')) {
      if (given.list('attach').length > 0) {
        throw new ClearVMError('ERR_USAGE', 'Conflicting options: -a and -d', { exitCode: 1 });
      }
      const { runDetached } = await import('./run-detached.js');
      return runDetached(given, image, cmd, context);
    }
    if (isKept(given)) {
      const { runKept } = await import('./run-kept.js');
      return runKept(given, image, cmd, context);
    }
    const engine = await context.engine();
    if (given.flag('tty')) {
      const { requireTerminal } = await import('./terminal.js');
      requireTerminal(given.flag('interactive'), true);
    }
    const signals = new SignalForwarder();
    const nodeMs = given.flag('timings') ? performance.now() : 0;
    try {
      const container = await engine.run(image, {
        ...(await toRunOptions(given, cmd)),
        ...(given.flag('tty') ? await terminalOptions(given.flag('interactive')) : {}),
        signal: signals.aborted,
      });
      if (given.flag('tty')) {
        // What is typed are keys, and what ends this process ends the VM.
        signals.close();
        return await runAtTerminal(container, given.flag('interactive'));
      }
      if (given.flag('sig-proxy', true)) signals.forwardTo(container);
      // The VMM has them: with its copy closed, whoever reads or writes the other end sees that.
      releaseStreams();
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

/**
 * Whether it outlives this command line. With --rm the container belongs to this process, which saves it a monitor (which is what runs health checks); what
 * looks at one run (--timings, --debug) does so there.
 */
function isKept(given: OptionValues): boolean {
  const asked = ['cidfile', 'detach-keys', 'health-cmd'];
  if (asked.some((name) => given.text(name) !== undefined)) return true;
  return !['rm', 'timings', 'debug'].some((name) => given.flag(name));
}

async function terminalOptions(interactive: boolean): Promise<RunOptions> {
  const { terminalSize } = await import('./terminal.js');
  const size = terminalSize();
  return { stdin: interactive ? 'pipe' : 'ignore', ...(size ? { size } : {}) };
}

async function runAtTerminal(container: RunningContainer, interactive: boolean): Promise<number> {
  const { RawTerminal } = await import('./terminal.js');
  const terminal = new RawTerminal(interactive);
  try {
    terminal.connect(container);
    return (await container.wait()).exitCode;
  } finally {
    terminal.close();
  }
}
