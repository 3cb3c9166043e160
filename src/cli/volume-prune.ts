/** clearvm volume prune */
import type { Command } from './command.js';
import type { OptionTable } from './options.js';
import { interspersed } from './parse-run.js';
import {
  confirmPrune,
  FILTER,
  FORCE,
  parsePruneFilters,
  pruneVolumes,
  sayReclaimed,
} from './prune.js';

const options: OptionTable = {
  all: { type: 'boolean', short: 'a', describe: 'Named ones, too' },
  ...FORCE,
  ...FILTER,
};

export const command: Command = {
  usage: 'volume prune [OPTIONS]',
  summary: 'Remove anonymous volumes that no container uses',
  options,
  operands: [0, 0],
  failureStatus: 1,
  examples: [['clearvm volume prune -f', 'without a question']],
  parse: interspersed('volume prune', options),

  async run({ options: given }, context) {
    const all = given.flag('all');
    const filter = parsePruneFilters(given, 'volume prune');
    const what = `${all ? 'all' : 'anonymous local'} volumes not used by at least one container`;
    const agreed = await confirmPrune(given, `This will remove ${what}.`);
    sayReclaimed(agreed ? await pruneVolumes(await context.engine(), all, filter) : 0);
    return 0;
  },
};
