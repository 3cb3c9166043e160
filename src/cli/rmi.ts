/** clearvm rmi */
import type { Command } from './command.js';
import { formatError } from './output.js';

export const command: Command = {
  usage: 'rmi [OPTIONS] IMAGE...',
  summary: 'Remove images: by name one name of it, by id the image',
  options: {
    force: {
      type: 'boolean',
      short: 'f',
      describe: 'Remove an image by its id although it has several names',
    },
  },
  operands: [1, Number.POSITIVE_INFINITY],
  failureStatus: 1,
  examples: [
    ['clearvm rmi debian:12', 'take a name away, and the image with its last one'],
    ['clearvm rmi -f 3f1c2a9be04d', 'remove an image and all of its names'],
  ],

  async run({ options, operands }, context) {
    const engine = await context.engine();
    let status = 0;
    for (const reference of operands) {
      try {
        const removed = await engine.images.remove(reference, {
          force: options.flag('force'),
          inUse: () => engine.imagesInUse(),
        });
        for (const name of removed.untagged) process.stdout.write(`Untagged: ${name}\n`);
        for (const id of removed.deleted) process.stdout.write(`Deleted: ${id}\n`);
      } catch (error) {
        // The others are removed nevertheless, as docker does.
        process.stderr.write(formatError(error));
        status = 1;
      }
    }
    return status;
  },
};
