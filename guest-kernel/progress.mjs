// Tells a person how far a kernel build has come: a line that is redrawn on a terminal, a line now and then elsewhere.

/**
 * Counts the objects that make's output names, against how many there will be.
 *
 * @param {{label: string, expected: number, stream?: NodeJS.WriteStream, now?: () => number}} options
 *   `expected`: objects of a whole build; where it is wrong, the last per cent takes longer
 */
export function createProgress({ label, expected, stream = process.stderr, now = Date.now }) {
  const started = now();
  let done = 0;
  let drawn = 0;
  const seconds = () => Math.round((now() - started) / 1000);
  const draw = (what) => {
    const percent = Math.min(99, Math.floor((done / expected) * 100));
    if (stream.isTTY) {
      if (now() - drawn < 100) return;
      const bar = '#'.repeat(Math.floor(percent / 5)).padEnd(20, '.');
      stream.write(
        `\r\x1b[K${label} [${bar}] ${percent} % ${seconds()} s  ${what}`.slice(
          0,
          (stream.columns ?? 80) + 3,
        ),
      );
    } else {
      if (now() - drawn < 15_000) return;
      stream.write(`${label}: ${percent} %, ${seconds()} s\n`);
    }
    drawn = now();
  };
  return {
    /** One line of make's output. */
    line(text) {
      const match = /^\s+(?:CC|AS|AR|LD|HOSTCC|HOSTLD|GEN|UPD)\s+(\S+)/.exec(text);
      if (!match) return;
      done += 1;
      draw(match[1]);
    },
    /** Objects seen so far. */
    count: () => done,
    /** Leaves the terminal's line as a finished one. */
    finish() {
      if (stream.isTTY) stream.write('\r\x1b[K');
      stream.write(`${label}: done in ${seconds()} s\n`);
    },
    /** Ends the terminal's line before an error message. */
    abort() {
      if (stream.isTTY && drawn > 0) stream.write('\n');
    },
  };
}
