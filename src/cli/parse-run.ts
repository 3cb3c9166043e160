/**
 * The command line of `run`, taken apart as docker does it: options end at the image, and whatever is behind it belongs
 * to the command. By Node's parseArgs, which costs nothing, because this is the path of every container.
 */
import { parseArgs, type ParseArgsConfig } from 'node:util';

import { OptionValues, usageError, type OptionTable, type ParsedArguments } from './options.js';

/**
 * Errors: ERR_USAGE; `refused` holds options that exist in docker and not (yet) here, with what to do about each.
 */
export function parseRunArguments(
  argv: readonly string[],
  table: OptionTable,
  refused: Readonly<Record<string, { short?: string; hint: string }>>,
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
  let help = false;
  for (const token of tokens) {
    if (token.kind === 'positional') {
      return { options: new OptionValues(values), operands: argv.slice(token.index), help };
    }
    if (token.kind === 'option-terminator') {
      return { options: new OptionValues(values), operands: argv.slice(token.index + 1), help };
    }
    const name = names.get(token.name) ?? token.name;
    const spec = Object.hasOwn(table, name) ? table[name] : undefined;
    if (!spec) {
      if (token.rawName === '--help') {
        help = true;
        continue;
      }
      throw usageError(refusal(token.rawName, token.name, refused), 'run');
    }
    if (spec.type === 'boolean') {
      values.set(name, parseBoolean(token.rawName, token.value));
      continue;
    }
    if (token.value === undefined) throw usageError(`${token.rawName} needs a value`, 'run');
    // "-e=A=1": parseArgs leaves the equals sign with the value of a short option.
    const short = token.inlineValue && !token.rawName.startsWith('--');
    const value = short ? token.value.replace(/^=/, '') : token.value;
    const given = values.get(name);
    values.set(name, Array.isArray(given) ? [...given, value] : [value]);
  }
  return { options: new OptionValues(values), operands: [], help };
}

function parseBoolean(rawName: string, value: string | undefined): boolean {
  if (value === undefined || /^=?(true|1|t)$/i.test(value)) return true;
  if (/^=?(false|0|f)$/i.test(value)) return false;
  throw usageError(`${rawName} is on or off, not ${JSON.stringify(value)}`, 'run');
}

function refusal(
  rawName: string,
  name: string,
  refused: Readonly<Record<string, { short?: string; hint: string }>>,
): string {
  for (const [long, { short, hint }] of Object.entries(refused)) {
    if (name === long || name === short) {
      return `${rawName}${name === short ? ` (--${long})` : ''} is not supported: ${hint}`;
    }
  }
  return `unknown option ${rawName}`;
}
