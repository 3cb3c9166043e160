/** What the prune commands have in common: the question, the filters, and what is said of each kind of thing. */
import { labelTest, parseFilters } from '../engine/filters.js';
import type { Engine } from '../engine/engine.js';
import type { OptionTable, OptionValues } from './options.js';
import { formatBytes } from './output.js';
import { parseTime } from './time.js';

/** -f, of each of them. */
export const FORCE: OptionTable = {
  force: { type: 'boolean', short: 'f', describe: 'Do not ask' },
};

/** --filter, of those that take it. */
export const FILTER: OptionTable = {
  filter: {
    type: 'list',
    value: 'until=TIME|label=NAME[=VALUE]',
    describe: 'Only what was made before a time, or an age such as 24h; only what has a label',
  },
};

/** Of a thing that may be removed, what filters look at. */
interface Thing {
  /** RFC 3339. */
  created?: string | undefined;
  labels?: Readonly<Record<string, string>> | undefined;
}

/** Whether a thing is to go. Errors: ERR_FILTER, ERR_USAGE. */
export function parsePruneFilters(given: OptionValues, command: string): (thing: Thing) => boolean {
  const set = parseFilters<Thing>(given.list('filter'), ({ name, value }) => {
    if (name === 'label') {
      const test = labelTest(value);
      return ({ labels = {} }) => test(labels);
    }
    if (name !== 'until') return undefined;
    const before = Date.parse(parseTime(value, 'filter until', command));
    return ({ created }) => created !== undefined && Date.parse(created) < before;
  });
  return (thing) => set.matches(thing);
}

/** Asks, unless it is forced. False: not to be done. */
export async function confirmPrune(given: OptionValues, warning: string): Promise<boolean> {
  if (given.flag('force')) return true;
  const { ask } = await import('./ask.js');
  const answer = await ask(`WARNING! ${warning}\nAre you sure you want to continue? [y/N] `);
  return /^y(es)?$/i.test(answer);
}

/** The last line. */
export function sayReclaimed(bytes: number): void {
  process.stdout.write(`Total reclaimed space: ${formatBytes(bytes)}\n`);
}

function sayDeleted(kind: string, names: readonly string[]): void {
  if (names.length > 0) process.stdout.write(`Deleted ${kind}:\n${names.join('\n')}\n\n`);
}

/** Removes containers that do not run, says which, and returns their bytes. */
export async function pruneContainers(
  engine: Engine,
  filter: (thing: Thing) => boolean,
): Promise<number> {
  const { removed, bytes } = await engine.pruneContainers(filter);
  sayDeleted('Containers', removed);
  return bytes;
}

/** Removes volumes that no container uses, those with names only if `all`, says which, and returns their bytes. */
export async function pruneVolumes(
  engine: Engine,
  all: boolean,
  filter: (thing: Thing) => boolean,
): Promise<number> {
  const { removed, bytes } = await (await engine.volumes()).prune(all, filter);
  sayDeleted('Volumes', removed);
  return bytes;
}

/** Removes images without a name, or all that no container uses, says which, and returns their bytes. */
export async function pruneImages(
  engine: Engine,
  all: boolean,
  filter: (thing: Thing) => boolean,
): Promise<number> {
  const removed = await engine.images.prune({ all, inUse: () => engine.imagesInUse(), filter });
  sayDeleted('Images', [
    ...removed.untagged.map((name) => `untagged: ${name}`),
    ...removed.deleted.map((id) => `deleted: ${id}`),
  ]);
  return removed.bytes;
}
