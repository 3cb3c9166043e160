/** clearvm start */
import type { Command } from './command.js';
import { forEachContainer } from './each.js';
import { usageError, type OptionTable } from './options.js';
import { interspersed } from './parse-run.js';

const options: OptionTable = {
  attach: { type: 'boolean', short: 'a', describe: 'Connect its output, and exit as it does' },
  interactive: { type: 'boolean', short: 'i', describe: 'Connect standard input, too' },
  'detach-keys': {
    type: 'string',
    value: 'KEYS',
    describe: 'Keys that let go of the terminal (ctrl-p,ctrl-q)',
  },
};

export const command: Command = {
  usage: 'start [OPTIONS] CONTAINER...',
  summary: 'Start containers that do not run',
  options,
  operands: [1, Number.POSITIVE_INFINITY],
  failureStatus: 1,
  examples: [
    ['clearvm start web', 'with the files that it has written'],
    ['clearvm start -a job', 'and see what it prints'],
  ],
  parse: interspersed('start', options),

  async run({ options: given, operands }, context) {
    const engine = await context.engine();
    const stdin = given.flag('interactive');
    if (!stdin && !given.flag('attach')) {
      return forEachContainer(engine, operands, (container) => container.start());
    }
    const [reference, ...more] = operands;
    if (reference === undefined || more.length > 0) {
      throw usageError('you cannot start and attach multiple containers at once', 'start');
    }
    const container = await engine.container(reference);
    const attachment = await container.startAttached({ stdin });
    const { follow } = await import('./attached.js');
    return follow(container, attachment, {
      stdin,
      forwardSignals: true,
      detachKeys: given.text('detach-keys'),
    });
  },
};
