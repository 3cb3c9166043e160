/** clearvm pull */
import type { Command } from './command.js';
import { interruptible } from './interrupt.js';
import { usageError } from './options.js';

export const command: Command = {
  usage: 'pull [OPTIONS] NAME[:TAG|@DIGEST]',
  summary: 'Get an image from a registry',
  options: {
    quiet: { type: 'boolean', short: 'q', describe: 'Say nothing but the name' },
    platform: { type: 'string', value: 'linux/amd64', describe: 'The only one there is' },
  },
  operands: [1, 1],
  failureStatus: 1,
  examples: [
    ['clearvm pull debian:12', 'from Docker Hub'],
    ['clearvm pull localhost:5000/app', 'the tag "latest" of a registry on this machine'],
    ['clearvm pull debian@sha256:3f1c...', 'exactly this image'],
  ],

  async run({ options, operands }, context) {
    const [name = ''] = operands;
    const platform = options.text('platform') ?? 'linux/amd64';
    if (platform !== 'linux/amd64') {
      throw usageError(`--platform is linux/amd64, not ${JSON.stringify(platform)}`, 'pull');
    }
    const { images } = await context.engine();
    return interruptible(async (signal) => {
      if (options.flag('quiet')) {
        process.stdout.write(`${(await images.pull(name, { signal })).reference}\n`);
        return 0;
      }
      const { openPull } = await import('./transfer.js');
      const report = await openPull(process.stdout, name);
      try {
        const pulled = await images.pull(name, { onProgress: report.onProgress, signal });
        report.onPulled(pulled);
        process.stdout.write(`${pulled.reference}\n`);
      } finally {
        report.stop();
      }
      return 0;
    });
  },
};
