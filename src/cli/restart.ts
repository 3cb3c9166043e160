/** clearvm restart */
import type { Command } from './command.js';
import { forEachContainer } from './each.js';
import { stopOptions } from './stop.js';
import type { OptionTable } from './options.js';
import { interspersed } from './parse-run.js';

const options: OptionTable = {
  time: { type: 'string', short: 't', value: 'SECONDS', describe: 'Until the VM is ended (10)' },
  timeout: { type: 'string', value: 'SECONDS', describe: 'The same' },
  signal: { type: 'string', short: 's', value: 'SIGNAL', describe: 'In place of its stop signal' },
};

export const command: Command = {
  usage: 'restart [OPTIONS] CONTAINER...',
  summary: 'Stop and start containers',
  options,
  operands: [1, Number.POSITIVE_INFINITY],
  failureStatus: 1,
  examples: [['clearvm restart web', 'with the files that it has written']],
  parse: interspersed('restart', options),

  async run({ options: given, operands }, context) {
    return forEachContainer(await context.engine(), operands, (container) =>
      container.restart(stopOptions(given, 'restart')),
    );
  },
};
