/** docker's `--filter NAME=VALUE`: of one name one must hold, of different names all; every label that is asked for must be there. */
import { ClearVMError } from '../errors.js';

/** Whether a thing is to be shown. */
export type FilterTest<T> = (thing: T) => boolean;

/** One filter. */
export interface Filter {
  /** In lower case. */
  name: string;
  value: string;
}

/** Errors: ERR_FILTER. */
export function splitFilter(text: string): Filter {
  const equals = text.indexOf('=');
  if (equals < 0) {
    throw new ClearVMError(
      'ERR_FILTER',
      `bad format of filter ${JSON.stringify(text)} (expected name=value)`,
      { exitCode: 1 },
    );
  }
  return { name: text.slice(0, equals).toLowerCase(), value: text.slice(equals + 1) };
}

/** ERR_FILTER of a name, or of the value of one. */
export function filterError({ name, value }: Filter, why?: string): ClearVMError {
  const what = why === undefined ? name : `${name}=${value}`;
  const text = `Invalid filter '${what}'${why ? `: ${why}` : ''}`;
  return new ClearVMError('ERR_FILTER', text, { exitCode: 1 });
}

/** One test of all filters. */
export class FilterSet<T> {
  readonly #tests = new Map<string, FilterTest<T>[]>();

  /** `test`: undefined for a name that is unknown. Errors: ERR_FILTER. */
  add(filter: Filter, test: FilterTest<T> | undefined): void {
    if (!test) throw filterError(filter);
    const key = filter.name === 'label' ? `label=${filter.value}` : filter.name;
    this.#tests.set(key, [...(this.#tests.get(key) ?? []), test]);
  }

  /** Whether there is a filter of that name. */
  has(name: string): boolean {
    return this.#tests.has(name);
  }

  matches(thing: T): boolean {
    return [...this.#tests.values()].every((any) => any.some((test) => test(thing)));
  }
}

/** The filters of command lines, `makeTest` being what each is. Errors: ERR_FILTER, those of `makeTest`. */
export function parseFilters<T>(
  filters: readonly string[],
  makeTest: (filter: Filter) => FilterTest<T> | undefined,
): FilterSet<T> {
  const set = new FilterSet<T>();
  for (const text of filters) {
    const filter = splitFilter(text);
    set.add(filter, makeTest(filter));
  }
  return set;
}

/** `label=NAME` or `label=NAME=VALUE`. */
export function labelTest(value: string): (labels: Readonly<Record<string, string>>) => boolean {
  const [, name = value, wanted] = /^([^=]*)=(.*)$/s.exec(value) ?? [];
  return (labels) =>
    Object.hasOwn(labels, name) && (wanted === undefined || labels[name] === wanted);
}

/** `true`, `false`, `1` or `0`. Errors: ERR_FILTER. */
export function booleanFilter(filter: Filter): boolean {
  if (/^(true|1)$/.test(filter.value)) return true;
  if (/^(false|0)$/.test(filter.value)) return false;
  throw filterError(filter, 'it is true or false');
}
