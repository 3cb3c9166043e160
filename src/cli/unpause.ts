/** clearvm unpause */
import type { Command } from './command.js';
import { changeEach } from './paused.js';

export const command: Command = {
  usage: 'unpause CONTAINER...',
  summary: 'Let paused containers go on',
  options: {},
  operands: [1, Number.POSITIVE_INFINITY],
  failureStatus: 1,
  examples: [['clearvm unpause web', 'nothing in it has noticed, but the time']],

  run: ({ operands }, context) =>
    changeEach(operands, context, (engine, reference) => engine.unpause(reference)),
};
