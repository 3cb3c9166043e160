/** clearvm logs */
import type { LogEntry } from '../engine/logs.js';
import type { Command } from './command.js';
import { usageError, type OptionTable } from './options.js';
import { interspersed } from './parse-run.js';
import { parseTime } from './time.js';

const options: OptionTable = {
  follow: { type: 'boolean', short: 'f', describe: 'Wait for more, until the container ends' },
  timestamps: { type: 'boolean', short: 't', describe: 'With the time of each line' },
  since: { type: 'string', value: 'TIME', describe: 'A time, or an age such as 10m' },
  until: { type: 'string', value: 'TIME', describe: 'A time, or an age such as 10m' },
  tail: { type: 'string', short: 'n', value: 'N|all', describe: 'The last lines only' },
  details: { type: 'boolean', describe: 'For command lines made for docker' },
};

export const command: Command = {
  usage: 'logs [OPTIONS] CONTAINER',
  summary: 'Show what a container has printed',
  options,
  operands: [1, 1],
  failureStatus: 1,
  examples: [
    ['clearvm logs -f --tail 20 web', 'the last lines, and what is to come'],
    ['clearvm logs -t --since 10m web', 'of the last ten minutes'],
  ],
  parse: interspersed('logs', options),

  async run({ options: given, operands: [reference = ''] }, context) {
    const container = await (await context.engine()).container(reference);
    const tail = given.text('tail') ?? 'all';
    if (!/^(all|-?\d+)$/.test(tail)) {
      throw usageError(`--tail is a number or all, not ${JSON.stringify(tail)}`, 'logs');
    }
    const [since, until] = (['since', 'until'] as const).map((name) => {
      const text = given.text(name);
      return text === undefined ? undefined : parseTime(text, name, 'logs');
    });
    const log = container.logs({
      follow: given.flag('follow'),
      // docker takes what is negative for all.
      ...(/^\d+$/.test(tail) ? { tail: Number(tail) } : {}),
      ...(since === undefined ? {} : { since }),
      ...(until === undefined ? {} : { until }),
    });
    for await (const entry of log) await write(entry, given.flag('timestamps'));
    return 0;
  },
};

/** Waits for a reader that is slow; one that is gone ends this process. */
async function write({ log, stream, time }: LogEntry, timestamps: boolean): Promise<void> {
  const out = process[stream];
  if (out.write(timestamps ? `${time} ${log}` : log)) return;
  await new Promise<void>((resolve) => out.once('drain', resolve));
}
