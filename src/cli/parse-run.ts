/**
 * Command lines taken apart as docker does it, by Node's parseArgs, which costs nothing: the path of every container. With `run` and
 * its like, options end at the image, and whatever is behind it belongs to the command.
 */
import { parseArgs, type ParseArgsConfig } from 'node:util';

import {
  invalidArgument,
  OptionError,
  OptionValues,
  type OptionTable,
  type ParsedArguments,
} from './options.js';

/** Options that exist in docker and not (yet) here, with what to do about each. */
export type RefusedOptions = Readonly<Record<string, { short?: string; hint: string }>>;

/** A parser for a command whose operands may stand before its options. Errors of it: ERR_USAGE. */
export function interspersed(command: string, table: OptionTable, refused: RefusedOptions = {}) {
  return (argv: readonly string[]): ParsedArguments => parse(argv, table, refused, command, true);
}

/** Options end at the first operand. Errors: ERR_USAGE. */
export function parseRunArguments(
  argv: readonly string[],
  table: OptionTable,
  refused: RefusedOptions,
  command = 'run',
): ParsedArguments {
  return parse(argv, table, refused, command, false);
}

function parse(
  argv: readonly string[],
  table: OptionTable,
  refused: RefusedOptions,
  command: string,
  mixed: boolean,
): ParsedArguments {
  const config: NonNullable<ParseArgsConfig['options']> = {};
  const names = new Map<string, string>();
  for (const [name, spec] of Object.entries(table)) {
    config[name] = {
      type: spec.type === 'boolean' ? 'boolean' : 'string',
      ...(spec.short ? { short: spec.short } : {}),
    };
    if (spec.short) names.set(spec.short, name);
  }
  const { tokens } = parseArgs({
    args: [...argv],
    options: config,
    strict: false,
    allowPositionals: true,
    tokens: true,
  });

  const values = new Map<string, boolean | string[]>();
  const operands: string[] = [];
  let help = false;
  for (const token of tokens) {
    if (token.kind === 'positional' && mixed) {
      operands.push(token.value);
      continue;
    }
    if (token.kind === 'positional') {
      return { options: new OptionValues(values), operands: argv.slice(token.index), help };
    }
    if (token.kind === 'option-terminator') {
      if (mixed) continue;
      return { options: new OptionValues(values), operands: argv.slice(token.index + 1), help };
    }
    const name = names.get(token.name) ?? token.name;
    const spec = Object.hasOwn(table, name) ? table[name] : undefined;
    if (!spec) {
      if (token.rawName === '--help') {
        help = true;
        continue;
      }
      throw new OptionError(refusal(token, argv[token.index] ?? '', refused), command);
    }
    if (spec.type === 'boolean') {
      values.set(name, parseBoolean(optionName(name, spec.short), token.value, command));
      continue;
    }
    if (token.value === undefined) {
      const which = token.rawName.startsWith('--')
        ? token.rawName
        : `'${spec.short}' in ${argv[token.index]}`;
      throw new OptionError(`flag needs an argument: ${which}`, command);
    }
    // "-e=A=1": parseArgs leaves the equals sign with the value of a short option.
    const short = token.inlineValue && !token.rawName.startsWith('--');
    const value = short ? token.value.replace(/^=/, '') : token.value;
    if (name === 'filter' && !value.includes('=')) {
      const why = 'bad format of filter (expected name=value)';
      throw invalidArgument(value, optionName(name, spec.short), why, command);
    }
    const given = values.get(name);
    values.set(name, Array.isArray(given) ? [...given, value] : [value]);
  }
  return { options: new OptionValues(values), operands, help };
}

function parseBoolean(option: string, value: string | undefined, command: string): boolean {
  if (value === undefined || /^=?(true|1|t)$/i.test(value)) return true;
  if (/^=?(false|0|f)$/i.test(value)) return false;
  throw invalidArgument(value.replace(/^=/, ''), option, 'it is on or off', command);
}

/** An option as help texts write it. */
function optionName(long: string, short?: string): string {
  return short === undefined ? `--${long}` : `-${short}, --${long}`;
}

function refusal(
  { rawName, name }: { rawName: string; name: string },
  word: string,
  refused: RefusedOptions,
): string {
  for (const [long, { short, hint }] of Object.entries(refused)) {
    if (name === long || name === short) {
      return `${rawName}${name === short ? ` (--${long})` : ''} is not supported: ${hint}`;
    }
  }
  return rawName.startsWith('--')
    ? `unknown flag: ${rawName}`
    : `unknown shorthand flag: '${name}' in ${word}`;
}
