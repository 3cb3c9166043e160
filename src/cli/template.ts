/** `--format`: Go's templates, and docker's `json` and `table`. */
import { compileTemplate } from './go-template/evaluate.js';
import { TemplateError } from './go-template/parse.js';
import { usageError } from './options.js';
import { formatTable } from './output.js';

export type Fields = Readonly<Record<string, unknown>>;

/** What renders values by a template. Errors of both: ERR_USAGE (a field that is not there, or a template that is none). */
export function makeRenderer(template: string, command: string): (fields: Fields) => string {
  const told = <T>(act: () => T): T => {
    try {
      return act();
    } catch (error) {
      if (!(error instanceof TemplateError)) throw error;
      throw usageError(`--format: template parsing error: ${error.message}`, command);
    }
  };
  // What a shell passes on as it stands.
  const text = template.replaceAll('\\t', '\t').replaceAll('\\n', '\n');
  const render = told(() => compileTemplate(text));
  return (fields) => told(() => render(fields));
}

/** Errors: ERR_USAGE. */
export function renderTemplate(template: string, fields: Fields, command: string): string {
  return makeRenderer(template, command)(fields);
}

/** What `inspect` prints: an array of JSON, or what the template makes of each, a line each. Errors: ERR_USAGE. */
export function formatDetails(
  found: readonly Fields[],
  format: string | undefined,
  command: string,
): string {
  if (format === undefined) return `${JSON.stringify(found, null, 4)}\n`;
  const render =
    format === 'json' ? (each: Fields) => JSON.stringify(each) : makeRenderer(format, command);
  return found.map((each) => `${render(each)}\n`).join('');
}

export interface Table {
  /** What is shown where the format names nothing. */
  columns: readonly string[];
  headings: Fields;
  command: string;
}

/** Rows as docker's --format has them: `json`, `table`, `table TEMPLATE` or a template. Errors: ERR_USAGE. */
export function formatRows(rows: readonly Fields[], format: string, table: Table): string {
  const { columns, headings, command } = table;
  if (format === 'json') return rows.map((row) => `${JSON.stringify(row)}\n`).join('');
  const [, template] = /^table(?:\s+(.*))?$/s.exec(format) ?? [];
  if (format === 'table') {
    const cells = (row: Fields): string[] => columns.map((name) => String(row[name] ?? ''));
    return formatTable([headings, ...rows].map(cells));
  }
  const render = makeRenderer(template ?? format, command);
  // docker's methods have headings, too: those of their arguments.
  const heading = render({ Label: (name: string) => name, ...headings }); // it is wrong without rows, too
  if (template === undefined) return rows.map((row) => `${render(row)}\n`).join('');
  return formatTable([heading, ...rows.map(render)].map((line) => line.split('\t')));
}
