/** clearvm history */
import type { Command } from './command.js';
import { formatAge, formatBytes } from './output.js';
import { formatRows, type Fields } from './template.js';

/** Where docker cuts the instruction off. */
const INSTRUCTION_WIDTH = 45;

const COLUMNS = ['ID', 'CreatedSince', 'CreatedBy', 'Size', 'Comment'];
const HEADINGS: Fields = {
  ID: 'IMAGE',
  CreatedSince: 'CREATED',
  CreatedAt: 'CREATED AT',
  CreatedBy: 'CREATED BY',
  Size: 'SIZE',
  Comment: 'COMMENT',
};

export const command: Command = {
  usage: 'history [OPTIONS] IMAGE',
  summary: 'Show how an image was made, newest step first',
  options: {
    quiet: { type: 'boolean', short: 'q', describe: 'Ids only' },
    'no-trunc': { type: 'boolean', describe: 'Whole ids and instructions' },
    human: {
      type: 'boolean',
      short: 'H',
      describe: 'Sizes and dates for people; --human=false: exact',
    },
    format: {
      type: 'string',
      value: 'json|table|TEMPLATE',
      describe: "json: an object for each line; or docker's templates: '{{.CreatedBy}}'",
    },
  },
  operands: [1, 1],
  failureStatus: 1,
  examples: [['clearvm history --no-trunc debian:12', 'with whole instructions']],

  async run({ options, operands }, context) {
    const format = options.text('format');
    const whole = options.flag('no-trunc');
    const human = options.flag('human', true);
    const { images } = await context.engine();
    const now = Date.now();
    const steps = (await images.history(operands[0] ?? '')).map((step) => ({
      ...step,
      id: step.id === undefined ? '<missing>' : whole ? step.id : step.id.slice(7, 19),
      size: human ? formatBytes(step.size) : String(step.size),
      by: shorten(step.createdBy.replace(/\s+/g, ' '), whole),
    }));
    if (options.flag('quiet') && format === undefined) {
      for (const { id } of steps) process.stdout.write(`${id}\n`);
      return 0;
    }
    const rows = steps.map(({ id, created = '', by, size, comment }): Fields => ({
      Comment: comment,
      CreatedAt: created,
      CreatedBy: by,
      CreatedSince: human ? formatAge(created, now) : created,
      ID: id,
      Size: size,
    }));
    const headings = { ...HEADINGS, CreatedSince: human ? 'CREATED' : 'CREATED AT' };
    const table = { columns: COLUMNS, headings, command: 'history' };
    process.stdout.write(formatRows(rows, format ?? 'table', table));
    return 0;
  },
};

function shorten(text: string, whole: boolean): string {
  return whole || text.length <= INSTRUCTION_WIDTH
    ? text
    : `${text.slice(0, INSTRUCTION_WIDTH - 1)}…`;
}
