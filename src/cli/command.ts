/** What a command is. Each lies in a file of its own, loaded only when it is asked for. */
import type { Engine } from '../engine/engine.js';
import type { OptionTable, ParsedArguments } from './options.js';

export interface CommandContext {
  /** Made at its first use: commands that need none do not load it. */
  engine(): Promise<Engine>;
}

export interface Command {
  /** Behind `clearvm`: `run [OPTIONS] IMAGE [COMMAND] [ARG...]`. */
  usage: string;
  summary: string;
  options: OptionTable;
  /** Fewest and most operands. */
  operands: readonly [number, number];
  /** Command lines, and what each does. */
  examples: readonly (readonly [string, string])[];
  /** The exit status of a wrong command line and of a failure that has none of its own. */
  failureStatus: number;
  /** A parser of its own, where the general one is not what docker does. */
  parse?(argv: readonly string[]): ParsedArguments;
  /** Returns the exit status. */
  run(args: ParsedArguments, context: CommandContext): Promise<number>;
}

interface Entry {
  summary: string;
  load: () => Promise<{ command: Command }>;
}

/** Every command, in the order of the help text. */
export const COMMANDS: Readonly<Record<string, Entry>> = {
  run: { summary: 'Run an image as a virtual machine', load: () => import('./run.js') },
  load: {
    summary: 'Load images from a docker or OCI archive, or an OCI layout',
    load: () => import('./load.js'),
  },
  import: {
    summary: 'Make an image from a root file system in a tar archive',
    load: () => import('./import.js'),
  },
  images: { summary: 'List images', load: () => import('./images.js') },
  rmi: { summary: 'Remove images', load: () => import('./rmi.js') },
  inspect: { summary: 'Show everything about images, as JSON', load: () => import('./inspect.js') },
  doctor: {
    summary: 'Say what this host lacks for running containers',
    load: () => import('./doctor.js'),
  },
  version: { summary: 'Show versions', load: () => import('./version.js') },
};
