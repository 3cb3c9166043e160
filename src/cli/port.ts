/** clearvm port */
import type { Command } from './command.js';
import { ClearVMError } from '../errors.js';
import type { OptionTable } from './options.js';
import { interspersed } from './parse-run.js';

const options: OptionTable = {};

export const command: Command = {
  usage: 'port CONTAINER [PORT[/PROTO]]',
  summary: 'List published ports: containers have no network yet',
  options,
  operands: [1, 2],
  failureStatus: 1,
  examples: [['clearvm port web', 'none']],
  parse: interspersed('port', options),

  async run({ operands: [reference = '', port] }, context) {
    await (await context.engine()).container(reference);
    if (port === undefined) return 0;
    throw new ClearVMError(
      'ERR_PORT',
      `Error: No public port '${port.includes('/') ? port : `${port}/tcp`}' published for ${reference}`,
    );
  },
};
