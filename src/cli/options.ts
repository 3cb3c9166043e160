/** Option tables, and what commands get of them. */
import { ClearVMError } from '../errors.js';

export interface OptionSpec {
  /** `list`: may be given several times. */
  type: 'boolean' | 'string' | 'list';
  /** One letter. */
  short?: string;
  describe: string;
  /** What stands for the value in the help text. */
  value?: string;
}

export type OptionTable = Readonly<Record<string, OptionSpec>>;

/** Values by option name; absent where an option was not given. */
export class OptionValues {
  readonly #values: ReadonlyMap<string, boolean | string[]>;

  constructor(values: ReadonlyMap<string, boolean | string[]>) {
    this.#values = values;
  }

  /** `fallback`: where the option was not given. */
  flag(name: string, fallback = false): boolean {
    return (this.#values.get(name) ?? fallback) === true;
  }

  /** The last value that was given. */
  text(name: string): string | undefined {
    const value = this.#values.get(name);
    return Array.isArray(value) ? value.at(-1) : undefined;
  }

  list(name: string): string[] {
    const value = this.#values.get(name);
    return Array.isArray(value) ? value : [];
  }
}

export interface ParsedArguments {
  options: OptionValues;
  operands: string[];
  /** --help was among the options. */
  help: boolean;
}

const helpOf = (command?: string): string =>
  command === undefined ? 'clearvm --help' : `clearvm ${command} --help`;

/** Says that a command line is wrong. */
export function usageError(message: string, command?: string): ClearVMError {
  return new ClearVMError('ERR_USAGE', `${message}; see \`${helpOf(command)}\``);
}

/** A wrong option: exit status 125 with any command, as with docker's. */
export class OptionError extends ClearVMError {
  constructor(message: string, command?: string) {
    super('ERR_USAGE', `${message}; see \`${helpOf(command)}\``);
  }
}

/** docker's words for the value of an option that is wrong. `option`: as in its help, "-n, --last". */
export function invalidArgument(
  value: string,
  option: string,
  why: string,
  command?: string,
): OptionError {
  return new OptionError(
    `invalid argument ${JSON.stringify(value)} for "${option}" flag: ${why}`,
    command,
  );
}

/** A whole number that an option was given, with or without a sign. Errors: ERR_USAGE. */
export function wholeNumber(value: string, option: string, command?: string): number {
  if (/^[-+]?\d{1,15}$/.test(value)) return Number(value);
  throw invalidArgument(value, option, 'it is no whole number', command);
}
