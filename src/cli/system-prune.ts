/** clearvm system prune */
import type { Command } from './command.js';
import type { OptionTable } from './options.js';
import { interspersed } from './parse-run.js';
import {
  confirmPrune,
  FILTER,
  FORCE,
  parsePruneFilters,
  pruneContainers,
  pruneImages,
  pruneVolumes,
  sayReclaimed,
} from './prune.js';

const options: OptionTable = {
  all: { type: 'boolean', short: 'a', describe: 'Every image that no container uses' },
  volumes: { type: 'boolean', describe: 'Anonymous volumes that no container uses, too' },
  ...FORCE,
  ...FILTER,
};

export const command: Command = {
  usage: 'system prune [OPTIONS]',
  summary: 'Remove containers that do not run, and images without a name',
  options,
  operands: [0, 0],
  failureStatus: 1,
  examples: [['clearvm system prune -af --volumes', 'all that no container uses']],
  parse: interspersed('system prune', options),

  async run({ options: given }, context) {
    const all = given.flag('all');
    const volumes = given.flag('volumes');
    const filter = parsePruneFilters(given, 'system prune');
    const what = [
      'all stopped containers',
      ...(volumes ? ['all anonymous volumes not used by at least one container'] : []),
      all ? 'all images without at least one container associated to them' : 'all dangling images',
    ];
    const warning = `This will remove:\n${what.map((line) => `  - ${line}\n`).join('')}`;
    if (!(await confirmPrune(given, warning))) return 0;
    const engine = await context.engine();
    let bytes = await pruneContainers(engine, filter);
    if (volumes) bytes += await pruneVolumes(engine, false, filter);
    bytes += await pruneImages(engine, all, filter);
    sayReclaimed(bytes);
    return 0;
  },
};
