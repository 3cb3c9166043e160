/** clearvm tag */
import type { Command } from './command.js';

export const command: Command = {
  usage: 'tag SOURCE[:TAG] NAME[:TAG]',
  summary: 'Give an image another name',
  options: {},
  operands: [2, 2],
  failureStatus: 1,
  examples: [['clearvm tag debian:12 localhost:5000/base:1', 'to push it there']],

  async run({ operands }, context) {
    const [source = '', target = ''] = operands;
    await (await context.engine()).images.tag(source, target);
    return 0;
  },
};
