/**
 * What happens to containers, images and volumes, as a journal that every process appends to (native/base/journal.h):
 * `<root>/events/journal`, a line of JSON for each.
 */
import { loadAddon } from '../vm/native.js';
import { labelTest, parseFilters, type Filter, type FilterTest } from './filters.js';
import { readLines } from './line-files.js';
import { JOURNAL_MAX } from './monitor-protocol.js';
import type { ContainerRecord } from './record.js';

/** What an event is about. */
export type EventType = 'container' | 'image' | 'volume';

/** One thing that has happened. */
export interface EngineEvent {
  /** RFC 3339, UTC, with nanoseconds. */
  time: string;
  type: EventType;
  /** docker's words: `create`, `start`, `die`, `destroy`, `pull`, ... */
  action: string;
  /** Of the container or image; a volume's name. */
  id: string;
  /** A container's image, name and labels, `exitCode`, `signal`; an image's or volume's name. */
  attributes: Record<string, string>;
}

/** Which events are read. */
export interface EventOptions {
  /** RFC 3339; nothing before it. Nothing before now unless given. */
  since?: string;
  /** RFC 3339; nothing after it, and no waiting beyond it. */
  until?: string;
  /** `name=value` each, as docker's `events --filter`. Of one name one must hold, of different names all. */
  filters?: readonly string[];
  /** Ends the waiting. */
  signal?: AbortSignal;
}

/** RFC 3339 with nanoseconds, now; the clock's last six digits are 0. */
const now = (): string => new Date().toISOString().replace('Z', '000000Z');

export function journalOf(root: string): string {
  return `${root}/events`;
}

/**
 * Notes what has happened. That it cannot be noted is no reason for what it is about to fail: then there is an event less.
 */
export function noteEvents(root: string, ...events: readonly Omit<EngineEvent, 'time'>[]): void {
  const time = now();
  const lines = events.map((event) => `${JSON.stringify({ time, ...event })}\n`).join('');
  try {
    loadAddon().appendToJournal(journalOf(root), lines, JOURNAL_MAX);
  } catch {
    // A full disk, or one that is read-only.
  }
}

/** What events say of a container. */
export function actorOf({ labels, image, name }: ContainerRecord): Record<string, string> {
  return { ...labels, image: image.reference, name };
}

/** Notes that something has happened to a container. */
export function noteContainer(
  root: string,
  action: string,
  record: ContainerRecord,
  more: Record<string, string> = {},
): void {
  noteEvents(root, containerEvent(action, record, more));
}

export function containerEvent(
  action: string,
  record: ContainerRecord,
  more: Record<string, string> = {},
): Omit<EngineEvent, 'time'> {
  return { type: 'container', action, id: record.id, attributes: { ...actorOf(record), ...more } };
}

type Test = FilterTest<EngineEvent>;

function makeTest({ name, value }: Filter): Test | undefined {
  switch (name) {
    case 'type':
      return ({ type }) => type === value;
    case 'event':
      // `health_status: healthy` is found by `health_status`, too.
      return ({ action }) => action === value || action.startsWith(`${value}:`);
    case 'container':
      return ({ type, id, attributes }) =>
        type === 'container' &&
        (attributes['name'] === value || (value !== '' && id.startsWith(value)));
    case 'image':
      return ({ type, id, attributes }) => {
        const image = type === 'image' ? attributes['name'] : attributes['image'];
        return (
          (type === 'image' && id === value) ||
          image === value ||
          image?.replace(/:[^/:]*$/, '') === value
        );
      };
    case 'volume':
      return ({ type, id }) => type === 'volume' && id === value;
    case 'label': {
      const test = labelTest(value);
      return ({ attributes }) => test(attributes);
    }
    case 'scope':
      return () => value === 'local';
    default:
      return undefined;
  }
}

/** Undefined for what is none: the rest of a crash, or a later version's. */
function parseEvent(line: string): EngineEvent | undefined {
  try {
    const event = JSON.parse(line) as EngineEvent;
    return typeof event.time === 'string' && typeof event.attributes === 'object'
      ? event
      : undefined;
  } catch {
    return undefined;
  }
}

/** What has happened, as far as the journal goes back, and what happens. Errors: ERR_FILTER. */
export async function* readEvents(
  root: string,
  options: EventOptions = {},
): AsyncGenerator<EngineEvent> {
  const wanted = parseFilters(options.filters ?? [], makeTest);
  const since = options.since ?? now();
  const until = options.until ?? '9';
  const lines = readLines(
    { directory: journalOf(root), name: 'journal' },
    { goesOn: () => now() <= until, signal: options.signal },
  );
  for await (const some of lines) {
    yield* some
      .flatMap((line) => parseEvent(line) ?? [])
      .filter((event) => event.time >= since && event.time <= until && wanted.matches(event));
  }
}
