/** clearvm volume create */
import { ClearVMError } from '../errors.js';
import type { Command } from './command.js';
import { pairs } from './run-options.js';
import { usageError, type OptionTable } from './options.js';
import { interspersed } from './parse-run.js';

const options: OptionTable = {
  driver: { type: 'string', short: 'd', value: 'local', describe: 'There is no other' },
  label: { type: 'list', value: 'NAME=VALUE', describe: 'Give it a label' },
  name: { type: 'string', value: 'NAME', describe: 'In place of the operand' },
};

export const command: Command = {
  usage: 'volume create [OPTIONS] [VOLUME]',
  summary: 'Make a named volume',
  options,
  operands: [0, 1],
  failureStatus: 1,
  examples: [['clearvm volume create data', 'for -v data:/var/lib/data']],
  parse: interspersed('volume create', options),

  async run({ options: given, operands }, context) {
    const name = operands[0] ?? given.text('name');
    if (operands.length > 0 && given.text('name') !== undefined) {
      throw usageError(
        'Conflicting options: either specify --name or provide positional arg, not both',
        'volume create',
      );
    }
    const driver = given.text('driver') ?? 'local';
    if (driver !== 'local') {
      throw new ClearVMError(
        'ERR_VOLUME_DRIVER',
        `create ${name ?? 'a volume'}: there is no volume driver ${driver}; local is the only one`,
      );
    }
    const volumes = await (await context.engine()).volumes();
    const volume = volumes.create(name, {
      labels: pairs(given.list('label')),
      anonymous: name === undefined,
    });
    process.stdout.write(`${volume.name}\n`);
    return 0;
  },
};
