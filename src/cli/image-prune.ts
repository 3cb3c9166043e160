/** clearvm image prune */
import type { Command } from './command.js';
import {
  confirmPrune,
  FILTER,
  FORCE,
  parsePruneFilters,
  pruneImages,
  sayReclaimed,
} from './prune.js';

export const command: Command = {
  usage: 'image prune [OPTIONS]',
  summary: 'Remove images without a name, and what interrupted pulls have left',
  options: {
    all: { type: 'boolean', short: 'a', describe: 'Every image that no container uses' },
    ...FORCE,
    ...FILTER,
  },
  operands: [0, 0],
  failureStatus: 1,
  examples: [['clearvm image prune -a -f --filter until=240h', 'what is older than ten days']],

  async run({ options: given }, context) {
    const all = given.flag('all');
    const filter = parsePruneFilters(given, 'image prune');
    const what = all
      ? 'all images without at least one container associated to them'
      : 'all dangling images';
    const agreed = await confirmPrune(given, `This will remove ${what}.`);
    sayReclaimed(agreed ? await pruneImages(await context.engine(), all, filter) : 0);
    return 0;
  },
};
