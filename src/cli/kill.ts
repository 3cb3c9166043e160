/** clearvm kill */
import type { Command } from './command.js';
import { forEachContainer } from './each.js';
import type { OptionTable } from './options.js';
import { interspersed } from './parse-run.js';

const options: OptionTable = {
  signal: { type: 'string', short: 's', value: 'SIGNAL', describe: 'Name or number (KILL)' },
};

export const command: Command = {
  usage: 'kill [OPTIONS] CONTAINER...',
  summary: 'Send a signal to the commands of containers',
  options,
  operands: [1, Number.POSITIVE_INFINITY],
  failureStatus: 1,
  examples: [['clearvm kill -s HUP web', 'have it read its configuration']],
  parse: interspersed('kill', options),

  async run({ options: given, operands }, context) {
    const signal = given.text('signal') ?? 'SIGKILL';
    return forEachContainer(await context.engine(), operands, (container) =>
      container.kill(signal),
    );
  },
};
