/** clearvm rm */
import type { Command } from './command.js';
import { ClearVMError } from '../errors.js';
import { formatError } from './output.js';
import type { OptionTable } from './options.js';
import { interspersed } from './parse-run.js';

const options: OptionTable = {
  force: { type: 'boolean', short: 'f', describe: 'Kill those that run' },
  volumes: { type: 'boolean', short: 'v', describe: 'Their anonymous volumes, too' },
};

export const command: Command = {
  usage: 'rm [OPTIONS] CONTAINER...',
  summary: 'Remove containers with all that they have written',
  options,
  operands: [1, Number.POSITIVE_INFINITY],
  failureStatus: 1,
  examples: [['clearvm rm -f web', 'whether it runs or not']],
  parse: interspersed('rm', options),

  async run({ options: given, operands }, context) {
    const engine = await context.engine();
    const force = given.flag('force');
    let status = 0;
    for (const reference of operands) {
      try {
        const container = await engine.container(reference);
        await container.remove({ force, volumes: given.flag('volumes') });
        process.stdout.write(`${reference}\n`);
      } catch (error) {
        process.stderr.write(formatError(error));
        const missing = error instanceof ClearVMError && error.code === 'ERR_CONTAINER_NOT_FOUND';
        if (!force || !missing) status = 1;
      }
    }
    return status;
  },
};
