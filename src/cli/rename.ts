/** clearvm rename */
import type { Command } from './command.js';
import type { OptionTable } from './options.js';
import { interspersed } from './parse-run.js';

const options: OptionTable = {};

export const command: Command = {
  usage: 'rename CONTAINER NEW_NAME',
  summary: 'Give a container another name',
  options,
  operands: [2, 2],
  failureStatus: 1,
  examples: [['clearvm rename brisk_heron web', 'a name to remember']],
  parse: interspersed('rename', options),

  async run({ operands: [reference = '', name = ''] }, context) {
    (await (await context.engine()).container(reference)).rename(name);
    return 0;
  },
};
