/** clearvm pause */
import type { Command } from './command.js';
import { changeEach } from './paused.js';

export const command: Command = {
  usage: 'pause CONTAINER...',
  summary: 'Stop the processors of containers',
  options: {},
  operands: [1, Number.POSITIVE_INFINITY],
  failureStatus: 1,
  examples: [['clearvm pause web', 'nothing in it runs until it is unpaused']],

  run: ({ operands }, context) =>
    changeEach(operands, context, (engine, reference) => engine.pause(reference)),
};
