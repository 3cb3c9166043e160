/** From the command line to a command, and from its end to an exit status. */
import { parseArgs } from 'node:util';

import { ClearVMError } from '../errors.js';
import type { Engine } from '../engine/engine.js';
import { ALIASES, COMMANDS, type Command, type CommandContext } from './command.js';
import { OptionError, usageError, type ParsedArguments } from './options.js';
import { interspersed } from './parse-run.js';

/** Runs a command line (without node and script); resolves to the exit status, and never rejects. */
export async function dispatch(argv: readonly string[]): Promise<number> {
  let failureStatus = 1;
  try {
    const { root, help, version, rest } = parseGlobalOptions(argv);
    if (version) return await runCommand(await load('version'), 'version', [], root);
    if (rest[0] === undefined || rest[0] === 'help' || help) {
      const asked = rest[0] === 'help';
      return await showHelp(asked ? splitName(rest.slice(1))[0] : undefined, help || asked);
    }
    const [name = '', args] = splitName(rest);
    const command = await load(name);
    failureStatus = command.failureStatus;
    return await runCommand(command, name, args, root);
  } catch (error) {
    const { formatError } = await import('./output.js');
    process.stderr.write(formatError(error));
    if (process.env['CLEARVM_STACK'] && error instanceof Error) {
      process.stderr.write(`${error.stack ?? ''}\n`);
    }
    if (error instanceof OptionError) return error.exitCode;
    const own = error instanceof ClearVMError ? error.exitCode : 125;
    return own === 125 ? failureStatus : own;
  }
}

/** The command's name, of one word or of two, and what is behind it. */
function splitName(words: readonly string[]): [string | undefined, string[]] {
  const [first, second, ...rest] = words;
  const known = [...Object.keys(COMMANDS), ...Object.keys(ALIASES)];
  const members = known.flatMap((name) => (name.startsWith(`${first} `) ? [name] : []));
  if (first === undefined || members.length === 0) return [first, words.slice(1)];
  const name = `${first} ${second ?? ''}`;
  // The one alias that looks for less.
  if (name === 'container inspect') return ['inspect', ['--type=container', ...rest]];
  if (members.includes(name)) return [ALIASES[name] ?? name, rest];
  const verbs = members.map((member) => member.slice(first.length + 1)).sort();
  throw usageError(`clearvm ${first} needs a command: ${verbs.join(', ')}`);
}

async function load(name: string): Promise<Command> {
  // `in` would find what every object has.
  const entry = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (!entry) throw usageError(`'${name}' is not a clearvm command`);
  return (await entry.load()).command;
}

async function runCommand(
  command: Command,
  name: string,
  argv: readonly string[],
  root: string | undefined,
): Promise<number> {
  const args = (command.parse ?? interspersed(name, command.options))(argv);
  if (args.help) {
    const { commandHelp } = await import('./yargs.js');
    process.stdout.write(await commandHelp(command));
    return 0;
  }
  checkOperands(command, name, args);
  let engine: Promise<Engine> | undefined;
  const context: CommandContext = {
    root,
    engine: () =>
      (engine ??= import('../engine/engine.js').then(
        (module) => new module.Engine(root === undefined ? {} : { root }),
      )),
  };
  return command.run(args, context);
}

function checkOperands(command: Command, name: string, { operands }: ParsedArguments): void {
  const [fewest, most] = command.operands;
  if (operands.length >= fewest && operands.length <= most) return;
  const counted = (count: number): string => `${count} argument${count === 1 ? '' : 's'}`;
  const wanted =
    most === 0
      ? 'accepts no arguments'
      : fewest === most
        ? `requires exactly ${counted(fewest)}`
        : operands.length < fewest
          ? `requires at least ${counted(fewest)}`
          : `requires at most ${counted(most)}`;
  const error = usageError(`"clearvm ${name}" ${wanted}: clearvm ${command.usage}`, name);
  // Also where the command's own failures are 125.
  throw new ClearVMError(error.code, error.message, { exitCode: 1 });
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
      if (!token.value) throw new OptionError('flag needs an argument: --root');
      result.root = token.value;
    } else if (token.rawName === '--help' || token.rawName === '-h') {
      result.help = true;
    } else if (token.rawName === '--version' || token.rawName === '-v') {
      result.version = true;
    } else {
      throw new OptionError(
        token.rawName.startsWith('--')
          ? `unknown flag: ${token.rawName}`
          : `unknown shorthand flag: '${token.name}' in ${argv[token.index]}`,
      );
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
