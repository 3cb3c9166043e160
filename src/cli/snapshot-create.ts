/** clearvm snapshot create */
import type { Command } from './command.js';
import type { OptionTable } from './options.js';
import { interspersed } from './parse-run.js';

const options: OptionTable = {
  'leave-running': { type: 'boolean', short: 'R', describe: 'Let the container go on' },
};

export const command: Command = {
  usage: 'snapshot create [OPTIONS] CONTAINER [SNAPSHOT]',
  summary: 'Write a running container to disk, and end it',
  options,
  operands: [1, 2],
  failureStatus: 1,
  examples: [
    ['clearvm snapshot create web', 'prints the name of the snapshot'],
    ['clearvm snapshot create --leave-running web before-update', 'it has hardly noticed'],
  ],
  parse: interspersed('snapshot create', options),

  async run({ options: given, operands: [container = '', name] }, context) {
    const snapshots = await (await context.engine()).snapshots();
    const made = await snapshots.create(container, {
      leaveRunning: given.flag('leave-running'),
      ...(name === undefined ? {} : { name }),
    });
    process.stdout.write(`${made.name}\n`);
    return 0;
  },
};
