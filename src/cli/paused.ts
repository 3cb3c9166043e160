/** What `pause` and `unpause` share. */
import type { Engine } from '../engine/engine.js';
import type { CommandContext } from './command.js';
import { formatError } from './output.js';

/** Does it to each container, and prints the names of those that it worked for, as docker does. Returns the exit status. */
export async function changeEach(
  references: readonly string[],
  context: CommandContext,
  change: (engine: Engine, reference: string) => Promise<void>,
): Promise<number> {
  const engine = await context.engine();
  let status = 0;
  for (const reference of references) {
    try {
      await change(engine, reference);
      process.stdout.write(`${reference}\n`);
    } catch (error) {
      process.stderr.write(formatError(error));
      status = 1;
    }
  }
  return status;
}
