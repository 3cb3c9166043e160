/** How Go writes values: `%v` and its relatives. */

/** What stands for the missing key of a map. */
export const NO_VALUE = Symbol('<no value>');

/** Lists that docker's types have, whose JSON is null while nothing is in them. */
const LISTS = new Set(['Binds', 'CapAdd', 'CapDrop', 'Cmd', 'Entrypoint', 'Env', 'ExecIDs']);

/** Members of docker's types that are maps: other objects are structs. */
const MAPS = new Set([
  ...['Annotations', 'Attributes', 'Data', 'ExposedPorts', 'Labels', 'Networks', 'Options'],
  ...['PortBindings', 'Ports', 'Sysctls', 'Tmpfs', 'Volumes'],
]);

/** Whether an object is a map in Go, of which any key may be asked for. `name`: of the member that it is. */
export function isMap(name: string | undefined): boolean {
  return name !== undefined && MAPS.has(name);
}

/** A value as `{{.}}` writes it. `name`: of the member that it is. */
export function printValue(value: unknown, name?: string): string {
  if (value === NO_VALUE) return '<no value>';
  if (value === null || value === undefined) {
    return name !== undefined && LISTS.has(name) ? '[]' : isMap(name) ? 'map[]' : '<nil>';
  }
  if (Array.isArray(value)) return `[${value.map((each) => printValue(each)).join(' ')}]`;
  if (typeof value === 'object') {
    const entries = Object.entries(value);
    if (!isMap(name)) {
      return `{${entries.map(([key, each]) => printValue(each, key)).join(' ')}}`;
    }
    const sorted = entries.sort(([a], [b]) => (a < b ? -1 : 1));
    return `map[${sorted.map(([key, each]) => `${key}:${printValue(each)}`).join(' ')}]`;
  }
  return String(value);
}

/** fmt.Sprint: blanks between operands that are both no strings. */
export function print(values: readonly unknown[]): string {
  return values
    .map((value, index) => {
      const blank = index > 0 && typeof value !== 'string' && typeof values[index - 1] !== 'string';
      return (blank ? ' ' : '') + printValue(value);
    })
    .join('');
}

/** fmt.Sprintf, as far as people format with it: %s %v %d %q %t %x %f %%, with flags `-` and `0`, width and precision. */
export function printf(format: string, values: readonly unknown[]): string {
  let next = 0;
  return format.replace(
    /%([-+0 #]*)(\d+)?(?:\.(\d+))?([a-zA-Z%])/g,
    (_, flags: string, width: string | undefined, precision: string | undefined, verb: string) => {
      if (verb === '%') return '%';
      if (next >= values.length) return `%!${verb}(MISSING)`;
      let text = formatVerb(verb, values[next++], precision);
      if (precision !== undefined && verb === 's') text = text.slice(0, Number(precision));
      const columns = Number(width ?? 0);
      if (flags.includes('-')) return text.padEnd(columns);
      return text.padStart(columns, flags.includes('0') && verb !== 's' ? '0' : ' ');
    },
  );
}

function formatVerb(verb: string, value: unknown, precision: string | undefined): string {
  switch (verb) {
    case 'q':
      return JSON.stringify(typeof value === 'string' ? value : printValue(value));
    case 'x':
      return typeof value === 'number'
        ? value.toString(16)
        : Buffer.from(printValue(value)).toString('hex');
    case 'f':
      return Number(value).toFixed(precision === undefined ? 6 : Number(precision));
    default:
      return printValue(value);
  }
}
