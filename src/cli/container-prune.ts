/** clearvm container prune */
import type { Command } from './command.js';
import type { OptionTable } from './options.js';
import { interspersed } from './parse-run.js';
import {
  confirmPrune,
  FILTER,
  FORCE,
  parsePruneFilters,
  pruneContainers,
  sayReclaimed,
} from './prune.js';

const options: OptionTable = { ...FORCE, ...FILTER };

export const command: Command = {
  usage: 'container prune [OPTIONS]',
  summary: 'Remove all containers that do not run',
  options,
  operands: [0, 0],
  failureStatus: 1,
  examples: [['clearvm container prune -f', 'without a question']],
  parse: interspersed('container prune', options),

  async run({ options: given }, context) {
    const filter = parsePruneFilters(given, 'container prune');
    const agreed = await confirmPrune(given, 'This will remove all stopped containers.');
    sayReclaimed(agreed ? await pruneContainers(await context.engine(), filter) : 0);
    return 0;
  },
};
