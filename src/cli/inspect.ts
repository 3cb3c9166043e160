/** clearvm inspect */
import type { Command } from './command.js';
import { formatError } from './output.js';

export const command: Command = {
  usage: 'inspect IMAGE...',
  summary: 'Show everything about images, as a JSON array',
  options: {},
  operands: [1, Number.POSITIVE_INFINITY],
  failureStatus: 1,
  examples: [
    ['clearvm inspect debian:12', 'everything about it'],
    ["clearvm inspect debian:12 | jq '.[0].config.config.Env'", 'its environment'],
  ],

  async run({ operands }, context) {
    const { images } = await context.engine();
    const found: unknown[] = [];
    let status = 0;
    for (const reference of operands) {
      try {
        found.push(await images.inspect(reference));
      } catch (error) {
        process.stderr.write(formatError(error));
        status = 1;
      }
    }
    process.stdout.write(`${JSON.stringify(found, null, 2)}\n`);
    return status;
  },
};
