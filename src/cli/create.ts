/** clearvm create */
import type { Command } from './command.js';
import { usageError } from './options.js';
import { parseRunArguments } from './parse-run.js';
import { createFrom } from './run-detached.js';
import { RUN_OPTIONS } from './run-options.js';
import { REFUSED_OPTIONS } from './run-refused.js';

export const command: Command = {
  usage: 'create [OPTIONS] IMAGE [COMMAND] [ARG...]',
  summary: 'Make a container, without starting it',
  options: RUN_OPTIONS,
  operands: [1, Number.POSITIVE_INFINITY],
  failureStatus: 1,
  examples: [['clearvm create --name web nginx', 'to be started by `clearvm start web`']],
  parse: (argv) => parseRunArguments(argv, RUN_OPTIONS, REFUSED_OPTIONS, 'create'),

  async run({ options: given, operands: [image, ...cmd] }, context) {
    if (image === undefined) throw usageError('which image?', 'create');
    const container = await createFrom(given, image, cmd, context);
    process.stdout.write(`${container.id}\n`);
    return 0;
  },
};
