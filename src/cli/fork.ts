/** clearvm fork */
import type { Command } from './command.js';
import { usageError, type OptionTable } from './options.js';
import { interspersed } from './parse-run.js';

const options: OptionTable = {
  count: { type: 'string', short: 'n', value: 'N', describe: 'How many (1)' },
  name: { type: 'list', value: 'NAME', describe: 'Name of a new container; of the next, again' },
};

export const command: Command = {
  usage: 'fork [OPTIONS] CONTAINER',
  summary: 'Make containers that go on from where a running one is',
  options,
  operands: [1, 1],
  failureStatus: 125,
  examples: [['clearvm fork --count 3 warm', 'prints three ids; warm goes on, too']],
  parse: interspersed('fork', options),

  async run({ options: given, operands: [reference = ''] }, context) {
    const text = given.text('count') ?? '1';
    if (!/^[1-9]\d*$/.test(text)) throw usageError(`--count ${text}: a number from 1 on`, 'fork');
    const names = given.list('name');
    if (names.length > Number(text)) throw usageError('more names than containers', 'fork');
    const container = await (await context.engine()).container(reference);
    for (const fork of await container.fork(Number(text), { names })) {
      process.stdout.write(`${fork.id}\n`);
    }
    return 0;
  },
};
