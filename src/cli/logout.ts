/** clearvm logout */
import type { Command } from './command.js';

export const command: Command = {
  usage: 'logout [REGISTRY]',
  summary: 'Forget the login to a registry',
  options: {},
  operands: [0, 1],
  failureStatus: 1,
  examples: [['clearvm logout registry.lan:5000', 'Docker Hub, unless one is named']],

  async run({ operands }, context) {
    const { registryName } = await import('../image/index.js');
    const registry = registryName(operands[0]);
    const found = await (await context.engine()).images.logout(registry);
    process.stdout.write(
      found ? `Removing login credentials for ${registry}\n` : `Not logged in to ${registry}\n`,
    );
    return 0;
  },
};
