/** Commands that do the same to each of the containers that are named. */
import type { Engine } from '../engine/engine.js';
import type { Container } from '../engine/managed.js';
import { formatError } from './output.js';

/** Does it to each, one after the other, and prints the names of those that it worked for, as docker does. */
export async function forEachContainer(
  engine: Engine,
  references: readonly string[],
  act: (container: Container) => Promise<unknown>,
): Promise<number> {
  let status = 0;
  for (const reference of references) {
    try {
      await act(await engine.container(reference));
      process.stdout.write(`${reference}\n`);
    } catch (error) {
      process.stderr.write(formatError(error));
      status = 1;
    }
  }
  return status;
}
