/** clearvm exec */
import type { ExecOptions, ExecProcess } from '../engine/exec.js';
import type { Engine } from '../engine/engine.js';
import { ClearVMError } from '../errors.js';
import { releaseStreams } from '../vm/native.js';
import type { Command } from './command.js';
import { usageError, type OptionTable, type OptionValues } from './options.js';
import { parseRunArguments } from './parse-run.js';

const options: OptionTable = {
  detach: { type: 'boolean', short: 'd', describe: 'Leave the command running' },
  'detach-keys': {
    type: 'string',
    value: 'KEYS',
    describe: 'Keys that let go of the terminal (ctrl-p,ctrl-q)',
  },
  env: {
    type: 'list',
    short: 'e',
    value: 'NAME[=VALUE]',
    describe: "Set a variable; without a value, to this shell's",
  },
  'env-file': { type: 'list', value: 'FILE', describe: 'Set the variables of a file' },
  interactive: { type: 'boolean', short: 'i', describe: 'Connect standard input' },
  tty: { type: 'boolean', short: 't', describe: 'Give the command a terminal' },
  user: { type: 'string', short: 'u', value: 'USER[:GROUP]', describe: 'Names or numbers' },
  workdir: { type: 'string', short: 'w', value: 'DIR', describe: 'Working directory' },
};

/** What docker says of a command whose container has been killed. */
const KILLED = 137;

export const command: Command = {
  usage: 'exec [OPTIONS] CONTAINER COMMAND [ARG...]',
  summary: 'Run a command in a running container',
  options,
  operands: [2, Number.POSITIVE_INFINITY],
  failureStatus: 1,
  examples: [
    ['clearvm exec -it web sh', 'have a look around'],
    ['clearvm exec -u postgres db psql -c "select 1"', 'as another user'],
  ],
  parse: (argv) =>
    parseRunArguments(
      argv,
      options,
      {
        privileged: {
          hint: 'each container has a kernel of its own, and host devices are out of its reach',
        },
      },
      'exec',
    ),

  async run({ options: given, operands }, context) {
    const [container = '', ...cmd] = operands;
    if (given.flag('interactive') && given.flag('detach')) {
      throw usageError('-i cannot be combined with -d', 'exec');
    }
    const engine = await context.engine();
    if (given.flag('detach')) {
      const process = await engine.exec(container, cmd, {
        ...toExecOptions(given),
        stdout: 'ignore',
        stderr: 'ignore',
      });
      await process.detach();
      return 0;
    }
    if (given.flag('tty')) return runWithTerminal(engine, container, cmd, given);
    const process = await engine.exec(container, cmd, {
      ...toExecOptions(given),
      stdin: given.flag('interactive') ? 'inherit' : 'ignore',
      stdout: 'inherit',
      stderr: 'inherit',
    });
    // The VMM has them: with this copy closed, whoever reads or writes the other end sees that.
    releaseStreams();
    return exitCode(process);
  },
};

async function runWithTerminal(
  engine: Engine,
  container: string,
  cmd: string[],
  given: OptionValues,
): Promise<number> {
  const { RawTerminal, requireTerminal, terminalSize } = await import('./terminal.js');
  const { DEFAULT_DETACH_KEYS, parseDetachKeys } = await import('./detach-keys.js');
  const interactive = given.flag('interactive');
  requireTerminal(interactive, true);
  const keys = parseDetachKeys(given.text('detach-keys') ?? DEFAULT_DETACH_KEYS);
  const size = terminalSize();
  const terminal = new RawTerminal(interactive, keys);
  try {
    const process = await engine.exec(container, cmd, {
      ...toExecOptions(given),
      tty: true,
      ...(size ? { size } : {}),
      stdin: interactive ? 'pipe' : 'ignore',
      stdout: 'inherit',
    });
    terminal.connect(process);
    const end = await Promise.race([exitCode(process), terminal.detached]);
    if (end !== 'detached') return end;
  } finally {
    terminal.close();
  }
  process.stderr.write('read escape sequence\n');
  return 0;
}

async function exitCode(process: ExecProcess): Promise<number> {
  try {
    return (await process.wait()).exitCode;
  } catch (error) {
    if (error instanceof ClearVMError && error.code === 'ERR_VMM_GONE') return KILLED;
    throw error;
  }
}

function toExecOptions(given: OptionValues): ExecOptions {
  const result: ExecOptions = { env: given.list('env'), envFile: given.list('env-file') };
  for (const name of ['user', 'workdir'] as const) {
    const value = given.text(name);
    if (value !== undefined) result[name] = value;
  }
  return result;
}
