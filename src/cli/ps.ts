/** clearvm ps */
import { rootOf } from '../engine/context.js';
import { listContainers, type ContainerSummary } from '../engine/list.js';
import type { Command } from './command.js';
import { wholeNumber, type OptionTable } from './options.js';
import { formatBytes } from './output.js';
import { interspersed } from './parse-run.js';
import { psFields, psTable } from './ps-format.js';
import { formatRows, type Fields } from './template.js';

const options: OptionTable = {
  all: { type: 'boolean', short: 'a', describe: 'Those that do not run, too' },
  quiet: { type: 'boolean', short: 'q', describe: 'Ids only' },
  last: { type: 'string', short: 'n', value: 'N', describe: 'The N newest, running or not' },
  latest: { type: 'boolean', short: 'l', describe: 'The newest, running or not' },
  'no-trunc': { type: 'boolean', describe: 'Whole ids and commands' },
  size: { type: 'boolean', short: 's', describe: 'How much they have written' },
  filter: {
    type: 'list',
    short: 'f',
    value: 'NAME=VALUE',
    describe: 'Only: id, name, label, status, exited, ancestor, volume, health, before, since',
  },
  format: {
    type: 'string',
    value: 'json|table|TEMPLATE',
    describe: "json: an object for each line; or docker's templates: 'table {{.ID}}\\t{{.Names}}'",
  },
};

export const command: Command = {
  usage: 'ps [OPTIONS]',
  summary: 'List containers',
  options,
  operands: [0, 0],
  failureStatus: 1,
  examples: [
    ['clearvm ps', 'those that run'],
    ['clearvm ps -a --filter status=exited', 'those that have ended'],
    ["clearvm ps --format '{{.Names}} {{.Status}}'", 'for scripts'],
  ],
  parse: interspersed('ps', options),

  async run({ options: given }, context) {
    const root = rootOf(context.root === undefined ? {} : { root: context.root });
    const text = given.text('last');
    const count = text === undefined ? undefined : wholeNumber(text, '-n, --last', 'ps');
    const last = given.flag('latest') ? 1 : count;
    const containers = listContainers(root, {
      all: given.flag('all'),
      filters: given.list('filter'),
      ...(last === undefined || last < 0 ? {} : { last }),
    });
    const whole = given.flag('no-trunc');
    const format = given.text('format');
    if (given.flag('quiet') && format === undefined) {
      for (const { id } of containers) process.stdout.write(`${whole ? id : id.slice(0, 12)}\n`);
      return 0;
    }
    const wantsSize = given.flag('size') || /\.Size\b/.test(format ?? '');
    const now = Date.now();
    const rows: Fields[] = [];
    const images = wantsSize ? await (await context.engine()).images.list() : [];
    for (const container of containers) {
      const image = images.find((each) => each.id === container.image.id);
      const size = wantsSize ? { size: await sizeOf(root, container, image?.size ?? 0) } : {};
      rows.push(psFields(container, { whole, now, ...size }));
    }
    process.stdout.write(formatRows(rows, format ?? 'table', psTable(given.flag('size'))));
    return 0;
  },
};

/** "5B (virtual 1.2MB)": what it has written, and that with its image. */
async function sizeOf(root: string, { id }: ContainerSummary, imageSize: number): Promise<string> {
  const { treeContents } = await import('../engine/usage.js');
  const own = await treeContents(`${root}/containers/${id}/upper`);
  return `${formatBytes(own)} (virtual ${formatBytes(own + imageSize)})`;
}
