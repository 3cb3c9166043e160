/** clearvm snapshot restore */
import type { Command } from './command.js';
import type { OptionTable } from './options.js';
import { interspersed } from './parse-run.js';

const options: OptionTable = {
  name: { type: 'string', short: 'n', value: 'NAME', describe: 'Name of the new container' },
};

export const command: Command = {
  usage: 'snapshot restore [OPTIONS] SNAPSHOT',
  summary: 'Make a container that goes on from a snapshot',
  options,
  operands: [1, 1],
  failureStatus: 125,
  examples: [['clearvm snapshot restore --name web2 before-update', 'prints its id']],
  parse: interspersed('snapshot restore', options),

  async run({ options: given, operands: [snapshot = ''] }, context) {
    const name = given.text('name');
    const snapshots = await (await context.engine()).snapshots();
    const container = await snapshots.restore(snapshot, name === undefined ? {} : { name });
    process.stdout.write(`${container.id}\n`);
    return 0;
  },
};
