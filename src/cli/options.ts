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

  flag(name: string): boolean {
    return this.#values.get(name) === true;
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

/** Says that a command line is wrong. */
export function usageError(message: string, command?: string): ClearVMError {
  const help = command === undefined ? 'clearvm --help' : `clearvm ${command} --help`;
  return new ClearVMError('ERR_USAGE', `${message}; see \`${help}\``);
}
