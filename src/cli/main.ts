/** The command's entry point: what `launch.ts` runs. */
import { errnoOf } from '../errors.js';
import { exitAtOnce } from '../vm/native.js';
import { dispatch } from './dispatch.js';

/** That of a program that SIGPIPE has ended. */
const BROKEN_PIPE = 141;

/** Runs a command line, and ends this process; `done` is called with the exit status before. */
export async function main(
  argv: readonly string[],
  done: (status: number) => void,
): Promise<never> {
  watch('stdin');
  watch('stdout', endWithReader);
  watch('stderr', endWithReader);
  const status = await dispatch(argv);
  for (const stream of made) await leave(stream);
  done(status);
  // Not by exitCode: an inherited stdin, or a progress bar, must not keep a finished command waiting.
  return exitAtOnce(status);
}

type Stream = NodeJS.ReadStream | NodeJS.WriteStream;

const made: Stream[] = [];

/** Node makes a standard stream, which takes its time, when it is first asked for. */
function watch(name: 'stdin' | 'stdout' | 'stderr', prepare?: (stream: Stream) => void): void {
  const getter = Object.getOwnPropertyDescriptor(process, name)?.get;
  const first = (): Stream => {
    const stream = getter?.call(process) as Stream;
    Object.defineProperty(process, name, { value: stream });
    made.push(stream);
    prepare?.(stream);
    return stream;
  };
  Object.defineProperty(process, name, { get: first, configurable: true });
}

/** A reader that has seen enough (head) ends the writer, silently. */
function endWithReader(stream: Stream): void {
  stream.on('error', (error) => {
    if (errnoOf(error) === 'EPIPE') exitAtOnce(BROKEN_PIPE);
    else throw error;
  });
}

/** Others may have the same pipe, and expect it to block; at its own end Node would see to that. Before, a full pipe's reader gets the rest. */
async function leave(stream: Stream): Promise<void> {
  if ('write' in stream && stream.writableLength > 0) {
    await new Promise((resolve) => stream.write('', resolve));
  }
  const { _handle: handle } = stream as { _handle?: { setBlocking?: (on: boolean) => void } };
  handle?.setBlocking?.(true);
}
