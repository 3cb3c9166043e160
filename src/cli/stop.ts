/** clearvm stop */
import type { Command } from './command.js';
import { forEachContainer } from './each.js';
import type { StopOptions } from '../engine/managed.js';
import { invalidArgument, type OptionTable, type OptionValues } from './options.js';
import { interspersed } from './parse-run.js';

const options: OptionTable = {
  time: { type: 'string', short: 't', value: 'SECONDS', describe: 'Until the VM is ended (10)' },
  timeout: { type: 'string', value: 'SECONDS', describe: 'The same' },
  signal: { type: 'string', short: 's', value: 'SIGNAL', describe: 'In place of its stop signal' },
};

export const command: Command = {
  usage: 'stop [OPTIONS] CONTAINER...',
  summary: 'Stop containers: their stop signal, then the plug',
  options,
  operands: [1, Number.POSITIVE_INFINITY],
  failureStatus: 1,
  examples: [['clearvm stop -t 30 web', 'give it half a minute']],
  parse: interspersed('stop', options),

  async run({ options: given, operands }, context) {
    return forEachContainer(await context.engine(), operands, (container) =>
      container.stop(stopOptions(given, 'stop')),
    );
  },
};

/** What `stop` and `restart` share. Errors: ERR_USAGE. */
export function stopOptions(given: OptionValues, command: string): StopOptions {
  const text = given.text('time') ?? given.text('timeout');
  const signal = given.text('signal');
  if (text !== undefined && !/^-?\d{1,9}$/.test(text)) {
    throw invalidArgument(text, '-t, --time', 'it is no whole number', command);
  }
  return {
    ...(text === undefined ? {} : { timeout: Number(text) }),
    ...(signal === undefined ? {} : { signal }),
  };
}
