/** clearvm save */
import type { Command } from './command.js';
import { usageError } from './options.js';

export const command: Command = {
  usage: 'save [OPTIONS] IMAGE...',
  summary: 'Write images into an archive, for `load` and for docker, podman and skopeo',
  options: {
    output: {
      type: 'string',
      short: 'o',
      value: 'FILE',
      describe: 'The archive; standard output unless given',
    },
  },
  operands: [1, Number.POSITIVE_INFINITY],
  failureStatus: 1,
  examples: [
    ['clearvm save -o debian.tar debian:12', 'into a file'],
    ['clearvm save debian:12 | ssh HOST docker load', 'to another machine'],
  ],

  async run({ options, operands }, context) {
    const output = options.text('output');
    if (output === undefined && process.stdout.isTTY) {
      throw usageError('refusing to save to a terminal: name a file with -o, or redirect', 'save');
    }
    const { images } = await context.engine();
    await images.save(operands, output ?? process.stdout);
    return 0;
  },
};
