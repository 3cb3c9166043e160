/** clearvm update */
import type { UpdateOptions } from '../engine/managed.js';
import type { Command } from './command.js';
import { forEachContainer } from './each.js';
import { usageError, type OptionTable } from './options.js';
import { interspersed, type RefusedOptions } from './parse-run.js';

const options: OptionTable = {
  restart: {
    type: 'string',
    value: 'POLICY',
    describe: 'no, on-failure[:N], always, unless-stopped',
  },
  memory: {
    type: 'string',
    short: 'm',
    value: 'SIZE',
    describe: 'Guest memory, of a container that does not run',
  },
  cpus: { type: 'string', value: 'COUNT', describe: 'Virtual CPUs, of one that does not run' },
};

const NO_SWAP = 'guests have no swap; use --memory';
const WHOLE = 'use --cpus';

/** What docker can change, and why it cannot be changed here. */
const refused: RefusedOptions = {
  'blkio-weight': { hint: 'limits of disk traffic are not there' },
  'cpu-period': { hint: WHOLE },
  'cpu-quota': { hint: WHOLE },
  'cpu-rt-period': { hint: WHOLE },
  'cpu-rt-runtime': { hint: WHOLE },
  'cpu-shares': { short: 'c', hint: WHOLE },
  'cpuset-cpus': { hint: 'use taskset on its VMM' },
  'cpuset-mems': { hint: 'run clearvm under numactl' },
  'kernel-memory': { hint: 'use --memory' },
  'memory-reservation': { hint: 'use --memory' },
  'memory-swap': { hint: NO_SWAP },
  'pids-limit': { hint: 'it is given when the container is made' },
};

export const command: Command = {
  usage: 'update [OPTIONS] CONTAINER...',
  summary: 'Change how containers are run',
  options,
  operands: [1, Number.POSITIVE_INFINITY],
  failureStatus: 1,
  examples: [
    ['clearvm update --restart always web', 'from now on'],
    ['clearvm update -m 1g --cpus 2 web', 'from its next start on'],
  ],
  parse: interspersed('update', options, refused),

  async run({ options: given, operands }, context) {
    const changes: UpdateOptions = {};
    for (const name of ['restart', 'memory', 'cpus'] as const) {
      const text = given.text(name);
      if (text !== undefined) changes[name] = text;
    }
    if (Object.keys(changes).length === 0) {
      throw usageError('You must provide one or more flags when using this command.', 'update');
    }
    return forEachContainer(await context.engine(), operands, (container) =>
      container.update(changes),
    );
  },
};
