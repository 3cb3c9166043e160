/** clearvm wait */
import type { Command } from './command.js';
import { formatError } from './output.js';
import type { OptionTable } from './options.js';
import { interspersed } from './parse-run.js';

const options: OptionTable = {};

export const command: Command = {
  usage: 'wait CONTAINER...',
  summary: 'Wait for containers to end, and print their exit statuses',
  options,
  operands: [1, Number.POSITIVE_INFINITY],
  failureStatus: 1,
  examples: [['clearvm wait job', 'the status of what runs in the background']],
  parse: interspersed('wait', options),

  async run({ operands }, context) {
    const engine = await context.engine();
    let status = 0;
    for (const reference of operands) {
      try {
        const { exitCode } = await (await engine.container(reference)).wait();
        process.stdout.write(`${exitCode}\n`);
      } catch (error) {
        process.stderr.write(formatError(error));
        status = 1;
      }
    }
    return status;
  },
};
