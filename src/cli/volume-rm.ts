/** clearvm volume rm */
import type { Command } from './command.js';
import { formatError } from './output.js';
import type { OptionTable } from './options.js';
import { interspersed } from './parse-run.js';

const options: OptionTable = {
  force: { type: 'boolean', short: 'f', describe: 'It is no error if there is none' },
};

export const command: Command = {
  usage: 'volume rm [OPTIONS] VOLUME...',
  summary: 'Remove volumes',
  options,
  operands: [1, Number.POSITIVE_INFINITY],
  failureStatus: 1,
  examples: [['clearvm volume rm data', 'with all that is in it']],
  parse: interspersed('volume rm', options),

  async run({ options: given, operands }, context) {
    const volumes = await (await context.engine()).volumes();
    let status = 0;
    for (const name of operands) {
      try {
        if (!given.flag('force') || volumes.find(name)) await volumes.remove(name);
        process.stdout.write(`${name}\n`);
      } catch (error) {
        process.stderr.write(formatError(error));
        status = 1;
      }
    }
    return status;
  },
};
