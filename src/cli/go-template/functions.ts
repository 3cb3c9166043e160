/** The functions of docker's templates: Go's own, and json, split, join, title, lower, upper, pad, truncate. */
import { TemplateError } from './parse.js';
import { NO_VALUE, print, printf, printValue } from './print.js';

/** What Go takes for false: nothing, zero, and what is empty. */
export function isTrue(value: unknown): boolean {
  if (value === NO_VALUE || value === null || value === undefined) return false;
  if (Array.isArray(value)) return value.length > 0;
  if (typeof value === 'object') return Object.keys(value).length > 0;
  return Boolean(value);
}

const plain = (value: unknown): unknown => (value === NO_VALUE ? null : value);

function text(value: unknown, name: string): string {
  if (typeof value === 'string') return value;
  throw new TemplateError(`error calling ${name}: wrong type for value; expected string`);
}

function whole(value: unknown, name: string): number {
  if (typeof value === 'number') return value;
  throw new TemplateError(`error calling ${name}: wrong type for value; expected int`);
}

function order(a: unknown, b: unknown, name: string): number {
  const comparable = typeof a === typeof b && (typeof a === 'number' || typeof a === 'string');
  if (!comparable)
    throw new TemplateError(`error calling ${name}: incompatible types for comparison`);
  return (a as string) < (b as string) ? -1 : a === b ? 0 : 1;
}

function index(value: unknown, keys: readonly unknown[]): unknown {
  return keys.reduce((held: unknown, key) => {
    if (Array.isArray(held) || typeof held === 'string') {
      if (typeof key !== 'number') {
        throw new TemplateError('error calling index: cannot index slice/array with type string');
      }
      if (key < 0 || key >= held.length) {
        throw new TemplateError(`error calling index: index out of range: ${key}`);
      }
      return held[key] as unknown;
    }
    if (held === null || held === undefined || held === NO_VALUE) return '';
    if (typeof held !== 'object') {
      throw new TemplateError(`error calling index: can't index item of type ${typeof held}`);
    }
    // Of docker's maps, the zero value of text; ours are of text, too.
    const name = String(key);
    return Object.hasOwn(held, name) ? (held as Record<string, unknown>)[name] : '';
  }, value);
}

const ENTITIES: Readonly<Record<string, string>> = {
  ...{ '&': '&amp;', '<': '&lt;', '>': '&gt;' },
  ...{ '"': '&#34;', "'": '&#39;' },
};

/** By name; each is given its evaluated arguments. `and` and `or` give one of them. */
export const FUNCTIONS: Readonly<Record<string, (...args: unknown[]) => unknown>> = {
  json: (value) => JSON.stringify(plain(value) ?? null),
  upper: (value) => text(value, 'upper').toUpperCase(),
  lower: (value) => text(value, 'lower').toLowerCase(),
  title: (value) => text(value, 'title').replace(/(^|\s)\S/g, (start) => start.toUpperCase()),
  split: (value, separator) => text(value, 'split').split(text(separator, 'split')),
  join: (values, separator) =>
    (Array.isArray(values) ? values : [])
      .map((each) => printValue(each))
      .join(text(separator, 'join')),
  pad: (value, before, after) =>
    text(value, 'pad') === ''
      ? ''
      : ' '.repeat(whole(before, 'pad')) + text(value, 'pad') + ' '.repeat(whole(after, 'pad')),
  truncate: (value, length) => text(value, 'truncate').slice(0, whole(length, 'truncate')),
  print: (...values) => print(values),
  println: (...values) => `${values.map((value) => printValue(value)).join(' ')}\n`,
  printf: (format, ...values) => printf(text(format, 'printf'), values),
  len: (value) => {
    if (typeof value === 'string') return Buffer.byteLength(value);
    if (typeof value === 'object' && value !== null) return Object.keys(value).length;
    if (value === null || value === undefined) return 0;
    throw new TemplateError(`error calling len: len of type ${typeof value}`);
  },
  index: (value, ...keys) => index(value, keys),
  slice: (value, from, to) => {
    const end = to === undefined ? undefined : whole(to, 'slice');
    const start = from === undefined ? 0 : whole(from, 'slice');
    if (typeof value === 'string' || Array.isArray(value)) return value.slice(start, end);
    throw new TemplateError("error calling slice: can't slice item");
  },
  eq: (first, ...others) => others.some((other) => plain(first) === plain(other)),
  ne: (a, b) => plain(a) !== plain(b),
  lt: (a, b) => order(a, b, 'lt') < 0,
  le: (a, b) => order(a, b, 'le') <= 0,
  gt: (a, b) => order(a, b, 'gt') > 0,
  ge: (a, b) => order(a, b, 'ge') >= 0,
  and: (...values) => values.find((value) => !isTrue(value)) ?? values.at(-1),
  or: (...values) => values.find((value) => isTrue(value)) ?? values.at(-1),
  not: (value) => !isTrue(value),
  html: (value) => printValue(value).replace(/[&<>"']/g, (letter) => ENTITIES[letter] ?? letter),
  urlquery: (value) => encodeURIComponent(printValue(value)).replaceAll('%20', '+'),
};
