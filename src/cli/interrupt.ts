/** Commands that a signal ends in good order. */

const ENDING = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * Runs `work`, whose signal fires when this process is told to end: it then undoes what it has begun. The exit status is
 * the work's, or 128 + n when signal n came; then its failure is nothing to report.
 */
export async function interruptible(
  work: (signal: AbortSignal) => Promise<number>,
): Promise<number> {
  const aborter = new AbortController();
  let exitCode: number | undefined;
  const receive = (name: NodeJS.Signals, number: number): void => {
    exitCode ??= 128 + number;
    aborter.abort(new Error(`interrupted by ${name}`));
  };
  for (const name of ENDING) process.on(name, receive);
  try {
    return await work(aborter.signal);
  } catch (error) {
    if (exitCode !== undefined) return exitCode;
    throw error;
  } finally {
    for (const name of ENDING) process.off(name, receive);
  }
}
