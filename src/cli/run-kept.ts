/** `run` of a container that is kept: what `create` and `start -a` do, one after the other. */
import type { CommandContext } from './command.js';
import { usageError, type OptionValues } from './options.js';
import { createFrom } from './run-detached.js';
import { attachedStreams } from './run-options.js';
import { SignalForwarder } from './signal-forwarder.js';

/** Returns the command's exit status, or 0 when the detach keys have let go of it. Errors: those of `create` and `start`. */
export async function runKept(
  given: OptionValues,
  image: string,
  cmd: string[],
  context: CommandContext,
): Promise<number> {
  if (given.flag('timings') || given.flag('debug')) {
    throw usageError('--timings and --debug do not go with --cidfile and --detach-keys', 'run');
  }
  const tty = given.flag('tty');
  const streams = attachedStreams(given);
  const { stdin } = streams;
  const detachKeys = given.text('detach-keys');
  if (detachKeys !== undefined) {
    const { parseDetachKeys } = await import('./detach-keys.js');
    parseDetachKeys(detachKeys); // what is wrong is told before anything is made
  }
  const { requireTerminal, terminalSize } = await import('./terminal.js');
  if (tty) requireTerminal(stdin, true);
  const size = tty ? terminalSize() : undefined;
  const signals = new SignalForwarder();
  try {
    const container = await createFrom(given, image, cmd, context, {
      signal: signals.aborted,
      ...(size ? { size } : {}),
    });
    if (signals.exitCode !== undefined) {
      // Nothing of it has run yet.
      await container.remove();
      return signals.exitCode;
    }
    const attachment = await container.startAttached({ stdin });
    const { follow } = await import('./attached.js');
    const early = signals.exitCode;
    // At a terminal, what is typed are keys; what else comes by `kill` is for this process, whose container is kept.
    if (!tty && given.flag('sig-proxy', true)) signals.forwardTo(container);
    else signals.close();
    // One that came while the VM started is not lost.
    if (early !== undefined) container.kill(early - 128).catch(() => {});
    const status = await follow(container, attachment, {
      ...{ ...streams, forwardSignals: false, detachKeys },
    });
    const { status: now, error } = container.state;
    if (now === 'exited' && error !== '') process.stderr.write(`clearvm: ${error}\n`);
    return status;
  } catch (error) {
    if (signals.exitCode !== undefined) return signals.exitCode;
    throw error;
  } finally {
    signals.close();
  }
}
