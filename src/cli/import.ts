/** clearvm import */
import type { Command } from './command.js';
import { interruptible } from './interrupt.js';
import { usageError } from './options.js';
import { openProgressBars } from './progress.js';

export const command: Command = {
  usage: 'import [OPTIONS] FILE|- [NAME[:TAG]]',
  summary: 'Make an image from a root file system in a tar archive',
  options: {
    change: {
      type: 'list',
      short: 'c',
      value: 'INSTRUCTION',
      describe: 'A Dockerfile instruction for the image: CMD, ENTRYPOINT, ENV, USER, WORKDIR, ...',
    },
    message: { type: 'string', short: 'm', value: 'TEXT', describe: 'The comment in its history' },
    quiet: { type: 'boolean', short: 'q', describe: 'No progress bars' },
  },
  operands: [1, 2],
  // Not docker's 1: a script that loads and then runs need not tell the two apart.
  failureStatus: 125,
  examples: [
    ['clearvm import rootfs.tar.gz app:1', 'from a file'],
    ['debootstrap bookworm root && tar -C root -c . | clearvm import - debian:12', 'from a pipe'],
    ['clearvm import -c \'CMD ["/bin/sh"]\' rootfs.tar app:1', 'with a default command'],
  ],

  async run({ options, operands }, context) {
    const [file = '-', name] = operands;
    if (file === '-' && process.stdin.isTTY) {
      throw usageError('nothing to import: standard input is a terminal', 'import');
    }
    const message = options.text('message');
    const { images } = await context.engine();
    const bars = options.flag('quiet') ? undefined : await openProgressBars();
    return interruptible(async (signal) => {
      try {
        const image = await images.import(file === '-' ? process.stdin : file, {
          signal,
          changes: options.list('change'),
          ...(name === undefined ? {} : { name }),
          ...(message === undefined ? {} : { message }),
          ...(bars?.listener ? { onProgress: bars.listener } : {}),
        });
        bars?.stop();
        process.stdout.write(`${image.id}\n`);
      } finally {
        bars?.stop();
      }
      return 0;
    });
  },
};
