/** All containers, in a few words each. */
import { filterError, labelTest, parseFilters, type Filter, type FilterTest } from './filters.js';
import { findContainer } from './lookup.js';
import {
  isActive,
  readRecords,
  readStatus,
  type ContainerRecord,
  type ContainerState,
} from './record.js';

export interface ContainerSummary extends ContainerRecord {
  state: ContainerState;
}

/** Which containers are listed. */
export interface ListOptions {
  /** Those that do not run, too. */
  all?: boolean;
  /** `name=value` each; as docker's `ps --filter`. Of one name one must hold, of different names all. */
  filters?: readonly string[];
  /** As many, the newest, running or not. */
  last?: number;
}

type Test = FilterTest<ContainerSummary>;

/** The newest first. Errors: ERR_FILTER; ERR_CONTAINER_NOT_FOUND for `before` and `since`. */
export function listContainers(root: string, options: ListOptions = {}): ContainerSummary[] {
  const tests = parseFilters(options.filters ?? [], (filter) => makeTest(root, filter));
  // Asking for a state is asking for those that do not run.
  const all =
    options.all || options.last !== undefined || tests.has('status') || tests.has('exited');
  const found = readRecords(root)
    .map((record) => ({ ...record, state: readStatus(`${root}/containers/${record.id}`) }))
    // Whoever comes next removes it.
    .filter(({ autoRemove, state }) => !(autoRemove && state.status === 'exited'))
    .filter(({ state }) => all || isActive(state.status))
    .filter((container) => tests.matches(container))
    .sort((a, b) => (a.created < b.created ? 1 : a.created > b.created ? -1 : 0));
  return options.last === undefined ? found : found.slice(0, options.last);
}

function makeTest(root: string, filter: Filter): Test | undefined {
  const { name, value } = filter;
  switch (name) {
    case 'id':
      return ({ id }) => id.startsWith(value);
    case 'name':
      return matches(value);
    case 'label': {
      const test = labelTest(value);
      return ({ labels }) => test(labels);
    }
    case 'status':
      if (
        !['created', 'restarting', 'running', 'paused', 'exited', 'dead', 'removing'].includes(
          value,
        )
      ) {
        throw filterError(filter, '');
      }
      return ({ state }) => state.status === value;
    case 'exited':
      if (!/^[-+]?\d+$/.test(value)) {
        throw filterError(filter, 'it is no number');
      }
      return ({ state }) => state.status === 'exited' && state.exitCode === Number(value);
    case 'health':
      if (!['starting', 'healthy', 'unhealthy', 'none'].includes(value)) {
        throw filterError(filter, '');
      }
      return ({ state }) => (state.health?.Status ?? 'none') === value;
    case 'ancestor':
      return ({ image }) =>
        image.reference === value ||
        image.reference.replace(/:[^/:]*$/, '') === value ||
        image.id.replace('sha256:', '').startsWith(value.replace('sha256:', ''));
    case 'volume':
      return ({ mounts }) => mounts.some((mount) => mount.name === value || mount.target === value);
    case 'before':
    case 'since': {
      const { created, id } = findContainer(root, value);
      return (container) =>
        container.id !== id &&
        (name === 'before' ? container.created < created : container.created > created);
    }
    default:
      return undefined;
  }
}

/** docker's names are matched anywhere, as regular expressions. */
function matches(value: string): Test {
  try {
    const pattern = new RegExp(value);
    return ({ name }) => pattern.test(name) || pattern.test(`/${name}`);
  } catch {
    return ({ name }) => name.includes(value);
  }
}
