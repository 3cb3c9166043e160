/** clearvm load */
import type { Command } from './command.js';
import { interruptible } from './interrupt.js';
import { usageError } from './options.js';
import { openProgressBars } from './progress.js';

export const command: Command = {
  usage: 'load [OPTIONS]',
  summary: 'Load images from a docker archive, an OCI archive or an OCI layout directory',
  options: {
    input: {
      type: 'string',
      short: 'i',
      value: 'PATH',
      describe: 'The archive or directory; standard input unless given',
    },
    name: {
      type: 'string',
      value: 'NAME[:TAG]',
      describe: 'A name for the image, in place of those in the archive',
    },
    quiet: { type: 'boolean', short: 'q', describe: 'No progress bars' },
  },
  operands: [0, 0],
  // Not docker's 1: a script that loads and then runs need not tell the two apart.
  failureStatus: 125,
  examples: [
    ['clearvm load -i debian.tar', 'from a file; gzip, zstd, xz and bzip2 are unpacked'],
    ['docker save debian:12 | clearvm load', 'from docker'],
    ['clearvm load -i ./layout --name app:1', 'from an OCI layout directory'],
  ],

  async run({ options }, context) {
    const input = options.text('input');
    if (input === undefined && process.stdin.isTTY) {
      throw usageError('nothing to load: name an archive with -i, or pipe one in', 'load');
    }
    const name = options.text('name');
    const { images } = await context.engine();
    const bars = options.flag('quiet') ? undefined : await openProgressBars();
    return interruptible(async (signal) => {
      try {
        const loaded = await images.load(input ?? process.stdin, {
          signal,
          ...(name === undefined ? {} : { name }),
          ...(bars?.listener ? { onProgress: bars.listener } : {}),
        });
        bars?.stop();
        for (const image of loaded) {
          for (const each of image.names) process.stdout.write(`Loaded image: ${each}\n`);
          if (image.names.length === 0) process.stdout.write(`Loaded image ID: ${image.id}\n`);
        }
      } finally {
        bars?.stop();
      }
      return 0;
    });
  },
};
