/** clearvm system df */
import type { Command } from './command.js';
import { formatBytes } from './output.js';
import { formatRows, type Fields } from './template.js';

const COLUMNS = ['Type', 'TotalCount', 'Active', 'Size', 'Reclaimable'];
const HEADINGS: Fields = {
  Type: 'TYPE',
  TotalCount: 'TOTAL',
  Active: 'ACTIVE',
  Size: 'SIZE',
  Reclaimable: 'RECLAIMABLE',
};

export const command: Command = {
  usage: 'system df [OPTIONS]',
  summary: 'Show what images, containers and volumes take on the disk',
  options: {
    format: {
      type: 'string',
      value: 'json|table|TEMPLATE',
      describe: "json: an object for each line; or docker's templates: '{{.Type}} {{.Size}}'",
    },
  },
  operands: [0, 0],
  failureStatus: 1,
  examples: [['clearvm system df', 'and how much of it is not in use']],

  async run({ options }, context) {
    const { images, containers, volumes } = await (await context.engine()).diskUsage();
    const row = (
      type: string,
      total: number,
      active: number,
      bytes: number,
      free: number,
    ): Fields => {
      const share = bytes > 0 ? ` (${Math.floor((100 * free) / bytes)}%)` : '';
      return {
        Active: String(active),
        Reclaimable: formatBytes(free) + share,
        Size: formatBytes(bytes),
        TotalCount: String(total),
        Type: type,
      };
    };
    const rows = [
      row('Images', images.images, images.active, images.bytes, images.reclaimable),
      row(
        'Containers',
        containers.total,
        containers.active,
        containers.bytes,
        containers.reclaimable,
      ),
      row('Local Volumes', volumes.total, volumes.active, volumes.bytes, volumes.reclaimable),
      row('Build Cache', 0, 0, 0, 0),
    ];
    const table = { columns: COLUMNS, headings: HEADINGS, command: 'system df' };
    process.stdout.write(formatRows(rows, options.text('format') ?? 'table', table));
    return 0;
  },
};
