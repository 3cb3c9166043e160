/** clearvm push */
import { formatReference, parseReference } from '../image/index.js';
import type { Command } from './command.js';

export const command: Command = {
  usage: 'push [OPTIONS] NAME[:TAG]',
  summary: 'Put an image into the registry that its name says',
  options: { quiet: { type: 'boolean', short: 'q', describe: 'Say nothing but the name' } },
  operands: [1, 1],
  failureStatus: 1,
  examples: [
    ['clearvm tag app localhost:5000/app:1 && clearvm push localhost:5000/app:1', 'name it first'],
  ],

  async run({ options, operands }, context) {
    const [name = ''] = operands;
    const { images } = await context.engine();
    if (options.flag('quiet')) {
      process.stdout.write(`${(await images.push(name)).reference}\n`);
      return 0;
    }
    const { tag, ...repository } = parseReference(name);
    if (!/[:@]/.test(name.slice(name.lastIndexOf('/') + 1))) {
      process.stdout.write('Using default tag: latest\n');
    }
    process.stdout.write(`The push refers to repository [${formatReference(repository)}]\n`);
    const { openPush } = await import('./transfer.js');
    const transfer = await openPush();
    try {
      const { digest, size } = await images.push(name, { onProgress: transfer.listener });
      transfer.stop();
      process.stdout.write(`${tag ?? ''}: digest: ${digest} size: ${size}\n`);
    } finally {
      transfer.stop();
    }
    return 0;
  },
};
