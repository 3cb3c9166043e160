/** clearvm snapshot rm */
import type { Command } from './command.js';
import { formatError } from './output.js';

export const command: Command = {
  usage: 'snapshot rm SNAPSHOT...',
  summary: 'Remove snapshots',
  options: {},
  operands: [1, Number.POSITIVE_INFINITY],
  failureStatus: 1,
  examples: [['clearvm snapshot rm before-update', 'unless a container runs on its memory']],

  async run({ operands }, context) {
    const snapshots = await (await context.engine()).snapshots();
    let status = 0;
    for (const name of operands) {
      try {
        await snapshots.remove(name);
        process.stdout.write(`${name}\n`);
      } catch (error) {
        process.stderr.write(formatError(error));
        status = 1;
      }
    }
    return status;
  },
};
