/** clearvm export */
import { open, rename, rm } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';

import type { Command } from './command.js';
import { usageError } from './options.js';

export const command: Command = {
  usage: 'export [OPTIONS] CONTAINER',
  summary: "Write a container's files into a tar archive, for `import`",
  options: {
    output: {
      type: 'string',
      short: 'o',
      value: 'FILE',
      describe: 'The archive; standard output unless given',
    },
  },
  operands: [1, 1],
  failureStatus: 1,
  examples: [['clearvm export -o web.tar web', 'all but what is in volumes']],

  async run({ options, operands: [reference = ''] }, context) {
    const output = options.text('output');
    if (output === undefined && process.stdout.isTTY) {
      throw usageError(
        'refusing to export to a terminal: name a file with -o, or redirect',
        'export',
      );
    }
    const container = await (await context.engine()).container(reference);
    const archive = await container.export();
    if (output === undefined) {
      await pipeline(archive, process.stdout, { end: false });
      return 0;
    }
    // It appears when it is whole.
    const part = `${output}.part`;
    try {
      await pipeline(archive, (await open(part, 'w')).createWriteStream());
      await rename(part, output);
    } catch (error) {
      await rm(part, { force: true });
      throw error;
    }
    return 0;
  },
};
