/** clearvm attach */
import type { Command } from './command.js';
import type { OptionTable } from './options.js';
import { interspersed } from './parse-run.js';

const options: OptionTable = {
  'detach-keys': {
    type: 'string',
    value: 'KEYS',
    describe: 'Keys that let go of the terminal (ctrl-p,ctrl-q)',
  },
  'no-stdin': { type: 'boolean', describe: 'Leave standard input alone' },
  'sig-proxy': { type: 'boolean', describe: 'Pass signals on to the command (true)' },
};

export const command: Command = {
  usage: 'attach [OPTIONS] CONTAINER',
  summary: 'Connect standard input and output to a running container',
  options,
  operands: [1, 1],
  failureStatus: 1,
  examples: [['clearvm attach --no-stdin web', 'watch what it prints']],
  parse: interspersed('attach', options),

  async run({ options: given, operands: [reference = ''] }, context) {
    const container = await (await context.engine()).container(reference);
    const stdin = container.record.openStdin && !given.flag('no-stdin');
    const attachment = await container.attach({ stdin });
    const { follow } = await import('./attached.js');
    return follow(container, attachment, {
      stdin,
      forwardSignals: given.flag('sig-proxy', true),
      detachKeys: given.text('detach-keys'),
    });
  },
};
