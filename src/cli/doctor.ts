/** clearvm doctor */
import type { Command } from './command.js';

const MARKS = { ok: 'ok     ', warning: 'warning', error: 'ERROR  ' } as const;

export const command: Command = {
  usage: 'doctor [OPTIONS]',
  summary: 'Say what this host lacks for running containers, and what to do about it',
  options: { json: { type: 'boolean', describe: 'Findings as a JSON object' } },
  operands: [0, 0],
  failureStatus: 1,
  examples: [
    ['clearvm doctor', 'exits with 0 when containers can run, and with 1 otherwise'],
    ['clearvm doctor --json', 'for programs and bug reports'],
  ],

  async run({ options }, context) {
    const engine = await context.engine();
    const { isHealthy } = await import('../engine/doctor.js');
    const findings = await engine.diagnose();
    const healthy = isHealthy(findings);
    if (options.flag('json')) {
      process.stdout.write(`${JSON.stringify({ healthy, findings }, null, 2)}\n`);
      return healthy ? 0 : 1;
    }
    for (const { level, message, advice } of findings) {
      process.stdout.write(`${MARKS[level]}  ${message}\n`);
      if (advice !== undefined) process.stdout.write(`         -> ${advice}\n`);
    }
    process.stdout.write(
      healthy ? 'Containers can run on this host.\n' : 'Containers cannot run on this host.\n',
    );
    return healthy ? 0 : 1;
  },
};
