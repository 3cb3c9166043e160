/** `run -d`, and what it shares with `create` and the `run` that keeps its container. */
import { rmSync, writeFileSync } from 'node:fs';

import { ClearVMError, errnoOf, messageOf } from '../errors.js';
import type { Container } from '../engine/managed.js';
import type { RunOptions } from '../engine/options.js';
import type { CommandContext } from './command.js';
import { usageError, type OptionValues } from './options.js';
import { toRunOptions } from './run-options.js';

/**
 * Makes the container, and notes its id where that is wanted; `more` goes over the options. Errors: those of
 * `Engine.create`; ERR_CIDFILE.
 */
export async function createFrom(
  given: OptionValues,
  image: string,
  cmd: string[],
  context: CommandContext,
  more: RunOptions = {},
): Promise<Container> {
  const engine = await context.engine();
  const options = { ...(await toRunOptions(given, cmd)), ...more };
  const file = given.text('cidfile');
  if (file === '') throw usageError('--cidfile needs a file');
  // Claimed before anything is made: docker refuses an id file that is there.
  if (file !== undefined) writeNew(file, '');
  try {
    const container = await engine.create(image, options);
    if (file !== undefined) writeFileSync(file, container.id);
    return container;
  } catch (error) {
    if (file !== undefined) rmSync(file, { force: true });
    throw error;
  }
}

export async function runDetached(
  given: OptionValues,
  image: string,
  cmd: string[],
  context: CommandContext,
): Promise<number> {
  const container = await createFrom(given, image, cmd, context);
  await container.start();
  process.stdout.write(`${container.id}\n`);
  return 0;
}

function writeNew(file: string, text: string): void {
  try {
    writeFileSync(file, text, { flag: 'wx' });
  } catch (cause) {
    throw new ClearVMError(
      'ERR_CIDFILE',
      errnoOf(cause) === 'EEXIST'
        ? `Container ID file found, make sure the other container isn't running or delete ${file}`
        : `cannot write the container ID file: ${messageOf(cause)}`,
      { cause },
    );
  }
}
