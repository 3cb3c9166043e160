/** From the command line to a command, and from its end to an exit status. */
import { parseArgs } from 'node:util';

import { ClearVMError } from '../errors.js';
import type { Engine } from '../engine/engine.js';
import { COMMANDS, type Command, type CommandContext } from './command.js';
import { usageError, type ParsedArguments } from './options.js';

/** Runs a command line (without node and script); resolves to the exit status, and never rejects. */
export async function dispatch(argv: readonly string[]): Promise<number> {
  let failureStatus = 1;
  try {
    const { root, help, version, rest } = parseGlobalOptions(argv);
    const [name, ...args] = rest;
    if (version) return await runCommand(await load('version'), 'version', [], root);
    if (name === undefined || name === 'help' || help) {
      return await showHelp(name === 'help' ? args[0] : undefined, help || name === 'help');
    }
    const command = await load(name);
    failureStatus = command.failureStatus;
    return await runCommand(command, name, args, root);
  } catch (error) {
    const { formatError } = await import('./output.js');
    process.stderr.write(formatError(error));
    if (process.env['CLEARVM_STACK'] && error instanceof Error) {
      process.stderr.write(`${error.stack ?? ''}\n`);
    }
    const own = error instanceof ClearVMError ? error.exitCode : 125;
    return own === 125 ? failureStatus : own;
  }
}

async function load(name: string): Promise<Command> {
  // `in` would find what every object has.
  const entry = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (!entry) throw usageError(`there is no command ${JSON.stringify(name)}`);
  return (await entry.load()).command;
}

async function runCommand(
  command: Command,
  name: string,
  argv: readonly string[],
  root: string | undefined,
): Promise<number> {
  const args = command.parse
    ? command.parse(argv)
    : (await import('./yargs.js')).parseWithYargs(name, argv, command.options);
  if (args.help) {
    const { commandHelp } = await import('./yargs.js');
    process.stdout.write(await commandHelp(command));
    return 0;
  }
  checkOperands(command, name, args);
  let engine: Promise<Engine> | undefined;
  const context: CommandContext = {
    engine: () =>
      (engine ??= import('../engine/engine.js').then(
        (module) => new module.Engine(root === undefined ? {} : { root }),
      )),
  };
  return command.run(args, context);
}

function checkOperands(command: Command, name: string, { operands }: ParsedArguments): void {
  const [fewest, most] = command.operands;
  if (operands.length < fewest)
    throw usageError(`clearvm ${command.usage}: something is missing`, name);
  if (operands.length > most) {
    throw usageError(
      `clearvm ${command.usage}: ${JSON.stringify(operands[most])} is one too many`,
      name,
    );
  }
}

interface GlobalOptions {
  root: string | undefined;
  help: boolean;
  version: boolean;
  /** The command and what is behind it. */
  rest: string[];
}

function parseGlobalOptions(argv: readonly string[]): GlobalOptions {
  const { tokens } = parseArgs({
    args: [...argv],
    options: {
      root: { type: 'string' },
      help: { type: 'boolean', short: 'h' },
      version: { type: 'boolean', short: 'v' },
    },
    strict: false,
    allowPositionals: true,
    tokens: true,
  });
  const result: GlobalOptions = { root: undefined, help: false, version: false, rest: [] };
  for (const token of tokens) {
    if (token.kind !== 'option') {
      const from = token.kind === 'positional' ? token.index : token.index + 1;
      result.rest = argv.slice(from);
      break;
    }
    if (token.name === 'root') {
      if (!token.value) throw usageError('--root needs a directory');
      result.root = token.value;
    } else if (token.rawName === '--help' || token.rawName === '-h') {
      result.help = true;
    } else if (token.rawName === '--version' || token.rawName === '-v') {
      result.version = true;
    } else {
      throw usageError(`unknown option ${token.rawName} before the command`);
    }
  }
  return result;
}

async function showHelp(name: string | undefined, asked: boolean): Promise<number> {
  const { commandHelp, mainHelp } = await import('./yargs.js');
  const text =
    name === undefined
      ? await mainHelp(Object.entries(COMMANDS).map(([each, { summary }]) => [each, summary]))
      : await commandHelp(await load(name));
  (asked ? process.stdout : process.stderr).write(text);
  return asked ? 0 : 1;
}
