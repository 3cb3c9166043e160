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
  endWithReader('stdout');
  endWithReader('stderr');
  const status = await dispatch(argv);
  done(status);
  // Not by exitCode: an inherited stdin, or a progress bar, must not keep a finished command waiting.
  return exitAtOnce(status);
}

/** A reader that has seen enough (head) ends the writer, silently. Node makes the stream, which takes its time, when it is first asked for. */
function endWithReader(name: 'stdout' | 'stderr'): void {
  const getter = Object.getOwnPropertyDescriptor(process, name)?.get;
  const first = (): NodeJS.WriteStream => {
    const stream = getter?.call(process) as NodeJS.WriteStream;
    Object.defineProperty(process, name, { value: stream });
    stream.on('error', (error) => {
      if (errnoOf(error) === 'EPIPE') exitAtOnce(BROKEN_PIPE);
      else throw error;
    });
    return stream;
  };
  Object.defineProperty(process, name, { get: first, configurable: true });
}
