/** clearvm diff */
import type { Command } from './command.js';

export const command: Command = {
  usage: 'diff CONTAINER',
  summary: 'Show what a container has added (A), changed (C) and deleted (D) of its image',
  options: {},
  operands: [1, 1],
  failureStatus: 1,
  examples: [['clearvm diff web', 'a line for each file']],

  async run({ operands: [reference = ''] }, context) {
    const container = await (await context.engine()).container(reference);
    const changes = await container.changes();
    process.stdout.write(changes.map(({ kind, path }) => `${kind} ${path}\n`).join(''));
    return 0;
  },
};
