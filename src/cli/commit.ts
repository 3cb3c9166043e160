/** clearvm commit */
import type { Command } from './command.js';
import { usageError, type OptionTable } from './options.js';
import { interspersed } from './parse-run.js';

const options: OptionTable = {
  author: { type: 'string', short: 'a', value: 'TEXT', describe: 'Who made the image' },
  message: { type: 'string', short: 'm', value: 'TEXT', describe: 'For its history' },
  change: {
    type: 'list',
    short: 'c',
    value: 'INSTRUCTION',
    describe: "Of a Dockerfile: 'CMD [\"nginx\"]', 'ENV A=b'",
  },
  pause: { type: 'boolean', short: 'p', describe: 'Pause the container meanwhile (true)' },
};

export const command: Command = {
  usage: 'commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]',
  summary: 'Make an image of a container',
  options,
  operands: [1, 2],
  failureStatus: 1,
  examples: [['clearvm commit -m "with vim" -c \'CMD ["vim"]\' web web:vim', 'and its id']],
  parse: interspersed('commit', options),

  async run({ options: given, operands: [reference = '', name] }, context) {
    const container = await (await context.engine()).container(reference);
    const author = given.text('author');
    const message = given.text('message');
    if (name === '') throw usageError('the image needs a name, or none', 'commit');
    const image = await container.commit({
      changes: given.list('change'),
      pause: given.flag('pause', true),
      ...(name === undefined ? {} : { name }),
      ...(author === undefined ? {} : { author }),
      ...(message === undefined ? {} : { message }),
    });
    process.stdout.write(`${image.id}\n`);
    return 0;
  },
};
