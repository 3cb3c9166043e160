/** Progress bars on stderr, where that is a terminal, for steps that take longer than a blink. */
import type { ProgressListener } from '../image/index.js';

/** Bars appear after this many ms: what is done by then needs none. */
const DELAY_MS = 500;

export interface ProgressBars {
  /** Undefined where nobody would see the bars. */
  listener: ProgressListener | undefined;
  stop(): void;
}

/** Bars for a load or an import. */
export async function openProgressBars(): Promise<ProgressBars> {
  if (!process.stderr.isTTY) return { listener: undefined, stop: () => {} };
  const { default: progress } = await import('cli-progress');
  const { formatBytes } = await import('./output.js');
  const bars = new progress.MultiBar(
    {
      stream: process.stderr,
      format: '{step} {subject} [{bar}] {size}',
      barCompleteChar: '=',
      barIncompleteChar: ' ',
      hideCursor: true,
      clearOnComplete: true,
      stopOnComplete: false,
      emptyOnZero: true,
    },
    progress.Presets.legacy,
  );
  const began = performance.now();
  const shown = new Map<string, ReturnType<typeof bars.create>>();
  const listener: ProgressListener = ({ step, subject, done, total, finished }) => {
    const key = `${step} ${subject}`;
    let bar = shown.get(key);
    if (finished) {
      if (bar) bars.remove(bar);
      shown.delete(key);
      return;
    }
    if (performance.now() - began < DELAY_MS) return;
    const size =
      total === undefined ? formatBytes(done) : `${formatBytes(done)} of ${formatBytes(total)}`;
    const payload = { step: step.padEnd(6), subject: subject.slice(-40).padEnd(20), size };
    if (bar) {
      bar.update(done, payload);
    } else {
      bar = bars.create(total ?? 0, done, payload);
      shown.set(key, bar);
    }
  };
  return { listener, stop: () => bars.stop() };
}
