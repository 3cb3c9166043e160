/** clearvm snapshot ls */
import type { Command } from './command.js';
import { formatAge, formatBytes } from './output.js';
import { formatRows, type Fields, type Table } from './template.js';
import type { OptionTable } from './options.js';
import { interspersed } from './parse-run.js';

const options: OptionTable = {
  quiet: { type: 'boolean', short: 'q', describe: 'Names only' },
  format: {
    type: 'string',
    value: 'json|table|TEMPLATE',
    describe: 'json: an object for each line',
  },
};

const TABLE: Table = {
  columns: ['Name', 'Container', 'Image', 'CreatedSince', 'Size'],
  headings: {
    ...{ Name: 'SNAPSHOT', Container: 'CONTAINER', Image: 'IMAGE', CreatedSince: 'CREATED' },
    ...{ CreatedAt: 'CREATED AT', Size: 'SIZE' },
  },
  command: 'snapshot ls',
};

export const command: Command = {
  usage: 'snapshot ls [OPTIONS]',
  summary: 'List snapshots',
  options,
  operands: [0, 0],
  failureStatus: 1,
  examples: [['clearvm snapshot ls', 'the newest first']],
  parse: interspersed('snapshot ls', options),

  async run({ options: given }, context) {
    const snapshots = await (await context.engine()).snapshots();
    const rows = snapshots.list().map(({ name, created, container, image }): Fields => ({
      ...{ Name: name, CreatedAt: created, Container: container.name, Image: image.reference },
      CreatedSince: formatAge(created, Date.now()),
      Size: formatBytes(snapshots.size(name)),
    }));
    const format = given.text('format');
    if (given.flag('quiet') && format === undefined) {
      for (const { Name } of rows) process.stdout.write(`${String(Name)}\n`);
      return 0;
    }
    process.stdout.write(formatRows(rows, format ?? 'table', TABLE));
    return 0;
  },
};
